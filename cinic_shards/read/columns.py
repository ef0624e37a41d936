"""Columns of the indexes as arrays, to select samples or to look them up by id."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from cinic_shards.format import Index, Manifest, SplitInfo
from cinic_shards.format.provenance import ORIGINS
from cinic_shards.read.open import check_keys, read_indexes
from cinic_shards.store import Store


def sample_ids(splits: Iterable[SplitInfo]) -> NDArray[np.int64]:
    """Return the ids of all samples of these splits, in their order: int64, shape (N,)."""
    ranges = [np.arange(s.first_id, s.first_id + s.num_samples, dtype=np.int64) for s in splits]
    return np.concatenate([np.empty(0, np.int64), *ranges])


@dataclass(frozen=True, slots=True)
class Columns:
    """Arrays with one value for each of N samples: ``columns.origin[batch.indices]``.

    If a batch may hold a single sample, index by ``batch.indices.numpy()``: numpy treats a tensor
    with one element as a scalar.

    Example:
        >>> columns = Dataset("shards").columns_of("train+valid")
        >>> len(columns), columns.keys[0], columns.labels[:3].tolist()
        (180, 'train/automobile/n04285008_260', [1, 1, 0])
        >>> columns.ids[columns.origin != "imagenet"][:3].tolist()
        [91, 99, 106]
    """

    ids: NDArray[np.int64]
    """Id in the dataset, as in ``batch.indices``, shape (N,)."""
    labels: NDArray[np.int64]
    """Class, as a position in the dataset's ``classes``; shape (N,)."""
    split: NDArray[np.str_]
    """Name of the split, shape (N,)."""
    origin: NDArray[np.str_]
    """``cifar10-train``, ``cifar10-test``, ``imagenet`` or ``unknown``; shape (N,)."""
    synset: NDArray[np.str_]
    """WordNet id such as ``n02691156``, empty if there is none; shape (N,)."""
    number: NDArray[np.int64]
    """CIFAR-10 image number or ImageNet image number, -1 if there is none; shape (N,)."""
    keys: NDArray[np.object_]
    """``split/class/stem``, shape (N,)."""
    pixel_hash: NDArray[np.void]
    """Hash of shape and pixels, 16 bytes, the same only for identical images; shape (N,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> "Columns":
        """Return the columns of these rows, int64 (n,), in this order."""
        return Columns(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def of(cls, splits: Sequence[SplitInfo], indexes: Sequence[Index]) -> "Columns":
        """Concatenate the columns of splits.

        Args:
            splits: the splits' entries in the manifest.
            indexes: the indexes of all their shards, in order.
        """

        def joined(name: str, dtype: str) -> NDArray[np.generic]:
            return np.concatenate([np.empty(0, dtype), *(getattr(i, name) for i in indexes)])

        synsets, synset_of = np.unique(joined("synset", "<u4"), return_inverse=True)
        names = np.array([f"n{int(synset):08d}" if synset else "" for synset in synsets], "<U9")
        sizes = [split.num_samples for split in splits]
        hashes = np.concatenate([np.empty((0, 16), np.uint8), *(i.pixel_hash for i in indexes)])
        return cls(
            ids=sample_ids(splits),
            labels=joined("label", "<i4").astype(np.int64),
            split=np.repeat(np.array([split.name for split in splits], np.str_), sizes),
            origin=np.array(ORIGINS)[joined("origin", "|u1").astype(np.intp)],
            synset=names[synset_of],
            number=joined("number", "<i8").astype(np.int64),
            keys=np.array([key for index in indexes for key in index.keys], np.object_),
            pixel_hash=hashes.view("|V16").ravel(),
        )

    @classmethod
    def read(cls, store: Store, manifest: Manifest, splits: Iterable[SplitInfo]) -> "Columns":
        """Read the columns of these splits; only indexes are read.

        Raises:
            StoreError: a shard cannot be read.
            FormatError: an index is damaged, or contradicts the manifest.
        """
        splits = list(splits)
        named = [(split.name, shard) for split in splits for shard in split.shards]
        indexes = read_indexes(store, [shard for _, shard in named], len(manifest.classes))
        for (name, shard), index in zip(named, indexes, strict=True):
            check_keys(f"{store}/{shard.name}", index, name, manifest.classes)
        return cls.of(splits, indexes)
