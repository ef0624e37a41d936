"""One shard: is every byte of it what its index, its keys and its payloads make it?

A shard follows from its index and its PNGs alone. So it is laid out anew and compared: whatever
differs is a fault, and its place tells which sample it belongs to.
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
from cinic_shards.errors import CinicShardsError, FormatError
from cinic_shards.facts import ImageMeter, ShardFacts, chunks, packing_digests, shard_facts
from cinic_shards.format import Index, ShardInfo
from cinic_shards.provenance import parse_stem
from cinic_shards.store import LocalStore

_MAX_FAULTS = 1000
"""Of one shard; more are counted."""

_SIDECARS: tuple[tuple[str, ...], ...] = (("cls",), (), ("json",), ("cls", "json"))


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it should be."""

    file: str
    """The shard, or the manifest."""
    problem: str
    """What was found, and what was expected."""
    offset: int | None = None
    """Where in the file."""
    sample: int | None = None
    """Which sample of the shard."""
    key: str = ""
    """That sample's key."""

    def __str__(self) -> str:
        place = [self.file]
        if self.offset is not None:
            place.append(f"offset {self.offset}")
        if self.sample is not None:
            place.append(f"sample {self.sample} ({self.key})")
        return f"{', '.join(place)}: {self.problem}"


@dataclass(frozen=True, slots=True)
class CheckJob:
    """A shard to check."""

    root: Path
    """The dataset's folder."""
    split: str
    name: str
    info: ShardInfo | None
    """What the manifest says of it; None where there is no manifest."""
    seed: int | None = None
    """Of the packing order, where it is known."""
    quick: bool = False
    """Check size, digests and index alone."""
    tree: Path | None = None
    """Compare every payload with the file in this tree."""


@dataclass(frozen=True, slots=True)
class CheckedShard:
    """What is wrong with a shard, and what it holds where that can be told."""

    facts: ShardFacts | None = None
    class_of_label: dict[int, str] | None = None
    sidecars: tuple[str, ...] = ()
    order: tuple[bytes, bytes] | None = None
    """The first and the last sample's packing digests, where the seed is known."""
    keys: tuple[str, ...] = ()
    """Only where a tree is compared with."""
    faults: tuple[Fault, ...] = ()
    num_more_faults: int = 0
    """Beyond the first 1,000."""


