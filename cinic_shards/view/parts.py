"""Draw the sizes and classes of a partition's parts."""

import os
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cinic_shards.view.figure import new_figure

_MAX_NAMES = 40
"""With more parts, not each one's name is written."""

Draw = Callable[[Sequence[str], Sequence[str], NDArray[np.int64]], None]


def plotter(path: str | os.PathLike[str]) -> Draw:
    """Return a function that draws the parts to a file; errors of the file come at once.

    It takes the names of P parts and of C classes, and the number of samples of each class in each
    part, shape (P, C). It draws the parts' sizes above a map of these numbers.

    Args:
        path: see ``new_figure``.

    Raises:
        OptionError, OutputError: as ``new_figure``.
    """
    make = new_figure(path)

    def draw(parts: Sequence[str], classes: Sequence[str], counts: NDArray[np.int64]) -> None:
        figure, write = make(min(14, 5 + 0.15 * len(parts)), 2 + 0.3 * len(classes))
        sizes, by_class = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3])
        positions = np.arange(len(parts))
        sizes.bar(positions, counts.sum(axis=1), width=0.9)
        sizes.set_ylabel("samples")
        sizes.yaxis.set_major_formatter("{x:,.0f}")
        image = by_class.imshow(counts.T, aspect="auto", cmap="Blues", interpolation="nearest")
        by_class.set_yticks(range(len(classes)), classes)
        by_class.set_xlabel("part")
        if len(parts) <= _MAX_NAMES:
            by_class.set_xticks(positions, parts, rotation=90 if len(parts) > 10 else 0)
        figure.colorbar(image, ax=by_class, label="samples of a class", format="{x:,.0f}")
        write()

    return draw
