"""Report that kernels are compiled, which takes seconds once on a machine; also in workers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

_listeners: list[Callable[[], None]] = []
"""Called before each kernel is compiled, in the thread that needs it."""


def about_to_compile() -> None:
    """Call all listeners; a kernel is not in the cache, so this process will compile it."""
    for listener in [*_listeners]:
        listener()


@contextmanager
def compiling_reported(report: Callable[[str], None]) -> Iterator[None]:
    """Call ``report`` once if any kernel is compiled until the block ends."""
    is_reported = threading.Event()

    def listen() -> None:
        if not is_reported.is_set():
            is_reported.set()
            report("compiling kernels, once on this machine")

    _listeners.append(listen)
    try:
        yield
    finally:
        _listeners.remove(listen)


class Relay:
    """Lets the listeners of this process know that a worker process compiles a kernel."""

    def __init__(self, context: Any) -> None:
        """Open a relay for processes that a context of ``multiprocessing`` starts."""
        self._reader, self.writer = context.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        # Messages of one byte are written at once, so a killed worker never leaves half of one.
        with suppress(OSError, EOFError):
            while self._reader.recv_bytes():
                about_to_compile()

    def close(self) -> None:
        """Close the relay, after all workers have ended."""
        with suppress(OSError):
            self.writer.send_bytes(b"")
        self._thread.join()
        self._reader.close()
        self.writer.close()


def relay_to(writer: Connection) -> None:
    """Send this worker's messages to its parent."""

    def send() -> None:
        with suppress(OSError):  # the parent has ended
            writer.send_bytes(b"k")

    _listeners.append(send)
