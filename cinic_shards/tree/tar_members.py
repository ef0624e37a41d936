"""List the members of a tar, compressed or not, and find its images' bytes."""

import bz2
import gzip
import lzma
import os
import tarfile
from collections.abc import Callable
from typing import Any, BinaryIO

from cinic_shards.tree.members import Members
from cinic_shards.tree.tar_bytes import TarBytes
from cinic_shards.tree.zstd_file import WindowError, ZstdFile

_OPENERS: tuple[tuple[bytes, Callable[[BinaryIO], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
    (b"\x28\xb5\x2f\xfd", ZstdFile),
    *((bytes([first]) + b"\x2a\x4d\x18", ZstdFile) for first in range(0x50, 0x60)),
)
"""First bytes of a compressed file, and the function that decompresses it."""


def is_tar(head: bytes) -> bool:
    """Return True if a file's first 512 bytes are a tar's header."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def is_compressed(head: bytes) -> bool:
    """Return True if a file may be a compressed tar, by its first bytes."""
    return _opener(head) is not None


def _opener(head: bytes) -> Callable[[BinaryIO], Any] | None:
    return next((opener for magic, opener in _OPENERS if head.startswith(magic)), None)


def read_tar(head: bytes, members: Members) -> None:
    """Read a tar; of a compressed one, write the images to the spool.

    Args:
        head: the file's first bytes.
        members: receives the members.
    """
    size = os.path.getsize(members.path)
    opener = _opener(head)
    with open(members.path, "rb", buffering=2**17) as file:
        if opener is None:
            _read(TarBytes(file, size=size, limit=size), members, is_compressed=False)
            return
        members.spool.begin(size)
        try:
            _read(
                TarBytes(opener(file), size=None, limit=members.limit), members, is_compressed=True
            )
        except WindowError as error:
            raise members.error(f"{error}; decompress it and pack the tar") from error
    members.file = members.spool.path


def _read(data: TarBytes, members: Members, *, is_compressed: bool) -> None:
    file: Any = data  # has the few methods of a file that tarfile uses
    with _open(file, members, is_compressed) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # they would take half a gigabyte
            name, size, at = member.name, member.size, data.tell()
            modified = _nanoseconds(member.mtime)
            if member.isdir():
                members.add_folder(name)
            elif member.sparse is not None:
                members.add_other(name, "a sparse file")
            elif member.islnk():
                members.add_hard_link(name, member.linkname, modified)
            elif not member.isreg():
                type_name = _TYPE_NAMES.get(member.type, "not an ordinary file")
                members.add_other(name, type_name, is_link=member.issym())
            elif path := members.add(name, size, modified):
                if is_compressed:
                    at = members.spool.size
                    data.copy(size, members.spool)
                members.put(path, at)
            data.skip_to(tar.offset)
            members.where = f"after {name}: "
    data.check_end()


def _open(data: Any, members: Members, is_compressed: bool) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=data, mode="r:", encoding="utf-8", errors="surrogateescape")
    except tarfile.ReadError as error:
        head: bytes = data.last
        if not is_compressed or is_tar(head):
            raise
        raise members.error(
            f"decompressed, it is not a tar: it starts with {head[:16]!r}; decompress it, and pack "
            "what is in it"
        ) from error


_TYPE_NAMES = {
    tarfile.SYMTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


def _nanoseconds(seconds: float) -> int:
    """Convert a date to nanoseconds that fit into 64 bits; 0 if it is invalid."""
    try:
        return max(-(2**62), min(int(seconds * 10**9), 2**62))
    except (ValueError, OverflowError):
        return 0
