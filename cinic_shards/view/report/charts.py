"""Histograms as SVG, coloured by the page's style sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from cinic_shards.view.stats import pixel_sums

_WIDTH, _HEIGHT = 340, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 12, 8, 24
_TICKS = (0, 64, 128, 192, 255)


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


def histogram(series: Sequence[Series], channel: int, name: str, top: float) -> str:
    """An SVG: how often each value of a channel occurs in each series, means as dashed lines.

    Args:
        series: the parts, drawn in this order.
        channel: 0 to 2.
        name: of the channel.
        top: the share at the upper end of the scale; higher bins are cut there.
    """
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    base = _TOP + inner_height

    def x_of(value: float) -> float:
        return _LEFT + inner_width * value / 255

    def y_of(share: float) -> float:
        return base - inner_height * min(share / top, 1.0)

    parts = []
    step = _step(top)
    for number in range(1, int(top / step) + 1):
        y = y_of(number * step)
        parts.append(
            f'<path class="rule" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">'
            f"{number * step:.1%}</text>"
        )
    parts += [
        f'<text class="tick" x="{x_of(value):.1f}" y="{base + 16}" text-anchor="middle">'
        f"{value}</text>"
        for value in _TICKS
    ]
    labels = []
    for number, one in enumerate(series):
        points = " ".join(
            f"{x_of(value):.1f},{y_of(share):.1f}"
            for value, share in enumerate(one.shares[channel].tolist())
        )
        parts.append(
            f'<polygon class="area s{number}" points="{x_of(0):.1f},{base} {points} '
            f'{x_of(255):.1f},{base}"/><polyline class="line s{number}" points="{points}"/>'
        )
        labels.append(f"{one.name} mean {one.mean[channel]:.3f}")
    for number, one in enumerate(series):
        x = x_of(255 * one.mean[channel])
        parts.append(f'<path class="mean s{number}" d="M{x:.1f} {base}V{_TOP}"/>')
    parts.append(f'<path class="axis" d="M{_LEFT} {base}H{_WIDTH - _RIGHT}"/>')
    label = f"Histogram of {name}: {'; '.join(labels)}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _step(top: float) -> float:
    """Between two lines of the scale: 1, 2 or 5 times a power of ten, for two to four lines."""
    rough = top / 4.5
    power = 10 ** np.floor(np.log10(rough))
    return float(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough))
