"""Every exception that the package raises on purpose.

    CinicShardsError
    ├── OptionError (also ValueError)   an invalid argument
    ├── TreeError                       invalid images or names; lists every problem
    ├── SourcesError                    CINIC-10 cannot be built from these; lists every problem
    ├── OutputError                     the output cannot be written: other files, no space
    │   └── LimitError                  the dataset would be beyond a limit of the format
    ├── LocatedError
    │   ├── StoreError                  failed reads: short read, server down
    │   │   └── MissingError            no such file
    │   └── FormatError                 an invalid manifest, index, shard or archive
    └── DecodeError                     a payload that is no image, or has a different shape

A message gives the location, what was found, what was expected, and what to do next. It holds no
secrets: ``without_secrets`` and ``text_without_secrets`` remove them, also from output and files.

Example:
    >>> from cinic_shards.errors import StoreError
    >>> try:
    ...     Dataset("no-such-folder")
    ... except StoreError as error:
    ...     print(error.reason)
    no dataset; give a folder that cinic-shard pack has written
"""

import os
import re
from collections.abc import Iterable, Sequence

MAX_LISTED = 20
"""The most items of a list that a message names."""

HIDDEN = "***"
"""Stands for text that may hold a secret."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{1,20}:/+)(.*)", re.DOTALL)
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,20}:/+\S+?(?=[)\]}>,.;:'\"]*(?:\s|$))")
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:@%\[\]]*)(?::\d+)?")
_MIN_SECRET = 4
"""Shorter texts are no secrets; they occur in messages by chance."""


def without_secrets(location: object) -> str:
    """Return a location for a message, for output or for a file.

    A URL loses its user name and password, its query and its fragment, all of which may hold
    secrets. Other text is returned unchanged.

    Args:
        location: a path, a URL as the user gave it, or an open store.
    """
    if isinstance(location, bytes | os.PathLike):
        location = os.fsdecode(location)
    text = str(location)
    if (url := _URL.fullmatch(text)) is None:
        return text
    scheme, rest = url.groups()
    authority, slash, path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")
    authority = authority.rpartition("@")[2]
    if _AUTHORITY.fullmatch(authority):
        return f"{scheme}{authority}{slash}{path}"
    # A password with '/', '?' or '#' ends in what looks like the path.
    return f"{scheme}{HIDDEN}"


def text_without_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a message without secrets: each URL in it is as ``without_secrets`` returns it.

    Args:
        text: a message, for instance of a library.
        secrets: texts to hide.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _MIN_SECRET:
            text = text.replace(secret, HIDDEN)
    return _URL_IN_TEXT.sub(lambda url: without_secrets(url[0]), text)


def escaped(text: str) -> str:
    """Return text with control characters as escape sequences: names and answers are untrusted."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text
    )


def reason_of(error: OSError) -> str:
    """Return why a call of the operating system failed; an error without a number has only text."""
    return error.strerror or str(error) or type(error).__name__


