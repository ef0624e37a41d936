"""A shard to check, and what was found."""

from dataclasses import dataclass

from cinic_shards.check.faults import Fault
from cinic_shards.format import ShardInfo
from cinic_shards.store import Store
from cinic_shards.tree.records import ImageFiles
from cinic_shards.write.facts import ShardFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckJob:
    """A shard to check."""

    store: Store
    """The dataset's store."""
    split: str
    name: str
    info: ShardInfo | None = None
    """The shard's entry in the manifest; None if there is no manifest."""
    classes: tuple[str, ...] | None = None
    """Class names of the manifest; None if there is no manifest."""
    seed: int = 0
    """Seed of the packing order."""
    quick: bool = False
    """Compare no CRC-32, and decode no payload."""
    tree: ImageFiles | None = None
    """Compare every payload with its file in this tree."""
    keeps_keys: bool = False
    """Return the keys."""

    @property
    def location(self) -> str:
        """The shard's location, for messages."""
        return f"{self.store}/{self.name}"


@dataclass(frozen=True, slots=True)
class CheckedShard:
    """The faults of a shard, and its contents as far as they could be read."""

    name: str
    split: str
    facts: ShardFacts | None = None
    """None if its index cannot be read. Without decoding, the pixel sums are 0, and the image sizes
    are empty unless the index states one size."""
    encoding: str = ""
    block_size: int = 0
    class_of_label: dict[int, str] | None = None
    classes: tuple[str, ...] | None = None
    """The dataset's classes; None if the shard does not state them."""
    sidecars: tuple[str, ...] = ()
    order: tuple[bytes, bytes] = (b"", b"")
    """Packing digests of the first and the last sample."""
    keys: tuple[str, ...] = ()
    """The samples' keys, if the job keeps them."""
    faults: tuple[Fault, ...] = ()
    num_more_faults: int = 0
    """Number of faults beyond the first 1,000."""
    order_faults: tuple[Fault, ...] = ()
    """Samples that are not in the order of the job's seed: faults only if this is the seed."""
    num_more_order_faults: int = 0
    """Number of these beyond the first 1,000."""

    @property
    def num_samples(self) -> int:
        return self.facts.info.num_samples if self.facts else 0

    @property
    def num_order_faults(self) -> int:
        """Number of samples that are out of order."""
        return len(self.order_faults) + self.num_more_order_faults
