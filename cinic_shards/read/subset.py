"""Which samples of a split an epoch visits: chosen by what the indexes say, before planning."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec import kernels
from cinic_shards.errors import OptionError
from cinic_shards.format.provenance import origins_named
from cinic_shards.options import integer
from cinic_shards.read.columns import Columns
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.split import SplitReader

Where = Callable[[Columns], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """What a sample must be to be visited; all of it."""

    classes: Sequence[str] | None = None
    """Of one of these classes. Labels stay what they are."""
    origin: str | Sequence[str] | None = None
    """From one of these: ``cifar``, ``cifar-train``, ``cifar-test``, ``imagenet``, ``unknown``."""
    where: Where | None = None
    """A function of the ``Columns`` of N samples that gives a mask, bool (N,)."""
    exclude_duplicates_of: str | None = None
    """A split, or several as ``valid+test``: no sample that has the pixels of one of its."""
    fraction: float = 1.0
    """So much of what is left, of each class of each split alike (rounded, but at least one)."""
    fraction_seed: int = 0
    """Of the choice. With one seed, a smaller fraction is part of a larger one."""

    def __post_init__(self) -> None:
        if isinstance(self.classes, str):
            raise OptionError(f"classes={self.classes!r}: expected a list of class names")
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))
        if self.origin is not None and not isinstance(self.origin, str):
            object.__setattr__(self, "origin", tuple(self.origin))
        if not (isinstance(self.fraction, int | float) and 0 < self.fraction <= 1):
            raise OptionError(f"fraction={self.fraction!r}: expected more than 0, and at most 1")
        object.__setattr__(self, "fraction_seed", integer("fraction_seed", self.fraction_seed))
        if self.where is not None and not callable(self.where):
            raise OptionError(f"where={self.where!r}: expected a function of Columns")


@dataclass(frozen=True, slots=True)
class Selection:
    """The n chosen rows of a reader's N; a *place* is one of range(n), as the plan counts them."""

    rows: NDArray[np.int64] | None
    """The reader's row at each place, rising, shape (n,); None where all are chosen."""
    block_starts: NDArray[np.int64]
    """First place of each block with a chosen row, and n: shape (b + 1,)."""
    blocks: NDArray[np.int64]
    """The reader's numbers of these blocks, shape (b,)."""

    def __len__(self) -> int:
        return int(self.block_starts[-1])

    def rows_at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The reader's rows at these places."""
        return places if self.rows is None else self.rows[places]

    def digests(self, reader: SplitReader) -> tuple[str, str]:
        """Of the chosen samples, and of how blocks divide them: equal where these are equal."""
        rows = np.arange(len(reader)) if self.rows is None else self.rows
        return tuple(
            hashlib.blake2b(array.astype("<i8").tobytes(), digest_size=16).hexdigest()
            for array in (reader.ids(rows), self.block_starts)
        )  # type: ignore[return-value]


def select(dataset: Dataset, reader: SplitReader, subset: Subset) -> Selection:
    """Choose among a reader's rows.

    Raises:
        OptionError: a class, origin or split that is not there, no mask, or nothing is left.
    """
    if subset == Subset():
        return Selection(None, reader.block_starts, np.arange(reader.num_blocks))
    is_chosen = choose_samples(dataset, reader.columns, subset)
    if not is_chosen.any():
        given = ", ".join(f"{name}={value!r}" for name, value in _given(subset).items())
        raise OptionError(f"no sample of {reader.name} is left by {given}")
    rows = np.flatnonzero(is_chosen)
    starts = np.searchsorted(rows, reader.block_starts)
    blocks = np.flatnonzero(np.diff(starts))
    return Selection(rows, np.append(starts[blocks], len(rows)), blocks)


def choose_samples(dataset: Dataset, columns: Columns, subset: Subset) -> NDArray[np.bool_]:
    """Which of a dataset's samples, those of ``columns``, are in a subset: bool, shape (N,).

    Raises:
        OptionError: a class, origin or split that is not there, or no mask.
    """
    is_chosen = np.ones(len(columns), np.bool_)
    if subset.classes is not None:
        classes = dataset.manifest.classes
        wanted = [classes.index(_known("class", name, classes)) for name in subset.classes]
        is_chosen &= np.isin(columns.labels, wanted)
    if subset.origin is not None:
        names = [subset.origin] if isinstance(subset.origin, str) else subset.origin
        is_chosen &= np.isin(columns.origin, [origin for n in names for origin in origins_named(n)])
    if subset.where is not None:
        is_chosen &= _mask(subset.where(columns), len(columns))
    if subset.exclude_duplicates_of is not None:
        others = dataset.columns_of(subset.exclude_duplicates_of)
        if set(others.split) & set(columns.split):
            raise OptionError(
                f"exclude_duplicates_of={subset.exclude_duplicates_of!r}: that is part of what is "
                f"read, {'+'.join(dict.fromkeys(columns.split.tolist()))}; give other splits"
            )
        is_chosen &= ~np.isin(columns.pixel_hash, others.pixel_hash)
    if subset.fraction < 1:
        is_chosen = _thinned(is_chosen, columns, subset)
    return is_chosen


def _given(subset: Subset) -> dict[str, Any]:
    default = Subset()
    names = Subset.__dataclass_fields__
    values = {name: getattr(subset, name) for name in names}
    return {name: value for name, value in values.items() if value != getattr(default, name)}


def _known(kind: str, name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise OptionError(f"no {kind} {name!r}; there is {', '.join(names)}")
    return name


def _mask(mask: Any, num_samples: int) -> NDArray[np.bool_]:
    if getattr(mask, "dtype", None) != np.bool_ or mask.shape != (num_samples,):
        found = f"{getattr(mask, 'dtype', type(mask))} of shape {getattr(mask, 'shape', '?')}"
        raise OptionError(
            f"where= gave {found}; expected a numpy array of bool, shape ({num_samples},)"
        )
    return np.asarray(mask)


def _thinned(is_chosen: NDArray[np.bool_], columns: Columns, subset: Subset) -> NDArray[np.bool_]:
    """A fraction of each class of each split."""
    out = np.zeros_like(is_chosen)
    for split in np.unique(columns.split).tolist():
        in_split = is_chosen & (columns.split == split)
        for label in np.unique(columns.labels[in_split]).tolist():
            rows = np.flatnonzero(in_split & (columns.labels == label))
            count = max(1, int(subset.fraction * len(rows) + 0.5))
            purpose = f"fraction of {split}, label {label}"
            out[rows[kernels.choose(count, len(rows), purpose, subset.fraction_seed)]] = True
    return out
