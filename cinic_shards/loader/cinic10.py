"""``CINIC10``: a map-style dataset of single images, in place of ImageFolder or CIFAR10."""

import multiprocessing
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset as TorchDataset

from cinic_shards.errors import FormatError, OptionError
from cinic_shards.loader.cache import Cache, HostCacheKind, as_cache
from cinic_shards.loader.pixel_source import PixelSource, open_pixels
from cinic_shards.loader.world import default_threads
from cinic_shards.options import checked, one_of
from cinic_shards.read.arrays import read_pixels
from cinic_shards.read.child import read_in_child
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.folder_order import folder_order
from cinic_shards.read.selection import select
from cinic_shards.read.split import SplitReader
from cinic_shards.read.subset import Subset
from cinic_shards.store import RemoteStore, Store, StoreLike, has_client, open_store

ImageOrder = Literal["folder", "packed"]
Loader = Literal["pil", "tensor"]


class CINIC10(TorchDataset[tuple[Any, Any]]):
    """N samples of a packed dataset as (image, label), like torchvision's ImageFolder and CIFAR10.

    The order is ``ImageFolder``'s: by class, then by file name. So a list of indices into
    ``ImageFolder("cinic/train")``, and ``random_split`` with a seed, give the same images. Several
    splits are joined as ``ConcatDataset`` joins several ImageFolders.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> train = CINIC10("shards", "train", loader="tensor")
        >>> train.samples[0]
        ('train/airplane/cifar10-train-25461.png', 0)
        >>> for images, labels in DataLoader(train, 32, shuffle=True):
        ...     pass  # uint8 (32, 3, 32, 32), int64 (32,)

    A DataLoader's batch is decoded at once, but the transform runs image by image, in Python:
    ``ShardLoader`` is several times faster. The dataset can be pickled; each process opens its own
    files.

    Packing shuffles a split, so each batch in ImageFolder's order, shuffled or not, needs most
    blocks of a ``zstd`` dataset. The cache decodes each block once: an unshuffled pass over
    CINIC-10's ``train`` in batches of 128 then reads 11,000 images a second on one core. Without
    room for the split's 276 MB, every batch decodes its blocks again: 170 images a second, and
    4,200 with ``order="packed"``.
    """

    @checked
    def __init__(
        self,
        root: StoreLike,
        split: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        train: bool | None = None,
        loader: Loader = "pil",
        order: ImageOrder = "folder",
        subset: Subset | None = None,
        cache: HostCacheKind | Cache = "ram",
    ) -> None:
        """Open a dataset.

        Args:
            root: a dataset that ``cinic-shard pack`` wrote: a folder, a URL or a ``Store``.
            split: the split to read, or several, as in ``train+valid``; by default ``train``.
            transform: called with an image; returns the sample's image.
            target_transform: called with a label; returns the sample's label.
            train: True for the split ``train``, False for ``test``, instead of ``split``.
            loader: an image is an RGB ``pil`` image, or a ``tensor``, uint8, shape (3, H, W), for
                the transforms of ``torchvision.transforms.v2``.
            order: ``folder``: ImageFolder's, splits as in ``split``; ``packed``: that of ids, in
                which neighbours share a block.
            subset: the samples to use; by default all.
            cache: for ``zstd`` or a URL, keep decoded blocks in each process's memory (``ram``), or
                in a file that all processes of this machine share (``disk``); or a ``Cache``.

        Raises:
            OptionError, StoreError, FormatError: as ``ShardLoader``.
        """
        if split is not None and train is not None:
            raise OptionError(f"split={split!r} and train={train}: give one of them")
        if split is None:
            split = "test" if train is False else "train"
        self._cache = as_cache(cache)
        one_of("cache", self._cache.kind, HostCacheKind)
        self.root = root
        self.transform = transform
        self.target_transform = target_transform
        self.loader = loader
        self.order = order
        self._store = open_store(root)
        found = _find_samples(self._store, split, order, subset or Subset())
        self.split = found.split
        """Names of the splits, as in ``train+valid``."""
        self._fingerprint = found.fingerprint
        self._rows = found.rows
        """The reader's row of each sample."""
        self.classes = list(found.classes)
        """Class names; a label is a position in this list."""
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.targets: list[int] = found.labels.tolist()
        """Every sample's label; a changed label takes effect."""
        self.ids: NDArray[np.int64] = found.ids
        """Every sample's id in the dataset, int64, shape (N,)."""
        self._opened: tuple[SplitReader, PixelSource] | None = None
        self._samples: list[tuple[str, int]] | None = None
        self._data: NDArray[np.uint8] | None = None

    # Properties, not cached ones: tab completion would compute those.

    @property
    def samples(self) -> list[tuple[str, int]]:
        """Every sample's file name and label, read on first use.

        A name is relative to the tree: ``train/airplane/n02691156_1.png``, so that
        ``Path(tree, name)`` is the file. ImageFolder's names begin with its root instead.

        Raises:
            StoreError, FormatError: an index cannot be read, or the dataset has been replaced.
        """
        if self._samples is None:
            keys = self._dataset(_without_client(self._store, self.split)).split(self.split).keys
            self._samples = [
                (f"{keys[row]}.png", label)
                for row, label in zip(self._rows.tolist(), self.targets, strict=True)
            ]
        return self._samples

    @property
    def imgs(self) -> list[tuple[str, int]]:
        """The same as ``samples``."""
        return self.samples

    @property
    def data(self) -> NDArray[np.uint8]:
        """All images, uint8, shape (N, H, W, 3), decoded on first use by several threads.

        They stay in memory, 276 MB for CINIC-10's 90,000 of ``train``, and in pickles. Samples are
        then taken from here, so a changed pixel takes effect.

        Raises:
            FormatError: images are damaged, or have several sizes; names them.
            StoreError: the dataset cannot be read, or has been replaced.
        """
        if self._data is None:
            reader = self._dataset(self._store).split(self.split)
            self._data = read_pixels(reader, self._rows, workers=default_threads())
        return self._data

    def __repr__(self) -> str:
        return (
            f"CINIC10({str(self._store)!r}, {self.split!r}, loader={self.loader!r}, "
            f"order={self.order!r}): {len(self):,} samples of {len(self.classes):,} classes"
        )

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
        for image, position in zip(self._images(positions), positions, strict=True):
            label: Any = self.targets[position]
            samples.append((
                image if self.transform is None else self.transform(image),
                label if self.target_transform is None else self.target_transform(label),
            ))  # fmt: skip
        return samples

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None, "_samples": None}

    def _images(self, positions: list[int]) -> Sequence[Any]:
        """Return the images of samples, PIL images or tensors."""
        pixels = self._decode(positions)
        if self.loader == "pil":
            return [Image.fromarray(image) for image in pixels]
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().unbind()

    def _decode(self, positions: list[int]) -> NDArray[np.uint8]:
        """Return the pixels of n samples, uint8, shape (n, H, W, 3)."""
        if self._data is not None:
            return self._data[positions]
        reader, pixels = self._open()
        images = np.empty((len(positions), *reader.image_shape), np.uint8)
        if errors := pixels.read(self._rows[positions], images):
            raise errors[0]
        return images

    def _open(self) -> tuple[SplitReader, PixelSource]:
        if self._opened is None:
            dataset = self._dataset(self._store)
            reader = dataset.split(self.split)
            blocks = np.arange(reader.num_blocks)
            pixels = open_pixels(reader, dataset.manifest, self._cache, blocks, row_by_row=True)
            self._opened = reader, pixels
        return self._opened

    def _dataset(self, store: Store) -> Dataset:
        dataset = Dataset(store)
        if dataset.manifest.fingerprint != self._fingerprint:
            raise FormatError(
                str(self._store),
                "the dataset has changed since the CINIC10 was made; make a new CINIC10",
            )
        return dataset


