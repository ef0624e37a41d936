"""Decode images chunk by chunk, and sum up what they hold."""

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
"""Of CINIC-10's, so many with their pixels stay in a core's second-level cache."""


_CHUNK_BYTES = 2**24
"""Of files, and of decoded pixels."""


def chunks(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of a shard's samples to work on at once: they bound a worker's memory.

    Args:
        sizes: each PNG's bytes, shape (N,).
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
    """Decodes a shard's images chunk by chunk, and sums up what they hold."""

    def __init__(self) -> None:
        self.image_sizes: Counter[tuple[int, int]] = Counter()
        self._sums = np.zeros(3, np.int64)
        self._square_sums = np.zeros(3, np.int64)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(H, W, 3) where all images so far have one size, else None."""
        sizes = [size for size, count in self.image_sizes.items() if count]
        return (*sizes[0], 3) if len(sizes) == 1 else None

    @property
    def pixels(self) -> PixelSums:
        """The sums over all images so far."""
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
            buffer: uint8; the memory that they lie in.
            starts: the place of each PNG in ``buffer``, shape (N,).
            keep: where the images of this size go, uint8, shape (N, H, W, 3).

        Returns:
            Pixel hashes, uint8, shape (N, 16), zeros for what is no image; and why, by row.
        """
        extents, problems = check_heads(buffer, starts, payloads.lengths)
        hashes = np.zeros((len(payloads), fmt.PIXEL_HASH_BYTES), np.uint8)
        sizes, size_of = np.unique(extents, axis=0, return_inverse=True)
        for kind, (height, width) in enumerate(sizes.tolist()):
            if height == 0:  # a problem
                continue
            of_size = np.flatnonzero(size_of.ravel() == kind)
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
        """Measure N decoded images, uint8 (N, H, W, 3): their pixel hashes, uint8 (N, 16)."""
        kernels.add_channel_sums(images.reshape(-1, 3), self._sums, self._square_sums)
        _, height, width, _ = images.shape
        self.image_sizes[height, width] += len(images)
        return fmt.pixel_hashes(images)


def _three(values: NDArray[np.int64]) -> tuple[int, int, int]:
    r, g, b = values.tolist()
    return r, g, b
