"""The work folder of a build, from which the same build resumes."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cinic_shards.cinic.cifar10 import CLASSES
from cinic_shards.cinic.draw import SPLITS
from cinic_shards.errors import OutputError
from cinic_shards.store import LocalStore, WorkFolder

TAR = "images.tar"
"""Name of the tar, which a packing job notes."""
_NAMES = {
    "options": "options",
    "sources": "sources",
    "libraries": "versions of libraries",
    "is_tree": "output (a tree or shards)",
}
"""Parts of a build's description, and their names in a message."""


class BuildFolder:
    """The work folder of a build: the images so far, and the log that the same build resumes from.

    The log's first line describes the build; then there is a line for each finished job. A second
    file names every image of the tree before it is written: no other file is deleted.

    Use it as a context manager, which releases its lock.
    """

    def __init__(self, work: Path) -> None:
        """Make and lock the folder, or lock the one that an earlier process left.

        Raises:
            OutputError: another process holds the lock, or the folder holds other files.
        """
        self.path = work
        self._work = WorkFolder(LocalStore(work.parent), work.name, "building")
        self.tree = self._work.path("tree")
        """The folder of the tree."""
        self.tar = self._work.path("tar") / TAR
        """The tar."""
        self._log = self._work.path("log")
        self._names = self._work.path("names")
        self._moving = self._work.path("moving")
        self.finished: dict[str, dict[str, Any]] = {}
        """Id of each finished job -> its line in the log."""
        self.has_begun = False
        self.has_earlier = self._log.exists()
        """True if an earlier process has left its log."""
        self.is_built = False
        """True once every image is written."""
        self.is_complete = False
        """True once the output is complete; the folder is not needed any more."""

    def __enter__(self) -> "BuildFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self._work.__exit__(*error)

    def begin(self, build: dict[str, Any]) -> None:
        """Start a build, or resume an earlier one.

        Args:
            build: what the images depend on, as JSON.

        Raises:
            OutputError: the earlier build is a different one, with finished jobs; or the unfinished
                tree holds other files.
        """
        lines = self._read_log()
        if lines[1:] and lines[0] != build:
            differing = [_NAMES[name] for name in build if lines[0].get(name) != build[name]]
            raise OutputError(
                f"{self.path}: holds an unfinished build with different {' and '.join(differing)}; "
                "use the same as before to resume, or remove that folder to start over"
            )
        self.has_begun = True
        if lines and lines[0] == build:
            self.finished = {line["id"]: line for line in lines[1:]}
            self._check_tree({self.tree / f"{key}.png" for key in _complete_lines(self._names)})
            return
        self.clear()
        self._check_tree(set())
        with open(self._log, "xb") as file:
            file.write(_line(build))

    def _check_tree(self, known: set[Path]) -> None:
        """Raise OutputError if the tree holds a user's file, which would be moved with it."""
        others = [path for path in self.tree.rglob("*") if path not in known and not path.is_dir()]
        if others:
            raise OutputError(f"{min(others)}: building did not make this file; move it")

    def _read_log(self) -> list[dict[str, Any]]:
        """Return the complete lines of the log, and cut off the rest, as after a power cut."""
        lines: list[dict[str, Any]] = []
        size = 0
        try:
            with open(self._log, "r+b") as file:
                for text in file:
                    try:
                        lines.append(json.loads(text if text.endswith(b"\n") else b""))
                    except ValueError:
                        file.truncate(size)
                        break
                    size += len(text)
        except FileNotFoundError:
            pass
        return lines

    def note_names(self, keys: Iterable[str]) -> None:
        """Note the images of the tree that will be written."""
        with open(self._names, "ab") as file:
            file.writelines(f"{key}\n".encode() for key in keys)
            file.flush()
            os.fsync(file.fileno())

    def note_finished(self, line: dict[str, Any]) -> None:
        """Note a finished job."""
        self.finished[line["id"]] = line
        with open(self._log, "ab") as file:
            file.write(_line(line))

    def move_splits(self, target: Path) -> None:
        """Move the finished tree's splits to an existing folder; all or none."""
        self._moving.touch()
        try:
            for split in SPLITS:
                os.rename(self.tree / split, target / split)
        except BaseException:
            self.take_back(target)
            raise

    def take_back(self, target: Path) -> None:
        """Move splits back, if an earlier process was killed while it moved them."""
        if self._moving.exists():
            for split in SPLITS:
                if not (self.tree / split).exists():
                    os.rename(target / split, self.tree / split)
            self._moving.unlink()

    def clear(self) -> None:
        """Delete everything that was built."""
        # First: without it, nothing is taken back from the output to a tree that is gone.
        self._moving.unlink(missing_ok=True)
        if self.tree.exists():
            folders = {self.tree}
            for key in _complete_lines(self._names):
                path = self.tree / f"{key}.png"
                path.unlink(missing_ok=True)
                folders |= {path.parent, path.parent.parent}
            folders |= {self.tree / split / name for split in SPLITS for name in CLASSES}
            folders |= {self.tree / split for split in SPLITS}
            for folder in sorted(folders, reverse=True):
                with suppress(OSError):  # a user's file is in it
                    folder.rmdir()
        self.tar.unlink(missing_ok=True)
        for path in (self._names, self._log):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete everything that was built, and the folder."""
        self.clear()
        self._work.remove()


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _complete_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return path.read_text().rpartition("\n")[0].splitlines()
