"""Where packing runs: processes of this machine, a dask cluster, or any Executor."""

from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from cinic_shards.errors import OptionError
from cinic_shards.jobs import make_executor, usable_cores

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")

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
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise OptionError(f"{workers} workers: expected at least 1")
    return workers


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

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As ``Executor.submit``."""
        return self._waiting.submit(self._run, function, args, kwargs)

    def _run(self, function: Callable[..., T], args: Any, kwargs: Any) -> T:
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        job = self._client.submit(function, *args, **kwargs, pure=False)
        try:
            while True:
                try:
                    result: T = job.result(timeout=WAIT_SECONDS)
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
