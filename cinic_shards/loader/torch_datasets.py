"""The shards as torch Datasets, for code that needs a DataLoader instead of ``ShardLoader``.

``CINIC10`` replaces ImageFolder or torchvision's CIFAR10: a map-style dataset of single images.
``ShardIterable`` yields a ``ShardLoader``'s batches from a DataLoader's worker processes.
"""

import multiprocessing
import operator
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, get_worker_info

from cinic_shards.errors import FormatError, OptionError
from cinic_shards.loader.augment import Augment, Normalize
from cinic_shards.loader.batch import Batch
from cinic_shards.loader.batches import OnError
from cinic_shards.loader.cache import Cache, HostCacheKind, as_cache
from cinic_shards.loader.loader import BatchTransform, ShardLoader
from cinic_shards.loader.pixel_source import PixelSource, open_pixels
from cinic_shards.loader.plan import PLAN_VERSIONS, Order, Tail
from cinic_shards.loader.world import default_threads, find_world
from cinic_shards.options import checked, integer, one_of
from cinic_shards.read.child import read_in_child
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.split import Check, SplitReader
from cinic_shards.read.subset import Subset, select
from cinic_shards.store import RemoteStore, Store, StoreLike, has_client, open_store

_MAX_PROCESSES = 1024
"""Bound on the workers of a DataLoader that share one ``ShardIterable``."""


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


