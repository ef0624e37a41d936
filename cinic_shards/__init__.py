"""CINIC-10 as tar shards: pack a PNG tree, stream it at the speed of the decoder.

``ShardLoader`` and what else needs torch is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cinic_shards._version import __version__

__all__ = ["CINIC10", "Augment", "Batch", "ShardIterable", "ShardLoader", "Subset", "__version__"]

if TYPE_CHECKING:
    from cinic_shards.loader.augment import Augment
    from cinic_shards.loader.batches import Batch
    from cinic_shards.loader.loader import ShardLoader
    from cinic_shards.loader.torch_datasets import CINIC10, ShardIterable
    from cinic_shards.read.subset import Subset

_PLACES = {
    "Augment": "loader.augment",
    "Batch": "loader.batches",
    "CINIC10": "loader.torch_datasets",
    "ShardIterable": "loader.torch_datasets",
    "ShardLoader": "loader.loader",
    "Subset": "read.subset",
}
"""Public name -> the file that it is in."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'cinic_shards' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cinic_shards.{_PLACES[name]}"), name)
