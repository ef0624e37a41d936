"""How many workers there may be, and the pool of processes that packing runs on."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class InlineExecutor(Executor):
    """An Executor that runs each job in the calling thread, when it is submitted."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # handed to whoever asks for the result
            future.set_exception(error)
        return future


def make_executor(workers: int) -> Executor:
    """An Executor for ``workers`` jobs at a time: this process for one, new processes for more.

    The processes are spawned, not forked: a fork copies locks that other threads hold.
    """
    if workers == 1:
        return InlineExecutor()
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_interrupts
    )


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; the parent alone decides what it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
