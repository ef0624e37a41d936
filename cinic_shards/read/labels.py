"""Labels other than the dataset's: origins, classes without gaps, users' own, and noise."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec import kernels
from cinic_shards.errors import OptionError
from cinic_shards.format.provenance import ORIGINS
from cinic_shards.options import did_you_mean
from cinic_shards.read.columns import Columns
from cinic_shards.read.lists import ListFile, read_indices

Labels = ListFile | Sequence[int] | Callable[[Columns], Any]

_NAMED = ("origin", "contiguous")
MAX_LABEL = 1_000_000
"""Labels are positions in the list of class names, so a larger one is a mistake."""


def make_labels(
    labels: Labels | None,
    noise: float,
    seed: int,
    columns: Columns,
    classes: Sequence[str],
    num_samples: int,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the labels of n chosen samples, int64 (n,), and the names of their classes.

    Args:
        labels: see ``Subset.labels``; None for the dataset's.
        noise: see ``Subset.label_noise``.
        seed: seed of the noise.
        columns: the columns of the chosen samples.
        classes: the dataset's class names.
        num_samples: number of all samples of the dataset.

    Raises:
        OptionError: there are too few or too many labels, or one is not an integer from 0.
        StoreError, FormatError: a file of labels cannot be read.
    """
    found, names = columns.labels, tuple(classes)
    if labels == "origin":
        present = [name for name in ORIGINS if name in columns.origin]
        found, names = _positions(columns.origin, present), tuple(present)
    elif labels == "contiguous":
        kept = np.unique(columns.labels)
        found = np.searchsorted(kept, columns.labels)
        names = tuple(classes[label] for label in kept.tolist())
    elif labels is not None:
        found = _own(labels, columns, num_samples)
        names = tuple(map(str, range(int(found.max(initial=0)) + 1)))
        names = tuple(classes) if len(names) <= len(classes) else names
    if noise:
        found = _noisy(found, len(names), noise, seed)
    return found, names


def _positions(values: NDArray[np.str_], names: Sequence[str]) -> NDArray[np.int64]:
    out = np.zeros(len(values), np.int64)
    for number, name in enumerate(names):
        out[values == name] = number
    return out


def _own(labels: Labels, columns: Columns, num_samples: int) -> NDArray[np.int64]:
    """Return a user's own labels: of the chosen samples by a function, or of all by id."""
    if callable(labels):
        given, count, what = labels(columns), len(columns), "chosen samples"
    else:
        if isinstance(labels, str | os.PathLike):
            if isinstance(labels, str) and not os.path.exists(labels):
                hint = did_you_mean(labels, _NAMED)
                raise OptionError(
                    f"labels={labels!r}: expected origin, contiguous or the file of a list{hint}"
                )
            labels = read_indices(labels)
        given, count, what = labels, num_samples, "samples of the dataset, by id"
    array = np.asarray(given)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise OptionError(
            f"labels: found {array.dtype} of shape {array.shape}; expected integers, one for each "
            f"of the {count:,} {what}"
        )
    found = array if callable(labels) else array[columns.ids]
    if len(found) and not 0 <= found.min() <= found.max() <= MAX_LABEL:
        wrong = found[(found < 0) | (found > MAX_LABEL)][0]
        raise OptionError(f"labels: {wrong}: expected 0 to {MAX_LABEL:,}")
    return found.astype(np.int64)


def _noisy(
    labels: NDArray[np.int64], num_classes: int, noise: float, seed: int
) -> NDArray[np.int64]:
    """Change a fraction of the labels to another class at random, each with the same chance."""
    if num_classes < 2:
        raise OptionError("label_noise: needs at least two classes")
    count = int(noise * len(labels) + 0.5)
    rows = kernels.choose(count, len(labels), "noisy samples", seed)
    # A permutation of more numbers than there are samples: its remainders are as good as random.
    size = max(len(labels), 1) * (num_classes - 1) << 10
    steps = kernels.choose(count, size, "noise", seed) % (num_classes - 1) + 1
    out = labels.copy()
    out[rows] = (out[rows] + steps) % num_classes
    return out