class ShardIterable(IterableDataset[Batch]):
    """The batches of a ``ShardLoader``, for a DataLoader with ``batch_size=None``.

    Worker w of k makes the batches of the steps s with s mod k = w, so for any k a DataLoader
    returns them in the same order as the loader itself. Each worker reads most of the blocks;
    ``ShardLoader``, with threads, reads each block once. torchdata's StatefulDataLoader can save
    and load the state; it resumes with the same number of workers.
    """

    @checked
    def __init__(
        self,
        path: StoreLike,
        split: str = "train",
        *,
        batch_size: int | None = None,
        global_batch_size: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        workers: int | None = None,
        normalize: Normalize = False,
        augment: Augment | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        batch_transform: BatchTransform | None = None,
        subset: Subset | None = None,
        order: Order = "window",
        cache: Literal["none", HostCacheKind] | Cache = "none",
        tail: Tail | None = None,
        check: Check = "first",
        on_error: OnError = "raise",
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """Store the options for a ``ShardLoader``; see there.

        ``workers`` is the number of threads in each process, and ``cache`` must not be ``device``.
        Rank and world size are determined here, not in the workers. Each iteration is an epoch,
        with or without ``persistent_workers``; ``set_epoch`` chooses the next one.

        Raises:
            OptionError: ``cache`` is ``device``, or rank or world size is invalid. Other errors of
                ``ShardLoader`` are raised with the first batch, or by ``len``.
        """
        cache = as_cache(cache)
        one_of("cache", cache.kind, Literal["none", HostCacheKind])
        rank, world_size = find_world(rank, world_size)
        self._workers = workers
        self._make_loader = partial(
            ShardLoader,
            open_store(path),  # now: a worker may have a different working folder
            split=split,
            batch_size=batch_size,
            global_batch_size=global_batch_size,
            shuffle=shuffle,
            seed=seed,
            normalize=normalize,
            augment=augment,
            memory_format=memory_format,
            batch_transform=batch_transform,
            subset=subset,
            order=order,
            cache=cache,
            tail=tail,
            check=check,
            on_error=on_error,
            rank=rank,
            world_size=world_size,
        )
        self._loaders: dict[int, ShardLoader] = {}
        """Process id -> loader: after a fork, the child must not use its parent's loader."""
        self._epochs = _SharedEpochs()
        self._loaded_epoch: int | None = None

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._own_loader())

    @checked
    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self._epochs.set_next(integer("epoch", epoch))

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        if info is None:
            return self._iterate_alone()
        # Now, not at the first batch: a worker may be stopped before that.
        epoch = self._epochs.begin(info, self._loaded_epoch)
        self._loaded_epoch = None
        loader = self._own_loader()
        loader.set_epoch(epoch)
        return loader.iterate_share(info.id, info.num_workers)

    def _iterate_alone(self) -> Iterator[Batch]:
        loader = self._own_loader()
        loader.set_epoch(self._epochs.next() if self._loaded_epoch is None else self._loaded_epoch)
        self._loaded_epoch = None
        self._epochs.set_next(loader.epoch + 1)
        yield from loader.iterate_share(0, 1)

    def state_dict(self) -> dict[str, Any]:
        """Return ``ShardLoader.state_dict`` of this worker's batches."""
        loader = self._own_loader()
        is_share = get_worker_info() is not None or loader.is_iterating
        return loader.share_state() if is_share else loader.state_dict()

    @checked
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state; see ``ShardLoader.load_state_dict``."""
        loader = self._own_loader()
        loader.load_share_state(state)
        self._epochs.plan_version.fill_(loader.plan_version)
        self._loaded_epoch = loader.epoch

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaders": {}}

    def _own_loader(self) -> ShardLoader:
        """Return this process's loader; make it on first use."""
        loader = self._loaders.get(os.getpid())
        if loader is None:
            workers = self._workers
            if workers is None:
                info = get_worker_info()
                workers = max(1, default_threads() // (info.num_workers if info else 1))
            loader = self._make_loader(workers=workers)
            loader.plan_version = int(self._epochs.plan_version)
            self._loaders = {os.getpid(): loader}
        return loader


class _SharedEpochs:
    """The epoch that an iteration runs, agreed upon by worker processes without a lock.

    An iteration is identified by the DataLoader's seed and the number of iterations that its
    workers, if they persist, have begun: all its workers know both, and no other iteration has the
    same pair. Each worker notes this pair, its epoch, and its epoch before that. An iteration runs
    the epoch after the latest of all iterations *before* it: the noted epoch of workers that have
    not begun it, and the earlier epoch of those that have.
    """

    def __init__(self) -> None:
        # A row for each worker: seed, count, epoch, the epoch before. The last row is the main
        # process's.
        self._notes = torch.full((_MAX_PROCESSES + 1, 4), -1, dtype=torch.int64)
        self._notes.share_memory_()
        self.plan_version = torch.tensor(max(PLAN_VERSIONS)).share_memory_()
        """The loaded state's version, which the next epoch's processes must use too."""
        self._count = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._notes.share_memory_()  # a copy is no longer shared
        self.plan_version.share_memory_()

    def begin(self, info: Any, epoch: int | None) -> int:
        """Note that a worker begins the given epoch, or the next one if None; return the epoch.

        Raises:
            OptionError: the DataLoader has too many workers.
        """
        if info.num_workers > _MAX_PROCESSES:
            raise OptionError(f"num_workers={info.num_workers}: expected at most {_MAX_PROCESSES}")
        iteration = torch.tensor([info.seed - info.id, self._count])
        self._count += 1
        if epoch is None:
            notes = self._read()
            has_begun = (notes[:, :2] == iteration).all(1)
            epoch = int(torch.where(has_begun, notes[:, 3], notes[:, 2]).max()) + 1
        # In this order, because another worker may read the note in between.
        note = self._notes[info.id]
        note[3] = note[2].item()
        note[:2] = iteration
        note[2] = epoch
        return epoch

    def _read(self) -> torch.Tensor:
        """Return a consistent copy of the notes."""
        before = self._notes.clone()
        while not torch.equal(before, notes := self._notes.clone()):
            before = notes
        return notes

    def next(self) -> int:
        """Return the epoch of the next iteration."""
        return int(self._notes[:, 2].max()) + 1

    def set_next(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self._notes.fill_(-1)
        self._notes[_MAX_PROCESSES, 2] = epoch - 1
