"""Read the members of an archive of any type, and find the images' bytes in one file.

An image in an uncompressed tar or zip is read in place; others are written to a spool. Archives are
untrusted: sizes are bounded, no member is extracted to the disk, and symbolic links are rejected.
"""

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import zstandard

from cinic_shards.tree.members import Members, size_limit
from cinic_shards.tree.spool import Spool
from cinic_shards.tree.tar_members import is_compressed, is_tar, read_tar
from cinic_shards.tree.zip_members import ZIP_HEADS, read_zip

ARCHIVES = "a .tar, .tar.gz, .tar.xz, .tar.bz2, .tar.zst or .zip of one"

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
    EOFError,
    OSError,
    RecursionError,  # too many nested headers
    ValueError,  # invalid numbers and names
    OverflowError,
    struct.error,
)
"""The exceptions raised when a damaged archive is read."""


def read_members(
    path: Path, spool: Spool, inner: Spool, progress: Callable[[int], None]
) -> Members:
    """Read an archive once, and write compressed images to a spool.

    A zip without images that holds one archive is what "download all" gives on many sites: that
    archive is read instead. It may not hold a further one.

    Args:
        path: the archive; its first bytes show its format.
        spool: a spool for images that has not begun.
        inner: a spool for an archive in the archive, which has not begun.
        progress: called with the number of images since the last call.

    Raises:
        TreeError: the file is not an archive, or is damaged.
        OutputError: there is no space for a spool.
    """
    outer = Members(path, path, str(path), 0, spool, progress)
    name = _read(outer, inner)
    if not name:
        return outer
    members = Members(path, inner.path, f"{path}: {name}", outer.limit, spool, progress)
    members.problems = outer.problems
    members.warnings = [f"the images are in {name}, which is in {path.name}"]
    members.strays = [file for file in outer.files if file != name]
    _read(members, None)
    return members


def _read(members: Members, inner: Spool | None) -> str:
    """Read an archive; return the name of the archive in it that was written to ``inner``."""
    name = ""
    try:
        with open(members.path, "rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
        members.limit = members.limit or size_limit(members.path)
    except OSError as error:
        raise members.error(f"cannot be read: {error.strerror}") from error
    try:
        if is_zip(members.path, head):
            name = read_zip(members, inner)
        elif is_compressed(head) or is_tar(head):
            read_tar(head, members)
        else:
            raise members.error(
                f"not a folder; give a folder of <split>/<class>/*.png, or {ARCHIVES}: this file "
                f"starts with {head[:16]!r}"
            )
        members.spool.flush()
    except _DAMAGE as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise members.error(
            f"{members.where}{text}; it is damaged or truncated, fetch it again"
        ) from error
    members.count(0, at_least=1)
    return name


def is_zip(path: Path, head: bytes) -> bool:
    """Return True for a zip, also one that a program or other data precedes."""
    if head.startswith(ZIP_HEADS):
        return True
    return not is_compressed(head) and not is_tar(head) and zipfile.is_zipfile(path)
