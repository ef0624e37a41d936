"""ImageNet's synset tars: which photos they hold; and a photo -> the 32x32 pixels of CINIC-10.

A synset's photos lie in ``n########.tar`` as ``n########_<number>.JPEG``.
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

from cinic_shards.errors import StoreError

# No leading zero: the number names the PNG, and two names must not be one.
_MEMBER = re.compile(r"(n[0-9]{8})_(0|[1-9][0-9]{0,17})\.jpe?g", re.ASCII | re.IGNORECASE)

IMAGE_SIZE = 32
"""Pixels a side of CINIC-10's images."""

MAX_PHOTO_BYTES = 2**27
"""Of one photo's file: it is read whole."""

_SHOWN = 200
"""Letters of a member's name, which may have millions."""

_FORMATS = ("JPEG", "PNG", "GIF", "BMP")
"""What a member's content may be: a few of ImageNet's files named .JPEG are something else."""
_JPEGS = ("JPEG", "MPO")
"""What Pillow calls a JPEG: the second one holds several pictures, of which the first counts."""


@dataclass(frozen=True, slots=True)
class SynsetTar:
    """What one synset's tar holds: N photos, as columns in the order of their numbers."""

    synset: str
    path: str
    numbers: NDArray[np.int64]
    """Each photo's number, shape (N,), ascending."""
    offsets: NDArray[np.int64]
    """Where each photo's file begins in the tar, shape (N,)."""
    sizes: NDArray[np.int64]
    """Each photo's bytes, shape (N,)."""
    left_out: tuple[str, ...] = ()
    """Each member that is no photo of the synset, and why."""
    is_empty: bool = False
    """The file has 0 bytes, as some of the authors' downloads had."""
    problem: str = ""
    """Why the tar cannot be used; then it has no row."""

    def __len__(self) -> int:
        return len(self.numbers)

    def row_of(self, number: int) -> int | None:
        """The row of a photo; None where the tar does not hold it."""
        row = int(np.searchsorted(self.numbers, number))
        return row if row < len(self) and self.numbers[row] == number else None


def list_photos(path: str) -> SynsetTar:
    """Find a synset tar's photos by its headers; no photo is read. Runs in any process.

    Args:
        path: of ``n########.tar``, uncompressed.
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
                    reason = "the second photo of that number"
                if reason:
                    left_out.append(f"{member.name[:_SHOWN]}: {reason}")
                elif number >= 0:
                    members[number] = (member.offset_data, member.size)
            # What is no header ends an archive for tarfile, as its end would.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                return _unusable(
                    synset, path,
                    f"damaged or truncated at byte {archive.offset:,} of {state.st_size:,}, where "
                    "neither a member nor the archive's end is; fetch it again",
                )  # fmt: skip
    except tarfile.TarError as error:
        return _unusable(synset, path, f"not a whole tar file ({error}); fetch it again")
    except OSError as error:
        return _unusable(synset, path, f"cannot be read: {error.strerror or error}")
    except (ValueError, OverflowError, MemoryError, RecursionError) as error:  # hostile headers
        return _unusable(synset, path, f"not a readable tar file ({error}); fetch it again")
    if not members:
        expected = f"expected {synset}_<number>.JPEG"
        found = f"; it holds {left_out[0]}" if left_out else ""
        return _unusable(synset, path, f"no photo in it, {expected}{found}")
    numbers = np.array(sorted(members), np.int64)
    places = np.array([members[number] for number in numbers.tolist()], np.int64)
    return SynsetTar(synset, path, numbers, places[:, 0], places[:, 1], tuple(left_out))


def _unusable(synset: str, path: str, problem: str, *, is_empty: bool = False) -> SynsetTar:
    none = np.empty(0, np.int64)
    return SynsetTar(synset, path, none, none, none, is_empty=is_empty, problem=problem)


def _look_at(member: tarfile.TarInfo, synset: str) -> tuple[int, str]:
    """A member's photo number, and why it is none; a folder is -1 without a reason."""
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
    """The files of these photos.

    Raises:
        StoreError: the tar cannot be read, or has changed since it was listed.
    """
    try:
        with open(path, "rb") as file:
            for offset, size in zip(offsets.tolist(), sizes.tolist(), strict=True):
                file.seek(offset)
                data = file.read(size)
                if len(data) != size:
                    raise StoreError(str(path), "it has changed since it was listed; run again")
                yield data
    except OSError as error:
        raise StoreError(str(path), f"{error.strerror}") from error


def shrink_photo(data: bytes) -> tuple[NDArray[np.uint8] | None, str]:
    """A photo's pixels as CINIC-10 has them: the whole of it, RGB, box-filtered to 32x32.

    As the authors did it, by the tool of Imagenet32x32
    (https://github.com/PatrykChrabaszcz/Imagenet32_Scripts): grey, CMYK and palettes become RGB
    by Pillow's ``convert``, nothing is cropped, and the orientation that EXIF states is left.

    Returns:
        uint8 (32, 32, 3), and what the file is where it is no JPEG; or None, and why it cannot be
        decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd EXIF data, which does not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as photo:
                kind = photo.format or ""
                image = photo if photo.mode == "RGB" else photo.convert("RGB")
                small = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    except (
        OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError,
        AttributeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:  # fmt: skip
        # Pillow's message ends with an object's address in memory: it would differ at every run.
        reason = re.sub(r" <_io.BytesIO object at .*?>", "", str(error))
        return None, f"cannot be decoded: {reason or type(error).__name__}"
    return np.asarray(small), "" if kind in _JPEGS else f"a {kind}, no JPEG; decoded as such"
