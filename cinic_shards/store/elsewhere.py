"""Calls that may stall, made in threads that nobody has to wait for.

A call into obstore does not notice Ctrl-C, and a server may let it wait for minutes. So a daemon
thread makes the call, and the caller waits in Python, where Ctrl-C is raised at once. A caller that
gives up leaves the thread behind; it does not delay the end of the process.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from cinic_shards.jobs.stop import check_stop, run_stoppable

R = TypeVar("R")

IDLE_SECONDS = 0.1
"""A thread without a call ends after this time; starting one takes as long as a short request."""
_SLICE_SECONDS = 0.5
"""Longest wait at a time: on Windows a lock does not notice Ctrl-C."""


class Started(Generic[R]):
    """A call under way."""

    def __init__(self, function: Callable[[], R]) -> None:
        self.function = function
        self.outcome: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        """Gets the result, or the exception."""
        self.abandoned = threading.Event()
        """Set once nobody waits for the result any more."""

    def result(self) -> R:
        """Wait for the call's result, or raise its exception."""
        try:
            while True:
                with suppress(Empty):
                    result, error = self.outcome.get(timeout=_SLICE_SECONDS)
                    break
                check_stop()
        except BaseException:
            self.abandoned.set()
            raise
        if error is not None:
            try:
                raise error
            finally:
                del error  # it refers to this frame
        return result  # type: ignore[no-any-return]


_idle: "list[SimpleQueue[Started[Any]]]" = []
"""Inboxes of threads without a call."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # their threads are the parent's


def start(function: Callable[[], R]) -> Started[R]:
    """Start a call in a daemon thread."""
    started = Started(function)
    try:
        inbox = _idle.pop()
    except IndexError:
        inbox = SimpleQueue()
        threading.Thread(
            target=_serve, args=(inbox,), name="cinic-shards-request", daemon=True
        ).start()
    inbox.put(started)
    return started


def call(function: Callable[[], R]) -> R:
    """Make a call, and return its result. Ctrl-C is noticed while the call stalls.

    A daemon thread makes the call itself: nobody has to wait for such a thread.
    """
    if threading.current_thread().daemon:
        return function()
    return start(function).result()


def _serve(inbox: "SimpleQueue[Started[Any]]") -> None:
    """Make the calls of an inbox, one after the other, until there is none for some time."""
    while True:
        try:
            started = inbox.get(timeout=IDLE_SECONDS)
        except Empty:
            with suppress(ValueError):
                _idle.remove(inbox)
                return
            started = inbox.get()  # a caller has taken the inbox, and is about to use it
        outcome: tuple[Any, BaseException | None]
        try:
            outcome = run_stoppable(started.abandoned, started.function), None
        except BaseException as error:
            outcome = None, error
        _idle.append(inbox)  # before the caller's next call
        started.outcome.put(outcome)
        del started, outcome  # else they would keep the result's memory