class CinicShardsError(Exception):
    """The base of every exception raised on purpose; its message holds no secrets."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(
            *(text_without_secrets(one) if isinstance(one, str) else one for one in arguments)
        )


class OptionError(CinicShardsError, ValueError):
    """An option has an invalid value."""


class TreeError(CinicShardsError):
    """A folder or archive of images cannot be packed as it is.

    Attributes:
        root: the folder or archive.
        problems: every problem found, each with its path.
    """

    def __init__(self, root: str, problems: Sequence[str]) -> None:
        self.root = without_secrets(root)
        self.problems = tuple(map(text_without_secrets, problems))
        count = f"{len(self.problems):,} problem{'s' if len(self.problems) != 1 else ''}"
        lines = problem_lines(self.problems)
        super().__init__(f"{self.root}: {count}; nothing was packed{lines}")

    def __reduce__(self) -> tuple[type["TreeError"], tuple[str, tuple[str, ...]]]:
        return TreeError, (self.root, self.problems)


class SourcesError(CinicShardsError):
    """CINIC-10 cannot be built from these sources.

    Attributes:
        location: the raw source.
        problems: every problem found.
        hint: what to do.
    """

    def __init__(self, location: str, problems: Sequence[str], hint: str) -> None:
        self.location = without_secrets(location)
        self.problems = tuple(map(text_without_secrets, problems))
        self.hint = hint
        if len(self.problems) == 1:
            super().__init__(f"{self.location}: {self.problems[0]}; nothing was built; {hint}")
            return
        count = f"{len(self.problems):,} problems; nothing was built"
        super().__init__(f"{self.location}: {count}{problem_lines(self.problems)}\n{hint}")

    def __reduce__(self) -> tuple[type["SourcesError"], tuple[str, tuple[str, ...], str]]:
        return SourcesError, (self.location, self.problems, self.hint)


class OutputError(CinicShardsError):
    """The output cannot be written."""


class LimitError(OutputError):
    """A dataset that would be beyond a limit of the format; other options may avoid it."""


class LocatedError(CinicShardsError):
    """A file cannot be read, or is invalid.

    Attributes:
        location: the file, or a part of it.
        reason: what was found, what was expected, what to do next; without the location.
    """

    def __init__(self, location: str, reason: str) -> None:
        self.location = without_secrets(location)
        self.reason = text_without_secrets(reason)
        super().__init__(f"{self.location}: {self.reason}")

    def __reduce__(self) -> tuple[type["LocatedError"], tuple[str, str]]:
        return type(self), (self.location, self.reason)


class StoreError(LocatedError):
    """Bytes cannot be read from a store."""


class MissingError(StoreError):
    """There is no file of this name."""


class FormatError(LocatedError):
    """A manifest, index, shard or archive does not have the expected format or content."""


class DecodeError(CinicShardsError):
    """A payload cannot be decoded.

    Attributes:
        position: the payload's position in the batch that was decoded.
        reason: why, without the location.
        location: the payload's shard and sample; by default ``image`` and the position.
    """

    def __init__(self, position: int, reason: str, location: str = "") -> None:
        self.position = position
        self.reason = reason
        self.location = location or f"image {position}"
        super().__init__(f"{self.location}: {reason}")

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[int, str, str]]:
        return DecodeError, (self.position, self.reason, self.location)


def some(items: Sequence[str], most: int = MAX_LISTED) -> str:
    """Join the first ``most`` items with commas, and count the others; for a message."""
    shown = ", ".join(items[:most])
    more = len(items) - most
    return f"{shown} and {more:,} more" if more > 0 else shown


def problem_lines(problems: Iterable[object]) -> str:
    """List problems for the end of a message, a line for each group; see ``grouped``."""
    return "".join(f"\n  {line}" for line in grouped(problems))


def grouped(problems: Iterable[object]) -> list[str]:
    """List problems, each ``location: what and why``, with one line for the same one in many files.

    Returns:
        A line for each problem. Of four or more that differ only in their location and in figures,
        only the first has a line, with the number and the first locations of the others. After 100
        lines, one with the number of all other problems.
    """
    texts = [str(problem) for problem in problems]
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(_kind(text), []).append(text)
    lines: list[tuple[str, int]] = []
    for text in texts:
        group = groups[_kind(text)]
        if 0 < len(group) <= _MAX_ALIKE:
            lines.append((text, 1))
        elif group:
            others = [other.partition(": ")[0] for other in group[1 : 1 + _MAX_ALIKE]]
            separator = "; " if any(", " in location for location in others) else ", "
            named = separator.join([*others, "..."] if len(group) > 1 + _MAX_ALIKE else others)
            line = f"{text} ({len(group) - 1:,} more like it: {named})"
            lines.append((line, len(group)))
            group.clear()
    shown = [line for line, _ in lines[:_MAX_LINES]]
    more = sum(count for _, count in lines[_MAX_LINES:])
    return [*shown, f"and {more:,} more problems"] if more else shown


def _kind(problem: str) -> str:
    """Return the part of a problem that is the same for all problems alike."""
    reason = problem.partition(": ")[2]
    return _VARIABLE.sub("#", reason) if reason else problem


_MAX_ALIKE = 3
"""The most problems alike that have a line each, and the most others that a line names."""
_MAX_LINES = 100
_VARIABLE = re.compile(r"""'[^']*'|"[^"]*"|[^\s,;:()]*[\d/][^\s,;:()]*""")
"""Parts of a text that differ from file to file: figures, hashes, paths, and quoted text."""


def few(items: Sequence[object]) -> str:
    """Join the first five items; for a message that already gives their number."""
    return ", ".join(map(str, items[:5])) + (", ..." if len(items) > 5 else "")


INPUT_ERRORS = (TreeError, SourcesError, FormatError, OptionError, LimitError)
"""Errors of what a command was given: repeating it would end in the same way."""


def with_notes(new: OutputError, old: BaseException) -> OutputError:
    """Return ``new`` with the notes of the error that it stands for."""
    for note in getattr(old, "__notes__", ()):
        new.add_note(note)
    return new
