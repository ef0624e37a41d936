"""Listings of a tree, and the changes between two of them."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards.tree.records import Tree

Listing = dict[str, NDArray[Any]]
"""Paths, sizes and dates of the files of each split; see ``list_tree``."""


def list_tree(tree: Tree) -> Listing:
    """List a tree's files as arrays.

    Returns:
        For each split: ``<split>:paths``, UTF-8 as uint8, joined by newlines; ``<split>:sizes``,
        int64, in bytes; ``<split>:modified``, int64, in nanoseconds. Files that hold many images
        are listed under an empty split name.
    """
    listing: Listing = {}
    if containers := tree.containers:
        sizes, dates = zip(*containers.values(), strict=True)
        # A file that holds images may have any name, but newlines separate paths.
        paths = "\n".join(name.replace("\n", " ") for name in containers)
        listing[":paths"] = np.frombuffer(os.fsencode(paths), np.uint8)
        listing[":sizes"], listing[":modified"] = np.array(sizes), np.array(dates)
    for split, records in tree.splits.items():
        # No path contains a newline: the scan rejects such names.
        paths = "\n".join(records.files)
        listing[f"{split}:paths"] = np.frombuffer(paths.encode(), np.uint8)
        listing[f"{split}:sizes"] = records.sizes
        listing[f"{split}:modified"] = records.modified
    return listing


def changes(before: Listing, now: Listing) -> Iterator[str]:
    """Yield the differences between two listings, one line each."""
    if before.keys() == now.keys() and all(
        np.array_equal(before[name], now[name]) for name in before
    ):
        return
    one, two = _by_path(before), _by_path(now)
    for path in sorted(one.keys() | two.keys()):
        if one.get(path) != two.get(path):
            what = "new" if path not in one else "gone" if path not in two else "changed"
            yield f"{path}: {what} since packing began"


def _by_path(listing: Listing) -> dict[str, tuple[int, int]]:
    rows: dict[str, tuple[int, int]] = {}
    for name, paths in listing.items():
        split, _, column = name.rpartition(":")
        if column == "paths":
            sizes, modified = listing[f"{split}:sizes"], listing[f"{split}:modified"]
            states = zip(sizes.tolist(), modified.tolist(), strict=True)
            rows.update(zip(os.fsdecode(paths.tobytes()).split("\n"), states, strict=True))
    return rows
