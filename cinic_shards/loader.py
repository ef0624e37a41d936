"""Plan + source + augmentation -> batches, prefetched by threads."""

import itertools
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cinic_shards.augment import PLAIN, Augment, Statistics, Transform
from cinic_shards.buffers import BufferPool
from cinic_shards.cache import CACHES, BlockCache, DiskCache, cache_folder, cache_limit
from cinic_shards.device import copy_ahead
from cinic_shards.errors import DecodeError, OptionError
from cinic_shards.kernels import gather_images
from cinic_shards.plan import EpochPlan
from cinic_shards.reader import Dataset
from cinic_shards.source import BlockSource, EpochSource, MappedSource, RowSource
from cinic_shards.workers import usable_cores

BatchTransform = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Batch:
    """N samples; unpacks as ``images, labels``."""

    images: torch.Tensor
    """uint8, or the float type that was asked for; shape (N, 3, H, W), in channels-last memory
    order."""
    labels: torch.Tensor
    """int64, shape (N,)."""
    indices: torch.Tensor
    """The samples' ids in the dataset, int64, shape (N,), on the CPU."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.images, self.labels))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class _Work:
    """A batch on its way to a device: what is still to be done there."""

    images: torch.Tensor | None
    """uint8, shape (N, H, W, 3); None where the device holds the dataset."""
    rows: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    draws: torch.Tensor


class ShardLoader:
    """Batches of one split, decoded by threads ahead of their use.

    Each iteration is an epoch, and the next one has another order; ``set_epoch`` chooses one.
    A batch stays valid for as long as anything refers to it.

    Example:
        >>> loader = ShardLoader("shards", split="train", batch_size=512, augment=Augment())
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
        normalize: bool | str | Statistics = False,
        augment: Augment | None = None,
        batch_transform: BatchTransform | None = None,
        order: str = "window",
        cache: str = "none",
        cache_bytes: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
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
            seed: of that order, and of augmentation.
            workers: decoding threads; by default the usable cores divided by LOCAL_WORLD_SIZE.
            device: where batches go; by default they stay where they are decoded, on the CPU.
            normalize: float32 images: True subtracts the dataset's mean and divides by its
                deviation (of the split ``train`` where there is one, else of this split);
                ``"cinic10"`` takes CINIC-10's published ones, a pair is (mean, std) on the scale
                0 to 1.
            augment: random crop, flip and cutout, and normalising, in one pass; replaces
                ``normalize``.
            batch_transform: your own, called with (images, labels) of each batch in order, behind
                ``augment``, where the batches are consumed; gives both back.
            order: how ``shuffle`` mixes: ``window`` permutes blocks, and the samples of some dozen
                of them at a time (docs/order.md); ``full`` permutes the whole split.
            cache: keep decoded pixels after an epoch: ``ram`` in this process, ``disk`` in a file
                that all processes of this machine share, ``device`` on the device, where batches
                are then gathered and augmented. It never changes the order.
            cache_bytes: of ``ram`` and ``disk``: how much to keep; by default the whole split, or
                what $CINIC_SHARDS_CACHE_BYTES says.
            cache_dir: of ``disk``; by default $CINIC_SHARDS_CACHE_DIR, or the user's folder for
                caches.
            tail: what becomes of a last batch that is not full: ``drop`` (default with shuffle)
                or ``short`` (default without).
            check: compare the CRC-32 of what is read with the index: the ``first`` time, in every
                epoch (``always``), or never (``off``).
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
        if cache not in CACHES:
            raise OptionError(f"cache={cache!r}: expected one of {', '.join(CACHES)}")
        self.cache = cache
        self.device = torch.device(device) if device is not None else None
        if cache == "device" and self.device is None:
            self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.batch_transform = batch_transform
        self.dataset = Dataset(path)
        self._reader = self.dataset.split(split, check=check)
        self._image_shape = self._reader.image_shape
        self._transform = self._make_transform(augment, normalize)
        self._buffers = BufferPool(pinned=self.device is not None and self.device.type == "cuda")
        self._cache = self._make_cache(cache_bytes, cache_dir)
        self._block_memory: list[NDArray[np.uint8]] = []
        self._resident: torch.Tensor | None = None
        """The split's pixels on the device, uint8 (N, H, W, 3), with ``cache="device"``."""
        self._resident_errors: dict[int, DecodeError] = {}
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
        if self.device is None:
            batches: Iterator[Batch] = self._run(plan, self._make_batches)
        else:
            batches = copy_ahead(
                self._run(plan, self._make_works), self._finish, _device_tensors, self.device
            )
        if self.batch_transform is None:
            return batches
        return map(self._apply_batch_transform, batches)

    def _plan(self) -> EpochPlan:
        return EpochPlan(
            num_samples=len(self._reader),
            global_batch_size=self.batch_size * self.world_size,
            seed=self.seed,
            epoch=self.epoch,
            shuffle=self.shuffle,
            order=self.order,
            block_starts=self._reader.block_starts,
            tail=self.tail,
            rank=self.rank,
            world_size=self.world_size,
        )

    def _make_transform(
        self, augment: Augment | None, normalize: bool | str | Statistics
    ) -> Transform:
        if augment is not None and normalize is not False:
            raise OptionError("give normalize to Augment, or to the loader without augment")
        if augment is None:
            augment = PLAIN
            if normalize is not False:
                augment = Augment(crop_padding=0, flip=False, normalize=normalize)
        measured = (self.dataset.manifest.split("train") or self._reader.info).pixels
        return Transform(
            augment,
            (measured.mean, measured.std),
            self._image_shape,
            seed=self.seed,
            device=self.device,
        )

    def _make_cache(
        self, cache_bytes: int | None, cache_dir: str | os.PathLike[str] | None
    ) -> BlockCache:
        reader = self._reader
        limit: int | None = 0
        if self.cache in ("ram", "disk") and reader.encoding != "raw":
            limit = cache_limit(cache_bytes)
        if self.cache == "disk" and limit != 0:
            folder = cache_folder(cache_dir, self.dataset.manifest, reader.info)
            made: BlockCache = DiskCache(reader.block_starts, self._image_shape, limit, folder)
        else:
            made = BlockCache(reader.block_starts, self._image_shape, limit)
        if (
            self.shuffle
            and self.order == "full"
            and (reader.encoding == "zstd" or (reader.encoding == "png" and self.cache != "none"))
            and self.cache != "device"
            and not made.holds_all
        ):
            raise OptionError(
                f"order='full' would decode a block of the encoding {reader.encoding} for nearly "
                "every sample: use order='window', or a cache='ram', 'disk' or 'device' that holds "
                "the whole split"
            )
        return made

    def _source(self, plan: EpochPlan, threads: ThreadPoolExecutor) -> EpochSource:
        if self._reader.encoding == "raw":
            return MappedSource(self._reader)
        if self.cache == "device" or (self._reader.encoding == "png" and self.cache == "none"):
            return RowSource(self._reader)
        return BlockSource(self._reader, self._cache, plan, threads, self._block_memory)

    def _run(
        self,
        plan: EpochPlan,
        make: Callable[[EpochPlan, EpochSource, range], list[Any]],
    ) -> Iterator[Any]:
        """What ``make`` makes of each step, in order, a bounded number of them under way."""
        threads = ThreadPoolExecutor(self.workers, thread_name_prefix="cinic-shards")
        under_way: deque[Future[list[Any]]] = deque()
        source: EpochSource | None = None
        try:
            self._reader.start_epoch()
            if self.cache == "device" and self._resident is None:
                self._fill_device(threads)
            source = self._source(plan, threads)
            # Where a step is a matter of microseconds, to hand it to a thread would cost as much.
            at_once = 1
            if self.device is None:
                at_once = max(1, source.images_at_once // plan.global_batch_size)
            num_wanted = num_done = 0
            for step in range(0, len(plan), at_once):
                while num_wanted < min(step + at_once + source.steps_ahead, len(plan)):
                    source.want(num_wanted)
                    num_wanted += 1
                steps = range(step, min(step + at_once, len(plan)))
                under_way.append(threads.submit(make, plan, source, steps))
                if len(under_way) > (2 * self.workers if at_once == 1 else self.workers):
                    for result in under_way.popleft().result():
                        source.release(num_done)
                        num_done += 1
                        yield result
            while under_way:
                yield from under_way.popleft().result()
            if self.skipped:
                first = next(iter(list(self.skipped.values())))
                warnings.warn(
                    f"{len(self.skipped):,} damaged samples were skipped so far; {first}",
                    stacklevel=3,
                )
        finally:  # reached by break, by an exception and by Ctrl-C, too
            threads.shutdown(wait=True, cancel_futures=True)
            if source is not None:
                source.close()

    def _make_batches(self, plan: EpochPlan, source: EpochSource, steps: range) -> list[Batch]:
        """Finished batches on the CPU, side by side in one piece of memory. Runs in a thread."""
        transform = self._transform
        parts = [plan.rows(step) for step in steps]
        ends = np.cumsum([len(part) for part in parts])
        rows, addresses, images = self._fetch(source, np.concatenate(parts))
        if len(rows) < ends[-1]:  # damaged ones are left out
            ends = np.cumsum([np.isin(part, rows).sum() for part in parts])
        ids = self._reader.ids(rows)
        if images is None or not transform.is_plain:
            decoded = images  # stays until it is read
            images = self._buffers.take((len(rows), *self._image_shape), transform.dtype)
            if transform.is_plain:
                gather_images(addresses, images.numpy())
            else:
                transform.on_cpu(addresses, transform.draw(ids, plan.epoch), images)
            del decoded
        images = images.permute(0, 3, 1, 2)
        labels = torch.from_numpy(self._reader.labels[rows])
        indices = torch.from_numpy(ids)
        if len(parts) == 1:
            return [Batch(images, labels, indices)]
        return [
            Batch(images[start:end], labels[start:end], indices[start:end])
            for start, end in itertools.pairwise([0, *ends.tolist()])
        ]

    def _make_works(self, plan: EpochPlan, source: EpochSource, steps: range) -> list[_Work]:
        """The CPU's part of batches for a device. Runs in a thread."""
        return [self._make_work(plan, source, plan.rows(step)) for step in steps]

    def _make_work(self, plan: EpochPlan, source: EpochSource, rows: NDArray[np.int64]) -> _Work:
        images: torch.Tensor | None = None
        if self._resident is None:
            rows, addresses, images = self._fetch(source, rows)
            if images is None:
                images = self._buffers.take((len(rows), *self._image_shape), torch.uint8)
                gather_images(addresses, images.numpy())
            places = np.arange(len(rows))
        else:
            if self._resident_errors:
                errors = [
                    DecodeError(position, error.reason, error.place)
                    for position, row in enumerate(rows.tolist())
                    if (error := self._resident_errors.get(row))
                ]
                rows, _ = self._without(errors, rows)
            places = rows
        ids = self._reader.ids(rows)
        return _Work(
            images,
            torch.from_numpy(places),
            torch.from_numpy(self._reader.labels[rows]),
            torch.from_numpy(ids),
            torch.from_numpy(self._transform.draw(ids, plan.epoch)),
        )

    def _fetch(
        self, source: EpochSource, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], torch.Tensor | None]:
        """Rows that are not damaged, and where their images are.

        Returns:
            The rows; an address for each; and the images, uint8 (N, H, W, 3), where the source has
            just decoded them side by side.
        """
        images: torch.Tensor | None = None

        def scratch() -> NDArray[np.uint8]:
            nonlocal images
            images = self._buffers.take((len(rows), *self._image_shape), torch.uint8)
            return images.numpy()

        addresses, errors = source.fetch(rows, scratch)
        if errors:
            rows, good = self._without(errors, rows)
            addresses = addresses[good]
            if images is not None:
                images = images[torch.from_numpy(good)]
                addresses = images.data_ptr() + np.arange(len(rows)) * int(
                    np.prod(self._image_shape)
                )
        return rows, addresses, images

    def _without(
        self, errors: list[DecodeError], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows that are not damaged, and their positions; or raise what is wrong with the first."""
        if errors and self.on_error == "raise":
            raise errors[0]
        bad = [error.position for error in errors]
        for error, sample_id in zip(errors, self._reader.ids(rows[bad]).tolist(), strict=True):
            self.skipped[sample_id] = str(error)
        good = np.setdiff1d(np.arange(len(rows)), bad)
        return rows[good], good

    def _fill_device(self, threads: ThreadPoolExecutor) -> None:
        """Decode the whole split to the device."""
        starts = self._reader.block_starts.tolist()
        resident = torch.empty(
            (len(self._reader), *self._image_shape), dtype=torch.uint8, device=self.device
        )

        def fill(block: int) -> list[DecodeError]:
            start, stop = starts[block : block + 2]
            images = np.empty((stop - start, *self._image_shape), np.uint8)
            errors = self._reader.read_block(block, images)
            resident[start:stop].copy_(torch.from_numpy(images))
            return errors

        blocks = range(self._reader.num_blocks)
        for block, errors in zip(blocks, threads.map(fill, blocks), strict=True):
            for error in errors:
                if self.on_error == "raise":
                    raise error
                self._resident_errors[starts[block] + error.position] = error
        self._resident = resident

    def _finish(self, work: _Work) -> Batch:
        """Copy what a batch is made of to the device, and make it there."""
        assert self.device is not None
        pinned = self._buffers.pinned

        def move(tensor: torch.Tensor) -> torch.Tensor:
            if pinned and not tensor.is_pinned():
                tensor = tensor.pin_memory()
            return tensor.to(self.device, non_blocking=True)

        transform = self._transform
        if self._resident is None:
            assert work.images is not None
            images = move(work.images)
            if not transform.is_plain:
                images = transform.on_device(images, move(work.rows), move(work.draws))
        else:
            images = transform.on_device(self._resident, move(work.rows), move(work.draws))
        return Batch(images.permute(0, 3, 1, 2), move(work.labels), work.indices)

    def _apply_batch_transform(self, batch: Batch) -> Batch:
        assert self.batch_transform is not None
        images, labels = self.batch_transform(batch.images, batch.labels)
        return Batch(images, labels, batch.indices)


def _device_tensors(batch: Batch) -> list[torch.Tensor]:
    return [batch.images, batch.labels]


def _default_workers() -> int:
    return max(1, usable_cores() // max(1, _from_environment("LOCAL_WORLD_SIZE", 1)))


def _from_environment(name: str, default: int) -> int:
    """A number that torchrun sets."""
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError as error:
        raise OptionError(f"${name} is {text!r}, expected a number, as torchrun sets it") from error


def _world(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and world size: as given, as torch.distributed or torchrun says, or alone."""
    if (rank is None) != (world_size is None):
        raise OptionError("give both rank and world_size, or none of them")
    if rank is not None and world_size is not None:
        return rank, world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return _from_environment("RANK", 0), _from_environment("WORLD_SIZE", 1)
