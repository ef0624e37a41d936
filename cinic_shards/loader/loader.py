"""The ``ShardLoader``: batches of a plan, from a source of pixels, prefetched by threads."""

import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor
from contextlib import closing
from copy import copy
from functools import partial
from typing import Any, NoReturn

import torch

from cinic_shards.errors import OptionError
from cinic_shards.loader.augment import Augment, Normalize, Transform, augment_options
from cinic_shards.loader.batch import Batch
from cinic_shards.loader.batches import BatchMaker, OnError
from cinic_shards.loader.cache import Cache, CacheKind, as_cache
from cinic_shards.loader.epoch import Epoch, LoaderStats, run, shown
from cinic_shards.loader.memory import copy_ahead
from cinic_shards.loader.pixel_source import EpochSource, PixelSource, open_pixels
from cinic_shards.loader.plan import EpochPlan, Order, Reading, Tail
from cinic_shards.loader.planner import Planner
from cinic_shards.loader.reading import announce, reading_of
from cinic_shards.loader.selected import SelectedSamples
from cinic_shards.loader.state import STATE_VERSION, Position, Resumable
from cinic_shards.loader.step import Step
from cinic_shards.loader.trainers import TrainerLoader, in_accelerate
from cinic_shards.loader.world import default_threads, find_device
from cinic_shards.options import checked, integer, number_of_workers
from cinic_shards.read.split import Check
from cinic_shards.read.subset import Subset
from cinic_shards.store import StoreLike

