"""Histograms; ``chart.html`` draws them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cinic_shards.view.stats import pixel_sums


@dataclass(frozen=True, slots=True)
class Series:
    """A part of the dataset."""

    name: str
    counts: NDArray[np.int64]
    """Pixels of each value by channel, shape (3, 256)."""

    @property
    def shares(self) -> NDArray[np.float64]:
        """``counts`` as parts of 1, by channel."""
        return np.asarray(self.counts / self.counts.sum(axis=1, keepdims=True))

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of each channel, on the scale 0 to 1."""
        return pixel_sums(self.counts).mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Of each channel, on the scale 0 to 1."""
        return pixel_sums(self.counts).std


def highest_share(series: Sequence[Series]) -> float:
    """The top of a scale for all channels alike.

    Black and white are left out: many images have white borders, and one bin would flatten all
    others.
    """
    top = max(float(one.shares[:, 1:-1].max()) for one in series)
    return 1.12 * top if top else 1.0


@dataclass(frozen=True, slots=True)
class Chart:
    """How often each value of a channel occurs in each series, for ``chart.html`` to draw."""

    series: Sequence[Series]
    channel: int
    """0 to 2."""
    name: str
    """The channel's."""
    highest: float
    """The share at the upper end of the scale; higher bins are cut there."""

    width, height = 340, 210
    left, right, top, base = 36, 328, 8, 186

    @property
    def label(self) -> str:
        """What it shows, in words."""
        means = (f"{one.name} mean {one.mean[self.channel]:.3f}" for one in self.series)
        return f"Histogram of {self.name}: {'; '.join(means)}"

    @property
    def rules(self) -> list[float]:
        """The shares that have a line: multiples of 1, 2 or 5 times a power of ten, two to four."""
        rough = self.highest / 4.5
        power = float(10 ** np.floor(np.log10(rough)))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        return [number * step for number in range(1, int(self.highest / step) + 1)]

    def x(self, value: float) -> str:
        """Where a value of 0 to 255 is."""
        return f"{self.left + (self.right - self.left) * value / 255:.1f}"

    def y(self, share: float) -> str:
        """Where a share is."""
        return f"{self.base - (self.base - self.top) * min(share / self.highest, 1.0):.1f}"

    def points(self, one: Series) -> str:
        """The line of a series."""
        shares = one.shares[self.channel].tolist()
        return " ".join(f"{self.x(value)},{self.y(share)}" for value, share in enumerate(shares))
