"""Executors for jobs: threads, processes of this machine, a dask cluster, or any Executor."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
)
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from cinic_shards.errors import OptionError, without_secrets
from cinic_shards.jobs.processes import STOP_SECONDS, Processes, signals_held
from cinic_shards.jobs.stop import run_stoppable
from cinic_shards.jobs.threads import ThreadPool
from cinic_shards.options import number_of_workers

if TYPE_CHECKING:
    from distributed import Client

Progress = Callable[[str, int, int], None]
"""Called with an activity, the number of images done, and their total (0: not known yet)."""

J = TypeVar("J")
R = TypeVar("R")


class Tally:
    """A running count that reports its progress.

    If the total is known (not 0), the initial count is reported at once.
    """

    def __init__(self, progress: Progress, doing: str, total: int = 0, done: int = 0) -> None:
        """Start a count of ``doing`` at ``done``; ``total`` is 0 if not known yet."""
        self._progress = progress
        self._doing = doing
        self._total = total
        self._done = done
        if total:
            self.add(0)

    @property
    def done(self) -> int:
        """The count so far."""
        return self._done

    def add(self, count: int) -> None:
        """Add ``count`` to the images done, and report it."""
        self._done += count
        self._progress(self._doing, self._done, self._total)


def make_executor(workers: int) -> Executor:
    """Make an Executor for ``workers`` jobs at a time: a thread for one, processes for more.

    The processes are spawned, not forked: a fork copies locks that other threads hold.
    """
    if workers == 1:
        return ThreadPool(1, "cinic-shards-job")
    return Processes(workers)


def can_stop(executor: Executor) -> bool:
    """Return True if ``run_jobs`` ends the running jobs when it is interrupted."""
    return isinstance(executor, ThreadPool | Processes)


def run_jobs(
    executor: Executor,
    function: Callable[[J], R],
    jobs: Iterable[J],
    *,
    done: Callable[[R], None] = lambda result: None,
) -> list[R]:
    """Run all jobs, and return their results in the order of the jobs.

    If a job fails, its exception is raised after all others have ended or been cancelled. If an
    exception that is no ``Exception`` interrupts this, such as Ctrl-C, running jobs are ended at
    once: processes of this machine are killed, threads end at their next ``check_stop``. Those of a
    cluster, or of the caller's executor, are cancelled if they have not begun.

    Args:
        executor: see ``open_executor``.
        function: called with one job; other processes must be able to import it.
        jobs: taken one by one; workers start on the first while later ones are produced.
        done: called with each result as it arrives.
    """
    futures: list[Future[R]] = []
    # Ctrl-C in ``as_completed`` may become "RuntimeError: release unlocked lock"; not in a queue.
    finished: SimpleQueue[Future[R]] = SimpleQueue()
    stop = threading.Event()
    run = partial(run_stoppable, stop, function) if isinstance(executor, ThreadPool) else function
    try:
        try:
            for job in jobs:
                with signals_held():  # else a job could be running that is not in ``futures``
                    futures.append(executor.submit(run, job))
                    futures[-1].add_done_callback(finished.put)
            for _ in futures:
                done(finished.get().result())
            return [future.result() for future in futures]
        except Exception:  # of a job; the others end by themselves, or are ended by a signal below
            for future in futures:
                future.cancel()
            _wait(futures)
            raise
    except BaseException as error:
        if not isinstance(error, Exception):
            stop.set()
            if isinstance(executor, Processes | _Cluster):
                executor.stop()
            else:
                for future in futures:
                    future.cancel()
            _wait(futures, STOP_SECONDS)
        raise


def _wait(futures: Iterable[Future[R]], seconds: float = math.inf) -> None:
    """Wait until all are done. Not with ``concurrent.futures``, whose locks Ctrl-C may break."""
    deadline = time.monotonic() + seconds
    while not all(future.done() for future in futures) and time.monotonic() < deadline:
        time.sleep(0.005)


WAIT_SECONDS = 30.0
"""Seconds to wait for a cluster's scheduler, and for a worker if it has none."""


