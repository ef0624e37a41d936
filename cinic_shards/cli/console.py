"""The frame of all commands: common options, printing, and the exit after a user's mistake."""

import json
import logging
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cinic_shards._version import __version__
from cinic_shards.cli.help import Commands
from cinic_shards.cli.streams import standard_streams
from cinic_shards.errors import (
    CinicShardsError,
    OptionError,
    escaped,
    text_without_secrets,
    without_secrets,
)
from cinic_shards.jobs.compiling import compiling_reported
from cinic_shards.jobs.processes import LOGGER, STOP_SIGNALS
from cinic_shards.options import check_umask
from cinic_shards.progress import ProgressReport

if TYPE_CHECKING:
    from cinic_shards.format import Manifest
    from cinic_shards.write.unpack import Unpacked


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Paths and class names are printed unchanged and on one line; a table in a file or a pipe is not
# cut to a terminal's width.
_UNCHANGED: dict[str, Any] = {
    "highlight": False,
    "markup": False,
    "emoji": False,
    "soft_wrap": True,
}


class _PlainConsole(Console):
    """A console that prints text with control characters as escape sequences."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print as ``Console.print`` does."""
        texts = (printable(one) if isinstance(one, str) else one for one in objects)
        super().print(*texts, **how)


_is_terminal = sys.stdout is not None and sys.stdout.isatty()
out_console = _PlainConsole(width=None if _is_terminal else 200, **_UNCHANGED)
err_console = _PlainConsole(stderr=True, **_UNCHANGED)


def main() -> None:
    """Run the command; a user's mistake ends it with one message, without a traceback.

    The exit status is 2 for a usage error, 128 and the signal's number after a signal that stops
    the command (130 for Ctrl-C, 143 for SIGTERM), and 1 for any other failure.
    """
    try:
        with standard_streams(), _signals_as_exceptions(), _warnings_of_logging():
            _run()
    except CinicShardsError as error:  # standard output cannot be written
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # its reader, such as ``head``, has what it wanted
        sys.exit(1)


def _run() -> None:
    try:
        app(prog_name="cinic-shard")
    except CinicShardsError as error:
        notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        err_console.print(f"error: {error}{notes}")
        sys.exit(2 if isinstance(error, OptionError) else 1)
    except BrokenExecutor:
        err_console.print(
            "error: a worker process died: it was killed, or memory ran out; try fewer --workers"
        )
        sys.exit(1)
    except SystemExit as end:
        if isinstance(end, Stopped):  # not in ``working``
            err_console.print("interrupted")
        raise


class Stopped(SystemExit):
    """A signal that stops the command; ``code`` is the exit status."""

    code: int


_received: list[int] = []
"""The signals that were to stop this command."""


def _check_received() -> None:
    """Raise ``Stopped`` after a signal; again, because Python loses it if it compiles a module."""
    if _received:
        raise Stopped(128 + _received[-1])


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Let the signals that stop a command raise ``Stopped``, so that it ends cleanly."""

    def stop(number: int, frame: object) -> None:
        _received.append(number)
        _check_received()

    _received.clear()
    before = {}
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as after nohup
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _version(value: bool) -> None:
    if value:
        out_console.print(f"cinic-shard {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pack CINIC-10, or any folder of PNGs by split and class, into a few tar files.

    These "shards" keep every image, and are read at full speed by `cinic_shards.ShardLoader`.
    """
    check_umask()


def printable(text: str) -> str:
    """Hide secrets in URLs, and escape control characters."""
    return escaped(text_without_secrets(text))


def warn(text: str) -> None:
    """Print a warning."""
    err_console.print(f"warning: {text}")


class _Warnings(logging.Handler):
    """Prints warnings of ``logging`` as those of a command."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning."""
        warn(record.getMessage())


@contextmanager
def _warnings_of_logging() -> Iterator[None]:
    handler = _Warnings()
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


def warn_unless(quiet: bool) -> Callable[[str], None]:
    """Return a function that prints a warning, or does nothing if ``quiet``."""
    return (lambda text: None) if quiet else warn


