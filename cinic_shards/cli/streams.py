"""Standard streams that may be closed, full, or unable to encode a letter."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from cinic_shards.errors import OutputError, reason_of


class _Stream:
    """A standard stream that reports its own failures once, and then discards what is written."""

    def __init__(self, stream: TextIO, name: str | None) -> None:
        """Wrap a stream.

        Args:
            stream: the stream.
            name: its name in an OutputError; None to discard the output without an error.
        """
        self._stream = stream
        self._name = name
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text; raise OutputError if the stream cannot be written."""
        with self._errors():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream; raise OutputError if it cannot be written."""
        with self._errors():
            self._stream.flush()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            discard(self._stream)
            if self._name is not None:
                if isinstance(error, BrokenPipeError):
                    raise
                raise OutputError(f"{self._name}: {reason_of(error)}") from error


def discard(stream: Any) -> None:
    """Send what is written to a stream to nowhere; Python flushes it once more at its exit."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


@contextmanager
def standard_streams() -> Iterator[None]:
    """Wrap standard output and standard error until the block ends.

    A letter that their encoding lacks is written as an escape sequence. What cannot be written to
    standard error is lost, because there is no other stream for it.

    Raises:
        OutputError: standard output is closed or cannot be written, for instance on a full disk.
        BrokenPipeError: the reader of standard output, such as ``head``, has ended.
    """
    before = sys.stdout, sys.stderr
    # A file opened later would get a closed stream's number, and a library's message in its data.
    for number, stream in enumerate((sys.__stdin__, sys.__stdout__, sys.__stderr__)):
        if stream is None:
            _open_nowhere(number)
    sys.stderr = _Stream(sys.stderr or io.StringIO(), None)
    try:
        if sys.stdout is None:
            raise OutputError("standard output is closed; send it to a file or to /dev/null")
        sys.stdout = _Stream(sys.stdout, "standard output")
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before


def _open_nowhere(number: int) -> None:
    """Open the null device as a file descriptor that is closed."""
    with suppress(OSError):
        os.fstat(number)
        return
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
