"""Check the columns of an index that follow from its keys, and its bytes."""

import numpy as np

import cinic_shards.format as fmt
from cinic_shards.check.differences import differences
from cinic_shards.check.faults import FaultList, Kind
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import FormatError
from cinic_shards.format import Index
from cinic_shards.format.provenance import parse_stem
from cinic_shards.write.facts import packing_digests


class IndexCheck:
    """Checks of an index that need no other part of its shard.

    Args:
        index: the index.
        location: the shard's location, for messages.
        split: name of the shard's split.
        faults: faults are added to it.
    """

    def __init__(self, index: Index, location: str, split: str, faults: FaultList) -> None:
        self.index = index
        self._location = location
        self._split = split
        self._faults = faults

    def add(self, kind: Kind, row: int, problem: str, offset: int | None = None) -> None:
        """Add a fault of a sample, by default at the offset of its pixels."""
        at = self._offset(row) if offset is None else offset
        self._faults.add(kind, problem, at, sample=row, key=self.index.keys[row])

    def _offset(self, row: int) -> int:
        """Offset of a sample's PNG or pixels; that of its block if the block is compressed."""
        index, encoding = self.index, ENCODINGS[self.index.encoding]
        number, row_in_payload = divmod(row, encoding.rows_a_payload(index.block_size))
        at = int(index.offset[number])
        if encoding.pixels_offset is None:
            return at
        assert index.image_shape is not None
        return at + encoding.pixels_offset + row_in_payload * int(np.prod(index.image_shape))

    def check_bytes(self, data: bytes, offset: int) -> None:
        """Check that the index is written as docs/format.md says, without other fields."""
        expected = self.index.to_bytes()
        if data == expected:
            return
        unpacked = (fmt.unpack_index(one, self._location) for one in (data, expected))
        problems = differences(*unpacked) or [
            "its fields are not in the order and the form of docs/format.md, or not unique"
        ]
        for problem in problems:
            self._faults.add("index", f"its index: {problem}", offset)

    def check_columns(self, classes: tuple[str, ...] | None) -> None:
        """Check the keys, and labels and provenances, which follow from them.

        Args:
            classes: class names of the manifest; None if there is no manifest.

        Raises:
            FormatError: a key is invalid or not unique: a shard cannot be laid out with it.
        """
        index = self.index
        for row, key in enumerate(index.keys):
            if problem := fmt.key_problem(key, self._split):
                raise FormatError(self._location, f"sample {row} has the key {key!r}: {problem}")
            stated, named = index.provenance(row), parse_stem(key.rpartition("/")[2])
            for field, one, other in zip(stated._fields, stated, named, strict=True):
                if one != other:
                    problem = f"{field}: the index says {one!r}, its name says {other!r}"
                    self.add("index", row, problem)
        if len(set(index.keys)) < len(index):
            raise FormatError(self._location, "two of its samples have the same key")
        names = dict(enumerate((index.classes if classes is None else classes) or ()))
        for row, (label, key) in enumerate(zip(index.label.tolist(), index.keys, strict=True)):
            name = key.split("/")[1]
            if classes is not None and label >= len(classes):
                self.add("index", row, f"label {label} is that of no class of the manifest")
            elif names.setdefault(label, name) != name:
                class_name = fmt.shown(names[label])
                self.add("index", row, f"label {label} is that of class {class_name}")

    def check_order(self, seed: int, faults: FaultList) -> tuple[bytes, bytes]:
        """Check that the packing digests strictly ascend; return the first and the last one."""
        digests = packing_digests(self.index.keys, seed)
        for row in range(1, len(digests)):
            if digests[row - 1] >= digests[row]:
                problem = f"out of the packing order of seed {seed}"
                faults.add(
                    "order", problem, self._offset(row), sample=row, key=self.index.keys[row]
                )
        return digests[0], digests[-1]
