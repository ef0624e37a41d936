"""Where jobs run: threads, processes of this machine, a dask cluster, or any Executor."""

import atexit
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures import wait as wait_for_all
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for_any
from typing import TYPE_CHECKING, Any, TypeVar

from cinic_shards.errors import OptionError
from cinic_shards.options import number_of_workers

if TYPE_CHECKING:
    from distributed import Client

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done, and of how many (0: not known yet)."""

J = TypeVar("J")
R = TypeVar("R")


class Tally:
    """Adds up what is done, and reports it; at once, too, where the total is known (not 0)."""

    def __init__(self, progress: Progress, doing: str, total: int = 0, done: int = 0) -> None:
        self._progress = progress
        self._doing = doing
        self._total = total
        self._done = done
        if total:
            self.add(0)

    def add(self, count: int) -> None:
        """Report that so many more are done."""
        self._done += count
        self._progress(self._doing, self._done, self._total)


def make_executor(workers: int) -> Executor:
    """An Executor for ``workers`` jobs at a time: a thread for one, processes for more.

    The processes are spawned, not forked: a fork copies locks that other threads hold.
    """
    if workers == 1:
        return ThreadPoolExecutor(1)
    return _Processes(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )


class _Processes(ProcessPoolExecutor):
    """A pool that also ends when one of its processes is killed while all of them are to end.

    An idle process holds the lock of the queue that it waits at. Where it is killed then, the
    others would wait for that lock for ever, and nobody looks any more.
    """

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """As ``Executor.submit``; where that starts a process, Ctrl-C will not reach it."""
        with _ctrl_c_held():
            return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As ``Executor.shutdown``."""
        processes = list((self._processes or {}).values())
        watch = threading.Thread(target=_end_together, args=(processes,), daemon=True)
        watch.start()
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            watch.join()


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """A Ctrl-C comes afterwards, and never in a process that is started meanwhile.

    Such a process has this thread's mask. Here any thread may get the signal, and Python calls its
    handler in the main one.
    """
    came: list[tuple[Any, ...]] = []
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if is_main else None
    if callable(handler):
        signal.signal(signal.SIGINT, lambda *arguments: came.append(arguments))
    has_masks = hasattr(signal, "pthread_sigmask")  # not on Windows
    if has_masks:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if has_masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if callable(handler):
            signal.signal(signal.SIGINT, handler)
            if came:
                handler(*came[0])


def _end_together(processes: list[Any]) -> None:
    """Wait until all processes have ended; where one did not end by itself, kill the others."""
    while processes:
        wait_for_any([process.sentinel for process in processes])
        ended = [process for process in processes if not process.is_alive()]
        processes = [process for process in processes if process not in ended]
        if any(process.exitcode for process in ended):
            for process in processes:
                process.kill()


def run_jobs(
    executor: Executor,
    function: Callable[[J], R],
    jobs: Iterable[J],
    *,
    done: Callable[[R], None] = lambda result: None,
) -> list[R]:
    """Run all jobs, and give their results in the jobs' order.

    When one fails, the others have ended or been taken back before its exception is raised.

    Args:
        executor: see ``open_executor``.
        function: of one job; importable, for other processes.
        jobs: workers begin with the first ones while the next ones are made.
        done: called with each result as it comes.
    """
    futures: list[Future[R]] = []
    try:
        for job in jobs:
            with _ctrl_c_held():  # or a job could be under way that nobody waits for
                futures.append(executor.submit(function, job))
        for future in as_completed(futures):
            done(future.result())
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        wait_for_all(futures)
        raise


def _start_worker() -> None:
    # Ctrl-C reaches every process of a terminal; the parent alone decides what it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Jobs make many objects and no cycles: looking for some is a tenth of their time.
    gc.disable()
    # Nor when the worker ends: that would be a tenth of a second for what numba has loaded.
    atexit.register(gc.freeze)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed takes its workers along: they would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


WAIT_SECONDS = 30.0
"""For a cluster's scheduler, for its first worker, and for another one where the last has died."""


@contextmanager
def open_executor(where: Executor | str | None, workers: int | None) -> Iterator[Executor]:
    """Where jobs run.

    Args:
        where: ``process`` or ``process:N``: that many processes of this machine; ``dask://host:port``:
            the cluster of that scheduler; an Executor: that one, which stays open; None: processes.
        workers: how many processes, where ``where`` does not say; by default a process a core.

    Raises:
        OptionError: they contradict each other, or there is no such cluster.
    """
    if isinstance(where, Executor):
        _refuse_both(workers, "an executor")
        yield where
    elif where is not None and where.startswith("dask://"):
        _refuse_both(workers, where)
        with _dask(where.removeprefix("dask://").rstrip("/")) as cluster:
            yield cluster
    else:
        with make_executor(_number_of_processes(where, workers)) as processes:
            yield processes


def _refuse_both(workers: int | None, where: str) -> None:
    if workers is not None:
        raise OptionError(f"{workers} workers and {where}: give one of them")


def _number_of_processes(where: str | None, workers: int | None) -> int:
    kind, colon, number = (where or "process").partition(":")
    if kind != "process" or (colon and not number.isdecimal()):
        raise OptionError(f"executor {where!r}: expected process, process:N or dask://host:port")
    if number:
        _refuse_both(workers, str(where))
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
            f"dask://{address}: no scheduler there; start one: dask scheduler --port PORT"
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
    """A dask cluster as an Executor whose ``cancel`` is true.

    Dask's own calls a job cancelled that a worker still runs, and it would write behind our back.
    Here a thread waits for each job that the cluster has, and only those that wait for a thread
    can be cancelled. What dask can do again where a worker has died, it does.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client
        threads = sum(client.nthreads().values())
        self._waiting = ThreadPoolExecutor(2 * threads)  # so that no worker waits for its next job

    def submit(self, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """As ``Executor.submit``."""
        return self._waiting.submit(self._run, function, args, kwargs)

    def _run(self, function: Callable[..., R], args: Any, kwargs: Any) -> R:
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        job = self._client.submit(function, *args, **kwargs, pure=False)
        try:
            while True:
                try:
                    result: R = job.result(timeout=WAIT_SECONDS)
                    return result
                except TimeoutError:
                    if job.done():
                        raise  # the job's own
                    # Dask would wait for a new worker for ever.
                    if not self._client.nthreads():
                        raise BrokenExecutor("dask: no worker is left") from None
        except (KilledWorker, CommClosedError, CancelledError) as error:
            raise BrokenExecutor(f"dask: {error}") from error

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As ``Executor.shutdown``."""
        self._waiting.shutdown(wait, cancel_futures=cancel_futures)
