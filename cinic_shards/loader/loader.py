"""Plan + source + augmentation -> batches, prefetched by threads."""

import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch

from cinic_shards.codec.kernels.permutation import PLAN_VERSION
from cinic_shards.errors import OptionError
from cinic_shards.loader.augment import PLAIN, Augment, Normalize, Transform
from cinic_shards.loader.batches import Batch, BatchMaker, OnError
from cinic_shards.loader.cache import Cache, CacheKind, as_cache
from cinic_shards.loader.epoch import Epoch, LoaderStats, Threads, run, shown
from cinic_shards.loader.memory import copy_ahead
from cinic_shards.loader.pixel_source import EpochSource, PixelSource, open_pixels
from cinic_shards.loader.plan import EpochPlan, Order, Tail, part_of
from cinic_shards.loader.step import Step
from cinic_shards.loader.world import default_threads, find_world
from cinic_shards.options import integer
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.split import Check
from cinic_shards.read.subset import Subset, select
from cinic_shards.store import StoreLike

BatchTransform = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
_STATE_VERSION = 1
_MOST_BYTES = 3 * 2**23
"""Of batches that a thread makes at once."""


class ShardLoader:
    """Batches of one split or of several, decoded by threads ahead of their use.

    Each iteration is an epoch, and the next one has another order; ``set_epoch`` chooses one. It
    begins when its first batch is asked for: an iterator that is never used does not count.
    A batch stays valid for as long as anything refers to it. ``state_dict`` tells the place of the
    batch to come, and a loader of the same options goes on from there, on any number of ranks.

    Example:
        >>> loader = ShardLoader("shards", split="train", batch_size=512, augment=Augment())
        >>> for images, labels in loader:
        ...     loss = criterion(model(images), labels)
    """

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
            path: a folder or URL that ``cinic-shard pack`` wrote to, or a ``Store``.
            split: the split to read, or several, as in ``train+valid``.
            batch_size: samples a batch, on each rank; 512 where no size is given.
            global_batch_size: samples a batch over all ranks, in place of ``batch_size``: it keeps
                the order when the number of ranks changes. Where they do not divide it, parts
                differ by one: multiply a mean loss by ``batch.loss_scale``.
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
            subset: which samples of the split; by default all. Packing has mixed the splits: a
                small part of one still reads each of its blocks (``stats`` reports it).
            order: how ``shuffle`` mixes: ``window`` permutes blocks, and the samples of some dozen
                of them at a time (docs/order.md); ``full`` permutes the whole split.
            cache: keep decoded pixels after an epoch: ``ram`` in this process, ``disk`` in a file
                that all processes of this machine share, ``device`` on the device, where batches
                are then gathered and augmented; or a ``Cache``, which also says how many of them
                and in which folder. It never changes the order.
            tail: what becomes of a last batch that is not full: ``drop`` (default with shuffle),
                ``short`` (default without), or ``pad``: every rank has the same number of batches,
                none of them empty, and ``batch.valid`` tells what counts.
            check: compare the CRC-32 of what is read with the index: the ``first`` time, in every
                epoch (``always``), or never (``off``).
            on_error: what a damaged sample does: ``raise`` a DecodeError that names it, or
                ``skip``: its batch is shorter, ``skipped`` tells which and why, and an epoch with
                any ends with a warning. The number of batches stays as it is.
            progress: show a bar on standard error, on rank 0.
            rank: this process among ``world_size``; by default as torch.distributed says where
                it is initialised, else torchrun's RANK and WORLD_SIZE, else alone.
            world_size: see ``rank``.

        Raises:
            OptionError: an option cannot be.
            StoreError: a file cannot be read or has another size than the manifest says.
            FormatError: a file is damaged, or the split has images of several sizes.
        """
        self.workers = default_threads() if workers is None else integer("workers", workers, 1)
        self.rank, self.world_size = find_world(rank, world_size)
        self.global_batch_size = _global_batch_size(batch_size, global_batch_size, self.world_size)
        self.shuffle = shuffle
        self.seed = integer("seed", seed)
        self.order = order
        self.tail = tail or ("drop" if shuffle else "short")
        self.cache = as_cache(cache)
        if device is None and self.cache.kind == "device":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device) if device is not None else None
        self.batch_transform = batch_transform
        self.progress = progress
        self.dataset = Dataset(path)
        self._reader = self.dataset.split(split, check=check)
        self._selection = select(self.dataset, self._reader, subset or Subset())
        self._transform = self._make_transform(augment, normalize)
        self._pixels = self._open_pixels()
        self._maker = BatchMaker(
            self._reader, self._selection, self._transform, self.device, on_error
        )
        self._threads = Threads(self.workers)
        self.epoch = 0
        """The epoch that the next iteration runs."""
        self._first_step = 0
        """Where it begins."""
        self._running: Epoch | None = None
        """The last iteration."""
        if len(self) == 0:
            raise OptionError(
                f"split {split}: {len(self._selection):,} samples, fewer than the "
                f"{self.global_batch_size:,} of a batch on all ranks; choose a smaller one, or "
                "tail='short' or 'pad'"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is a place here, as in torchvision's ImageFolder."""
        return self.dataset.manifest.classes

    @property
    def batch_size(self) -> int:
        """Samples of a full batch on this rank."""
        start, stop = part_of(self.global_batch_size, self.rank, self.world_size)
        return stop - start

    @property
    def num_samples(self) -> int:
        """Samples that were chosen, on all ranks; a tail that is dropped counts."""
        return len(self._selection)

    @property
    def skipped(self) -> dict[int, str]:
        """Id of each sample that was skipped so far -> what is wrong with it."""
        return dict(self._maker.skipped)

    def __len__(self) -> int:
        """Batches an epoch, the same on every rank."""
        return len(self._plan())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration.

        It begins at its first batch, or where a state of this very epoch was loaded, there.
        """
        epoch = integer("epoch", epoch)
        if epoch != self.epoch:
            self._first_step = 0
        self.epoch = epoch
        if self._running is not None and not self._running.is_open:
            self._running = None

    def __iter__(self) -> Iterator[Batch]:
        return self.iterate_share(0, 1)

    def iterate_share(self, number: int, count: int) -> Generator[Batch, None, None]:
        """Every ``count``-th batch of the epoch, from that of step ``number`` on.

        For several processes that share the work of one rank.
        """
        plan = self._plan()
        first = self._first_step + (number - self._first_step) % count
        self._running = epoch = Epoch(self.epoch, first, count, self._reader.bytes_read)
        self.epoch += 1
        self._first_step = 0
        yield from epoch.follow(self._batches(plan, range(first, len(plan), count), epoch))

    def _batches(self, plan: EpochPlan, steps: range, epoch: Epoch) -> Generator[Batch, None, None]:
        """The batches of these steps, the user's transform applied."""
        maker = self._maker
        step_at = partial(Step, plan, self._selection)

        def open_source(threads: ThreadPoolExecutor) -> EpochSource:
            self._reader.start_epoch()
            if self.cache.kind == "device":
                maker.fill_device(threads)
            return self._pixels.open_epoch(plan, self._selection, threads)

        if self.device is None:
            most_images = _MOST_BYTES // maker.image_bytes
            batches: Generator[Batch, None, None] = run(
                plan, steps, step_at, self._threads, open_source, maker.on_cpu, epoch,
                most_images=most_images,
            )  # fmt: skip
        else:
            works = run(
                plan, steps, step_at, self._threads, open_source, maker.for_device, epoch,
                most_images=1,
            )  # fmt: skip
            batches = copy_ahead(works, maker.finish, _device_tensors, self.device)
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
                f"{len(skipped):,} damaged samples were skipped so far; {first}", stacklevel=3
            )

    def stats(self) -> LoaderStats:
        """What the current epoch, or else the last one, has taken so far."""
        bytes_read = self._reader.bytes_read
        running = self._running or Epoch(self.epoch, self._first_step, 1, bytes_read)
        return running.stats(bytes_read)

    # State

    def state_dict(self) -> dict[str, Any]:
        """The place of the batch to come, and what it depends on: for a checkpoint.

        Batches that are made ahead do not count. Take it in the loop, behind the step of the batch.
        Where an epoch was left by ``break`` it tells where, until ``set_epoch`` or a new iteration,
        which runs the epoch behind it: ``load_state_dict`` goes back.
        """
        running = self._running
        if running is None or running.is_finished:
            return self._conditions() | {"epoch": self.epoch, "step": self._first_step}
        step = min(running.step, len(self))  # a share's next step may lie behind the end
        return self._conditions() | {"epoch": running.number, "step": step}

    def share_state(self) -> dict[str, Any]:
        """``state_dict`` of one of several shares: they end at different times.

        So at the end of a share it tells the end of the epoch, not the beginning of the next one.
        """
        running = self._running
        if running is not None and running.is_finished:
            return self._conditions() | {"epoch": running.number, "step": len(self)}
        return self.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next iteration at the place that a state tells.

        Raises:
            OptionError: it is of another dataset, subset, order, seed, augmentation or global
                batch, or no state at all; says all that differs. The loader stays as it was.
        """
        own = self._conditions()
        if missing := [name for name in (*own, "epoch", "step") if name not in state]:
            raise OptionError(f"not the state of a loader: it has no {missing[0]!r}")
        different = [
            f"{name} is {state[name]!r} in the state and {value!r} here"
            for name, value in own.items()
            if state[name] != value
        ]
        if different:
            raise OptionError(
                f"the state is another loader's: {'; '.join(different)}. Make the loader as it "
                "was, or begin an epoch anew with set_epoch"
            )
        epoch, step = integer("epoch", state["epoch"]), integer("step", state["step"])
        if step > len(self):
            raise OptionError(f"step={step}: an epoch has {len(self):,} steps")
        self.epoch, self._first_step, self._running = epoch, step, None

    def _conditions(self) -> dict[str, Any]:
        """All that the batches of an epoch depend on."""
        samples, blocks = self._digests
        return {
            "version": _STATE_VERSION,
            "plan_version": PLAN_VERSION,
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

    # Its parts

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
        )

    def _make_transform(self, augment: Augment | None, normalize: Normalize) -> Transform:
        if augment is not None and normalize is not False:
            raise OptionError("give normalize to Augment, or to the loader without augment")
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
                f"order='full' would read a whole block, of the encoding {reader.encoding}, for "
                "nearly every sample: use order='window', or a cache='ram', 'disk' or 'device' "
                "that holds the whole split"
            )
        return pixels


def _device_tensors(batch: Batch) -> list[torch.Tensor]:
    return [batch.images, batch.labels, batch.valid]


def _global_batch_size(
    batch_size: int | None, global_batch_size: int | None, world_size: int
) -> int:
    if batch_size is not None and global_batch_size is not None:
        raise OptionError("give batch_size, which is each rank's, or global_batch_size, not both")
    if global_batch_size is not None:
        return integer("global_batch_size", global_batch_size, world_size)
    return (512 if batch_size is None else integer("batch_size", batch_size, 1)) * world_size
