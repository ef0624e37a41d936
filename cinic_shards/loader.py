"""Plan + reader + decoder -> batches, prefetched by threads."""

import os
import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cinic_shards.augment import normalize, normalize_on_device, normalize_table
from cinic_shards.device import copy_ahead
from cinic_shards.errors import DecodeError, OptionError
from cinic_shards.plan import EpochPlan
from cinic_shards.reader import Dataset
from cinic_shards.workers import usable_cores


@dataclass(frozen=True, slots=True)
class Batch:
    """N samples; unpacks as ``images, labels``."""

    images: torch.Tensor
    """uint8, or float32 where normalised; shape (N, 3, H, W), in channels-last memory order."""
    labels: torch.Tensor
    """int64, shape (N,)."""
    indices: torch.Tensor
    """The samples' ids in the dataset, int64, shape (N,), on the CPU."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.images, self.labels))

    def __len__(self) -> int:
        return len(self.labels)


class ShardLoader:
    """Batches of one split, decoded by threads ahead of their use.

    Each iteration is an epoch, and the next one has another order; ``set_epoch`` chooses one.
    A batch stays valid for as long as anything refers to it.

    Example:
        >>> loader = ShardLoader("shards", split="train", batch_size=512, normalize=True)
        >>> for images, labels in loader:
        ...     loss = criterion(model(images), labels)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        split: str = "train",
        batch_size: int = 512,
        shuffle: bool = True,
        seed: int = 0,
        workers: int | None = None,
        device: str | torch.device | None = None,
        normalize: bool | tuple[Sequence[float], Sequence[float]] = False,
        order: str = "full",
        tail: str | None = None,
        check: str = "first",
        on_error: str = "raise",
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """Open a dataset.

        Args:
            path: a folder that ``cinic-shard pack`` wrote.
            split: the split to read.
            batch_size: samples a batch, on each rank.
            shuffle: visit the samples in a random order, another one each epoch.
            seed: of that order.
            workers: decoding threads; by default the usable cores divided by LOCAL_WORLD_SIZE.
            device: where batches go; by default they stay where they are decoded, on the CPU.
            normalize: float32 images: True subtracts the dataset's mean and divides by its
                deviation (of the split ``train`` where there is one, else of this split), a pair
                of (mean, std) on the scale 0 to 1 is used instead.
            order: how ``shuffle`` mixes: ``full`` permutes the whole split.
            tail: what becomes of a last batch that is not full: ``drop`` (default with shuffle)
                or ``short`` (default without).
            check: compare a PNG's CRC-32 with the index when it is read for the ``first`` time,
                ``always``, or never (``off``). It runs at two million images a second and core.
            on_error: what a damaged sample does: ``raise`` a DecodeError that names it, or
                ``skip``: its batch is shorter, ``skipped`` tells which and why, and an epoch with
                any ends with a warning. The number of batches stays as it is.
            rank: this process among ``world_size``; by default as torch.distributed says where
                it is initialised, else torchrun's RANK and WORLD_SIZE, else alone.
            world_size: see ``rank``.

        Raises:
            OptionError: an option cannot be.
            StoreError: a file cannot be read or has another size than the manifest says.
            FormatError: a file is damaged, or the split has images of several sizes.
        """
        self.workers = _default_workers() if workers is None else workers
        if self.workers < 1 or batch_size < 1:
            raise OptionError(f"workers={workers}, batch_size={batch_size}: expected at least 1")
        self.rank, self.world_size = _world(rank, world_size)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.order = order
        self.tail = tail or ("drop" if shuffle else "short")
        if on_error not in ("raise", "skip"):
            raise OptionError(f"on_error={on_error!r}: expected raise or skip")
        self.on_error = on_error
        self.skipped: dict[int, str] = {}
        """Id of each sample that was skipped -> what is wrong with it."""
        self.epoch = 0
        """The epoch that the next iteration runs."""
        self.device = torch.device(device) if device is not None else None
        self.dataset = Dataset(path)
        self._reader = self.dataset.split(split, check=check)
        self._image_shape = self._reader.image_shape
        self._table = self._normalize_table(normalize)
        self._device_table = (
            torch.from_numpy(self._table).to(self.device)
            if self._table is not None and self.device is not None
            else None
        )
        # uint8 until the device: a quarter of the bytes over PCIe.
        self._normalize_on_cpu = self._table is not None and self.device is None
        self._buffers = _BufferPool(pinned=self.device is not None and self.device.type == "cuda")
        if len(self._plan()) == 0:
            raise OptionError(
                f"split {split} has {len(self._reader):,} samples, fewer than the {batch_size:,} "
                f"of a batch on each of {self.world_size} ranks; choose a smaller batch_size, or "
                "tail='short'"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is a place here, as in torchvision's ImageFolder."""
        return self.dataset.manifest.classes

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._plan())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        plan = self._plan()
        self.epoch += 1
        batches = self._cpu_batches(plan)
        if self.device is None:
            return batches
        return copy_ahead(batches, self._move, _device_tensors, self.device)

    def _plan(self) -> EpochPlan:
        return EpochPlan(
            num_samples=len(self._reader),
            global_batch_size=self.batch_size * self.world_size,
            seed=self.seed,
            epoch=self.epoch,
            shuffle=self.shuffle,
            order=self.order,
            tail=self.tail,
            rank=self.rank,
            world_size=self.world_size,
        )

    def _normalize_table(
        self, option: bool | tuple[Sequence[float], Sequence[float]]
    ) -> NDArray[np.float32] | None:
        if option is False:
            return None
        if option is not True:
            return normalize_table(*option)
        measured = self.dataset.manifest.split("train") or self._reader.info
        return normalize_table(measured.pixels.mean, measured.pixels.std)

    def _cpu_batches(self, plan: EpochPlan) -> Iterator[Batch]:
        """Batches in order, a bounded number of them under way."""
        threads = ThreadPoolExecutor(self.workers, thread_name_prefix="cinic-shards")
        under_way: deque[Future[Batch]] = deque()
        try:
            for step in range(len(plan)):
                under_way.append(threads.submit(self._load, plan, step))
                if len(under_way) > 2 * self.workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
            if self.skipped:
                first = next(iter(self.skipped.values()))
                warnings.warn(
                    f"{len(self.skipped):,} damaged samples were skipped so far; {first}",
                    stacklevel=3,
                )
        finally:  # reached by break, by an exception and by Ctrl-C, too
            threads.shutdown(wait=True, cancel_futures=True)

    def _load(self, plan: EpochPlan, step: int) -> Batch:
        """Make one batch on the CPU. Runs in a thread."""
        rows = plan.rows(step)
        shape = (len(rows), *self._image_shape)
        images = self._buffers.take(shape, torch.uint8)
        if errors := self._reader.read_images(rows, images.numpy()):
            rows, images = self._without(errors, rows, images)
            shape = (len(rows), *self._image_shape)
        if self._normalize_on_cpu:
            assert self._table is not None
            normalized = self._buffers.take(shape, torch.float32)
            normalize(images.numpy(), self._table, normalized.numpy())
            images = normalized
        return Batch(
            images.permute(0, 3, 1, 2),
            torch.from_numpy(self._reader.labels[rows]),
            torch.from_numpy(self._reader.ids(rows)),
        )

    def _without(
        self, errors: list[DecodeError], rows: NDArray[np.int64], images: torch.Tensor
    ) -> tuple[NDArray[np.int64], torch.Tensor]:
        """Rows and images that are not damaged; or raise what is wrong with the first one."""
        if self.on_error == "raise":
            raise errors[0]
        bad = [error.position for error in errors]
        for error, sample_id in zip(errors, self._reader.ids(rows[bad]).tolist(), strict=True):
            self.skipped[sample_id] = str(error)
        good = np.setdiff1d(np.arange(len(rows)), bad)
        return rows[good], images[torch.from_numpy(good)]

    def _move(self, batch: Batch) -> Batch:
        """Copy a batch to the device, and normalise it there."""
        images = batch.images.to(self.device, non_blocking=True)
        labels = batch.labels
        if self._buffers.pinned:
            labels = labels.pin_memory()
        if self._device_table is not None:
            images = normalize_on_device(images, self._device_table)
        return Batch(images, labels.to(self.device, non_blocking=True), batch.indices)


