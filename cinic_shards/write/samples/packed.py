"""Samples of a packed dataset, from one shard or from several, in any order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
from cinic_shards.read.open import check_keys, open_shard
from cinic_shards.store import Store
from cinic_shards.write.samples.base import Samples, ShardInput

_HINT = "fetch the file again"
_HELD_BYTES = 2**26
"""Bytes of pixels that are decoded from blocks at once, each block only once."""
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
    copies_blocks: bool
    """Copy blocks whose samples stay together, instead of re-encoding them."""

    def open(self) -> "PackedSamples":
        shards = [
            _open_checked(self.store, split, info, self.classes, self.image_shape)
            for split, info in self.shards
        ]
        return PackedSamples(
            self.split, shards, self.shard, self.row, copies_blocks=self.copies_blocks
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
    """Samples of open shards with the same encoding; each sample is checked against its index.

    Args:
        split: name of the samples' new split.
        shards: the shards that hold the samples.
        shard: the position in ``shards`` of each sample's shard, shape (N,).
        row: the row in that shard of each sample, shape (N,).
        copies_blocks: see ``PackedInput``.
    """

    def __init__(
        self,
        split: str,
        shards: Sequence[OpenShard],
        shard: NDArray[np.int64],
        row: NDArray[np.int64],
        *,
        copies_blocks: bool = False,
    ) -> None:
        self._shards = shards
        self._shard = shard
        self._row = row
        self._copies_blocks = copies_blocks
        self._encoding = ENCODINGS[shards[0].index.encoding]
        self._picked = list(zip([shards[i] for i in shard.tolist()], row.tolist(), strict=True))
        self._keys = [f"{split}/{s.index.keys[r].partition('/')[2]}" for s, r in self._picked]
        self._labels = self._column("label")
        self._held = (0, 0)
        """The range of rows whose images are in ``_images``."""
        self._images = np.empty(0, np.uint8)
        self._problems: dict[int, str] = {}
        """Problems with these images, by row."""
        self._pngs: dict[tuple[int, int], list[bytes]] = {}
        """The PNGs of the last range, if they are made from blocks."""

    def _column(self, name: str) -> NDArray[Any]:
        """Return an index column's values for these samples."""
        columns = [getattr(shard.index, name) for shard in self._shards]
        out = np.empty((len(self._row), *columns[0].shape[1:]), columns[0].dtype)
        for number, column in enumerate(columns):
            in_shard = self._shard == number
            out[in_shard] = column[self._row[in_shard]]
        return out

    @property
    def keys(self) -> list[str]:
        return self._keys

    @property
    def labels(self) -> NDArray[np.int32]:
        return self._labels

    def location(self, row: int) -> str:
        shard, shard_row = self._picked[row]
        return f"{shard.info.name}: sample {shard_row} ({shard.index.keys[shard_row]})"

    @cached_property
    def _pixel_hash(self) -> NDArray[np.uint8]:
        return self._column("pixel_hash")

    def pixel_problems(self, hashes: NDArray[np.uint8]) -> dict[int, str]:
        return _with_hint(hash_problems(hashes, self._pixel_hash))

    def chunks(self) -> Iterator[tuple[int, int]]:
        if not self._encoding.has_blocks:
            yield from chunks(self._lengths)
            return
        for start in range(0, len(self._keys), _CHUNK_SAMPLES):
            yield start, min(start + _CHUNK_SAMPLES, len(self._keys))

    # As PNGs

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        return self._column("length").astype(np.int64)

    @cached_property
    def _crc32(self) -> NDArray[np.uint32]:
        return self._column("crc32")

    def png_sizes(self, start: int, stop: int) -> NDArray[np.int64]:
        if not self._encoding.has_blocks:
            return self._lengths[start:stop]
        images, problems = self._decoded(start, stop)
        self._pngs = {
            (start, stop): [
                b"" if row in problems else encode_png(image) for row, image in enumerate(images)
            ]
        }
        return np.array([len(png) for png in self._pngs[start, stop]], np.int64)

    def read_pngs(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        if self._encoding.has_blocks:
            view = buffer.data
            for png, at in zip(self._pngs[start, stop], starts.tolist(), strict=True):
                view[at : at + len(png)] = png
            return self._decoded(start, stop)[1]
        for (shard, row), at in zip(self._picked[start:stop], starts.tolist(), strict=True):
            payload = shard.payload(row)
            buffer[at : at + len(payload)] = payload
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
        if not self._held[0] <= start <= stop <= self._held[1]:
            self._hold(start, stop)
        first = self._held[0]
        problems = {
            row - start: problem for row, problem in self._problems.items() if start <= row < stop
        }
        return self._images[start - first : stop - first], problems

    def _hold(self, start: int, stop: int) -> None:
        """Decode the images from row ``start`` on, up to ``_HELD_BYTES``, at least to ``stop``."""
        shape = self._shards[0].index.image_shape
        assert shape is not None
        stop = max(stop, min(len(self._keys), start + _HELD_BYTES // int(np.prod(shape))))
        self._images = np.empty((stop - start, *shape), np.uint8)
        self._problems = {}
        self._held = start, stop
        for number, shard in enumerate(self._shards):
            positions = np.flatnonzero(self._shard[start:stop] == number)
            rows = self._row[start:stop][positions]
            order = np.argsort(rows)
            blocks = rows[order] // shard.index.block_size
            for piece in np.split(order, np.flatnonzero(np.diff(blocks)) + 1):
                if len(piece):
                    problems = self._take(shard, rows[piece], positions[piece])
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
        shard, row = self._picked[start]
        index = shard.index
        block = row // index.block_size
        if (
            not self._copies_blocks
            or encoding.name != index.encoding
            or (self._shard[start:stop] != self._shard[start]).any()
            or not np.array_equal(self._row[start:stop], np.arange(*index.block_starts[block:][:2]))
        ):
            return None
        payload = shard.payload(block)
        return None if checksum(payload) != index.crc32[block] else payload.tobytes()


def _with_hint(problems: dict[int, str]) -> dict[int, str]:
    return {row: f"{problem}; {_HINT}" for row, problem in problems.items()}
