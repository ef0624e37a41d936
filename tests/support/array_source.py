"""A source of images that is an array in memory: the least that a new kind of source needs."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec import encode_png
from cinic_shards.tree.records import ImageFiles, Records, ScanProgress, Source, Tree


@dataclass(frozen=True, slots=True)
class ArrayRecords(Records):
    """PNGs that are made of an array."""

    pngs: list[bytes]

    def take(self, rows: NDArray[np.int64]) -> Self:
        return replace(Records.take(self, rows), pngs=[self.pngs[row] for row in rows.tolist()])

    def read(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        for png, at in zip(self.pngs[start:stop], starts.tolist(), strict=True):
            buffer[at : at + len(png)] = np.frombuffer(png, np.uint8)
        return {}


class ArrayFiles(ImageFiles):
    """The same PNGs, by key."""

    def __init__(self, records: ArrayRecords) -> None:
        self._png_of = dict(zip(records.keys, records.pngs, strict=True))

    def __str__(self) -> str:
        return "an array"

    def read(self, key: str) -> bytes:
        return self._png_of[key]


@dataclass(frozen=True, slots=True)
class ArrayTree(Tree):
    """A train split made of an array."""

    def changes(self) -> Sequence[str]:
        return ()

    def image_files(self, split: str) -> ImageFiles:
        records = self.splits[split]
        assert isinstance(records, ArrayRecords)
        return ArrayFiles(records)


class ArraySource(Source):
    """Images and labels in memory."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int32]) -> None:
        super().__init__(Path("an array"))
        self._images = images
        self._labels = labels

    @classmethod
    def fits(cls, root: Path) -> bool:
        return False

    @contextmanager
    def open(
        self, *, executor: Executor, spool_folder: Path, progress: ScanProgress
    ) -> Iterator[Tree]:
        pngs = [encode_png(image) for image in self._images]
        progress(len(pngs))
        names = ("cat", "dog")
        records = ArrayRecords(
            files=[
                f"train/{names[label]}/image-{row}.png"
                for row, label in enumerate(self._labels.tolist())
            ],
            labels=self._labels,
            sizes=np.array([len(png) for png in pngs], np.int64),
            modified=np.zeros(len(pngs), np.int64),
            pngs=pngs,
        )
        yield ArrayTree(self.root, names, {"train": records}, ())
