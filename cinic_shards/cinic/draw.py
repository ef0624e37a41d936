"""Draw images from CIFAR-10 and ImageNet for each split, by seed.

Images are sorted by a keyed hash of their names, as in packing. So the draw depends on the seed and
the names only, not on the order of a listing or any library's random numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinic_shards.cinic.cifar10 import CLASSES, Cifar10
from cinic_shards.cinic.photos import SynsetTar
from cinic_shards.cinic.synsets import synsets_by_class
from cinic_shards.errors import SourcesError
from cinic_shards.write.pack import packing_order

SPLITS = ("train", "valid", "test")
"""In the order in which photos are dealt to them."""

FULL_SIZE = 9_000
"""Images of a class in a split of CINIC-10."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Number of images by origin, in each class of each split."""

    per_class: int
    """Images of one class in one split."""

    @property
    def cifar(self) -> int:
        """Images from CIFAR-10: two ninths, rounded down. All of CIFAR-10 at full size: 2,000."""
        return self.per_class * 2 // 9

    @property
    def cifar_test_in_test(self) -> int:
        """Images from CIFAR-10's test set in the test split: half of ``cifar``, rounded down."""
        return self.cifar // 2

    @property
    def photos(self) -> int:
        """Images from ImageNet."""
        return self.per_class - self.cifar


@dataclass(frozen=True, slots=True)
class CifarImage:
    """One image of CIFAR-10, and its key in CINIC-10."""

    cifar_set: str
    """``train`` or ``test``."""
    index: int
    """Position in that set."""
    key: str
    """``split/class/stem``."""


def draw_cifar10(source: Cifar10, shares: Shares, seed: int) -> list[CifarImage]:
    """Deal CIFAR-10's images to the splits.

    Each class of the test split gets ``cifar_test_in_test`` images from CIFAR-10's test set (all of
    it at full size), and the rest from its train set. The train and valid splits get theirs from
    what is left of the train set.

    Args:
        source: CIFAR-10.
        shares: the number of images.
        seed: seed of the draw.

    Raises:
        SourcesError: a class has too few images.
    """
    images = []
    from_test = shares.cifar_test_in_test
    from_train = shares.cifar - from_test
    parts = (
        ("test", "test", 0, from_test),
        ("train", "test", 0, from_train),
        ("train", "train", from_train, shares.cifar),
        ("train", "valid", from_train + shares.cifar, shares.cifar),
    )
    problems = []
    for label, class_name in enumerate(CLASSES):
        drawn = {}
        for cifar_set, needed in (("train", from_train + 2 * shares.cifar), ("test", from_test)):
            rows = np.flatnonzero(source.sets[cifar_set].labels == label)
            names = [f"cifar10-{cifar_set}-{row}" for row in rows.tolist()]
            drawn[cifar_set] = rows[draw_order(names, seed)].tolist()
            if len(rows) < needed:
                found = f"{len(rows):,} of {class_name}"
                problems.append(f"its {cifar_set} set has {found}, expected at least {needed:,}")
        for cifar_set, split, start, count in parts:
            images += [
                CifarImage(cifar_set, row, f"{split}/{class_name}/cifar10-{cifar_set}-{row}")
                for row in drawn[cifar_set][start : start + count]
            ]
    if problems:
        raise SourcesError("CIFAR-10", problems, "give all of it, or use a smaller --per-class")
    return images


def draw_order(names: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return the positions of N names in the order in which they are drawn, shape (N,)."""
    return packing_order([f"draw/{name}" for name in names], seed)


def split_of_slot(slot: int) -> str:
    """Return the split of the photo drawn at this position: each gets every third photo."""
    return SPLITS[slot % len(SPLITS)]


class Pick(NamedTuple):
    """A photo, and its key in CINIC-10."""

    tar: SynsetTar
    row: int
    """Position among the tar's photos."""
    key: str
    """``split/class/stem``."""


class PhotoDraw:
    """The photos of one class in the order in which they are drawn."""

    def __init__(self, name: str, tars: dict[str, SynsetTar], seed: int) -> None:
        self.name = name
        self._tars = [tars[synset] for synset in synsets_by_class()[name] if synset in tars]
        sizes = [len(tar) for tar in self._tars]
        self._tar_of = np.repeat(np.arange(len(sizes)), sizes)
        self._row_of = np.concatenate([np.arange(size) for size in [*sizes, 0]])
        stems = [f"{tar.synset}_{n}" for tar in self._tars for n in tar.numbers.tolist()]
        self._order = draw_order([f"{name}/{stem}" for stem in stems], seed)
        self._num_drawn = 0

    def __len__(self) -> int:
        return len(self._order)

    def next(self, split: str) -> Pick | None:
        """Take the next photo, for a split; None if there is none left."""
        if self._num_drawn == len(self):
            return None
        at = self._order[self._num_drawn]
        self._num_drawn += 1
        tar, row = self._tars[self._tar_of[at]], int(self._row_of[at])
        return Pick(tar, row, f"{split}/{self.name}/{tar.synset}_{tar.numbers[row]}")
