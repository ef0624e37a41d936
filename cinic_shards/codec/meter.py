"""Decode images chunk by chunk, and sum up their pixels and sizes."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec import kernels
from cinic_shards.codec.payloads import Payloads
from cinic_shards.codec.png import decode_png
from cinic_shards.codec.png_head import check_heads
from cinic_shards.format import PixelSums

_CHUNK_SAMPLES = 256
"""Most samples in a chunk: 256 files of CINIC-10 and their pixels fit in a core's L2 cache."""

_CHUNK_BYTES = 2**24
"""Most bytes in a chunk, of files and of decoded pixels, unless a single image is larger."""


def chunks(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Divide a shard's samples into chunks, which bound a worker's memory.

    Args:
        sizes: size of each PNG in bytes, shape (N,).

    Yields:
        First row of each chunk, and the row after its last.
    """
    start, taken = 0, 0
    for row, size in enumerate(sizes.tolist()):
        if row > start and (row - start == _CHUNK_SAMPLES or taken + size > _CHUNK_BYTES):
            yield start, row
            start, taken = row, 0
        taken += size
    if len(sizes):
        yield start, len(sizes)


class ImageMeter:
    """Decodes a shard's images chunk by chunk, and sums up their pixels and sizes."""

    def __init__(self) -> None:
        self.image_sizes: Counter[tuple[int, int]] = Counter()
        self._sums = np.zeros(3, np.int64)
        self._square_sums = np.zeros(3, np.int64)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(H, W, 3) if all images so far have one size, else None."""
        sizes = [size for size, count in self.image_sizes.items() if count]
        return (*sizes[0], 3) if len(sizes) == 1 else None

    @property
    def pixels(self) -> PixelSums:
        """Sums over all images so far."""
        count = sum(height * width * count for (height, width), count in self.image_sizes.items())
        return PixelSums(count, _three(self._sums), _three(self._square_sums))

    def add_pngs(
        self,
        payloads: Payloads,
        buffer: NDArray[np.uint8],
        starts: NDArray[np.int64],
        keep: NDArray[np.uint8] | None = None,
    ) -> tuple[NDArray[np.uint8], dict[int, str]]:
        """Measure N PNGs.

        Args:
            payloads: the PNGs.
            buffer: the memory that holds the PNGs, uint8, one-dimensional.
            starts: offset of each PNG in ``buffer``, shape (N,).
            keep: uint8, shape (N, H, W, 3); receives the images of this size.

        Returns:
            Pixel hashes, uint8, shape (N, 16), zeros for invalid images; and row -> why an image
            is invalid.
        """
        extents, problems = check_heads(buffer, starts, payloads.lengths)
        hashes = np.zeros((len(payloads), fmt.PIXEL_HASH_BYTES), np.uint8)
        sizes, size_of = np.unique(extents, axis=0, return_inverse=True)
        for number, (height, width) in enumerate(sizes.tolist()):
            if height == 0:  # a problem
                continue
            of_size = np.flatnonzero(size_of.ravel() == number)
            at_once = max(1, _CHUNK_BYTES // (3 * height * width))
            for rows in np.split(of_size, range(at_once, len(of_size), at_once)):
                images = np.empty((len(rows), height, width, 3), np.uint8)
                bad = decode_png(payloads.take(rows), images)
                problems |= {int(rows[position]): problem for position, problem in bad.items()}
                if bad:
                    good = np.setdiff1d(np.arange(len(rows)), list(bad))
                    rows, images = rows[good], images[good]
                hashes[rows] = self.add_images(images)
                if keep is not None and images.shape[1:] == keep.shape[1:]:
                    keep[rows] = images
        return hashes, problems

    def add_images(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Measure N decoded images, uint8 (N, H, W, 3); return pixel hashes, uint8 (N, 16)."""
        kernels.add_channel_sums(images.reshape(-1, 3), self._sums, self._square_sums)
        _, height, width, _ = images.shape
        self.image_sizes[height, width] += len(images)
        return fmt.pixel_hashes(images)


def _three(values: NDArray[np.int64]) -> tuple[int, int, int]:
    r, g, b = values.tolist()
    return r, g, b
