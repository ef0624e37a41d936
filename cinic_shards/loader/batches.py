"""Make finished batches from the plan's steps, on the CPU or on a device."""

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cinic_shards.codec.kernels import gather_images
from cinic_shards.errors import DecodeError
from cinic_shards.loader.augment import Transform
from cinic_shards.loader.batch import Batch
from cinic_shards.loader.memory import shared_pool, split_apart
from cinic_shards.loader.pixel_source import EpochSource
from cinic_shards.loader.step import Fetched, Step, addresses_in
from cinic_shards.options import one_of
from cinic_shards.read.selection import Selection
from cinic_shards.read.split import SplitReader

OnError = Literal["raise", "skip"]

_JOB_BYTES = 3 * 2**23
"""Bound on the batches that a thread makes in one job, in bytes."""
_BUFFER_BYTES = 2**22
"""Bound on the batches that share a buffer, in bytes: keeping one image keeps its buffer."""


@dataclass(frozen=True, slots=True)
class Work:
    """The CPU's share of a batch that a device will finish."""

    images: torch.Tensor | None
    """uint8, shape (N, H, W, 3); None if the device holds the selection's pixels."""
    positions: torch.Tensor
    """The samples' positions in ``images``, or in what the device holds; int64, shape (N,)."""
    draws: torch.Tensor
    """From ``Transform.draw``, shape (N, 5)."""
    labels: torch.Tensor
    indices: torch.Tensor
    valid: torch.Tensor
    loss_scale: float


class _Kept(NamedTuple):
    """The samples that are delivered of some steps with damaged samples."""

    positions: NDArray[np.int64]
    """Their positions among the steps' rows, ascending, shape (n,)."""
    is_blank: NDArray[np.bool_]
    """True for a damaged sample, whose image is black and which does not count; shape (n,)."""


