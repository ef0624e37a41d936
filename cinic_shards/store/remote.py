"""Object stores and web servers, accessed through obstore."""

import errno
import mmap
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import CinicShardsError, MissingError, OptionError, OutputError, StoreError
from cinic_shards.store.address import Address
from cinic_shards.store.base import MAX_READ_BYTES, Bytes, Store, check_size
from cinic_shards.store.connection import Connection, reason, repeated

PART_BYTES = 2**23
"""Bytes per request when an entire file is read."""
MAX_IN_FLIGHT = 4
"""Concurrent requests of one call."""
MAX_FILE_BYTES = 5 * 2**30
"""The most bytes that one request may write or copy on S3."""


class RemoteStore(Store):
    """A prefix of an object store, or a folder of a web server, which can only be read.

    The store remembers each file's version (its ETag or date, and its size) from the server's first
    answer. A different version in a later answer raises ``StoreError``.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.can_list = address.scheme not in ("http", "https")
        self._connection = Connection(address)
        self._versions: dict[str, tuple[object, int]] = {}

    def __str__(self) -> str:
        return str(self.address)

    def __reduce__(self) -> tuple[Any, ...]:
        address = self.address
        if address.scheme == "memory":
            address = replace(address, options={"process": str(os.getpid())})
        return RemoteStore, (address,)

    def _path(self, name: str) -> str:
        return f"{self.address.prefix}/{name}" if self.address.prefix else name

    # Reading

    def names(self) -> list[str]:
        import obstore

        self._need_listing("does not list its files")
        prefix = self.address.prefix
        with self._errors(StoreError):
            found = obstore.list_with_delimiter(self._connection.reading, prefix or None)
        paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        # Drop the folder itself, which may be listed as an object.
        return sorted(filter(None, (path.removeprefix(prefix).strip("/") for path in paths)))

    def _need_listing(self, problem: str) -> None:
        if not self.can_list:
            raise OptionError(f"{self}: a web server {problem}; give a folder or an object store")

    def read(self, name: str) -> bytes:
        import obstore

        with self._errors(StoreError, name):
            found = obstore.get(self._connection.reading, self._path(name))
            self._check_version(name, found.meta)
            if found.meta["size"] > MAX_READ_BYTES:
                raise StoreError(f"{self}/{name}", f"more than {MAX_READ_BYTES:,} bytes")
            return bytes(found.bytes())

    def size(self, name: str) -> int:
        import obstore

        with self._errors(StoreError, name):
            found = obstore.head(self._connection.reading, self._path(name))
        self._check_version(name, found)
        return int(found["size"])

    def read_range(self, name: str, start: int, stop: int) -> Bytes:
        import obstore

        if start == stop:
            return b""
        with self._errors(StoreError, name, f"bytes {start:,} to {stop:,}: "):
            found = obstore.get(
                self._connection.reading, self._path(name), options={"range": (start, stop)}
            )
            self._check_version(name, found.meta)
            if found.range != (start, stop):
                raise StoreError(
                    f"{self}/{name}",
                    f"{found.meta['size']:,} bytes, expected at least {stop:,}; the "
                    "file is truncated or a different one, write it again",
                )
            return memoryview(found.bytes())

    def _check_version(self, name: str, meta: Any) -> None:
        version = meta["e_tag"] or meta["last_modified"], int(meta["size"])
        known = self._versions.setdefault(name, version)
        if version != known:
            raise StoreError(
                f"{self}/{name}",
                f"was replaced while it was read: its version is {version[0]} of "
                f"{version[1]:,} bytes, it was {known[0]} of {known[1]:,}; run again when nothing "
                "writes to it",
            )

    def _fetch(self, name: str, ranges: Sequence[tuple[int, int]]) -> Iterator[Bytes]:
        """Yield the ranges' bytes in order, reading up to ``MAX_IN_FLIGHT`` ranges ahead."""
        waiting: deque[Future[Bytes]] = deque()
        with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
            for start, stop in ranges:
                waiting.append(pool.submit(self.read_range, name, start, stop))
                if len(waiting) == MAX_IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def map(self, name: str, expected_size: int, *, read_ahead: bool = False) -> NDArray[np.uint8]:
        location = f"{self}/{name}"
        size = self.size(name)
        check_size(location, size, expected_size, "write it again")
        if size == 0:  # mmap rejects empty files
            return np.empty(0, np.uint8)
        folder = tempfile.gettempdir()
        if (free := shutil.disk_usage(folder).free) < size:
            raise StoreError(
                location,
                f"fetching its {size / 1e6:,.1f} MB to {folder}, which has {free / 1e6:,.1f} "
                "MB free; free some space or set TMPDIR to a different folder",
            )
        ranges = [(start, min(start + PART_BYTES, size)) for start in range(0, size, PART_BYTES)]
        try:
            with tempfile.TemporaryFile() as file:
                for data in self._fetch(name, ranges):
                    file.write(data)
                file.flush()
                # The space is freed with the array: the file has no name.
                memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise StoreError(location, f"fetching it to {folder}: {error.strerror}") from error
        return np.frombuffer(memory, np.uint8)

    # Writing

    @contextmanager
    def create(self, name: str, *, is_shared: bool = False) -> Iterator[BinaryIO]:
        # Write a temporary file, then upload it by one request: an incomplete file never reaches
        # the server. Parts of a killed multipart upload would stay there, unlisted but billed.
        self._need_listing("can only be read from")
        try:
            with tempfile.TemporaryFile() as file:
                yield file
                file.flush()
                self._put(name, file)
        except OSError as error:
            hint = "; set TMPDIR to a larger folder" if error.errno == errno.ENOSPC else ""
            step = f"writing it to {tempfile.gettempdir()} first"
            raise OutputError(f"{self}/{name}: {step}: {error.strerror}{hint}") from error

    def _put(self, name: str, file: BinaryIO) -> None:
        import obstore

        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise OutputError(
                f"{self}/{name}: {size:,} bytes, an object store takes at most {MAX_FILE_BYTES:,}; "
                "choose a smaller --shard-size"
            )
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self._versions.pop(name, None)
        with self._errors(OutputError, name):
            obstore.put(self._connection.writing, self._path(name), data, use_multipart=False)

    def delete(self, name: str) -> None:
        import obstore

        self._need_listing("can only be read from")
        self._versions.pop(name, None)
        with suppress(MissingError), self._errors(OutputError, name):
            repeated(lambda: obstore.delete(self._connection.reading, self._path(name)))

    def folder(self, name: str) -> "RemoteStore":
        below = RemoteStore(replace(self.address, prefix=self._path(name)))
        below._connection = self._connection
        return below

    def take(self, folder: str, name: str) -> None:
        import obstore

        self._need_listing("can only be read from")
        self._versions.pop(name, None)
        with suppress(MissingError), self._errors(OutputError, name):
            old, new = self._path(f"{folder}/{name}"), self._path(name)
            repeated(lambda: obstore.rename(self._connection.writing, old, new))

    def remove(self) -> None:
        for name in self.names():
            self.delete(name)

    @contextmanager
    def _errors(
        self, error_type: type[StoreError] | type[OutputError], name: str = "", detail: str = ""
    ) -> Iterator[None]:
        """Raise obstore's errors as this package's.

        Args:
            error_type: the error to raise; ``MissingError`` for a missing file.
            name: the file's name, for the message.
            detail: text before the reason.
        """
        from obstore.exceptions import (
            BaseError,
            PermissionDeniedError,
            UnauthenticatedError,
        )

        location = f"{self}/{name}" if name else str(self)
        try:
            yield
        except CinicShardsError:
            raise
        except FileNotFoundError as error:
            raise MissingError(location, "not found") from error
        except (BaseError, ValueError) as error:
            text = f"{detail}{reason(error)}"
            if isinstance(error, PermissionDeniedError | UnauthenticatedError):
                text += (
                    "; the credentials are missing, wrong, or do not allow this "
                    "(docs/object-storage.md)"
                )
            if error_type is OutputError:
                raise OutputError(f"{location}: {text}") from error
            raise StoreError(location, text) from error
