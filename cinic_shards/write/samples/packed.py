"""Samples of a shard of a dataset; PNGs of blocks are encoded again."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards import codec
from cinic_shards.codec.meter import ImageMeter, chunks
from cinic_shards.errors import FormatError
from cinic_shards.format import Index, ShardInfo
from cinic_shards.read.open import open_shard
from cinic_shards.store import Store
from cinic_shards.write.samples.base import ShardSource

OTHER_PIXELS = "its pixels' hash is not the index's; fetch the file again"
OTHER_CRC = "its CRC-32 is not the index's; fetch the file again"


def open_packed(
    store: Store,
    split: str,
    info: ShardInfo,
    classes: tuple[str, ...],
    image_shape: tuple[int, int, int] | None,
) -> "PackedSource":
    """The samples of a shard of the dataset in a store.

    Args:
        store: the dataset's.
        split: that the shard is of.
        info: the shard.
        classes: the dataset's class names, in the order of their labels.
        image_shape: (H, W, 3) of all its images, or None where they may differ.
    """
    memory, index = open_shard(store, info, len(classes))
    if not len(index):
        raise FormatError(info.name, "it holds no sample, expected at least one")
    if image_shape is not None and index.image_shape != image_shape:
        raise FormatError(
            info.name,
            f"its index says that images are {index.image_shape}, the manifest "
            f"{image_shape}; fetch the files again",
        )
    for row, (key, label) in enumerate(zip(index.keys, index.label.tolist(), strict=True)):
        if problem := fmt.key_problem(key, split):
            raise FormatError(info.name, f"sample {row} ({key!r}): {problem}")
        if key.split("/")[1] != classes[label]:
            raise FormatError(
                info.name,
                f"sample {row} ({key}): its label {label} is that of the class "
                f"{fmt.shown(classes[label])}; fetch the files again",
            )
    kind = PackedPngs if index.encoding == "png" else PackedBlocks
    return kind(info, memory, index)


class PackedSource(ShardSource):
    """The samples of a shard; each is checked against its index when it is read."""

    def __init__(self, info: ShardInfo, memory: NDArray[np.uint8], index: Index) -> None:
        self.info = info
        self.memory = memory
        self.index = index

    @property
    def keys(self) -> list[str]:
        return self.index.keys

    @property
    def labels(self) -> NDArray[np.int32]:
        return self.index.label

    def place(self, row: int) -> str:
        return f"{self.info.name}: sample {row} ({self.keys[row]})"

    def other_pixels(self, hashes: NDArray[np.uint8]) -> dict[int, str]:
        bad = (hashes != self.index.pixel_hash).any(axis=1)
        return dict.fromkeys(np.flatnonzero(bad).tolist(), OTHER_PIXELS)

    def payload(self, number: int) -> NDArray[np.uint8]:
        """The bytes of one payload."""
        start = int(self.index.offset[number])
        return self.memory[start : start + int(self.index.length[number])]


class PackedPngs(PackedSource):
    """The samples of a shard of PNGs."""

    def chunks(self) -> Iterator[tuple[int, int]]:
        return chunks(self.index.length.astype(np.int64))

    def png_sizes(self, start: int, stop: int) -> NDArray[np.int64]:
        return self.index.length[start:stop].astype(np.int64)

    def read_pngs(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        for row, at in zip(range(start, stop), starts.tolist(), strict=True):
            payload = self.payload(row)
            buffer[at : at + len(payload)] = payload
        payloads = codec.Payloads.in_buffer(buffer, starts, self.png_sizes(start, stop))
        bad = codec.checksums(payloads) != self.index.crc32[start:stop]
        return dict.fromkeys(np.flatnonzero(bad).tolist(), OTHER_CRC)


class PackedBlocks(PackedSource):
    """The samples of a shard of blocks; PNGs are encoded anew."""

    def __init__(self, info: ShardInfo, memory: NDArray[np.uint8], index: Index) -> None:
        super().__init__(info, memory, index)
        self._pngs: dict[tuple[int, int], list[bytes]] = {}
        self._block = -1
        self._images = np.empty(0, np.uint8)
        self._problem = ""

    def chunks(self) -> Iterator[tuple[int, int]]:
        for start, stop in zip(
            self.index.block_starts[:-1].tolist(), self.index.block_starts[1:].tolist(), strict=True
        ):
            for chunk in range(start, stop, 256):
                yield chunk, min(chunk + 256, stop)

    def _decode(self, block: int) -> None:
        """Hold this block's images."""
        if block == self._block:
            return
        assert self.index.image_shape is not None
        num_images = int(np.diff(self.index.block_starts)[block])
        self._images = np.empty((num_images, *self.index.image_shape), np.uint8)
        payload = self.payload(block)
        payloads = codec.Payloads.in_buffer(payload, np.array([0]), np.array([len(payload)]))
        if codec.checksums(payloads)[0] != self.index.crc32[block]:
            self._problem = "the CRC-32 of its block is not the index's; fetch the file again"
        else:
            self._problem = codec.decode_block(payload, self.index.encoding, self._images)
        self._block = block

    def take(
        self, rows: NDArray[np.int64], out: NDArray[np.uint8], places: NDArray[np.int64]
    ) -> str:
        """Put rows of one block to their places in ``out``, uint8 (N, H, W, 3).

        The block's CRC-32 is not looked at: whoever calls compares the pixels' hashes.

        Returns:
            What is wrong with the block.
        """
        block = int(rows[0]) // self.index.block_size
        start, stop = self.index.block_starts[block : block + 2].tolist()
        if self.index.encoding == "raw":  # any row lies there as it is
            pixels = self.payload(block)[fmt.NPY_HEADER_BYTES :]
            out[places] = pixels.reshape(stop - start, *out.shape[1:])[rows - start]
            return ""
        images = np.empty((stop - start, *out.shape[1:]), np.uint8)
        problem = codec.decode_block(self.payload(block), self.index.encoding, images)
        out[places] = images[rows - start]
        return problem

    def images(self, start: int, stop: int) -> tuple[NDArray[np.uint8], dict[int, str]]:
        """Decode a range; what is wrong, by row."""
        assert self.index.image_shape is not None
        out = np.empty((stop - start, *self.index.image_shape), np.uint8)
        problems = {}
        size = self.index.block_size
        for block in range(start // size, -(-stop // size)):
            self._decode(block)
            first, end = max(start, block * size), min(stop, (block + 1) * size)
            out[first - start : end - start] = self._images[
                first - block * size : end - block * size
            ]
            if self._problem:
                problems.update(dict.fromkeys(range(first - start, end - start), self._problem))
        return out, problems

    def png_sizes(self, start: int, stop: int) -> NDArray[np.int64]:
        images, problems = self.images(start, stop)
        self._pngs = {
            (start, stop): [
                b"" if row in problems else codec.encode_png(image)
                for row, image in enumerate(images)
            ]
        }
        return np.array([len(png) for png in self._pngs[start, stop]], np.int64)

    def read_pngs(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        view = buffer.data
        for png, at in zip(self._pngs[start, stop], starts.tolist(), strict=True):
            view[at : at + len(png)] = png
        return self.images(start, stop)[1]

    def read_images(
        self, start: int, stop: int, out: NDArray[np.uint8], meter: ImageMeter
    ) -> tuple[NDArray[np.uint8], dict[int, str]]:
        images, problems = self.images(start, stop)
        hashes = meter.add_images(images)
        if images.shape == out.shape:
            out[:] = images
        return hashes, problems
