"""Images as they were found outside: the contract that every kind of source fulfils.

A ``Source`` is a place that images come from. Opened, it is a ``Tree``: validated, sorted
``Records`` for each split, which are sent to the processes that read their files. To add a kind of
source, add a file with these classes, and a line to ``SOURCES``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.png_head import check_heads

ScanProgress = Callable[[int], None]
"""Called with the number of images that were found since the last call."""


@dataclass(frozen=True, slots=True)
class Records(ABC):
    """The images of one split, as columns of N rows."""

    files: list[str]
    """Path below the tree's root, with forward slashes: ``train/cat/n02121808_77.png``."""
    labels: NDArray[np.int32]
    """Index of each image's class in the tree's classes."""
    sizes: NDArray[np.int64]
    """File size in bytes."""
    modified: NDArray[np.int64]
    """Time of last modification, in nanoseconds."""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def keys(self) -> list[str]:
        """``split/class/stem`` of each image."""
        return [file[:-4] for file in self.files]

    def take(self, rows: NDArray[np.int64]) -> Self:
        """These rows, in this order."""
        return replace(
            self,
            files=[self.files[row] for row in rows.tolist()],
            labels=self.labels[rows],
            sizes=self.sizes[rows],
            modified=self.modified[rows],
        )

    @abstractmethod
    def read(
        self, start: int, stop: int, buffer: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> dict[int, str]:
        """Read the files of some rows. Runs in any process.

        Args:
            start: the first row.
            stop: the row behind the last.
            buffer: uint8; each file is written to its place in it.
            starts: those places, shape (stop - start,).

        Returns:
            What went wrong, by row among those asked for.

        Raises:
            StoreError: nothing can be read here.
        """


class ImageFiles(ABC):
    """The files of one split by key, to compare a dataset with; ``str`` names the tree."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The file of an image, whole.

        Raises:
            OSError: there is no image of this key, or it cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Tree(ABC):
    """The images of an open source."""

    root: Path
    """The source, as messages name it."""
    classes: tuple[str, ...]
    """Class names of all splits, sorted: a class's place here is its label, as in ImageFolder."""
    splits: dict[str, Records]
    """Split name -> its images sorted by class and file name; splits in name order."""
    warnings: tuple[str, ...]
    """What a user should know and packing can live with."""

    def __len__(self) -> int:
        return sum(len(records) for records in self.splits.values())

    @property
    def containers(self) -> dict[str, tuple[int, int]]:
        """Name of each file that holds many images -> its size, and when it was modified (ns)."""
        return {}

    @abstractmethod
    def changes(self) -> Sequence[str]:
        """What has changed since the source was opened, a line each."""

    @abstractmethod
    def image_files(self, split: str) -> ImageFiles:
        """The files of a split, which may be none of the tree's."""


class Source(ABC):
    """A place that images come from; a kind of source is one file of this folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    @abstractmethod
    def fits(cls, root: Path) -> bool:
        """Whether a path is a source of this kind."""

    @abstractmethod
    def open(
        self, *, executor: Executor, spool_folder: Path, progress: ScanProgress
    ) -> AbstractContextManager[Tree]:
        """Find the images, and check their names and sizes.

        Args:
            executor: where to look for them.
            spool_folder: where a temporary file may lie as long as the source is open.
            progress: called as images are found.

        Raises:
            TreeError: it cannot be packed; lists every problem with its path.
            OutputError: there is no space for the temporary file.
        """


def read_image_shape(tree: Tree) -> tuple[int, int, int]:
    """(H, W, 3) of the tree's first image, as its head states; 1 x 1 where no file has such a head.

    What is wrong with a file is reported when it is packed.
    """
    for records in tree.splits.values():
        for row, size in enumerate(records.sizes.tolist()):
            file, start = np.zeros(size, np.uint8), np.zeros(1, np.int64)
            if records.read(row, row + 1, file, start):
                continue
            extents, problems = check_heads(file, start, np.array([size]))
            if not problems:
                height, width = extents[0].tolist()
                return height, width, 3
    return 1, 1, 3
