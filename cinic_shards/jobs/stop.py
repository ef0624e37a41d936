"""The end of a job in a thread, which cannot be killed as a process can."""

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

R = TypeVar("R")

_stop: ContextVar[threading.Event | None] = ContextVar("stop", default=None)
"""Set when the job of this thread must end."""


class JobStopped(BaseException):
    """Nobody waits for the result of this thread's job any more."""


def check_stop(wait_seconds: float = 0.0) -> None:
    """Raise ``JobStopped`` if the job that this thread runs must end.

    A job calls this several times a second. Only jobs in threads need it: processes are killed.

    Args:
        wait_seconds: time to wait; the job may have to end meanwhile.
    """
    seconds = max(0.0, wait_seconds)
    if (stop := _stop.get()) is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise JobStopped


def run_stoppable(stop: threading.Event, function: Callable[..., R], *job: Any) -> R:
    """Run a job in this thread; its ``check_stop`` raises once ``stop`` is set."""
    _stop.set(stop)
    check_stop()
    return function(*job)
