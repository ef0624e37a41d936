"""ImageNet's synset tars: list their photos, read them, and shrink them to CINIC-10's 32x32 pixels.

A synset's photos are in ``n########.tar`` as ``n########_<number>.JPEG``.
"""

import io
import os
import re
import stat
import struct
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cinic_shards.errors import StoreError, reason_of

# No leading zero: the number becomes the PNG's name, and two members must not get the same name.
_MEMBER = re.compile(r"(n[0-9]{8})_(0|[1-9][0-9]{0,17})\.jpe?g", re.ASCII | re.IGNORECASE)

IMAGE_SIZE = 32
"""Pixels a side of CINIC-10's images."""

MAX_PHOTO_BYTES = 2**27
"""Bound on a photo's file, which is read into memory."""

_SHOWN = 200
"""Letters shown of a member's name, which may have millions."""

_FORMATS = ("JPEG", "PNG", "GIF", "BMP")
"""Formats that are decoded: a few of ImageNet's files named .JPEG are something else."""
_JPEGS = ("JPEG", "MPO")
"""Pillow's names for JPEGs. An MPO holds several pictures; the first one is used."""


@dataclass(frozen=True, slots=True)
class SynsetTar:
    """The N photos of one synset's tar, as columns in the order of their numbers."""

    synset: str
    path: str
    numbers: NDArray[np.int64]
    """Each photo's number, shape (N,), ascending."""
    offsets: NDArray[np.int64]
    """Each photo's byte offset in the tar, shape (N,)."""
    sizes: NDArray[np.int64]
    """Each photo's size in bytes, shape (N,)."""
    left_out: tuple[str, ...] = ()
    """Each member that is not a photo of the synset, and why."""
    is_empty: bool = False
    """True if the file has 0 bytes, as some of the authors' downloads had."""
    problem: str = ""
    """Why the tar cannot be used; N is then 0. Empty if it can."""

    def __len__(self) -> int:
        return len(self.numbers)

    def row_of(self, number: int) -> int | None:
        """Return the row of a photo; None if the tar does not hold it."""
        row = int(np.searchsorted(self.numbers, number))
        return row if row < len(self) and self.numbers[row] == number else None


def list_photos(path: str) -> SynsetTar:
    """List a synset tar's photos from its headers; no photo is read. Runs in any process.

    Args:
        path: ``n########.tar``, uncompressed.

    Returns:
        Its photos; for an unusable tar, no photos and the problem.
    """
    synset = os.path.basename(path)[: -len(".tar")]
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            return _unusable(synset, path, "not an ordinary file")
        if state.st_size == 0:
            return _unusable(synset, path, "", is_empty=True)
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = {}
            left_out = []
            for member in archive:
                number, reason = _look_at(member, synset)
                if number in members:
                    reason = "a duplicate of its number"
                if reason:
                    left_out.append(f"{member.name[:_SHOWN]}: {reason}")
                elif number >= 0:
                    members[number] = (member.offset_data, member.size)
            # tarfile takes an invalid header for the archive's end.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                return _unusable(
                    synset, path,
                    f"damaged or truncated at byte {archive.offset:,} of {state.st_size:,}: "
                    "expected a member or the archive's end; download it again",
                )  # fmt: skip
    except tarfile.TarError as error:
        return _unusable(synset, path, f"not a complete tar file ({error}); download it again")
    except OSError as error:
        return _unusable(synset, path, f"cannot be read: {reason_of(error)}")
    except (ValueError, OverflowError, MemoryError, RecursionError) as error:  # hostile headers
        return _unusable(synset, path, f"not a readable tar file ({error}); download it again")
    if not members:
        expected = f"expected {synset}_<number>.JPEG"
        found = f"; it holds {left_out[0]}" if left_out else ""
        return _unusable(synset, path, f"holds no photo, {expected}{found}")
    numbers = np.array(sorted(members), np.int64)
    ranges = np.array([members[number] for number in numbers.tolist()], np.int64)
    return SynsetTar(synset, path, numbers, ranges[:, 0], ranges[:, 1], tuple(left_out))


def _unusable(synset: str, path: str, problem: str, *, is_empty: bool = False) -> SynsetTar:
    none = np.empty(0, np.int64)
    return SynsetTar(synset, path, none, none, none, is_empty=is_empty, problem=problem)


def _look_at(member: tarfile.TarInfo, synset: str) -> tuple[int, str]:
    """Return a member's photo number and ""; or -1 and why it is not a photo ("" for a folder)."""
    if member.isdir():
        return -1, ""
    match = _MEMBER.fullmatch(member.name.rpartition("/")[2])
    if not match or match[1] != synset:
        return -1, f"not named {synset}_<number>.JPEG"
    if not member.isreg() or member.issparse():
        return -1, "not an ordinary file"
    if not 0 < member.size <= MAX_PHOTO_BYTES:
        problem = f"{member.size:,} bytes, expected at most {MAX_PHOTO_BYTES:,}"
        return -1, problem if member.size else "an empty file"
    return int(match[2]), ""


def read_photos(path: str, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[bytes]:
    """Yield the files of the given photos.

    Args:
        path: the tar.
        offsets: their byte offsets in it, shape (N,).
        sizes: their bytes, shape (N,).

    Raises:
        StoreError: the tar cannot be read, or has changed since it was listed.
    """
    try:
        with open(path, "rb") as file:
            for offset, size in zip(offsets.tolist(), sizes.tolist(), strict=True):
                file.seek(offset)
                data = file.read(size)
                if len(data) != size:
                    raise StoreError(str(path), "has changed since it was listed; run again")
                yield data
    except OSError as error:
        raise StoreError(str(path), reason_of(error)) from error


def shrink_photo(data: bytes) -> tuple[NDArray[np.uint8] | None, str]:
    """Decode a photo, convert it to RGB, and shrink it to 32x32 with a box filter.

    This is what the authors did, with the tool of Imagenet32x32
    (https://github.com/PatrykChrabaszcz/Imagenet32_Scripts): Pillow's ``convert`` makes RGB from
    grey, CMYK and palettes, nothing is cropped, and the EXIF orientation is ignored.

    Returns:
        Pixels, uint8, shape (32, 32, 3), and the file's format if it is not a JPEG (else ""); or
        None and why it cannot be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd EXIF data, which is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as photo:
                found = photo.format or ""
                image = photo if photo.mode == "RGB" else photo.convert("RGB")
                small = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    except (
        OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError,
        AttributeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:  # fmt: skip
        # Pillow's message ends with an address in memory, which differs between runs.
        reason = re.sub(r" <_io.BytesIO object at .*?>", "", str(error))
        return None, f"cannot be decoded: {reason or type(error).__name__}"
    return np.asarray(
        small
    ), "" if found in _JPEGS else f"a {found}, not a JPEG; decoded as {found}"
