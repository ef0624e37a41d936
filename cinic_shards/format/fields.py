"""Names and version of the format, and the checks that index and manifest share."""

from typing import Any

from cinic_shards.errors import FormatError

VERSION = "0.1"
KNOWN_FEATURES: frozenset[str] = frozenset()
ENCODINGS = ("png",)
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "__index__"
BLOCK_SIZE = 1024
"""Samples a block: for ``png``, a run of so many consecutive samples of a shard."""


def shard_name(split: str, shard_index: int, num_shards: int) -> str:
    """File name of a split's shard: ``train-00000-of-00009.tar``."""
    return f"{split}-{shard_index:05d}-of-{num_shards:05d}.tar"


def check_version(place: str, version: object) -> None:
    major = VERSION.partition(".")[0]
    if not isinstance(version, str) or version.partition(".")[0] != major:
        raise FormatError(
            f"{place}: format version {version!r}; this release reads {major}.x, "
            "upgrade cinic-shards"
        )


def get_integers(value: object, count: int, place: str) -> Any:
    """A list of this many non-negative integers, as a tuple."""
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(type(item) is int and item >= 0 for item in value)
    ):
        raise FormatError(f"{place}: {value!r}, expected {count} integers")
    return tuple(value)


def get_field(content: dict[str, Any], place: str, name: str, expected: type) -> Any:
    """A field of the expected type; an integer must not be negative."""
    value = content.get(name)
    if type(value) is not expected or (type(value) is int and value < 0):
        raise FormatError(f"{place}: {name} is {value!r}, expected {expected.__name__}")
    return value
