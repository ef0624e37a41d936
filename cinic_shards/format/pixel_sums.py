"""Sums over pixels, from which the manifest's means and standard deviations follow."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PixelSums:
    """Exact sums over 8-bit RGB pixels, which give their mean and standard deviation.

    Example:
        >>> pixels = Dataset("shards").manifest.pixels
        >>> pixels.count == 270 * 32 * 32
        True
        >>> [round(mean, 1) for mean in pixels.mean]
        [0.5, 0.5, 0.5]
    """

    count: int
    """Number of pixels."""
    sums: tuple[int, int, int]
    """Sum of each channel's values."""
    square_sums: tuple[int, int, int]
    """Sum of each channel's squared values."""

    def __add__(self, other: "PixelSums") -> "PixelSums":
        r, g, b = (x + y for x, y in zip(self.sums, other.sums, strict=True))
        rr, gg, bb = (x + y for x, y in zip(self.square_sums, other.square_sums, strict=True))
        return PixelSums(self.count + other.count, (r, g, b), (rr, gg, bb))

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of each channel on the scale 0 to 1."""
        r, g, b = (total / (255 * self.count) for total in self.sums)
        return r, g, b

    @property
    def std(self) -> tuple[float, float, float]:
        """Population standard deviation of each channel on the scale 0 to 1.

        The variance is computed in integers, so no precision is lost by cancellation.
        """
        r, g, b = (
            math.sqrt(self.count * squares - total * total) / (255 * self.count)
            for total, squares in zip(self.sums, self.square_sums, strict=True)
        )
        return r, g, b
