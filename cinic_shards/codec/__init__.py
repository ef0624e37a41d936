"""Convert payload bytes to pixels and back: a file for each encoding, and their registry.

To add an encoding, add a file with a subclass of ``Encoding``, and a line to ``ENCODINGS``.
"""

from cinic_shards.codec.base import Damage, Encoding, decode_block, hash_problems
from cinic_shards.codec.payloads import Payloads, checksum, checksums, crc_problems
from cinic_shards.codec.png import PngEncoding, decode_png, encode_png
from cinic_shards.codec.raw import RawEncoding
from cinic_shards.codec.zstd import ZstdEncoding
from cinic_shards.errors import OptionError
from cinic_shards.options import did_you_mean

__all__ = [
    "DEFAULT_ENCODING", "ENCODINGS", "Damage", "Encoding", "Payloads", "checksum", "checksums",
    "crc_problems", "decode_block", "decode_png", "encode_png", "find_encoding",
    "hash_problems",
]  # fmt: skip

ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding for encoding in (PngEncoding(), ZstdEncoding(), RawEncoding())
}
"""Name -> encoding, in the order in which messages list them."""

DEFAULT_ENCODING = PngEncoding.name


def find_encoding(name: str) -> Encoding:
    """Return the encoding that an option names.

    Raises:
        OptionError: the name is unknown.
    """
    if name not in ENCODINGS:
        hint = did_you_mean(name, ENCODINGS)
        raise OptionError(f"encoding {name!r}: expected one of {', '.join(ENCODINGS)}{hint}")
    return ENCODINGS[name]
