"""Check one shard, byte by byte.

The index and the payloads determine every other byte of a shard. So the shard is laid out again
from them and compared. Any difference is a fault; its offset gives the sample or block.
"""

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards import codec
from cinic_shards.check.against import bytes_problem, pixels_problem, tree_problem
from cinic_shards.check.faults import Fault, FaultList, Kind
from cinic_shards.codec import ENCODINGS, Encoding, Payloads
from cinic_shards.codec.meter import ImageMeter, chunks
from cinic_shards.errors import FormatError, StoreError
from cinic_shards.format import Index, ShardInfo
from cinic_shards.format.provenance import parse_stem
from cinic_shards.store import Store
from cinic_shards.tree.records import ImageFiles
from cinic_shards.write.facts import ShardFacts, packing_digests, shard_facts

_SIDECARS: tuple[tuple[str, ...], ...] = (("cls",), (), ("json",), ("cls", "json"))


@dataclass(frozen=True, slots=True)
class CheckJob:
    """A shard to check."""

    store: Store
    """The dataset's store."""
    split: str
    name: str
    info: ShardInfo | None
    """The shard's entry in the manifest; None if there is no manifest."""
    seed: int | None = None
    """Seed of the packing order; None if unknown, then the order is not checked."""
    quick: bool = False
    """Check only size, digests and index."""
    tree: ImageFiles | None = None
    """Compare every payload with its file in this tree."""

    @property
    def location(self) -> str:
        """The shard's location, for messages."""
        return f"{self.store}/{self.name}"


@dataclass(frozen=True, slots=True)
class CheckedShard:
    """The faults of a shard, and its contents as far as they could be read."""

    facts: ShardFacts | None = None
    encoding: str = ""
    block_size: int = 0
    class_of_label: dict[int, str] | None = None
    classes: tuple[str, ...] | None = None
    """The dataset's classes; None if the shard does not state them."""
    sidecars: tuple[str, ...] = ()
    order: tuple[bytes, bytes] | None = None
    """Packing digests of the first and the last sample; None if the seed is unknown."""
    keys: tuple[str, ...] = ()
    """The samples' keys; empty unless the shard is compared with a tree."""
    faults: tuple[Fault, ...] = ()
    num_more_faults: int = 0
    """Number of faults beyond the first 1,000."""

    @property
    def num_samples(self) -> int:
        return self.facts.info.num_samples if self.facts else 0


def check_shard(job: CheckJob) -> CheckedShard:
    """Check one shard, in any process. Faults are in the result; nothing is raised for them."""
    faults = FaultList(job.name)
    try:
        checked = _check(job, faults)
    except StoreError as error:
        faults.add("unreadable", error.reason)
        checked = CheckedShard()
    except FormatError as error:
        faults.add("index", error.reason)
        checked = CheckedShard()
    return replace(checked, faults=tuple(faults.faults), num_more_faults=faults.num_more)


def _check(job: CheckJob, faults: FaultList) -> CheckedShard:
    info = job.info
    memory = job.store.map(job.name, info.size if info else job.store.size(job.name))
    sha256 = hashlib.sha256(memory.data).hexdigest()
    if info and sha256 != info.sha256:
        faults.add("digest", f"its SHA-256 is {sha256}, the manifest says {info.sha256}")
    if info:
        index_offset, index_length = info.index_offset, info.index_length
    else:
        index_offset, index_length = fmt.find_index(memory, job.location)
    its_index = f"its index, at offset {index_offset},"
    if index_offset < fmt.TAR_BLOCK:
        raise FormatError(job.location, f"{its_index} leaves no room for a tar header")
    index_bytes = memory[index_offset : index_offset + index_length].tobytes()
    index_sha256 = hashlib.sha256(index_bytes).hexdigest()
    if info and index_sha256 != info.index_sha256:
        says = f"the manifest says {info.index_sha256}"
        faults.add("digest", f"{its_index} has SHA-256 {index_sha256}, {says}")
        return CheckedShard()
    # The payloads end where the index's tar header begins.
    end = index_offset - fmt.TAR_BLOCK
    index = Index.from_bytes(
        index_bytes, location=job.location, end=end, num_classes=2**31 - 1, encodings=ENCODINGS
    )
    if not len(index):
        raise FormatError(job.location, "it holds no sample, expected at least one")
    if job.quick:
        return CheckedShard()
    return _Checker(job, faults, memory, index, index_bytes, index_offset).run(sha256)


