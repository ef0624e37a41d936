"""Where the pixels of batches come from, as addresses that a kernel reads.

``png``
    Each row is decoded when it is wanted.
``raw``
    The rows lie in the shards as they are.
``zstd``, any encoding with a cache, or from a URL
    Blocks are decoded ahead of their first use, and kept until their last one in the epoch or, in a
    cache, for good. Where the shards are not local they are fetched in the same way.
"""

from concurrent.futures import ThreadPoolExecutor
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
from cinic_shards.read.split import SplitReader
from cinic_shards.read.subset import Selection


class EpochSource(Protocol):
    """The pixels of one epoch. ``want`` and ``release`` are called in the order of the steps."""

    images_at_once: int
    """So many are worth a thread's time: a step of fewer goes together with those after it."""
    steps_ahead: int
    """How many steps before its use a step should be wanted."""
    blocks: BlockCounts

    def want(self, step: Step) -> None:
        """Begin to get a step's rows."""

    def fetch(self, rows: NDArray[np.int64], buffers: BufferPool) -> Fetched:
        """The pixels of rows whose steps are wanted. Called from any thread.

        Args:
            rows: the reader's.
            buffers: memory for images, if they are decoded now.
        """

    def release(self, step: int) -> None:
        """A step is done, and so are those before it."""

    def close(self) -> None:
        """The epoch is over; no thread works for it any more."""


class PixelSource(Protocol):
    """The pixels of a split, for as long as its reader is open."""

    @property
    def takes_any_row(self) -> bool:
        """Whether rows in any order cost no more than rows in the order of their blocks."""

    def open_epoch(
        self, plan: EpochPlan, selection: Selection, threads: ThreadPoolExecutor
    ) -> EpochSource:
        """The pixels of an epoch, which ``threads`` may decode ahead of their use."""

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> list[DecodeError]:
        """Copy the images of these rows to ``out``, uint8 (len(rows), H, W, 3).

        Returns:
            What is damaged in what was decoded for them. If anything is, ``out`` means nothing.
        """


def open_pixels(
    reader: SplitReader,
    manifest: Manifest,
    cache: Cache,
    needed: NDArray[np.int64],
    *,
    row_by_row: bool = False,
) -> PixelSource:
    """Decide where the pixels of a split come from. Nothing else does.

    Args:
        reader: of the split.
        manifest: the dataset's.
        cache: where decoded blocks stay. With ``device`` the device holds the pixels, and this
            source is not asked for any.
        needed: the blocks that will be asked for, rising, at least one.
        row_by_row: rows come by themselves: to decode a block for one pays only if it must be.

    Raises:
        OptionError: there is no room for the cache, or its folder cannot be written.
    """
    if reader.maps_rows:
        return MappedSource(reader)
    if cache.kind == "device" or (reader.reads_rows and (row_by_row or cache.kind == "none")):
        return RowSource(reader)
    return BlockSource(reader, open_cache(cache, manifest, reader, needed))


class _DirectSource:
    """Rows that are read when they are fetched: for all epochs alike, and nothing ahead."""

    takes_any_row = True
    steps_ahead = 0
    blocks = BlockCounts()
    """None, ever."""

    def __init__(self, reader: SplitReader) -> None:
        self._reader = reader

    def open_epoch(
        self, plan: EpochPlan, selection: Selection, threads: ThreadPoolExecutor
    ) -> Self:
        return self

    def want(self, step: Step) -> None:
        """Nothing is done ahead."""

    def release(self, step: int) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""


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
    """The rows of ``raw`` shards, where they lie."""

    images_at_once = IMAGES_AT_ONCE

    def fetch(self, rows: NDArray[np.int64], buffers: BufferPool) -> Fetched:
        addresses, errors = self._reader.mapped_images(rows)
        return Fetched(addresses, None, errors)

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> list[DecodeError]:
        addresses, errors = self._reader.mapped_images(rows)
        if not errors:
            gather_images(addresses, out)
        return errors
