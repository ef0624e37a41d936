"""Choose the samples of a new dataset: splits may be kept, joined, renamed or reduced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.errors import FormatError, OptionError, few
from cinic_shards.format import ShardInfo
from cinic_shards.read.columns import Columns
from cinic_shards.read.dataset import Dataset, find_splits
from cinic_shards.read.subset import Subset, meeting_conditions, thinned


@dataclass(frozen=True, slots=True)
class NewSplit:
    """A new split."""

    name: str
    parts: tuple[str, ...]
    """Names of the existing splits that it is made from."""


def parse_splits(
    texts: str | Sequence[str], known: Sequence[str], location: str
) -> tuple[NewSplit, ...]:
    """Parse the option that lists new splits.

    Args:
        texts: new splits. ``train`` keeps a split, ``train+valid`` joins two as ``train-valid``,
            ``all=train+valid`` joins and names them. Commas may separate several in one text.
        known: names of the existing splits.
        location: the dataset's location, for messages.

    Returns:
        The new splits in name order; without ``texts``, all existing ones.

    Raises:
        OptionError: a split does not exist, or a name is invalid or duplicate.
    """
    found: dict[str, NewSplit] = {}
    listed = [texts] if isinstance(texts, str) else texts
    for text in (part for one in listed for part in one.split(",")):
        name, equals, joined = text.rpartition("=")
        parts = tuple(find_splits(joined, known, location))
        name = name if equals else "-".join(parts)
        if not fmt.SPLIT_NAME.fullmatch(name) or len(name) > fmt.MAX_NAME_BYTES:
            raise OptionError(
                f"split {text!r}: {name!r} is not a valid name: expected a letter or digit, then "
                "letters, digits, _ - and ."
            )
        if name in found:
            raise OptionError(f"split {text!r}: there would be two splits {name!r}")
        found[name] = NewSplit(name, parts)
    return tuple(found[name] for name in sorted(found)) or tuple(
        NewSplit(name, (name,)) for name in known
    )


@dataclass(frozen=True, slots=True)
class Chosen:
    """The n samples of a new split."""

    name: str
    shards: tuple[tuple[str, ShardInfo], ...]
    """All shards of the splits that it is made from, as pairs of split name and shard."""
    keys: list[str]
    """The samples' new keys."""
    old_keys: list[str]
    """The samples' keys in the existing dataset."""
    labels: NDArray[np.int64]
    """Classes, shape (n,)."""
    ids: NDArray[np.int64]
    """Ids in the existing dataset, shape (n,)."""
    shard: NDArray[np.int64]
    """Position in ``shards`` of each sample's shard, shape (n,)."""
    row: NDArray[np.int64]
    """Row of each sample in its shard, shape (n,)."""


def choose(
    dataset: Dataset, splits: str | Sequence[str], subset: Subset, warn: Callable[[str], None]
) -> list[Chosen]:
    """Choose the samples of each new split, in name order; only indexes are read.

    Args:
        dataset: the existing dataset.
        splits: see ``parse_splits``.
        subset: the samples to keep of each split; see ``select.select``.
        warn: called with each warning, as a text.

    Raises:
        OptionError: an option is invalid, no sample is left, or two samples would have the same
            key.
        StoreError, FormatError: an index cannot be read, or is damaged.
    """
    known = [split.name for split in dataset.manifest.splits]
    new_splits = parse_splits(splits, known, str(dataset.store))
    excluded: set[str] = set()
    if subset.exclude_duplicates_of is not None:
        excluded = {split.name for split in dataset.splits(subset.exclude_duplicates_of)}
    names = "+".join(dict.fromkeys(part for split in new_splits for part in split.parts))
    columns = dataset.columns_of(names)
    is_chosen = meeting_conditions(dataset, columns, names, subset)
    found, empty = [], []
    has_excluded = not excluded
    for split in new_splits:
        of_split = subset
        if excluded & set(split.parts):
            of_split = replace(of_split, exclude_duplicates_of=None)
        else:
            has_excluded = True
        rows = np.flatnonzero(np.isin(columns.split, split.parts))
        own = columns.take(rows)
        chosen = _choose_split(
            dataset, split, own, thinned(is_chosen[rows], dataset, own, of_split)
        )
        if len(chosen.keys):
            found.append(chosen)
        else:
            empty.append(split.name)
    if not has_excluded:
        raise OptionError(
            f"exclude_duplicates_of={subset.exclude_duplicates_of!r}: only other splits can "
            "exclude duplicates of these; choose another split as well"
        )
    if not found:
        raise OptionError(f"{dataset.store}: no sample is left by these options")
    if empty:
        warn(f"no sample is left of {', '.join(empty)}: this split is not written")
    return found


def _choose_split(
    dataset: Dataset, split: NewSplit, columns: Columns, is_chosen: NDArray[np.bool_]
) -> Chosen:
    """Return the chosen ones of the samples that a new split is made from, in order of the ids."""
    parts = [part for part in dataset.manifest.splits if part.name in split.parts]
    chosen = np.flatnonzero(is_chosen)
    shards = tuple((part.name, shard) for part in parts for shard in part.shards)
    starts = np.cumsum([0, *(shard.num_samples for _, shard in shards)])
    shard_of = np.searchsorted(starts, chosen, side="right") - 1
    old_keys: list[str] = columns.keys[chosen].tolist()
    keys = [f"{split.name}/{key.partition('/')[2]}" for key in old_keys]
    for key, old, part in zip(keys, old_keys, columns.split[chosen].tolist(), strict=True):
        if problem := fmt.key_problem(old, part) or fmt.key_problem(key, split.name):
            raise FormatError(str(dataset.store), f"a sample {old!r} of {part}: {problem}")
    if len(set(keys)) < len(keys):
        raise _duplicate_keys(split.name, keys, old_keys)
    return Chosen(
        name=split.name,
        shards=shards,
        keys=keys,
        old_keys=old_keys,
        labels=columns.labels[chosen],
        ids=columns.ids[chosen],
        shard=shard_of,
        row=chosen - starts[shard_of],
    )


def _duplicate_keys(name: str, keys: Sequence[str], old_keys: Sequence[str]) -> OptionError:
    first: dict[str, str] = {}
    duplicates = [
        f"{first[key]} and {old}"
        for key, old in zip(keys, old_keys, strict=True)
        if first.setdefault(key, old) != old
    ]
    return OptionError(
        f"split {name}: {len(duplicates):,} samples have the same class and name as another: "
        f"{few(duplicates)}; do not join these splits"
    )
