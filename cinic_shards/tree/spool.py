"""A temporary file with all images of a compressed archive.

A second file, its note, is locked by the process that uses it. A later process deletes the files of
notes that nobody locks; it deletes no other file.
"""

import errno
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cinic_shards.errors import OutputError
from cinic_shards.store import lock_file

_PREFIX = "cinic-shards-"
SPOOL_SUFFIX = ".spool"
_NOTE = ".json"
"""Suffix of the note, after the name of the spool."""


class Spool:
    """A file to append to, in a folder; it does not exist until ``begin``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder
        """The file's path after ``begin``."""
        self.size = 0
        self._file: BinaryIO | None = None
        self._note: BinaryIO | None = None

    def begin(self, needed_bytes: int) -> None:
        """Create the file.

        Args:
            needed_bytes: about the size it will have.

        Raises:
            OutputError: there is not enough space, or the file cannot be created.
        """
        try:
            free = shutil.disk_usage(self.folder).free
            if free < needed_bytes:
                raise OutputError(
                    f"{self.folder}: {free / 1e6:,.1f} MB free, the archive's images need about "
                    f"{needed_bytes / 1e6:,.1f} MB there while they are read; free some space, or "
                    "unpack the archive elsewhere and pack its folder"
                )
            self.path = self.folder / f"{_PREFIX}{uuid.uuid4().hex}{SPOOL_SUFFIX}"
            self._note = lock_file(_note_of(self.path), _note(self.path))
            self._file = open(self.path, "xb")  # noqa: SIM115
        except OSError as error:
            raise self._unwritten(error) from error

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            OutputError: the file cannot be written.
        """
        assert self._file is not None
        try:
            self._file.write(data)
        except OSError as error:
            raise self._unwritten(error) from error
        self.size += len(data)

    def flush(self) -> None:
        """Write buffered bytes, so that other processes can read them.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as error:
                raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> OutputError:
        hint = "; free some space, or unpack the archive elsewhere and pack its folder"
        return OutputError(
            f"{self.path}: holds the archive's images while they are read: {error.strerror}"
            f"{hint if error.errno == errno.ENOSPC else ''}"
        )

    def remove(self) -> None:
        """Delete the file, if there is one."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()  # fails on a full disk, which does not matter now
            with suppress(OSError):
                self.path.unlink()
        if self._note is not None:
            with suppress(OSError):
                _note_of(self.path).unlink()
            self._note.close()


@contextmanager
def open_spool(folder: Path) -> Iterator[Spool]:
    """Open a spool that is deleted at the end; first delete those that killed processes left."""
    remove_old_spools(folder)
    spool = Spool(folder)
    try:
        yield spool
    finally:
        spool.remove()


def _note_of(path: Path) -> Path:
    return path.with_name(path.name + _NOTE)


def _note(path: Path) -> bytes:
    """Return the content of a spool's note."""
    return json.dumps({"spool of cinic-shards": path.name}).encode()


def remove_old_spools(folder: Path) -> None:
    """Delete this user's spools whose process has ended."""
    for note in folder.glob(f"{_PREFIX}*{SPOOL_SUFFIX}{_NOTE}"):
        path = note.with_suffix("")
        with suppress(OSError):
            state = note.lstat()
            is_mine = not hasattr(os, "geteuid") or state.st_uid == os.geteuid()
            if is_mine and stat.S_ISREG(state.st_mode) and note.read_bytes() == _note(path):
                file = lock_file(note)
                if file is not None:
                    path.unlink(missing_ok=True)
                    note.unlink(missing_ok=True)
                    file.close()
