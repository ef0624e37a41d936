"""Exact duplicates: images with the same pixels, within a split and across splits."""

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np

import cinic_shards.format as fmt
from cinic_shards.errors import FormatError
from cinic_shards.format import Manifest
from cinic_shards.read.columns import Columns
from cinic_shards.store import Store


@dataclass(frozen=True, slots=True)
class Duplicates:
    """The duplicate images of a dataset.

    Example:
        >>> stats("shards").duplicates.groups
        ()
    """

    groups: tuple[tuple[str, ...], ...]
    """Groups of keys whose images have the same pixels, in dataset order."""

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of groups by class and splits: class -> splits -> groups.

        Splits are ``train`` for a group with two or more images in that split, ``train & test``
        for one with images in both. The class is that of the group's first image; ``other class``
        counts groups with several classes.
        """
        found: dict[str, Counter[str]] = {}
        for keys in self.groups:
            pairs = [tuple(key.split("/")[:2]) for key in keys]
            splits = Counter(split for split, _ in pairs)
            columns = [split for split, count in splits.items() if count > 1]
            columns += [f"{one} & {two}" for one, two in itertools.combinations(splits, 2)]
            classes = {name for _, name in pairs}
            for name in [pairs[0][1], *(["other class"] if len(classes) > 1 else [])]:
                found.setdefault(name, Counter()).update(columns)
        return {name: dict(counts) for name, counts in sorted(found.items())}


def find_duplicates(store: Store, manifest: Manifest) -> Duplicates:
    """Find images with equal pixel hashes; only indexes are read.

    Raises:
        StoreError: a shard cannot be read.
        FormatError: an index is damaged.
    """
    columns = Columns.read(store, manifest, manifest.splits)
    return duplicates_among(columns, location=str(store))


def duplicates_among(columns: Columns, *, location: str) -> Duplicates:
    """Find images with equal pixel hashes.

    Args:
        columns: the images' columns.
        location: the dataset's location, for messages.

    Raises:
        FormatError: a key is invalid.
    """
    _, image_of, counts = np.unique(columns.pixel_hash, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[image_of] > 1)
    groups: dict[int, list[str]] = {}
    for row in repeated.tolist():
        key = columns.keys[row]
        if problem := fmt.key_problem(key, key.partition("/")[0]):
            raise FormatError(location, f"a sample has the key {key!r}: {problem}")
        groups.setdefault(int(image_of[row]), []).append(key)
    return Duplicates(tuple(tuple(group) for group in groups.values()))
