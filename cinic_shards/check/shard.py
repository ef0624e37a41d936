"""One shard: is every byte of it what its index, its keys and its payloads make it?

A shard follows from its index and its payloads alone. So it is laid out anew and compared: whatever
differs is a fault, and its place tells which sample or block it belongs to.
"""

import errno
import hashlib
import itertools
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.check.faults import Fault, Faults
from cinic_shards.codec.meter import ImageMeter, chunks
from cinic_shards.errors import DecodeError, FormatError, StoreError
from cinic_shards.format import Index, ShardInfo
from cinic_shards.format.provenance import parse_stem
from cinic_shards.store import Store
from cinic_shards.tree.archive import ArchivedImages
from cinic_shards.tree.rules import PNG_SUFFIXES
from cinic_shards.write.facts import ShardFacts, packing_digests, shard_facts

_SIDECARS: tuple[tuple[str, ...], ...] = (("cls",), (), ("json",), ("cls", "json"))


@dataclass(frozen=True, slots=True)
class CheckJob:
    """A shard to check."""

    store: Store
    """Where the dataset lies."""
    split: str
    name: str
    info: ShardInfo | None
    """What the manifest says of it; None where there is no manifest."""
    seed: int | None = None
    """Of the packing order, where it is known."""
    quick: bool = False
    """Check size, digests and index alone."""
    tree: Path | ArchivedImages | None = None
    """Compare every payload with the file in this tree."""


@dataclass(frozen=True, slots=True)
class CheckedShard:
    """What is wrong with a shard, and what it holds where that can be told."""

    facts: ShardFacts | None = None
    encoding: str = ""
    block_size: int = 0
    class_of_label: dict[int, str] | None = None
    classes: tuple[str, ...] | None = None
    """The dataset's, where the shard states them."""
    sidecars: tuple[str, ...] = ()
    order: tuple[bytes, bytes] | None = None
    """The first and the last sample's packing digests, where the seed is known."""
    keys: tuple[str, ...] = ()
    """Only where a tree is compared with."""
    faults: tuple[Fault, ...] = ()
    num_more_faults: int = 0
    """Beyond the first 1,000."""


def check_shard(job: CheckJob) -> CheckedShard:
    """Check one shard. Runs in any process; what is wrong is told in the result."""
    faults = Faults(job.name)
    try:
        checked = _check(job, faults)
    except (FormatError, StoreError) as error:
        faults.tell(error.reason)
        checked = CheckedShard()
    return replace(checked, faults=tuple(faults), num_more_faults=faults.num_more)


def _check(job: CheckJob, faults: Faults) -> CheckedShard:
    path = f"{job.store}/{job.name}"
    size = job.info.size if job.info else job.store.size(job.name)
    memory = job.store.map(job.name, size)
    sha256 = hashlib.sha256(memory.data).hexdigest()
    if job.info and sha256 != job.info.sha256:
        faults.tell(f"its SHA-256 is {sha256}, the manifest says {job.info.sha256}")
    if job.info:
        index_offset, index_length = job.info.index_offset, job.info.index_length
    else:
        index_offset, index_length = fmt.find_index(memory, path)
    if index_offset < fmt.TAR_BLOCK:
        raise FormatError(
            path, f"its index, at offset {index_offset}, leaves no room for a tar header"
        )
    index_bytes = memory[index_offset : index_offset + index_length].tobytes()
    index_sha256 = hashlib.sha256(index_bytes).hexdigest()
    if job.info and index_sha256 != job.info.index_sha256:
        raise FormatError(
            path,
            f"its index, at offset {index_offset}, has SHA-256 {index_sha256}, the manifest says "
            f"{job.info.index_sha256}",
        )
    # Where the payloads end, the index's header begins.
    index = Index.from_bytes(
        index_bytes, location=path, end=index_offset - fmt.TAR_BLOCK, num_classes=2**31 - 1
    )
    if not len(index):
        raise FormatError(path, "it holds no sample, expected at least one")
    if job.quick:
        return CheckedShard()
    return _Check(job, faults, memory, index, index_bytes, index_offset).run(sha256)


