"""CINIC-10.tar.gz from its publisher: a download that goes on where it was cut off."""

import errno
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from cinic_shards.errors import MissingError, OptionError, OutputError, StoreError
from cinic_shards.jobs import Progress
from cinic_shards.store import Answer, WebFile, lock_file

URL = "https://datashare.is.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz"
"""Of the publisher, the University of Edinburgh: https://doi.org/10.7488/ds/2448."""
MD5 = "6ee4d0c996905fe93221de577967a372"
"""Of CINIC-10.tar.gz as loaders of others record it; the publisher states none."""

PART = ".part"
"""Ends the name of a file that is not whole."""
_NOTE = ".part.json"
_ASIDE = ".unexpected"
WAIT_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Before each new try; after as many that brought nothing new it is an error."""
_MIN_NEWS_BYTES = 2**16
"""What a try must bring to count for something."""

_DIGESTS = {32: "md5", 64: "sha256"}
"""Letters of a digest in hexadecimal -> its kind."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What ``fetch`` has done."""

    path: Path
    """The file, whole."""
    size: int
    num_received: int
    """Bytes that came over the network now; 0 where the file was there already."""
    digest: str
    """What it was checked by: ``md5:`` or ``sha256:`` and its digest."""


def fetch(
    out: str | os.PathLike[str] = ".",
    *,
    url: str = URL,
    accept_hash: str | None = None,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Fetched:
    """Download an archive, or go on with a download, and check its hash.

    What has come lies in ``<out>.part`` until all of it is there and its hash is right.

    Args:
        out: the file; or an existing folder for it.
        url: where the archive is.
        accept_hash: the MD5 or SHA-256 that it must have, in hexadecimal; by default ``MD5``.
        progress: called with what is being done, and bytes: how many, and of how many.
        warn: called with what a user should know.

    Raises:
        OptionError: an option cannot be.
        OutputError: it cannot be written; or another process fetches it; or another file is there.
        StoreError: it cannot be fetched, the same call goes on; or its hash is another one.
    """
    kind, expected = _expected(accept_hash)
    name = os.path.basename(unquote(urlsplit(url).path))
    path = Path(out)
    if path.is_dir():
        if not name:
            raise OptionError(f"{url}: names no file; give a file to write to")
        path = path / name
    web = WebFile(url)
    try:
        if path.exists():
            return _found(path, kind, expected, progress)
        with _hold_part(path) as file:
            if path.exists():  # another process has just finished it
                return _found(path, kind, expected, progress)
            download = _Download(web, path, file, progress, warn)
            if not download.take_aside(kind, expected):
                download.run()
                _check(path, file.name, kind, expected, url, progress)
            os.fsync(file.fileno())
            os.replace(file.name, path)
            _part(path, _NOTE).unlink(missing_ok=True)
            return Fetched(path, path.stat().st_size, download.num_received, f"{kind}:{expected}")
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}{_hint(error)}") from error


def _expected(accept_hash: str | None) -> tuple[str, str]:
    """Kind and digest of what is fetched."""
    digest = (accept_hash or MD5).lower().rpartition(":")[2]
    kind = _DIGESTS.get(len(digest))
    if kind is None or set(digest) - set("0123456789abcdef"):
        raise OptionError(
            f"hash {accept_hash!r}: expected an MD5 of 32 hexadecimal digits, or a SHA-256 of 64"
        )
    return kind, digest


