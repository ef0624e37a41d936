"""One epoch on its way: threads make batches ahead of their use, and what that takes is counted."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cinic_shards.loader.batches import Batch
from cinic_shards.loader.block_source import BlockCounts
from cinic_shards.loader.pixel_source import EpochSource
from cinic_shards.loader.plan import EpochPlan
from cinic_shards.loader.step import Step

T = TypeVar("T")

_SHOW_SECONDS = 0.2
"""Between two changes of the progress bar."""


@dataclass(frozen=True, slots=True)
class LoaderStats:
    """What an epoch has taken so far.

    Where ``waiting_share`` is near 0 the model is the bottleneck, near 1 it is the loader.
    """

    epoch: int
    step: int
    """The next one."""
    images: int
    """Given to the consumer."""
    seconds: float
    """Since the epoch began."""
    waiting_seconds: float
    """Of these, how long the consumer has waited for batches."""
    bytes_read: int
    """Of payloads, by this process. Where few samples of each block are selected it is many times
    what they take alone: then write them to a dataset of their own."""
    blocks_decoded: int
    blocks_from_cache: int
    """Of ``zstd``, and of any encoding with a cache."""
    batches_ready: int
    """That wait for the consumer."""

    @property
    def images_per_second(self) -> float:
        """Over the whole of ``seconds``."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """How much of its time the consumer has waited."""
        return self.waiting_seconds / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Counters:
    """What an epoch has taken so far."""

    bytes_before: int
    """Of payloads, read before this epoch."""
    images: int = 0
    waiting_seconds: float = 0.0
    start: float = field(default_factory=time.perf_counter)
    end: float = 0.0
    blocks: BlockCounts = field(default_factory=BlockCounts)

    @property
    def seconds(self) -> float:
        """Since the epoch began, or as long as it ran."""
        return (self.end or time.perf_counter()) - self.start


class Queue:
    """Work that threads do, each piece giving a list of results; first in, first out."""

    def __init__(self) -> None:
        self._futures: deque[Future[list[Any]]] = deque()

    def __len__(self) -> int:
        return len(self._futures)

    def put(self, future: Future[list[Any]]) -> None:
        """Add a piece of work."""
        self._futures.append(future)

    def take(self) -> list[Any]:
        """The results of the first piece, when it is done."""
        return self._futures.popleft().result()

    def num_ready(self) -> int:
        """How many results wait to be taken."""
        done = [future for future in list(self._futures) if future.done()]
        ready = [future for future in done if not (future.cancelled() or future.exception())]
        return sum(len(future.result()) for future in ready)

    def clear(self) -> None:
        """Let go of all work."""
        self._futures.clear()


class Epoch:
    """One iteration of a loader: how far it is, and whether it is over.

    The loader keeps it, so it keeps nothing of an abandoned iteration alive.

    Args:
        number: which epoch.
        step: the first one that the consumer will get.
        stride: what ``step`` grows by: as many processes share the steps.
        bytes_before: of payloads, read before it.
    """

    def __init__(self, number: int, step: int, stride: int, bytes_before: int) -> None:
        self.number = number
        self.step = step
        """The next one that the consumer will get."""
        self._stride = stride
        self.is_open = True
        """Until the epoch is at its end, or abandoned."""
        self.is_finished = False
        """Whether the consumer has got all of it."""
        self.counters = Counters(bytes_before)
        self.queue = Queue()

    def follow(self, batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
        """These batches, as they are taken."""
        counters = self.counters
        asked = counters.start = time.perf_counter()
        with closing(batches):
            for batch in batches:
                counters.waiting_seconds += time.perf_counter() - asked
                counters.images += len(batch)
                self.step += self._stride
                yield batch
                asked = time.perf_counter()
        self.is_finished = True

    def close(self) -> None:
        """The epoch is over."""
        self.queue.clear()
        self.counters.end = time.perf_counter()
        self.is_open = False

    def stats(self, bytes_read: int) -> LoaderStats:
        """What it has come to; ``bytes_read`` is counted from where ``bytes_before`` is."""
        counters = self.counters
        return LoaderStats(
            epoch=self.number,
            step=self.step,
            images=counters.images,
            seconds=counters.seconds,
            waiting_seconds=counters.waiting_seconds,
            bytes_read=bytes_read - counters.bytes_before,
            blocks_decoded=len(counters.blocks.decoded),
            blocks_from_cache=len(counters.blocks.from_cache),
            batches_ready=self.queue.num_ready(),
        )


class Threads:
    """A pool of threads for each epoch, one after the other.

    Freeing a thread's object runs lines of Python, and a Ctrl-C that comes in one of these is lost.
    So a pool whose epoch is over is let go by a thread of the next one: signals do not come there.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._ended: list[ThreadPoolExecutor] = []

    def new_pool(self) -> ThreadPoolExecutor:
        """A pool for one epoch, none of its threads begun."""
        return ThreadPoolExecutor(self.count, thread_name_prefix="cinic-shards")

    def free_ended(self, pool: ThreadPoolExecutor) -> None:
        """Let go of the pools before this one."""
        if self._ended:
            pool.submit(self._ended.clear)

    def end(self, pool: ThreadPoolExecutor, *, wait: bool) -> None:
        """Give up what is not under way, and wait for what is."""
        pool.shutdown(wait=wait, cancel_futures=True)
        self._ended.append(pool)


