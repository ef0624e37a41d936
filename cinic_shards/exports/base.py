"""The samples of a split to export, and the interface of a format's writer."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from cinic_shards.jobs import Tally
from cinic_shards.read.arrays import read_pixels
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.selection import new_labels
from cinic_shards.read.subset import Subset
from cinic_shards.write.splits import Chosen

Create = Callable[[str], BinaryIO]
"""Creates a file of this name, which appears when the entire export is complete."""


class Export:
    """The N samples of a split to export, in ImageFolder's order."""

    def __init__(
        self, dataset: Dataset, chosen: Chosen, subset: Subset, workers: int, tally: Tally
    ) -> None:
        self.dataset = dataset
        names = "+".join(dict.fromkeys(split for split, _ in chosen.shards))
        columns = dataset.columns_of(names)
        columns = columns.take(np.searchsorted(columns.ids, chosen.ids))
        labels, classes = new_labels(dataset, columns, subset)
        self.classes = list(classes)
        """Class names; a label is a position in this list."""
        self.new_labels = labels
        """Labels in the order of ``chosen``, int64, shape (N,)."""
        self.chosen = chosen
        """The same samples in the order of their ids."""
        self.tally = tally
        """Counts the samples that are done."""
        self._workers = workers

    @property
    def name(self) -> str:
        """The split's name."""
        return self.chosen.name

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        # With the suffix: a-1.png is before a.png, but the stem a-1 after a.
        files = [f"{key}.png" for key in self.chosen.keys]
        rows = np.array(sorted(range(len(files)), key=files.__getitem__), np.int64)
        return rows[np.argsort(self.chosen.labels[rows], kind="stable")]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Classes, int64, shape (N,)."""
        return self.new_labels[self._order]

    @property
    def keys(self) -> list[str]:
        """Keys, ``split/class/stem``."""
        return [self.chosen.keys[row] for row in self._order.tolist()]

    def read_images(self) -> NDArray[np.uint8]:
        """Decode all images, uint8, shape (N, H, W, 3).

        Raises:
            StoreError, FormatError: they cannot be read, are damaged, or have several sizes.
        """
        names = dict.fromkeys(split for split, _ in self.chosen.shards)
        reader = self.dataset.split("+".join(names))
        ids = self.chosen.ids[self._order]
        rows = np.searchsorted(reader.ids(np.arange(len(reader))), ids)
        before = self.tally.done
        return read_pixels(
            reader, rows, workers=self._workers,
            progress=lambda doing, done, total: self.tally.add(before + done - self.tally.done),
        )  # fmt: skip


class Writer(Protocol):
    """Writes splits in one format."""

    def names(self, export: Export) -> list[str]:
        """Return the names of a split's files."""

    def write(self, export: Export, create: Create) -> None:
        """Write a split's files."""

    def common_names(self) -> list[str]:
        """Return the names of the files that all splits share."""

    def write_common(self, exports: Sequence[Export], create: Create) -> None:
        """Write these."""
