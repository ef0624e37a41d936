"""Processes of this machine for jobs; the pool ends at once if one is killed, or on Ctrl-C."""

import atexit
import gc
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from typing import Any, TypeVar

from cinic_shards.jobs.compiling import Relay, relay_to

R = TypeVar("R")

LOGGER = logging.getLogger("cinic_shards")
"""Its warnings go to standard error, unless the program configures ``logging``."""

STOP_SECONDS = 0.5
"""Seconds to wait for interrupted jobs; one that waits for a server is then left alone."""


class Processes(ProcessPoolExecutor):
    """A process pool that breaks at once if one of its processes is killed, at any moment.

    That process may hold the lock of a queue, for which the others would wait forever; or it may
    have written only half of a result, for whose rest this process would wait.
    """

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._relay = Relay(context)
        super().__init__(
            workers,
            mp_context=context,
            initializer=_start_worker,
            initargs=(LOGGER.level, self._relay.writer),
        )
        self._watch = threading.Thread(target=self._watch_processes, daemon=True)
        self._is_ending = threading.Event()

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Submit a job as ``Executor.submit`` does; a process it starts never sees Ctrl-C."""
        with signals_held():
            future = super().submit(fn, *args, **kwargs)
            if self._watch.ident is None:
                self._watch.start()
            return future

    def _watch_processes(self) -> None:
        """Wait until all processes have ended; if one exits with an error, kill the others."""
        results: Any = self._result_queue
        seen: dict[int, Any] = {}
        while True:
            is_ending = self._is_ending.is_set()
            seen |= self._processes or {}
            alive = [process for process in seen.values() if process.is_alive()]
            if any(process.exitcode for process in seen.values()):
                for process in alive:
                    process.kill()
                for process in alive:
                    process.join()
                break
            if alive:
                wait_for_any([process.sentinel for process in alive], _WATCH_SECONDS)
            elif is_ending or self._is_ending.wait(_WATCH_SECONDS):
                return
        manager = vars(self).get("_executor_manager_thread")
        if manager is not None:
            manager.join(_BREAK_SECONDS)
            if manager.is_alive():  # it reads the rest of a result: without a writer, that ends
                results._writer.close()

    def stop(self) -> None:
        """Cancel all jobs, kill all processes, and wait for their end."""
        processes = list((self._processes or {}).values())
        if (manager := vars(self).get("_executor_manager_thread")) is None:
            return
        # Python 3.11 fails if a process is killed and a future was cancelled by ``cancel``.
        super().shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + STOP_SECONDS
        try:
            while getattr(self, "_cancel_pending_futures", False) and time.monotonic() < deadline:
                time.sleep(0.002)
        finally:  # also after another Ctrl-C
            for process in processes:
                process.kill()
        manager.join()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self.stop()
        self.shutdown()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut down as ``Executor.shutdown`` does."""
        self._is_ending.set()
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            if self._watch.ident is not None:
                self._watch.join()
            self._relay.close()


_WATCH_SECONDS = 0.2
"""Seconds after which a pool looks for new processes."""
_BREAK_SECONDS = 1.0
"""Seconds in which a pool should notice that its processes have ended."""

STOP_SIGNALS = [s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP")]
"""Ctrl-C; the signal of ``kill`` and of schedulers; the end of a terminal."""


@contextmanager
def signals_held() -> Iterator[None]:
    """Delay ``STOP_SIGNALS`` until the block ends, and block them in processes started meanwhile.

    Such a process inherits this thread's signal mask. Here any thread may receive the signal, and
    Python calls its handler in the main thread: hence the replaced handlers.
    """
    received: list[tuple[Any, ...]] = []
    is_main = threading.current_thread() is threading.main_thread()
    found: dict[int, Any] = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    handlers = {number: found[number] for number in found if is_main and callable(found[number])}
    for number in handlers:
        signal.signal(number, lambda *arguments: received.append(arguments))
    has_masks = hasattr(signal, "pthread_sigmask")  # not on Windows
    if has_masks:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        if has_masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for arguments in received[:1]:
            handlers[arguments[0]](*arguments)


def _start_worker(level: int, writer: Connection) -> None:
    LOGGER.setLevel(level)
    relay_to(writer)
    # Signals may reach all processes of a terminal or a scheduler's job; the parent acts on them.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Jobs make many objects and no cycles; the garbage collector would take a tenth of their time.
    gc.disable()
    # Nor a collection at exit: 0.1 s for the objects that numba has loaded.
    atexit.register(gc.freeze)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is killed; it would wait for jobs forever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
