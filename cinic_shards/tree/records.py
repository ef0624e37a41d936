"""The images of a tree as records: columns of paths, labels, sizes and dates."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.png_head import HEAD_BYTES, check_heads


@dataclass(frozen=True, slots=True)
class Records:
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

    def take(self, rows: NDArray[np.int64]) -> "Records":
        """These rows, in this order."""
        return Records(
            [self.files[row] for row in rows.tolist()],
            self.labels[rows],
            self.sizes[rows],
            self.modified[rows],
        )


@dataclass(frozen=True, slots=True)
class Tree:
    """A scanned folder of PNGs."""

    root: Path
    classes: tuple[str, ...]
    """Class names of all splits, sorted: a class's place here is its label, as in ImageFolder."""
    splits: dict[str, Records]
    """Split name -> its images sorted by class and file name; splits in name order."""
    warnings: tuple[str, ...]
    """What a user should know and packing can live with."""
    folders: dict[str, int]
    """Every folder's path below the root -> time of its last modification, in nanoseconds."""

    def __len__(self) -> int:
        return sum(len(records) for records in self.splits.values())

    @property
    def place(self) -> Path:
        """Where the images' bytes are: the root, or one file that holds all of them."""
        return self.root

    def read_head(self, records: Records, row: int) -> bytes:
        """The first ``HEAD_BYTES`` of an image."""
        with open(self.root / records.files[row], "rb") as file:
            return file.read(HEAD_BYTES)


def read_image_shape(tree: Tree) -> tuple[int, int, int]:
    """(H, W, 3) of the tree's first image, as its head states; 1 x 1 where no file has such a head.

    What is wrong with a file is told when it is packed.
    """
    for records in tree.splits.values():
        for row in range(len(records)):
            try:
                head = tree.read_head(records, row).ljust(HEAD_BYTES, b"\0")
            except OSError:
                continue
            heads = np.frombuffer(head, np.uint8)[np.newaxis]
            extents, problems = check_heads(np.array([HEAD_BYTES]), heads)
            if not problems:
                height, width = extents[0].tolist()
                return height, width, 3
    return 1, 1, 3
