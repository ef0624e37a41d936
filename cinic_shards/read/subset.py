"""Select the samples of a split that an epoch visits; only the indexes are read."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec import kernels
from cinic_shards.errors import OptionError
from cinic_shards.format.provenance import origins_named
from cinic_shards.options import checked, did_you_mean, integer
from cinic_shards.read.columns import Columns
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.labels import Labels
from cinic_shards.read.lists import (
    ListFile,
    check_unique,
    read_indices,
    read_keys,
    rows_of_ids,
    rows_of_indices,
    rows_of_keys,
)
from cinic_shards.read.partition import Partition, part_ids

_MAX_IMBALANCE = 1_000_000

Where = Callable[[Columns], NDArray[np.bool_]]


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """Conditions on samples; a selected sample meets all of them.

    Raises:
        OptionError: a value is invalid.

    Example:
        >>> cats = Subset(classes=["cat"], origin="imagenet", exclude_duplicates_of="test")
        >>> ShardLoader("shards", "train", batch_size=4, subset=cats).num_samples
        7
        >>> half = Subset(where=lambda columns: columns.ids % 2 == 0)
        >>> ShardLoader("shards", "train", batch_size=4, subset=half).num_samples
        45
        >>> few = Subset(per_class=4, seed=1)
        >>> ShardLoader("shards", "train", batch_size=4, subset=few).num_samples
        40
    """

    classes: Sequence[str] | None = None
    """Keep samples of these classes. Labels do not change."""
    origin: str | Sequence[str] | None = None
    """Keep samples of these origins: ``cifar``, ``cifar-train``, ``cifar-test``, ``imagenet``,
    ``unknown``."""
    ids: Sequence[int] | None = None
    """Keep the samples with these ids, in any order; each must be in a split that is read. Ids are
    positions in the dataset: ``batch.indices``, ``columns.ids``, ``CINIC10.ids``."""
    where: Where | None = None
    """Keep samples by a mask: a function from ``Columns`` of N samples to bool, shape (N,). The
    samples are those of the splits that are read, so position i of the mask is not the sample with
    id i, but with id ``columns.ids[i]``. To choose by id, use ``ids``."""
    indices: Sequence[int] | ListFile | None = None
    """Keep the samples at these indices into ``ImageFolder``, or those that a file lists: JSON,
    ``.npy``, or text with one in each line. With several splits they count through all of them, in
    the order of ``split``, as ``ConcatDataset`` does."""
    keys: Sequence[str] | ListFile | None = None
    """Keep the samples with these keys or file names, or those that a file lists, one in each line:
    ``train/cat/n02121808_29``, or a path that ends in this way."""
    partition: Partition | ListFile | None = None
    """Keep one part of a partition of this dataset: a ``Partition``, or the file of one."""
    part: int | str | None = None
    """The part of ``partition``, by number or name."""
    deduplicate: bool = False
    """Keep only the one with the lowest id of samples that meet the conditions above and have equal
    pixels, within and across the splits that are read."""
    exclude_duplicates_of: str | None = None
    """Drop samples whose pixels also occur in a split, or in several such as ``valid+test``."""
    per_class: int | None = None
    """Keep this number of the remaining samples of each class, of all splits together."""
    imbalance: float | None = None
    """Make a long tail: of the remaining samples, keep fewer of each next class. The first of k
    classes keeps as many as the smallest has, class i keeps imbalance**(-i / (k - 1)) of that,
    rounded down (Cui et al. 2019), at least one."""
    fraction: float = 1.0
    """Keep this fraction of the remaining samples of each class of each split (rounded, at least
    one sample)."""
    labels: Labels | None = None
    """Other labels than the dataset's: ``origin`` numbers the origins that are left, for a
    classifier of the source; ``contiguous`` numbers the classes that are left, from 0; integers
    for all samples of the dataset by id, as a list or array, or a file of them; or a function from
    the ``Columns`` of the n chosen samples to integers, shape (n,)."""
    label_noise: float = 0.0
    """Change the labels of this fraction of the samples to another class, at random."""
    seed: int = 0
    """Seed for ``per_class``, ``imbalance``, ``fraction`` and ``label_noise``. With the same seed,
    a smaller choice is part of a larger one."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise OptionError(f"fraction={self.fraction!r}: expected more than 0 and at most 1")
        if self.per_class is not None:
            integer("per_class", self.per_class, 1)
        if self.imbalance is not None and not 1 <= self.imbalance <= _MAX_IMBALANCE:
            raise OptionError(f"imbalance={self.imbalance!r}: expected 1 to {_MAX_IMBALANCE:,}")
        if not 0 <= self.label_noise <= 1:
            raise OptionError(f"label_noise={self.label_noise!r}: expected 0 to 1")
        if (self.partition is None) != (self.part is None):
            raise OptionError("partition and part: give both or none")
        integer("seed", self.seed)
        if self.ids is not None:
            check_unique("ids", self.ids)


