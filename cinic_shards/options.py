"""Checks of options that several functions share."""

import operator
import os
from typing import Any, SupportsIndex, get_args

from cinic_shards.errors import OptionError


def integer(name: str, value: SupportsIndex, least: int = 0) -> int:
    """Return ``value`` as a Python ``int``; numpy integers are accepted.

    Args:
        name: the option's name, for the message.
        value: the option's value.
        least: the smallest allowed value.

    Raises:
        OptionError: ``value`` is not an integer, or is below ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise OptionError(f"{name}={value!r}: expected an integer, at least {least:,}")
    return number


def one_of(name: str, value: object, choices: Any) -> None:
    """Check an option against ``choices``, the ``Literal`` of its values.

    Raises:
        OptionError: ``value`` is not among them.
    """
    if value not in get_args(choices):
        listed = ", ".join(get_args(choices))
        raise OptionError(f"{name}={value!r}: expected one of {listed}")


def usable_cores() -> int:
    """Return the number of CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def number_of_workers(workers: SupportsIndex | None) -> int:
    """Check the option ``workers``, a number of processes or threads.

    Returns:
        ``workers``; if it is None, one per usable core.

    Raises:
        OptionError: ``workers`` is not an integer, or is less than 1.
    """
    return usable_cores() if workers is None else integer("workers", workers, 1)