@contextmanager
def open_executor(where: Executor | str | None, workers: int | None) -> Iterator[Executor]:
    """Open the executor that an option names.

    Args:
        where: ``process`` or ``process:N``: N processes of this machine; ``dask://host:port``: the
            cluster of this scheduler; an Executor: used as it is, and left open; None: processes.
        workers: the number of processes if ``where`` does not give it; by default one per core.

    Raises:
        OptionError: ``where`` is invalid, both give a number of workers, or there is no such
            cluster.
    """
    if isinstance(where, Executor):
        _check_only_one(workers, "an executor")
        yield where
    elif where is not None and where.startswith("dask://"):
        _check_only_one(workers, where)
        address = where.removeprefix("dask://").rstrip("/")
        if not address or set(address) & set("@/?# "):
            raise OptionError(
                f"{without_secrets(where)}: expected a scheduler, such as dask://host:8786"
            )
        with _dask(address) as cluster:
            yield cluster
    else:
        with make_executor(_number_of_processes(where, workers)) as processes:
            yield processes


def _check_only_one(workers: int | None, where: str) -> None:
    if workers is not None:
        raise OptionError(f"{workers} workers and {without_secrets(where)}: give only one of them")


def _number_of_processes(where: str | None, workers: int | None) -> int:
    name, colon, number = ("process" if where is None else where).partition(":")
    if name != "process" or (colon and not number.isdecimal()):
        shown = without_secrets(where)
        raise OptionError(f"executor {shown!r}: expected process, process:N or dask://host:8786")
    if number:
        _check_only_one(workers, str(where))
        workers = int(number)
    return number_of_workers(workers)


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as error:
        raise OptionError(
            f"dask://{address}: needs dask.distributed: pip install 'cinic-shards[dask]'"
        ) from error
    try:
        client = Client(address, timeout=WAIT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"dask://{address}: no scheduler answers; start one: dask scheduler --port PORT"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WAIT_SECONDS)
        except TimeoutError as error:
            raise OptionError(
                f"dask://{address}: has no worker; start some: dask worker tcp://{address}"
            ) from error
        with _Cluster(client) as cluster:
            yield cluster


class _Cluster(Executor):
    """A dask cluster as an Executor whose cancelled jobs really do not run.

    Dask's own executor reports a job as cancelled while a worker still runs it. Here a thread waits
    for each job that the cluster has; only jobs without a thread can be cancelled. Dask runs a job
    again if its worker dies.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client
        threads = sum(client.nthreads().values())
        self._waiting = ThreadPoolExecutor(2 * threads)  # so each worker has its next job queued
        self._running: set[Any] = set()
        """The jobs that dask has."""

    def submit(self, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Submit a job as ``Executor.submit`` does."""
        return self._waiting.submit(self._run, function, args, kwargs)

    def _run(self, function: Callable[..., R], args: Any, kwargs: Any) -> R:
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        job = self._client.submit(function, *args, **kwargs, pure=False)
        self._running.add(job)
        try:
            while True:
                try:
                    result: R = job.result(timeout=WAIT_SECONDS)
                    return result
                except TimeoutError:
                    if job.done():
                        raise  # the job itself raised it
                    # Dask would wait for a new worker forever.
                    if not self._client.nthreads():
                        raise BrokenExecutor("dask: no worker is left") from None
        except (KilledWorker, CommClosedError, CancelledError) as error:
            raise BrokenExecutor(f"dask: {error}") from error
        finally:
            self._running.discard(job)

    def stop(self) -> None:
        """Cancel all jobs. A worker that has begun one may finish it."""
        self._waiting.shutdown(wait=False, cancel_futures=True)
        self._client.cancel(list(self._running))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut down as ``Executor.shutdown`` does."""
        self._waiting.shutdown(wait, cancel_futures=cancel_futures)