@dataclass(frozen=True, slots=True)
class _Checker:
    """Check a shard whose index could be read."""

    job: CheckJob
    faults: FaultList
    memory: NDArray[np.uint8]
    index: Index
    index_bytes: bytes
    index_offset: int

    @property
    def encoding(self) -> Encoding:
        """The shard's encoding."""
        return ENCODINGS[self.index.encoding]

    def run(self, sha256: str) -> CheckedShard:
        """Check everything that can be checked with the index."""
        index, job = self.index, self.job
        self._check_columns()
        meter = ImageMeter()
        if self.encoding.has_blocks:
            sidecars: tuple[str, ...] = ()
            end = self._check_blocks(meter)
        else:
            sidecars = self._find_sidecars()
            end = self._check_files(meter, sidecars)
        self._check_end(end)
        if not self.faults.faults and index.image_shape != meter.image_shape:
            stated, found = index.image_shape, meter.image_shape
            problem = f"its index says image_shape is {stated}, its images have {found}"
            self.faults.add("index", problem, self.index_offset)
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
        names = [key.split("/")[1] for key in index.keys]
        return CheckedShard(
            facts=facts,
            encoding=index.encoding,
            block_size=index.block_size,
            class_of_label=dict(zip(index.label.tolist(), names, strict=True)),
            classes=index.classes,
            sidecars=sidecars,
            order=self._check_order(),
            keys=tuple(index.keys) if job.tree is not None else (),
        )

    def _check_files(self, meter: ImageMeter, sidecars: tuple[str, ...]) -> int:
        """Check every PNG and its sidecars; return the offset where they end."""
        index = self.index
        lengths = index.length.astype(np.int64)
        offsets = index.offset.astype(np.int64)
        end = 0
        for start, stop in chunks(lengths):
            rows = slice(start, stop)
            expected, starts = self._lay_out(rows, sidecars)
            if not np.array_equal(offsets[rows], end + starts):
                row = start + int(np.flatnonzero(offsets[rows] != end + starts)[0])
                raise self._error(
                    f"the index says that sample {row} ({index.keys[row]}) is at offset "
                    f"{offsets[row]}, expected {end + starts[row - start]}: "
                    "the index is not this shard's",
                )
            found = self.memory[end : end + len(expected)]
            if len(found) < len(expected):
                raise self._error(f"it ends inside its samples {start} to {stop - 1}")
            payloads = Payloads.in_buffer(found, starts, lengths[rows])
            for row, problem in codec.crc_problems(payloads, index.crc32[rows]).items():
                self._add("payload", start + row, problem)
            self._compare(start, end, expected, found, starts, lengths[rows])
            hashes, bad = meter.add_pngs(payloads, found, starts)
            for row, problem in bad.items():
                self._add("payload", start + row, problem)
            self._compare_hashes(start, hashes)
            self._compare_with_tree(start, payloads, bytes_problem)
            end += len(expected)
        return end

    def _check_blocks(self, meter: ImageMeter) -> int:
        """Check every block and its labels; return the offset where they end."""
        index, encoding = self.index, self.encoding
        assert index.image_shape is not None
        end = 0
        rows = itertools.pairwise(index.block_starts.tolist())
        for block, (start, stop) in enumerate(rows):
            length = int(index.length[block])
            name = fmt.block_name(self.job.name, block)
            expected, at = fmt.lay_out_block(name, encoding.suffix, length, index.label[start:stop])
            if index.offset[block] != end + at:
                raise self._error(
                    f"the index says that block {block} is at offset {index.offset[block]}, "
                    f"expected {end + at}: the index is not this shard's",
                )
            found = self.memory[end : end + len(expected)]
            if len(found) < len(expected):
                raise self._error(f"it ends inside its block {block}")
            payload = found[at : at + length]
            images = np.empty((stop - start, *index.image_shape), np.uint8)
            crc_problem = codec.crc_problems(Payloads.one(payload), index.crc32[block : block + 1])
            damage = codec.decode_block(
                encoding,
                payload,
                images,
                crc_problem=crc_problem.get(0, ""),
                pixel_hash=index.pixel_hash[start:stop],
            )
            if not damage.block:
                for row, problem in damage.rows.items():
                    self._add("pixels", start + row, problem)
                self._compare_hashes(start, meter.add_images(images))
                self._compare_with_tree(start, images, pixels_problem)
            expected[at : at + length] = payload
            if damage.block:
                self.faults.add("payload", damage.block, end + at, block=block)
            elif (first := _first_difference(found, expected)) is not None:
                byte = _byte(found, expected, first)
                problem = f"a tar header, its labels or padding have {byte}"
                self.faults.add("structure", problem, end + first, block=block)
            end += len(expected)
        return end

    def _compare_hashes(self, start: int, hashes: NDArray[np.uint8]) -> None:
        """Compare pixel hashes, uint8 (N, 16), with those of the index from row ``start`` on."""
        stated = self.index.pixel_hash[start : start + len(hashes)]
        for row, problem in codec.hash_problems(hashes, stated).items():
            self._add("pixels", start + row, problem)

    def _error(self, reason: str) -> FormatError:
        return FormatError(self.job.location, reason)

    def _add(self, kind: Kind, row: int, problem: str, offset: int | None = None) -> None:
        """Add a fault of a sample, by default at the offset of its pixels."""
        at = self._offset(row) if offset is None else offset
        self.faults.add(kind, problem, at, sample=row, key=self.index.keys[row])

    def _offset(self, row: int) -> int:
        """Offset of a sample's PNG or pixels; that of its block if the block is compressed."""
        index, encoding = self.index, self.encoding
        number, row_in_payload = divmod(row, encoding.rows_a_payload(index.block_size))
        at = int(index.offset[number])
        if encoding.pixels_offset is None:
            return at
        assert index.image_shape is not None
        return at + encoding.pixels_offset + row_in_payload * int(np.prod(index.image_shape))

    def _check_columns(self) -> None:
        """Check the keys, and the columns that follow from them."""
        index = self.index
        for row, key in enumerate(index.keys):
            if problem := fmt.key_problem(key, self.job.split):
                # A shard cannot be laid out with an invalid name.
                raise self._error(f"sample {row} has the key {key!r}: {problem}")
            stated, named = index.provenance(row), parse_stem(key.rpartition("/")[2])
            if stated != named:
                problem = f"the index says {tuple(stated)}, its name says {tuple(named)}"
                self._add("index", row, problem)
        if len(set(index.keys)) < len(index):
            raise self._error("two of its samples have the same key")
        names: dict[int, str] = {}
        for row, (label, key) in enumerate(zip(index.label.tolist(), index.keys, strict=True)):
            name = key.split("/")[1]
            if names.setdefault(label, name) != name:
                self._add("index", row, f"label {label} is also that of class {names[label]}")
            elif index.classes is not None and index.classes[label] != name:
                self._add("index", row, f"label {label} is that of class {index.classes[label]}")

    def _check_order(self) -> tuple[bytes, bytes] | None:
        """Check that packing digests strictly ascend; return the first and the last, if known."""
        if self.job.seed is None:
            return None
        digests = packing_digests(self.index.keys, self.job.seed)
        for row in range(1, len(digests)):
            if digests[row - 1] >= digests[row]:
                self._add("order", row, f"out of the packing order of seed {self.job.seed}")
        return digests[0], digests[-1]

    def _lay_out(
        self, rows: slice, sidecars: tuple[str, ...]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        index = self.index
        return fmt.lay_out_samples(
            index.keys[rows],
            self.encoding.suffix,
            index.length[rows].astype(np.int64),
            index.label[rows].tolist(),
            [index.provenance(row) for row in range(rows.start, rows.stop)],
            sidecars,
        )

    def _find_sidecars(self) -> tuple[str, ...]:
        """Find the sidecars that fit the first samples' offsets, and best fit their bytes."""
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
            raise self._error(
                "its first samples' offsets do not fit their lengths with any sidecars: "
                "the index is not this shard's",
            )
        return min(differences, key=lambda sidecars: differences[sidecars])

    def _compare(
        self, first: int, end: int, expected: NDArray[np.uint8], found: NDArray[np.uint8],
        starts: NDArray[np.int64], lengths: NDArray[np.int64],
    ) -> None:  # fmt: skip
        """Compare headers, sidecars and padding of the samples from row ``first`` on."""
        _fill(expected, found, starts, lengths)
        if np.array_equal(expected, found):
            return
        different = np.flatnonzero(expected != found)
        # A sample's members begin with the tar header before its PNG.
        owners = np.searchsorted(starts - fmt.TAR_BLOCK, different, side="right") - 1
        rows, firsts = np.unique(owners, return_index=True)
        for row, at in zip(rows.tolist(), different[firsts].tolist(), strict=True):
            problem = f"a tar header, sidecar or padding has {_byte(found, expected, at)}"
            self._add("structure", first + row, problem, end + at)

    def _check_end(self, end: int) -> None:
        """Check the index's tar header and padding, and the end of the archive."""
        expected = np.frombuffer(
            fmt.one_member(fmt.INDEX_NAME, self.index_bytes) + fmt.TAR_END, np.uint8
        )
        found = self.memory[end:]
        if len(found) != len(expected) or end + fmt.TAR_BLOCK != self.index_offset:
            problem = (
                f"{len(found)} bytes after its samples, expected {len(expected)}: the index's "
                "member and two empty blocks"
            )
            self.faults.add("structure", problem, end)
        elif (at := _first_difference(found, expected)) is not None:
            problem = f"the index's header or padding has {_byte(found, expected, at)}"
            self.faults.add("structure", problem, end + at)

    def _compare_with_tree(
        self, first: int, samples: Any, compare: Callable[[Any, bytes, str], str]
    ) -> None:
        """Compare PNGs or images of samples from row ``first`` on, if there is a tree."""
        if (tree := self.job.tree) is None:
            return
        for row in range(first, first + len(samples)):
            key = self.index.keys[row]
            if problem := tree_problem(tree, key, samples[row - first], compare):
                self._add("tree", row, problem)


def _first_difference(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> int | None:
    return None if np.array_equal(found, expected) else int(np.argmax(found != expected))


def _byte(found: NDArray[np.uint8], expected: NDArray[np.uint8], at: int) -> str:
    return f"the byte 0x{found[at]:02x}, expected 0x{expected[at]:02x}"


def _fill(expected: NDArray[np.uint8], found: NDArray[np.uint8], starts: Any, lengths: Any) -> None:
    """Copy the PNGs from ``found`` to ``expected``: they are checked by CRC-32 and pixels."""
    for at, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        expected[at : at + length] = found[at : at + length]
