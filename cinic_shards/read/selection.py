"""The rows and labels that an epoch of a subset visits; only the indexes are read."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import OptionError
from cinic_shards.format import shown
from cinic_shards.read.columns import Columns
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.labels import make_labels
from cinic_shards.read.split import SplitReader
from cinic_shards.read.subset import Subset, choose_samples, given_options


@dataclass(frozen=True, slots=True)
class Selection:
    """The n selected rows of a reader. The plan refers to them by position, 0 to n - 1."""

    rows: NDArray[np.int64] | None
    """The reader's row at each position, ascending, shape (n,); None if all are selected."""
    block_starts: NDArray[np.int64]
    """First position of each of the b blocks with a selected row, then n: shape (b + 1,)."""
    blocks: NDArray[np.int64]
    """These blocks' numbers in the reader, shape (b,)."""
    labels: NDArray[np.int64] | None = None
    """New labels, shape (n,); None if they are the dataset's."""
    classes: tuple[str, ...] | None = None
    """Names of the classes of ``labels``."""

    def __len__(self) -> int:
        return int(self.block_starts[-1])

    def rows_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the reader's rows at these positions, int64 (n,)."""
        return positions if self.rows is None else self.rows[positions]

    def digests(self, reader: SplitReader) -> tuple[str, str]:
        """Return digests of the ids, with new labels if any, and of ``block_starts``: hex."""
        rows = np.arange(len(reader)) if self.rows is None else self.rows
        labels = [] if self.labels is None else [self.labels]
        samples = np.concatenate([reader.ids(rows), *labels])
        return _digest(samples), _digest(self.block_starts)


def _digest(array: NDArray[np.int64]) -> str:
    return hashlib.blake2b(array.astype("<i8").tobytes(), digest_size=16).hexdigest()


def select(
    dataset: Dataset, reader: SplitReader, subset: Subset, names: str | None = None
) -> Selection:
    """Select rows of a reader.

    Args:
        dataset: the reader's dataset.
        reader: reader of one or more splits.
        subset: the conditions.
        names: the reader's splits, in the order in which ``indices`` counts them; by default the
            reader's.

    Raises:
        OptionError: the dataset lacks a class, a split or a listed sample, an origin is unknown,
            ``where`` does not return a mask, the partition belongs to another dataset, a class has
            too few samples, or no sample is left.
        StoreError: an index of ``exclude_duplicates_of``, or a file of the subset, cannot be read.
        FormatError: it is damaged.
    """
    if subset == Subset():
        return Selection(None, reader.block_starts, np.arange(reader.num_blocks))
    is_chosen = choose_samples(dataset, reader.columns, names or reader.name, subset)
    if not is_chosen.any():
        given = ", ".join(f"{name}={shown(value)}" for name, value in given_options(subset).items())
        raise OptionError(f"no sample of {reader.name} is left by {given}")
    rows = np.flatnonzero(is_chosen)
    starts = np.searchsorted(rows, reader.block_starts)
    blocks = np.flatnonzero(np.diff(starts))
    found = Selection(rows, np.append(starts[blocks], len(rows)), blocks)
    if subset.labels is None and not subset.label_noise:
        return found
    labels, classes = new_labels(dataset, reader.columns.take(rows), subset)
    return replace(found, labels=labels, classes=classes)


def new_labels(
    dataset: Dataset, columns: Columns, subset: Subset
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the labels of a subset's samples, and the names of their classes.

    Args:
        dataset: the samples' dataset.
        columns: the columns of the n chosen samples.
        subset: the options.

    Returns:
        int64 (n,), and the names.

    Raises:
        OptionError: there are too few or too many labels, or one is not an integer from 0.
        StoreError, FormatError: a file of labels cannot be read.
    """
    return make_labels(
        subset.labels, subset.label_noise, subset.seed, columns,
        dataset.manifest.classes, dataset.manifest.num_samples,
    )  # fmt: skip
