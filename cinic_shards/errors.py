"""Every exception that the package raises on purpose.

    CinicShardsError
    ├── OptionError (also ValueError)   an argument that cannot be; the caller's to change
    ├── TreeError                       a folder of PNGs that cannot be packed; lists every problem
    ├── SourcesError                    what CINIC-10 is built from falls short; lists every problem
    ├── OutputError                     a place that cannot be written: other files, no space
    ├── LocatedError
    │   ├── StoreError                  bytes that cannot be read: short read, server down
    │   │   └── MissingError            no such file
    │   └── FormatError                 a manifest, index, shard or archive that is not what it says
    └── DecodeError                     a payload that is not an image, or not one of this shape

A message gives the location, what was found, what was expected, and what to do next.
"""

from collections.abc import Sequence

MAX_LISTED = 20
"""Of many alike, so many are named in a message."""


class CinicShardsError(Exception):
    """The base of every exception raised on purpose."""


class OptionError(CinicShardsError, ValueError):
    """An option's value cannot be used."""


class TreeError(CinicShardsError):
    """A folder of PNGs cannot be packed as it is.

    Attributes:
        problems: every problem found, each with its path.
    """

    def __init__(self, root: str, problems: Sequence[str]) -> None:
        self.root = root
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"{root}: {count}; nothing was packed{lines}")

    def __reduce__(self) -> tuple[type["TreeError"], tuple[str, tuple[str, ...]]]:
        return TreeError, (self.root, self.problems)


class SourcesError(CinicShardsError):
    """CINIC-10 cannot be built from these sources.

    Attributes:
        location: the source.
        problems: every problem found.
        hint: what to do.
    """

    def __init__(self, location: str, problems: Sequence[str], hint: str) -> None:
        self.location = location
        self.problems = tuple(problems)
        self.hint = hint
        if len(self.problems) == 1:
            super().__init__(f"{location}: {self.problems[0]}; nothing was built; {hint}")
            return
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        count = f"{len(self.problems)} problems; nothing was built"
        super().__init__(f"{location}: {count}{lines}\n{hint}")

    def __reduce__(self) -> tuple[type["SourcesError"], tuple[str, tuple[str, ...], str]]:
        return SourcesError, (self.location, self.problems, self.hint)


class OutputError(CinicShardsError):
    """The output cannot be written."""


class LocatedError(CinicShardsError):
    """Something cannot be read, or is not what it should be.

    Attributes:
        location: the file, or where else it is.
        reason: what was found, what was expected, what to do next; without the location.
    """

    def __init__(self, location: str, reason: str) -> None:
        self.location = location
        self.reason = reason
        super().__init__(f"{location}: {reason}")

    def __reduce__(self) -> tuple[type["LocatedError"], tuple[str, str]]:
        return type(self), (self.location, self.reason)


class StoreError(LocatedError):
    """Bytes cannot be read from where they should be."""


class MissingError(StoreError):
    """There is no file of that name."""


class FormatError(LocatedError):
    """A manifest, an index or a shard is not what the format says; or an archive is another one."""


class DecodeError(CinicShardsError):
    """A payload cannot be decoded.

    Attributes:
        position: the payload's position among those that were decoded together.
        reason: why, without the location.
        location: where the payload comes from.
    """

    def __init__(self, position: int, reason: str, location: str = "") -> None:
        self.position = position
        self.reason = reason
        self.location = location or f"image {position}"
        super().__init__(f"{self.location}: {reason}")

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[int, str, str]]:
        return DecodeError, (self.position, self.reason, self.location)


def some(items: Sequence[str], most: int = MAX_LISTED) -> str:
    """For a message: the first of many, and how many more there are."""
    shown = ", ".join(items[:most])
    more = len(items) - most
    return f"{shown} and {more:,} more" if more > 0 else shown


def some_lines(items: Sequence[object], most: int = MAX_LISTED) -> str:
    """For the end of a message: the first of many, each on a line, and how many more there are."""
    lines = "".join(f"\n  {item}" for item in items[:most])
    more = len(items) - most
    return f"{lines}\n  and {more:,} more" if more > 0 else lines


def few(items: Sequence[object]) -> str:
    """For a message that has told how many: the first five."""
    return ", ".join(map(str, items[:5])) + (", ..." if len(items) > 5 else "")
