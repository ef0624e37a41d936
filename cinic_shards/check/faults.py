"""What is wrong with a dataset, and where."""

from dataclasses import dataclass

_MAX_FAULTS = 1000
"""Of one shard; more are counted."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it should be."""

    file: str
    """The shard, or the manifest."""
    problem: str
    """What was found, and what was expected."""
    offset: int | None = None
    """Where in the file."""
    sample: int | None = None
    """Which sample of the shard."""
    key: str = ""
    """That sample's key."""
    block: int | None = None
    """Which block of the shard, where no sample can be named."""

    def __str__(self) -> str:
        place = [self.file]
        if self.offset is not None:
            place.append(f"offset {self.offset}")
        if self.sample is not None:
            place.append(f"sample {self.sample} ({self.key})")
        if self.block is not None:
            place.append(f"block {self.block}")
        return f"{', '.join(place)}: {self.problem}"


class Faults(list[Fault]):
    """The faults of one shard; of a sample or block only the first: others follow from it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._told: set[tuple[str, int]] = set()
        self.num_more = 0

    def tell(
        self,
        problem: str,
        offset: int | None = None,
        sample: int | None = None,
        key: str = "",
        block: int | None = None,
    ) -> None:
        """Note a fault: see ``Fault``."""
        for kind, number in (("sample", sample), ("block", block)):
            if number is not None:
                if (kind, number) in self._told:
                    return
                self._told.add((kind, number))
        if len(self) >= _MAX_FAULTS:
            self.num_more += 1
        else:
            self.append(Fault(self._name, problem, offset, sample, key, block))