BatchTransform = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class ShardLoader(Resumable):
    """Batches of one or several splits, decoded by threads ahead of their use.

    Each iteration is one epoch, and each epoch has a different order; ``set_epoch`` chooses the
    epoch. An epoch begins when its first batch is requested: an iterator that is never used does
    not count. A batch stays valid while anything refers to it; small batches share buffers of up to
    4 MB, which one kept image keeps. ``state_dict`` returns the position of the next batch; a
    loader with the same options resumes there, on any number of ranks.

    The rank is looked up when the first batch is requested, so a loader may be made before
    ``torch.distributed`` is initialised, and it can be pickled, for ``mp.spawn``: its options and
    position travel, and files are opened again.

    Example:
        >>> loader = ShardLoader("shards", split="train", batch_size=32, augment=Augment())
        >>> for epoch in range(2):
        ...     for images, labels in loader:  # float32 (32, 3, 32, 32), int64 (32,)
        ...         pass  # the training step
        >>> loader.epoch, len(loader), loader.stats().images
        (2, 2, 64)
    """

    batch_sampler = None  # Lightning looks for it where there is a sampler

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
        device: str | torch.device | None = None,
        normalize: Normalize = False,
        augment: Augment | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        batch_transform: BatchTransform | None = None,
        subset: Subset | None = None,
        order: Order = "window",
        cache: CacheKind | Cache = "none",
        tail: Tail | None = None,
        check: Check = "first",
        on_error: OnError = "raise",
        progress: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """Open a dataset.

        Args:
            path: a dataset that ``cinic-shard pack`` wrote: a folder, a URL or a ``Store``.
            split: the split to read, or several, as in ``train+valid``.
            batch_size: samples per batch on each rank; 512 if no size is given.
            global_batch_size: samples per batch over all ranks, instead of ``batch_size``: the
                order then stays the same when the number of ranks changes. If it is not a multiple
                of that number, the ranks' parts differ by one: multiply a mean loss by
                ``batch.loss_scale``.
            shuffle: visit the samples in a random order, a different one in each epoch.
            seed: seed of the order and the augmentation.
            workers: decoding threads; by default this process's share of the node's usable cores.
            device: move batches to this device; by default they stay on the CPU.
            normalize: float32 images: True subtracts the dataset's mean and divides by its
                standard deviation (of the split ``train`` if there is one, else of this split);
                ``"cinic10"`` uses CINIC-10's published statistics; a pair is (mean, std) on the
                scale 0 to 1. False leaves uint8.
            augment: random crop, flip and cutout, and normalisation, in one pass; replaces
                ``normalize``.
            memory_format: order of the images in memory: contiguous (N, 3, H, W), or
                ``torch.channels_last``, which makes mixed-precision convolutions on a GPU faster
                if the model has it too. The values and the shape are the same.
            batch_transform: a function called with (images, labels) of each batch, in order, after
                ``augment`` and in the consumer's thread; returns both.
            subset: the samples to visit; by default all. Packing shuffles a split, so even a small
                subset reads every block that holds one of its samples (see ``stats``).
            order: how ``shuffle`` mixes: ``window`` permutes blocks, and the samples of some dozen
                blocks at a time (docs/order.md); ``full`` permutes the entire split.
            cache: keep decoded pixels after an epoch: ``ram`` in this process, ``disk`` in a file
                that all processes of this machine share, ``device`` on the device, where batches
                are then gathered and augmented; or a ``Cache``, which also sets a number of bytes
                and a folder. It never changes the order.
            tail: what to do with a last batch that is not full: ``drop`` it (default with
                shuffle); keep it ``short`` (default without), which leaves some ranks an empty
                batch, whose mean is NaN, if fewer samples than ranks are left; or ``pad`` each
                rank's part to its usual size, with ``batch.valid`` False for the padding.
            check: compare the CRC-32 of what is read with the index: the ``first`` time, in every
                epoch (``always``), or never (``off``).
            on_error: what to do with a damaged sample: ``raise`` a DecodeError that names it, or
                ``skip`` it. A skipped sample makes its batch shorter; if none would be left, the
                batch has one black image with ``valid`` False and a ``loss_scale`` of 0.
                ``skipped`` names each sample with the reason, and the epoch ends with a warning.
                The number of batches stays the same.
            progress: show a bar on standard error, on rank 0.
            rank: rank of this process, below ``world_size``; by default as torch.distributed,
                torchrun, Slurm or MPI set it when the first batch is requested, else 0.
            world_size: number of processes; give both or none.

        Raises:
            OptionError: an option is invalid, or options contradict each other.
            StoreError: a file cannot be read, or its size differs from the manifest.
            FormatError: a file is damaged, or the split has images of several sizes.
        """
        self._workers = None if workers is None else number_of_workers(workers)
        self.shuffle = shuffle
        self.seed = integer("seed", seed)
        self.order = order
        self.tail = tail or ("drop" if shuffle else "short")
        self.cache = as_cache(cache)
        if device is None and self.cache.kind == "device":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = find_device(device) if device is not None else None
        self.memory_format = memory_format
        self.batch_transform = batch_transform
        self.progress = progress
        self._augment = augment_options(augment, normalize)
        self._on_error = on_error
        self.dataset = SelectedSamples(path, split, subset or Subset(), check)
        self._open()
        self._planner = Planner(
            rank, world_size, batch_size, global_batch_size,
            name=self.dataset.reader.name, num_samples=len(self.dataset),
            block_starts=self.dataset.selection.block_starts,
            seed=self.seed, shuffle=shuffle, order=order, tail=self.tail,
        )  # fmt: skip
        super().__init__()

    def _open(self) -> None:
        """Open what is not pickled."""
        reader = self.dataset.reader
        measured = (self.dataset.manifest.split("train") or reader).pixels
        statistics = measured.mean, measured.std
        self._transform = Transform(
            self._augment, statistics, reader.image_shape, seed=self.seed, device=self.device,
            memory_format=self.memory_format,
        )  # fmt: skip
        self._pixels = self._open_pixels()
        self._maker: BatchMaker | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is a position in this tuple, as in torchvision's ImageFolder."""
        return tuple(self.dataset.classes)

    @property
    def rank(self) -> int:
        """Rank of this process, as given or as it is now."""
        return self._planner.world[0]

    @property
    def world_size(self) -> int:
        """Number of processes, as given or as it is now."""
        return self._planner.world[1]

    @property
    def workers(self) -> int:
        """Number of decoding threads."""
        return default_threads() if self._workers is None else self._workers

    @property
    def global_batch_size(self) -> int:
        """Samples of a full batch on all ranks."""
        return self._planner.global_batch_size

    @property
    def batch_size(self) -> int:
        """Samples of a full batch on this rank."""
        return self._planner.batch_size

    @property
    def num_samples(self) -> int:
        """Number of selected samples on all ranks, including a tail that is dropped."""
        return len(self.dataset)

    @property
    def reading(self) -> Reading | None:
        """Estimate of what an epoch reads and holds without a cache; None if not in blocks."""
        return reading_of(self._plan(), self.dataset.reader, self._pixels)

    @property
    def skipped(self) -> dict[int, str]:
        """Id of each sample skipped so far -> what is wrong with it."""
        return dict(self._maker.skipped) if self._maker is not None else {}

    def __repr__(self) -> str:
        try:
            rank, world_size = self._planner.world
            parts = f"global_batch_size={self.global_batch_size}, rank {rank} of {world_size}"
        except OptionError:  # the launcher's variables are incomplete so far
            parts = "ranks unknown"
        return (
            f"ShardLoader({str(self.dataset.store)!r}, {self.dataset.reader.name!r}: "
            f"{self.num_samples:,} samples, epoch={self.epoch}, {parts})"
        )

    def __len__(self) -> int:
        """Return the number of batches in an epoch, the same on every rank."""
        return len(self._plan())

    def __getitem__(self, index: Any) -> NoReturn:
        """Raise an OptionError: a loader has batches, not samples."""
        raise OptionError(
            "a ShardLoader is itself a loader: iterate over it, without a DataLoader around it; if "
            "a library needs a DataLoader, give it loader.as_dataloader(); single images are in "
            "CINIC10"
        )

    def __iter__(self) -> Iterator[Batch]:
        batches = self.iterate_share(0, 1)
        return in_accelerate(batches, self) if "accelerate" in sys.modules else batches

    def peek(self) -> Batch:
        """Return the batch that the next iteration begins with; no epoch begins by that."""
        position, self._position = self._position, copy(self._position)
        try:
            with closing(self.iterate_share(0, 1)) as batches:
                return next(batches)
        finally:
            self._position = position

    def as_dataloader(self) -> TrainerLoader:
        """Return this loader as a torch ``DataLoader``, for libraries that take nothing else.

        Lightning Fabric's ``setup_dataloaders`` and Accelerate's ``prepare`` are such ones. Batches
        are still made by this loader's threads.
        """
        return TrainerLoader(self)

    @checked
    def iterate_share(self, number: int, count: int) -> Generator[Batch, None, None]:
        """Yield every ``count``-th batch of the epoch, starting with step ``number``.

        Several processes can share the work of one rank in this way.
        """
        plan = self._plan()
        maker = self._batch_maker()
        epoch = self._position.begin(number, count, self.dataset.reader.bytes_read)
        steps = range(epoch.step, len(plan), count)
        yield from epoch.follow(self._batches(plan, maker, steps, epoch))

    def _batch_maker(self) -> BatchMaker:
        """Return the maker of this process's batches; make it on first use."""
        batch_size, maker = self.batch_size, self._maker
        if maker is not None and maker.batch_size == batch_size:
            return maker
        self._maker = BatchMaker(
            self.dataset.reader, self.dataset.selection, self._transform, self.device,
            self._on_error, batch_size, self.workers,
        )  # fmt: skip
        if maker is None:
            announce(self._plan(), self.reading, self.cache, self.progress)
        else:
            self._maker.skipped = maker.skipped
        return self._maker

    def _batches(
        self, plan: EpochPlan, maker: BatchMaker, steps: range, epoch: Epoch
    ) -> Generator[Batch, None, None]:
        """Yield the batches of these steps, with the user's transform applied."""
        selection = self.dataset.selection
        step_at = partial(Step, plan, selection)

        def open_source(threads: Executor) -> EpochSource:
            self.dataset.reader.start_epoch()
            if self.cache.kind == "device":
                maker.fill_device(threads)
            return self._pixels.open_epoch(plan, selection, threads)

        if self.device is None:
            batches: Generator[Batch, None, None] = run(
                plan, steps, step_at, maker.num_threads, open_source, maker.on_cpu, epoch,
                most_images=maker.max_job_images, few_images=self._pixels.few_images,
            )  # fmt: skip
        else:
            works = run(
                plan, steps, step_at, maker.num_threads, open_source, maker.for_device, epoch,
                most_images=1, few_images=self._pixels.few_images,
            )  # fmt: skip
            batches = copy_ahead(
                works, maker.finish, lambda b: [b.images, b.labels, b.valid], self.device
            )
        if self.progress and plan.rank == 0:
            batches = shown(batches, plan, steps)
        with closing(batches):
            for batch in batches:
                if self.batch_transform is not None:
                    images, labels = self.batch_transform(batch.images, batch.labels)
                    batch = Batch(images, labels, batch.indices, batch.valid, batch.loss_scale)
                yield batch
        if skipped := self.skipped:
            first = next(iter(skipped.values()))
            warnings.warn(
                f"{len(skipped):,} damaged samples skipped so far; the first one: {first}",
                stacklevel=3,
            )

    def stats(self) -> LoaderStats:
        """Return statistics of the current epoch, or of the last one if none is running."""
        bytes_read = self.dataset.reader.bytes_read
        running = self._position.running or copy(self._position).begin(0, 1, bytes_read)
        return running.stats(bytes_read)

    def __getstate__(self) -> dict[str, Any]:
        opened = dict.fromkeys(("_transform", "_pixels", "_maker"))
        position = self._position.unused or self._position.of_next_batch(len(self))
        return self.__dict__ | opened | {"_position": Position(*position)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._open()

    def _conditions(self) -> dict[str, Any]:
        """Return everything that the batches of an epoch depend on."""
        samples, blocks = self.dataset.digests
        return {
            "version": STATE_VERSION,
            "plan_version": self.plan_version,
            "fingerprint": self.dataset.manifest.fingerprint,
            "split": self.dataset.reader.name,
            "samples": samples,
            "blocks": blocks if self.shuffle and self.order == "window" else "",
            "order": self.order if self.shuffle else "as stored",
            "seed": self.seed,
            "global_batch_size": self.global_batch_size,
            "tail": self.tail,
            "augment": self._transform.description,
        }

    # Parts

    def _plan(self) -> EpochPlan:
        return self._planner.plan(self.epoch, self.plan_version)

    def _open_pixels(self) -> PixelSource:
        reader, blocks = self.dataset.reader, self.dataset.selection.blocks
        pixels = open_pixels(reader, self.dataset.manifest, self.cache, blocks)
        if self.shuffle and self.order == "full" and not pixels.takes_any_row:
            raise OptionError(
                f"order='full' would decode an entire {reader.encoding} block for nearly every "
                "sample; use order='window', or cache='ram', 'disk' or 'device' with room for the "
                "entire split"
            )
        return pixels
