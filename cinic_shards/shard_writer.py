"""One shard: PNG files -> a tar file. A pure job, the same bytes wherever it runs."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deflate
import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.errors import DecodeError
from cinic_shards.format import Index, PixelSums, ShardInfo
from cinic_shards.provenance import ORIGINS, Provenance, parse_stem
from cinic_shards.store import LocalStore
from cinic_shards.tree import OPEN_FLAGS, Records

if TYPE_CHECKING:
    from cinic_shards.codec import Payloads

# A chunk of samples is read, decoded and written at once; this bounds a worker's memory.
_CHUNK_SAMPLES = 1024
_CHUNK_BYTES = 2**25
"""Of files and decoded pixels together."""


@dataclass(frozen=True, slots=True)
class ShardJob:
    """All that one shard is made from. Its bytes do not depend on where or when it is made."""

    root: Path
    out: Path
    split: str
    name: str
    records: Records
    classes: tuple[str, ...]
    sidecars: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PackedShard:
    """What the manifest is made from, and what was wrong with the shard's images."""

    split: str
    info: ShardInfo
    fingerprint_input: bytes
    image_sizes: dict[tuple[int, int], int]
    """(height, width) -> number of images."""
    pixels: PixelSums
    problems: tuple[str, ...]
    """With any, the shard must not be used."""


def write_shard(job: ShardJob) -> PackedShard:
    """Write one shard. Runs in any process.

    A problem with an image is told in the result, so that those of all shards are told at once.

    Raises:
        OutputError: the shard cannot be written; nothing of it is left.
    """
    # Numba takes its time to load: the process that only hands out jobs does without.
    from cinic_shards import kernels
    from cinic_shards.codec import Payloads

    records = job.records
    num_samples = len(records)
    origins = [parse_stem(key.rpartition("/")[2]) for key in records.keys]
    digest = hashlib.sha256()
    size = 0
    offsets, checksums, hashes = [], [], []
    sums, square_sums = np.zeros(3, np.int64), np.zeros(3, np.int64)
    problems: dict[str, str] = {}  # the first of each file
    with LocalStore(job.out).create(job.name) as file:

        def write(data: Any) -> None:
            nonlocal size
            view = memoryview(data)
            digest.update(view)
            size += file.write(view)

        for start, stop in _chunks(records):
            chunk = records.take(np.arange(start, stop))
            buffer, starts = _read_chunk(job, chunk, origins[start:stop], problems)
            payloads = Payloads.in_buffer(buffer, starts, chunk.sizes)
            hashes.append(np.zeros((stop - start, fmt.PIXEL_HASH_BYTES), np.uint8))
            for group, images in _decode_by_size(chunk, payloads, problems):
                hashes[-1][group] = fmt.pixel_hashes(images)
                kernels.add_channel_sums(images.reshape(-1, 3), sums, square_sums)
            view = buffer.data
            checksums += [
                deflate.crc32(view[at : at + length])
                for at, length in zip(starts.tolist(), payloads.lengths.tolist(), strict=True)
            ]
            offsets.append(size + starts)
            write(buffer)

        index = Index(
            keys=records.keys,
            label=records.labels,
            origin=np.array([ORIGINS.index(p.origin) for p in origins], np.uint8),
            synset=np.array([int(p.synset[1:] or 0) for p in origins], np.uint32),
            number=np.array([p.number for p in origins], np.int64),
            pixel_hash=np.concatenate(hashes),
            offset=np.concatenate(offsets).astype(np.uint64),
            length=records.sizes.astype(np.uint64),
            crc32=np.array(checksums, np.uint32),
            first_row=np.arange(num_samples, dtype=np.uint64),
        )
        index_bytes = index.to_bytes()
        index_offset = size + fmt.TAR_BLOCK
        write(fmt.one_member(fmt.INDEX_NAME, index_bytes))
        write(fmt.TAR_END)

    labels = Counter(records.labels.tolist())
    info = ShardInfo(
        name=job.name,
        size=size,
        sha256=digest.hexdigest(),
        index_offset=index_offset,
        index_length=len(index_bytes),
        index_sha256=hashlib.sha256(index_bytes).hexdigest(),
        num_samples=num_samples,
        classes={job.classes[label]: count for label, count in sorted(labels.items())},
        origins=dict(sorted(Counter(p.origin for p in origins).items())),
    )
    image_sizes = Counter(zip(records.heights.tolist(), records.widths.tolist(), strict=True))
    num_pixels = int((records.heights * records.widths).sum())
    pixels = PixelSums(num_pixels, _three(sums), _three(square_sums))
    told = tuple(f"{path}: {problem}" for path, problem in problems.items())
    return PackedShard(job.split, info, index.fingerprint_input(), dict(image_sizes), pixels, told)


