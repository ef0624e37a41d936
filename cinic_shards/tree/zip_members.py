"""List the members of a zip, and find its images' bytes."""

import stat
import struct
import zipfile
import zlib
from typing import BinaryIO

from cinic_shards.tree.members import PIECE_BYTES, Members, normalised, twice
from cinic_shards.tree.names import is_archive, left_out_part
from cinic_shards.tree.spool import Spool

ZIP_HEADS = b"PK\x03\x04", b"PK\x05\x06"
"""First bytes of a zip; a program or other data may precede them."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_IS_UTF8 = 0x800
"""Flag of a member whose name is UTF-8."""
_UNICODE_PATH = 0x7075
"""Type of the extra field with the name in UTF-8."""
_DOS_SYSTEMS = frozenset((0, 6, 10, 14))
"""Systems that have made a zip (FAT, HPFS, NTFS, VFAT) on which a backslash separates folders."""
_ENCRYPTED = 1


def read_zip(members: Members, inner: Spool | None) -> str:
    """Read a zip.

    Args:
        members: receives the members.
        inner: receives the only archive in a zip without images; None to leave it out.

    Returns:
        The name of the archive that was written to ``inner``, or "".
    """
    try:
        with zipfile.ZipFile(members.path) as archive:
            images, archives = _list(archive, members)
            if images or inner is None or len(archives) != 1:
                _read_images(archive, images, members)
                return ""
            ((name, info),) = archives.items()
            _check_encryption(archives, members)
            members.check_growth(info.file_size)
            inner.begin(info.file_size)
            members.where = f"{name}: "
            _copy(archive, info, inner)
            inner.flush()
            return name
    except NotImplementedError as error:
        # zipfile raises this for a compression, encryption or version that it does not know,
        # such as Deflate64: the archive is not damaged, and other programs can unpack it.
        problem = f"this zip cannot be read here ({error}); unpack it and pack its folder"
        raise members.error(f"{members.where}{problem}") from error


Infos = dict[str, zipfile.ZipInfo]


def _list(archive: zipfile.ZipFile, members: Members) -> tuple[Infos, Infos]:
    """Add all members; return the images and the archives among them, by path."""
    images: Infos = {}
    archives: Infos = {}
    num_unmarked = 0
    for info in archive.infolist():
        name, is_unmarked = _name(info)
        file_type = stat.S_IFMT(info.external_attr >> 16)
        if name is None:
            members.add_unnamed(info.orig_filename)
        elif name.endswith("/"):
            members.add_folder(name)
        elif file_type not in (0, stat.S_IFREG):
            is_link = file_type == stat.S_IFLNK
            type_name = "a link" if is_link else "not an ordinary file"
            members.add_other(name, type_name, is_link=is_link)
        elif path := members.add(name, info.file_size, _date(info)):
            images[path] = info
            num_unmarked += is_unmarked
        elif (path := normalised(name) or "") and is_archive(path) and not left_out_part(path):
            if path in archives:
                members.problems.append(twice(path))
            archives[path] = info
    if num_unmarked:
        members.warnings.append(
            f"names of images without the zip's mark for UTF-8 are read as UTF-8: {num_unmarked:,}"
        )
    return images, archives


def _name(info: zipfile.ZipInfo) -> tuple[str | None, bool]:
    """Return a member's name, and True if it is UTF-8 without being marked as such.

    The name is None if its encoding is unknown: without a mark it should be IBM's code page 437,
    but most programs write that of their system, such as Shift JIS; macOS writes UTF-8.
    """
    name, is_unmarked = info.orig_filename, False
    if not name.isascii() and not info.flag_bits & _IS_UTF8:
        raw = name.encode("cp437")
        stated = _unicode_path(info.extra, raw)
        try:
            name = raw.decode() if stated is None else stated.decode()
        except UnicodeDecodeError:
            return None, False
        is_unmarked = stated is None
    if info.create_system in _DOS_SYSTEMS:
        name = name.replace("\\", "/")
    return name, is_unmarked


def _unicode_path(extra: bytes, raw: bytes) -> bytes | None:
    """Return the name in UTF-8 from a member's extra fields; None if they have none of this name.

    Args:
        extra: the extra fields.
        raw: the name that the member has besides.
    """
    while len(extra) >= 4:
        field_type, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if field_type == _UNICODE_PATH and len(field) > 5:
            version, crc32 = struct.unpack_from("<BI", field)
            if version == 1 and crc32 == zlib.crc32(raw):
                return field[5:]
    return None


def _read_images(archive: zipfile.ZipFile, images: Infos, members: Members) -> None:
    """Read all images, which checks their CRC-32; write them to the spool if any is compressed."""
    _check_encryption(images, members)
    is_stored = all(info.compress_type == zipfile.ZIP_STORED for info in images.values())
    total = sum(info.file_size for info in images.values())
    members.check_growth(total)
    if not is_stored:
        members.spool.begin(total)
        members.file = members.spool.path
    with open(members.path, "rb") as file:
        for path, info in images.items():
            members.where = f"{path}: "
            at = members.spool.size
            num_bytes = _copy(archive, info, None if is_stored else members.spool)
            if num_bytes != info.file_size:
                raise zipfile.BadZipFile(f"{num_bytes:,} bytes, not {info.file_size:,}")
            members.put(path, _start(file, info) if is_stored else at)


def _check_encryption(images: Infos, members: Members) -> None:
    if locked := [path for path, info in images.items() if info.flag_bits & _ENCRYPTED]:
        raise members.error(
            f"encrypted, and {len(locked) - 1:,} more; unpack the archive with its password and "
            "pack its folder",
            locked[0],
        )


def _copy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, spool: Spool | None) -> int:
    """Read a member, whose CRC-32 is checked, into a spool if given; return its size in bytes."""
    num_bytes = 0
    with archive.open(info) as file:
        while data := file.read(PIECE_BYTES):
            num_bytes += len(data)
            if spool is not None:
                spool.write(data)
    return num_bytes


def _start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Return the offset of a member's bytes; they follow a header of variable length."""
    file.seek(info.header_offset)
    _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return info.header_offset + _LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes)


def _date(info: zipfile.ZipInfo) -> int:
    """Convert a zip's date, which has no time zone, to a number that only serves to compare."""
    year, month, day, hour, minute, second = info.date_time
    days = ((year - 1980) * 12 + month) * 31 + day
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 10**9
