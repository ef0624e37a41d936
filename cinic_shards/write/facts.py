"""Facts for the manifest; packing and checking measure them from samples in the same way."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL

import cinic_shards.format as fmt
from cinic_shards._version import __version__
from cinic_shards.codec import ENCODINGS, Encoding
from cinic_shards.codec.meter import ImageMeter
from cinic_shards.errors import FormatError, LimitError
from cinic_shards.format import Index, Manifest, PixelSums, ShardInfo, SplitInfo
from cinic_shards.format.provenance import CINIC10_CITATION, CINIC10_LICENCE, ORIGINS
from cinic_shards.store import MAX_READ_BYTES, Store


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """The facts of one shard from which the manifest is made."""

    split: str
    info: ShardInfo
    fingerprint_input: bytes
    image_sizes: dict[tuple[int, int], int]
    """(height, width) -> number of images."""
    pixels: PixelSums


def packing_digests(keys: Sequence[str], seed: int) -> list[bytes]:
    """Return the 16-byte digests that define the packing order: samples are sorted by them.

    A digest is the BLAKE2b-128 of a sample's key, keyed with the seed (8 bytes, little-endian).
    """
    keyed = hashlib.blake2b(key=seed.to_bytes(8, "little"), digest_size=16)
    digests = []
    for key in keys:
        state = keyed.copy()
        state.update(key.encode())
        digests.append(state.digest())
    return digests


def shard_facts(
    *, split: str, name: str, size: int, sha256: str, index: Index, index_bytes: bytes,
    index_offset: int, meter: ImageMeter,
) -> ShardFacts:  # fmt: skip
    """Return the facts of a shard whose images ``meter`` has measured.

    Args:
        split: name of the shard's split.
        name: the shard's file name.
        size: size of the shard in bytes.
        sha256: SHA-256 of the shard, as 64 hex digits.
        index: the shard's index.
        index_bytes: the index as stored in the shard.
        index_offset: offset of ``index_bytes`` in the shard.
        meter: has measured all images of the shard.
    """
    classes = Counter(key.split("/")[1] for key in index.keys)
    origins = Counter(ORIGINS[code] for code in index.origin.tolist())
    info = ShardInfo(
        name=name,
        size=size,
        sha256=sha256,
        index_offset=index_offset,
        index_length=len(index_bytes),
        index_sha256=hashlib.sha256(index_bytes).hexdigest(),
        num_samples=len(index),
        classes=dict(sorted(classes.items())),
        origins=dict(sorted(origins.items())),
    )
    return ShardFacts(split, info, index.fingerprint_input(), dict(meter.image_sizes), meter.pixels)


def make_manifest(
    shards: Sequence[ShardFacts],
    classes: tuple[str, ...],
    options: dict[str, Any],
    *,
    encoding: Encoding,
    block_size: int,
) -> Manifest:
    """Make the manifest of these shards.

    Args:
        shards: all shards of the dataset; splits in name order, each split's shards in order.
        classes: class names, sorted.
        options: options that determine the shards' bytes.
        encoding: the shards' encoding.
        block_size: samples per block.
    """
    fingerprint = hashlib.blake2b(digest_size=32)
    splits = []
    first_id = 0
    for split, group in itertools.groupby(shards, key=lambda shard: shard.split):
        sizes: Counter[tuple[int, int]] = Counter()
        pixels = PixelSums(0, (0, 0, 0), (0, 0, 0))
        infos = []
        for shard in group:
            fingerprint.update(shard.fingerprint_input)
            sizes.update(shard.image_sizes)
            pixels += shard.pixels
            infos.append(shard.info)
        num_samples = sum(info.num_samples for info in infos)
        splits.append(SplitInfo(split, first_id, num_samples, dict(sizes), pixels, tuple(infos)))
        first_id += num_samples
    is_cinic10 = not any("unknown" in shard.info.origins for shard in shards)
    return Manifest(
        encoding=encoding.name,
        block_size=block_size,
        classes=classes,
        splits=tuple(splits),
        fingerprint=f"blake2b:{fingerprint.hexdigest()}",
        options=options,
        libraries=libraries(encoding),
        licence=CINIC10_LICENCE if is_cinic10 else "",
        citation=CINIC10_CITATION if is_cinic10 else "",
    )


def write_manifest(folder: Store, manifest: Manifest, out: Store) -> None:
    """Write a manifest after checking that readers will accept it.

    Args:
        folder: the store to write it to.
        manifest: the manifest.
        out: the dataset's store, for messages.

    Raises:
        LimitError: the dataset is beyond a limit of the format.
        OutputError: the file cannot be written.
    """
    data = manifest.to_bytes()
    check_manifest_size(out, len(data))
    location = f"{out}/{fmt.MANIFEST_NAME}"
    try:
        Manifest.from_bytes(data, location=location, encodings=ENCODINGS)
    except FormatError as error:
        raise LimitError(f"{location}: readers would reject it: {error.reason}") from error
    folder.write(fmt.MANIFEST_NAME, data)


def check_manifest_size(out: Store, size: int) -> None:
    """Raise LimitError if a manifest of at least ``size`` bytes is more than readers accept."""
    if size > MAX_READ_BYTES:
        raise LimitError(
            f"{out}/{fmt.MANIFEST_NAME}: {size:,} bytes or more, readers accept at most "
            f"{MAX_READ_BYTES:,}; make fewer, larger shards: choose a larger --shard-size"
        )


def libraries(encoding: Encoding) -> dict[str, str]:
    """Return name -> version of the libraries that this process makes shards and facts with."""
    return {
        "cinic-shards": __version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        **encoding.libraries(),
    }
