"""What an option must be, where several functions take it."""

import operator
from typing import SupportsIndex

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
