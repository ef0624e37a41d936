"""What an option must be, where several functions take it."""

import operator
import os
from typing import Any, SupportsIndex, get_args

from cinic_shards.errors import OptionError


def whole(name: str, value: SupportsIndex, least: int = 0) -> int:
    """An option that is a whole number, as Python's own, not numpy's.

    Raises:
        OptionError: it is none, or below ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise OptionError(f"{name}={value!r}: expected a whole number, at least {least:,}")
    return number


def one_of(name: str, value: object, choices: Any) -> None:
    """Check an option of a few values against ``choices``, its ``Literal``.

    Raises:
        OptionError: it is none of them.
    """
    if value not in get_args(choices):
        listed = ", ".join(get_args(choices))
        raise OptionError(f"{name}={value!r}: expected one of {listed}")


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def number_of_workers(workers: SupportsIndex | None) -> int:
    """The option ``workers``: processes or threads; by default one for each usable core.

    Raises:
        OptionError: it is less than 1.
    """
    return usable_cores() if workers is None else whole("workers", workers, 1)
