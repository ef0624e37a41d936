"""``CINIC10``: a map-style dataset of single images, in place of ImageFolder or CIFAR10."""

import multiprocessing
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset as TorchDataset

from cinic_shards.errors import FormatError
from cinic_shards.loader.cache import Cache, HostCacheKind, as_cache
from cinic_shards.loader.pixel_source import PixelSource, open_pixels
from cinic_shards.options import checked, one_of
from cinic_shards.read.child import read_in_child
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.split import SplitReader
from cinic_shards.read.subset import Subset, select
from cinic_shards.store import RemoteStore, Store, StoreLike, has_client, open_store


class CINIC10(TorchDataset[tuple[Any, Any]]):
    """N samples of a packed dataset as (image, label), in packing order.

    Example:
        >>> train = CINIC10("shards", "train", transform=transforms.ToTensor())
        >>> batches = DataLoader(train, 128, shuffle=True, num_workers=4)

    A DataLoader's batch is decoded at once, but the transform runs image by image, in Python:
    ``ShardLoader`` is several times faster. The dataset can be pickled; each process opens its own
    files.
    """

    @checked
    def __init__(
        self,
        root: StoreLike,
        split: str = "train",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        subset: Subset | None = None,
        cache: HostCacheKind | Cache = "ram",
    ) -> None:
        """Open a dataset.

        Args:
            root: a dataset that ``cinic-shard pack`` wrote: a folder, a URL or a ``Store``.
            split: the split to read, or several, as in ``train+valid``.
            transform: called with an RGB PIL image; returns the sample's image.
            target_transform: called with a label; returns the sample's label.
            subset: the samples to use; by default all.
            cache: for ``zstd`` or a URL, keep decoded blocks in each process's memory (``ram``), or
                in a file that all processes of this machine share (``disk``); or a ``Cache``.

        Raises:
            OptionError, StoreError, FormatError: as ``ShardLoader``.
        """
        self._cache = as_cache(cache)
        one_of("cache", self._cache.kind, HostCacheKind)
        self.root = root
        self.split = split
        self.transform = transform
        self.target_transform = target_transform
        self._store = open_store(root)
        found = _find_samples(self._store, split, subset or Subset())
        self._fingerprint = found.fingerprint
        self._rows = found.rows
        """The reader's row of each sample."""
        self.classes = list(found.classes)
        """Class names; a label is a position in this list."""
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.targets: list[int] = found.labels.tolist()
        """Every sample's label."""
        self.ids: NDArray[np.int64] = found.ids
        """Every sample's id in the dataset, int64, shape (N,)."""
        self._opened: tuple[SplitReader, PixelSource] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return one sample.

        Raises:
            IndexError: there is no such sample.
            DecodeError: the sample is damaged; names it.
            StoreError, FormatError: its shard cannot be read, or the dataset has been replaced.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """Return several samples, decoded at once; a DataLoader calls this.

        Raises:
            IndexError, DecodeError, StoreError, FormatError: as for one sample.
        """
        positions = [range(len(self))[operator.index(index)] for index in indices]
        if not positions:
            return []
        samples = []
        for image, position in zip(self._decode(self._rows[positions]), positions, strict=True):
            pixels: Any = Image.fromarray(image)
            label: Any = self.targets[position]
            samples.append((
                pixels if self.transform is None else self.transform(pixels),
                label if self.target_transform is None else self.target_transform(label),
            ))  # fmt: skip
        return samples

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _open(self) -> tuple[SplitReader, PixelSource]:
        if self._opened is None:
            dataset = Dataset(self._store)
            if dataset.manifest.fingerprint != self._fingerprint:
                raise FormatError(
                    str(self._store),
                    "the dataset has changed since the CINIC10 was made; make a new CINIC10",
                )
            reader = dataset.split(self.split)
            blocks = np.arange(reader.num_blocks)
            pixels = open_pixels(reader, dataset.manifest, self._cache, blocks, row_by_row=True)
            self._opened = reader, pixels
        return self._opened

    def _decode(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of N rows, uint8, shape (N, H, W, 3)."""
        reader, pixels = self._open()
        images = np.empty((len(rows), *reader.image_shape), np.uint8)
        if errors := pixels.read(rows, images):
            raise errors[0]
        return images


class _Samples(NamedTuple):
    """The samples of a ``CINIC10``; each array has shape (N,)."""

    fingerprint: str
    classes: tuple[str, ...]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]


def _find_samples(store: Store, split: str, subset: Subset) -> _Samples:
    dataset = Dataset(_without_client(store, split, subset))
    reader, manifest = dataset.split(split), dataset.manifest
    selection = select(dataset, reader, subset)
    rows = selection.rows_at(np.arange(len(selection)))
    return _Samples(
        manifest.fingerprint, manifest.classes, rows, reader.labels[rows], reader.ids(rows)
    )


def _without_client(store: Store, split: str, subset: Subset) -> Store:
    """Return a store that has the indexes to choose samples by, and needs no client here for them.

    A DataLoader on Linux forks its workers, and a server's client cannot be used after a fork.
    """
    may_fork = sys.platform == "linux" and not multiprocessing.current_process().daemon
    is_server = isinstance(store, RemoteStore) and store.address.scheme != "memory"
    if not (is_server and may_fork and sys.executable) or has_client():
        return store
    assert isinstance(store, RemoteStore)
    return read_in_child(
        store, [*split.split("+"), *(subset.exclude_duplicates_of or "").split("+")]
    )
