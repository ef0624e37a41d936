"""Checks of options that several functions share.

``checked`` checks the types of a public function's options by its annotations, so each option is
checked where it enters; the function itself checks ranges.
"""

import difflib
import functools
import inspect
import math
import operator
import os
import tempfile
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, SupportsIndex, TypeVar, get_args, get_origin

from cinic_shards.errors import OptionError
from cinic_shards.limits import cpu_quota

F = TypeVar("F", bound=Callable[..., Any])

_LONGEST_VALUE = 60
"""Characters of a wrong value that a message repeats."""
_MOST_WORKERS = 4096
"""More processes or threads than this are a mistake."""


def checked(function: F) -> F:
    """Check and convert the options of a function, or of a dataclass, by their annotations.

    None stands for the option's default. Numpy's numbers become Python's, and a list, array or
    other collection given for a ``Sequence`` becomes a tuple.

    Raises:
        OptionError: when the function is called with a value of the wrong type, or with a number
            that is NaN or infinite.
    """
    if isinstance(function, type):
        function.__init__ = _checked(function.__init__, function)  # type: ignore[misc]
        return function
    return typing.cast("F", _checked(function, function))


def _checked(function: Callable[..., Any], hints_of: Any) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.cache
    def hints() -> dict[str, Any]:  # late: an annotation may name what is defined further down
        return typing.get_type_hints(hints_of)

    @functools.wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # raises Python's own message
        for name, value in bound.arguments.items():
            hint = hints().get(name, Any)
            default = signature.parameters[name].default
            if value is None and default is not inspect.Parameter.empty:
                bound.arguments[name] = default
            else:
                bound.arguments[name] = _value(name, value, hint)
        return function(*bound.args, **bound.kwargs)

    return check


def _value(name: str, value: Any, hint: Any) -> Any:
    try:
        return _converted(value, hint)
    except (TypeError, ValueError):
        names = [one for one in get_args(hint) if isinstance(one, str)]  # those of a Literal
        similar = did_you_mean(value, names) if isinstance(value, str) else ""
        raise OptionError(f"{name}={_shown(value)}: expected {_describe(hint)}{similar}") from None


