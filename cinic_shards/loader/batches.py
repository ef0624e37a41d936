"""Make finished batches from the plan's steps, on the CPU or on a device."""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cinic_shards.codec.kernels import gather_images
from cinic_shards.errors import DecodeError
from cinic_shards.loader.augment import Transform
from cinic_shards.loader.memory import BufferPool
from cinic_shards.loader.pixel_source import EpochSource
from cinic_shards.loader.step import Fetched, Step, addresses_in
from cinic_shards.options import one_of
from cinic_shards.read.split import SplitReader
from cinic_shards.read.subset import Selection

OnError = Literal["raise", "skip"]


@dataclass(frozen=True, slots=True)
class Batch:
    """N samples; unpacks as ``images, labels``."""

    images: torch.Tensor
    """uint8, or the requested float type; shape (N, 3, H, W), in channels-last memory order."""
    labels: torch.Tensor
    """int64, shape (N,)."""
    indices: torch.Tensor
    """The samples' ids in the dataset, int64, shape (N,), on the CPU."""
    valid: torch.Tensor
    """bool, shape (N,); False for the padding of ``tail="pad"``, which must not count."""
    loss_scale: float
    """Factor for the mean loss over this batch's valid samples. The mean of the scaled losses over
    all ranks is then the mean over the global batch. 1 if all ranks' parts are equal, 0 if no
    sample is valid. A damaged sample that was skipped still counts in the global batch."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.images, self.labels))

    def __len__(self) -> int:
        return self.labels.size(0)  # len() of a tensor takes a microsecond

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Return the batch on a device; ``indices`` stay on the CPU."""
        images, labels, valid = (
            tensor.to(device, non_blocking=non_blocking)
            for tensor in (self.images, self.labels, self.valid)
        )
        return replace(self, images=images, labels=labels, valid=valid)

    def pin_memory(self) -> "Batch":
        """Return the batch in pinned memory; a DataLoader's ``pin_memory=True`` calls this."""
        images, labels, valid = (
            tensor.pin_memory() for tensor in (self.images, self.labels, self.valid)
        )
        return replace(self, images=images, labels=labels, valid=valid)


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


