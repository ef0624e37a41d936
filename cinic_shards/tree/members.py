"""List the members of a tar or zip archive, and find the images' bytes in one file.

An image in an uncompressed tar or zip is read in place; others are written to a spool. Archives are
untrusted: sizes are bounded, no member is extracted to the disk, and links are rejected.
"""

import bz2
import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cinic_shards.errors import TreeError
from cinic_shards.tree.rules import MAX_FILE_BYTES
from cinic_shards.tree.spool import Spool
from cinic_shards.tree.tar_reader import PIECE_BYTES, TarBytes, too_large

ARCHIVES = "a .tar, .tar.gz, .tar.xz, .tar.bz2 or .zip of one"

MAX_GROWTH = 50
"""An archive may unpack to this many times its size plus ``_MAX_SLACK_BYTES``: PNGs hardly
compress."""
_MAX_SLACK_BYTES = 2**28
_PROGRESS_IMAGES = 1000

_OPENERS: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
)
"""First bytes of a compressed tar, and the function that opens it."""
_ZIP_HEADS = (b"PK\x03\x04", b"PK\x05\x06")
_ZIP_LOCAL_HEADER = struct.Struct("<4s22xHH")

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RecursionError,  # too many nested headers
    ValueError,  # invalid numbers and names
    OverflowError,
    struct.error,
)
"""The exceptions raised when a damaged archive is read."""


@dataclass(slots=True)
class Members:
    """The members of an archive."""

    file: Path
    """The file that holds the images' bytes: the archive itself, or the spool."""
    files: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Path -> size in bytes, time of last modification in nanoseconds, and offset in ``file``; the
    offset is -1 for files that are not images."""
    folders: set[str] = field(default_factory=set)
    """Paths of the folders that are members; files may be in folders that are not."""
    problems: list[str] = field(default_factory=list)
    """Problems of the archive's members, each with its path."""

    def add(self, name: str, size: int, modified: int) -> str:
        """Add a file; return its path if it is an image whose bytes are needed, else ""."""
        path = self._path(name)
        if not path:
            return ""
        if path in self.files:
            self.problems.append(f"{path}: twice in the archive; create the archive again")
        self.files[path] = size, modified, -1
        return path if is_image(path) and 0 < size <= MAX_FILE_BYTES else ""

    def put(self, path: str, offset: int) -> None:
        """Set the offset of an image's bytes."""
        size, modified, _ = self.files[path]
        self.files[path] = size, modified, offset

    def add_folder(self, name: str) -> None:
        """Add a folder."""
        if path := self._path(name):
            self.folders.add(path)

    def add_other(self, name: str, type_name: str) -> None:
        """Add a member that is neither a file nor a folder: a problem, unless it is hidden."""
        path = self._path(name)
        if path and is_hidden(path):
            self.files[path] = 0, 0, -1
        elif path:
            self.problems.append(
                f"{path}: {type_name}, expected only files and folders; unpack the archive and "
                "pack its folder"
            )

    def _path(self, name: str) -> str:
        """Normalise a member's path; empty if it is the root, or outside it (a problem)."""
        if not ("./" in name or "//" in name or name.endswith(("/", ".")) or name[:1] == "/"):
            return name
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            problem = f"{name}: an absolute name, or a name with '..'; create the archive again"
            if problem not in self.problems:
                self.problems.append(problem)
            return ""
        return "/".join(parts)


def is_hidden(path: str) -> bool:
    """True if the file's name, or that of a folder above it, starts with a dot."""
    return path.startswith(".") or "/." in path


def is_image(path: str) -> bool:
    """True if the name is that of an image that is packed."""
    return path[-4:].lower() == ".png" and not is_hidden(path)


