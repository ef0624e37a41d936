"""How far a long command is: a bar on a terminal, elsewhere a line now and then."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_SECONDS = 10.0
"""Between two lines."""


class ProgressReport:
    """A bar with rate and time left on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._bar: Progress | None = None
        if not quiet and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:<6}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
        self._tasks: dict[str, Any] = {}
        self._starts: dict[str, float] = {}
        self._last_line = time.perf_counter()

    @classmethod
    def on_stderr(cls) -> "ProgressReport":
        """One of its own, where there is no console."""
        return cls(Console(stderr=True), quiet=False)

    def __enter__(self) -> "ProgressReport":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, doing: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` images (0: not known yet) are done."""
        now = time.perf_counter()
        rate = done / max(now - self._starts.setdefault(doing, now), 1e-3)
        rate_text = f"{rate:,.0f} images/s" if rate < 1e8 and now > self._starts[doing] else ""
        if self._bar:
            if doing not in self._tasks:
                self._tasks[doing] = self._bar.add_task(doing, total=None, rate="")
            self._bar.update(
                self._tasks[doing], completed=done, total=total or None, rate=rate_text
            )
        elif not self._quiet and now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            of = f" of {total:,}" if total else ""
            self._console.print(f"{doing}: {done:,}{of} images, {rate_text}")
