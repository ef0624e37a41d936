"""A temporary file with all images of a compressed archive."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cinic_shards.errors import OutputError
from cinic_shards.store import lock_file

_PREFIX = "cinic-shards-"
SPOOL_SUFFIX = ".spool"


class Spool:
    """A file to append to, in a folder; it does not exist until ``begin``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder
        """The file's path after ``begin``."""
        self.size = 0
        self._file: BinaryIO | None = None

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
            while self._file is None:
                self.path = self.folder / f"{_PREFIX}{uuid.uuid4().hex}{SPOOL_SUFFIX}"
                self._file = lock_file(self.path)
                if self._file is not None and not os.path.exists(self.path):
                    # A different process deleted it as an old spool before it was locked.
                    self._file.close()
                    self._file = None
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


@contextmanager
def open_spool(folder: Path) -> Iterator[Spool]:
    """Open a spool that is deleted at the end; first delete those that killed processes left."""
    remove_old_spools(folder)
    spool = Spool(folder)
    try:
        yield spool
    finally:
        spool.remove()


def remove_old_spools(folder: Path) -> None:
    """Delete this user's spools whose process has ended."""
    for path in folder.glob(f"{_PREFIX}*{SPOOL_SUFFIX}"):
        with suppress(OSError):
            state = path.lstat()
            is_mine = not hasattr(os, "geteuid") or state.st_uid == os.geteuid()
            if is_mine and path.is_file() and not path.is_symlink():
                file = lock_file(path)
                if file is not None:
                    path.unlink(missing_ok=True)
                    file.close()
