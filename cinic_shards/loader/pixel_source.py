"""Where the pixels of batches come from, as addresses that a kernel reads.

``png``
    Each row is decoded when it is wanted.
``raw``
    The rows lie in the shards as they are.
``zstd``, any encoding with a cache, or from a URL
    Blocks are decoded ahead of their first use, and kept until their last one in the epoch or, in a
    cache, for good. Where the shards are not local they are fetched in the same way.
"""

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.kernels import addresses_of_rows
from cinic_shards.errors import DecodeError
from cinic_shards.loader.cache import BlockCache
from cinic_shards.loader.plan import EpochPlan
from cinic_shards.read.split import SplitReader
from cinic_shards.read.subset import Selection

IMAGES_AT_ONCE = 4096
"""Images that are gathered at once: to hand a thread its work takes as long as a few hundred."""

FETCHES_AT_ONCE = 16
"""Blocks that are fetched ahead from elsewhere; each is a request, and is decoded as it comes."""

Scratch = Callable[[], NDArray[np.uint8]]
"""Gives memory for a batch of images, uint8 (N, H, W, 3)."""


class EpochSource(Protocol):
    """The pixels of one epoch. ``want`` and ``release`` are called in the order of the steps."""

    images_at_once: int
    """So many are worth a thread's time: a step of fewer goes together with those after it."""
    steps_ahead: int
    """How many steps before its use a step should be wanted."""

    @property
    def blocks_decoded(self) -> int:
        """How many blocks were decoded so far."""

    @property
    def blocks_from_cache(self) -> int:
        """How many blocks did not need to be."""

    def want(self, step: int) -> None:
        """Begin to get a step's rows."""

    def fetch(
        self, rows: NDArray[np.int64], scratch: Scratch
    ) -> tuple[NDArray[np.int64], list[DecodeError]]:
        """Each row's address and, by position, what is damaged. Called from any thread.

        The addresses hold until the step is released, or as long as ``scratch``'s memory.
        """

    def release(self, step: int) -> None:
        """A step is done, and so are those before it."""

    def close(self) -> None:
        """The epoch is over; no thread works for it any more."""


class RowSource:
    """PNGs, decoded row by row."""

    images_at_once = 1
    steps_ahead = 0
    blocks_decoded = blocks_from_cache = 0

    def __init__(self, reader: SplitReader) -> None:
        self._reader = reader
        self._image_bytes = int(np.prod(reader.image_shape))

    def want(self, step: int) -> None:
        """Nothing is done ahead."""

    def fetch(
        self, rows: NDArray[np.int64], scratch: Scratch
    ) -> tuple[NDArray[np.int64], list[DecodeError]]:
        images = scratch()
        errors = self._reader.read_images(rows, images)
        return images.ctypes.data + np.arange(len(rows)) * self._image_bytes, errors

    def release(self, step: int) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""


class MappedSource:
    """The rows of ``raw`` shards, where they lie."""

    images_at_once = IMAGES_AT_ONCE
    steps_ahead = 0
    blocks_decoded = blocks_from_cache = 0

    def __init__(self, reader: SplitReader) -> None:
        self._reader = reader

    def want(self, step: int) -> None:
        """Nothing is done ahead."""

    def fetch(
        self, rows: NDArray[np.int64], scratch: Scratch
    ) -> tuple[NDArray[np.int64], list[DecodeError]]:
        return self._reader.mapped_images(rows)

    def release(self, step: int) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""


