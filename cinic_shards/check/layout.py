"""Check every byte of a shard outside its index.

The index and the payloads determine all other bytes. So the shard is laid out again from them and
compared. Any difference is a fault; its offset gives the sample or block.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards import codec
from cinic_shards.check.against import bytes_problem, pixels_problem, tree_problem
from cinic_shards.check.columns import IndexCheck
from cinic_shards.check.faults import FaultList
from cinic_shards.check.job import CheckJob
from cinic_shards.codec import ENCODINGS, Encoding, Payloads
from cinic_shards.codec.meter import ImageMeter, chunks
from cinic_shards.errors import FormatError
from cinic_shards.format import Index

_SIDECARS: tuple[tuple[str, ...], ...] = (("cls",), (), ("json",), ("cls", "json"))


@dataclass(frozen=True, slots=True)
class LayoutCheck:
    """The check of one shard."""

    job: CheckJob
    faults: FaultList
    columns: IndexCheck
    memory: NDArray[np.uint8]
    index_bytes: bytes
    index_offset: int

    @property
    def index(self) -> Index:
        return self.columns.index

    @property
    def encoding(self) -> Encoding:
        """The shard's encoding."""
        return ENCODINGS[self.index.encoding]

    def check(self, meter: ImageMeter) -> tuple[str, ...]:
        """Check every byte that is not the index's; measure the images, and return the sidecars."""
        index = self.index
        sidecars: tuple[str, ...] = ()
        if self.encoding.has_blocks:
            end = self._check_blocks(meter)
        else:
            sidecars = self._find_sidecars()
            end = self._check_files(meter, sidecars)
        self._check_end(end)
        if self.job.quick:
            if index.image_shape is not None:
                meter.image_sizes[index.image_shape[:2]] += len(index)
        elif not self.faults.faults and index.image_shape != meter.image_shape:
            stated, found = index.image_shape, meter.image_shape
            problem = f"its index says image_shape is {stated}, its images have {found}"
            self.faults.add("index", problem, self.index_offset)
        return sidecars

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
                    "offset or length is not that of this shard",
                )
            found = self.memory[end : end + len(expected)]
            if len(found) < len(expected):
                raise self._error(f"it ends inside its samples {start} to {stop - 1}")
            self._compare(start, end, expected, found, starts, lengths[rows])
            if not self.job.quick:
                self._check_pngs(start, found, starts, lengths[rows], meter)
            end += len(expected)
        return end

    def _check_pngs(
        self, first: int, found: NDArray[np.uint8], starts: NDArray[np.int64],
        lengths: NDArray[np.int64], meter: ImageMeter,
    ) -> None:  # fmt: skip
        """Check the PNGs of the samples from row ``first`` on."""
        payloads = Payloads.in_buffer(found, starts, lengths)
        crc32 = self.index.crc32[first : first + len(starts)]
        for row, problem in codec.crc_problems(payloads, crc32).items():
            self.columns.add("payload", first + row, problem)
        hashes, bad = meter.add_pngs(payloads, found, starts)
        for row, problem in bad.items():
            self.columns.add("payload", first + row, problem)
        self._compare_hashes(first, hashes)
        self._compare_with_tree(first, payloads, bytes_problem)

    def _check_blocks(self, meter: ImageMeter) -> int:
        """Check every block and its labels; return the offset where they end."""
        index, encoding = self.index, self.encoding
        end = 0
        rows = itertools.pairwise(index.block_starts.tolist())
        for block, (start, stop) in enumerate(rows):
            length = int(index.length[block])
            name = fmt.block_name(self.job.name, block)
            expected, at = fmt.lay_out_block(name, encoding.suffix, length, index.label[start:stop])
            if index.offset[block] != end + at:
                raise self._error(
                    f"the index says that block {block} is at offset {index.offset[block]}, "
                    f"expected {end + at}: offset or length is not that of this shard",
                )
            found = self.memory[end : end + len(expected)]
            if len(found) < len(expected):
                raise self._error(f"it ends inside its block {block}")
            payload = found[at : at + length]
            if not self.job.quick:
                self._check_block(block, payload, end + at, meter)
            expected[at : at + length] = payload
            if (problem := _difference(found, expected)) is not None:
                self.faults.add("structure", problem[1], end + problem[0], block=block)
            end += len(expected)
        return end

    def _check_block(
        self, block: int, payload: NDArray[np.uint8], offset: int, meter: ImageMeter
    ) -> None:
        """Check the payload of a block."""
        index = self.index
        start, stop = index.block_starts[block : block + 2].tolist()
        assert index.image_shape is not None
        images = np.empty((stop - start, *index.image_shape), np.uint8)
        crc_problem = codec.crc_problems(Payloads.one(payload), index.crc32[block : block + 1])
        damage = codec.decode_block(
            self.encoding,
            payload,
            images,
            crc_problem=crc_problem.get(0, ""),
            pixel_hash=index.pixel_hash[start:stop],
        )
        if damage.block:
            self.faults.add("payload", damage.block, offset, block=block)
            return
        for row, problem in damage.rows.items():
            self.columns.add("pixels", start + row, problem)
        self._compare_hashes(start, meter.add_images(images))
        self._compare_with_tree(start, images, pixels_problem)

    def _compare_hashes(self, start: int, hashes: NDArray[np.uint8]) -> None:
        """Compare pixel hashes, uint8 (N, 16), with those of the index from row ``start`` on."""
        stated = self.index.pixel_hash[start : start + len(hashes)]
        for row, problem in codec.hash_problems(hashes, stated).items():
            self.columns.add("pixels", start + row, problem)

    def _error(self, reason: str) -> FormatError:
        return FormatError(self.job.location, reason)

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
        different: dict[tuple[str, ...], int] = {}
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
                different[sidecars] = int(np.count_nonzero(expected != found))
        if not different:
            raise self._error(
                "its first samples' offset and length do not fit each other with any sidecars: "
                "the index is not this shard's",
            )
        return min(different, key=lambda sidecars: different[sidecars])

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
            problem = _describe(found, expected, at)
            self.columns.add("structure", first + row, problem, end + at)

    def _check_end(self, end: int) -> None:
        """Check the index's tar header and padding, and the end of the archive."""
        member = fmt.one_member(fmt.INDEX_NAME, self.index_bytes) + fmt.TAR_END
        expected = np.frombuffer(member, np.uint8)
        found = self.memory[end:]
        if len(found) != len(expected) or end + fmt.TAR_BLOCK != self.index_offset:
            problem = (
                f"{len(found)} bytes after its samples, expected {len(expected)}: the index's "
                "member and two empty blocks"
            )
            self.faults.add("structure", problem, end)
        elif (difference := _difference(found, expected)) is not None:
            self.faults.add("structure", difference[1], end + difference[0])

    def _compare_with_tree(
        self, first: int, samples: Any, compare: Callable[[Any, bytes, str], str]
    ) -> None:
        """Compare PNGs or images of samples from row ``first`` on, if there is a tree."""
        if (tree := self.job.tree) is None:
            return
        for row in range(first, first + len(samples)):
            key = self.index.keys[row]
            if problem := tree_problem(tree, key, samples[row - first], compare):
                self.columns.add("tree", row, problem)


def _difference(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> tuple[int, str] | None:
    """Return the first position in which tar members differ, and describe it; or None."""
    if np.array_equal(found, expected):
        return None
    at = int(np.argmax(found != expected))
    return at, _describe(found, expected, at)


def _describe(found: NDArray[np.uint8], expected: NDArray[np.uint8], at: int) -> str:
    what = fmt.describe_byte(expected, at)
    return f"{what} has the byte 0x{found[at]:02x}, expected 0x{expected[at]:02x}"


def _fill(expected: NDArray[np.uint8], found: NDArray[np.uint8], starts: Any, lengths: Any) -> None:
    """Copy the PNGs from ``found`` to ``expected``: they are checked by CRC-32 and pixels."""
    for at, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        expected[at : at + length] = found[at : at + length]
