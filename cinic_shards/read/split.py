"""The samples of one split, or of several: their columns, and pixels by row or by block."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec import ENCODINGS, Payloads, crc_problems, decode_block, kernels
from cinic_shards.errors import DecodeError, FormatError
from cinic_shards.format import Index, Manifest, PixelSums, SplitInfo
from cinic_shards.options import one_of
from cinic_shards.read.columns import Columns
from cinic_shards.read.open import open_shard, read_index
from cinic_shards.store import Store

Check = Literal["first", "always", "off"]

_INDEXES_AT_ONCE = 16
"""Requests for the indexes of shards that are not local."""


_READ_AHEAD_BYTES = 2**32
"""A split of at most so many bytes is read ahead as a whole: it is likely to stay in memory."""


class SplitReader:
    """The N samples of one split or of several, in packing order; a row is a place among them.

    Shards in a folder are memory-mapped: bytes are read when a kernel touches them. Of others a
    block at a time is fetched, by one request.

    Args:
        store: where the dataset lies.
        manifest: the dataset's.
        splits: their parts of it, in its order.
        check: compare a payload's CRC-32 with the index when it is read: for the ``first`` time,
            once an epoch (``always``), or never (``off``).
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        splits: Sequence[SplitInfo],
        *,
        check: Check = "first",
    ) -> None:
        one_of("check", check, Check)
        self.name = "+".join(split.name for split in splits)
        self.encoding = ENCODINGS[manifest.encoding]
        self._store = store
        self.shards = [shard for split in splits for shard in split.shards]
        self.pixels = sum((split.pixels for split in splits), PixelSums(0, (0, 0, 0), (0, 0, 0)))
        """Of all samples, for their mean and deviation."""
        self.image_sizes: Counter[tuple[int, int]] = Counter()
        """(height, width) -> number of images, as the manifest says."""
        for split in splits:
            self.image_sizes.update(split.image_sizes)
        self._splits = [split.name for split in splits for _ in split.shards]
        """The split of each shard."""
        self._maps: list[NDArray[np.uint8]] = []
        """The shards; none where they are not local."""
        self._indexes: list[Index] = []
        self._open_shards(len(manifest.classes))
        for shard, index in zip(self.shards, self._indexes, strict=True):
            self._refuse_another(f"{store}/{shard.name}", manifest, index)
        self.labels: NDArray[np.int64] = np.concatenate(
            [index.label for index in self._indexes], dtype=np.int64
        )
        """Class of each row, shape (N,)."""
        self._ids = np.concatenate([
            np.arange(split.first_id, split.first_id + split.num_samples) for split in splits
        ])  # fmt: skip
        self._shard_starts = np.cumsum([0, *(len(index) for index in self._indexes)])
        self._lengths = np.concatenate([index.length.astype(np.int64) for index in self._indexes])
        bases = [memory.ctypes.data for memory in self._maps] or [0] * len(self.shards)
        self._addresses = np.concatenate([
            base + index.offset.astype(np.int64)
            for base, index in zip(bases, self._indexes, strict=True)
        ])  # fmt: skip
        """Where each payload begins in memory; of shards that are not local, in its shard."""
        self._crc32 = np.concatenate([index.crc32 for index in self._indexes])
        self._checks_always = check == "always"
        # Of each payload. Written by several threads: at worst one is checked twice.
        self._is_checked = np.full(len(self._crc32), check == "off")
        self._bad_rows: dict[int, tuple[str, str]] = {}
        """Where rows are mapped: what is wrong with a row, and its location."""
        self.bytes_read = 0
        """Of payloads since this reader was made."""
        self._counting = Lock()

    @cached_property
    def block_starts(self) -> NDArray[np.int64]:
        """First row of each of B blocks, and N: shape (B + 1,)."""
        starts = [
            start + index.block_starts[:-1]
            for start, index in zip(self._shard_starts, self._indexes, strict=False)
        ]
        return np.concatenate([*starts, [len(self)]])

    @property
    def is_mapped(self) -> bool:
        """Whether the shards lie in memory, as far as this process can tell."""
        return self._store.is_local

    @property
    def maps_rows(self) -> bool:
        """Whether each row's pixels lie in memory as they are: see ``mapped_images``."""
        return self.encoding.pixels_offset is not None and self.is_mapped

    @property
    def reads_rows(self) -> bool:
        """Whether a row is read alone: otherwise it takes its whole block."""
        return self.maps_rows or (self.is_mapped and not self.encoding.has_blocks)

    def _open_shards(self, num_classes: int) -> None:
        if self.is_mapped:
            read_ahead = sum(shard.size for shard in self.shards) <= _READ_AHEAD_BYTES
            for shard in self.shards:
                opened = open_shard(self._store, shard, num_classes, read_ahead=read_ahead)
                self._maps.append(opened[0])
                self._indexes.append(opened[1])
            return
        with ThreadPoolExecutor(_INDEXES_AT_ONCE) as threads:
            read = partial(read_index, self._store, num_classes=num_classes)
            self._indexes += threads.map(read, self.shards)

    def _refuse_another(self, place: str, manifest: Manifest, index: Index) -> None:
        """An index of another kind than the manifest says."""
        found = index.encoding, index.block_size
        stated = manifest.encoding, manifest.block_size
        if found != stated:
            raise FormatError(
                place,
                f"encoding and block size are {found}, the manifest says {stated}; fetch "
                "the file again",
            )
        if self.encoding.has_blocks and index.image_shape != self.image_shape:
            raise FormatError(
                place,
                f"images of {index.image_shape}, the manifest says {self.image_shape}; "
                "fetch the file again",
            )

    def start_epoch(self) -> None:
        """With ``check="always"``, check every payload anew."""
        if self._checks_always:
            self._is_checked[:] = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_blocks(self) -> int:
        return len(self.block_starts) - 1

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of every image.

        Raises:
            FormatError: the split has images of several sizes.
        """
        sizes = sorted(self.image_sizes.items(), key=lambda item: -item[1])
        if len(sizes) != 1:
            listed = ", ".join(f"{h}x{w} ({count:,})" for (h, w), count in sizes[:5])
            raise FormatError(
                f"split {self.name}",
                f"images of {len(sizes)} sizes (height x width): {listed}"
                f"{', ...' if len(sizes) > 5 else ''}; a batch holds one size: resize them before "
                "packing, or read these shards with webdataset",
            )
        height, width = sizes[0][0]
        return height, width, 3

    def ids(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The dataset-wide ids of these rows."""
        return self._ids[rows]

    @cached_property
    def columns(self) -> Columns:
        """The columns of every row."""
        return Columns.of(list(zip(self._splits, self._indexes, strict=True)))

    def key(self, row: int) -> str:
        """``split/class/stem`` of a row."""
        shard, sample = self._place(row)
        return self._indexes[shard].keys[sample]

    def locate(self, row: int) -> str:
        """A sample's place, for a message: shard, sample in it, key."""
        shard, sample = self._place(row)
        return f"{self.shards[shard].name}: sample {sample} ({self.key(row)})"

    def _locate_block(self, block: int) -> str:
        shard, first = self._place(int(self.block_starts[block]))
        number = first // self._indexes[shard].block_size
        last = int(self.block_starts[block + 1] - self._shard_starts[shard]) - 1
        return f"{self.shards[shard].name}: block {number} (samples {first} to {last})"

    def _place(self, row: int) -> tuple[int, int]:
        """The shard that holds a row, and the sample in it."""
        shard = int(np.searchsorted(self._shard_starts, row, side="right")) - 1
        return shard, row - int(self._shard_starts[shard])

    def blocks_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The block that each row is in."""
        out = np.empty(len(rows), np.int64)
        kernels.blocks_of_rows(rows, self.block_starts, out)
        return out

    def payloads(self, numbers: NDArray[np.int64]) -> Payloads:
        """Payloads by number: a block's, or without blocks a row's. They are fetched if need be."""
        if not self.is_mapped:
            return self._fetch(numbers)
        return Payloads(self._addresses[numbers], self._lengths[numbers], self._maps)

    def _fetch(self, numbers: NDArray[np.int64]) -> Payloads:
        """Payloads of one block, by one request."""
        row = int(self.block_starts[numbers[0]] if self.encoding.has_blocks else numbers[0])
        starts, lengths = self._addresses[numbers], self._lengths[numbers]
        first, stop = int(starts.min()), int((starts + lengths).max())
        data = self._store.read_range(self.shards[self._place(row)[0]].name, first, stop)
        return Payloads.in_buffer(np.frombuffer(data, np.uint8), starts - first, lengths)

    # Decoding

    def read_images(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> list[DecodeError]:
        """Decode these rows of an encoding without blocks into ``out``, uint8 (n, H, W, 3).

        Returns:
            An error for each damaged payload, in the order of ``rows``: it names shard and sample,
            ``position`` is the place in ``rows``. What ``out`` holds there means nothing.
        """
        payloads = self.payloads(rows)
        self._count(payloads.lengths)
        crc_problems = self._check(rows, payloads)
        problems = self.encoding.decode(payloads, out) | crc_problems
        return [
            DecodeError(position, f"{problem}; {_HINT}", self.locate(int(rows[position])))
            for position, problem in sorted(problems.items())
        ]

    def read_block(self, block: int, out: NDArray[np.uint8]) -> list[DecodeError]:
        """Decode a block of any encoding into ``out``, uint8 (its rows, H, W, 3).

        Returns:
            As ``read_images``; ``position`` is the place in the block. Where it cannot be said
            which sample is damaged, each of the block is.
        """
        start, stop = self.block_starts[block : block + 2].tolist()
        if not self.encoding.has_blocks:
            return self.read_images(np.arange(start, stop), out)
        numbers = np.array([block])
        payloads = self.payloads(numbers)
        self._count(payloads.lengths)
        shard, first = self._place(start)
        damage = decode_block(
            self.encoding,
            payloads.memory(0),
            out,
            crc_problem=self._check(numbers, payloads).get(0, ""),
            pixel_hash=self._indexes[shard].pixel_hash[first : first + len(out)],
        )
        return [
            DecodeError(
                row,
                f"{problem}; {_HINT}",
                self._locate_block(block) if damage.block else self.locate(start + row),
            )
            for row, problem in damage.rows.items()
        ]

    def _count(self, lengths: NDArray[np.int64]) -> None:
        with self._counting:
            self.bytes_read += int(lengths.sum())

    def _check(self, numbers: NDArray[np.int64], payloads: Payloads) -> dict[int, str]:
        """What is wrong with the CRC-32 of payloads that are to be checked, by position."""
        positions = np.flatnonzero(~self._is_checked[numbers])
        if len(positions) == 0:
            return {}
        problems = crc_problems(payloads.take(positions), self._crc32[numbers[positions]])
        is_right = np.ones(len(positions), np.bool_)
        is_right[list(problems)] = False
        self._is_checked[numbers[positions[is_right]]] = True
        return {int(positions[number]): problem for number, problem in problems.items()}

    # Pixels that lie in the shards as they are

    @cached_property
    def _row_addresses(self) -> NDArray[np.int64]:
        """Where each row's pixels begin in this process's memory."""
        block_rows = np.diff(self.block_starts)
        in_block = np.arange(len(self)) - np.repeat(self.block_starts[:-1], block_rows)
        starts = np.repeat(self._addresses + self.encoding.pixels_offset, block_rows)
        return starts + in_block * self._image_bytes

    @cached_property
    def _image_bytes(self) -> int:
        return int(np.prod(self.image_shape))

    def mapped_images(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[DecodeError]]:
        """Where the images of these rows lie, if ``maps_rows``: nothing is copied.

        Returns:
            An address for each, and an error for each damaged one, as ``read_images``.
        """
        errors: list[DecodeError] = []
        with self._counting:
            self.bytes_read += len(rows) * self._image_bytes
        if not self._is_checked.all():
            # np.unique would import all of numpy.ma: a tenth of a second before the first batch.
            self._check_blocks(np.array(sorted(set(self.blocks_of(rows).tolist()))))
        if self._bad_rows:
            for position, row in enumerate(rows.tolist()):
                if row in self._bad_rows:
                    reason, place = self._bad_rows[row]
                    errors.append(DecodeError(position, reason, place))
        return self._row_addresses[rows], errors

    def _check_blocks(self, blocks: NDArray[np.int64]) -> None:
        """Note the damaged rows of blocks that are to be checked."""
        for position in self._check(blocks, self.payloads(blocks)):
            block = int(blocks[position])
            start, stop = self.block_starts[block : block + 2].tolist()
            images = np.empty((stop - start, *self.image_shape), np.uint8)
            for error in self.read_block(block, images):
                self._bad_rows[start + error.position] = (error.reason, error.location)
            self._is_checked[block] = True


_HINT = "the file is damaged, fetch it again"