def _part(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _hint(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "; free some space and run the same command: it goes on"
    return ""


def _digest(path: str | Path, kind: str, progress: Progress) -> str:
    """A file's digest, in hexadecimal."""
    digest = hashlib.new(kind, usedforsecurity=False)
    total, done = os.path.getsize(path), 0
    with open(path, "rb") as file:
        while data := file.read(2**20):
            digest.update(data)
            done += len(data)
            progress("check", done, total)
    return digest.hexdigest()


def _found(path: Path, kind: str, expected: str, progress: Progress) -> Fetched:
    """A file that is there already, if it is the right one."""
    if not path.is_file():
        raise OutputError(f"{path}: not a file; give another place")
    found = _digest(path, kind, progress)
    if found != expected:
        raise OutputError(
            f"{path}: is there already, and its {_title(kind)} is {found}, expected {expected}; "
            "remove it or name another file"
        )
    return Fetched(path, path.stat().st_size, 0, f"{kind}:{expected}")


def _title(kind: str) -> str:
    return {"md5": "MD5", "sha256": "SHA-256"}[kind]


@contextmanager
def _hold_part(path: Path) -> Iterator[BinaryIO]:
    """Open the part to append to, which one process at a time can hold; nothing is not kept."""
    part = _part(path, PART)
    with _lock_part(path, part) as file:
        try:
            yield file
        finally:
            with suppress(OSError):
                if part.stat().st_size == 0:
                    part.unlink()
                    _part(path, _NOTE).unlink(missing_ok=True)


def _lock_part(path: Path, part: Path) -> BinaryIO:
    while True:
        file = lock_file(part)
        if file is None:
            raise OutputError(f"{path}: another process is fetching it")
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(part)):
                return file
        file.close()  # the process that had it has renamed it


def _check(path: Path, part: str, kind: str, expected: str, url: str, progress: Progress) -> None:
    """Refuse a download that has another hash, and put it aside."""
    found = _digest(part, kind, progress)
    if found == expected:
        return
    aside = _part(path, _ASIDE)
    with open(part, "rb") as file:
        head = file.read(16)
    size = os.path.getsize(part)
    os.replace(part, aside)
    _part(path, _NOTE).unlink(missing_ok=True)
    raise StoreError(
        url,
        f"{size:,} bytes that begin with {head!r} and have the {_title(kind)} {found}, "
        f"expected {expected}; kept as {aside}: if that is what you want, take it by "
        f"--accept-hash {found}",
    )


class _Download:
    """A file that is being fetched."""

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
        self.note = self._read_note()
        """What the part is of: version and size, as the server told them; empty: not known."""

    def _read_note(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            note = json.loads(_part(self.path, _NOTE).read_bytes())
            if isinstance(note, dict) and note.get("url") == str(self.web):
                return note
        return {}

    def take_aside(self, kind: str, expected: str) -> bool:
        """Take a download of before that is accepted now."""
        aside = _part(self.path, _ASIDE)
        if not aside.is_file() or _digest(aside, kind, self.progress) != expected:
            return False
        os.replace(aside, self.file.name)
        return True

    def run(self) -> None:
        """Fetch what is missing.

        Raises:
            StoreError: it did not come.
        """
        num_vain, farthest = 0, self.at
        while not self.is_whole():
            try:
                self._go_on()
            except MissingError:
                raise
            except StoreError as error:
                # What comes again from the begin, from a server without ranges, is no news.
                num_vain = 0 if self.at - farthest >= _MIN_NEWS_BYTES else num_vain + 1
                farthest = max(farthest, self.at)
                if num_vain > len(WAIT_SECONDS):
                    raise StoreError(
                        error.location,
                        f"{error.reason}; {num_vain} tries brought nothing new. {self.at:,} "
                        "bytes are there: the same command goes on",
                    ) from error
                seconds = WAIT_SECONDS[max(0, num_vain - 1)]
                self.warn(f"{error}; again in {seconds:.0f} s, from byte {self.at:,} on")
                time.sleep(seconds)

    def is_whole(self) -> bool:
        """Whether every byte is there."""
        return bool(self.note) and self.at == self.note["size"]

    def _go_on(self) -> None:
        """One request."""
        answer = self._ask()
        self._check_space(answer.size - self.at)
        self.progress("fetch", self.at, answer.size)
        for chunk in answer.chunks:
            if self.at + len(chunk) > answer.size:
                raise StoreError(
                    str(self.web), f"sends more than the {answer.size:,} bytes it told"
                )
            self.file.write(chunk)
            self.at += len(chunk)
            self.num_received += len(chunk)
            self.progress("fetch", self.at, answer.size)
        self.file.flush()
        if self.at < answer.size:
            raise StoreError(str(self.web), "the connection was closed before the end")

    def _ask(self) -> Answer:
        """Ask for the rest, or for all of it where the rest is no use."""
        self.file.flush()
        if self.at and self.note and self.at < self.note["size"]:
            answer = self.web.open(self.at)
            if answer is None:
                self._begin_again("the server does not give the rest alone")
            elif (answer.version, answer.size) != (self.note["version"], self.note["size"]):
                self._begin_again("the file has changed on the server")
            else:
                return answer
        elif self.at:
            self._begin_again("nothing tells which file it is of")
        answer = self.web.open(0)
        assert answer is not None
        self.note = {"url": str(self.web), "version": answer.version, "size": answer.size}
        _part(self.path, _NOTE).write_text(json.dumps(self.note))
        return answer

    def _begin_again(self, why: str) -> None:
        self.warn(f"{self.path}: the {self.at:,} bytes that were there are left: {why}")
        self.file.truncate(0)
        self.at = 0
        self.note = {}

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise OutputError(
                f"{self.path}: {free / 1e6:,.1f} MB free, {needed / 1e6:,.1f} MB are to come; free "
                "some and run the same command, or give another place"
            )
