"""Write and compare files: a few lines that many tests need."""

import hashlib
import mmap
from pathlib import Path

import numpy as np

from tests.support.odd_pngs import RGB, encode_png

PNG = encode_png(np.zeros((2, 3, 3), np.int64), RGB, 8)
"""A valid PNG of 2x3 pixels."""

PAGE = mmap.PAGESIZE
"""Bytes of a page: a file on a small disk takes a multiple of it."""


def write(root: Path, *paths: str, data: bytes = PNG) -> None:
    """Write the same bytes to each path below ``root``, and make the folders they need."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def flip(path: Path, offset: int, mask: int = 0x10) -> None:
    """Flip bits of one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by relative path; "" for an empty folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
        elif not any(path.iterdir()):
            found[f"{path.relative_to(folder).as_posix()}/"] = ""
    return found
