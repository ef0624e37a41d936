"""The command line: in this process for speed, or as users start it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

COMMAND = Path(sys.executable).with_name("cinic-shard")
"""The installed command."""


class _Result(NamedTuple):
    status: int
    out: str
    err: str
    """Standard error, without ``hints``."""


class Outcome(_Result):
    """Exit status and output of a command."""

    hints: tuple[str, ...] = ()
    """Lines on standard error: what to do next, and that kernels are compiled."""


def outcome(status: int, out: str, err: str) -> Outcome:
    """Separate the hints from all else that a command prints on standard error."""
    lines = err.splitlines(keepends=True)
    hints = [line for line in lines if line.startswith(("next: ", "compiling kernels"))]
    found = Outcome(status, out, "".join(line for line in lines if line not in hints))
    found.hints = tuple(line.rstrip() for line in hints)
    return found


Run = Callable[..., Outcome]
"""The fixture ``run``: arguments of the command, without its name."""
