"""Names and version of the format, and checks shared by index and manifest."""

import json
import re
import reprlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from cinic_shards.errors import FormatError

VERSION = "0.2"
KNOWN_FEATURES: frozenset[str] = frozenset()
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "__index__"
PACKING_FOLDER = "_packing"
"""A folder that is in a dataset's folder while it is packed; readers ignore it."""
BLOCK_SIZE = 1024
"""The default number of samples a block."""
MAX_BLOCK_SIZE = 2**20


SPLIT_NAME = re.compile(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
MAX_NAME_BYTES = 95
"""The most bytes of a stem, and of ``split/class``. A tar member's name has at most 100 bytes,
which leaves room for a suffix."""
MAX_PIXELS = 2**26
"""The most pixels of an image; Pillow also rejects larger images as decompression bombs."""
MAX_INTEGER = 2**53 - 1
"""The largest number in a manifest: any JSON parser reads it exactly."""


class PayloadRules(Protocol):
    """Properties of an encoding that checks of index and manifest use; see ``codec.Encoding``."""

    @property
    def has_blocks(self) -> bool:
        """True if a payload holds a block, False if it holds one sample."""

    @property
    def pixels_offset(self) -> int | None:
        """Offset of the uncompressed pixels in a payload; None if they are encoded."""


Encodings = Mapping[str, PayloadRules]
"""Name -> encoding, for all encodings that this release can read."""


def get_rules(content: dict[str, Any], location: str, encodings: Encodings) -> PayloadRules:
    """Look up the encoding that an index or manifest names.

    Raises:
        FormatError: this release does not know the encoding.
    """
    encoding = get_field(content, location, "encoding", str)
    if encoding not in encodings:
        raise FormatError(location, f"encoding {shown(encoding)} is unknown; upgrade cinic-shards")
    return encodings[encoding]


_BAD_CHARACTER = re.compile(r"[\x00-\x1f\x7f\\]")


def name_problem(name: str) -> str:
    """Return why a stem, or ``split/class``, cannot be stored, or an empty string."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "a name that is not UTF-8"
    if length > MAX_NAME_BYTES:
        return f"a name of {length} bytes, expected at most {MAX_NAME_BYTES}"
    if _BAD_CHARACTER.search(name):
        return "a control character or backslash in the name"
    return ""


def key_problem(key: str, split: str) -> str:
    """Return why ``key`` is not a valid key of ``split``, or an empty string."""
    parts = key.split("/")
    if len(parts) != 3 or parts[0] != split:
        return f"expected {split}/<class>/<stem>"
    if not parts[1] or parts[1].startswith(".") or not parts[2] or "." in parts[2]:
        return "a class that starts with a dot, a stem with a dot, or an empty name"
    return name_problem(f"{parts[0]}/{parts[1]}") or name_problem(parts[2])


def shard_name(split: str, shard_index: int, num_shards: int) -> str:
    """Return the file name of a split's shard: ``train-00000-of-00009.tar``."""
    return f"{split}-{shard_index:05d}-of-{num_shards:05d}.tar"


_SHARD_NAME = re.compile(rf"({SPLIT_NAME.pattern})-([0-9]{{5,9}})-of-([0-9]{{5,9}})\.tar", re.ASCII)


def parse_shard_name(name: str) -> tuple[str, int, int] | None:
    """Return (split, position, number of shards) of a name from ``shard_name``; None if invalid."""
    match = _SHARD_NAME.fullmatch(name)
    if match is None:
        return None
    split, position, num_shards = match[1], int(match[2]), int(match[3])
    is_valid = position < num_shards and shard_name(split, position, num_shards) == name
    return (split, position, num_shards) if is_valid else None


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100
_short.maxdict = _short.maxlist = _short.maxtuple = 20


def shown(value: object) -> str:
    """Format an untrusted value for a message; it may be long, or too deep for ``repr``."""
    return _short.repr(value)


def parse_json(data: bytes) -> Any:
    """Parse JSON strictly: a name must be unique in its object, and NaN is not a number.

    Raises:
        ValueError: the bytes are not such JSON.
        RecursionError: they are nested too deep.
    """
    return json.loads(data, object_pairs_hook=_unique_names, parse_constant=_no_constant)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {shown(name)} is twice in an object")
    return content


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def check_version(location: str, version: object) -> None:
    """Check that this release can read a format version.

    Raises:
        FormatError: the major version differs, or ``version`` is not a string.
    """
    major = VERSION.partition(".")[0]
    if not isinstance(version, str) or version.partition(".")[0] != major:
        raise FormatError(
            location,
            f"format version {shown(version)}; this release reads {major}.x, upgrade cinic-shards",
        )


def get_integers(value: object, count: int, location: str, name: str) -> Any:
    """Check that ``value`` is a list of ``count`` integers from 0 to ``MAX_INTEGER``.

    Returns:
        The list as a tuple.

    Raises:
        FormatError: it is not.
    """
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(type(item) is int and 0 <= item <= MAX_INTEGER for item in value)
    ):
        raise FormatError(
            location, f"{name}: {shown(value)}, expected {count} integers from 0 to 2**53 - 1"
        )
    return tuple(value)


def get_field(content: dict[str, Any], location: str, name: str, expected: type) -> Any:
    """Return a field, after a check of its type; an integer is from 0 to ``MAX_INTEGER``.

    Raises:
        FormatError: the field is missing, or has a different type or range.
    """
    value = content.get(name)
    if type(value) is not expected or (type(value) is int and not 0 <= value <= MAX_INTEGER):
        raise FormatError(location, f"{name} is {shown(value)}, expected {expected.__name__}")
    return value


def class_names(names: object, location: str) -> tuple[str, ...]:
    """Check a list of class names, in the order of their labels.

    Returns:
        The list as a tuple.

    Raises:
        FormatError: it is not a list of distinct strings.
    """
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) < len(names)
    ):
        raise FormatError(location, f"classes are {shown(names)}, expected distinct names")
    return tuple(names)
