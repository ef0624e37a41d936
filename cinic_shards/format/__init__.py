"""The on-disk format, specified in docs/format.md: the only folder that knows byte layouts.

It works on bytes in memory and opens no file. The bytes may come from an untrusted source: every
size, offset and name is checked before use.
"""

from cinic_shards.format.blocks import (
    LABELS_SUFFIX,
    MAX_BLOCK_BYTES,
    NPY_HEADER_BYTES,
    block_name,
    block_starts,
    check_block_bytes,
    lay_out_block,
    npy_header,
    parse_npy,
    parse_npy_shape,
)
from cinic_shards.format.fields import (
    BLOCK_SIZE,
    INDEX_NAME,
    MANIFEST_NAME,
    MAX_BLOCK_SIZE,
    MAX_INTEGER,
    MAX_NAME_BYTES,
    MAX_PIXELS,
    PACKING_FOLDER,
    SPLIT_NAME,
    VERSION,
    key_problem,
    name_problem,
    parse_json,
    parse_shard_name,
    shard_name,
    shown,
)
from cinic_shards.format.index import PIXEL_HASH_BYTES, Index, pixel_hashes, unpack_index
from cinic_shards.format.manifest import Manifest, ShardInfo, SplitInfo, least_entry_bytes
from cinic_shards.format.pixel_sums import PixelSums
from cinic_shards.format.tar import (
    TAR_BLOCK,
    TAR_END,
    describe_byte,
    find_index,
    lay_out_samples,
    one_member,
    sidecar_json,
)

__all__ = [
    "BLOCK_SIZE", "INDEX_NAME", "LABELS_SUFFIX", "MANIFEST_NAME", "MAX_BLOCK_BYTES",
    "MAX_BLOCK_SIZE", "MAX_INTEGER", "MAX_NAME_BYTES", "MAX_PIXELS", "NPY_HEADER_BYTES",
    "PACKING_FOLDER", "PIXEL_HASH_BYTES", "SPLIT_NAME", "TAR_BLOCK", "TAR_END", "VERSION",
    "Index", "Manifest", "PixelSums", "ShardInfo", "SplitInfo", "block_name", "block_starts",
    "check_block_bytes", "describe_byte", "find_index", "key_problem", "lay_out_block",
    "lay_out_samples", "least_entry_bytes", "name_problem", "npy_header", "one_member",
    "parse_json", "parse_npy", "parse_npy_shape", "parse_shard_name", "pixel_hashes", "shard_name",
    "shown", "sidecar_json", "unpack_index",
]  # fmt: skip
