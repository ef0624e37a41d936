"""The command line: in this process for speed, or as users start it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

COMMAND = Path(sys.executable).with_name("cinic-shard")
"""The installed command."""


class Outcome(NamedTuple):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]
"""The fixture ``run``: arguments of the command, without its name."""
