"""Statistics of a dataset or a part of it: counts, channels, histograms, duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec import kernels
from cinic_shards.format import PixelSums
from cinic_shards.format.provenance import ORIGINS
from cinic_shards.jobs import Progress
from cinic_shards.options import checked
from cinic_shards.read.columns import Columns
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.map_images import Images, map_images
from cinic_shards.read.selection import select
from cinic_shards.read.split import SplitReader
from cinic_shards.read.subset import Subset
from cinic_shards.store import StoreLike
from cinic_shards.view.duplicates import Duplicates, duplicates_among

CHANNELS = ("red", "green", "blue")

Counts = dict[str, dict[str, int]]
"""Name -> split -> number of images; names sorted, splits in the dataset's order, no zeros."""
Histograms = dict[str, NDArray[np.int64]]
"""Origin -> number of pixels with each value, by channel: int64 (3, 256)."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of a dataset or a part of it.

    Example:
        >>> found = stats("shards")
        >>> found.classes["cat"], found.origins["cifar10-test"]
        ({'test': 9, 'train': 9, 'valid': 9}, {'test': 10})
    """

    num_samples: int
    pixels: PixelSums
    """Exact sums over all pixels."""
    splits: dict[str, int]
    """Split -> number of images."""
    classes: Counts
    origins: Counts
    synsets: Counts
    """Counts of the images that have a synset."""
    duplicates: Duplicates
    """Duplicates among the counted images."""
    histograms: Histograms | None
    """None unless asked for."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of red, green and blue on the scale 0 to 1."""
        return self.pixels.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Population standard deviation of red, green and blue on the scale 0 to 1."""
        return self.pixels.std

    def to_json(self) -> dict[str, Any]:
        """Return what ``cinic-shard stats --json`` prints, as a dict of JSON values."""
        found = {
            "num_samples": self.num_samples,
            "mean": list(self.mean),
            "std": list(self.std),
            "splits": self.splits,
            "classes": self.classes,
            "origins": self.origins,
            "synsets": self.synsets,
            "duplicates": {
                "num_images": len(self.duplicates.groups),
                "counts": self.duplicates.counts,
            },
        }
        if self.histograms is not None:
            found["histograms"] = {
                origin: dict(zip(CHANNELS, counts.tolist(), strict=True))
                for origin, counts in self.histograms.items()
            }
        return found


@checked
def stats(
    path: StoreLike | Dataset,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    origins: Sequence[str] | None = None,
    histograms: bool = False,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Stats:
    """Measure a dataset or a part of it.

    The manifest has the channel statistics of complete splits, so no pixel is read for them.
    Images are decoded if ``classes``, ``origins`` or ``histograms`` is given.

    Args:
        path: the dataset's folder, URL or open store, or an open ``Dataset``.
        split: measure only this split, or several as in ``train+valid``; by default all.
        classes: measure only these classes; by default all.
        origins: measure only these origins, by the names of ``provenance.origins_named``; by
            default all.
        histograms: count pixel values by origin and channel.
        workers: number of threads; by default the cores that this process may use.
        progress: see ``jobs.Progress``.

    Raises:
        OptionError: the dataset does not have a split or class, an origin is unknown, or no image
            is left.
        StoreError, FormatError: the dataset cannot be read, or is damaged; names the images.

    Example:
        >>> found = stats("shards", split="train", origins=["cifar"])
        >>> found.num_samples, [round(mean, 1) for mean in found.mean]
        (20, [0.5, 0.5, 0.5])
    """
    dataset = path if isinstance(path, Dataset) else Dataset(path)
    subset = Subset(classes=classes, origin=origins)
    names = dataset.split_names if split is None else split
    pixels, counted = PixelSums(0, (0, 0, 0), (0, 0, 0)), None
    if subset == Subset() and not histograms:
        columns = dataset.columns_of(names)
        for info in dataset.splits(names):
            pixels += info.pixels
    else:
        reader = dataset.split(names)
        selection = select(dataset, reader, subset)
        rows = selection.rows_at(np.arange(len(selection)))
        counted = count_values(reader, rows, workers=workers, progress=progress)
        columns = reader.columns.take(rows)
        for counts in counted.values():
            pixels += pixel_sums(counts)
    return Stats(
        num_samples=len(columns),
        pixels=pixels,
        splits={name: count for name, count in _count(columns.split).items() if count},
        classes=_by_split(np.array(dataset.manifest.classes)[columns.labels], columns),
        origins=_by_split(columns.origin, columns),
        synsets=_by_split(columns.synset, columns),
        duplicates=duplicates_among(columns, location=str(dataset.store)),
        histograms=counted if histograms else None,
    )


def count_values(
    reader: SplitReader,
    rows: NDArray[np.int64],
    *,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Histograms:
    """Count pixel values by origin.

    Args:
        reader: reader of the splits that hold the rows.
        rows: ascending rows of ``reader``, shape (n,).
        workers: number of threads; by default the cores that this process may use.
        progress: see ``jobs.Progress``.

    Raises:
        StoreError: the dataset cannot be read.
        FormatError: images are damaged; names the images.
    """
    counter = ValueCounter(reader)
    counts = map_images(
        reader, rows, counter.count, doing="measure", workers=workers, progress=progress
    )
    return counter.by_origin(counts)


class ValueCounter:
    """Count pixel values by origin, some images at a time, in any thread."""

    def __init__(self, reader: SplitReader) -> None:
        self._names = sorted(set(reader.columns.origin.tolist()), key=ORIGINS.index)
        self._codes = np.zeros(len(reader), np.int64)
        for code, name in enumerate(self._names):
            self._codes[reader.columns.origin == name] = code

    def count(self, images: Images) -> NDArray[np.int64]:
        """Count the pixel values of some images; return int64 (origins, 3, 256)."""
        counts = np.zeros((len(self._names), 3, 256), np.int64)
        kernels.add_histograms(images.pixels, self._codes[images.rows], counts)
        return counts

    def by_origin(self, counts: Sequence[NDArray[np.int64]]) -> Histograms:
        """Add up results of ``count``; return those of each origin that occurs."""
        zeros = np.zeros((len(self._names), 3, 256), np.int64)
        total = reduce(np.add, counts, zeros)
        return {name: of for name, of in zip(self._names, total, strict=True) if of.any()}


def pixel_sums(counts: NDArray[np.int64]) -> PixelSums:
    """Compute exact pixel sums from a histogram, int64 (3, 256)."""
    values = range(256)
    by_channel: list[list[int]] = counts.tolist()  # Python's integers do not overflow
    r, g, b = (sum(map(int.__mul__, channel, values)) for channel in by_channel)
    rr, gg, bb = (sum(n * v * v for v, n in enumerate(channel)) for channel in by_channel)
    return PixelSums(sum(by_channel[0]), (r, g, b), (rr, gg, bb))


def _count(values: NDArray[Any]) -> dict[str, int]:
    names, counts = np.unique(values, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _by_split(values: NDArray[Any], columns: Columns) -> Counts:
    found: Counts = {}
    for split in dict.fromkeys(columns.split.tolist()):
        for name, count in _count(values[columns.split == split]).items():
            if name:
                found.setdefault(name, {})[split] = count
    return dict(sorted(found.items()))
