"""Names and version of the format, and the checks that index and manifest share."""

import re
import reprlib
from collections.abc import Mapping
from typing import Any, Protocol

from cinic_shards.errors import FormatError

VERSION = "0.2"
KNOWN_FEATURES: frozenset[str] = frozenset()
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "__index__"
PACKING_FOLDER = "_packing"
"""In a dataset's folder while it is packed; readers pass it over."""
BLOCK_SIZE = 1024
"""Samples a block where nothing else is asked for."""
MAX_BLOCK_SIZE = 2**20


SPLIT_NAME = re.compile(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
MAX_NAME_BYTES = 95
"""Of a stem, with room for a suffix in a tar member's name of 100; and of ``split/class``."""
MAX_PIXELS = 2**26
"""Of one image: Pillow takes more for a decompression bomb, too."""
MAX_INTEGER = 2**53 - 1
"""Of a number in the manifest: any JSON parser keeps it."""


class PayloadRules(Protocol):
    """What must be known of an encoding to check an index or a manifest; see ``codec.Encoding``."""

    @property
    def has_blocks(self) -> bool:
        """Whether a payload holds a block, else one sample."""

    @property
    def pixels_offset(self) -> int | None:
        """Where in a payload the pixels begin, as they lie in memory; None where encoded."""


Encodings = Mapping[str, PayloadRules]
"""Name -> encoding: those that this release can read."""


def get_rules(content: dict[str, Any], location: str, encodings: Encodings) -> PayloadRules:
    """The encoding that an index or manifest names."""
    encoding = get_field(content, location, "encoding", str)
    if encoding not in encodings:
        raise FormatError(location, f"encoding {shown(encoding)} is unknown; upgrade cinic-shards")
    return encodings[encoding]


_BAD_CHARACTER = re.compile(r"[\x00-\x1f\x7f\\]")


def key_problem(key: str, split: str) -> str:
    """Why this cannot be the key of a sample of ``split``, or an empty string."""
    parts = key.split("/")
    if len(parts) != 3 or parts[0] != split:
        return f"expected {split}/<class>/<stem>"
    if _BAD_CHARACTER.search(key):
        return "a control character or backslash"
    if not parts[1] or parts[1].startswith(".") or not parts[2] or "." in parts[2]:
        return "a class that begins with a dot, a stem with a dot, or an empty name"
    try:
        sizes = len(f"{parts[0]}/{parts[1]}".encode()), len(parts[2].encode())
    except UnicodeEncodeError:
        return "not UTF-8"
    if max(sizes) > MAX_NAME_BYTES:
        return f"a name of more than {MAX_NAME_BYTES} bytes"
    return ""


def shard_name(split: str, shard_index: int, num_shards: int) -> str:
    """File name of a split's shard: ``train-00000-of-00009.tar``."""
    return f"{split}-{shard_index:05d}-of-{num_shards:05d}.tar"


_SHARD_NAME = re.compile(rf"({SPLIT_NAME.pattern})-([0-9]{{5,9}})-of-([0-9]{{5,9}})\.tar", re.ASCII)


def parse_shard_name(name: str) -> tuple[str, int, int] | None:
    """Split, position and number of shards that ``shard_name`` made a name of, or None."""
    match = _SHARD_NAME.fullmatch(name)
    if match is None:
        return None
    place = match[1], int(match[2]), int(match[3])
    return place if place[1] < place[2] and shard_name(*place) == name else None


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100
_short.maxdict = _short.maxlist = _short.maxtuple = 20


def shown(value: object) -> str:
    """A value for a message: a stranger's may be long, or too deep for ``repr``."""
    return _short.repr(value)


def check_version(location: str, version: object) -> None:
    """Refuse what another major version wrote."""
    major = VERSION.partition(".")[0]
    if not isinstance(version, str) or version.partition(".")[0] != major:
        raise FormatError(
            location,
            f"format version {shown(version)}; this release reads {major}.x, upgrade cinic-shards",
        )


def get_integers(value: object, count: int, location: str, name: str) -> Any:
    """A list of this many integers from 0 to ``MAX_INTEGER``, as a tuple."""
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(type(item) is int and 0 <= item <= MAX_INTEGER for item in value)
    ):
        raise FormatError(location, f"{name}: {shown(value)}, expected {count} integers")
    return tuple(value)


def get_field(content: dict[str, Any], location: str, name: str, expected: type) -> Any:
    """A field of the expected type; an integer is from 0 to ``MAX_INTEGER``."""
    value = content.get(name)
    if type(value) is not expected or (type(value) is int and not 0 <= value <= MAX_INTEGER):
        raise FormatError(location, f"{name} is {shown(value)}, expected {expected.__name__}")
    return value


def class_names(names: object, location: str) -> tuple[str, ...]:
    """A list of class names, in the order of their labels."""
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) < len(names)
    ):
        raise FormatError(location, f"classes are {shown(names)}, expected names, each once")
    return tuple(names)
