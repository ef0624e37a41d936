"""Download CINIC-10.tar.gz from its publisher; an interrupted download resumes."""

import errno
import glob
import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from cinic_shards.errors import MissingError, OptionError, OutputError, StoreError, reason_of
from cinic_shards.jobs import Progress
from cinic_shards.options import checked
from cinic_shards.store import Answer, LocalStore, WebFile, lock_file, store_of_file, sync_folder
from cinic_shards.store.urls import decode_path, local_path, parse_web_url

URL = "https://datashare.is.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz"
"""The archive at its publisher, the University of Edinburgh: https://doi.org/10.7488/ds/2448."""
URLS = (URL, URL.replace("datashare.is.ed.ac.uk", "datashare.ed.ac.uk"))
"""The publisher's two hosts."""
MD5 = "6ee4d0c996905fe93221de577967a372"
"""MD5 of CINIC-10.tar.gz, from other projects' loaders; the publisher states none."""

PART = ".part"
"""Suffix of an unfinished file."""
_NOTE = ".part.json"
_REJECTED = ".unexpected"
RETRY_SECONDS = 120.0
"""After this time without progress, ``fetch`` raises."""
WAIT_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits after connections that were cut without progress; the last one repeats."""
_MIN_PROGRESS_BYTES = 2**16
"""New bytes that a connection must send to count as progress."""

Warn = Callable[[str], None]

_DIGESTS = {32: "md5", 64: "sha256"}
"""Hexadecimal digits of a digest -> its algorithm."""


class _HashError(StoreError):
    """A complete file has another hash than expected."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of ``fetch``."""

    path: Path
    """The complete file."""
    size: int
    """Its bytes."""
    num_received: int
    """Bytes received by this call; 0 if the file existed already."""
    digest: str
    """Digest that it was checked by: ``md5:`` or ``sha256:`` and hexadecimal digits."""


