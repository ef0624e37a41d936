"""How many workers there may be, and the pool of processes that packing runs on."""

import gc
import multiprocessing
import os
import signal
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor


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
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )


def _start_worker() -> None:
    # Ctrl-C reaches every process of a terminal; the parent alone decides what it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Jobs make many objects and no cycles: looking for some is a tenth of their time.
    gc.disable()
