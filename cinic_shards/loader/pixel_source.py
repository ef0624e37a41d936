"""Sources of the pixels of batches, as addresses that a kernel reads.

``png``
    Each row is decoded when it is needed.
``raw``
    The rows are mapped from the shards as they are.
``zstd``, any encoding with a cache, or remote shards
    Blocks are fetched and decoded before their first use, and kept until their last one in the
    epoch or, in a cache, for later epochs.
"""

from concurrent.futures import Executor
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from cinic_shards.codec.kernels import gather_images
from cinic_shards.errors import DecodeError
from cinic_shards.format import Manifest
from cinic_shards.loader.block_source import IMAGES_AT_ONCE, BlockCounts, BlockSource
from cinic_shards.loader.cache import Cache, open_cache
from cinic_shards.loader.memory import BufferPool
from cinic_shards.loader.plan import EpochPlan
from cinic_shards.loader.step import Fetched, Step, addresses_in
from cinic_shards.read.selection import Selection
from cinic_shards.read.split import SplitReader


class EpochSource(Protocol):
    """The pixels of one epoch. ``want`` and ``release`` are called in the order of the steps."""

    images_at_once: int
    """Images that make a job worth a thread's time: smaller steps are joined with the next ones."""
    steps_ahead: int
    """Number of steps ahead of its use at which a step should be passed to ``want``."""
    blocks: BlockCounts
    """The blocks used so far."""

    def want(self, step: Step) -> None:
        """Start to load a step's rows."""

    def fetch(self, rows: NDArray[np.int64], buffers: BufferPool) -> Fetched:
        """Return the pixels of rows whose steps were passed to ``want``. Called from any thread.

        Args:
            rows: the reader's rows, shape (N,).
            buffers: memory for images, if they are decoded now.
        """

    def release(self, step: int) -> None:
        """Release everything that no later step needs: steps up to this one are done."""

    def cancel(self) -> None:
        """Cancel what has not started: the epoch is over."""

    def close(self) -> None:
        """Release everything: the epoch is over, and no thread works for it any more."""


class PixelSource(Protocol):
    """The pixels of a split, for as long as its reader is open."""

    few_images: int
    """Images that are made faster in the consumer's thread than by starting others."""

    @property
    def takes_any_row(self) -> bool:
        """True if reading rows in any order is as fast as reading them block by block."""

    def open_epoch(self, plan: EpochPlan, selection: Selection, threads: Executor) -> EpochSource:
        """Open the pixels of an epoch, which ``threads`` may decode ahead of their use."""

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> list[DecodeError]:
        """Copy the images of N rows to ``out``, uint8, shape (N, H, W, 3).

        Returns:
            An error for each damaged image of these rows, in their order. If there is any, the
            content of ``out`` is undefined.
        """


def open_pixels(
    reader: SplitReader,
    manifest: Manifest,
    cache: Cache,
    needed: NDArray[np.int64],
    *,
    row_by_row: bool = False,
) -> PixelSource:
    """Choose and open the source of a split's pixels.

    Args:
        reader: reads the split.
        manifest: the dataset's manifest.
        cache: the cache's options. With ``device`` the device holds the pixels, and this source is
            not used.
        needed: numbers of the blocks that will be requested, ascending, at least one.
        row_by_row: rows are requested one by one: decode single rows if the encoding allows it.

    Raises:
        OptionError: there is no room for the cache, or its folder cannot be written.
    """
    if reader.maps_rows:
        return MappedSource(reader)
    if cache.kind == "device" or (reader.reads_rows and (row_by_row or cache.kind == "none")):
        return RowSource(reader)
    return BlockSource(reader, open_cache(cache, manifest, reader, needed))


class _DirectSource:
    """Rows that are read when they are fetched; the same object serves all epochs."""

    few_images = 0
    takes_any_row = True
    steps_ahead = 0
    blocks = BlockCounts()
    """Always empty."""

    def __init__(self, reader: SplitReader) -> None:
        self._reader = reader

    def open_epoch(self, plan: EpochPlan, selection: Selection, threads: Executor) -> Self:
        return self

    def want(self, step: Step) -> None:
        """Do nothing: rows are not read ahead."""

    def release(self, step: int) -> None:
        """Do nothing: no memory is held."""

    def cancel(self) -> None:
        """Do nothing: nothing is requested ahead."""

    def close(self) -> None:
        """Do nothing: no memory is held."""


class RowSource(_DirectSource):
    """PNGs, decoded row by row."""

    images_at_once = 1

    def fetch(self, rows: NDArray[np.int64], buffers: BufferPool) -> Fetched:
        images = buffers.take((len(rows), *self._reader.image_shape), torch.uint8)
        errors = self.read(rows, images.numpy())
        return Fetched(addresses_in(images), images, errors)

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> list[DecodeError]:
        return self._reader.read_images(rows, out)


class MappedSource(_DirectSource):
    """Rows of ``raw`` shards, mapped into memory."""

    images_at_once = IMAGES_AT_ONCE
    few_images = 512

    def fetch(self, rows: NDArray[np.int64], buffers: BufferPool) -> Fetched:
        addresses, errors = self._reader.mapped_images(rows)
        return Fetched(addresses, None, errors)

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> list[DecodeError]:
        addresses, errors = self._reader.mapped_images(rows)
        if not errors:
            gather_images(addresses, out)
        return errors
