"""Differences between two documents: nested dicts, lists and values, as from JSON or msgpack."""

import math
from collections.abc import Iterator
from typing import Any

import cinic_shards.format as fmt

_MISSING = object()


def differences(stated: Any, expected: Any) -> list[str]:
    """Describe each value in which two documents differ: ``splits[train].num_samples is 3, ...``.

    Numbers with a fraction may differ in the last digits, which depend on how they were computed.

    Args:
        stated: the document to check; it may be from a stranger.
        expected: the document that it should be.
    """
    try:
        return list(_differences(stated, expected, ""))
    except RecursionError:
        return ["its values are nested too deep"]


def _differences(stated: Any, expected: Any, path: str) -> Iterator[str]:
    if isinstance(stated, dict) and isinstance(expected, dict):
        for name in dict.fromkeys((*expected, *stated)):
            short = name if isinstance(name, str) and len(name) < 200 else fmt.shown(name)
            below = f"{path}.{short}" if path else short
            yield from _differences(stated.get(name, _MISSING), expected.get(name, _MISSING), below)
    elif isinstance(stated, list) and isinstance(expected, list) and len(stated) == len(expected):
        for position, (one, other) in enumerate(zip(stated, expected, strict=True)):
            # The expected document is not a stranger's: its names are short.
            name = other.get("name", position) if isinstance(other, dict) else position
            yield from _differences(one, other, f"{path}[{name}]")
    elif not _is_same(stated, expected):
        yield f"{path} is {_text(stated)}, expected {_text(expected)}"


def _is_same(stated: Any, expected: Any) -> bool:
    numbers = (float, int)
    if type(expected) is float and type(stated) in numbers:
        return math.isclose(stated, expected, rel_tol=1e-12, abs_tol=1e-15)
    return type(stated) is type(expected) and bool(stated == expected)


def _text(value: Any) -> str:
    return "missing" if value is _MISSING else fmt.shown(value)
