"""One shard: PNG files -> a tar file. A pure job, the same bytes wherever it runs."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.facts import ImageMeter, ShardFacts, chunks, shard_facts
from cinic_shards.format import Index
from cinic_shards.provenance import ORIGINS, Provenance, parse_stem
from cinic_shards.store import LocalStore
from cinic_shards.tree import OPEN_FLAGS, Records


@dataclass(frozen=True, slots=True)
class ShardJob:
    """All that one shard is made from. Its bytes do not depend on where or when it is made."""

    root: Path
    out: Path
    split: str
    name: str
    records: Records
    sidecars: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PackedShard:
    """What a shard holds, and what was wrong with its images."""

    facts: ShardFacts
    problems: tuple[str, ...]
    """With any, the shard must not be used."""


def write_shard(job: ShardJob) -> PackedShard:
    """Write one shard. Runs in any process.

    A problem with an image is told in the result, so that those of all shards are told at once.

    Raises:
        OutputError: the shard cannot be written; nothing of it is left.
    """
    from cinic_shards.codec import Payloads, checksums

    records = job.records
    num_samples = len(records)
    origins = [parse_stem(key.rpartition("/")[2]) for key in records.keys]
    meter = ImageMeter()
    digest = hashlib.sha256()
    size = 0
    offsets, crc32, hashes = [], [], []
    problems: dict[int, str] = {}  # the first of each row
    with LocalStore(job.out).create(job.name) as file:

        def write(data: Any) -> None:
            nonlocal size
            view = memoryview(data)
            digest.update(view)
            size += file.write(view)

        for start, stop in chunks(records.sizes):
            chunk = records.take(np.arange(start, stop))
            buffer, starts, unread = _read_chunk(job, chunk, origins[start:stop])
            payloads = Payloads.in_buffer(buffer, starts, chunk.sizes)
            chunk_hashes, bad = meter.add(payloads, buffer, starts)
            problems.update((start + row, problem) for row, problem in (bad | unread).items())
            hashes.append(chunk_hashes)
            crc32.append(checksums(payloads))
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
            crc32=np.concatenate(crc32),
            first_row=np.arange(num_samples, dtype=np.uint64),
        )
        index_bytes = index.to_bytes()
        index_offset = size + fmt.TAR_BLOCK
        write(fmt.one_member(fmt.INDEX_NAME, index_bytes))
        write(fmt.TAR_END)

    facts = shard_facts(
        split=job.split,
        name=job.name,
        size=size,
        sha256=digest.hexdigest(),
        index=index,
        index_bytes=index_bytes,
        index_offset=index_offset,
        meter=meter,
    )
    told = tuple(f"{records.files[row]}: {problem}" for row, problem in problems.items())
    return PackedShard(facts, told)


def _read_chunk(
    job: ShardJob, records: Records, origins: list[Provenance]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], dict[int, str]]:
    """Read files straight to their places among the tar members of a chunk.

    Returns:
        The members' bytes, where in them each PNG begins, and what was wrong, by row.
    """
    buffer, starts = fmt.lay_out_samples(
        records.keys, records.sizes, records.labels.tolist(), origins, job.sidecars
    )
    view = buffer.data
    problems = {}
    places = zip(
        records.files,
        starts.tolist(),
        records.sizes.tolist(),
        records.modified.tolist(),
        strict=True,
    )
    for row, (path, at, size, modified) in enumerate(places):
        try:
            descriptor = os.open(f"{job.root}/{path}", OPEN_FLAGS)
            try:
                state = os.fstat(descriptor)
                data = os.read(descriptor, size + 1)
            finally:
                os.close(descriptor)
        except OSError as error:
            problems[row] = f"cannot be read: {error.strerror}"
            continue
        if len(data) == size and state.st_mtime_ns == modified:
            view[at : at + size] = data
        else:
            problems[row] = "changed while it was packed; leave the tree alone and run again"
    return buffer, starts, problems
