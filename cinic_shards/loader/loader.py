"""The ``ShardLoader``: batches of a plan, from a source of pixels, prefetched by threads."""

import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch

from cinic_shards.errors import OptionError
from cinic_shards.loader.augment import PLAIN, Augment, Normalize, Transform
from cinic_shards.loader.batches import Batch, BatchMaker, OnError
from cinic_shards.loader.cache import Cache, CacheKind, as_cache
from cinic_shards.loader.epoch import Epoch, LoaderStats, run, shown
from cinic_shards.loader.memory import copy_ahead
from cinic_shards.loader.pixel_source import EpochSource, PixelSource, open_pixels
from cinic_shards.loader.plan import PLAN_VERSIONS, EpochPlan, Order, Tail, part_of
from cinic_shards.loader.reading import Reading, announce, reading_of
from cinic_shards.loader.step import Step
from cinic_shards.loader.world import default_threads, find_device, find_world
from cinic_shards.options import checked, integer, number_of_workers
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.split import Check
from cinic_shards.read.subset import Subset, select
from cinic_shards.store import StoreLike

BatchTransform = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
_STATE_VERSION = 1


class ShardLoader:
    """Batches of one or several splits, decoded by threads ahead of their use.

    Each iteration is one epoch, and each epoch has a different order; ``set_epoch`` chooses the
    epoch. An epoch begins when its first batch is requested: an iterator that is never used does
    not count. A batch stays valid while anything refers to it; small batches share buffers of up to
    4 MB, which one kept image keeps. ``state_dict`` returns the position of the next batch; a
    loader with the same options resumes there, on any number of ranks.

    Example:
        >>> loader = ShardLoader("shards", split="train", batch_size=512, augment=Augment())
        >>> for images, labels in loader:
        ...     loss = criterion(model(images), labels)
    """

    @checked
    def __init__(
        self,
        path: StoreLike,
        *,
        split: str = "train",
        batch_size: int | None = None,
        global_batch_size: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        workers: int | None = None,
        device: str | torch.device | None = None,
        normalize: Normalize = False,
        augment: Augment | None = None,
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
            workers: decoding threads; by default the usable cores divided by LOCAL_WORLD_SIZE.
            device: move batches to this device; by default they stay on the CPU.
            normalize: float32 images: True subtracts the dataset's mean and divides by its
                standard deviation (of the split ``train`` if there is one, else of this split);
                ``"cinic10"`` uses CINIC-10's published statistics; a pair is (mean, std) on the
                scale 0 to 1. False leaves uint8.
            augment: random crop, flip and cutout, and normalisation, in one pass; replaces
                ``normalize``.
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
            rank: rank of this process, below ``world_size``; by default from torch.distributed if
                it is initialised, else torchrun's RANK, else 0.
            world_size: number of processes; by default from torch.distributed, torchrun's
                WORLD_SIZE, or 1. Give both or none.

        Raises:
            OptionError: an option is invalid, or options contradict each other.
            StoreError: a file cannot be read, or its size differs from the manifest.
            FormatError: a file is damaged, or the split has images of several sizes.
        """
        self.workers = default_threads() if workers is None else number_of_workers(workers)
        self.rank, self.world_size = find_world(rank, world_size)
        self.global_batch_size = _global_batch_size(batch_size, global_batch_size, self.world_size)
        self.shuffle = shuffle
        self.seed = integer("seed", seed)
        self.order = order
        self.tail = tail or ("drop" if shuffle else "short")
        self.cache = as_cache(cache)
        if device is None and self.cache.kind == "device":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = find_device(device) if device is not None else None
        self.batch_transform = batch_transform
        self.progress = progress
        self.dataset = Dataset(path)
        self._reader = self.dataset.split(split, check=check)
        self._selection = select(self.dataset, self._reader, subset or Subset())
        self._transform = self._make_transform(augment, normalize)
        self._pixels = self._open_pixels()
        self._maker = BatchMaker(
            self._reader, self._selection, self._transform, self.device, on_error,
            self.batch_size, self.workers,
        )  # fmt: skip
        self.plan_version = max(PLAN_VERSIONS)  # 1 if a state of release 0.1.0 was loaded
        self.epoch = 0
        """The epoch that the next iteration runs."""
        self._first_step = 0  # the step at which it begins
        self._running: Epoch | None = None
        """The last iteration."""
        if len(self) == 0:
            raise OptionError(
                f"split {split}: {len(self._selection):,} samples, fewer than the "
                f"{self.global_batch_size:,} of a batch on all ranks; choose a smaller batch, or "
                "tail='short' or 'pad'"
            )
        announce(self._plan(), self.reading, self.cache, progress)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is a position in this tuple, as in torchvision's ImageFolder."""
        return self.dataset.manifest.classes

    @property
    def batch_size(self) -> int:
        """Samples of a full batch on this rank."""
        start, stop = part_of(self.global_batch_size, self.rank, self.world_size)
        return stop - start

    @property
    def num_samples(self) -> int:
        """Number of selected samples on all ranks, including a tail that is dropped."""
        return len(self._selection)

    @property
    def reading(self) -> Reading | None:
        """Estimate of what an epoch reads and holds without a cache; None if not in blocks."""
        return reading_of(self._plan(), self._reader, self._pixels)

    @property
    def skipped(self) -> dict[int, str]:
        """Id of each sample skipped so far -> what is wrong with it."""
        return dict(self._maker.skipped)

    def __len__(self) -> int:
        """Return the number of batches in an epoch, the same on every rank."""
        return len(self._plan())

    @checked
    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration.

        It begins at its first batch, or at the step of a state of the same epoch that was loaded.

        Raises:
            OptionError: ``epoch`` is not an integer of at least 0.
        """
        epoch = integer("epoch", epoch)
        if epoch != self.epoch:
            self._first_step = 0
        self.epoch = epoch
        if self._running is not None and not self._running.is_open:
            self._running = None

    def __iter__(self) -> Iterator[Batch]:
        return self.iterate_share(0, 1)

    @checked
    def iterate_share(self, number: int, count: int) -> Generator[Batch, None, None]:
        """Yield every ``count``-th batch of the epoch, starting with step ``number``.

        Several processes can share the work of one rank in this way.
        """
        plan = self._plan()
        first = self._first_step + (number - self._first_step) % count
        self._running = epoch = Epoch(self.epoch, first, count, self._reader.bytes_read)
        self.epoch += 1
        self._first_step = 0
        yield from epoch.follow(self._batches(plan, range(first, len(plan), count), epoch))

    def _batches(self, plan: EpochPlan, steps: range, epoch: Epoch) -> Generator[Batch, None, None]:
        """Yield the batches of these steps, with the user's transform applied."""
        maker = self._maker
        step_at = partial(Step, plan, self._selection)

        def open_source(threads: Executor) -> EpochSource:
            self._reader.start_epoch()
            if self.cache.kind == "device":
                maker.fill_device(threads)
            return self._pixels.open_epoch(plan, self._selection, threads)

        if self.device is None:
            batches: Generator[Batch, None, None] = run(
                plan, steps, step_at, self.workers, open_source, maker.on_cpu, epoch,
                most_images=maker.max_job_images,
            )  # fmt: skip
        else:
            works = run(
                plan, steps, step_at, self.workers, open_source, maker.for_device, epoch,
                most_images=1,
            )  # fmt: skip
            batches = copy_ahead(
                works, maker.finish, lambda b: [b.images, b.labels, b.valid], self.device
            )
        if self.progress and self.rank == 0:
            batches = shown(batches, plan, steps)
        with closing(batches):
            for batch in batches:
                if self.batch_transform is not None:
                    images, labels = self.batch_transform(batch.images, batch.labels)
                    batch = replace(batch, images=images, labels=labels)
                yield batch
        if skipped := self.skipped:
            first = next(iter(skipped.values()))
            warnings.warn(
                f"{len(skipped):,} damaged samples skipped so far; the first one: {first}",
                stacklevel=3,
            )

    def stats(self) -> LoaderStats:
        """Return statistics of the current epoch, or of the last one if none is running."""
        bytes_read = self._reader.bytes_read
        running = self._running or Epoch(self.epoch, self._first_step, 1, bytes_read)
        return running.stats(bytes_read)

    # State

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the next batch and all that it depends on, for a checkpoint.

        Prefetched batches do not count. Call it in the loop, after the training step of a batch.
        After a ``break`` the state is the position of the break, until ``set_epoch`` or a new
        iteration, which runs the next epoch; ``load_state_dict`` returns to the position.

        Returns:
            A dictionary of strings and integers, which JSON can hold.
        """
        running = self._running
        if running is None or running.is_finished:
            return self._conditions() | {"epoch": self.epoch, "step": self._first_step}
        step = min(running.step, len(self))  # a share's next step may be past the end
        return self._conditions() | {"epoch": running.number, "step": step}

    def share_state(self) -> dict[str, Any]:
        """Return ``state_dict`` of one of several shares.

        Shares end at different times. So after a share's end the state is the end of the epoch, not
        the beginning of the next one.
        """
        running = self._running
        if running is not None and running.is_finished:
            return self._conditions() | {"epoch": running.number, "step": len(self)}
        return self.state_dict()

    @checked
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Start the next iteration at a state's position; later epochs keep its plan version too.

        Raises:
            OptionError: the state is from a loader with a different dataset, subset, order, seed,
                augmentation or global batch size, or is not a state; lists all differences. The
                loader does not change.
        """
        own = self._conditions()
        if missing := [name for name in (*own, "epoch", "step") if name not in state]:
            raise OptionError(f"not a loader's state: {missing[0]!r} is missing")
        if (version := state["plan_version"]) in PLAN_VERSIONS:
            own["plan_version"] = version
        different = [
            f"{name} is {state[name]!r} in the state and {value!r} here"
            for name, value in own.items()
            if state[name] != value
        ]
        if different:
            raise OptionError(
                f"the state is from a different loader: {'; '.join(different)}; make the loader "
                "with the state's options, or start an epoch with set_epoch"
            )
        epoch, step = integer("epoch", state["epoch"]), integer("step", state["step"])
        if step > len(self):
            raise OptionError(f"step={step}: an epoch has {len(self):,} steps")
        self.epoch, self._first_step, self._running, self.plan_version = epoch, step, None, version

    def _conditions(self) -> dict[str, Any]:
        """Return everything that the batches of an epoch depend on."""
        samples, blocks = self._digests
        return {
            "version": _STATE_VERSION,
            "plan_version": self.plan_version,
            "fingerprint": self.dataset.manifest.fingerprint,
            "split": self._reader.name,
            "samples": samples,
            "blocks": blocks if self.shuffle and self.order == "window" else "",
            "order": self.order if self.shuffle else "as stored",
            "seed": self.seed,
            "global_batch_size": self.global_batch_size,
            "tail": self.tail,
            "augment": self._transform.description,
        }

    @cached_property
    def _digests(self) -> tuple[str, str]:
        return self._selection.digests(self._reader)

    # Parts

    def _plan(self) -> EpochPlan:
        return EpochPlan(
            num_samples=len(self._selection),
            global_batch_size=self.global_batch_size,
            seed=self.seed,
            epoch=self.epoch,
            shuffle=self.shuffle,
            order=self.order,
            block_starts=self._selection.block_starts,
            tail=self.tail,
            rank=self.rank,
            world_size=self.world_size,
            version=self.plan_version,
        )

    def _make_transform(self, augment: Augment | None, normalize: Normalize) -> Transform:
        if augment is not None and normalize is not False:
            raise OptionError("give normalize to Augment, or to a loader without augment")
        if augment is None:
            augment = PLAIN
            if normalize is not False:
                augment = Augment(crop_padding=0, flip=False, normalize=normalize)
        measured = (self.dataset.manifest.split("train") or self._reader).pixels
        return Transform(
            augment,
            (measured.mean, measured.std),
            self._reader.image_shape,
            seed=self.seed,
            device=self.device,
        )

    def _open_pixels(self) -> PixelSource:
        reader, blocks = self._reader, self._selection.blocks
        pixels = open_pixels(reader, self.dataset.manifest, self.cache, blocks)
        if self.shuffle and self.order == "full" and not pixels.takes_any_row:
            raise OptionError(
                f"order='full' would decode an entire {reader.encoding} block for nearly every "
                "sample; use order='window', or cache='ram', 'disk' or 'device' with room for the "
                "entire split"
            )
        return pixels


def _global_batch_size(
    batch_size: int | None, global_batch_size: int | None, world_size: int
) -> int:
    if batch_size is not None and global_batch_size is not None:
        raise OptionError("give batch_size (of each rank) or global_batch_size, not both")
    if global_batch_size is not None:
        return integer("global_batch_size", global_batch_size, world_size)
    return (512 if batch_size is None else integer("batch_size", batch_size, 1)) * world_size
