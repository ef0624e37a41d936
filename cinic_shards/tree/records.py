"""The interface of a source of images.

Opening a ``Source`` gives a ``Tree``: validated, sorted ``Records`` for each split, which are sent
to the processes that read their files. To add a source, add a file with these classes, and a line
to ``SOURCES``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.png_head import check_heads
from cinic_shards.tree.leftovers import Leftovers

ScanProgress = Callable[[int], None]
"""Called with the number of images found since the last call."""


@dataclass(frozen=True, slots=True)
class Records(ABC):
    """The images of one split, as columns of N rows."""

    files: list[str]
    """Path of each image below the tree's root, with forward slashes:
    ``train/cat/n02121808_77.png``."""
    labels: NDArray[np.int32]
    """Label of each image: the position of its class in the tree's classes; shape (N,)."""
    sizes: NDArray[np.int64]
    """File sizes in bytes, shape (N,)."""
    modified: NDArray[np.int64]
    """Times of last modification in nanoseconds, shape (N,)."""
    prefix: str = field(default="", kw_only=True)
    """The start of the keys: the split and a slash if the paths have no folder for it."""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def keys(self) -> list[str]:
        """``split/class/stem`` of each image."""
        return [self.prefix + file[:-4] for file in self.files]

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the records of these rows, in this order."""
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
            stop: the row after the last.
            buffer: uint8, one-dimensional; the files are written into it.
            starts: offset of each file in ``buffer``, shape (stop - start,).

        Returns:
            Row -> why its file cannot be read; rows count from ``start``.

        Raises:
            StoreError: no file can be read in this process.
        """


class ImageFiles(ABC):
    """The files of one split by key, to compare with a dataset; ``str`` gives the tree's path."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Read the complete file of an image.

        Raises:
            OSError: there is no image with this key, or it cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Tree(ABC):
    """The images of an open source."""

    root: Path
    """Path of the source."""
    classes: tuple[str, ...]
    """Class names of all splits, sorted: a class's position is its label, as in ImageFolder."""
    splits: dict[str, Records]
    """Split name -> its images sorted by class and file name; splits in name order."""
    warnings: tuple[str, ...]
    """Messages for the user about problems that do not prevent packing."""

    def __len__(self) -> int:
        return sum(len(records) for records in self.splits.values())

    @property
    def containers(self) -> dict[str, tuple[int, int]]:
        """Files that hold many images: name -> size in bytes, and modification time in ns."""
        return {}

    @abstractmethod
    def changes(self) -> Sequence[str]:
        """List what has changed since the source was opened, one line each."""

    @property
    def packed_files(self) -> frozenset[str]:
        """Paths of all images below the root."""
        return frozenset(file for records in self.splits.values() for file in records.files)

    def leftovers(self) -> Leftovers:
        """Return everything else that the source holds; nothing, if it holds only images.

        Raises:
            TreeError: a folder cannot be listed.
        """
        return Leftovers()

    @abstractmethod
    def image_files(self, split: str) -> ImageFiles:
        """Return the files of a split; the tree need not have this split."""


class Source(ABC):
    """A source of images; each subclass is one file of this folder.

    Example:
        >>> from cinic_shards.tree import find_source
        >>> type(find_source("cinic")).__name__
        'FolderSource'
    """

    def __init__(self, root: Path, split_name: str | None = None) -> None:
        self.root = root
        self.split_name = split_name
        """If not None, the tree has no folders of splits, and all images are in this split."""

    @classmethod
    @abstractmethod
    def fits(cls, root: Path) -> bool:
        """True if this class can read the path."""

    @abstractmethod
    def open(
        self, *, executor: Executor, spool_folder: Path, progress: ScanProgress
    ) -> AbstractContextManager[Tree]:
        """Find the images, and check their names and sizes.

        Args:
            executor: runs the search.
            spool_folder: a folder for a temporary file, which exists while the source is open.
            progress: called as images are found.

        Raises:
            TreeError: the source cannot be packed; lists every problem with its path.
            OutputError: there is no space for the temporary file.
        """


def read_image_shape(tree: Tree) -> tuple[int, int, int]:
    """Return (H, W, 3) from the head of the tree's first valid image; (1, 1, 3) if there is none.

    Invalid files are reported when they are packed.
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
