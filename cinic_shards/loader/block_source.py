"""Read pixels block by block: decoded before their first use, and kept until their last one.

A cache keeps them longer. Blocks of remote shards are fetched in the same way.
"""

from collections import defaultdict
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.kernels import addresses_of_rows
from cinic_shards.errors import DecodeError, StoreError
from cinic_shards.jobs.threads import ThreadPool
from cinic_shards.loader.cache import BlockCache, Loaded
from cinic_shards.loader.memory import BufferPool
from cinic_shards.loader.plan import EpochPlan
from cinic_shards.loader.step import Fetched, Step
from cinic_shards.read.selection import Selection
from cinic_shards.read.split import SplitReader

IMAGES_AT_ONCE = 4096
"""Images in a thread's job: starting a job takes as long as gathering a few hundred."""

FETCHES_AT_ONCE = 16
"""Blocks of remote shards that are fetched concurrently, with one request each."""


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """The blocks that an epoch has used. Lists, because several threads append to them."""

    decoded: list[int] = field(default_factory=list)
    """Numbers of the blocks that were decoded."""
    from_cache: list[int] = field(default_factory=list)
    """Numbers of the blocks that the cache held."""


class BlockSource:
    """The decoded blocks of a split.

    Args:
        reader: reads the split.
        cache: keeps decoded blocks, as many as fit.
    """

    few_images = 0

    def __init__(self, reader: SplitReader, cache: BlockCache) -> None:
        self._reader = reader
        self._cache = cache
        self._free: list[NDArray[np.uint8]] = []
        """Memory of released blocks, used again in later epochs: new memory costs page faults."""

    @property
    def takes_any_row(self) -> bool:
        return self._cache.holds_all

    def open_epoch(self, plan: EpochPlan, selection: Selection, threads: Executor) -> "BlockEpoch":
        """Open the blocks of an epoch; ``threads`` decode them in the order of their first use."""
        return BlockEpoch(self._reader, self._cache, plan, selection, threads, self._free)

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> list[DecodeError]:
        blocks = self._reader.blocks_of(rows)
        damaged: dict[int, list[DecodeError]] = {}
        for block in np.unique(blocks).tolist():
            start, stop = self._reader.block_starts[block : block + 2].tolist()
            loaded = self._cache.load(block)
            if loaded is None:
                images = np.empty((stop - start, *self._reader.image_shape), np.uint8)
                loaded = Loaded(images, self._reader.read_block(block, images), True)
            if loaded.errors:
                damaged[block] = loaded.errors
            here = np.flatnonzero(blocks == block)
            out[here] = loaded.images[rows[here] - start]
        return _errors_of(rows, self._reader, damaged)


def _errors_of(
    rows: NDArray[np.int64], reader: SplitReader, damaged: dict[int, list[DecodeError]]
) -> list[DecodeError]:
    """Return the errors of N rows, in their order; other rows of a damaged block may be intact.

    Args:
        rows: the reader's rows, shape (N,).
        reader: reads the rows.
        damaged: block -> its errors.
    """
    by_row = {
        int(reader.block_starts[block]) + error.position: error
        for block, errors in damaged.items()
        for error in errors
    }
    return [
        DecodeError(position, by_row[row].reason, by_row[row].location)
        for position, row in enumerate(rows.tolist())
        if row in by_row
    ]