class BatchMaker:
    """Makes the batches of one loader.

    Args:
        reader: reads the split.
        selection: maps the plan's rows to the reader's rows.
        transform: augments and normalises.
        device: the device that batches are moved to; None to leave them on the CPU.
        on_error: ``skip`` to leave out damaged samples, ``raise`` to raise an error.

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
    ) -> None:
        one_of("on_error", on_error, OnError)
        self._reader = reader
        self._selection = selection
        self._transform = transform
        self._device = device
        self._skips_damaged = on_error == "skip"
        self._image_shape = reader.image_shape
        self._buffers = BufferPool(pinned=device is not None and device.type == "cuda")
        self.skipped: dict[int, str] = {}
        """Id of each sample that was skipped -> what is wrong with it."""
        self._resident: torch.Tensor | None = None
        """The selection's pixels on the device, uint8 (n, H, W, 3), after ``fill_device``."""
        self._resident_errors: dict[int, DecodeError] = {}
        """Position in the selection -> why the sample is damaged."""

    @property
    def image_bytes(self) -> int:
        """Bytes of one image in a finished batch."""
        return int(np.prod(self._image_shape)) * self._transform.dtype.itemsize

    def on_cpu(self, source: EpochSource, steps: Sequence[Step]) -> list[Batch]:
        """Make finished batches, next to each other in one buffer. Runs in any thread.

        Args:
            source: the epoch's pixels.
            steps: steps of one epoch, already passed to ``source.want``.

        Raises:
            DecodeError: a sample is damaged, and ``on_error`` is ``raise``.
        """
        transform, epoch = self._transform, steps[0].plan.epoch
        rows = np.concatenate([step.rows for step in steps])
        fetched, good = self._fetch(source, rows)
        sizes, valid, scales = self._counts(steps, good)
        if good is not None:
            rows = rows[good]
        ids = self._reader.ids(rows)
        images = fetched.images
        if images is None or not transform.is_plain:
            images = self._buffers.take((len(ids), *self._image_shape), transform.dtype)
            if transform.is_plain:
                gather_images(fetched.addresses, images.numpy())
            else:
                transform.on_cpu(fetched.addresses, transform.draw(ids, epoch), images)
        joined = (
            images.permute(0, 3, 1, 2),
            torch.from_numpy(self._reader.labels[rows]),
            torch.from_numpy(ids),
            torch.from_numpy(valid),
        )
        columns = [tensor.split_with_sizes(sizes) for tensor in joined]
        return list(map(Batch, *columns, scales))

    def for_device(self, source: EpochSource, steps: Sequence[Step]) -> list[Work]:
        """Do the CPU's share of the work on batches for a device. Runs in any thread.

        Raises:
            DecodeError: a sample is damaged, and ``on_error`` is ``raise``.
        """
        return [self._work(source, step) for step in steps]

    def _work(self, source: EpochSource, step: Step) -> Work:
        positions, rows = step.positions, step.rows
        images: torch.Tensor | None = None
        if self._resident is None:
            fetched, good = self._fetch(source, rows)
            images = fetched.images
            if images is None:
                images = self._buffers.take(
                    (len(fetched.addresses), *self._image_shape), torch.uint8
                )
                gather_images(fetched.addresses, images.numpy())
        else:
            errors = [
                DecodeError(i, error.reason, error.location)
                for i, position in enumerate(positions.tolist() if self._resident_errors else ())
                if (error := self._resident_errors.get(position))
            ]
            good = self._without(errors, rows) if errors else None
        _, valid, scales = self._counts([step], good)
        if good is not None:
            positions, rows = positions[good], rows[good]
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
        self, steps: Sequence[Step], good: NDArray[np.int64] | None
    ) -> tuple[list[int], NDArray[np.bool_], list[float]]:
        """Return each step's size, the mask of valid samples of all steps, and ``loss_scale``.

        ``good`` are the positions of the intact samples; None if no sample is damaged.
        """
        sizes = [len(step.positions) for step in steps]
        valid = np.ones(sum(sizes), np.bool_)
        counts = [step.plan.num_valid(step.number) for step in steps]
        num_valid = [mine for mine, _ in counts]
        if num_valid != sizes:  # only the last step can be padded
            valid[len(valid) - sizes[-1] + num_valid[-1] :] = False
        if good is not None:
            ends = np.searchsorted(good, [0, *itertools.accumulate(sizes)])
            valid = valid[good]
            sizes = np.diff(ends).tolist()
            num_valid = [int(valid[a:b].sum()) for a, b in itertools.pairwise(ends.tolist())]
        scales = [
            mine * step.plan.world_size / of_all
            for step, mine, (_, of_all) in zip(steps, num_valid, counts, strict=True)
        ]
        return sizes, valid, scales

    def _fetch(
        self, source: EpochSource, rows: NDArray[np.int64]
    ) -> tuple[Fetched, NDArray[np.int64] | None]:
        """Fetch the pixels of intact rows; also return their positions if any row is damaged.

        Raises:
            DecodeError: a row is damaged, and ``on_error`` is ``raise``.
        """
        fetched = source.fetch(rows, self._buffers)
        if not fetched.errors:
            return fetched, None
        good = self._without(fetched.errors, rows)
        if fetched.images is None:
            return Fetched(fetched.addresses[good], None, []), good
        images = fetched.images[torch.from_numpy(good)]
        return Fetched(addresses_in(images), images, []), good

    def _without(self, errors: list[DecodeError], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of intact rows; raise the first error if ``on_error`` says so."""
        if not self._skips_damaged:
            raise errors[0]
        bad = [error.position for error in errors]
        for error, sample_id in zip(errors, self._reader.ids(rows[bad]).tolist(), strict=True):
            self.skipped[sample_id] = str(error)
        return np.setdiff1d(np.arange(len(rows)), bad)

    def fill_device(self, threads: ThreadPoolExecutor) -> None:
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
        pinned = self._buffers.pinned

        def move(tensor: torch.Tensor) -> torch.Tensor:
            if pinned and not tensor.is_pinned():
                tensor = tensor.pin_memory()
            return tensor.to(self._device, non_blocking=True)

        transform = self._transform
        if self._resident is None:
            assert work.images is not None
            images = move(work.images)
            if not transform.is_plain:
                images = transform.on_device(images, move(work.positions), move(work.draws))
        else:
            images = transform.on_device(self._resident, move(work.positions), move(work.draws))
        return Batch(
            images.permute(0, 3, 1, 2), move(work.labels), work.indices, move(work.valid),
            work.loss_scale,
        )  # fmt: skip