def run(
    plan: EpochPlan,
    steps: range,
    step_at: Callable[[int], Step],
    threads: Threads,
    open_source: Callable[[ThreadPoolExecutor], EpochSource],
    make: Callable[[EpochSource, list[Step]], list[T]],
    epoch: Epoch,
    *,
    most_images: int,
) -> Generator[T, None, None]:
    """What ``make`` makes of each step, in order, a bounded number of them under way.

    Args:
        plan: the epoch's.
        steps: those to make.
        step_at: a step by its number.
        threads: where they are made.
        open_source: where the pixels come from, given the threads.
        make: makes some steps; called in a thread.
        epoch: it is closed at the end.
        most_images: of steps that a thread makes at once, where a step is small.
    """
    queue = epoch.queue
    pool = threads.new_pool()
    source: EpochSource | None = None
    consumer = threading.get_ident()
    is_finalizing = sys.is_finalizing  # an iterator may outlive what this module imports
    try:
        threads.free_ended(pool)
        source = open_source(pool)
        epoch.counters.blocks = source.blocks
        # Where a step is a matter of microseconds, to hand it to a thread costs as much.
        images_at_once = min(source.images_at_once, most_images)
        at_once = max(1, images_at_once * plan.world_size // plan.global_batch_size)
        limit = 2 * threads.count if at_once == 1 else threads.count
        wanted: deque[Step] = deque()
        num_begun = 0
        done = iter(steps)
        count = 1
        while num_begun < len(steps):
            ahead = num_begun + count + source.steps_ahead
            for number in steps[num_begun + len(wanted) : ahead]:
                wanted.append(step_at(number))
                source.want(wanted[-1])
            begun = [wanted.popleft() for _ in range(count)]
            queue.put(pool.submit(make, source, begun))
            num_begun += count
            # More by and by, for the first batch is waited for; and fewer at the end, where one
            # thread would have nothing to do while another makes many.
            count = min(2 * count, at_once, (len(steps) - num_begun) // (2 * threads.count))
            count = max(1, count)
            if len(queue) > limit:
                for result in queue.take():
                    source.release(next(done))
                    yield result
        while queue:
            yield from queue.take()
    finally:  # reached by break, by an exception and by Ctrl-C, too
        # Where the interpreter ends, or the garbage collector closes a forgotten iterator in
        # whatever thread it runs, perhaps one of these: nobody may wait there.
        if not is_finalizing():
            epoch.close()
            is_consumer = threading.get_ident() == consumer
            threads.end(pool, wait=is_consumer)
            if source is not None and is_consumer:
                source.close()


def shown(
    batches: Generator[Batch, None, None], plan: EpochPlan, steps: range
) -> Generator[Batch, None, None]:
    """These batches, with a progress bar."""
    from cinic_shards.progress import ProgressReport  # which loads rich

    size = plan.global_batch_size

    def images_before(step: int) -> int:
        return min(step * size, plan.num_samples)

    first, total = images_before(steps.start), images_before(len(plan))
    shown = 0.0
    with ProgressReport.on_stderr() as report, closing(batches):
        for step, batch in zip(steps, batches, strict=True):
            yield batch
            if (now := time.perf_counter()) - shown >= _SHOW_SECONDS:
                shown = now
                done = images_before(step + 1) - first
                report.update(f"epoch {plan.epoch}", done, total - first)
