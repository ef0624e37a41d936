"""Names in a tree: which are images, which are left out, and which cannot be stored."""

import functools
import os
import re
import unicodedata

from cinic_shards.format import name_problem

_SYSTEM_FOLDERS = frozenset(
    (
        "__macosx",  # in zips that macOS makes
        "__pycache__",
        "lost+found",  # ext4; only root may list it
        "@eadir", "#recycle", "#snapshot", "@recycle",  # disk stations; the first holds thumbnails
        "$recycle.bin", "system volume information",  # Windows
    )
)  # fmt: skip
"""Names, in lower case, of folders that systems make beside and among a user's own."""

OTHER_IMAGES = frozenset(
    ".jpg .jpeg .jpe .jp2 .bmp .gif .webp .tif .tiff .ppm .pgm .avif .heic".split()
)
"""Suffixes of images that are not PNGs."""

_ARCHIVE = re.compile(r".+\.(tar(\.(gz|xz|bz2|zst))?|tgz|txz|tbz2?|tzst|zip)", re.IGNORECASE)


def is_left_out(name: str) -> bool:
    """Return True for hidden files and folders, and folders that systems make."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def left_out_part(path: str) -> str:
    """Return the path up to the first name that is left out; "" if there is none."""
    folder, _, name = path.rpartition("/")
    return _left_out_folder(folder) or (path if is_left_out(name) else "")


@functools.lru_cache(1024)
def _left_out_folder(folder: str) -> str:
    names = folder.split("/")
    for position, name in enumerate(names, 1):
        if is_left_out(name):
            return "/".join(names[:position])
    return ""


def is_image(path: str) -> bool:
    """Return True if this is the path of a PNG to pack."""
    return path[-4:].lower() == ".png" and not left_out_part(path)


def is_any_image(name: str) -> bool:
    """Return True if this is the name of an image, which need not be a PNG."""
    suffix = os.path.splitext(name)[1].lower()
    return (suffix == ".png" or suffix in OTHER_IMAGES) and not is_left_out(name)


def is_archive(name: str) -> bool:
    """Return True if this is the name of an archive that can be packed."""
    return _ARCHIVE.fullmatch(name) is not None and not is_left_out(name)


def stem_problem(stem: str) -> str:
    """Return why a file's name without ``.png`` cannot be stored, or an empty string."""
    if "." in stem:
        return "a dot in the name before .png (webdataset would cut the key there); rename it"
    problem = name_problem(stem)
    return f"{problem}; rename it" if problem else ""


def look_alikes(names: list[str]) -> list[str]:
    """Return the names that other systems take for an earlier one in the list.

    macOS and Windows ignore case; macOS also ignores how accents are composed, and Windows drops
    dots and spaces at the end of a name.
    """
    text = "\n".join([*names, ""])
    if text.isascii() and text == text.lower() and not re.search(r"[ .]\n", text):
        return []  # quick for a quarter of a million names
    first: dict[str, str] = {}
    return [name for name in names if first.setdefault(_folded(name), name) != name]


def _folded(name: str) -> str:
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    return name.casefold().rstrip(". ")
