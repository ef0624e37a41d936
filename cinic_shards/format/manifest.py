"""The manifest: a dataset's splits, shards and digests."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cinic_shards.errors import FormatError
from cinic_shards.format.blocks import check_block_bytes
from cinic_shards.format.fields import (
    KNOWN_FEATURES,
    MAX_BLOCK_SIZE,
    MAX_NAME_BYTES,
    MAX_PIXELS,
    SPLIT_NAME,
    VERSION,
    Encodings,
    check_version,
    class_names,
    get_field,
    get_integers,
    get_rules,
    parse_json,
    shard_name,
    shown,
)
from cinic_shards.format.pixel_sums import PixelSums

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"blake2b:[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard as its manifest describes it.

    Example:
        >>> shard = Dataset("shards").manifest.splits[0].shards[0]
        >>> shard.name, shard.num_samples, shard.origins["imagenet"]
        ('test-00000-of-00001.tar', 90, 70)
    """

    name: str
    size: int
    """Size in bytes."""
    sha256: str
    """SHA-256 of the entire file, in hexadecimal."""
    index_offset: int
    """Offset of the index's content in the file."""
    index_length: int
    """Size of the index in bytes."""
    index_sha256: str
    """SHA-256 of the index's content, in hexadecimal."""
    num_samples: int
    classes: dict[str, int]
    """Class name -> number of samples in this shard."""
    origins: dict[str, int]
    """Origin -> number of samples in this shard."""


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """One split as its manifest describes it.

    Example:
        >>> valid = Dataset("shards").manifest.split("valid")
        >>> valid.first_id, valid.num_samples, valid.image_sizes
        (180, 90, {(32, 32): 90})
    """

    name: str
    first_id: int
    """Id of the split's first sample; the others follow in the shards' order."""
    num_samples: int
    image_sizes: dict[tuple[int, int], int]
    """(height, width) -> number of images."""
    pixels: PixelSums
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A dataset's content, files and digests.

    Example:
        >>> manifest = Dataset("shards").manifest
        >>> manifest.num_samples, manifest.block_size, manifest.image_shape
        (270, 1024, (32, 32, 3))
    """

    encoding: str
    block_size: int
    classes: tuple[str, ...]
    """Class names; a class's position is its label."""
    splits: tuple[SplitInfo, ...]
    fingerprint: str
    """BLAKE2b-256 over (key, label, pixel hash) in id order, the same in every encoding."""
    options: dict[str, Any]
    """The packing options that determine the shards' bytes."""
    libraries: dict[str, str]
    """Library -> version, as used for packing."""
    licence: str
    citation: str

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(H, W, 3) if all images have one size, else None."""
        sizes = {size for split in self.splits for size in split.image_sizes}
        if len(sizes) != 1:
            return None
        ((height, width),) = sizes
        return height, width, 3

    @property
    def num_samples(self) -> int:
        return sum(split.num_samples for split in self.splits)

    @property
    def pixels(self) -> PixelSums:
        """Sums over all splits."""
        return sum((split.pixels for split in self.splits), PixelSums(0, (0, 0, 0), (0, 0, 0)))

    @property
    def stated_classes(self) -> tuple[str, ...] | None:
        """The classes that every index must state: all, if one has no sample; else None."""
        present = {
            name for split in self.splits for shard in split.shards for name in shard.classes
        }
        return None if present >= set(self.classes) else self.classes

    def split(self, name: str) -> SplitInfo | None:
        """Return the split of this name; None if there is none."""
        return next((split for split in self.splits if split.name == name), None)

    def to_bytes(self) -> bytes:
        """Encode the manifest as JSON, with its own digest filled in."""
        content = {
            "format": "cinic-shards",
            "version": VERSION,
            "digest": "sha256:" + "0" * 64,
            "required_features": [],
            "encoding": self.encoding,
            "block_size": self.block_size,
            "image_shape": self.image_shape,
            "num_samples": self.num_samples,
            "fingerprint": self.fingerprint,
            "classes": list(self.classes),
            "splits": [_split_to_json(split) for split in self.splits],
            "options": self.options,
            "libraries": self.libraries,
            "licence": self.licence,
            "citation": self.citation,
        }
        data = (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()
        digest = hashlib.sha256(data).hexdigest().encode()
        return data.replace(b'"sha256:' + b"0" * 64, b'"sha256:' + digest, 1)

    @classmethod
    def from_bytes(cls, data: bytes, *, location: str, encodings: Encodings) -> "Manifest":
        """Parse and check a manifest.

        Args:
            data: the file's content.
            location: the manifest's location, for messages.
            encodings: the encodings that can be read.

        Raises:
            FormatError: the bytes are not a valid manifest, are damaged, or need a newer release.
        """
        try:
            content = parse_json(data)
        except (ValueError, RecursionError) as error:
            raise FormatError(location, f"not JSON ({error}); fetch the file again") from error
        if not isinstance(content, dict) or content.get("format") != "cinic-shards":
            raise FormatError(location, "not a manifest of cinic-shards")
        check_version(location, content.get("version"))
        features = get_field(content, location, "required_features", list)
        needed = {name if isinstance(name, str) else shown(name) for name in features}
        if unknown := sorted(needed - KNOWN_FEATURES):
            raise FormatError(
                location,
                f"needs {', '.join(unknown)[:200]}, which this release cannot read; "
                f"upgrade cinic-shards to one that reads format {content['version']}",
            )
        _check_digest(data, location, get_field(content, location, "digest", str))
        try:  # lone surrogates and deep nesting can be parsed but not written
            json.dumps(content, ensure_ascii=False).encode()  # without indent: five times as fast
            json.dumps([content.get("options"), content.get("libraries")], indent=1)
        except (ValueError, RecursionError) as error:
            raise FormatError(location, f"cannot be written as JSON again ({error})") from error
        rules = get_rules(content, location, encodings)
        listed = get_field(content, location, "splits", list)
        splits = tuple(_split_from_json(split, location) for split in listed)
        _check_splits(splits, location)
        block_size = get_field(content, location, "block_size", int)
        if not 1 <= block_size <= MAX_BLOCK_SIZE:
            raise FormatError(
                location, f"block_size is {block_size}, expected 1 to {MAX_BLOCK_SIZE:,}"
            )
        manifest = cls(
            content["encoding"],
            block_size,
            class_names(content.get("classes"), location),
            splits,
            _fingerprint(content, location),
            get_field(content, location, "options", dict),
            get_field(content, location, "libraries", dict),
            get_field(content, location, "licence", str),
            get_field(content, location, "citation", str),
        )
        if rules.has_blocks:
            if (shape := manifest.image_shape) is None:
                problem = f"encoding {manifest.encoding} needs images of one size, it has several"
                raise FormatError(location, problem)
            largest = max(shard.num_samples for split in splits for shard in split.shards)
            check_block_bytes(min(block_size, largest), shape, location)
        return manifest


def least_entry_bytes(shard: str, num_classes: int, classes: Sequence[str]) -> int:
    """Return a low estimate of what a shard adds to the size of a manifest, in bytes.

    Args:
        shard: the shard's name.
        num_classes: number of the classes that occur in the shard.
        classes: names of all classes of the dataset.
    """
    shortest = min((len(name.encode()) for name in classes), default=0)
    return _ENTRY_BYTES + len(shard) + num_classes * (_COUNT_BYTES + shortest)


_ENTRY_BYTES = 353
"""Size of a shard's entry without its name and classes, with numbers of one digit."""
_COUNT_BYTES = 13
"""Size of the count of a class without its name."""


