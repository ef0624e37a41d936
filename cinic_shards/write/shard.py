"""Write one shard, a tar file, from its samples. Its bytes do not depend on where the job runs."""

import hashlib
import itertools
import platform
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec import Encoding, Payloads, checksums
from cinic_shards.codec.meter import ImageMeter
from cinic_shards.errors import OutputError
from cinic_shards.format import Index
from cinic_shards.format.provenance import ORIGINS
from cinic_shards.jobs.stop import check_stop
from cinic_shards.store import Store
from cinic_shards.write.facts import ShardFacts, libraries, shard_facts
from cinic_shards.write.samples.base import Samples, ShardInput


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLayout:
    """The layout of all shards of a dataset."""

    encoding: Encoding
    block_size: int
    """Samples per block."""
    image_shape: tuple[int, int, int] | None
    """(H, W, 3) of every image; None if the encoding has no blocks."""
    sidecars: tuple[str, ...]
    """Suffixes of the members beside each PNG."""
    classes: tuple[str, ...] | None = None
    """The dataset's classes if any of them has no samples: then every index states them."""


@dataclass(frozen=True, slots=True)
class ShardJob:
    """Everything that determines the bytes of one shard."""

    out: Store
    split: str
    name: str
    layout: ShardLayout
    samples: ShardInput
    libraries: dict[str, str]
    """Library -> version. The bytes depend on them, so every worker must have the same."""


@dataclass(frozen=True, slots=True)
class PackedShard:
    """The result of ``write_shard``."""

    facts: ShardFacts
    problems: tuple[str, ...]
    """Problems with the shard's images. If there are any, the shard must not be used."""


def write_shard(job: ShardJob) -> PackedShard:
    """Write one shard, in any process.

    Problems with images are returned, so that those of all shards can be reported together.

    Raises:
        OutputError: the shard cannot be written, and nothing is left of it; or this process has
            different releases of libraries than the process that made the job.
        StoreError, FormatError: the shard's input cannot be read.
    """
    here = libraries(job.layout.encoding)
    if here != job.libraries:
        raise OutputError(
            f"{job.name}: a worker on {platform.node()} has {here}, expected "
            f"{job.libraries}; install the same releases there"
        )
    samples = job.samples.open()
    with job.out.create(job.name) as file:
        shard = _Shard(job, samples, file)
        if job.layout.encoding.has_blocks:
            shard.write_blocks()
        else:
            shard.write_files()
        return shard.finish()


@dataclass(slots=True)
class _Shard:
    """A shard that is being written."""

    job: ShardJob
    samples: Samples
    file: BinaryIO
    meter: ImageMeter = field(default_factory=ImageMeter)
    size: int = 0
    problems: dict[int, str] = field(default_factory=dict)
    """Row -> the first problem with its image."""
    digest: Any = field(default_factory=hashlib.sha256)
    offset: list[NDArray[np.int64]] = field(default_factory=list)
    length: list[NDArray[np.int64]] = field(default_factory=list)
    crc32: list[NDArray[np.uint32]] = field(default_factory=list)
    pixel_hash: list[NDArray[np.uint8]] = field(default_factory=list)

    def write(self, data: Any) -> None:
        """Append to the file."""
        view = memoryview(data)
        self.digest.update(view)
        self.size += self.file.write(view)

    def _add_problems(self, start: int, problems: dict[int, str]) -> None:
        for row, problem in problems.items():
            self.problems.setdefault(start + row, problem)

    def _add_payloads(
        self, buffer: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> None:
        """Write a buffer of complete tar members, and record the payloads in it."""
        self.crc32.append(checksums(Payloads.in_buffer(buffer, starts, lengths)))
        self.offset.append(self.size + starts)
        self.length.append(lengths)
        self.write(buffer)

    def write_files(self) -> None:
        """Write a member for each PNG, and its sidecars."""
        layout, samples = self.job.layout, self.samples
        for start, stop in samples.chunks():
            check_stop()
            sizes = samples.png_sizes(start, stop)
            buffer, starts = fmt.lay_out_samples(
                samples.keys[start:stop],
                layout.encoding.suffix,
                sizes,
                samples.labels[start:stop].tolist(),
                samples.provenances[start:stop],
                layout.sidecars,
            )
            unread = samples.read_pngs(start, stop, buffer, starts)
            check_stop()
            payloads = Payloads.in_buffer(buffer, starts, sizes)
            hashes, bad = self.meter.add_pngs(payloads, buffer, starts)
            self._add_problems(start, bad | unread)
            self.pixel_hash.append(hashes)
            self._add_payloads(buffer, starts, sizes)

    def write_blocks(self) -> None:
        """Write two members for each block: images and labels."""
        layout, samples = self.job.layout, self.samples
        assert layout.image_shape is not None
        starts = fmt.block_starts(len(samples.keys), layout.block_size).tolist()
        for block, (first, end) in enumerate(itertools.pairwise(starts)):
            images = np.zeros((end - first, *layout.image_shape), np.uint8)
            for start, stop in _within(samples.chunks(), first, end):
                check_stop()
                part = images[start - first : stop - first]
                hashes, bad = samples.read_images(start, stop, part, self.meter)
                self._add_problems(start, bad)
                self.pixel_hash.append(hashes)
            payload = samples.block_payload(first, end, layout.encoding)
            if payload is None:
                payload = layout.encoding.encode(images)
            buffer, at = fmt.lay_out_block(
                fmt.block_name(self.job.name, block),
                layout.encoding.suffix,
                len(payload),
                samples.labels[first:end],
            )
            buffer[at : at + len(payload)] = np.frombuffer(payload, np.uint8)
            self._add_payloads(buffer, np.array([at]), np.array([len(payload)]))

    def finish(self) -> PackedShard:
        """Write the index and the end of the archive."""
        layout, samples = self.job.layout, self.samples
        offset = np.concatenate(self.offset)
        provenances = samples.provenances
        payload_rows = layout.encoding.rows_a_payload(layout.block_size)
        num_samples = len(samples.keys)
        index = Index(
            encoding=layout.encoding.name,
            block_size=layout.block_size,
            image_shape=self.meter.image_shape,
            keys=samples.keys,
            label=samples.labels,
            origin=np.array([ORIGINS.index(p.origin) for p in provenances], np.uint8),
            synset=np.array([int(p.synset[1:] or 0) for p in provenances], np.uint32),
            number=np.array([p.number for p in provenances], np.int64),
            pixel_hash=np.concatenate(self.pixel_hash),
            offset=offset.astype(np.uint64),
            length=np.concatenate(self.length).astype(np.uint64),
            crc32=np.concatenate(self.crc32),
            first_row=np.arange(0, num_samples, payload_rows).astype(np.uint64),
            classes=layout.classes,
        )
        index_bytes = index.to_bytes()
        index_offset = self.size + fmt.TAR_BLOCK
        self.write(fmt.one_member(fmt.INDEX_NAME, index_bytes))
        self.write(fmt.TAR_END)
        self._add_problems(0, samples.pixel_problems(index.pixel_hash))
        facts = shard_facts(
            split=self.job.split,
            name=self.job.name,
            size=self.size,
            sha256=self.digest.hexdigest(),
            index=index,
            index_bytes=index_bytes,
            index_offset=index_offset,
            meter=self.meter,
        )
        problems = (f"{samples.location(row)}: {text}" for row, text in self.problems.items())
        return PackedShard(facts, tuple(problems))


def _within(chunks: Any, first: int, end: int) -> Any:
    """Yield the parts of the given ranges that are in [first, end)."""
    for start, stop in chunks:
        if start < end and stop > first:
            yield max(start, first), min(stop, end)