def choose_samples(
    dataset: Dataset, columns: Columns, names: str, subset: Subset
) -> NDArray[np.bool_]:
    """Return a mask of the samples in a subset, bool (N,).

    Args:
        dataset: the samples' dataset.
        columns: the columns of N samples.
        names: their splits, as in ``train+valid``.
        subset: the conditions.

    Raises:
        OptionError, StoreError, FormatError: as ``select``, except that all samples may be left
            out.
    """
    is_chosen = meeting_conditions(dataset, columns, names, subset)
    return is_chosen & thinned(is_chosen, dataset, columns, subset)


def meeting_conditions(
    dataset: Dataset, columns: Columns, names: str, subset: Subset
) -> NDArray[np.bool_]:
    """Return a mask of the samples that meet the conditions on each alone, without duplicates.

    Args:
        dataset: the samples' dataset.
        columns: the columns of N samples.
        names: their splits, as in ``train+valid``.
        subset: the conditions.

    Raises:
        OptionError, StoreError, FormatError: as ``select``.
    """
    is_chosen = np.ones(len(columns), np.bool_)
    if subset.classes is not None:
        label_of = {name: label for label, name in enumerate(dataset.manifest.classes)}
        check_classes(subset.classes, dataset.manifest.classes)
        wanted = [label_of[name] for name in subset.classes]
        is_chosen &= np.isin(columns.labels, wanted)
    if subset.origin is not None:
        given = [subset.origin] if isinstance(subset.origin, str) else subset.origin
        is_chosen &= np.isin(columns.origin, [one for n in given for one in origins_named(n)])
    for rows in _listed(dataset, columns, names, subset):
        is_listed = np.zeros(len(columns), np.bool_)
        is_listed[rows] = True
        is_chosen &= is_listed
    if subset.where is not None:
        is_chosen &= _mask(subset.where(columns), len(columns))
    if subset.deduplicate:
        rows = np.flatnonzero(is_chosen)
        _, first = np.unique(columns.pixel_hash[rows], return_index=True)
        is_chosen[np.delete(rows, first)] = False
    return is_chosen