def given(**options: Any) -> dict[str, Any]:
    """Return the options that the user gave; the library owns the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}


def parse_sidecars(text: str | None) -> tuple[str, ...] | None:
    """Parse the option ``--sidecars``."""
    if text is None:
        return None
    return () if text == "none" else tuple(text.split(","))


@contextmanager
def working(stopped: str, *, quiet: bool, unit: str = "images") -> Iterator[ProgressReport]:
    """Report the progress of a command; Ctrl-C and such signals end it with one line.

    Args:
        stopped: text of that line, unless the exception has a note.
        quiet: report nothing, also not that a server makes its clients wait.
        unit: name of what is counted.
    """
    level = LOGGER.level
    if quiet:
        LOGGER.setLevel(logging.ERROR)
    try:
        report = ProgressReport(err_console, _check_received, quiet=quiet, unit=unit)
        with report, compiling_reported(report.say):
            yield report
    except (KeyboardInterrupt, Stopped) as end:
        notes = getattr(end, "__notes__", [stopped])
        err_console.print(f"interrupted: {notes[-1]}")
        raise typer.Exit(end.code if isinstance(end, Stopped) else 130) from None
    finally:
        LOGGER.setLevel(level)


def next_step(text: str) -> None:
    """Print what to do next, on standard error."""
    err_console.print(f"next: {text}")


def command(*words: object) -> str:
    """Return a command as a user types it; secrets in URLs are hidden."""
    return shlex.join(["cinic-shard", *(without_secrets(str(word)) for word in words)])


@contextmanager
def waiting(text: str, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show one line of text on a terminal until the block ends, and that kernels are compiled.

    Args:
        text: the first text.
        quiet: show nothing.

    Returns:
        A function that replaces the text.
    """
    if quiet:
        yield lambda text: None
        return
    with err_console.status(text) as status, compiling_reported(err_console.print):
        yield status.update


def print_written(
    manifest: "Manifest", seconds: float, out: str, *, as_json: bool, quiet: bool, after: str
) -> None:
    """Print the number of images and shards written, their size and the speed.

    Args:
        manifest: the new dataset.
        seconds: how long it took.
        out: the dataset's location.
        as_json: print JSON.
        quiet: print nothing, except JSON.
        after: the next command.
    """
    shards = [shard for split in manifest.splits for shard in split.shards]
    size = sum(shard.size for shard in shards)
    if as_json:
        print_json(
            {
                "path": without_secrets(out),
                "num_samples": manifest.num_samples,
                "num_shards": len(shards),
                "bytes": size,
                "encoding": manifest.encoding,
                "fingerprint": manifest.fingerprint,
                "seconds": seconds,
            }
        )
    elif not quiet:
        out_console.print(
            f"{manifest.num_samples:,} images in {len(shards)} shards, {size / 1e6:,.1f} MB, "
            f"{seconds:.1f} s ({manifest.num_samples / seconds:,.0f} images/s): "
            f"{without_secrets(out)}"
        )
        next_step(after)


def print_unpacked(
    done: "Unpacked", what: str, seconds: float, out: object, *, as_json: bool, quiet: bool
) -> None:
    """Print how many files of a tree were written, and how many existed already."""
    if as_json:
        counts = {"num_written": done.num_written, "num_kept": done.num_kept}
        print_json({"path": str(out), **counts, "seconds": seconds})
    elif not quiet:
        kept = f", {done.num_kept:,} existed already" if done.num_kept else ""
        out_console.print(f"{done.num_written:,} {what}{kept}, {seconds:.1f} s: {out}")


def print_json(content: Any) -> None:
    """Print JSON in ASCII: it parses in any encoding, and holds no control character."""
    print(json.dumps(content, indent=1).replace("\x7f", "\\u007f"))


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print a table, without cutting it to the terminal's width."""
    table = Table(box=None)
    for column, name in enumerate(header):
        width = max((len(row[column]) for row in rows), default=0)
        table.add_column(printable(name), no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*map(printable, row))
    out_console.print(table, crop=False)
