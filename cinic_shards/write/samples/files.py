"""Samples that are image files: of a folder, or inside an archive."""

import os
import platform
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.meter import chunks
from cinic_shards.errors import StoreError
from cinic_shards.tree.archive import ArchiveRecords
from cinic_shards.tree.folder import OPEN_FLAGS
from cinic_shards.tree.records import Records
from cinic_shards.write.samples.base import ShardSource


class TreeSource(ShardSource):
    """Files of a tree."""

    def __init__(self, root: Path, records: Records) -> None:
        self.root = root
        self.records = records

    @cached_property
    def keys(self) -> list[str]:
        return self.records.keys

    @property
    def labels(self) -> NDArray[np.int32]:
        return self.records.labels

    def place(self, row: int) -> str:
        return self.records.files[row]

    def chunks(self) -> Iterator[tuple[int, int]]:
        return chunks(self.records.sizes)

    def png_sizes(self, start: int, stop: int) -> NDArray[np.int64]:
        return self.records.sizes[start:stop]

    def read_pngs(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        view = buffer.data
        problems = {}
        places = zip(
            self.records.files[start:stop],
            starts.tolist(),
            self.records.sizes[start:stop].tolist(),
            self.records.modified[start:stop].tolist(),
            strict=True,
        )
        for row, (path, at, size, modified) in enumerate(places):
            try:
                descriptor = os.open(f"{self.root}/{path}", OPEN_FLAGS)
                try:
                    state = os.fstat(descriptor)
                    data = os.read(descriptor, size + 1)
                finally:
                    os.close(descriptor)
            except OSError as error:
                problems[row] = f"cannot be read: {error.strerror}"
                continue
            if len(data) == size and state.st_mtime_ns == modified:
                view[at : at + size] = data
            else:
                problems[row] = "changed while it was packed; leave the tree alone and run again"
        return problems


class ArchiveSource(TreeSource):
    """Images that lie in one file."""

    records: ArchiveRecords

    def __init__(self, file: Path, records: ArchiveRecords) -> None:
        super().__init__(file, records)

    def read_pngs(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        view = buffer.data
        problems = {}
        places = zip(
            self.records.offsets[start:stop].tolist(),
            starts.tolist(),
            self.records.sizes[start:stop].tolist(),
            strict=True,
        )
        try:
            with open(self.root, "rb", buffering=0) as file:
                for row, (offset, at, size) in enumerate(places):
                    file.seek(offset)
                    if file.readinto(view[at : at + size]) != size:
                        problems[row] = "changed while it was packed; leave it alone and run again"
        except OSError as error:
            raise StoreError(
                str(self.root),
                f"cannot be read on {platform.node()}: {error.strerror}; a worker on "
                "another machine must find this file under the same name",
            ) from error
        return problems
