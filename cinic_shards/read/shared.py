"""Readers that the loaders of one process share: maps, indexes and columns are held once."""

from weakref import WeakValueDictionary

from cinic_shards.read.dataset import Dataset
from cinic_shards.read.split import Check, SplitReader

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
    # No lock: a process forked while another thread holds it would wait for it forever.
    key = (dataset.store.identity, names, check)
    reader = _readers.get(key)
    if reader is None or reader.manifest != dataset.manifest:
        reader = _readers[key] = dataset.split(names, check=check)
    return reader
