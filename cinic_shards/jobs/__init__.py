"""Executors for jobs: threads, processes of this machine, a dask cluster, or any Executor."""

import atexit
import gc
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from cinic_shards.errors import OptionError, without_secrets
from cinic_shards.jobs.compiling import Relay, relay_to
from cinic_shards.jobs.stop import run_stoppable
from cinic_shards.jobs.threads import ThreadPool
from cinic_shards.options import number_of_workers

if TYPE_CHECKING:
    from distributed import Client

Progress = Callable[[str, int, int], None]
"""Called with an activity, the number of images done, and their total (0: not known yet)."""

J = TypeVar("J")
R = TypeVar("R")

LOGGER = logging.getLogger("cinic_shards")
"""Its warnings go to standard error, unless the program configures ``logging``."""


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
    return _Processes(workers)


class _Processes(ProcessPoolExecutor):
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
        with _signals_held():
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
def _signals_held() -> Iterator[None]:
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


def can_stop(executor: Executor) -> bool:
    """Return True if ``run_jobs`` ends the running jobs when it is interrupted."""
    return isinstance(executor, ThreadPool | _Processes)


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
                with _signals_held():  # else a job could be running that is not in ``futures``
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
            if isinstance(executor, _Processes | _Cluster):
                executor.stop()
            else:
                for future in futures:
                    future.cancel()
            _wait(futures, STOP_SECONDS)
        raise


STOP_SECONDS = 0.5
"""Seconds to wait for interrupted jobs; one that waits for a server is then left alone."""


def _wait(futures: Iterable[Future[R]], seconds: float = math.inf) -> None:
    """Wait until all are done. Not with ``concurrent.futures``, whose locks Ctrl-C may break."""
    deadline = time.monotonic() + seconds
    while not all(future.done() for future in futures) and time.monotonic() < deadline:
        time.sleep(0.005)


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
