"""Progress messages of long commands: a bar on a terminal, elsewhere a line every 10 seconds."""

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

_LINE_SECONDS = 10.0
"""Seconds between two lines."""


class ProgressReport:
    """A bar with rate and time left on a terminal; elsewhere a line every 10 seconds."""

    def __init__(
        self,
        console: Console,
        check: Callable[[], None] = lambda: None,
        *,
        quiet: bool,
        unit: str = "images",
    ) -> None:
        """Report on a console.

        Args:
            console: the console to write to.
            check: called with each update; may raise an exception to stop the command.
            quiet: report nothing.
            unit: what is counted: ``images`` or ``bytes``.
        """
        self._console = console
        self._check = check
        self._unit = unit
        self._quiet = quiet
        self._bar: Progress | None = None
        if not quiet and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:<6}"),
                BarColumn(),
                DownloadColumn() if unit == "bytes" else MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
        self._tasks: dict[str, Any] = {}
        self._starts: dict[str, tuple[float, int]] = {}
        self._start = self._last_line = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since this report was created."""
        return time.perf_counter() - self._start

    @classmethod
    def on_stderr(cls) -> "ProgressReport":
        """Make a report that creates its own console on stderr."""
        return cls(Console(stderr=True), quiet=False)

    def __enter__(self) -> "ProgressReport":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line, unless the report is quiet."""
        if not self._quiet:
            self._console.print(text)

    def update(self, doing: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` (0: not known yet) are done.

        Args:
            doing: the activity; each has its own bar.
            done: images or bytes done.
            total: images or bytes in total.
        """
        self._check()
        now = time.perf_counter()
        # The rate leaves out what was already done at the first update, such as in a resumed run.
        start, done_before = self._starts.setdefault(doing, (now, done))
        rate_text = self._rate((done - done_before) / (now - start)) if now > start else ""
        if self._bar:
            if doing not in self._tasks:
                self._tasks[doing] = self._bar.add_task(doing, total=None, completed=done, rate="")
            self._bar.update(
                self._tasks[doing], completed=done, total=total or None, rate=rate_text
            )
        elif not self._quiet and now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            of = f" of {total:,}" if total else ""
            self._console.print(f"{doing}: {done:,}{of} {self._unit}, {rate_text}")

    def _rate(self, rate: float) -> str:
        return f"{rate / 1e6:,.1f} MB/s" if self._unit == "bytes" else f"{rate:,.0f} images/s"
