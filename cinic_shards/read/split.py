"""Read the samples of one split or of several: columns, and pixels by row or by block."""

from collections import Counter
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from threading import get_ident
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec import ENCODINGS, Payloads, crc_problems, decode_block, kernels
from cinic_shards.errors import DecodeError, FormatError
from cinic_shards.format import Index, Manifest, PixelSums, SplitInfo
from cinic_shards.options import one_of
from cinic_shards.read.columns import Columns, sample_ids
from cinic_shards.read.open import check_keys, open_shard, read_indexes
from cinic_shards.store import Store, num_maps_left

Check = Literal["first", "always", "off"]

T = TypeVar("T")

_READ_AHEAD_BYTES = 2**32
"""Largest split, in bytes, that is read ahead entirely: it is likely to stay in memory."""


class shared_property(cached_property[T]):  # noqa: N801 - as cached_property
    """A cached property that is computed once for all readers of the same open files."""

    def __get__(self, reader: Any, owner: type | None = None) -> Any:
        if reader is not None and reader._opened is not None:
            reader = reader._opened
        return super().__get__(reader, owner)


class SplitReader:
    """The N samples of one split or of several, in packing order; a row is a position among them.

    Shards in a folder are memory-mapped: bytes are read when a kernel touches them. From other
    stores, blocks are fetched one at a time, with one request each; so are the blocks of a folder
    with more shards than a process may map.

    Args:
        store: the dataset's store.
        manifest: the dataset's manifest.
        splits: the splits' entries in the manifest, in its order.
        check: when to compare a payload's CRC-32 with the index: on its ``first`` read, once per
            epoch (``always``), or never (``off``).

    Raises:
        OptionError: ``check`` is invalid.
        StoreError: a shard is missing or has the wrong size.
        FormatError: a shard's index is damaged or does not match the manifest.

    Example:
        >>> reader = Dataset("shards").split("train")
        >>> len(reader), reader.image_shape, reader.key(0)
        (90, (32, 32, 3), 'train/automobile/n04285008_260')
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
        self.manifest = manifest
        """The dataset's manifest."""
        self.name = "+".join(split.name for split in splits)
        self.location = str(store)
        self.encoding = ENCODINGS[manifest.encoding]
        self._store = store
        self.shards = [shard for split in splits for shard in split.shards]
        self.pixels = sum((split.pixels for split in splits), PixelSums(0, (0, 0, 0), (0, 0, 0)))
        """Pixel sums of all samples, for mean and standard deviation."""
        self.image_sizes: Counter[tuple[int, int]] = Counter()
        """(height, width) -> number of images, from the manifest."""
        for split in splits:
            self.image_sizes.update(split.image_sizes)
        self._splits = splits
        self.is_mapped = store.is_local and len(self.shards) <= num_maps_left()
        """True if the shards are memory-mapped."""
        self._maps: list[NDArray[np.uint8]] = []
        """The shards' bytes; empty if they are not mapped."""
        self._indexes: list[Index] = []
        self._open_shards(len(manifest.classes))
        names = [split.name for split in splits for _ in split.shards]
        for shard, name, index in zip(self.shards, names, self._indexes, strict=True):
            self._check_index(f"{store}/{shard.name}", manifest, index)
            check_keys(f"{store}/{shard.name}", index, name, manifest.classes)
        self.labels: NDArray[np.int64] = np.concatenate(
            [index.label for index in self._indexes], dtype=np.int64
        )
        """Class of each row, shape (N,)."""
        self._ids = sample_ids(splits)
        self._shard_starts = np.cumsum([0, *(len(index) for index in self._indexes)])
        self._lengths = np.concatenate([index.length.astype(np.int64) for index in self._indexes])
        bases = [memory.ctypes.data for memory in self._maps] or [0] * len(self.shards)
        self._addresses = np.concatenate([
            base + index.offset.astype(np.int64)
            for base, index in zip(bases, self._indexes, strict=True)
        ])  # fmt: skip
        """Address of each payload in memory; if shards are not mapped, its offset in its shard."""
        self._crc32 = np.concatenate([index.crc32 for index in self._indexes])
        self._checks_always = check == "always"
        # By payload. Several threads write it without a lock: at worst a payload is checked twice.
        self._is_checked = np.full(len(self._crc32), check == "off")
        self._opened: SplitReader | None = None
        """The reader that this one shares everything with: it opened the files."""
        self._bad_rows: dict[int, tuple[str, str]] = {}
        """Damaged row -> (problem, location); only used if rows are mapped."""
        self._bytes_of: dict[int, int] = {}
        """Thread -> bytes of payloads that it has read. No lock: a process forked while another
        thread holds a lock would wait for it forever."""

    @shared_property
    def block_starts(self) -> NDArray[np.int64]:
        """First row of each of B blocks, then N: shape (B + 1,)."""
        starts = [
            start + index.block_starts[:-1]
            for start, index in zip(self._shard_starts, self._indexes, strict=False)
        ]
        return np.concatenate([*starts, [len(self)]])

    @property
    def maps_rows(self) -> bool:
        """True if the mapped shards hold each row's plain pixels: see ``mapped_images``."""
        return self.encoding.pixels_offset is not None and self.is_mapped

    @property
    def reads_rows(self) -> bool:
        """True if a row can be read alone; otherwise its entire block is read."""
        return self.maps_rows or (self.is_mapped and not self.encoding.has_blocks)

    def _open_shards(self, num_classes: int) -> None:
        if self.is_mapped:
            read_ahead = sum(shard.size for shard in self.shards) <= _READ_AHEAD_BYTES
            for shard in self.shards:
                opened = open_shard(self._store, shard, num_classes, read_ahead=read_ahead)
                self._maps.append(opened[0])
                self._indexes.append(opened[1])
            return
        self._indexes += read_indexes(self._store, self.shards, num_classes)

    def _check_index(self, location: str, manifest: Manifest, index: Index) -> None:
        """Raise FormatError if an index contradicts the manifest."""
        found = index.encoding, index.block_size
        stated = manifest.encoding, manifest.block_size
        if found != stated:
            raise FormatError(
                location,
                f"encoding and block size are {found}, the manifest says {stated}; fetch "
                "the file again",
            )
        if self.encoding.has_blocks and index.image_shape != self.image_shape:
            raise FormatError(
                location,
                f"image shape is {index.image_shape}, the manifest says {self.image_shape}; "
                "fetch the file again",
            )

    @property
    def bytes_read(self) -> int:
        """Bytes of payloads read since this reader was created."""
        return sum(list(self._bytes_of.values()))

    def start_epoch(self) -> None:
        """Start an epoch: with ``check="always"``, every payload is checked again."""
        if self._checks_always:
            self._is_checked[:] = False

    def __len__(self) -> int:
        return len(self.labels)

    def share(self) -> "SplitReader":
        """Return a reader of the same open files, with a byte count of its own."""
        shared = copy(self)
        shared._bytes_of = {}
        shared._opened = self if self._opened is None else self._opened
        return shared

    @property
    def num_blocks(self) -> int:
        """Number of blocks, B."""
        return len(self.block_starts) - 1

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of every image.

        Raises:
            FormatError: the reader's images have several sizes.
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
        """Return the ids of these rows in the dataset, int64 (n,)."""
        return self._ids[rows]

    @shared_property
    def columns(self) -> Columns:
        """The columns of all rows, in their order."""
        return Columns.of(self._splits, self._indexes)

    @property
    def keys(self) -> list[str]:
        """The keys of all rows, ``split/class/stem``."""
        return [key for index in self._indexes for key in index.keys]

    def key(self, row: int) -> str:
        """Return a row's key, ``split/class/stem``."""
        shard, sample = self._find(row)
        return self._indexes[shard].keys[sample]

    def locate(self, row: int) -> str:
        """Return a row's location for a message: shard, sample in the shard, key."""
        shard, sample = self._find(row)
        return f"{self.shards[shard].name}: sample {sample} ({self.key(row)})"

    def _find(self, row: int) -> tuple[int, int]:
        """Return the number of the shard that holds a row, and the sample's row in the shard."""
        shard = int(np.searchsorted(self._shard_starts, row, side="right")) - 1
        return shard, row - int(self._shard_starts[shard])

    def blocks_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of the block that holds each row, int64 (n,)."""
        out = np.empty(len(rows), np.int64)
        kernels.blocks_of_rows(rows, self.block_starts, out)
        return out

    def payloads(self, numbers: NDArray[np.int64]) -> Payloads:
        """Return payloads by number: the block's or, in an encoding without blocks, the row's.

        If the shards are not mapped, the payloads must be of one block; one request fetches them.

        Raises:
            StoreError: they cannot be fetched.
        """
        if not self.is_mapped:
            return self._fetch(numbers)
        return Payloads(self._addresses[numbers], self._lengths[numbers], self._maps)

    def _fetch(self, numbers: NDArray[np.int64]) -> Payloads:
        """Fetch payloads of one block with one request."""
        row = int(self.block_starts[numbers[0]] if self.encoding.has_blocks else numbers[0])
        starts, lengths = self._addresses[numbers], self._lengths[numbers]
        first, stop = int(starts.min()), int((starts + lengths).max())
        data = self._store.read_range(self.shards[self._find(row)[0]].name, first, stop)
        return Payloads.in_buffer(np.frombuffer(data, np.uint8), starts - first, lengths)

    # Decoding

    def read_images(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> list[DecodeError]:
        """Decode these rows into ``out``, uint8 (n, H, W, 3); the encoding must have no blocks.

        Returns:
            An error for each damaged payload, in the order of ``rows``. It names shard and sample;
            ``position`` is the position in ``rows``, where the content of ``out`` is undefined.

        Raises:
            StoreError: the payloads cannot be fetched.
        """
        payloads = self.payloads(rows)
        self._count(int(payloads.lengths.sum()))
        crc_problems = self._check(rows, payloads)
        problems = self.encoding.decode(payloads, out) | crc_problems
        return [
            DecodeError(position, f"{problem}; {_HINT}", self.locate(int(rows[position])))
            for position, problem in sorted(problems.items())
        ]

    def read_block(self, block: int, out: NDArray[np.uint8]) -> list[DecodeError]:
        """Decode a block of any encoding into ``out``, uint8 (its rows, H, W, 3).

        Returns:
            Errors as from ``read_images``; ``position`` is the position in the block. If the damage
            cannot be attributed to single samples, every row of the block has an error.

        Raises:
            StoreError: the block cannot be fetched.
        """
        start, stop = self.block_starts[block : block + 2].tolist()
        if not self.encoding.has_blocks:
            return self.read_images(np.arange(start, stop), out)
        numbers = np.array([block])
        payloads = self.payloads(numbers)
        self._count(int(payloads.lengths.sum()))
        shard, first = self._find(start)
        damage = decode_block(
            self.encoding,
            payloads.memory(0),
            out,
            crc_problem=self._check(numbers, payloads).get(0, ""),
            pixel_hash=self._indexes[shard].pixel_hash[first : first + len(out)],
        )
        index = self._indexes[shard]
        problems = damage.problems(index.describe_block(first // index.block_size))
        return [
            DecodeError(row, f"{problem}; {_HINT}", self.locate(start + row))
            for row, problem in problems.items()
        ]

    def _count(self, num_bytes: int) -> None:
        thread = get_ident()
        self._bytes_of[thread] = self._bytes_of.get(thread, 0) + num_bytes

    def _check(self, numbers: NDArray[np.int64], payloads: Payloads) -> dict[int, str]:
        """Compare the CRC-32 of payloads that are due for a check; return problems by position."""
        positions = np.flatnonzero(~self._is_checked[numbers])
        if len(positions) == 0:
            return {}
        problems = crc_problems(payloads.take(positions), self._crc32[numbers[positions]])
        is_right = np.ones(len(positions), np.bool_)
        is_right[list(problems)] = False
        self._is_checked[numbers[positions[is_right]]] = True
        return {int(positions[number]): problem for number, problem in problems.items()}

    # Pixels that are mapped, not copied

    @shared_property
    def _row_addresses(self) -> NDArray[np.int64]:
        """Address of each row's pixels in this process's memory, shape (N,)."""
        block_rows = np.diff(self.block_starts)
        in_block = np.arange(len(self)) - np.repeat(self.block_starts[:-1], block_rows)
        starts = np.repeat(self._addresses + self.encoding.pixels_offset, block_rows)
        addresses: NDArray[np.int64] = starts + in_block * self._image_bytes
        return addresses

    @cached_property
    def _image_bytes(self) -> int:
        return int(np.prod(self.image_shape))

    def mapped_images(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[DecodeError]]:
        """Return the addresses of these rows' images, without a copy; needs ``maps_rows``.

        Returns:
            An address for each row, int64 (n,), and an error for each damaged image, as from
            ``read_images``.
        """
        errors: list[DecodeError] = []
        self._count(len(rows) * self._image_bytes)
        if not self._is_checked.all():
            # np.unique would import numpy.ma: 0.1 seconds before the first batch.
            self._check_blocks(np.array(sorted(set(self.blocks_of(rows).tolist()))))
        if self._bad_rows:
            for position, row in enumerate(rows.tolist()):
                if row in self._bad_rows:
                    reason, location = self._bad_rows[row]
                    errors.append(DecodeError(position, reason, location))
        return self._row_addresses[rows], errors

    def _check_blocks(self, blocks: NDArray[np.int64]) -> None:
        """Check blocks that are due for a check, and record their damaged rows."""
        for position in self._check(blocks, self.payloads(blocks)):
            block = int(blocks[position])
            start, stop = self.block_starts[block : block + 2].tolist()
            images = np.empty((stop - start, *self.image_shape), np.uint8)
            for error in self.read_block(block, images):
                self._bad_rows[start + error.position] = (error.reason, error.location)
            self._is_checked[block] = True


_HINT = "the file is damaged, fetch it again"