def _listed(
    dataset: Dataset, columns: Columns, names: str, subset: Subset
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each given list of samples."""
    if subset.ids is not None:
        yield rows_of_ids(subset.ids, columns.ids, names)
    splits = dataset.splits(names)
    if subset.indices is not None:
        indices = subset.indices
        if isinstance(indices, str | os.PathLike):
            indices = read_indices(indices)
        yield rows_of_indices(indices, columns, splits)
    if subset.keys is not None:
        keys = subset.keys
        if isinstance(keys, str | os.PathLike):
            keys = read_keys(keys)
        yield rows_of_keys(keys, columns, splits)
    if subset.partition is not None and subset.part is not None:
        ids = part_ids(subset.partition, subset.part, dataset)
        yield rows_of_ids(ids, columns.ids, names)


def thinned(
    is_chosen: NDArray[np.bool_], dataset: Dataset, columns: Columns, subset: Subset
) -> NDArray[np.bool_]:
    """Return a mask without duplicates of other splits, then with fewer samples of each class.

    Args:
        is_chosen: mask of the remaining samples, bool (N,).
        dataset: the samples' dataset.
        columns: the columns of the N samples.
        subset: the conditions.

    Raises:
        OptionError: there is no such split, or a class has fewer samples than ``per_class``.
        StoreError, FormatError: an index of ``exclude_duplicates_of`` cannot be read.
    """
    is_chosen = is_chosen.copy()
    if subset.exclude_duplicates_of is not None:
        others = dataset.columns_of(subset.exclude_duplicates_of)
        if set(others.split) & set(columns.split):
            raise OptionError(
                f"exclude_duplicates_of={subset.exclude_duplicates_of!r}: expected splits other "
                f"than those that are read, {'+'.join(dict.fromkeys(columns.split.tolist()))}"
            )
        is_chosen &= ~np.isin(columns.pixel_hash, others.pixel_hash)
    if subset.per_class is not None:
        by_label = _by_label(is_chosen, columns)
        for label, rows in by_label.items():
            if len(rows) < subset.per_class:
                raise OptionError(
                    f"per_class={subset.per_class:,}: class {dataset.manifest.classes[label]} has "
                    f"{len(rows):,} samples left; choose at most as many"
                )
        is_chosen = _kept(is_chosen, by_label, [subset.per_class] * len(by_label), subset.seed)
    if subset.imbalance is not None:
        by_label = _by_label(is_chosen, columns)
        counts = _long_tail(list(map(len, by_label.values())), subset.imbalance)
        is_chosen = _kept(is_chosen, by_label, counts, subset.seed)
    if subset.fraction < 1:
        is_chosen = _fraction(is_chosen, columns, subset)
    return is_chosen


def check_classes(names: Sequence[str], known: Sequence[str], location: str = "") -> None:
    """Check that classes exist.

    Args:
        names: the names of the classes.
        known: the names of all classes.
        location: the dataset's location and a colon, for the message.

    Raises:
        OptionError: a class is not among the known ones.
    """
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise OptionError(f"{location}no class {name!r}; there is {', '.join(known)}{hint}")


def given_options(subset: Subset) -> dict[str, Any]:
    """Return the options of a subset that are not the defaults."""
    default = Subset()
    names = Subset.__dataclass_fields__
    values = {name: getattr(subset, name) for name in names}
    return {name: value for name, value in values.items() if value != getattr(default, name)}


def _mask(mask: Any, num_samples: int) -> NDArray[np.bool_]:
    if getattr(mask, "dtype", None) != np.bool_ or mask.shape != (num_samples,):
        found = f"{getattr(mask, 'dtype', type(mask))} of shape {getattr(mask, 'shape', '?')}"
        raise OptionError(
            f"where= returned {found}; expected a numpy array of bool, shape ({num_samples},)"
        )
    return np.asarray(mask)


def _by_label(is_chosen: NDArray[np.bool_], columns: Columns) -> dict[int, NDArray[np.int64]]:
    """Return the chosen rows of each class that has some, in the order of the classes."""
    rows = np.flatnonzero(is_chosen)
    labels = columns.labels[rows]
    return {label: rows[labels == label] for label in np.unique(labels).tolist()}


def _kept(
    is_chosen: NDArray[np.bool_],
    by_label: Mapping[int, NDArray[np.int64]],
    counts: Sequence[int],
    seed: int,
) -> NDArray[np.bool_]:
    """Keep a number of samples of each class, drawn at random; return the new mask."""
    out = np.zeros_like(is_chosen)
    for (label, rows), count in zip(by_label.items(), counts, strict=True):
        out[rows[kernels.choose(count, len(rows), f"samples of label {label}", seed)]] = True
    return out


def _long_tail(sizes: Sequence[int], imbalance: float) -> list[int]:
    """Return the number of samples to keep of each class.

    Decimal numbers are the same on every machine, those of ``float`` powers may not be.
    """
    last = max(1, len(sizes) - 1)
    ratio = Decimal(repr(imbalance))
    kept = [min(sizes) / ratio ** (Decimal(i) / last) for i in range(len(sizes))]
    return [max(1, int(count + Decimal("1e-9"))) for count in kept]  # 89.99... means 90


def _fraction(is_chosen: NDArray[np.bool_], columns: Columns, subset: Subset) -> NDArray[np.bool_]:
    """Keep a fraction of each class of each split; return the new mask."""
    out = np.zeros_like(is_chosen)
    for split in np.unique(columns.split).tolist():
        in_split = np.flatnonzero(is_chosen & (columns.split == split))
        if len(in_split) == 0:
            continue
        by_label = in_split[np.argsort(columns.labels[in_split], kind="stable")]
        for rows in np.split(by_label, np.flatnonzero(np.diff(columns.labels[by_label])) + 1):
            count = max(1, int(subset.fraction * len(rows) + 0.5))
            purpose = f"fraction of {split}, label {columns.labels[rows[0]]}"
            out[rows[kernels.choose(count, len(rows), purpose, subset.seed)]] = True
    return out