class _Samples(NamedTuple):
    """The samples of a ``CINIC10``; each array has shape (N,)."""

    split: str
    fingerprint: str
    classes: tuple[str, ...]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]


def _find_samples(store: Store, names: str, order: ImageOrder, subset: Subset) -> _Samples:
    dataset = Dataset(_without_client(store, names, subset.exclude_duplicates_of or ""))
    splits, reader = dataset.splits(names), dataset.split(names)
    selection = select(dataset, reader, subset, names)
    rows = selection.rows_at(np.arange(len(selection)))
    labels = reader.labels[rows] if selection.labels is None else selection.labels
    if order == "folder":
        order_of = folder_order(reader.columns.take(rows), splits)
        rows, labels = rows[order_of], labels[order_of]
    return _Samples(
        "+".join(split.name for split in splits),
        dataset.manifest.fingerprint,
        selection.classes or dataset.manifest.classes,
        rows,
        labels,
        reader.ids(rows),
    )


def _without_client(store: Store, *lists: str) -> Store:
    """Return a store that has the indexes of splits, and needs no client here for them.

    A DataLoader on Linux forks its workers, and a server's client cannot be used after a fork.
    """
    may_fork = sys.platform == "linux" and not multiprocessing.current_process().daemon
    is_server = isinstance(store, RemoteStore) and store.address.scheme != "memory"
    if not (is_server and may_fork and sys.executable) or has_client():
        return store
    assert isinstance(store, RemoteStore)
    return read_in_child(store, [name for names in lists for name in names.split("+")])
