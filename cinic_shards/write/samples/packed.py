"""Samples of a packed dataset, from one shard or from several, in any order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec import (
    ENCODINGS,
    Encoding,
    Payloads,
    checksum,
    crc_problems,
    decode_block,
    encode_png,
    hash_problems,
)
from cinic_shards.codec.meter import ImageMeter, chunks
from cinic_shards.errors import FormatError
from cinic_shards.format import Index, ShardInfo
from cinic_shards.jobs.stop import check_stop
from cinic_shards.read.open import check_keys, open_shard
from cinic_shards.store import Store
from cinic_shards.write.samples.base import Samples, ShardInput

_HINT = "fetch the file again"
_HELD_BYTES = 2**26
"""Bytes of PNGs, or of pixels decoded from blocks, that are read from all shards at once."""
_OPEN_SAMPLES = 2**18
"""Samples in the shards that stay open. A new shard may take its samples from all old ones, and
their indexes have about 200 bytes a sample."""
_OPEN_BYTES = 2**32
"""Bytes of the shards that stay open: if they are fetched, they take this space on the disk."""
_MAX_OPEN = 1024
_CHUNK_SAMPLES = 256


@dataclass(frozen=True, slots=True)
class PackedInput(ShardInput):
    """N samples of a dataset as the input of a shard, whose split may have a different name."""

    store: Store
    """The dataset's store."""
    classes: tuple[str, ...]
    """The dataset's class names, in the order of their labels."""
    image_shape: tuple[int, int, int] | None
    """(H, W, 3) of all its images; None if they may differ."""
    split: str
    """The new split's name."""
    shards: tuple[tuple[str, ShardInfo], ...]
    """The shards that hold the samples, each after the name of its split."""
    shard: NDArray[np.int64]
    """The position in ``shards`` of each sample's shard, shape (N,)."""
    row: NDArray[np.int64]
    """The row in that shard of each sample, shape (N,)."""
    num_classes: int
    """Number of different classes of the samples."""
    copies_blocks: bool
    """Copy blocks whose samples stay together, instead of re-encoding them."""

    def count_classes(self) -> int:
        return self.num_classes

    def open(self) -> "PackedSamples":
        num_open = min(
            _OPEN_SAMPLES // max(info.num_samples or 1 for _, info in self.shards),
            _OPEN_BYTES // max(info.size or 1 for _, info in self.shards),
            _MAX_OPEN,
        )

        @lru_cache(max(1, num_open))
        def open_shard(number: int) -> OpenShard:
            split, info = self.shards[number]
            return _open_checked(self.store, split, info, self.classes, self.image_shape)

        return PackedSamples(
            self.split, open_shard, self.shard, self.row, copies_blocks=self.copies_blocks
        )


@dataclass(frozen=True, slots=True)
class OpenShard:
    """A shard in memory."""

    info: ShardInfo
    memory: NDArray[np.uint8]
    """The shard's bytes, shape (size,)."""
    index: Index

    def payload(self, number: int) -> NDArray[np.uint8]:
        """Return the bytes of one payload, uint8 (n,), without a copy."""
        start = int(self.index.offset[number])
        return self.memory[start : start + int(self.index.length[number])]


def _open_checked(
    store: Store,
    split: str,
    info: ShardInfo,
    classes: tuple[str, ...],
    image_shape: tuple[int, int, int] | None,
) -> OpenShard:
    """Open a shard, and check that its keys, labels and image shape fit its dataset."""
    check_stop()
    memory, index = open_shard(store, info, len(classes))
    if not len(index):
        raise FormatError(info.name, "it holds no samples, expected at least one")
    if image_shape is not None and index.image_shape != image_shape:
        raise FormatError(
            info.name,
            f"its index says that the image shape is {index.image_shape}, the manifest says "
            f"{image_shape}; fetch the files again",
        )
    for row, key in enumerate(index.keys):
        if problem := fmt.key_problem(key, split):
            raise FormatError(info.name, f"sample {row} ({key!r}): {problem}")
    check_keys(info.name, index, split, classes)
    return OpenShard(info, memory, index)