def _three(values: NDArray[np.int64]) -> tuple[int, int, int]:
    r, g, b = values.tolist()
    return r, g, b


def _chunks(records: Records) -> Iterator[tuple[int, int]]:
    """Ranges of rows that bound the memory of a worker."""
    start, taken = 0, 0
    costs = records.sizes + 3 * records.heights * records.widths
    for row, cost in enumerate(costs.tolist()):
        if row > start and (row - start == _CHUNK_SAMPLES or taken + cost > _CHUNK_BYTES):
            yield start, row
            start, taken = row, 0
        taken += cost
    if len(records):
        yield start, len(records)


def _read_chunk(
    job: ShardJob, records: Records, origins: list[Provenance], problems: dict[str, str]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read files straight to their places among the tar members of a chunk.

    Returns:
        The members' bytes, and where in them each PNG begins.
    """
    keys = records.keys
    labels = records.labels.tolist()
    names = [[key.encode() + b".png" for key in keys]]
    sizes = [records.sizes]
    contents: list[list[bytes]] = []
    for sidecar in job.sidecars:
        if sidecar == "cls":
            contents.append([str(label).encode() for label in labels])
        else:
            contents.append([
                fmt.sidecar_json(key, job.classes[label], label, provenance)
                for key, label, provenance in zip(keys, labels, origins, strict=True)
            ])  # fmt: skip
        names.append([key.encode() + b"." + sidecar.encode() for key in keys])
        sizes.append(np.array([len(content) for content in contents[-1]], np.int64))

    # Members lie sample by sample: the PNG, then its sidecars.
    member_names = [name for sample in zip(*names, strict=True) for name in sample]
    buffer, starts = fmt.lay_out_members(member_names, np.stack(sizes, axis=1).ravel())
    starts = starts.reshape(len(records), -1)
    view = buffer.data
    for column, sidecar_contents in enumerate(contents, 1):
        for at, content in zip(starts[:, column].tolist(), sidecar_contents, strict=True):
            view[at : at + len(content)] = content
    for path, at, size, modified in zip(
        records.files,
        starts[:, 0].tolist(),
        records.sizes.tolist(),
        records.modified.tolist(),
        strict=True,
    ):
        if problem := _read_file(f"{job.root}/{path}", view[at : at + size], modified):
            problems.setdefault(path, problem)
    return buffer, np.ascontiguousarray(starts[:, 0])


def _read_file(path: str, into: memoryview, modified: int) -> str:
    """Fill ``into`` with a file; say what is wrong where it is not the file that was scanned."""
    try:
        descriptor = os.open(path, OPEN_FLAGS)
        try:
            state = os.fstat(descriptor)
            data = os.read(descriptor, len(into) + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if len(data) != len(into) or state.st_mtime_ns != modified:
        return "changed while it was packed; leave the tree alone and run again"
    into[:] = data
    return ""


def _decode_by_size(
    records: Records, payloads: "Payloads", problems: dict[str, str]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Decode a chunk, the images of each size together: their rows and uint8 (n, H, W, 3)."""
    from cinic_shards.codec import decode_png

    extents, group_of = np.unique(
        np.stack([records.heights, records.widths], axis=1), axis=0, return_inverse=True
    )
    for group, (height, width) in enumerate(extents.tolist()):
        rows = np.flatnonzero(group_of.ravel() == group)
        images = np.empty((len(rows), height, width, 3), np.uint8)
        try:
            decode_png(payloads.take(rows), images)
            yield rows, images
        except DecodeError:
            # The shard will not be used: all that is left to do is to find what else is damaged.
            for row in rows.tolist():
                try:
                    decode_png(payloads.take(np.array([row])), images[:1])
                except DecodeError as error:
                    problems.setdefault(records.files[row], error.reason)
