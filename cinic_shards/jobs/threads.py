"""Threads for jobs that may stall."""

import atexit
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

R = TypeVar("R")

CLOSE_SECONDS = 1.0
"""Seconds that ``ThreadPool`` waits for jobs that have started, when it is closed."""

_Job = tuple[Future[Any], Callable[[], Any]]

_open_pools: set["ThreadPool"] = set()
"""Pools with threads; closed when Python ends."""
_ended: list[threading.Thread] = []
"""Threads of closed pools."""


class ThreadPool(Executor):
    """Threads for jobs that may stall; nothing waits for a stalled job without a limit.

    ``ThreadPoolExecutor`` waits for every job that has started, when it is closed and again when
    Python ends: minutes, if a server does not answer. This pool waits for ``CLOSE_SECONDS`` and
    leaves the thread to end when its job does. One thread calls the methods.

    Freeing a thread object runs Python code, and a Ctrl-C during that code is lost. So the threads
    of closed pools are freed by a thread of the next pool, where no signal handler runs.

    Args:
        count: the most threads; each submitted job starts one until there are so many.
        name: prefix of their names.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Submit a job as ``Executor.submit`` does."""
        future: Future[R] = Future()
        self._jobs.put((future, partial(fn, *args, **kwargs)))
        number = len(self._threads)
        if number < self._count:
            thread = threading.Thread(
                target=_run_jobs_of, args=(self._jobs,), name=f"{self._name}_{number}", daemon=True
            )
            self._threads.append(thread)
            _open_pools.add(self)
            thread.start()
        return future

    def close(self, *, wait: bool) -> bool:
        """Cancel the jobs that have not started; with ``wait``, wait a second for the others.

        Returns:
            True if ``wait`` is True and all threads have ended.
        """
        with suppress(Empty):
            while (job := self._jobs.get_nowait()) is not None:
                job[0].cancel()
        return self._end(wait)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut down as ``Executor.shutdown`` does, but wait a second at most."""
        if cancel_futures:
            self.close(wait=wait)
        else:
            self._end(wait)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close(wait=kind is None or issubclass(kind, Exception))

    def _end(self, wait: bool) -> bool:
        self._jobs.put(None)
        _open_pools.discard(self)
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads if wait else ():
            with suppress(RuntimeError):  # Ctrl-C came before it had started
                thread.join(max(0.0, deadline - time.monotonic()))
        _ended.extend(self._threads)
        return wait and not any(thread.is_alive() for thread in self._threads)


class ThisThread(Executor):
    """Runs each job when it is submitted: for so little work that a thread would take longer."""

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Run a job, and return it as done; Ctrl-C is raised here."""
        future: Future[R] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # the caller gets it from the future
            future.set_exception(error)
        return future

    def close(self, *, wait: bool) -> bool:
        """Return True: no job is left."""
        return True


def _run_jobs_of(jobs: "SimpleQueue[_Job | None]") -> None:
    """Run jobs until there is None, which is left for the pool's other threads."""
    _ended.clear()
    while (job := jobs.get()) is not None:
        future, call = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
        del job, future, call  # else they would keep the last result's memory
    jobs.put(None)


@atexit.register
def _close_pools() -> None:
    for pool in list(_open_pools):
        pool.close(wait=True)
