"""Open a dataset's files: its manifest, a shard, a shard's index."""

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import FormatError, MissingError, StoreError, some
from cinic_shards.format import Index, Manifest, ShardInfo
from cinic_shards.jobs.threads import ThreadPool
from cinic_shards.store.base import Store
from cinic_shards.store.local import LocalStore
from cinic_shards.store.work_folder import LOCK


def read_manifest(store: Store) -> Manifest:
    """Read the manifest of the dataset in a store.

    Raises:
        StoreError: the store holds no dataset.
        FormatError: the manifest is damaged or needs a newer release.
    """
    return parse_manifest(store, read_manifest_bytes(store))


def parse_manifest(store: Store, data: bytes) -> Manifest:
    """Parse the manifest of a store.

    Raises:
        FormatError: it is damaged or needs a newer release.
    """
    return _parsed(data, f"{store}/{fmt.MANIFEST_NAME}")


@lru_cache(maxsize=8)
def _parsed(data: bytes, location: str) -> Manifest:
    """Parse a manifest once for all loaders of a dataset."""
    return Manifest.from_bytes(data, location=location, encodings=ENCODINGS)


def _no_dataset(store: Store, error: MissingError) -> StoreError:
    """Make the error for a missing manifest."""
    is_local_file = isinstance(store, LocalStore) and store.root.is_file()
    if is_local_file or (not store.is_local and str(store).endswith(_FILE_SUFFIXES)):
        return StoreError(str(store), _file_problem(str(store)))
    if not store.can_list:
        return StoreError(
            error.location,
            f"{error.reason}; a web server does not list its files: give the URL of "
            f"the folder that holds {fmt.MANIFEST_NAME}",
        )
    names = store.names()
    if fmt.MANIFEST_NAME in names:  # a broken symbolic link
        return error
    if is_packing(store, names):
        return StoreError(str(store), "packing did not finish; run the same command again")
    found = f"holds {names[0]}, but no {fmt.MANIFEST_NAME}" if names else "no dataset"
    hint = "give a folder that cinic-shard pack has written"
    if any(fmt.parse_shard_name(name) for name in names):
        hint = "cinic-shard reindex rebuilds it from the shards"
    elif isinstance(store, LocalStore):
        root = store.root
        datasets = [name for name in names if (root / name / fmt.MANIFEST_NAME).is_file()]
        if datasets:
            hint = f"give one of the datasets in it: {some(datasets)}"
        elif next(root.glob("*/*/*.png"), None):
            found = "a folder of images, not of shards"
            hint = f"pack it first: cinic-shard pack {root} ./shards"
        elif next(root.glob("*/*.png"), None):
            found = "a folder of images, not of shards"
            hint = f"if it is a split, pack the folder above it: cinic-shard pack {root.parent}"
    return StoreError(str(store), f"{found}; {hint}")


_FILE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip", f"/{fmt.MANIFEST_NAME}")


def _file_problem(path: str) -> str:
    """Return what is wrong with a file that was given instead of a dataset's folder."""
    folder, _, name = path.replace(os.sep, "/").rpartition("/")
    if name == fmt.MANIFEST_NAME or fmt.parse_shard_name(name):
        return f"a file of a dataset; give the folder that holds it: {folder or '.'}"
    if name.endswith(_FILE_SUFFIXES):
        return (
            "an archive, expected a folder of shards; if it holds images, pack it first: "
            f"cinic-shard pack {path} ./shards"
        )
    return "a file, expected a folder that cinic-shard pack has written"


def is_packing(store: Store, names: Sequence[str]) -> bool:
    """Return True if a job that did not finish has left its files in a store.

    Args:
        store: the output's store.
        names: names in the store; some object stores still list a folder that was emptied.
    """
    is_file = store.is_local and not store.is_folder(fmt.PACKING_FOLDER)
    if fmt.PACKING_FOLDER not in names or is_file:
        return False
    found = store.folder(fmt.PACKING_FOLDER).names()
    return LOCK in found or (store.is_local and not found)


