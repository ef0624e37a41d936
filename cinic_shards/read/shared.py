"""Readers that the loaders of one process share: maps, indexes and columns are held once."""

import os
from weakref import WeakValueDictionary

from cinic_shards.read.dataset import Dataset
from cinic_shards.read.split import Check, SplitReader
from cinic_shards.store import LocalStore

_readers: WeakValueDictionary[tuple[object, ...], SplitReader] = WeakValueDictionary()


def open_shared(dataset: Dataset, names: str, check: Check) -> SplitReader:
    """Return an open reader of the same files and splits, or open one; see ``SplitReader.share``.

    Readers of a server's files are not shared.

    Args:
        dataset: the dataset.
        names: the splits, as in ``train+valid``.
        check: see ``SplitReader``.

    Raises:
        OptionError, StoreError, FormatError: as ``Dataset.split``.
    """
    if not dataset.store.is_local:
        return dataset.split(names, check=check)
    assert isinstance(dataset.store, LocalStore)
    files = [dataset.store.path(s.name) for one in dataset.splits(names) for s in one.shards]
    try:  # a damaged shard may have been fetched again, with the same manifest
        states = [os.stat(file) for file in files]
    except OSError:
        return dataset.split(names, check=check)  # names the file
    versions = tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in states)
    key = (dataset.store.identity, names, check, versions)
    # No lock: a process forked while another thread holds it would wait for it forever.
    reader = _readers.get(key)
    if reader is None or reader.manifest != dataset.manifest:
        reader = _readers[key] = dataset.split(names, check=check)
    return reader
