"""Run an epoch: threads make batches ahead of their use; time and work are counted."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from cinic_shards.codec.kernels import is_compiling
from cinic_shards.errors import StoreError
from cinic_shards.jobs.compiling import compiling_reported
from cinic_shards.jobs.threads import ThisThread, ThreadPool
from cinic_shards.loader.batch import Batch
from cinic_shards.loader.block_source import BlockCounts
from cinic_shards.loader.pixel_source import EpochSource
from cinic_shards.loader.plan import EpochPlan
from cinic_shards.loader.step import Step

T = TypeVar("T")

_SHOW_SECONDS = 0.2
"""Seconds between two updates of the progress bar."""


@dataclass(frozen=True, slots=True)
class LoaderStats:
    """Statistics of an epoch so far.

    If ``waiting_share`` is near 0, the model is the bottleneck; if it is near 1, the loader is.

    Example:
        >>> loader = ShardLoader("shards", batch_size=32)
        >>> batches = list(loader)
        >>> stats = loader.stats()
        >>> stats.epoch, stats.step, stats.images
        (0, 2, 64)
    """

    epoch: int
    step: int
    """The next step."""
    images: int
    """Images that the consumer has received."""
    seconds: float
    """Time since the epoch began, or its duration once it is over."""
    waiting_seconds: float
    """Part of ``seconds`` in which the consumer waited for batches."""
    bytes_read: int
    """Bytes of payloads that this process has read. If few samples of each block are selected, this
    is many times the size of these samples: then write them to a separate dataset."""
    blocks_decoded: int
    """Blocks decoded, of ``zstd``, of remote shards, or of any encoding with a cache."""
    blocks_from_cache: int
    """Blocks that the cache held."""
    batches_ready: int
    """Finished batches that the consumer has not taken yet."""

    @property
    def images_per_second(self) -> float:
        """Mean rate over ``seconds``."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """Share of ``seconds`` in which the consumer waited, 0 to 1."""
        return self.waiting_seconds / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Counters:
    """Counters behind ``LoaderStats``."""

    bytes_before: int
    """Bytes of payloads read before this epoch."""
    images: int = 0
    waiting_seconds: float = 0.0
    start: float = field(default_factory=time.perf_counter)
    end: float = 0.0
    blocks: BlockCounts = field(default_factory=BlockCounts)

    @property
    def seconds(self) -> float:
        """Time since the epoch began, or its duration once it is over."""
        return (self.end or time.perf_counter()) - self.start


class Queue:
    """A first-in, first-out queue of jobs that make the batches of some steps.

    A job that could not read its bytes, and had failed before it was asked for, runs again then: a
    server that was down for a while does not end an epoch that was not waiting for it.
    """

    def __init__(self) -> None:
        self._jobs: deque[tuple[Future[list[Any]], list[Step]]] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Future[list[Any]], steps: list[Step]) -> None:
        """Add a job and its steps."""
        self._jobs.append((job, steps))

    def take(self, start: Callable[[list[Step]], Future[list[Any]]]) -> list[Any]:
        """Wait for the first job, and return its results.

        Args:
            start: starts a job again.
        """
        job, steps = self._jobs.popleft()
        if job.done() and isinstance(job.exception(), StoreError):
            job = start(steps)
        return job.result()

    def num_ready(self) -> int:
        """Count the results that are ready to be taken."""
        done = [job for job, _ in list(self._jobs) if job.done()]
        ready = [job for job in done if not (job.cancelled() or job.exception())]
        return sum(len(job.result()) for job in ready)

    def clear(self) -> None:
        """Drop all jobs."""
        self._jobs.clear()


class Epoch:
    """Progress of one iteration of a loader.

    The loader keeps it, so it must not keep an abandoned iteration's memory alive.

    Args:
        number: the epoch.
        step: the first step that the consumer gets.
        stride: number of processes that share the steps: ``step`` grows by it.
        bytes_before: bytes of payloads read before this epoch.
    """

    def __init__(self, number: int, step: int, stride: int, bytes_before: int) -> None:
        self.number = number
        self.step = step
        """The next step that the consumer gets."""
        self._stride = stride
        self.is_open = True
        """False once the epoch has ended or was abandoned."""
        self.is_finished = False
        """True once the consumer has received every batch."""
        self.counters = Counters(bytes_before)
        self.queue = Queue()

    def follow(self, batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
        """Yield the batches, and count them and the time that the consumer waits for them."""
        counters = self.counters
        asked = counters.start = time.perf_counter()
        with closing(batches):
            for batch in batches:
                counters.waiting_seconds += time.perf_counter() - asked
                counters.images += batch.num_samples
                self.step += self._stride
                yield batch
                asked = time.perf_counter()
        self.is_finished = True

    def close(self) -> None:
        """Mark the epoch as over."""
        self.queue.clear()
        self.counters.end = time.perf_counter()
        self.is_open = False

    def stats(self, bytes_read: int) -> LoaderStats:
        """Return the statistics.

        Args:
            bytes_read: bytes of payloads read so far, in all epochs.
        """
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


def run(
    plan: EpochPlan,
    steps: range,
    step_at: Callable[[int], Step],
    num_threads: int,
    open_source: Callable[[Executor], EpochSource],
    make: Callable[[EpochSource, list[Step]], list[T]],
    epoch: Epoch,
    *,
    most_images: int,
    few_images: int,
) -> Generator[T, None, None]:
    """Yield what ``make`` returns for each step, in order, with a bounded number of jobs in flight.

    Args:
        plan: the epoch's plan.
        steps: numbers of the steps to make.
        step_at: returns the step with a given number.
        num_threads: number of threads.
        open_source: opens the source of pixels, with the pool of threads.
        make: makes the batches of some steps; called in a thread.
        epoch: closed at the end.
        most_images: most images in one job, if it joins several small steps.
        few_images: no thread is started for so few images.
    """
    queue = epoch.queue
    is_short = len(steps) * plan.global_batch_size <= few_images * plan.world_size
    pool = ThisThread() if is_short else ThreadPool(num_threads, "cinic-shards")
    source: EpochSource | None = None
    consumer = threading.get_ident()
    is_finalizing = sys.is_finalizing  # an iterator may outlive what this module imports
    try:
        source = open_source(pool)
        start = partial(pool.submit, make, source)
        epoch.counters.blocks = source.blocks
        # Small steps go to a thread together: starting a job costs as much as such a step.
        images_at_once = min(source.images_at_once, most_images)
        at_once = max(1, images_at_once * plan.world_size // plan.global_batch_size)
        limit = 2 * num_threads if at_once == 1 else num_threads
        wanted: deque[Step] = deque()
        num_begun = 0
        done = iter(steps)
        count = len(steps) if is_short else 1
        while num_begun < len(steps):
            ahead = num_begun + count + source.steps_ahead
            for number in steps[num_begun + len(wanted) : ahead]:
                wanted.append(step_at(number))
                source.want(wanted[-1])
            begun = [wanted.popleft() for _ in range(count)]
            queue.put(start(begun), begun)
            num_begun += count
            # Few steps in the first jobs, because the consumer waits for the first batch; and few
            # in the last ones, or some threads would be idle while another makes many.
            count = min(2 * count, at_once, (len(steps) - num_begun) // (2 * num_threads))
            count = max(1, count)
            if len(queue) > limit:
                for result in queue.take(start):
                    source.release(next(done))
                    yield result
        while queue:
            yield from queue.take(start)
    finally:  # also after a break, an exception or Ctrl-C
        # Never wait at the interpreter's exit, or when the garbage collector closes a forgotten
        # iterator: it may run in one of these threads, or in a thread that they wait for to compile
        # a kernel.
        if not is_finalizing():
            epoch.close()
            may_wait = threading.get_ident() == consumer and not is_compiling()
            if source is not None:
                source.cancel()
            if pool.close(wait=may_wait) and source is not None:
                source.close()


def shown(
    batches: Generator[Batch, None, None], plan: EpochPlan, steps: range
) -> Generator[Batch, None, None]:
    """Yield the batches, and show a progress bar on standard error."""
    from cinic_shards.progress import ProgressReport  # here, because it loads rich

    size = plan.global_batch_size

    def images_before(step: int) -> int:
        return min(step * size, plan.num_samples)

    first, total = images_before(steps.start), images_before(len(plan))
    shown = 0.0
    with ProgressReport.on_stderr() as report, compiling_reported(report.say), closing(batches):
        for step, batch in zip(steps, batches, strict=True):
            yield batch
            if (now := time.perf_counter()) - shown >= _SHOW_SECONDS:
                shown = now
                done = images_before(step + 1) - first
                report.update(f"epoch {plan.epoch}", done, total - first)
