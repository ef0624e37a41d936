"""CINIC-10 as tar shards: pack a PNG tree, stream it at the speed of the decoder.

Each name is imported on first use. Only the loader imports torch; only packing and reading import
numpy and numba.

Example:
    >>> import cinic_shards
    >>> cinic_shards.__version__.count(".")
    2
"""

import importlib
from typing import TYPE_CHECKING, Any

from cinic_shards._version import __version__

__all__ = [
    "ShardLoader", "Augment", "Batch", "CINIC10", "ShardIterable",
    "Dataset", "Subset", "Partition", "partition",
    "pack", "convert", "select", "export", "unpack",
    "verify", "reindex", "stats",
    "open_store",
    "__version__",
]  # fmt: skip

if TYPE_CHECKING:
    from cinic_shards.check.reindex import reindex
    from cinic_shards.check.verify import verify
    from cinic_shards.exports import export
    from cinic_shards.loader.augment import Augment
    from cinic_shards.loader.batch import Batch
    from cinic_shards.loader.cinic10 import CINIC10
    from cinic_shards.loader.loader import ShardLoader
    from cinic_shards.loader.torch_datasets import ShardIterable
    from cinic_shards.read.dataset import Dataset
    from cinic_shards.read.partition import Partition
    from cinic_shards.read.schemes import partition
    from cinic_shards.read.subset import Subset
    from cinic_shards.store import open_store
    from cinic_shards.view.stats import stats
    from cinic_shards.write.convert import convert
    from cinic_shards.write.pack import pack
    from cinic_shards.write.select import select
    from cinic_shards.write.unpack import unpack

_MODULES = {
    "Augment": "loader.augment",
    "Batch": "loader.batch",
    "CINIC10": "loader.cinic10",
    "Dataset": "read.dataset",
    "Partition": "read.partition",
    "ShardIterable": "loader.torch_datasets",
    "ShardLoader": "loader.loader",
    "Subset": "read.subset",
    "convert": "write.convert",
    "export": "exports",
    "open_store": "store",
    "pack": "write.pack",
    "partition": "read.schemes",
    "reindex": "check.reindex",
    "select": "write.select",
    "stats": "view.stats",
    "unpack": "write.unpack",
    "verify": "check.verify",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'cinic_shards' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cinic_shards.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