def _check_splits(splits: Sequence[SplitInfo], location: str) -> None:
    """Check that names are unique and fit, and that ids continue from split to split."""
    if len({split.name for split in splits}) < len(splits):
        raise FormatError(location, "two of its splits have the same name")
    for split in splits:
        for position, shard in enumerate(split.shards):
            # In a different order, samples would have different ids.
            expected = shard_name(split.name, position, len(split.shards))
            if shard.name != expected:
                reason = f"{shown(shard.name)} is not a valid shard name, expected {expected}"
                raise FormatError(location, f"split {split.name}: {reason}")
    next_id = 0
    for split in splits:
        if split.first_id != next_id:
            reason = f"split {split.name} starts at id {split.first_id}, expected {next_id}"
            raise FormatError(location, reason)
        next_id += split.num_samples


def _fingerprint(content: dict[str, Any], location: str) -> str:
    fingerprint: str = get_field(content, location, "fingerprint", str)
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise FormatError(
            location, f"fingerprint is {shown(fingerprint)}, expected 'blake2b:' and 64 digits"
        )
    return fingerprint


def _check_digest(data: bytes, location: str, stated: str) -> None:
    """Check the digest over the file's bytes; its own digits are replaced by zeros."""
    if not _DIGEST.fullmatch(stated):
        raise FormatError(location, f"digest is {shown(stated)}, expected 'sha256:' and 64 digits")
    digits = stated.removeprefix("sha256:").encode()
    blank = data.replace(b'"sha256:' + digits, b'"sha256:' + b"0" * len(digits), 1)
    found = hashlib.sha256(blank).hexdigest()
    if stated != f"sha256:{found}":
        raise FormatError(
            location,
            f"its content has SHA-256 {found}, its digest says {stated}; "
            "the file is damaged or was edited, fetch it again",
        )


