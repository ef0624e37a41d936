"""What a shard is made from: samples picked from several shards of another dataset."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards import codec
from cinic_shards.codec.meter import ImageMeter, chunks
from cinic_shards.write.samples.base import ShardSource
from cinic_shards.write.samples.packed import OTHER_CRC, OTHER_PIXELS, PackedBlocks, PackedSource

_HELD_BYTES = 2**26
"""Of pixels that are picked from blocks at once: each block is decoded once for them."""


class PickedSource(ShardSource):
    """Samples picked from shards of one dataset, in a split that may have another name."""

    def __init__(
        self,
        split: str,
        sources: Sequence[PackedSource],
        shard: NDArray[np.int64],
        row: NDArray[np.int64],
    ) -> None:
        self._sources = sources
        self._shard = shard
        self._row = row
        self._picked: list[tuple[PackedSource, int]] = list(
            zip([sources[i] for i in shard.tolist()], row.tolist(), strict=True)
        )
        self._keys = [f"{split}/{s.keys[row].partition('/')[2]}" for s, row in self._picked]
        self._labels = self._column("label")
        self._held = (0, 0)
        """The range whose images are at hand."""
        self._images = np.empty(0, np.uint8)
        self._problems: dict[int, str] = {}
        """Of that range, by row of all."""

    def _column(self, name: str) -> NDArray[Any]:
        """A column of the indexes, of the picked samples."""
        columns = [getattr(source.index, name) for source in self._sources]
        out = np.empty((len(self._row), *columns[0].shape[1:]), columns[0].dtype)
        for number, column in enumerate(columns):
            here = self._shard == number
            out[here] = column[self._row[here]]
        return out

    @property
    def keys(self) -> list[str]:
        return self._keys

    @property
    def labels(self) -> NDArray[np.int32]:
        return self._labels

    def place(self, row: int) -> str:
        source, source_row = self._picked[row]
        return source.place(source_row)

    def other_pixels(self, hashes: NDArray[np.uint8]) -> dict[int, str]:
        bad = (hashes != self._column("pixel_hash")).any(axis=1)
        return dict.fromkeys(np.flatnonzero(bad).tolist(), OTHER_PIXELS)

    # PNGs

    @cached_property
    def _is_png(self) -> bool:
        return self._sources[0].index.encoding == "png"

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        return self._column("length").astype(np.int64)

    def chunks(self) -> Iterator[tuple[int, int]]:
        if self._is_png:
            yield from chunks(self._lengths)
            return
        for start in range(0, len(self._keys), 256):
            yield start, min(start + 256, len(self._keys))

    def png_sizes(self, start: int, stop: int) -> NDArray[np.int64]:
        return self._lengths[start:stop]

    def read_pngs(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        for (source, row), at in zip(self._picked[start:stop], starts.tolist(), strict=True):
            payload = source.payload(row)
            buffer[at : at + len(payload)] = payload
        payloads = codec.Payloads.in_buffer(buffer, starts, self.png_sizes(start, stop))
        bad = codec.checksums(payloads) != self._column("crc32")[start:stop]
        return dict.fromkeys(np.flatnonzero(bad).tolist(), OTHER_CRC)

    # Blocks

    def read_images(
        self, start: int, stop: int, out: NDArray[np.uint8], meter: ImageMeter
    ) -> tuple[NDArray[np.uint8], dict[int, str]]:
        if not self._held[0] <= start < stop <= self._held[1]:
            self._hold(start, stop)
        first = self._held[0]
        out[:] = self._images[start - first : stop - first]
        problems = {row - start: text for row, text in self._problems.items()
                    if start <= row < stop}  # fmt: skip
        return meter.add_images(out), problems

    def _hold(self, start: int, stop: int) -> None:
        """Decode what is picked of each block, from a row on, for as many rows as memory takes."""
        shape = self._sources[0].index.image_shape
        assert shape is not None
        stop = max(stop, min(len(self._keys), start + _HELD_BYTES // int(np.prod(shape))))
        self._images = np.empty((stop - start, *shape), np.uint8)
        self._problems = {}
        self._held = start, stop
        for number, source in enumerate(self._sources):
            assert isinstance(source, PackedBlocks)
            places = np.flatnonzero(self._shard[start:stop] == number)
            rows = self._row[start:stop][places]
            order = np.argsort(rows)
            blocks = rows[order] // source.index.block_size
            for piece in np.split(order, np.flatnonzero(np.diff(blocks)) + 1):
                if len(piece):
                    problem = source.take(rows[piece], self._images, places[piece])
                    if problem:
                        self._problems.update(
                            dict.fromkeys((start + places[piece]).tolist(), problem)
                        )

    def block_payload(self, start: int, stop: int, encoding: str) -> bytes | None:
        source, row = self._picked[start]
        index = source.index
        block = row // index.block_size
        if (
            encoding != index.encoding
            or (self._shard[start:stop] != self._shard[start]).any()
            or not np.array_equal(self._row[start:stop], np.arange(*index.block_starts[block:][:2]))
        ):
            return None
        payload = source.payload(block)
        return None if codec.checksum(payload) != index.crc32[block] else payload.tobytes()