class BlockSource:
    """Decoded blocks.

    Args:
        reader: of the split.
        cache: of decoded blocks; one without room where none are to stay.
        plan: the epoch's.
        selection: what the plan's rows are among the reader's.
        threads: where blocks are decoded.
        free: memory for blocks that outlives the epoch: new memory costs many page faults.
    """

    def __init__(
        self,
        reader: SplitReader,
        cache: BlockCache,
        plan: EpochPlan,
        selection: Selection,
        threads: ThreadPoolExecutor,
        free: list[NDArray[np.uint8]],
    ) -> None:
        self._reader = reader
        self._cache = cache
        self._fetching = None
        if not reader.is_mapped:
            self._fetching = ThreadPoolExecutor(FETCHES_AT_ONCE, "cinic-shards-fetch")
        self._threads = self._fetching or threads
        self._plan = plan
        self._selection = selection
        self._is_complete = cache.is_complete
        self.images_at_once = IMAGES_AT_ONCE
        self.steps_ahead = 0 if self._is_complete else 16
        if self._fetching:
            rows_ahead = FETCHES_AT_ONCE * len(selection) // len(selection.blocks)
            rows_of_step = max(1, plan.global_batch_size // plan.world_size)
            self.steps_ahead = max(16, rows_ahead // rows_of_step)
        self._last_steps = np.zeros(reader.num_blocks, np.int64)
        self._last_steps[selection.blocks] = plan.last_steps()
        self._num_released = 0
        # Blocks; lists, for threads add to them.
        self._decoded: list[int] = []
        self._from_cache = selection.blocks.tolist() if self._is_complete else []
        self._addresses = np.zeros(reader.num_blocks, np.int64)
        self._blocks: dict[int, Future[NDArray[np.uint8]]] = {}
        self._last_used: defaultdict[int, list[int]] = defaultdict(list)
        """Step -> the blocks that nobody needs after it."""
        self._free = free
        self._errors = cache.all_errors()
        self._failure: Exception | None = None
        """Why a block could not be fetched."""

    @property
    def blocks_decoded(self) -> int:
        """See ``EpochSource``."""
        return len(self._decoded)

    @property
    def blocks_from_cache(self) -> int:
        """See ``EpochSource``."""
        return len(self._from_cache)

    def want(self, step: int) -> None:
        """Begin to decode the blocks of a step."""
        if self._is_complete:
            return
        # In the order "window" those of a block stand together.
        rows = self._selection.rows_at(self._plan.rows(step))
        blocks = self._reader.blocks_of(rows)
        begins = np.flatnonzero(blocks[1:] != blocks[:-1]) + 1
        for block in {*blocks[:1].tolist(), *blocks[begins].tolist()}:
            if block not in self._blocks:
                self._blocks[block] = self._threads.submit(self._get, block)
                if self._cache.images(block) is None:
                    self._last_used[int(self._last_steps[block])].append(block)

    def _get(self, block: int) -> NDArray[np.uint8]:
        """A block's images; after one that could not be fetched, its error, which ends the epoch.

        To ask a dead server for what waits behind it would only take time.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._decode(block)
        except Exception as error:
            self._failure = error
            raise

    def _decode(self, block: int) -> NDArray[np.uint8]:
        done = self._from_cache

        def decode(images: NDArray[np.uint8]) -> list[DecodeError]:
            nonlocal done
            done = self._decoded
            return self._reader.read_block(block, images)

        images = self._cache.images(block)
        if images is not None:
            errors = self._cache.fill(block, decode)
        else:
            start, stop = self._reader.block_starts[block : block + 2].tolist()
            images = self._memory(stop - start)
            errors = decode(images)
        done.append(block)
        if errors:
            self._errors[block] = errors
        return images

    def _memory(self, num_images: int) -> NDArray[np.uint8]:
        """Memory of a released block, or new memory."""
        try:
            memory = self._free.pop()
        except IndexError:
            largest = int(np.diff(self._reader.block_starts).max())
            memory = np.empty((largest, *self._reader.image_shape), np.uint8)
        return memory[:num_images]

    def fetch(
        self, rows: NDArray[np.int64], scratch: Scratch
    ) -> tuple[NDArray[np.int64], list[DecodeError]]:
        if self._is_complete:
            addresses = self._cache.addresses(rows)
        else:
            addresses = np.empty(len(rows), np.int64)
            while (missing := self._locate(rows, addresses)) >= 0:
                self._addresses[missing] = self._blocks[missing].result().ctypes.data
        return addresses, self._damaged(rows) if self._errors else []

    def _locate(self, rows: NDArray[np.int64], out: NDArray[np.int64]) -> int:
        starts, size = self._reader.block_starts, self._cache.image_bytes
        return int(addresses_of_rows(rows, starts, self._addresses, size, out))

    def _damaged(self, rows: NDArray[np.int64]) -> list[DecodeError]:
        blocks = set(self._reader.blocks_of(rows).tolist())
        # A copy: other threads may be adding to it.
        with_errors = {b: e for b, e in list(self._errors.items()) if b in blocks}
        by_row = {
            int(self._reader.block_starts[block]) + error.position: error
            for block, errors in with_errors.items()
            for error in errors
        }
        return [
            DecodeError(position, by_row[row].reason, by_row[row].location)
            for position, row in enumerate(rows.tolist())
            if row in by_row
        ]

    def release(self, step: int) -> None:
        while self._num_released <= step:  # steps between may be another process's
            for block in self._last_used.pop(self._num_released, ()):
                self._addresses[block] = 0
                self._let_go(self._blocks.pop(block).result())
            self._num_released += 1

    def _let_go(self, images: NDArray[np.uint8]) -> None:
        assert images.base is not None
        self._free.append(images.base)

    def close(self) -> None:
        """Let every block go that is not in the cache."""
        if self._fetching:
            self._fetching.shutdown(wait=True, cancel_futures=True)
        for block in [block for blocks in self._last_used.values() for block in blocks]:
            decoded = self._blocks[block]
            if decoded.done() and not decoded.cancelled() and not decoded.exception():
                self._let_go(decoded.result())
        self._last_used.clear()
