"""Faults: what is wrong with a dataset, and where."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

_MAX_FAULTS = 1000
"""Faults listed per shard; any more are only counted."""

Kind = Literal[
    "unreadable", "digest", "structure", "index", "payload", "pixels", "order", "manifest", "tree"
]
"""Categories of faults:

- ``unreadable``: a file is missing, truncated, or cannot be read;
- ``digest``: the SHA-256 of a file or an index differs from the manifest's;
- ``structure``: a tar header, sidecar, label, padding, or the end of a shard is wrong;
- ``index``: an index is damaged, contradicts itself, or does not match its shard;
- ``payload``: a payload's CRC-32 differs from the index's, or it cannot be decoded;
- ``pixels``: an image's pixel hash differs from the index's;
- ``order``: samples or shards are not in the packing order;
- ``manifest``: the manifest is damaged, or contradicts the shards;
- ``tree``: the dataset differs from the tree that it is compared with.
"""


@dataclass(frozen=True, slots=True)
class Location:
    """The location of a fault.

    Example:
        >>> from cinic_shards.check.faults import Location
        >>> str(Location("train-00000-of-00009.tar", offset=1536, sample=0, key="train/cat/a"))
        'train-00000-of-00009.tar, offset 1536, sample 0 (train/cat/a)'
    """

    file: str
    """The shard, the manifest, or a file of the tree that the dataset is compared with."""
    offset: int | None = None
    """Offset in the file, in bytes."""
    sample: int | None = None
    """The sample's row in the shard."""
    key: str = ""
    """The sample's key."""
    block: int | None = None
    """The block's number in the shard, if no sample can be named."""

    def __str__(self) -> str:
        parts = [self.file]
        if self.offset is not None:
            parts.append(f"offset {self.offset}")
        if self.sample is not None:
            parts.append(f"sample {self.sample} ({self.key})")
        if self.block is not None:
            parts.append(f"block {self.block}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a dataset.

    Example:
        >>> os.remove("shards/train-00000-of-00001.tar")
        >>> [fault.kind for fault in verify("shards").faults]
        ['unreadable']
    """

    location: Location
    kind: Kind
    problem: str
    """Text for people, with what was found and expected; programs use ``kind``."""

    def __str__(self) -> str:
        return f"{self.location}: {self.problem}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a flat dict, those of the location included."""
        return {**asdict(self.location), "kind": self.kind, "problem": self.problem}


class FaultList:
    """The faults of one shard, only the first of each sample or block: it causes the others."""

    def __init__(self, file: str) -> None:
        self.faults: list[Fault] = []
        self.num_more = 0
        """Number of faults beyond the first 1,000."""
        self._file = file
        self._seen: set[tuple[int | None, int | None]] = set()

    def add(
        self,
        kind: Kind,
        problem: str,
        offset: int | None = None,
        *,
        sample: int | None = None,
        key: str = "",
        block: int | None = None,
    ) -> None:
        """Add a fault if it is the first of its sample or block; see ``Fault``."""
        if sample is not None or block is not None:
            if (sample, block) in self._seen:
                return
            self._seen.add((sample, block))
        if len(self.faults) == _MAX_FAULTS:
            self.num_more += 1
        else:
            location = Location(self._file, offset, sample, key, block)
            self.faults.append(Fault(location, kind, problem))