def read_members(path: Path, spool: Spool, progress: Callable[[int], None]) -> Members:
    """Read an archive once, and write compressed images to a spool.

    Args:
        path: the archive; its first bytes show its format.
        spool: a spool that has not begun.
        progress: called with the number of images since the last call.

    Raises:
        TreeError: the file is not an archive, or is damaged.
        OutputError: there is no space for the spool.
    """
    reading = _Reading(path, spool, progress)
    try:
        with open(path, "rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
    except OSError as error:
        raise reading.error(f"{path}: cannot be read: {error.strerror}") from error
    try:
        if head.startswith(_ZIP_HEADS):
            reading.read_zip()
        else:
            reading.read_tar(head)
        spool.flush()
    except _DAMAGE as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise reading.error(
            f"{path}: {reading.where}{text}; it is damaged or truncated, fetch it again"
        ) from error
    reading.count(0, at_least=1)
    return reading.members


@dataclass(slots=True)
class _Reading:
    """The state of reading an archive."""

    path: Path
    spool: Spool
    progress: Callable[[int], None]
    members: Members = field(init=False)
    where: str = ""
    """The member that is read, or the last one that was, for messages."""
    num_new: int = 0
    """Images since ``progress`` was last called."""

    def __post_init__(self) -> None:
        self.members = Members(self.path)

    def count(self, num_images: int, at_least: int = _PROGRESS_IMAGES) -> None:
        self.num_new += num_images
        if self.num_new >= at_least:
            self.progress(self.num_new)
            self.num_new = 0

    def error(self, problem: str) -> TreeError:
        """Make the error for a damaged or unreadable archive."""
        return TreeError(str(self.path), [problem])

    # Tar

    def read_tar(self, head: bytes) -> None:
        """Read a tar, compressed or not."""
        size = os.path.getsize(self.path)
        opener = next((opener for magic, opener in _OPENERS if head.startswith(magic)), None)
        if opener is None and not _is_tar(head):
            raise self.error(
                f"{self.path}: not a folder; give a folder of <split>/<class>/*.png, or "
                f"{ARCHIVES}: this file starts with {head[:16]!r}"
            )
        if opener is None:
            with open(self.path, "rb", buffering=2**17) as file:
                self._read_tar(TarBytes(file, size=size, limit=size), None)
        else:
            self.spool.begin(size)
            limit = MAX_GROWTH * size + _MAX_SLACK_BYTES
            with opener(self.path) as unpacked:
                self._read_tar(TarBytes(unpacked, size=None, limit=limit), self.spool)
            self.members.file = self.spool.path

    def _read_tar(self, data: TarBytes, spool: Spool | None) -> None:
        members = self.members
        file: Any = data  # has the few methods of a file that tarfile uses
        with tarfile.open(
            fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # they would take half a gigabyte
                name, size, at = member.name, member.size, data.tell()
                if member.isdir():
                    members.add_folder(name)
                elif member.sparse is not None:
                    members.add_other(name, "a sparse file")
                elif not member.isreg():
                    members.add_other(name, _TYPE_NAMES.get(member.type, "not an ordinary file"))
                elif path := members.add(name, size, _nanoseconds(member.mtime)):
                    if spool is not None:
                        at = spool.size
                        data.copy(size, spool)
                    members.put(path, at)
                    self.count(1)
                data.skip_to(tar.offset)
                self.where = f"after {name}: "
        data.check_end()

    # Zip

    def read_zip(self) -> None:
        """Read a zip."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                self._read_zip(archive)
        except NotImplementedError as error:
            # zipfile raises this for a compression, encryption or version that it does not know,
            # such as Deflate64: the archive is not damaged, and other programs can unpack it.
            raise self.error(
                f"{self.path}: {self.where}this zip cannot be read here ({error}); unpack it and "
                "pack its folder"
            ) from error

    def _read_zip(self, archive: zipfile.ZipFile) -> None:
        images: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            file_type = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                self.members.add_folder(info.filename)
            elif file_type not in (0, stat.S_IFREG):
                type_name = "a link" if file_type == stat.S_IFLNK else "not an ordinary file"
                self.members.add_other(info.filename, type_name)
            elif path := self.members.add(info.filename, info.file_size, _zip_date(info)):
                images[path] = info
        locked = [path for path, info in images.items() if info.flag_bits & 1]
        if locked:
            raise self.error(
                f"{locked[0]}: encrypted, and {len(locked) - 1:,} more; unpack the archive "
                "with its password and pack its folder"
            )
        if all(info.compress_type == zipfile.ZIP_STORED for info in images.values()):
            self._find_stored(images)
        else:
            self._unpack(archive, images)

    def _find_stored(self, images: dict[str, zipfile.ZipInfo]) -> None:
        """Find the bytes of stored images; each follows a local header of variable length."""
        size = os.path.getsize(self.path)
        with open(self.path, "rb") as file:
            for path, info in images.items():
                self.where = f"{path}: "
                file.seek(info.header_offset)
                signature, name_bytes, extra_bytes = _ZIP_LOCAL_HEADER.unpack(
                    file.read(_ZIP_LOCAL_HEADER.size)
                )
                at = info.header_offset + _ZIP_LOCAL_HEADER.size + name_bytes + extra_bytes
                is_within = info.file_size == info.compress_size and at + info.file_size <= size
                if signature != _ZIP_HEADS[0] or not is_within:
                    raise zipfile.BadZipFile("invalid header")
                self.members.put(path, at)
                self.count(1)

    def _unpack(self, archive: zipfile.ZipFile, images: dict[str, zipfile.ZipInfo]) -> None:
        total = sum(info.file_size for info in images.values())
        if total > MAX_GROWTH * os.path.getsize(self.path) + _MAX_SLACK_BYTES:
            raise self.error(f"{self.path}: {too_large(total)}")
        self.spool.begin(total)
        for path, info in images.items():
            self.where = f"{path}: "
            at = self.spool.size
            with archive.open(info) as file:
                while data := file.read(PIECE_BYTES):
                    self.spool.write(data)
            if self.spool.size - at != info.file_size:
                raise zipfile.BadZipFile(f"{self.spool.size - at:,} bytes, not {info.file_size:,}")
            self.members.put(path, at)
            self.count(1)
        self.members.file = self.spool.path


_TYPE_NAMES = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


def _is_tar(head: bytes) -> bool:
    """True if a file's first 512 bytes are a tar's header."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _nanoseconds(seconds: float) -> int:
    """Convert a date to nanoseconds that fit into 64 bits; 0 if it is invalid."""
    try:
        return max(-(2**62), min(int(seconds * 10**9), 2**62))
    except (ValueError, OverflowError):
        return 0


def _zip_date(info: zipfile.ZipInfo) -> int:
    """Convert a zip's date, which has no time zone, to a number that only serves to compare."""
    year, month, day, hour, minute, second = info.date_time
    days = ((year - 1980) * 12 + month) * 31 + day
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 10**9
