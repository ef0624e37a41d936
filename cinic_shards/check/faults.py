"""What is wrong with a dataset, and where."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

_MAX_FAULTS = 1000
"""Of one shard; more are counted."""

Kind = Literal[
    "unreadable", "digest", "structure", "index", "payload", "pixels", "order", "manifest", "tree"
]
"""What a fault is of:

- ``unreadable``: a file is missing, truncated, or cannot be read;
- ``digest``: a file or an index has another SHA-256 than the manifest says;
- ``structure``: a tar header, sidecar, label or padding, or the end of a shard;
- ``index``: an index is damaged, contradicts itself, or is not its shard's;
- ``payload``: a payload has another CRC-32 than the index says, or cannot be decoded;
- ``pixels``: an image has other pixels than the index says;
- ``order``: samples or shards are not in the packing order;
- ``manifest``: the manifest is damaged, or says what the shards do not;
- ``tree``: the dataset and the tree that it is compared with differ.
"""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a fault is."""

    file: str
    """The shard, the manifest, or a file of the tree that is compared with."""
    offset: int | None = None
    """Where in the file."""
    sample: int | None = None
    """Which sample of the shard."""
    key: str = ""
    """That sample's key."""
    block: int | None = None
    """Which block of the shard, where no sample can be named."""

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
    """Something that is not as it should be."""

    location: Location
    kind: Kind
    problem: str
    """What was found, and what was expected; for people: decide by ``kind``."""

    def __str__(self) -> str:
        return f"{self.location}: {self.problem}"

    def to_json(self) -> dict[str, Any]:
        """The fields, those of the location among them."""
        return {**asdict(self.location), "kind": self.kind, "problem": self.problem}


class FaultList:
    """The faults of one shard; of a sample or block only the first: others follow from it."""

    def __init__(self, file: str) -> None:
        self.faults: list[Fault] = []
        self.num_more = 0
        """Beyond the first 1,000."""
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
        """Add a fault, if it is the first of its sample or block; see ``Fault``."""
        if sample is not None or block is not None:
            if (sample, block) in self._seen:
                return
            self._seen.add((sample, block))
        if len(self.faults) == _MAX_FAULTS:
            self.num_more += 1
        else:
            location = Location(self._file, offset, sample, key, block)
            self.faults.append(Fault(location, kind, problem))