def _device_tensors(batch: Batch) -> list[torch.Tensor]:
    return [batch.images, batch.labels]


class _Lease(weakref.ref["NDArray[Any]"]):
    """Tells when nothing refers any more to a batch that lay in ``buffer``."""

    __slots__ = ("buffer",)
    buffer: NDArray[Any]


class _BufferPool:
    """Memory for batches, used again once nothing refers to the batch that lay in it.

    New memory costs a page fault every 4 KiB: as long as a third of the decoding of its pixels.
    """

    def __init__(self, *, pinned: bool) -> None:
        self.pinned = pinned
        self._ended: dict[tuple[int, torch.dtype], list[_Lease]] = {}
        self._leases: dict[int, _Lease] = {}

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor of this shape, its content undefined."""
        if self.pinned:  # torch keeps and reuses pinned memory itself, when its copies are done
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        size = int(np.prod(shape))
        ended = self._ended.setdefault((size, dtype), [])
        try:
            lease = ended.pop()
        except IndexError:
            try:
                buffer = torch.empty(size, dtype=dtype).numpy()
            except RuntimeError as error:
                raise OptionError(
                    f"a batch of shape {shape} does not fit into memory; choose a smaller "
                    "batch_size"
                ) from error
        else:
            buffer = lease.buffer
            del self._leases[id(lease)]
        # Every tensor on this memory keeps this view alive, whatever is made of the batch. The end
        # of a lease runs no line of Python: a Ctrl-C that came in one would be lost.
        view = buffer[:]
        lease = _Lease(view, ended.append)
        lease.buffer = buffer
        self._leases[id(lease)] = lease
        return torch.from_numpy(view).view(shape)


def _default_workers() -> int:
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _world(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and world size: as given, as torch.distributed or torchrun says, or alone."""
    if (rank is None) != (world_size is None):
        raise OptionError("give both rank and world_size, or none of them")
    if rank is not None and world_size is not None:
        return rank, world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