class PackedSamples(Samples):
    """Samples of shards with the same encoding; each sample is checked against its index.

    Args:
        split: name of the samples' new split.
        shards: opens a shard by its number, or returns it if it is still open.
        shard: the number of each sample's shard, shape (N,).
        row: the row in that shard of each sample, shape (N,).
        copies_blocks: see ``PackedInput``.
    """

    def __init__(
        self,
        split: str,
        shards: Callable[[int], OpenShard],
        shard: NDArray[np.int64],
        row: NDArray[np.int64],
        *,
        copies_blocks: bool = False,
    ) -> None:
        self._shards = shards
        self._shard = shard
        self._row = row
        self._copies_blocks = copies_blocks
        self._encoding = ENCODINGS[shards(int(shard[0]) if len(shard) else 0).index.encoding]
        self._read_columns(split)
        self._held = (0, 0)
        """The range of rows whose images or PNGs are in memory."""
        self._images = np.empty(0, np.uint8)
        """The held images, if they are in blocks."""
        self._held_pngs: list[bytes] = []
        """The held PNGs, if they are not."""
        self._problems: dict[int, str] = {}
        """Problems with the held images, by row."""
        self._pngs: dict[tuple[int, int], list[bytes]] = {}
        """The PNGs of the last range, if they are made from blocks."""

    def _read_columns(self, split: str) -> None:
        """Copy what is needed of the indexes: they are larger, and some shards will be closed."""
        num_samples = len(self._row)
        self._keys = [""] * num_samples
        self._labels = np.empty(num_samples, np.int32)
        self._pixel_hash = np.empty((num_samples, fmt.PIXEL_HASH_BYTES), np.uint8)
        self._lengths = np.empty(num_samples, np.int64)
        """Size of each PNG in bytes, if it is a payload."""
        self._crc32 = np.empty(num_samples, np.uint32)
        """CRC-32 of each PNG, if it is a payload."""
        for number, positions in self._by_shard(0, num_samples):
            index, rows = self._shards(number).index, self._row[positions]
            for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
                self._keys[position] = f"{split}/{index.keys[row].partition('/')[2]}"
            self._labels[positions] = index.label[rows]
            self._pixel_hash[positions] = index.pixel_hash[rows]
            if not self._encoding.has_blocks:
                self._lengths[positions] = index.length[rows]
                self._crc32[positions] = index.crc32[rows]

    def _by_shard(self, start: int, stop: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the number of each shard, and the positions of its samples in [start, stop)."""
        order = start + np.argsort(self._shard[start:stop], kind="stable")
        numbers = self._shard[order]
        for positions in np.split(order, np.flatnonzero(np.diff(numbers)) + 1):
            if len(positions):
                yield int(self._shard[positions[0]]), positions

    @property
    def keys(self) -> list[str]:
        return self._keys

    @property
    def labels(self) -> NDArray[np.int32]:
        return self._labels

    def location(self, row: int) -> str:
        shard, shard_row = self._shards(int(self._shard[row])), int(self._row[row])
        return f"{shard.info.name}: sample {shard_row} ({shard.index.keys[shard_row]})"

    def pixel_problems(self, hashes: NDArray[np.uint8]) -> dict[int, str]:
        return _with_hint(hash_problems(hashes, self._pixel_hash))

    def chunks(self) -> Iterator[tuple[int, int]]:
        if not self._encoding.has_blocks:
            yield from chunks(self._lengths)
            return
        for start in range(0, len(self._keys), _CHUNK_SAMPLES):
            yield start, min(start + _CHUNK_SAMPLES, len(self._keys))

    # As PNGs

    def png_sizes(self, start: int, stop: int) -> NDArray[np.int64]:
        if not self._encoding.has_blocks:
            return self._lengths[start:stop]
        images, problems = self._decoded(start, stop)
        pngs = []
        for row, image in enumerate(images):
            check_stop()
            pngs.append(b"" if row in problems else encode_png(image))
        self._pngs = {(start, stop): pngs}
        return np.array([len(png) for png in pngs], np.int64)

    def read_pngs(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        if self._encoding.has_blocks:
            pngs = self._pngs[start, stop]
        else:
            self._need(start, stop)
            pngs = self._held_pngs[start - self._held[0] : stop - self._held[0]]
        view = buffer.data
        for png, at in zip(pngs, starts.tolist(), strict=True):
            view[at : at + len(png)] = png
        if self._encoding.has_blocks:
            return self._decoded(start, stop)[1]
        payloads = Payloads.in_buffer(buffer, starts, self._lengths[start:stop])
        return _with_hint(crc_problems(payloads, self._crc32[start:stop]))

    def png_files(self, start: int, stop: int) -> tuple[list[bytes], dict[int, str]]:
        """Return the PNGs of a range, pixels checked, and problems by position in the range."""
        sizes = self.png_sizes(start, stop)
        starts = np.cumsum(sizes) - sizes
        buffer = np.zeros(int(sizes.sum()), np.uint8)
        problems = self.read_pngs(start, stop, buffer, starts)
        if self._encoding.has_blocks:
            hashes = fmt.pixel_hashes(self._decoded(start, stop)[0])
            wrong = hash_problems(hashes, self._pixel_hash[start:stop])
            problems = _with_hint(wrong) | problems
        view = buffer.data
        ranges = zip(starts.tolist(), sizes.tolist(), strict=True)
        return [bytes(view[at : at + size]) for at, size in ranges], problems

    # As pixels, from blocks

    def read_images(
        self, start: int, stop: int, out: NDArray[np.uint8], meter: ImageMeter
    ) -> tuple[NDArray[np.uint8], dict[int, str]]:
        if not self._encoding.has_blocks:
            return super().read_images(start, stop, out, meter)
        images, problems = self._decoded(start, stop)
        hashes = meter.add_images(images)
        if images.shape == out.shape:
            out[:] = images
        return hashes, problems

    def _decoded(self, start: int, stop: int) -> tuple[NDArray[np.uint8], dict[int, str]]:
        """Return the images of a range, and problems with their blocks by position in it."""
        self._need(start, stop)
        first = self._held[0]
        problems = {
            row - start: problem for row, problem in self._problems.items() if start <= row < stop
        }
        return self._images[start - first : stop - first], problems

    # Both are read from one shard after the other, many samples at a time.

    def _need(self, start: int, stop: int) -> None:
        """Hold a range, and as much after it as fits into ``_HELD_BYTES``."""
        if self._held[0] <= start <= stop <= self._held[1]:
            return
        if self._encoding.has_blocks:
            self._hold_images(start, stop)
        else:
            ends = np.cumsum(self._lengths[start:])
            fitting = start + int(np.searchsorted(ends, _HELD_BYTES, side="right"))
            self._hold_pngs(start, max(stop, fitting))

    def _hold_pngs(self, start: int, stop: int) -> None:
        self._held = start, stop
        self._held_pngs = [b""] * (stop - start)
        for number, positions in self._by_shard(start, stop):
            shard, rows = self._shards(number), self._row[positions]
            for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
                self._held_pngs[position - start] = shard.payload(row).tobytes()

    def _hold_images(self, start: int, stop: int) -> None:
        shape = self._shards(int(self._shard[start])).index.image_shape
        assert shape is not None
        stop = max(stop, min(len(self._keys), start + _HELD_BYTES // int(np.prod(shape))))
        self._images = np.empty((stop - start, *shape), np.uint8)
        self._problems = {}
        self._held = start, stop
        for number, positions in self._by_shard(start, stop):
            shard = self._shards(number)
            order = positions[np.argsort(self._row[positions])]
            blocks = self._row[order] // shard.index.block_size
            for piece in np.split(order, np.flatnonzero(np.diff(blocks)) + 1):
                check_stop()
                problems = self._take(shard, self._row[piece], piece - start)
                self._problems |= {start + at: text for at, text in problems.items()}

    def _take(
        self, shard: OpenShard, rows: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> dict[int, str]:
        """Decode rows of one block to their positions; return problems by position."""
        index = shard.index
        block = int(rows[0]) // index.block_size
        first, end = index.block_starts[block : block + 2].tolist()
        images = np.empty((end - first, *self._images.shape[1:]), np.uint8)
        payload = Payloads.one(shard.payload(block))
        damage = decode_block(
            self._encoding,
            payload.memory(0),
            images,
            crc_problem=crc_problems(payload, index.crc32[block : block + 1]).get(0, ""),
            pixel_hash=index.pixel_hash[first:end],
        )
        self._images[positions] = images[rows - first]
        problems = _with_hint(damage.problems(index.describe_block(block)))
        wanted = zip(positions.tolist(), (rows - first).tolist(), strict=True)
        return {at: problems[row] for at, row in wanted if row in problems}

    def block_payload(self, start: int, stop: int, encoding: Encoding) -> bytes | None:
        if (
            not self._copies_blocks
            or encoding.name != self._encoding.name
            or (self._shard[start:stop] != self._shard[start]).any()
        ):
            return None
        shard = self._shards(int(self._shard[start]))
        index = shard.index
        block = int(self._row[start]) // index.block_size
        whole_block = np.arange(*index.block_starts[block:][:2])
        if not np.array_equal(self._row[start:stop], whole_block):
            return None
        payload = shard.payload(block)
        return None if checksum(payload) != index.crc32[block] else payload.tobytes()


def _with_hint(problems: dict[int, str]) -> dict[int, str]:
    return {row: f"{problem}; {_HINT}" for row, problem in problems.items()}