def read_manifest_bytes(store: Store) -> bytes:
    """Read the file of the manifest in a store.

    Raises:
        StoreError: the store holds no dataset.
    """
    try:
        return store.read(fmt.MANIFEST_NAME)
    except MissingError as error:
        raise _no_dataset(store, error) from error


def check_keys(location: str, index: Index, split: str, classes: Sequence[str]) -> None:
    """Check that every key of an index begins with its split and the class of its label.

    Args:
        location: the shard's location, for messages.
        index: the shard's index; its labels are less than the number of classes.
        split: name of the shard's split.
        classes: class names of the manifest, in the order of their labels.

    Raises:
        FormatError: a key does not, or the index states different classes.
    """
    if index.classes is not None and index.classes != tuple(classes):
        raise FormatError(
            location,
            f"its index says that the classes are {fmt.shown(index.classes)}, the manifest says "
            f"{fmt.shown(tuple(classes))}; fetch the files again",
        )
    prefixes = [f"{split}/{name}/" for name in classes]
    labels = index.label.tolist()
    # The loader does this for all samples at once: 30 ms for 270,000.
    if not all(map(str.startswith, index.keys, map(prefixes.__getitem__, labels))):
        wrong = zip(index.keys, labels, strict=True)
        row = next(row for row, (key, i) in enumerate(wrong) if not key.startswith(prefixes[i]))
        raise FormatError(
            location,
            f"sample {row} has the key {fmt.shown(index.keys[row])}, but its label {labels[row]} "
            f"is that of {fmt.shown(prefixes[labels[row]])}; fetch the files again",
        )


def open_shard(
    store: Store, shard: ShardInfo, num_classes: int, *, read_ahead: bool = False
) -> tuple[NDArray[np.uint8], Index]:
    """Open a shard: map its file and parse its index.

    Args:
        store: the dataset's store.
        shard: the shard's entry in the manifest.
        num_classes: number of classes in the manifest; a label must be less.
        read_ahead: let the system start to read the entire file now.

    Returns:
        The shard's bytes as ``Store.map`` returns them, uint8 (size,), and its index.

    Raises:
        StoreError: the shard cannot be read, or has the wrong size.
        FormatError: its index is damaged or does not match the manifest.
    """
    memory = store.map(shard.name, shard.size, read_ahead=read_ahead)
    data = memory[shard.index_offset : shard.index_offset + shard.index_length].tobytes()
    return memory, _parse_index(store, shard, num_classes, data)


def read_index(store: Store, shard: ShardInfo, num_classes: int) -> Index:
    """Read only the index of a shard.

    Raises:
        StoreError: the shard cannot be read.
        FormatError: the index is damaged or does not match the manifest.
    """
    stop = shard.index_offset + shard.index_length
    data = bytes(store.read_range(shard.name, shard.index_offset, stop))
    return _parse_index(store, shard, num_classes, data)


def read_indexes(store: Store, shards: Sequence[ShardInfo], num_classes: int) -> list[Index]:
    """Read the indexes of shards, several at a time; see ``read_index``."""
    with ThreadPool(1 if store.is_local else _INDEXES_AT_ONCE, "cinic-shards-index") as threads:
        return list(threads.map(partial(read_index, store, num_classes=num_classes), shards))


_INDEXES_AT_ONCE = 16
"""Concurrent requests for indexes that are not local."""


def _parse_index(store: Store, shard: ShardInfo, num_classes: int, data: bytes) -> Index:
    location = f"{store}/{shard.name}"
    if (found := hashlib.sha256(data).hexdigest()) != shard.index_sha256:
        raise FormatError(
            location,
            f"its index has SHA-256 {found}, the manifest says {shard.index_sha256}; "
            "the file is damaged, fetch it again",
        )
    location = f"{location}: index"
    index = Index.from_bytes(
        data,
        location=location,
        end=shard.index_offset,
        num_classes=num_classes,
        encodings=ENCODINGS,
    )
    if len(index) != shard.num_samples:
        raise FormatError(location, f"{len(index)} samples, the manifest says {shard.num_samples}")
    return index