def _converted(value: Any, hint: Any) -> Any:
    """Return a value as the type of an annotation; TypeError or ValueError if it is not one."""
    origin = get_origin(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return value
    if origin in (types.UnionType, typing.Union):
        return _converted_to_any(value, get_args(hint))
    if origin is Literal:
        if not any(type(one) is type(value) and one == value for one in get_args(hint)):
            raise ValueError
        return value
    if hint in (bool, int, float):
        return _converted_number(value, hint)
    if origin is tuple or (isinstance(origin, type) and issubclass(Sequence, origin)):
        return _converted_items(value, hint)
    if origin is os.PathLike:
        if not isinstance(os.fspath(value), str):
            raise TypeError
    elif not isinstance(value, object if hint is None else origin or hint):
        raise TypeError
    return value


def _converted_to_any(value: Any, hints: tuple[Any, ...]) -> Any:
    for hint in hints:
        try:
            return _converted(value, hint)
        except (TypeError, ValueError):
            continue
    raise TypeError


def _converted_number(value: Any, hint: type) -> bool | int | float:
    is_bool = isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")  # numpy's
    if is_bool != (hint is bool):
        raise TypeError
    if hint is bool:
        return bool(value)
    if hint is int:
        return operator.index(value)
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _converted_items(value: Any, hint: Any) -> tuple[Any, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError
    # An array's own conversion is several times faster than one of each item.
    items = tuple(value.tolist() if hasattr(value, "tolist") else value)
    hints = get_args(hint)
    if hints[0] in (int, str) and {*map(type, items)} == {hints[0]}:
        return items
    if get_origin(hint) is tuple and hints[-1:] != (...,):
        return tuple(_converted(*pair) for pair in zip(items, hints, strict=True))
    return tuple(_converted(item, hints[0]) for item in items)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


_NAMES = {
    bool: "True or False", int: "an integer", float: "a finite number", str: "a string",
    type(None): "None", Mapping: "a mapping", os.PathLike: "a path", Callable: "a function",
}  # fmt: skip


def _describe(hint: Any) -> str:
    origin, hints = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, typing.Union):
        *first, last = dict.fromkeys(map(_describe, hints))
        return f"{', '.join(first)} or {last}"
    if origin is Literal:
        return f"one of {', '.join(map(str, hints))}"
    if origin is tuple and hints[-1:] != (...,):
        return f"({', '.join(map(_describe, hints))})"
    if origin is tuple or (isinstance(origin, type) and issubclass(Sequence, origin)):
        return f"a list of {_describe(hints[0]).removeprefix('a ').removeprefix('an ')}s"
    found = origin or hint
    if found in _NAMES:
        return _NAMES[found]
    return f"{'an' if found.__name__[0] in 'AEIOU' else 'a'} {found.__name__}"


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
        hint = did_you_mean(value, get_args(choices)) if isinstance(value, str) else ""
        raise OptionError(f"{name}={value!r}: expected one of {listed}{hint}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message on an unknown name, ``; did you mean 'train'?``.

    Args:
        name: the unknown name.
        known: the names that exist.

    Returns:
        The end of the message with the most similar name; an empty string if none is similar.
    """
    folded = {one.casefold(): one for one in reversed([*known])}
    found = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"; did you mean {folded[found[0]]!r}?" if found else ""


def variable(name: str) -> str | None:
    """Return an environment variable; None if it is not set, or is empty."""
    return os.environ.get(name) or None


def temporary_folder() -> str:
    """Return the folder for temporary files: TMPDIR or, if that is not set, the system's.

    Python alone would use a different folder, perhaps a small one, if TMPDIR cannot be written.

    Raises:
        OptionError: TMPDIR, or every usual folder, is missing or cannot be written.
    """
    wanted = variable("TMPDIR")
    if wanted is not None and not (os.path.isdir(wanted) and os.access(wanted, os.W_OK | os.X_OK)):
        raise OptionError(f"$TMPDIR: {wanted}: expected a folder that can be written")
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise OptionError(
            f"{error.strerror}; set TMPDIR to a folder that can be written"
        ) from error


def check_umask() -> None:
    """Check that this process can read the files and open the folders that it makes.

    Call it while there is one thread.

    Raises:
        OptionError: the umask forbids it.
    """
    mask = os.umask(0o077)
    os.umask(mask)
    if mask & 0o700:
        raise OptionError(
            f"the umask is {mask:04o}: this user could not use new files and folders; set 0022"
        )


def usable_cores(process: int = 0) -> int:
    """Return the number of CPU cores that a process may use: its affinity, and this cgroup's quota.

    Half a core counts as 1, one and a half as 2. With Python 3.13 and later, ``-X cpu_count`` and
    $PYTHON_CPU_COUNT replace this process's affinity, but not the quota.

    Args:
        process: its id; 0 for this process.
    """
    cores = None
    if not process and hasattr(os, "process_cpu_count"):
        cores = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        try:
            cores = len(os.sched_getaffinity(process))
        except OSError:  # it has ended
            return usable_cores()
    cores = cores or os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else min(cores, math.ceil(quota))


def number_of_workers(workers: SupportsIndex | None) -> int:
    """Check the option ``workers``, a number of processes or threads.

    Returns:
        ``workers``; if it is None, one per usable core.

    Raises:
        OptionError: ``workers`` is not an integer from 1 to 4,096.
    """
    if workers is None:
        return usable_cores()
    number = integer("workers", workers, 1)
    if number > _MOST_WORKERS:
        raise OptionError(f"workers={number}: expected at most {_MOST_WORKERS:,}")
    return number