def _split_to_json(split: SplitInfo) -> dict[str, Any]:
    return {
        "name": split.name,
        "first_id": split.first_id,
        "num_samples": split.num_samples,
        "mean": split.pixels.mean,
        "std": split.pixels.std,
        "num_pixels": split.pixels.count,
        "pixel_sums": split.pixels.sums,
        "pixel_square_sums": split.pixels.square_sums,
        "image_sizes": [[h, w, count] for (h, w), count in sorted(split.image_sizes.items())],
        "shards": [
            {name: getattr(shard, name) for name in _SHARD_FIELDS} for shard in split.shards
        ],
    }


def _split_from_json(value: object, location: str) -> SplitInfo:
    if not isinstance(value, dict):
        raise FormatError(location, f"a split is {type(value).__name__}, expected an object")
    name = get_field(value, location, "name", str)
    if not SPLIT_NAME.fullmatch(name) or len(name) > MAX_NAME_BYTES:
        raise FormatError(location, f"{shown(name)} is not a valid split name")
    try:
        return _named_split_from_json(name, value, location)
    except FormatError as error:
        raise FormatError(location, f"split {name}: {error.reason}") from None


def _named_split_from_json(name: str, value: dict[str, Any], location: str) -> SplitInfo:
    shards = tuple(
        _shard_from_json(shard, location) for shard in get_field(value, location, "shards", list)
    )
    num_samples = get_field(value, location, "num_samples", int)
    if not num_samples or sum(shard.num_samples for shard in shards) != num_samples:
        raise FormatError(location, f"its shards do not add up to {num_samples} samples")
    sizes = {}
    for row in get_field(value, location, "image_sizes", list):
        height, width, count = get_integers(row, 3, location, "image_sizes")
        if not 1 <= height * width <= MAX_PIXELS:
            problem = f"images of {height}x{width} pixels, expected 1 to {MAX_PIXELS:,} in all"
            raise FormatError(location, problem)
        sizes[height, width] = count
    pixels = PixelSums(
        get_field(value, location, "num_pixels", int),
        get_integers(value.get("pixel_sums"), 3, location, "pixel_sums"),
        get_integers(value.get("pixel_square_sums"), 3, location, "pixel_square_sums"),
    )
    if not pixels.count or any(
        total > 255 * pixels.count or total * total > pixels.count * squares
        for total, squares in zip(pixels.sums, pixels.square_sums, strict=True)
    ):
        raise FormatError(location, f"its pixel sums are impossible for {pixels.count} pixels")
    return SplitInfo(
        name, get_field(value, location, "first_id", int), num_samples, sizes, pixels, shards
    )


def _shard_from_json(value: object, location: str) -> ShardInfo:
    if not isinstance(value, dict):
        raise FormatError(location, f"a shard is {type(value).__name__}, expected an object")
    shard = ShardInfo(
        **{name: get_field(value, location, name, type_) for name, type_ in _SHARD_FIELDS.items()}
    )
    if not (_SHA256.fullmatch(shard.sha256) and _SHA256.fullmatch(shard.index_sha256)):
        raise FormatError(location, f"{shard.name} has a SHA-256 that is not 64 hexadecimal digits")
    for name, counts in (("classes", shard.classes), ("origins", shard.origins)):
        get_integers(list(counts.values()), len(counts), location, f"{shard.name}: {name}")
    if shard.index_offset + shard.index_length > shard.size:
        raise FormatError(location, f"{shard.name}: its index is outside the file")
    return shard


_SHARD_FIELDS: dict[str, type] = {
    "name": str,
    "size": int,
    "sha256": str,
    "index_offset": int,
    "index_length": int,
    "index_sha256": str,
    "num_samples": int,
    "classes": dict,
    "origins": dict,
}
