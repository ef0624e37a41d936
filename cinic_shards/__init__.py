"""CINIC-10 as tar shards: pack a PNG tree, stream it at the speed of the decoder.

``ShardLoader`` and what else needs torch is imported when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Augment", "Batch", "ShardLoader", "__version__"]

if TYPE_CHECKING:
    from cinic_shards.augment import Augment
    from cinic_shards.loader import Batch, ShardLoader


def __getattr__(name: str) -> Any:
    if name in ("Batch", "ShardLoader"):
        from cinic_shards import loader

        return getattr(loader, name)
    if name == "Augment":
        from cinic_shards.augment import Augment

        return Augment
    raise AttributeError(f"module 'cinic_shards' has no attribute {name!r}")
