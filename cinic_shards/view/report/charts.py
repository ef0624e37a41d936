"""Histograms, drawn by ``chart.html``."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cinic_shards.view.stats import pixel_sums


@dataclass(frozen=True, slots=True)
class Series:
    """The histogram of a part of the dataset."""

    name: str
    counts: NDArray[np.int64]
    """Number of pixels with each value, by channel, shape (3, 256)."""

    @property
    def shares(self) -> NDArray[np.float64]:
        """``counts`` divided by each channel's total, shape (3, 256)."""
        return np.asarray(self.counts / self.counts.sum(axis=1, keepdims=True))

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of each channel, on the scale 0 to 1."""
        return pixel_sums(self.counts).mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Population standard deviation of each channel, on the scale 0 to 1."""
        return pixel_sums(self.counts).std


def highest_share(series: Sequence[Series]) -> float:
    """Return the top of the scale, the same for all channels.

    Black and white do not count: many images have white borders, and that one bin would flatten
    all others.
    """
    top = max(float(one.shares[:, 1:-1].max()) for one in series)
    return 1.12 * top if top else 1.0


@dataclass(frozen=True, slots=True)
class Chart:
    """The chart of one channel's histograms, with the coordinates that ``chart.html`` draws."""

    series: Sequence[Series]
    channel: int
    """0 (red) to 2 (blue)."""
    name: str
    """The channel's name."""
    highest: float
    """The share at the top of the scale; higher bins are cut off there."""

    width, height = 340, 212
    left, right, top, base = 40, 326, 8, 186

    @property
    def label(self) -> str:
        """Description of the chart, in words."""
        means = (f"{one.name} mean {one.mean[self.channel]:.3f}" for one in self.series)
        return f"Histogram of {self.name}: {'; '.join(means)}"

    @property
    def rules(self) -> list[float]:
        """Shares with a grid line: two to four multiples of 1, 2 or 5 times a power of ten."""
        rough = self.highest / 4.5
        power = float(10 ** np.floor(np.log10(rough)))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        return [number * step for number in range(1, int(self.highest / step) + 1)]

    def x(self, value: float) -> str:
        """Return the x coordinate of a value from 0 to 255."""
        return f"{self.left + (self.right - self.left) * value / 255:.1f}"

    def y(self, share: float) -> str:
        """Return the y coordinate of a share."""
        return f"{self.base - (self.base - self.top) * min(share / self.highest, 1.0):.1f}"

    def points(self, one: Series) -> str:
        """Return the points of a series' line, for SVG."""
        shares = one.shares[self.channel].tolist()
        return " ".join(f"{self.x(value)},{self.y(share)}" for value, share in enumerate(shares))