class _Check:
    """A shard whose index could be read."""

    def __init__(
        self, job: CheckJob, faults: Faults, memory: NDArray[np.uint8], index: Index,
        index_bytes: bytes, index_offset: int,
    ) -> None:  # fmt: skip
        self.job = job
        self.path = f"{job.store}/{job.name}"
        self.faults = faults
        self.memory = memory
        self.index = index
        self.index_bytes = index_bytes
        self.index_offset = index_offset

    def run(self, sha256: str) -> CheckedShard:
        """Everything that the index makes it possible to check."""
        index, job = self.index, self.job
        self._check_columns()
        meter = ImageMeter()
        if index.encoding == "png":
            sidecars = self._find_sidecars()
            end = self._check_pngs(meter, sidecars)
        else:
            sidecars = ()
            end = self._check_blocks(meter)
        self._check_end(end)
        if not self.faults and index.image_shape != meter.image_shape:
            self.faults.tell(
                f"its index states image_shape {index.image_shape}, its images' is "
                f"{meter.image_shape}",
                self.index_offset,
            )
        facts = shard_facts(
            split=job.split,
            name=job.name,
            size=len(self.memory),
            sha256=sha256,
            index=index,
            index_bytes=self.index_bytes,
            index_offset=self.index_offset,
            meter=meter,
        )
        class_of_label = {
            label: key.split("/")[1]
            for label, key in zip(index.label.tolist(), index.keys, strict=True)
        }
        return CheckedShard(
            facts=facts,
            encoding=index.encoding,
            block_size=index.block_size,
            class_of_label=class_of_label,
            classes=index.classes,
            sidecars=sidecars,
            order=self._check_order(),
            keys=tuple(index.keys) if job.tree is not None else (),
        )

    def _check_pngs(self, meter: ImageMeter, sidecars: tuple[str, ...]) -> int:
        """Every PNG and its sidecars; gives where they end."""
        from cinic_shards.codec import Payloads, checksums

        index = self.index
        lengths = index.length.astype(np.int64)
        offsets = index.offset.astype(np.int64)
        end = 0
        for start, stop in chunks(lengths):
            rows = slice(start, stop)
            expected, starts = self._lay_out(rows, sidecars)
            if not np.array_equal(offsets[rows], end + starts):
                row = start + int(np.flatnonzero(offsets[rows] != end + starts)[0])
                raise FormatError(
                    self.path,
                    f"the index puts sample {row} ({index.keys[row]}) at offset {offsets[row]}, "
                    f"its place is {end + starts[row - start]}: the index is not this shard's",
                )
            found = self.memory[end : end + len(expected)]
            if len(found) < len(expected):
                raise FormatError(self.path, f"it ends inside its samples {start} to {stop - 1}")
            payloads = Payloads.in_buffer(found, starts, lengths[rows])
            crcs = checksums(payloads)
            for row in np.flatnonzero(crcs != index.crc32[rows]).tolist():
                problem = f"CRC-32 is {crcs[row]:08x}, the index says "
                self._tell(start + row, problem + f"{index.crc32[start + row]:08x}")
            self._compare(start, end, expected, found, starts, lengths[rows])
            hashes, bad = meter.add_pngs(payloads, found, starts)
            for row, problem in bad.items():
                self._tell(start + row, problem)
            self._compare_hashes(start, hashes)
            if self.job.tree is not None:
                self._compare_with_tree(self.job.tree, payloads, start)
            end += len(expected)
        return end

    def _check_blocks(self, meter: ImageMeter) -> int:
        """Every block and its labels; gives where they end."""
        from cinic_shards.codec import Payloads, checksums, decode_block

        index = self.index
        assert index.image_shape is not None
        end = 0
        rows = itertools.pairwise(index.block_starts.tolist())
        for block, (start, stop) in enumerate(rows):
            length = int(index.length[block])
            name = fmt.block_name(self.job.name, block)
            expected, at = fmt.lay_out_block(name, index.encoding, length, index.label[start:stop])
            if index.offset[block] != end + at:
                raise FormatError(
                    self.path,
                    f"the index puts block {block} at offset {index.offset[block]}, its place is "
                    f"{end + at}: the index is not this shard's",
                )
            found = self.memory[end : end + len(expected)]
            if len(found) < len(expected):
                raise FormatError(self.path, f"it ends inside its block {block}")
            payload = found[at : at + length]
            images = np.empty((stop - start, *index.image_shape), np.uint8)
            problem = decode_block(payload, index.encoding, images)
            crc = int(checksums(Payloads.in_buffer(found, np.array([at]), np.array([length])))[0])
            if crc != index.crc32[block]:
                told = len(self.faults)
                if not problem and index.encoding == "raw":  # a pixel belongs to a sample
                    self._compare_hashes(start, fmt.pixel_hashes(images))
                if len(self.faults) == told:
                    says = f"{index.crc32[block]:08x}"
                    problem = f"CRC-32 is {crc:08x}, the index says {says}"
            elif not problem:
                self._compare_hashes(start, meter.add_images(images))
                if self.job.tree is not None:
                    self._compare_with_tree_pixels(self.job.tree, images, start)
            expected[at : at + length] = payload
            if problem:
                self.faults.tell(problem, end + at, block=block)
            elif not np.array_equal(found, expected):
                place = int(np.flatnonzero(found != expected)[0])
                self.faults.tell(
                    f"a tar header, its labels or padding have the byte 0x{found[place]:02x}, "
                    f"expected 0x{expected[place]:02x}",
                    end + place,
                    block=block,
                )
            end += len(expected)
        return end

    def _compare_hashes(self, start: int, hashes: NDArray[np.uint8]) -> None:
        """Pixel hashes of samples from row ``start`` on."""
        stated = self.index.pixel_hash[start : start + len(hashes)]
        for row in np.flatnonzero((hashes != stated).any(axis=1)).tolist():
            problem = f"its pixels' hash is {hashes[row].tobytes().hex()}, the index says "
            self._tell(start + row, problem + stated[row].tobytes().hex())

    def _tell(self, row: int, problem: str, offset: int | None = None) -> None:
        if offset is not None:
            at = offset
        elif self.index.encoding == "png":
            at = int(self.index.offset[row])
        else:
            at = self._place_in_block(row)
        self.faults.tell(problem, at, row, self.index.keys[row])

    def _place_in_block(self, row: int) -> int:
        """Where a sample's pixels lie in the file; of a ``zstd`` one, its block."""
        block, row_in_block = divmod(row, self.index.block_size)
        at = int(self.index.offset[block])
        if self.index.encoding == "zstd":
            return at
        assert self.index.image_shape is not None
        return at + fmt.NPY_HEADER_BYTES + row_in_block * int(np.prod(self.index.image_shape))

    def _check_columns(self) -> None:
        """Keys, and what follows from them."""
        index = self.index
        for row, key in enumerate(index.keys):
            if problem := fmt.key_problem(key, self.job.split):
                # What is written nowhere as a name cannot be laid out.
                raise FormatError(self.path, f"sample {row} has the key {key!r}: {problem}")
            stated, named = index.provenance(row), parse_stem(key.rpartition("/")[2])
            if stated != named:
                self._tell(row, f"the index states {tuple(stated)}, its name {tuple(named)}")
        if len(set(index.keys)) < len(index):
            raise FormatError(self.path, "two of its samples have the same key")
        names: dict[int, str] = {}
        for row, (label, key) in enumerate(zip(index.label.tolist(), index.keys, strict=True)):
            name = key.split("/")[1]
            if names.setdefault(label, name) != name:
                self._tell(row, f"label {label} is that of class {names[label]} too")
            elif index.classes is not None and index.classes[label] != name:
                self._tell(row, f"label {label} is that of class {index.classes[label]}")

    def _check_order(self) -> tuple[bytes, bytes] | None:
        """Strictly ascending digests: so no key is there twice, either."""
        if self.job.seed is None:
            return None
        digests = packing_digests(self.index.keys, self.job.seed)
        for row in range(1, len(digests)):
            if digests[row - 1] >= digests[row]:
                self._tell(row, f"out of the packing order of seed {self.job.seed}")
        return digests[0], digests[-1]

    def _lay_out(
        self, rows: slice, sidecars: tuple[str, ...]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        index = self.index
        return fmt.lay_out_samples(
            index.keys[rows],
            index.length[rows].astype(np.int64),
            index.label[rows].tolist(),
            [index.provenance(row) for row in range(rows.start, rows.stop)],
            sidecars,
        )

    def _find_sidecars(self) -> tuple[str, ...]:
        """Those with which the first samples lie where they do, and whose names are there."""
        num_tried = min(2, len(self.index))
        differences: dict[tuple[str, ...], int] = {}
        for sidecars in _SIDECARS:
            expected, starts = self._lay_out(slice(0, num_tried), sidecars)
            is_all = num_tried == len(self.index)
            if np.array_equal(starts, self.index.offset[:num_tried]) and (
                not is_all or len(expected) + fmt.TAR_BLOCK == self.index_offset
            ):
                found = self.memory[: len(expected)]
                if len(found) < len(expected):
                    continue
                _fill(expected, found, starts, self.index.length[:num_tried])
                differences[sidecars] = int(np.count_nonzero(expected != found))
        if not differences:
            raise FormatError(
                self.path,
                "its first samples do not lie where PNGs of their lengths with any sidecars would: "
                "the index is not this shard's",
            )
        return min(differences, key=lambda sidecars: differences[sidecars])

    def _compare(
        self, first: int, end: int, expected: NDArray[np.uint8], found: NDArray[np.uint8],
        starts: NDArray[np.int64], lengths: NDArray[np.int64],
    ) -> None:  # fmt: skip
        """Headers, sidecars and padding."""
        _fill(expected, found, starts, lengths)
        if np.array_equal(expected, found):
            return
        different = np.flatnonzero(expected != found)
        # A sample's members begin with a header before its PNG.
        owners = np.searchsorted(starts - fmt.TAR_BLOCK, different, side="right") - 1
        for row, at in zip(owners.tolist(), different.tolist(), strict=True):
            self._tell(
                first + row,
                f"a tar header, sidecar or padding has the byte 0x{found[at]:02x}, expected "
                f"0x{expected[at]:02x}",
                end + at,
            )

    def _check_end(self, end: int) -> None:
        """The index's member and the end of the archive."""
        expected = np.frombuffer(
            fmt.one_member(fmt.INDEX_NAME, self.index_bytes) + fmt.TAR_END, np.uint8
        )
        found = self.memory[end:]
        if len(found) != len(expected) or end + fmt.TAR_BLOCK != self.index_offset:
            self.faults.tell(
                f"{len(found)} bytes behind its samples, expected {len(expected)}: the index's "
                "member and two empty blocks",
                end,
            )
        elif not np.array_equal(found, expected):
            at = int(np.flatnonzero(found != expected)[0])
            self.faults.tell(
                f"the index's header or padding has the byte 0x{found[at]:02x}, expected "
                f"0x{expected[at]:02x}",
                end + at,
            )

    def _compare_with_tree(self, tree: Path | ArchivedImages, payloads: Any, first: int) -> None:
        for position in range(len(payloads)):
            key = self.index.keys[first + position]
            data = payloads[position]
            try:
                file = _read_png(tree, key)
            except OSError as error:
                self._tell(first + position, f"{tree}/{key}.png: {error.strerror}")
                continue
            if file != data:
                at = next(
                    (i for i, (a, b) in enumerate(zip(file, data, strict=False)) if a != b),
                    min(len(file), len(data)),
                )
                self._tell(
                    first + position,
                    f"its {len(data)} bytes differ from byte {at} on from the {len(file)} of "
                    f"{tree}/{key}.png",
                )

    def _compare_with_tree_pixels(
        self, tree: Path | ArchivedImages, images: NDArray[np.uint8], first: int
    ) -> None:
        from cinic_shards.codec import Payloads, decode_png

        for position, image in enumerate(images):
            key = self.index.keys[first + position]
            try:
                file = np.frombuffer(_read_png(tree, key), np.uint8)
                payload = Payloads.in_buffer(file, np.array([0]), np.array([len(file)]))
                out = np.empty((1, *image.shape), np.uint8)
                decode_png(payload, out)
            except (OSError, DecodeError) as error:
                reason = error.reason if isinstance(error, DecodeError) else error.strerror
                self._tell(first + position, f"{tree}/{key}.png: {reason}")
                continue
            if not np.array_equal(out[0], image):
                self._tell(first + position, f"its pixels differ from those of {tree}/{key}.png")


def _fill(expected: NDArray[np.uint8], found: NDArray[np.uint8], starts: Any, lengths: Any) -> None:
    """Copy the PNGs from ``found`` to ``expected``: these are checked otherwise."""
    for at, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        expected[at : at + length] = found[at : at + length]


def _read_png(tree: Path | ArchivedImages, key: str) -> bytes:
    """The file of this key, and one of the suffixes."""
    if isinstance(tree, ArchivedImages):
        return tree.read(key)
    for suffix in PNG_SUFFIXES:
        with suppress(FileNotFoundError), open(f"{tree}/{key}{suffix}", "rb", buffering=0) as file:
            return file.read()
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