class BlockEpoch:
    """The decoded blocks of one epoch.

    Args:
        reader: reads the split.
        cache: keeps decoded blocks, as many as fit; it may have no room at all.
        plan: the epoch's plan.
        selection: maps the plan's rows to the reader's rows.
        threads: decode the blocks.
        free: memory of released blocks; it outlives the epoch.
    """

    def __init__(
        self,
        reader: SplitReader,
        cache: BlockCache,
        plan: EpochPlan,
        selection: Selection,
        threads: Executor,
        free: list[NDArray[np.uint8]],
    ) -> None:
        self._reader = reader
        self._cache = cache
        self._is_complete = cache.is_complete
        self._fetching: ThreadPool | None = None
        if not (reader.is_mapped or self._is_complete):
            self._fetching = ThreadPool(FETCHES_AT_ONCE, "cinic-shards-fetch")
        self._threads: Executor = self._fetching or threads
        self.images_at_once = IMAGES_AT_ONCE
        self.steps_ahead = 0 if self._is_complete else 16
        if self._fetching:
            rows_ahead = FETCHES_AT_ONCE * len(selection) // len(selection.blocks)
            rows_of_step = max(1, plan.global_batch_size // plan.world_size)
            self.steps_ahead = max(16, rows_ahead // rows_of_step)
        self._last_steps = np.zeros(reader.num_blocks, np.int64)
        self._last_steps[selection.blocks] = plan.last_steps()
        self._num_released = 0
        self.blocks = BlockCounts()
        if self._is_complete:
            self.blocks.from_cache.extend(selection.blocks.tolist())
        self._addresses = np.zeros(reader.num_blocks, np.int64)
        self._decoding: dict[int, Future[NDArray[np.uint8]]] = {}
        self._repeating = Lock()
        self._uncached: set[int] = set()
        """Blocks whose memory is not the cache's."""
        self._last_used: defaultdict[int, list[int]] = defaultdict(list)
        """Step -> the blocks that no later step needs."""
        self._free = free
        self._errors = cache.all_errors()

    def want(self, step: Step) -> None:
        """Start to decode the blocks of a step."""
        if self._is_complete:
            return
        # In the order "window" the rows of a block are next to each other.
        blocks = self._reader.blocks_of(step.rows)
        begins = np.flatnonzero(blocks[1:] != blocks[:-1]) + 1
        for block in {*blocks[:1].tolist(), *blocks[begins].tolist()}:
            if block not in self._decoding:
                self._decoding[block] = self._threads.submit(self._decode, block)
                self._last_used[int(self._last_steps[block])].append(block)

    def _decode(self, block: int) -> NDArray[np.uint8]:
        loaded = self._cache.load(block)
        if loaded is None:
            start, stop = self._reader.block_starts[block : block + 2].tolist()
            images = self._memory(stop - start)
            loaded = Loaded(images, self._reader.read_block(block, images), True)
            self._uncached.add(block)
        (self.blocks.decoded if loaded.was_decoded else self.blocks.from_cache).append(block)
        if loaded.errors:
            self._errors[block] = loaded.errors
        return loaded.images

    def _decoded(self, block: int) -> NDArray[np.uint8]:
        """Wait for a wanted block; if fetching it had failed before it was needed, try again here.

        Raises:
            StoreError: it cannot be fetched now.
        """
        first = self._decoding[block]
        if not (first.done() and isinstance(first.exception(), StoreError)):
            return first.result()
        with self._repeating:
            again = self._decoding[block]
            if is_mine := again is first:
                again = self._decoding[block] = Future()
        if is_mine:
            try:
                again.set_result(self._decode(block))
            except BaseException as error:
                again.set_exception(error)
        return again.result()

    def _memory(self, num_images: int) -> NDArray[np.uint8]:
        """Take the memory of a released block, or new memory."""
        try:
            memory = self._free.pop()
        except IndexError:
            largest = int(np.diff(self._reader.block_starts).max())
            memory = np.empty((largest, *self._reader.image_shape), np.uint8)
        return memory[:num_images]

    def fetch(self, rows: NDArray[np.int64], buffers: BufferPool) -> Fetched:
        """Return the addresses of wanted rows; wait for those that are not decoded yet."""
        if self._is_complete:
            addresses = self._cache.addresses(rows)
        else:
            addresses = np.empty(len(rows), np.int64)
            while (missing := self._locate(rows, addresses)) >= 0:
                self._addresses[missing] = self._decoded(missing).ctypes.data
        return Fetched(addresses, None, self._damaged(rows) if self._errors else [])

    def _locate(self, rows: NDArray[np.int64], out: NDArray[np.int64]) -> int:
        starts, size = self._reader.block_starts, self._cache.image_bytes
        return int(addresses_of_rows(rows, starts, self._addresses, size, out))

    def _damaged(self, rows: NDArray[np.int64]) -> list[DecodeError]:
        blocks = set(self._reader.blocks_of(rows).tolist())
        # A copy, because other threads may add to it.
        damaged = {b: e for b, e in list(self._errors.items()) if b in blocks}
        return _errors_of(rows, self._reader, damaged)

    def release(self, step: int) -> None:
        """Release every block that no step after this one needs."""
        while self._num_released <= step:  # steps in between may be another process's
            for block in self._last_used.pop(self._num_released, ()):
                self._addresses[block] = 0
                self._release_memory(block, self._decoding.pop(block).result())
            self._num_released += 1

    def _release_memory(self, block: int, images: NDArray[np.uint8]) -> None:
        if block in self._uncached:
            self._uncached.discard(block)
            assert images.base is not None
            self._free.append(images.base)

    def cancel(self) -> None:
        """Cancel all requests that have not started."""
        if self._fetching:
            self._fetching.close(wait=False)

    def close(self) -> None:
        """Release every block that is not in the cache."""
        if self._fetching:
            self._fetching.close(wait=True)
        for block in [block for blocks in self._last_used.values() for block in blocks]:
            decoded = self._decoding[block]
            if decoded.done() and not decoded.cancelled() and not decoded.exception():
                self._release_memory(block, decoded.result())
        self._last_used.clear()