class BatchMaker:
    """Makes the batches of one loader.

    Args:
        reader: reads the split.
        selection: maps the plan's rows to the reader's rows.
        transform: augments and normalises.
        device: the device that batches are moved to; None to leave them on the CPU.
        on_error: ``skip`` to leave out damaged samples, ``raise`` to raise an error.
        batch_size: samples of a full batch on this rank.
        num_threads: number of threads that make batches.

    Raises:
        OptionError: ``on_error`` is unknown.
    """

    def __init__(
        self,
        reader: SplitReader,
        selection: Selection,
        transform: Transform,
        device: torch.device | None,
        on_error: OnError,
        batch_size: int,
        num_threads: int,
    ) -> None:
        one_of("on_error", on_error, OnError)
        self._reader = reader
        self._selection = selection
        self._transform = transform
        self._device = device
        self._skips_damaged = on_error == "skip"
        self._image_shape = reader.image_shape
        self.batch_size = batch_size
        self.num_threads = num_threads
        self._blank = np.zeros(self._image_shape, np.uint8)
        # A job makes several small batches, or there are more jobs under way.
        batch_bytes = batch_size * self.image_bytes
        self._batches_a_buffer = max(1, _BUFFER_BYTES // batch_bytes)
        buffer_bytes = self._batches_a_buffer * batch_bytes
        most = max(2 * num_threads + 3, (num_threads + 2) * (_JOB_BYTES // buffer_bytes))
        self._buffers = shared_pool(buffer_bytes, most)
        """Memory of finished batches."""
        self._pixels = shared_pool(
            batch_size * self._blank.size,
            2 * num_threads + 3,
            pinned=device is not None and device.type == "cuda",
        )
        """Memory of uint8 images of one batch."""
        self.skipped: dict[int, str] = {}
        """Id of each sample that was skipped -> what is wrong with it."""
        self._resident: torch.Tensor | None = None
        """The selection's pixels on the device, uint8 (n, H, W, 3), after ``fill_device``."""
        self._resident_errors: dict[int, DecodeError] = {}
        """Position in the selection -> why the sample is damaged."""

    @property
    def image_bytes(self) -> int:
        """Bytes of one image in a finished batch."""
        return math.prod(self._image_shape) * self._transform.dtype.itemsize

    @property
    def max_job_images(self) -> int:
        """The most images in one job, if it makes several batches."""
        return _JOB_BYTES // self.image_bytes

    def on_cpu(self, source: EpochSource, steps: Sequence[Step]) -> list[Batch]:
        """Make finished batches. Runs in any thread.

        Args:
            source: the epoch's pixels.
            steps: steps of one epoch, already passed to ``source.want``.

        Raises:
            DecodeError: a sample is damaged, and ``on_error`` is ``raise``.
        """
        transform = self._transform
        rows = np.concatenate([step.rows for step in steps])
        fetched, kept = self._fetch(source, steps, rows)
        sizes, valid, scales = self._counts(steps, kept)
        if kept is not None:
            rows = rows[kept.positions]
        ids = self._reader.ids(rows)
        draws = None if transform.is_plain else transform.draw(ids, steps[0].plan.epoch)
        columns = (self._reader.labels[rows], ids, valid)
        joined = [torch.from_numpy(column).split_with_sizes(sizes) for column in columns]
        return list(map(Batch, self._images(fetched, draws, sizes), *joined, scales))

    def _images(
        self, fetched: Fetched, draws: NDArray[np.int64] | None, sizes: list[int]
    ) -> list[torch.Tensor]:
        """Make the images of batches of these sizes; small ones share a buffer."""
        each = self._batches_a_buffer
        joined = [sizes[first : first + each] for first in range(0, len(sizes), each)]
        transform = self._transform
        if draws is None and fetched.images is not None and transform.is_channels_last:
            buffers = list(fetched.images.split_with_sizes([sum(part) for part in joined]))
        else:
            # All buffers in one call: after it, Python's own data is no longer in the CPU's cache.
            shapes = [transform.buffer_shape(sum(part)) for part in joined]
            buffers = [self._buffers.take(shape, transform.dtype) for shape in shapes]
            transform.on_cpu(fetched.addresses, draws, *buffers)
        return [
            images
            for buffer, part in zip(buffers, joined, strict=True)
            for images in split_apart(transform.as_images(buffer), part)
        ]

    def for_device(self, source: EpochSource, steps: Sequence[Step]) -> list[Work]:
        """Do the CPU's share of the work on batches for a device. Runs in any thread.

        Raises:
            DecodeError: a sample is damaged, and ``on_error`` is ``raise``.
        """
        return [self._work(source, step) for step in steps]

    def _work(self, source: EpochSource, step: Step) -> Work:
        positions, rows = step.positions, step.rows
        images: torch.Tensor | None = None
        kept: _Kept | None = None
        if self._resident is None:
            fetched, kept = self._fetch(source, [step], rows)
            images = fetched.images
            if images is None:
                images = self._pixels.take(
                    (len(fetched.addresses), *self._image_shape), torch.uint8
                )
                gather_images(fetched.addresses, images.numpy())
        else:
            errors = [
                DecodeError(i, error.reason, error.location)
                for i, position in enumerate(positions.tolist() if self._resident_errors else ())
                if (error := self._resident_errors.get(position))
            ]
            if errors:
                kept = self._without(errors, [step], rows)
        _, valid, scales = self._counts([step], kept)
        if kept is not None:
            positions, rows = positions[kept.positions], rows[kept.positions]
        ids = self._reader.ids(rows)
        return Work(
            images=images,
            positions=torch.from_numpy(np.arange(len(ids)) if images is not None else positions),
            draws=torch.from_numpy(self._transform.draw(ids, step.plan.epoch)),
            labels=torch.from_numpy(self._reader.labels[rows]),
            indices=torch.from_numpy(ids),
            valid=torch.from_numpy(valid),
            loss_scale=scales[0],
        )

    def _counts(
        self, steps: Sequence[Step], kept: "_Kept | None"
    ) -> tuple[list[int], NDArray[np.bool_], list[float]]:
        """Return each step's size, the mask of valid samples of all steps, and ``loss_scale``.

        ``kept`` are the samples of all steps that are delivered; None if no sample is damaged.
        """
        plan = steps[-1].plan
        sizes = [len(step.positions) for step in steps]
        valid = np.ones(sum(sizes), np.bool_)
        # Only an epoch's last step can be short or padded.
        num_valid, of_all = sizes.copy(), [plan.global_batch_size] * len(sizes)
        num_valid[-1], of_all[-1] = plan.num_valid(steps[-1].number)
        valid[len(valid) - sizes[-1] + num_valid[-1] :] = False
        if kept is not None:
            ends = np.searchsorted(kept.positions, [0, *itertools.accumulate(sizes)])
            valid = valid[kept.positions] & ~kept.is_blank
            sizes = np.diff(ends).tolist()
            num_valid = [int(valid[a:b].sum()) for a, b in itertools.pairwise(ends.tolist())]
        scales = [mine * plan.world_size / n for mine, n in zip(num_valid, of_all, strict=True)]
        return sizes, valid, scales

    def _fetch(
        self, source: EpochSource, steps: Sequence[Step], rows: NDArray[np.int64]
    ) -> tuple[Fetched, "_Kept | None"]:
        """Fetch the pixels of the rows of some steps.

        Args:
            source: the epoch's pixels.
            steps: the steps.
            rows: their rows.

        Returns:
            The pixels, and the rows that they are of; None if these are all.

        Raises:
            DecodeError: a row is damaged, and ``on_error`` is ``raise``.
        """
        fetched = source.fetch(rows, self._pixels)
        if not fetched.errors:
            return fetched, None
        kept = self._without(fetched.errors, steps, rows)
        if fetched.images is None:
            addresses = fetched.addresses[kept.positions]
            addresses[kept.is_blank] = self._blank.ctypes.data
            return Fetched(addresses, None, []), kept
        images = fetched.images[torch.from_numpy(kept.positions)]
        images[torch.from_numpy(kept.is_blank)] = 0
        return Fetched(addresses_in(images), images, []), kept

    def _without(
        self, errors: list[DecodeError], steps: Sequence[Step], rows: NDArray[np.int64]
    ) -> "_Kept":
        """Leave out damaged rows; raise the first error if ``on_error`` says so.

        An empty batch would have no mean: a step whose rows are all damaged keeps its first one.
        """
        if not self._skips_damaged:
            raise errors[0]
        bad = [error.position for error in errors]
        for error, sample_id in zip(errors, self._reader.ids(rows[bad]).tolist(), strict=True):
            self.skipped[sample_id] = str(error)
        is_bad = np.zeros(len(rows), np.bool_)
        is_bad[bad] = True
        is_kept = ~is_bad
        ends = itertools.accumulate((len(step.rows) for step in steps), initial=0)
        for start, stop in itertools.pairwise(ends):
            if start < stop and is_bad[start:stop].all():
                is_kept[start] = True
        return _Kept(np.flatnonzero(is_kept), is_bad[is_kept])

    def fill_device(self, threads: Executor) -> None:
        """Decode all selected samples and copy them to the device, once for all epochs.

        Raises:
            DecodeError: a sample is damaged, and ``on_error`` is ``raise``.
        """
        if self._resident is not None:
            return
        starts = self._reader.block_starts.tolist()
        resident_starts = self._selection.block_starts.tolist()
        resident = torch.empty(
            (len(self._selection), *self._image_shape), dtype=torch.uint8, device=self._device
        )

        def fill(number: int) -> dict[int, DecodeError]:
            block = int(self._selection.blocks[number])
            start, stop = starts[block : block + 2]
            images = np.empty((stop - start, *self._image_shape), np.uint8)
            errors = {error.position: error for error in self._reader.read_block(block, images)}
            images[list(errors)] = 0
            first, end = resident_starts[number : number + 2]
            chosen = self._selection.rows_at(np.arange(first, end)) - start
            resident[first:end].copy_(torch.from_numpy(images[chosen]))
            return {
                first + i: errors[position]
                for i, position in enumerate(chosen.tolist() if errors else ())
                if position in errors
            }

        for errors in threads.map(fill, range(len(self._selection.blocks))):
            if errors and not self._skips_damaged:
                raise next(iter(errors.values()))
            self._resident_errors |= errors
        self._resident = resident

    def finish(self, work: Work) -> Batch:
        """Copy the CPU's share to the device, and finish the batch there."""
        assert self._device is not None
        pinned = self._pixels.pinned

        def move(tensor: torch.Tensor) -> torch.Tensor:
            if pinned and not tensor.is_pinned():
                tensor = tensor.pin_memory()
            return tensor.to(self._device, non_blocking=True)

        images, positions = self._resident, None
        if images is None:
            assert work.images is not None
            images = move(work.images)
        if self._resident is not None or not self._transform.is_plain:
            positions = move(work.positions)
        images = self._transform.on_device(images, positions, move(work.draws))
        return Batch(images, move(work.labels), work.indices, move(work.valid), work.loss_scale)
