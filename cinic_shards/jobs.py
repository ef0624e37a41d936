"""How many workers there may be, and the pool of processes that packing runs on."""

import atexit
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures import wait as wait_for_all
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for_any
from typing import Any, TypeVar

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done, and of how many (0: not known yet)."""

J = TypeVar("J")
R = TypeVar("R")


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        executor: see ``executors.open_executor``.
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
