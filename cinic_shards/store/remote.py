"""Object stores and web servers, accessed through obstore."""

import errno
import mmap
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import MissingError, OptionError, OutputError, StoreError, reason_of
from cinic_shards.jobs.stop import check_stop
from cinic_shards.options import temporary_folder
from cinic_shards.store.address import Address
from cinic_shards.store.base import MAX_READ_BYTES, Bytes, Store, check_size
from cinic_shards.store.connection import Connection
from cinic_shards.store.elsewhere import Started, start
from cinic_shards.store.failures import RequestError
from cinic_shards.store.requests import Requests
from cinic_shards.store.system import map_file

PART_BYTES = 2**23
"""Bytes per request when an entire file is read."""
_CHUNK_BYTES = 2**18
"""Bytes at a time after a failure: what has been received is kept if the next try fails too."""
MAX_IN_FLIGHT = 4
"""Concurrent requests of one call."""
MAX_FILE_BYTES = 5 * 2**30
"""The most bytes that one request may write or copy on S3."""


class RemoteStore(Store):
    """A prefix of an object store, or a folder of a web server, which can only be read.

    The store remembers each file's version (its ETag or date, and its size) from the server's first
    answer. A different version in a later answer raises ``StoreError``.
    """

    def __init__(self, address: Address, prefix: str = "") -> None:
        self.address = address
        self._prefix = prefix
        self.can_list = address.scheme not in ("http", "https")
        self._requests = Requests(Connection(address))
        self._versions: dict[str, tuple[object, object, int]] = {}

    def __str__(self) -> str:
        return str(self.address)

    @property
    def identity(self) -> tuple[str, ...]:
        return self.address.identity

    def __reduce__(self) -> tuple[Any, ...]:
        address = self.address
        if address.scheme == "memory":
            address = replace(address, options={"process": str(os.getpid())})
        return RemoteStore, (address, self._prefix)

    def _path(self, name: str) -> str:
        name = f"{self._prefix}{name}"
        return f"{self.address.prefix}/{name}" if self.address.prefix else name

    # Reading

    def names(self) -> list[str]:
        import obstore

        self._need_listing("does not list its files")
        prefix = self.address.prefix
        with self._errors(StoreError):
            found = self._requests.make(
                lambda client, _: obstore.list_with_delimiter(client, prefix or None), prefix
            )
        paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        names = sorted(path.removeprefix(prefix).strip("/") for path in paths)
        start = len(self._prefix)
        # An empty name is the folder itself, which may be listed as an object.
        return [name[start:] for name in names if name and name.startswith(self._prefix)]

    def _need_listing(self, problem: str) -> None:
        if not self.can_list:
            raise OptionError(f"{self}: a web server {problem}; give a folder or an object store")

    def read(self, name: str) -> bytes:
        import obstore

        def request(client: Any, path: str) -> bytes:
            found = obstore.get(client, path)
            self._check_version(name, found.meta)
            if found.meta["size"] > MAX_READ_BYTES:
                raise StoreError(f"{self}/{name}", f"more than {MAX_READ_BYTES:,} bytes")
            return bytes(found.bytes())

        with self._errors(StoreError, name):
            return self._requests.make(request, self._path(name))

    def size(self, name: str) -> int:
        import obstore

        path = self._path(name)
        is_rejected = not self._requests.takes_head
        found: Any = None
        with self._errors(StoreError, name):
            if not is_rejected:
                try:
                    found = self._requests.make(obstore.head, path)
                except RequestError as error:
                    if not 400 <= error.failure.status <= 501:
                        raise
                    # Some servers and signatures do not allow HEAD. An answer to it has no body,
                    # which would give the cause.
                    is_rejected = error.failure.status in (403, 404, 405, 501)
            if found is None:
                found = self._requests.make(lambda client, at: obstore.get(client, at).meta, path)
                self._requests.takes_head = not is_rejected
        self._check_version(name, found)
        return int(found["size"])

    def read_range(self, name: str, start: int, stop: int) -> Bytes:
        import obstore

        if start == stop:
            return b""
        parts: list[Bytes] | None = None

        def request(client: Any, path: str) -> Bytes:
            nonlocal parts
            at = start + sum(map(len, parts or ()))
            found = obstore.get(client, path, options={"range": (at, stop)})
            self._check_version(name, found.meta)
            if found.range != (at, stop):
                raise StoreError(
                    f"{self}/{name}",
                    f"{found.meta['size']:,} bytes, expected at least {stop:,}; the "
                    "file is truncated or a different one, write it again",
                )
            if parts is None:
                parts = []
                return memoryview(found.bytes())
            parts.extend(map(memoryview, found.stream(min_chunk_size=_CHUNK_BYTES)))
            return b"".join(parts)

        with self._errors(StoreError, name, f"bytes {start:,} to {stop:,}: "):
            return self._requests.make(request, self._path(name))

    def _check_version(self, name: str, meta: Any) -> None:
        version = meta["e_tag"], meta["last_modified"], int(meta["size"])
        known = self._versions.setdefault(name, version)
        if version[0::2] == known[0::2] and (version[0] or version == known):
            return
        text = (
            f"was replaced while it was read: its version is {version[0] or version[1]} of "
            f"{version[2]:,} bytes, it was {known[0] or known[1]} of {known[2]:,}; run again when "
            "nothing writes to it"
        )
        if version[1:] == known[1:]:
            text += (
                "; if nothing does, several servers answer at this address with different ETags "
                "of the same file (its size and date are equal): let them agree, or use one of them"
            )
        raise StoreError(f"{self}/{name}", text)

    def _fetch(self, name: str, ranges: Sequence[tuple[int, int]]) -> Iterator[Bytes]:
        """Yield the ranges' bytes in order, reading up to ``MAX_IN_FLIGHT`` ranges ahead."""
        self._requests.check_process()
        waiting: deque[Started[Bytes]] = deque()
        try:
            for first, stop in ranges:
                waiting.append(start(partial(self.read_range, name, first, stop)))
                if len(waiting) == MAX_IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for started in waiting:
                started.abandoned.set()

    def map(self, name: str, expected_size: int, *, read_ahead: bool = False) -> NDArray[np.uint8]:
        location = f"{self}/{name}"
        size = self.size(name)
        check_size(location, size, expected_size, "write it again")
        folder = temporary_folder()
        if (free := shutil.disk_usage(folder).free) < size:
            raise StoreError(
                location,
                f"fetching its {size / 1e6:,.1f} MB to {folder}, which has {free / 1e6:,.1f} "
                "MB free; free some space or set TMPDIR to a different folder",
            )
        ranges = [(start, min(start + PART_BYTES, size)) for start in range(0, size, PART_BYTES)]
        try:
            with tempfile.TemporaryFile(dir=temporary_folder()) as file:
                for data in self._fetch(name, ranges):
                    check_stop()
                    file.write(data)
                file.flush()
                # The space is freed with the array: the file has no name.
                return map_file(file.fileno(), size)
        except OSError as error:
            raise StoreError(location, f"fetching it to {folder}: {reason_of(error)}") from error

    # Writing

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        # Write a temporary file, then upload it by one request: an incomplete file never reaches
        # the server. Parts of a killed multipart upload would stay there, unlisted but billed.
        self._need_listing("can only be read from")
        try:
            with tempfile.TemporaryFile(dir=temporary_folder()) as file:
                yield file
                file.flush()
                self._put(name, file)
        except OSError as error:
            hint = "; set TMPDIR to a larger folder" if error.errno == errno.ENOSPC else ""
            step = f"writing it to {temporary_folder()} first"
            raise OutputError(f"{self}/{name}: {step}: {reason_of(error)}{hint}") from error

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
            self._requests.make(
                lambda client, path: obstore.put(client, path, data, use_multipart=False),
                self._path(name),
                timeout="write_timeout",
            )

    def delete(self, name: str) -> None:
        import obstore

        self._need_listing("can only be read from")
        self._versions.pop(name, None)
        with suppress(MissingError), self._errors(OutputError, name):
            self._requests.make(obstore.delete, self._path(name))

    def folder(self, name: str, *, prefix: str = "") -> "RemoteStore":
        below = RemoteStore(replace(self.address, prefix=self._path(name)), prefix)
        below._requests = self._requests
        return below

    def take(self, folder: Store, name: str) -> None:
        import obstore

        assert isinstance(folder, RemoteStore)

        self._need_listing("can only be read from")
        self._versions.pop(name, None)
        with suppress(MissingError), self._errors(OutputError, name):
            self._requests.make(
                lambda client, old: obstore.rename(client, old, self._path(name)),
                folder._path(name),
                timeout="write_timeout",
            )

    @contextmanager
    def _errors(
        self, error_type: type[StoreError] | type[OutputError], name: str = "", detail: str = ""
    ) -> Iterator[None]:
        """Raise the error of a failed request as one of this package.

        Args:
            error_type: the error to raise; ``MissingError`` for a missing file.
            name: the file's name, for the message.
            detail: text before the reason.
        """
        location = f"{self}/{name}" if name else str(self)
        try:
            yield
        except RequestError as error:
            if error.failure.kind == "missing":
                raise MissingError(location, "not found") from error
            if error_type is OutputError:
                raise OutputError(f"{location}: {detail}{error}") from error
            raise StoreError(location, f"{detail}{error}") from error
