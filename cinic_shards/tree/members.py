"""The members of an archive: what its readers collect, and the rules for all of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cinic_shards.errors import TreeError
from cinic_shards.tree.names import is_image, left_out_part
from cinic_shards.tree.rules import MAX_FILE_BYTES
from cinic_shards.tree.spool import Spool

MAX_GROWTH = 50
"""An archive may unpack to this many times its size plus ``_MAX_SLACK_BYTES``: PNGs hardly
compress."""
_MAX_SLACK_BYTES = 2**28
_MAX_FOLDERS = 100
"""The most folders above a member: deeper trees are a mistake, or an attack on the memory."""
_PROGRESS_IMAGES = 1000

PIECE_BYTES = 2**20
"""Bytes copied or skipped at a time."""


class Member(NamedTuple):
    """A file in an archive."""

    size: int
    """In bytes."""
    modified: int
    """Time of last modification in nanoseconds."""
    offset: int = -1
    """Offset in ``Members.file``; -1 if the bytes are not needed."""


@dataclass(slots=True)
class Members:
    """The members of an archive."""

    root: Path
    """The archive that the user named."""
    path: Path
    """The file to read: ``root``, or a copy of the archive in it."""
    location: str
    """The archive's location, for messages."""
    limit: int
    """The most bytes that it may unpack to."""
    spool: Spool
    """Receives images that are compressed."""
    progress: Callable[[int], None]
    """Called with the number of images since the last call."""
    file: Path = field(init=False)
    """The file that holds the images' bytes: the archive itself, or the spool."""
    files: dict[str, Member] = field(default_factory=dict)
    """Path -> file."""
    folders: set[str] = field(default_factory=set)
    """Paths of the folders that are members; files may be in folders that are not."""
    problems: list[str] = field(default_factory=list)
    """Problems of the archive's members, each with its path."""
    warnings: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    """Members of the archive that holds this one; they are left out."""
    where: str = ""
    """The member that is read, or the last one that was, for messages about damage."""
    num_new: int = 0
    """Images since ``progress`` was last called."""
    _rejected: set[str] = field(default_factory=set)
    """Names outside the root, or in too many folders; each of them is one problem."""

    def __post_init__(self) -> None:
        self.file = self.path

    def add(self, name: str, size: int, modified: int) -> str:
        """Add a file; return its path if it is an image whose bytes are needed, else ""."""
        path = self._path(name)
        if not path:
            return ""
        if path in self.files and is_image(path):
            self.problems.append(twice(path))
        self.files[path] = Member(size, modified)
        return path if is_image(path) and 0 < size <= MAX_FILE_BYTES else ""

    def put(self, path: str, offset: int) -> None:
        """Set the offset of an image's bytes."""
        self.files[path] = self.files[path]._replace(offset=offset)
        self.count(1)

    def add_hard_link(self, name: str, target_name: str, modified: int) -> None:
        """Add a second name of a file; that of an image must follow the image's first name."""
        path, target = self._path(name), normalised(target_name) or ""
        if path and not is_image(path):
            self.files[path] = Member(0, modified)
        elif path and target in self.files and is_image(target):
            size, _, offset = self.files[target]
            if self.add(name, size, modified):
                self.put(path, offset)
        elif path:
            self.problems.append(
                f"{path}: a hard link to {target_name}, which is not an image earlier in the "
                "archive; unpack the archive and pack its folder"
            )

    def add_folder(self, name: str) -> None:
        """Add a folder."""
        if path := self._path(name):
            self.folders.add(path)

    def add_other(self, name: str, type_name: str, *, is_link: bool = False) -> None:
        """Add a member that is neither a file nor a folder.

        It is a problem if it has an image's name, or is a link, which may be a folder's; unless it
        is left out.
        """
        path = self._path(name)
        if path and (is_image(path) or (is_link and not left_out_part(path))):
            self.problems.append(
                f"{path}: {type_name}, expected only files and folders; unpack the archive and "
                "pack its folder"
            )
        elif path:
            self.files[path] = Member(0, 0)

    def add_unnamed(self, name: str) -> None:
        """Add a file whose name is in an unknown encoding."""
        path = self._path(name)
        if path and is_image(path):
            self.problems.append(
                f"{path}: the archive does not say how this name is encoded; create it again with "
                "UTF-8 names, or unpack it and pack its folder"
            )
        elif path:
            self.files[path] = Member(0, 0)

    def _path(self, name: str) -> str:
        """Return a member's path; "" if it is the root, or has a problem."""
        path = normalised(name)
        if path is None:
            problem = f"{name}: an absolute name, or a name with '..'; create the archive again"
        elif path.count("/") > _MAX_FOLDERS:
            start = "/".join(path.split("/")[:5])
            problem = (
                f"{start}/...: in more than {_MAX_FOLDERS} folders; create the archive again "
                "without it"
            )
        else:
            return path
        if name not in self._rejected:
            self._rejected.add(name)
            self.problems.append(problem)
        return ""

    def count(self, num_images: int, at_least: int = _PROGRESS_IMAGES) -> None:
        """Report progress, if there are enough new images."""
        self.num_new += num_images
        if self.num_new >= at_least:
            self.progress(self.num_new)
            self.num_new = 0

    def error(self, problem: str, path: str = "") -> TreeError:
        """Make the error for a damaged or unsupported archive.

        Args:
            problem: what was found, and what to do.
            path: the member; by default the archive.
        """
        location = f"{self.location}: {path}" if path else self.location
        return TreeError(str(self.root), [f"{location}: {problem}"])

    def check_growth(self, size: int) -> None:
        """Raise TreeError if the archive unpacks to too many bytes."""
        if size > self.limit:
            raise self.error(too_large(size))


def size_limit(path: Path) -> int:
    """Return the most bytes that an archive may unpack to."""
    return MAX_GROWTH * os.path.getsize(path) + _MAX_SLACK_BYTES


def too_large(size: int) -> str:
    """Return the problem of an archive that unpacks to too many bytes."""
    return (
        f"it unpacks to {size:,} bytes or more, too many for its size; if that is right, unpack it "
        "and pack its folder"
    )


def twice(path: str) -> str:
    """Return the problem of a path that two files have."""
    return f"{path}: twice in the archive; create the archive again"


def normalised(name: str) -> str | None:
    """Return a member's path without ``.`` and empty parts; None if it is outside the root."""
    if not ("./" in name or "//" in name or name.endswith(("/", ".")) or name[:1] == "/"):
        return name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if name.startswith("/") or ".." in parts else "/".join(parts)
