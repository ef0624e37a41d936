"""``ShardIterable``: a ``ShardLoader``'s batches from a DataLoader's worker processes."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from cinic_shards.errors import OptionError
from cinic_shards.loader.augment import Augment, Normalize
from cinic_shards.loader.batch import Batch
from cinic_shards.loader.batches import OnError
from cinic_shards.loader.cache import Cache, HostCacheKind, as_cache
from cinic_shards.loader.loader import BatchTransform, ShardLoader
from cinic_shards.loader.plan import PLAN_VERSIONS, Order, Tail
from cinic_shards.loader.world import default_threads, find_world
from cinic_shards.options import checked, integer, one_of
from cinic_shards.read.split import Check
from cinic_shards.read.subset import Subset
from cinic_shards.store import StoreLike, open_store

_MAX_PROCESSES = 1024
"""Bound on the workers of a DataLoader that share one ``ShardIterable``."""


class ShardIterable(IterableDataset[Batch]):
    """The batches of a ``ShardLoader``, for a DataLoader with ``batch_size=None``.

    Worker w of k makes the batches of the steps s with s mod k = w, so for any k a DataLoader
    returns them in the same order as the loader itself. Each worker reads most of the blocks;
    ``ShardLoader``, with threads, reads each block once. torchdata's StatefulDataLoader can save
    and load the state; it resumes with the same number of workers.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> dataset = ShardIterable("shards", "train", batch_size=32, augment=Augment())
        >>> for images, labels in DataLoader(dataset, batch_size=None):  # and num_workers=
        ...     pass  # float32 (32, 3, 32, 32), int64 (32,)
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
        Rank and world size, unless given, are looked up when the workers start. Each iteration is
        an epoch, with or without ``persistent_workers``; ``set_epoch`` chooses the next one. If
        ``subset`` has a ``where``, samples are chosen before it is sent to spawned workers, so it
        may be a lambda.

        Raises:
            OptionError: ``cache`` is ``device``, or rank or world size is invalid. Other errors of
                ``ShardLoader`` are raised with the first batch, or by ``len``.
        """
        cache = as_cache(cache)
        one_of("cache", cache.kind, Literal["none", HostCacheKind])
        if (rank, world_size) != (None, None):
            find_world(rank, world_size)
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
        """Return what a spawned worker needs: samples are chosen here, and ranks found here."""
        make = self._make_loader
        changes: dict[str, Any] = {}
        if (subset := make.keywords["subset"]) is not None and subset.where is not None:
            changes["subset"] = Subset(ids=self._own_loader().dataset.ids.tolist())
        if make.keywords["rank"] is None and distributed.is_initialized():  # here, not there
            changes["rank"], changes["world_size"] = find_world(None, None)
        made = partial(make.func, *make.args, **make.keywords | changes)
        return self.__dict__ | {"_loaders": {}, "_make_loader": made}

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
