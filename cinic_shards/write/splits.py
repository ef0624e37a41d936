"""Which samples make up the splits of a new dataset: kept, joined, or thinned out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.errors import FormatError, OptionError, few
from cinic_shards.format import ShardInfo
from cinic_shards.read.columns import Columns
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.subset import Subset, choose_samples


@dataclass(frozen=True, slots=True)
class NewSplit:
    """A split to be made, and the splits that it is made of."""

    name: str
    parts: tuple[str, ...]


def parse_splits(texts: Sequence[str], known: Sequence[str]) -> tuple[NewSplit, ...]:
    """The splits that a user asks for.

    Args:
        texts: ``train`` keeps a split as it is, ``train+valid`` joins two, as ``train-valid``, and
            ``all=train+valid`` names what it makes; several with commas between them.
        known: names of the splits that there are.

    Raises:
        OptionError: a split that there is not, or a name that cannot be.
    """
    found: dict[str, NewSplit] = {}
    for text in (part for one in texts for part in one.split(",")):
        name, equals, joined = text.rpartition("=")
        parts = tuple(joined.split("+"))
        for part in parts:
            if part not in known:
                raise OptionError(f"no split {part!r}; there is {', '.join(known)}")
            if parts.count(part) > 1:
                raise OptionError(f"split {text!r}: {part} is there twice")
        name = name if equals else "-".join(parts)
        if not fmt.SPLIT_NAME.fullmatch(name) or len(name) > fmt.MAX_NAME_BYTES:
            raise OptionError(
                f"split {text!r}: {name!r} cannot be a split's name: expected letters, digits and "
                "any of _ - . that it does not begin with"
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
    """Those of its parts, and the split of each."""
    keys: list[str]
    """The new ones."""
    old_keys: list[str]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    """In the dataset that they are chosen from, shape (n,)."""
    shard: NDArray[np.int64]
    """The place in ``shards``, shape (n,)."""
    row: NDArray[np.int64]
    """The row in that shard, shape (n,)."""


def choose(
    dataset: Dataset, splits: Sequence[str], subset: Subset, warn: Callable[[str], None]
) -> list[Chosen]:
    """Choose the samples of each new split, in name order; only indexes are read.

    Args:
        dataset: which they are of.
        splits: see ``parse_splits``.
        subset: which samples of each; see ``select.select``.
        warn: called with what a user should know.

    Raises:
        OptionError: an option cannot be, no sample is left, or two would have one key.
        StoreError, FormatError: an index cannot be read, or is damaged.
    """
    manifest = dataset.manifest
    found, empty = [], []
    has_excluded = subset.exclude_duplicates_of is None
    for split in parse_splits(splits, [split.name for split in manifest.splits]):
        of_split = subset
        if subset.exclude_duplicates_of is not None:
            if set(subset.exclude_duplicates_of.split("+")) & set(split.parts):
                of_split = replace(subset, exclude_duplicates_of=None)
            else:
                has_excluded = True
        one = _choose_split(dataset, split, of_split)
        if len(one.keys):
            found.append(one)
        else:
            empty.append(split.name)
    if not has_excluded:
        raise OptionError(
            f"duplicates of {subset.exclude_duplicates_of} are to be left out of other splits, "
            "and none is asked for"
        )
    if not found:
        raise OptionError(f"{dataset.store}: no sample is left by these options")
    if empty:
        warn(f"no sample is left of {', '.join(empty)}: there will be no such split")
    return found


def _choose_split(dataset: Dataset, split: NewSplit, subset: Subset) -> Chosen:
    parts = [part for part in dataset.manifest.splits if part.name in split.parts]
    columns = Columns.read(dataset.store, dataset.manifest, parts)
    chosen = np.flatnonzero(choose_samples(dataset, columns, subset))
    shards = tuple((part.name, shard) for part in parts for shard in part.shards)
    starts = np.cumsum([0, *(shard.num_samples for _, shard in shards)])
    shard_of = np.searchsorted(starts, chosen, side="right") - 1
    ids = np.concatenate([p.first_id + np.arange(p.num_samples, dtype=np.int64) for p in parts])
    old_keys: list[str] = columns.keys[chosen].tolist()
    keys = [f"{split.name}/{key.partition('/')[2]}" for key in old_keys]
    for key, old, part in zip(keys, old_keys, columns.split[chosen].tolist(), strict=True):
        if problem := fmt.key_problem(old, part) or fmt.key_problem(key, split.name):
            raise FormatError(str(dataset.store), f"a sample {old!r} of {part}: {problem}")
    if len(set(keys)) < len(keys):
        _refuse_twice(split.name, keys, old_keys)
    return Chosen(
        name=split.name,
        shards=shards,
        keys=keys,
        old_keys=old_keys,
        labels=columns.labels[chosen],
        ids=ids[chosen],
        shard=shard_of,
        row=chosen - starts[shard_of],
    )


def _refuse_twice(name: str, keys: Sequence[str], old_keys: Sequence[str]) -> None:
    first: dict[str, str] = {}
    twice = [
        f"{first[key]} and {old}"
        for key, old in zip(keys, old_keys, strict=True)
        if first.setdefault(key, old) != old
    ]
    raise OptionError(
        f"split {name}: {len(twice):,} samples have the class and name of another one: "
        f"{few(twice)}; keep these splits apart"
    )
