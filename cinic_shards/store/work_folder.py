"""Folders for unfinished files, each used by one process at a time.

The file ``lock`` in such a folder holds a random token, and the name of every file that is made
there begins with this token. A later process recognises by it what a killed one has left. Other
files in the folder are a user's, and are never replaced or deleted.
"""

import json
import time
import uuid
from pathlib import Path
from typing import Any

from cinic_shards.errors import OutputError, few
from cinic_shards.store.base import Store
from cinic_shards.store.local import LocalStore

LOCK = "lock"
"""The file with the token."""
_NOTE = "unfinished files of cinic-shards"
_WAIT_SECONDS = 1.0
"""Seconds to wait for the token of a process that is just creating the lock."""


class WorkFolder:
    """A folder for unfinished files, locked by this process if the store has locks.

    Use it as a context manager, which releases the lock. Call ``remove`` if nothing in it is needed
    later.
    """

    def __init__(self, out: Store, name: str, doing: str) -> None:
        """Make and lock a folder, or lock the one that an earlier process left.

        Args:
            out: the store that the folder is in.
            name: the folder's name.
            doing: the activity, for messages, such as ``packing``.

        Raises:
            OutputError: another process holds the lock; or the folder holds other files, but no
                lock of this package.
            StoreError: the lock cannot be read.
            OSError: the folder cannot be written.
        """
        self._folder = out.folder(name)
        new = uuid.uuid4().hex
        self._lock, token = self._take_lock(new)
        if self._lock is None:
            raise OutputError(f"{out}: another process is {doing} there")
        try:
            others = [one for one in self._folder.names() if one != LOCK]
            if token == new and others:
                self._folder.delete(LOCK)
            if not token or (token == new and others):
                raise OutputError(
                    f"{self._folder}: needed for unfinished files, but holds "
                    f"{few(others or [LOCK])}, which {doing} did not make; move this folder away"
                )
        except BaseException:
            self._lock.close()
            raise
        self.files = out.folder(name, prefix=f"{token}-")
        """The store of the folder's own files, by names without the token."""

    def _take_lock(self, new: str) -> tuple[Any | None, str]:
        """Return the lock and the token in it; None if another process holds the lock."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            is_last = time.monotonic() > deadline
            try:
                self._folder.make()
                lock = self._folder.lock(LOCK, json.dumps({_NOTE: new}).encode())
            except FileNotFoundError:
                if is_last:
                    raise
                continue  # another process has just removed the folder
            if lock is None:
                return None, ""
            try:
                data = self._folder.read(LOCK)
            except BaseException:
                lock.close()
                raise
            if data or is_last:
                return lock, _parse(data)
            lock.close()
            time.sleep(0.02)

    def __enter__(self) -> "WorkFolder":
        return self

    def __exit__(self, *error: object) -> None:
        assert self._lock is not None
        self._lock.close()

    def __str__(self) -> str:
        """The folder's location, for messages."""
        return str(self._folder)

    def path(self, name: str) -> Path:
        """Return the path of one of the folder's own files; only for a folder of this machine."""
        assert isinstance(self.files, LocalStore)
        return self.files.path(name)

    def remove(self) -> list[str]:
        """Delete the folder's own files, and the folder if nothing else is in it.

        Returns:
            The names of files that this package did not make, which are left there.

        Raises:
            OutputError: a file cannot be deleted.
        """
        for name in self.files.names():
            if self.files.is_folder(name):
                self.files.folder(name).remove_if_empty()
            else:
                self.files.delete(name)
        if not self.files.names():  # else a user's file is in one of its own folders
            self._folder.delete(LOCK)
        self._folder.remove_if_empty()
        return [name for name in self._folder.names() if name != LOCK]


def _parse(data: bytes) -> str:
    """Return the token of a lock's content; "" if this package has not written it."""
    try:
        token = json.loads(data)[_NOTE]
        return uuid.UUID(hex=token).hex
    except (ValueError, TypeError, LookupError, AttributeError):
        return ""
