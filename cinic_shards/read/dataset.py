"""Open a dataset: its manifest, its columns and a reader for its splits."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.errors import OptionError
from cinic_shards.format import SplitInfo
from cinic_shards.options import checked, did_you_mean
from cinic_shards.read.columns import Columns
from cinic_shards.read.open import read_manifest
from cinic_shards.read.split import Check, SplitReader
from cinic_shards.store import StoreLike, open_store

_VALIDATION = {"valid", "val", "validation", "dev"}
"""Names of the validation split."""


def may_mean(name: str, split: str) -> bool:
    """Return True if a name is a split's, or both are names of a validation split."""
    return name == split or {name, split} <= _VALIDATION


def find_split(name: str, known: Sequence[str], location: str) -> str:
    """Return the split that a name means: the split of this name, or the only one it may mean.

    Args:
        name: the name; see ``may_mean``.
        known: names of all splits.
        location: the dataset's location, for messages.

    Raises:
        OptionError: there is no such split, or there are several.
    """
    if name in known:
        return name
    found = [split for split in known if may_mean(name, split)]
    if len(found) == 1:
        return found[0]
    if found:
        raise OptionError(
            f"{location}: no split {name!r}; it may mean {' or '.join(found)}: give one of these"
        )
    comma = "," in name
    hint = "; join splits with +, as in train+valid" if comma else did_you_mean(name, known)
    raise OptionError(f"{location}: no split {name!r}; there is {', '.join(known)}{hint}")


def find_splits(names: str, known: Sequence[str], location: str) -> list[str]:
    """Return the splits of a list such as ``train+valid``, in this order; see ``find_split``.

    Raises:
        OptionError: there is no such split, there are several, or a split is named twice.
    """
    found = [find_split(name, known, location) for name in names.split("+")]
    for name in found:
        if found.count(name) > 1:
            raise OptionError(f"split {names!r}: {name} is named twice")
    return found


class Dataset:
    """A packed dataset: its manifest, and a reader for each split.

    Args:
        path: the dataset's folder, URL or open store.

    Raises:
        StoreError: there is no dataset at ``path``.
        FormatError: its manifest is damaged or needs a newer release.

    Example:
        >>> dataset = Dataset("shards")
        >>> dataset.split_names, dataset.manifest.num_samples
        ('test+train+valid', 270)
        >>> dataset.columns.keys[0]
        'test/cat/n02121808_29'
    """

    @checked
    def __init__(self, path: StoreLike) -> None:
        self.store = open_store(path)
        self.manifest = read_manifest(self.store)

    @cached_property
    def columns(self) -> Columns:
        """The columns of all samples, by id: ``dataset.columns.origin[batch.indices]``.

        Raises:
            StoreError: a shard cannot be read.
            FormatError: an index is damaged.
        """
        return Columns.read(self.store, self.manifest, self.manifest.splits)

    @property
    def split_names(self) -> str:
        """The names of all splits, as in ``test+train+valid``, for ``split`` and ``columns_of``."""
        return "+".join(split.name for split in self.manifest.splits)

    @checked
    def splits(self, names: str) -> list[SplitInfo]:
        """Return the manifest's entries of one split, or of several as in ``train+valid``.

        ``valid``, ``val``, ``validation`` and ``dev`` mean the same split, unless the dataset has
        several of them.

        Args:
            names: names of the splits.

        Returns:
            The entries, in the order of ``names``.

        Raises:
            OptionError: there is no such split, or there are several, or a split is named twice.
        """
        entries = {split.name: split for split in self.manifest.splits}
        return [entries[name] for name in find_splits(names, list(entries), str(self.store))]

    @checked
    def columns_of(self, names: str) -> Columns:
        """Read the columns of one split, or of several as in ``train+valid``, in order of the ids.

        Raises:
            OptionError: as ``splits``.
            StoreError: a shard cannot be read.
            FormatError: an index is damaged.
        """
        return Columns.read(self.store, self.manifest, self._by_id(names))

    @checked
    def split(self, names: str, *, check: Check = "first") -> "SplitReader":
        """Open a reader of one split, or of several as in ``train+valid``.

        Args:
            names: names of the splits, in any order; samples come in the order of their ids.
            check: see ``SplitReader``.

        Raises:
            OptionError: as ``splits``.
            StoreError: a shard is missing or has the wrong size.
            FormatError: a shard's index is damaged or does not match the manifest.
        """
        return SplitReader(self.store, self.manifest, self._by_id(names), check=check)

    @checked
    def arrays(
        self, names: str = "train", *, workers: int | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Decode all images of one split, or of several as in ``train+valid``, in order of the ids.

        ``columns_of`` has their keys and more; ``CINIC10.data`` has ImageFolder's order, and takes
        a ``Subset``.

        Args:
            names: names of the splits.
            workers: number of threads; by default the cores that this process may use.

        Returns:
            Images, uint8 (N, H, W, 3), and labels, int64 (N,).

        Raises:
            OptionError: as ``splits``.
            StoreError: a shard cannot be read.
            FormatError: images are damaged, or have several sizes; names them.

        Example:
            >>> images, labels = Dataset("shards").arrays("test")
            >>> images.shape, labels[:3].tolist()
            ((90, 32, 32, 3), [3, 1, 9])
        """
        from cinic_shards.read.arrays import read_pixels  # here: it needs threads, and this module

        reader = self.split(names)
        return read_pixels(reader, np.arange(len(reader)), workers=workers), reader.labels

    def _by_id(self, names: str) -> list[SplitInfo]:
        return sorted(self.splits(names), key=lambda split: split.first_id)

    def summary(self) -> dict[str, Any]:
        """Return the facts that ``cinic-shard info`` shows, as a dict of JSON values."""
        manifest, measured = self.manifest, self.manifest.pixels
        return {
            "encoding": manifest.encoding,
            "block_size": manifest.block_size,
            "format_version": fmt.VERSION,
            "fingerprint": manifest.fingerprint,
            "licence": manifest.licence,
            "citation": manifest.citation,
            "num_samples": manifest.num_samples,
            "mean": measured.mean if measured.count else None,
            "std": measured.std if measured.count else None,
            "classes": manifest.classes,
            "options": manifest.options,
            "libraries": manifest.libraries,
            "splits": {split.name: _summarize(split) for split in manifest.splits},
        }


def _summarize(split: SplitInfo) -> dict[str, Any]:
    classes: Counter[str] = Counter()
    origins: Counter[str] = Counter()
    for shard in split.shards:
        classes.update(shard.classes)
        origins.update(shard.origins)
    return {
        "num_samples": split.num_samples,
        "num_shards": len(split.shards),
        "bytes": sum(shard.size for shard in split.shards),
        "image_sizes": {f"{h}x{w}": count for (h, w), count in sorted(split.image_sizes.items())},
        "mean": split.pixels.mean,
        "std": split.pixels.std,
        "origins": dict(sorted(origins.items())),
        "classes": dict(sorted(classes.items())),
    }
