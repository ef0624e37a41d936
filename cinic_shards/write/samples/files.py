"""Samples from image files: the records of a tree."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.meter import chunks
from cinic_shards.tree.records import Records
from cinic_shards.write.samples.base import Samples, ShardInput


@dataclass(frozen=True, slots=True)
class FileInput(ShardInput):
    """Image files as the input of a shard."""

    records: Records
    """The records in packing order."""

    def count_classes(self) -> int:
        return len(np.unique(self.records.labels))

    def open(self) -> "FileSamples":
        return FileSamples(self.records)


class FileSamples(Samples):
    """Image files, read on demand."""

    def __init__(self, records: Records) -> None:
        self._records = records

    @cached_property
    def keys(self) -> list[str]:
        return self._records.keys

    @property
    def labels(self) -> NDArray[np.int32]:
        return self._records.labels

    def location(self, row: int) -> str:
        return self._records.files[row]

    def chunks(self) -> Iterator[tuple[int, int]]:
        return chunks(self._records.sizes)

    def png_sizes(self, start: int, stop: int) -> NDArray[np.int64]:
        return self._records.sizes[start:stop]

    def read_pngs(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        return self._records.read(start, stop, buffer, starts)