@checked
def fetch(
    out: str | os.PathLike[str] = ".",
    *,
    url: str | None = None,
    accept_hash: str | None = None,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Fetched:
    """Download an archive, or resume its download, and check its hash.

    The file is ``<out>.part`` until it is complete and its hash is verified.

    Args:
        out: the file to write, or an existing folder for it.
        url: URL of the archive; by default its publisher's. If that host sends nothing, the
            publisher's other one is tried, with a warning.
        accept_hash: expected MD5 or SHA-256 in hexadecimal, with or without the prefix ``md5:`` or
            ``sha256:``; by default ``MD5``.
        progress: called with ``fetch`` or ``check``, the number of bytes done, and of all bytes.
        warn: called with each warning, such as a retry.

    Raises:
        OptionError: ``accept_hash`` is not a digest, or ``url`` names no file.
        OutputError: it cannot be written, another process is fetching it, or a different file
            exists under its name.
        StoreError: it cannot be downloaded (the same call resumes), or its hash is different.
    """
    algorithm, expected = _expected(accept_hash)
    urls = URLS if url is None else (url,)
    webs = [WebFile(one, retry_timeout=RETRY_SECONDS, say=warn) for one in urls]
    path = local_path(out)
    if path.is_dir():
        name = decode_path(str(webs[0]), parse_web_url(urls[0])[2]).rpartition("/")[2]
        if name in ("", ".", ".."):
            raise OptionError(f"{webs[0]}: the URL names no file; give the file to write")
        path = path / name
    store_of_file(path)  # an OutputError if there is no folder for it
    for web, following in pairwise(webs):
        try:
            return _fetch(path, web, algorithm, expected, progress, warn)
        except StoreError as error:
            if isinstance(error, _HashError) or os.path.lexists(_part(path, PART)):
                raise  # the same host resumes a part
            warn(f"{error}; trying {following}")
    return _fetch(path, webs[-1], algorithm, expected, progress, warn)


def _fetch(
    path: Path, web: WebFile, algorithm: str, expected: str, progress: Progress, warn: Warn
) -> Fetched:
    """Download a file from one URL; see ``fetch``."""
    try:
        if path.exists():
            return _found(path, algorithm, expected, progress)
        with _hold_part(path, web) as file:
            if path.exists():  # another process has just finished it
                return _found(path, algorithm, expected, progress)
            download = _Download(web, path, file, progress, warn)
            if not download.take_rejected(algorithm, expected):
                download.run()
                _check(path, file.name, algorithm, expected, str(web), progress)
            with open(file.name, "r+b") as complete:  # a rejected one may have replaced the part
                os.fsync(complete.fileno())
            if os.path.lexists(path):
                raise OutputError(
                    f"{path}: exists now; move it and run the same command again to resume"
                )
            os.replace(file.name, path)
            sync_folder(path.parent)
            return Fetched(
                path, path.stat().st_size, download.num_received, f"{algorithm}:{expected}"
            )
    except OSError as error:
        raise OutputError(f"{path}: {reason_of(error)}{_hint(error)}") from error


def _expected(accept_hash: str | None) -> tuple[str, str]:
    """Return algorithm and digest that the file must have."""
    prefix, _, digest = (MD5 if accept_hash is None else accept_hash).lower().rpartition(":")
    algorithm = _DIGESTS.get(len(digest))
    if algorithm is None or prefix not in ("", algorithm) or set(digest) - set("0123456789abcdef"):
        raise OptionError(
            f"hash {accept_hash!r}: expected an MD5 (32 hexadecimal digits) or a SHA-256 (64)"
        )
    return algorithm, digest


def _part(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _hint(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "; free some space and run the same command again to resume"
    return ""


def _digest(path: str | Path, algorithm: str, progress: Progress) -> str:
    """Compute a file's digest, in hexadecimal."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    total, done = os.path.getsize(path), 0
    with open(path, "rb") as file:
        while data := file.read(2**20):
            digest.update(data)
            done += len(data)
            progress("check", done, total)
    return digest.hexdigest()


def _found(path: Path, algorithm: str, expected: str, progress: Progress) -> Fetched:
    """Check a file that exists already."""
    if not path.is_file():
        raise OutputError(f"{path}: not a file; give a different path")
    found = _digest(path, algorithm, progress)
    if found != expected:
        raise OutputError(
            f"{path}: already exists, and its {_title(algorithm)} is {found}, expected {expected}; "
            "remove it, or give a different path"
        )
    return Fetched(path, path.stat().st_size, 0, f"{algorithm}:{expected}")


def _title(algorithm: str) -> str:
    return {"md5": "MD5", "sha256": "SHA-256"}[algorithm]


@contextmanager
def _hold_part(path: Path, web: WebFile) -> Iterator[BinaryIO]:
    """Open the part for appending, locked against other processes; delete it if it stays empty.

    The note is deleted with it, or once the part has its final name.

    Raises:
        OutputError: another process holds the lock; or the part or its note exists, and is not of a
            download.
    """
    part, note = _part(path, PART), _part(path, _NOTE)
    is_new = not os.path.lexists(part)
    if is_new and not os.path.lexists(note):
        # Before the part: a process that is killed leaves no part without a note.
        _write_note(path, {"url": str(web), "version": None, "size": None})
    file = lock_file(part)
    if file is None:
        raise OutputError(f"{path}: another process is fetching it")
    with file:
        is_noted = bool(_read_note(path))
        try:
            if not is_noted and not os.path.lexists(path):
                raise OutputError(
                    f"{path}: {part.name} and {note.name} are needed for the download, but are not "
                    "those of an earlier one; move them, or give a different path"
                )
            yield file
        except BaseException as error:
            if not isinstance(error, Exception):
                if part.exists() and part.stat().st_size:
                    error.add_note(
                        "fetching did not finish; run the same command again to resume, or remove "
                        f"{part} to start over"
                    )
                elif path.exists():
                    error.add_note(f"{path} is complete")
            raise
        finally:
            with suppress(OSError):
                if (is_new or is_noted) and _is_empty(part, file):
                    part.unlink()
            with suppress(OSError):
                if is_noted and not part.exists():
                    note.unlink()


def _is_empty(part: Path, file: BinaryIO) -> bool:
    """Return True if the part is this file and empty: it may be that of a later download."""
    found = part.stat()
    return found.st_size == 0 and os.path.samestat(found, os.fstat(file.fileno()))


def _write_note(path: Path, note: dict[str, Any]) -> None:
    with LocalStore(path.parent).create(_part(path, _NOTE).name) as file:
        file.write(json.dumps(note).encode())


def _read_note(path: Path) -> dict[str, Any]:
    """Return URL, version and size of the part's file, which may be None; empty if not known."""
    with suppress(OSError, ValueError):
        note = json.loads(_part(path, _NOTE).read_bytes())
        if isinstance(note, dict) and note.keys() == {"url", "version", "size"}:
            return note
    return {}


def _check(
    path: Path, part: str, algorithm: str, expected: str, url: str, progress: Progress
) -> None:
    """Check a download's hash; if it is different, keep the file as ``<out>.unexpected``."""
    found = _digest(part, algorithm, progress)
    if found == expected:
        return
    rejected = _part(path, _REJECTED)
    if os.path.lexists(rejected):
        rejected = _part(path, f"{_REJECTED}-{uuid.uuid4().hex[:8]}")
    with open(part, "rb") as file:
        head = file.read(16)
    size = os.path.getsize(part)
    os.replace(part, rejected)
    _part(path, _NOTE).unlink(missing_ok=True)
    raise _HashError(
        url,
        f"{size:,} bytes that begin with {head!r}: {_title(algorithm)} is {found}, expected "
        f"{expected}; kept as {rejected}; to accept this file, use --accept-hash {found}",
    )


class _Download:
    """A download under way."""

    def __init__(
        self,
        web: WebFile,
        path: Path,
        file: BinaryIO,
        progress: Progress,
        warn: Callable[[str], None],
    ) -> None:
        self.web = web
        self.path = path
        self.file = file
        self.progress = progress
        self.warn = warn
        self.at = os.fstat(file.fileno()).st_size
        self.num_received = 0
        note = _read_note(path)
        self.note = note if note.get("url") == str(web) and note["size"] is not None else {}
        """URL, version and size of the part's file; empty if not known, or of a different URL."""

    def take_rejected(self, algorithm: str, expected: str) -> bool:
        """Take an earlier download whose hash was rejected, if its hash is expected now."""
        for rejected in self.path.parent.glob(f"{glob.escape(self.path.name)}{_REJECTED}*"):
            if rejected.is_file() and _digest(rejected, algorithm, self.progress) == expected:
                os.replace(rejected, self.file.name)
                return True
        return False

    def run(self) -> None:
        """Download the missing bytes; after a connection is cut, resume with a new one.

        Raises:
            StoreError: there was no progress for ``RETRY_SECONDS``, or the server rejects the
                request.
        """
        farthest, since, num_failed = self.at, time.monotonic(), 0
        try:
            while not self.is_complete():
                answer = self._ask()
                try:
                    self._receive(answer)
                except StoreError as error:
                    # A server without ranges sends the same bytes again: they are no progress.
                    if self.at - farthest >= _MIN_PROGRESS_BYTES:
                        since, num_failed = time.monotonic(), 0
                    farthest = max(farthest, self.at)
                    left = since + RETRY_SECONDS - time.monotonic()
                    if left <= 0:
                        raise
                    seconds = min(left, WAIT_SECONDS[min(num_failed, len(WAIT_SECONDS) - 1)])
                    num_failed += 1
                    self.warn(f"{error}; retrying from byte {self.at:,} in {seconds:.0f} s")
                    time.sleep(seconds)
        except MissingError:
            raise
        except StoreError as error:
            self.file.flush()
            if not self.at:
                raise
            raise StoreError(
                error.location,
                f"{error.reason}; {self.at:,} bytes are kept; run the same command again to resume",
            ) from error

    def is_complete(self) -> bool:
        """Return True if every byte has been received."""
        return bool(self.note) and self.at == self.note["size"]

    def _receive(self, answer: Answer) -> None:
        """Write the bytes of an answer."""
        self._check_space(answer.size - self.at)
        self.progress("fetch", self.at, answer.size)
        for chunk in answer.chunks:
            if self.at + len(chunk) > answer.size:
                raise StoreError(
                    str(self.web), f"sends more than the {answer.size:,} bytes it announced"
                )
            self.file.write(chunk)
            self.at += len(chunk)
            self.num_received += len(chunk)
            self.progress("fetch", self.at, answer.size)
        self.file.flush()
        if self.at < answer.size:
            raise StoreError(str(self.web), "the connection was closed before the end")

    def _ask(self) -> Answer:
        """Request the missing bytes, or the entire file if the part cannot be continued."""
        self.file.flush()
        if self.at and self.note and self.at < self.note["size"]:
            answer = self.web.open(self.at)
            if answer is None:
                self._begin_again("the server cannot continue from this byte")
            elif (answer.version, answer.size) != (self.note["version"], self.note["size"]):
                self._begin_again("the file has changed on the server")
            else:
                return answer
        elif self.at:
            self._begin_again("they may be of a different file")
        answer = self.web.open(0)
        assert answer is not None
        self.note = {"url": str(self.web), "version": answer.version, "size": answer.size}
        _write_note(self.path, self.note)
        return answer

    def _begin_again(self, why: str) -> None:
        self.warn(f"{self.path}: discarding the {self.at:,} bytes received so far: {why}")
        self.file.truncate(0)
        self.at = 0
        self.note = {}

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise OutputError(
                f"{self.path}: {free / 1e6:,.1f} MB free, {needed / 1e6:,.1f} MB needed; free some "
                "space and run the same command again, or give a different path"
            )