class _Faults(list[Fault]):
    """The faults of one shard; of one sample only the first, which the others follow from."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._samples: set[int] = set()
        self.num_more = 0

    def tell(
        self, problem: str, offset: int | None = None, sample: int | None = None, key: str = ""
    ) -> None:
        if sample is not None:
            if sample in self._samples:
                return
            self._samples.add(sample)
        if len(self) >= _MAX_FAULTS:
            self.num_more += 1
        else:
            self.append(Fault(self._name, problem, offset, sample, key))


def check_shard(job: CheckJob) -> CheckedShard:
    """Check one shard. Runs in any process; what is wrong is told in the result."""
    faults = _Faults(job.name)
    try:
        checked = _check(job, faults)
    except CinicShardsError as error:
        path = str(job.root / job.name)
        faults.tell(str(error).removeprefix(f"{path}: "))
        checked = CheckedShard()
    return replace(checked, faults=tuple(faults), num_more_faults=faults.num_more)


def _check(job: CheckJob, faults: _Faults) -> CheckedShard:
    store = LocalStore(job.root)
    path = f"{job.root / job.name}"
    size = store.size(job.name)
    memory = store.map(job.name, job.info.size if job.info else size)
    sha256 = hashlib.sha256(memory.data).hexdigest()
    if job.info and sha256 != job.info.sha256:
        faults.tell(f"its SHA-256 is {sha256}, the manifest says {job.info.sha256}")
    if job.info:
        index_offset, index_length = job.info.index_offset, job.info.index_length
    else:
        index_offset, index_length = fmt.find_index(memory, path)
    if index_offset < fmt.TAR_BLOCK:
        raise FormatError(f"its index, at offset {index_offset}, leaves no room for a tar header")
    index_bytes = memory[index_offset : index_offset + index_length].tobytes()
    index_sha256 = hashlib.sha256(index_bytes).hexdigest()
    if job.info and index_sha256 != job.info.index_sha256:
        raise FormatError(
            f"its index, at offset {index_offset}, has SHA-256 {index_sha256}, the manifest says "
            f"{job.info.index_sha256}"
        )
    # Where the payloads end, the index's header begins.
    index = Index.from_bytes(
        index_bytes, place=path, end=index_offset - fmt.TAR_BLOCK, num_classes=2**31 - 1
    )
    if not len(index):
        raise FormatError("it holds no sample, expected at least one")
    if job.quick:
        return CheckedShard()
    return _Check(job, faults, memory, index, index_bytes, index_offset).run(sha256)


class _Check:
    """A shard whose index could be read."""

    def __init__(
        self, job: CheckJob, faults: _Faults, memory: NDArray[np.uint8], index: Index,
        index_bytes: bytes, index_offset: int,
    ) -> None:  # fmt: skip
        self.job = job
        self.faults = faults
        self.memory = memory
        self.index = index
        self.index_bytes = index_bytes
        self.index_offset = index_offset

    def run(self, sha256: str) -> CheckedShard:
        """Everything that the index makes it possible to check."""
        from cinic_shards.codec import Payloads, checksums

        index, job = self.index, self.job
        self._check_columns()
        lengths = index.length.astype(np.int64)
        offsets = index.offset.astype(np.int64)
        sidecars = self._find_sidecars()
        meter = ImageMeter()
        end = 0
        for start, stop in chunks(lengths):
            rows = slice(start, stop)
            expected, starts = self._lay_out(rows, sidecars)
            if not np.array_equal(offsets[rows], end + starts):
                row = start + int(np.flatnonzero(offsets[rows] != end + starts)[0])
                raise FormatError(
                    f"the index puts sample {row} ({index.keys[row]}) at offset {offsets[row]}, "
                    f"its place is {end + starts[row - start]}: the index is not this shard's"
                )
            found = self.memory[end : end + len(expected)]
            if len(found) < len(expected):
                raise FormatError(f"it ends inside its samples {start} to {stop - 1}")
            payloads = Payloads.in_buffer(found, starts, lengths[rows])
            for row in np.flatnonzero(checksums(payloads) != index.crc32[rows]).tolist():
                crc = int(checksums(payloads.take(np.array([row])))[0])
                problem = f"CRC-32 is {crc:08x}, the index says {index.crc32[start + row]:08x}"
                self._tell(start + row, problem)
            self._compare(start, end, expected, found, starts, lengths[rows])
            hashes, bad = meter.add(payloads, found, starts)
            for row, problem in bad.items():
                self._tell(start + row, problem)
            for row in np.flatnonzero((hashes != index.pixel_hash[rows]).any(axis=1)).tolist():
                problem = f"its pixels' hash is {hashes[row].tobytes().hex()}, the index says "
                self._tell(start + row, problem + index.pixel_hash[start + row].tobytes().hex())
            if job.tree is not None:
                self._compare_with_tree(job.tree, payloads, start)
            end += len(expected)
        self._check_end(end)
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
        keys = tuple(index.keys) if job.tree is not None else ()
        return CheckedShard(facts, class_of_label, sidecars, self._check_order(), keys)

    def _tell(self, row: int, problem: str, offset: int | None = None) -> None:
        at = int(self.index.offset[row]) if offset is None else offset
        self.faults.tell(problem, at, row, self.index.keys[row])

    def _check_columns(self) -> None:
        """Keys, and what follows from them."""
        index = self.index
        if len(index.offset) != len(index):
            raise FormatError(f"its index has {len(index.offset)} payloads, {len(index)} samples")
        for row, key in enumerate(index.keys):
            if problem := fmt.key_problem(key, self.job.split):
                # What is written nowhere as a name cannot be laid out.
                raise FormatError(f"sample {row} has the key {key!r}: {problem}")
            stated, named = index.provenance(row), parse_stem(key.rpartition("/")[2])
            if stated != named:
                self._tell(row, f"the index states {tuple(stated)}, its name {tuple(named)}")
        if len(set(index.keys)) < len(index):
            raise FormatError("two of its samples have the same key")
        names: dict[int, str] = {}
        for row, (label, key) in enumerate(zip(index.label.tolist(), index.keys, strict=True)):
            name = key.split("/")[1]
            if names.setdefault(label, name) != name:
                self._tell(row, f"label {label} is that of class {names[label]} too")

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
                "its first samples do not lie where PNGs of their lengths with any sidecars would: "
                "the index is not this shard's"
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

    def _compare_with_tree(self, tree: Path, payloads: Any, first: int) -> None:
        for position in range(len(payloads)):
            key = self.index.keys[first + position]
            data = payloads[position]
            try:
                file = _read_png(f"{tree}/{key}")
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


def _fill(expected: NDArray[np.uint8], found: NDArray[np.uint8], starts: Any, lengths: Any) -> None:
    """Copy the PNGs from ``found`` to ``expected``: these are checked otherwise."""
    for at, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        expected[at : at + length] = found[at : at + length]


_SUFFIXES = ["." + "".join(letters) for letters in itertools.product("pP", "nN", "gG")]
"""A file's suffix may be in capitals, its member's is not."""


def _read_png(path: str) -> bytes:
    """The file of this path and one of the suffixes."""
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError), open(path + suffix, "rb", buffering=0) as file:
            return file.read()
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
