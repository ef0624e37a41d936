"""Select the samples of a split that an epoch visits; only the indexes are read."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec import kernels
from cinic_shards.errors import OptionError, few
from cinic_shards.format import shown
from cinic_shards.format.provenance import origins_named
from cinic_shards.options import checked, did_you_mean, integer
from cinic_shards.read.columns import Columns
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.split import SplitReader

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
    exclude_duplicates_of: str | None = None
    """Drop samples whose pixels also occur in a split, or in several such as ``valid+test``."""
    fraction: float = 1.0
    """Keep this fraction of the remaining samples of each class of each split (rounded, at least
    one sample)."""
    fraction_seed: int = 0
    """Seed for ``fraction``. With the same seed, a smaller fraction is part of a larger one."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise OptionError(f"fraction={self.fraction!r}: expected more than 0 and at most 1")
        integer("fraction_seed", self.fraction_seed)
        if self.ids is not None and len(set(self.ids)) < len(self.ids):
            found = few([one for one, count in Counter(self.ids).items() if count > 1])
            raise OptionError(f"ids: duplicate ids: {found}; give each id once")


@dataclass(frozen=True, slots=True)
class Selection:
    """The n selected rows of a reader. The plan refers to them by position, 0 to n - 1."""

    rows: NDArray[np.int64] | None
    """The reader's row at each position, ascending, shape (n,); None if all are selected."""
    block_starts: NDArray[np.int64]
    """First position of each of the b blocks with a selected row, then n: shape (b + 1,)."""
    blocks: NDArray[np.int64]
    """These blocks' numbers in the reader, shape (b,)."""

    def __len__(self) -> int:
        return int(self.block_starts[-1])

    def rows_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the reader's rows at these positions, int64 (n,)."""
        return positions if self.rows is None else self.rows[positions]

    def digests(self, reader: SplitReader) -> tuple[str, str]:
        """Return digests of the selected ids and of ``block_starts``, 32 hex digits each."""
        rows = np.arange(len(reader)) if self.rows is None else self.rows
        return tuple(
            hashlib.blake2b(array.astype("<i8").tobytes(), digest_size=16).hexdigest()
            for array in (reader.ids(rows), self.block_starts)
        )  # type: ignore[return-value]


def select(dataset: Dataset, reader: SplitReader, subset: Subset) -> Selection:
    """Select rows of a reader.

    Args:
        dataset: the reader's dataset.
        reader: reader of one or more splits.
        subset: the conditions.

    Raises:
        OptionError: the dataset lacks a class, a split or an id, an origin is unknown, ``where``
            does not return a mask, or no sample is left.
        StoreError: an index of ``exclude_duplicates_of`` cannot be read.
        FormatError: such an index is damaged.
    """
    if subset == Subset():
        return Selection(None, reader.block_starts, np.arange(reader.num_blocks))
    is_chosen = choose_samples(dataset, reader.columns, subset)
    if not is_chosen.any():
        given = ", ".join(f"{name}={shown(value)}" for name, value in _given(subset).items())
        raise OptionError(f"no sample of {reader.name} is left by {given}")
    rows = np.flatnonzero(is_chosen)
    starts = np.searchsorted(rows, reader.block_starts)
    blocks = np.flatnonzero(np.diff(starts))
    return Selection(rows, np.append(starts[blocks], len(rows)), blocks)


def choose_samples(dataset: Dataset, columns: Columns, subset: Subset) -> NDArray[np.bool_]:
    """Return a mask of the samples in a subset, bool (N,).

    Args:
        dataset: the samples' dataset.
        columns: the columns of N samples.
        subset: the conditions.

    Raises:
        OptionError: the dataset lacks a class or split, the columns lack an id, an origin is
            unknown, or ``where`` does not return a mask.
        StoreError: an index of ``exclude_duplicates_of`` cannot be read.
        FormatError: such an index is damaged.
    """
    is_chosen = np.ones(len(columns), np.bool_)
    if subset.classes is not None:
        label_of = {name: label for label, name in enumerate(dataset.manifest.classes)}
        check_classes(subset.classes, dataset.manifest.classes)
        wanted = [label_of[name] for name in subset.classes]
        is_chosen &= np.isin(columns.labels, wanted)
    if subset.origin is not None:
        names = [subset.origin] if isinstance(subset.origin, str) else subset.origin
        is_chosen &= np.isin(columns.origin, [origin for n in names for origin in origins_named(n)])
    if subset.ids is not None:
        check_ids(subset.ids, columns.ids, "+".join(dict.fromkeys(columns.split.tolist())))
        is_chosen &= np.isin(columns.ids, subset.ids)
    if subset.where is not None:
        is_chosen &= _mask(subset.where(columns), len(columns))
    if subset.exclude_duplicates_of is not None:
        others = dataset.columns_of(subset.exclude_duplicates_of)
        if set(others.split) & set(columns.split):
            raise OptionError(
                f"exclude_duplicates_of={subset.exclude_duplicates_of!r}: expected splits other "
                f"than those that are read, {'+'.join(dict.fromkeys(columns.split.tolist()))}"
            )
        is_chosen &= ~np.isin(columns.pixel_hash, others.pixel_hash)
    if subset.fraction < 1:
        is_chosen = _thinned(is_chosen, columns, subset)
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


def check_ids(wanted: Sequence[int], known: NDArray[np.int64], name: str) -> None:
    """Check that ids exist.

    Args:
        wanted: the ids.
        known: the ids of all samples of the splits that are read, shape (N,).
        name: the splits' names, for the message.

    Raises:
        OptionError: an id is not among the known ones.
    """
    if unknown := sorted(set(wanted).difference(known.tolist())):
        raise OptionError(
            f"ids: {len(unknown):,} of {len(wanted):,} are not in {name}: {few(unknown)}; give "
            "positions in the dataset, as in batch.indices and columns.ids"
        )


def _given(subset: Subset) -> dict[str, Any]:
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


def _thinned(is_chosen: NDArray[np.bool_], columns: Columns, subset: Subset) -> NDArray[np.bool_]:
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
            out[rows[kernels.choose(count, len(rows), purpose, subset.fraction_seed)]] = True
    return out
