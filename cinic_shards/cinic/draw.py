"""Which image goes to which split: CIFAR-10's and ImageNet's, drawn by seed.

What is drawn is sorted by a keyed hash of its name, as samples are in packing: the draw depends on
the seed and the names alone, not on a listing's order or on any library's random stream.
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
    """How the images of one class in one split divide."""

    per_class: int
    """All of them."""

    @property
    def cifar(self) -> int:
        """From CIFAR-10: two ninths, rounded down; 2,000 at full size, which is all of it."""
        return self.per_class * 2 // 9

    @property
    def cifar_test_in_test(self) -> int:
        """Of the new test set's, from CIFAR-10's test set: half, rounded down."""
        return self.cifar // 2

    @property
    def photos(self) -> int:
        """From ImageNet."""
        return self.per_class - self.cifar


@dataclass(frozen=True, slots=True)
class CifarImage:
    """One image of CIFAR-10 in its new place."""

    cifar_set: str
    """``train`` or ``test``."""
    index: int
    """In that set."""
    key: str
    """``split/class/stem``."""


def draw_cifar10(source: Cifar10, shares: Shares, seed: int) -> list[CifarImage]:
    """Deal CIFAR-10's images to the splits.

    Of each class, the new test set gets ``cifar_test_in_test`` images of CIFAR-10's test set (at
    full size the whole of it) and fills up from its train set; the new train and valid sets get
    theirs from what is left of the train set.

    Args:
        source: CIFAR-10.
        shares: how many.
        seed: of the draw.

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
                problems.append(f"its {cifar_set} set has {found}, needed are {needed:,}")
        for cifar_set, split, start, count in parts:
            images += [
                CifarImage(cifar_set, row, f"{split}/{class_name}/cifar10-{cifar_set}-{row}")
                for row in drawn[cifar_set][start : start + count]
            ]
    if problems:
        raise SourcesError("CIFAR-10", problems, "give all of it, or a smaller --per-class")
    return images


def draw_order(names: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Rows of the names in the order in which they are drawn, shape (N,)."""
    return packing_order([f"draw/{name}" for name in names], seed)


def split_of_slot(slot: int) -> str:
    """The split that the photo drawn at this position goes to: each gets every third one."""
    return SPLITS[slot % len(SPLITS)]


class Pick(NamedTuple):
    """A photo, and the image that it becomes."""

    tar: SynsetTar
    row: int
    """In the tar."""
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
        """The next photo, for a split; None where there is no more."""
        if self._num_drawn == len(self):
            return None
        at = self._order[self._num_drawn]
        self._num_drawn += 1
        tar, row = self._tars[self._tar_of[at]], int(self._row_of[at])
        return Pick(tar, row, f"{split}/{self.name}/{tar.synset}_{tar.numbers[row]}")
