"""The on-disk format, specified in docs/format.md: manifest, index and tar layout.

This is the only file that knows byte layouts. It reads and writes bytes that others hold; it opens
nothing. What it parses may come from a stranger: every size, offset and name is checked before use.
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import FormatError
from cinic_shards.provenance import ORIGINS, Provenance

VERSION = "0.1"
KNOWN_FEATURES: frozenset[str] = frozenset()
ENCODINGS = ("png",)
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "__index__"
BLOCK_SIZE = 1024
PIXEL_HASH_BYTES = 16

_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.tar", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def shard_name(split: str, shard_index: int, num_shards: int) -> str:
    """File name of a split's shard: ``train-00000-of-00009.tar``."""
    return f"{split}-{shard_index:05d}-of-{num_shards:05d}.tar"


# --- Tar -------------------------------------------------------------------------------------

TAR_BLOCK = 512
TAR_END = bytes(2 * TAR_BLOCK)
MAX_MEMBER_NAME = 100
"""Bytes in a header's name field; a longer path is cut at a slash, before it at most 155."""
MAX_MEMBER_PREFIX = 155

# A USTAR header's fields, all that never vary filled in: mode 0644, owner and group 0, date 0,
# an ordinary file, no device. The checksum counts its own field as spaces.
_HEADER_TEMPLATE = struct.pack(
    "100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x",
    b"", b"0000644\0", b"0000000\0", b"0000000\0", b"00000000000\0", b"00000000000\0",
    b" " * 8, b"0", b"", b"ustar\0", b"00", b"", b"", b"0000000\0", b"0000000\0", b"",
)  # fmt: skip
_SIZE_FIELD = slice(124, 135)
_CHECKSUM_FIELD = slice(148, 154)
_PREFIX_FIELD = slice(345, 500)
_OCTAL_11 = 8 ** np.arange(10, -1, -1, dtype=np.int64)
_OCTAL_6 = 8 ** np.arange(5, -1, -1, dtype=np.int64)


def lay_out_members(
    names: Sequence[bytes], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Room for tar members one behind another, their headers written.

    Args:
        names: member names; at most 100 bytes, or a folder of at most 155 and a name of at most 100.
        sizes: each member's content in bytes.

    Returns:
        A zeroed uint8 buffer with the headers, and the place of each member's content in it.
    """
    padded = -(-sizes // TAR_BLOCK) * TAR_BLOCK
    ends = np.cumsum(padded + TAR_BLOCK)
    buffer = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    starts = ends - padded
    headers = buffer.reshape(-1, TAR_BLOCK)
    headers[starts // TAR_BLOCK - 1] = _headers(names, sizes)
    return buffer, starts


def _headers(names: Sequence[bytes], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """One USTAR header a row, uint8 (N, 512)."""
    headers = np.tile(np.frombuffer(_HEADER_TEMPLATE, np.uint8), (len(names), 1))
    short = list(names)
    for row, name in enumerate(names):
        if len(name) > MAX_MEMBER_NAME:
            prefix, _, short[row] = name.rpartition(b"/")
            if len(short[row]) > MAX_MEMBER_NAME or not 0 < len(prefix) <= MAX_MEMBER_PREFIX:
                raise FormatError(f"{name.decode()}: the name is too long for a tar member")
            headers[row, _PREFIX_FIELD][: len(prefix)] = np.frombuffer(prefix, np.uint8)
    texts = np.array(short, f"S{MAX_MEMBER_NAME}")
    headers[:, :MAX_MEMBER_NAME] = texts.view(np.uint8).reshape(-1, MAX_MEMBER_NAME)
    headers[:, _SIZE_FIELD] = sizes[:, None] // _OCTAL_11 % 8 + ord("0")
    sums = headers.sum(axis=1, dtype=np.int64)
    headers[:, _CHECKSUM_FIELD] = sums[:, None] // _OCTAL_6 % 8 + ord("0")
    headers[:, _CHECKSUM_FIELD.stop] = 0
    return headers


def one_member(name: str, content: bytes) -> bytes:
    """A tar member with its header and padding."""
    buffer, starts = lay_out_members([name.encode()], np.array([len(content)]))
    start = int(starts[0])
    buffer[start : start + len(content)] = np.frombuffer(content, np.uint8)
    return buffer.tobytes()


def sidecar_json(key: str, class_name: str, label: int, provenance: Provenance) -> bytes:
    """A sample's ``.json`` sidecar: the same keys and types in every sample."""
    values = {
        "key": key,
        "class": class_name,
        "label": label,
        "origin": provenance.origin,
        "synset": provenance.synset,
        "number": provenance.number,
    }
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


# --- Pixels ----------------------------------------------------------------------------------


def pixel_hashes(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The pixel hash of each image: BLAKE2b-128 over its shape and RGB pixels.

    Args:
        images: uint8, shape (N, H, W, 3), C-contiguous.

    Returns:
        uint8, shape (N, 16).
    """
    num_images = len(images)
    shape = struct.pack("<3I", *images.shape[1:])
    seeded = hashlib.blake2b(shape, digest_size=PIXEL_HASH_BYTES)
    digests = []
    for pixels in images.reshape(num_images, -1):
        state = seeded.copy()
        state.update(pixels)
        digests.append(state.digest())
    return np.frombuffer(b"".join(digests), np.uint8).reshape(num_images, PIXEL_HASH_BYTES)


# --- Index -----------------------------------------------------------------------------------


def _column(dtype: str, per: str) -> Any:
    """A field of ``Index`` that is stored as a column of this dtype, one value per this."""
    return field(metadata={"dtype": dtype, "per": per})


@dataclass(frozen=True, slots=True)
class Index:
    """The columns of one shard's index: N samples in P payloads."""

    keys: list[str]
    """``split/class/stem`` of each sample."""
    label: NDArray[np.int32] = _column("<i4", "sample")
    """Class index, shape (N,)."""
    origin: NDArray[np.uint8] = _column("|u1", "sample")
    """Index in ``provenance.ORIGINS``, shape (N,)."""
    synset: NDArray[np.uint32] = _column("<u4", "sample")
    """The eight digits of the WordNet id as a number, 0 for none, shape (N,)."""
    number: NDArray[np.int64] = _column("<i8", "sample")
    """CIFAR-10 index or ImageNet image number, -1 for none, shape (N,)."""
    pixel_hash: NDArray[np.uint8] = _column("|V16", "sample")
    """``pixel_hashes`` of each sample, uint8, shape (N, 16)."""
    offset: NDArray[np.uint64] = _column("<u8", "payload")
    """Where each payload begins in the shard, shape (P,)."""
    length: NDArray[np.uint64] = _column("<u8", "payload")
    """Each payload's bytes, shape (P,)."""
    crc32: NDArray[np.uint32] = _column("<u4", "payload")
    """CRC-32 of each payload, shape (P,)."""
    first_row: NDArray[np.uint64] = _column("<u8", "payload")
    """The shard's row that is first in each payload, shape (P,)."""

    def __len__(self) -> int:
        return len(self.keys)

    def provenance(self, row: int) -> Provenance:
        """The origin of one sample."""
        synset = int(self.synset[row])
        return Provenance(
            ORIGINS[self.origin[row]], f"n{synset:08d}" if synset else "", int(self.number[row])
        )

    def fingerprint_input(self) -> bytes:
        """What this shard adds to its dataset's fingerprint."""
        labels = self.label.astype("<u4").tobytes()
        hashes = self.pixel_hash.tobytes()
        return b"".join(
            b"%b\0%b%b" % (key.encode(), labels[4 * i : 4 * i + 4], hashes[16 * i : 16 * i + 16])
            for i, key in enumerate(self.keys)
        )

    def to_bytes(self) -> bytes:
        """The index as it stands in a shard: plain msgpack."""
        columns = {
            name: {"dtype": dtype, "data": getattr(self, name).astype(_item(dtype)).tobytes()}
            for name, dtype, _ in _index_columns()
        }
        content = {
            "format": "cinic-shards-index",
            "version": VERSION,
            "num_samples": len(self.keys),
            "num_payloads": len(self.offset),
            "keys": self.keys,
            "columns": columns,
        }
        data: bytes = msgpack.packb(content, use_bin_type=True)
        return data

    @classmethod
    def from_bytes(cls, data: bytes, *, place: str, end: int, num_classes: int) -> "Index":
        """Parse and check an index.

        Args:
            place: what to call it in an error.
            end: where the index begins in its shard: every payload must end before.
            num_classes: every label must be less.

        Raises:
            FormatError: the bytes are no index, or it points outside its shard.
        """
        try:
            content = msgpack.unpackb(data)
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
            raise FormatError(f"{place}: not msgpack ({error}); fetch the file again") from error
        if not isinstance(content, dict) or content.get("format") != "cinic-shards-index":
            raise FormatError(f"{place}: not an index of cinic-shards; fetch the file again")
        _check_version(place, content.get("version"))
        counts = {
            "sample": _get(content, place, "num_samples", int),
            "payload": _get(content, place, "num_payloads", int),
        }
        keys = _get(content, place, "keys", list)
        if len(keys) != counts["sample"] or not all(isinstance(key, str) for key in keys):
            raise FormatError(f"{place}: {len(keys)} keys for {counts['sample']} samples")
        stored = _get(content, place, "columns", dict)
        columns = {}
        for name, dtype, per in _index_columns():
            column = _get(stored, place, name, dict)
            values = _get(column, f"{place}, column {name}", "data", bytes)
            if column.get("dtype") != dtype or len(values) != np.dtype(dtype).itemsize * counts[per]:
                raise FormatError(
                    f"{place}: column {name} has {len(values)} bytes of "
                    f"{column.get('dtype')!r}, expected {counts[per]} values of {dtype!r}"
                )
            array = np.frombuffer(values, _item(dtype))
            columns[name] = array.reshape(-1, PIXEL_HASH_BYTES) if dtype == "|V16" else array
        index = cls(keys, **columns)
        index._check(place, end, num_classes)
        return index

    def _check(self, place: str, end: int, num_classes: int) -> None:
        problem = ""
        num_payloads, num_samples = len(self.offset), len(self.keys)
        # Unsigned: a sum that wraps is caught by testing the length by itself first.
        if not ((self.length <= end) & (self.offset <= np.uint64(end) - np.minimum(self.length, end))).all():  # fmt: skip
            problem = f"a payload lies outside the shard's first {end} bytes"
        elif (self.offset[1:] < self.offset[:-1] + self.length[:-1]).any():
            problem = "payloads overlap"
        elif ((self.label < 0) | (self.label >= num_classes)).any():
            problem = f"a label is not below {num_classes}, the number of classes"
        elif (self.origin >= len(ORIGINS)).any():
            problem = "an origin code is unknown"
        elif bool(num_payloads) != bool(num_samples) or (
            num_payloads
            and (
                self.first_row[0] != 0
                or (self.first_row[1:] <= self.first_row[:-1]).any()
                or self.first_row[-1] >= num_samples
            )
        ):
            problem = "the payloads' first rows do not divide the samples"
        if problem:
            raise FormatError(f"{place}: {problem}; fetch the file again")


def _index_columns() -> Iterator[tuple[str, str, str]]:
    """Name, stored dtype and count ('sample' or 'payload') of each column."""
    for column in fields(Index):
        if column.metadata:
            yield column.name, column.metadata["dtype"], column.metadata["per"]


def _item(dtype: str) -> str:
    """The numpy dtype of a column's values: hashes are rows of bytes."""
    return "|u1" if dtype == "|V16" else dtype


# --- Manifest --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PixelSums:
    """Exact sums over a split's 8-bit RGB pixels, from which its mean and deviation follow."""

    count: int
    """Pixels."""
    sums: tuple[int, int, int]
    """Sum of each channel's values."""
    square_sums: tuple[int, int, int]
    """Sum of each channel's squared values."""

    def __add__(self, other: "PixelSums") -> "PixelSums":
        r, g, b = (x + y for x, y in zip(self.sums, other.sums, strict=True))
        rr, gg, bb = (x + y for x, y in zip(self.square_sums, other.square_sums, strict=True))
        return PixelSums(self.count + other.count, (r, g, b), (rr, gg, bb))

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of each channel on the scale 0 to 1."""
        r, g, b = (total / (255 * self.count) for total in self.sums)
        return r, g, b

    @property
    def std(self) -> tuple[float, float, float]:
        """Population standard deviation of each channel on the scale 0 to 1.

        The variance is formed in integers, so nothing cancels.
        """
        r, g, b = (
            (self.count * squares - total * total) ** 0.5 / (255 * self.count)
            for total, squares in zip(self.sums, self.square_sums, strict=True)
        )
        return r, g, b


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard as its manifest describes it."""

    name: str
    size: int
    """Bytes."""
    sha256: str
    """Of the whole file, in hexadecimal."""
    index_offset: int
    """Where the index's content begins in the file."""
    index_length: int
    """The index's bytes."""
    index_sha256: str
    num_samples: int
    classes: dict[str, int]
    """Samples of each class."""
    origins: dict[str, int]
    """Samples of each origin."""


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """One split as its manifest describes it."""

    name: str
    first_id: int
    """The id of its first sample; ids go on from there in the shards' order."""
    num_samples: int
    image_sizes: dict[tuple[int, int], int]
    """(height, width) -> number of images."""
    pixels: PixelSums
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A dataset: what it holds, in which files, and the digests that prove it."""

    encoding: str
    block_size: int
    classes: tuple[str, ...]
    """A class's place here is its label."""
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
    def num_samples(self) -> int:
        return sum(split.num_samples for split in self.splits)

    def split(self, name: str) -> SplitInfo | None:
        """The split of this name, or None."""
        return next((split for split in self.splits if split.name == name), None)

    def to_bytes(self) -> bytes:
        """The manifest file's content, its own digest filled in."""
        content = {
            "format": "cinic-shards",
            "version": VERSION,
            "digest": "sha256:" + "0" * 64,
            "required_features": [],
            "encoding": self.encoding,
            "block_size": self.block_size,
            "image_shape": _image_shape(self.splits),
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
    def from_bytes(cls, data: bytes, *, place: str) -> "Manifest":
        """Parse and check a manifest.

        Args:
            place: what to call it in an error.

        Raises:
            FormatError: the bytes are no manifest, are damaged, or need a newer release.
        """
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{place}: not JSON ({error}); fetch the file again") from error
        if not isinstance(content, dict) or content.get("format") != "cinic-shards":
            raise FormatError(f"{place}: not a manifest of cinic-shards")
        _check_version(place, content.get("version"))
        features = _get(content, place, "required_features", list)
        if unknown := [str(name) for name in features if name not in KNOWN_FEATURES]:
            raise FormatError(
                f"{place}: needs {', '.join(unknown)}, which this release cannot read; "
                f"upgrade cinic-shards to one that reads format {content['version']}"
            )
        _check_digest(data, place, _get(content, place, "digest", str))
        encoding = _get(content, place, "encoding", str)
        if encoding not in ENCODINGS:
            raise FormatError(f"{place}: encoding {encoding!r} is unknown; upgrade cinic-shards")
        splits = tuple(
            _split_from_json(split, place) for split in _get(content, place, "splits", list)
        )
        next_id = 0
        for split in splits:
            if split.first_id != next_id:
                raise FormatError(f"{place}: split {split.name} begins at id {split.first_id}, "
                                  f"expected {next_id}")  # fmt: skip
            next_id += split.num_samples
        return cls(
            encoding,
            _get(content, place, "block_size", int),
            tuple(str(name) for name in _get(content, place, "classes", list)),
            splits,
            _get(content, place, "fingerprint", str),
            _get(content, place, "options", dict),
            _get(content, place, "libraries", dict),
            _get(content, place, "licence", str),
            _get(content, place, "citation", str),
        )


def _check_digest(data: bytes, place: str, stated: str) -> None:
    """The digest is over the file's own bytes, with zeros where the digest's digits stand."""
    digits = stated.removeprefix("sha256:").encode()
    blank = data.replace(b'"sha256:' + digits, b'"sha256:' + b"0" * len(digits), 1)
    found = hashlib.sha256(blank).hexdigest()
    if stated != f"sha256:{found}":
        raise FormatError(
            f"{place}: its content has SHA-256 {found}, its digest says {stated}; "
            "the file is damaged or was edited, fetch it again"
        )


def _check_version(place: str, version: object) -> None:
    major = VERSION.partition(".")[0]
    if not isinstance(version, str) or version.partition(".")[0] != major:
        raise FormatError(
            f"{place}: format version {version!r}; this release reads {major}.x, "
            "upgrade cinic-shards"
        )


def _image_shape(splits: Sequence[SplitInfo]) -> list[int] | None:
    """``[H, W, 3]`` where every image has one size, else None."""
    sizes = {size for split in splits for size in split.image_sizes}
    return [*sizes.pop(), 3] if len(sizes) == 1 else None


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


def _split_from_json(value: object, place: str) -> SplitInfo:
    if not isinstance(value, dict):
        raise FormatError(f"{place}: a split is {type(value).__name__}, expected an object")
    name = _get(value, place, "name", str)
    place = f"{place}: split {name}"
    shards = tuple(_shard_from_json(shard, place) for shard in _get(value, place, "shards", list))
    num_samples = _get(value, place, "num_samples", int)
    if sum(shard.num_samples for shard in shards) != num_samples:
        raise FormatError(f"{place}: its shards do not add up to {num_samples} samples")
    sizes = {}
    for row in _get(value, place, "image_sizes", list):
        height, width, count = _integers(row, 3, f"{place}: image_sizes")
        sizes[height, width] = count
    pixels = PixelSums(
        _get(value, place, "num_pixels", int),
        _integers(value.get("pixel_sums"), 3, f"{place}: pixel_sums"),
        _integers(value.get("pixel_square_sums"), 3, f"{place}: pixel_square_sums"),
    )
    return SplitInfo(name, _get(value, place, "first_id", int), num_samples, sizes, pixels, shards)


def _shard_from_json(value: object, place: str) -> ShardInfo:
    if not isinstance(value, dict):
        raise FormatError(f"{place}: a shard is {type(value).__name__}, expected an object")
    shard = ShardInfo(
        **{name: _get(value, place, name, kind) for name, kind in _SHARD_FIELDS.items()}
    )
    if not _SHARD_NAME.fullmatch(shard.name):
        raise FormatError(f"{place}: {shard.name!r} is no shard's name")
    if not (_SHA256.fullmatch(shard.sha256) and _SHA256.fullmatch(shard.index_sha256)):
        raise FormatError(f"{place}: {shard.name} has a SHA-256 that is not 64 hexadecimal digits")
    if shard.index_offset + shard.index_length > shard.size:
        raise FormatError(f"{place}: {shard.name} has its index outside the file")
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


def _integers(value: object, count: int, place: str) -> Any:
    """A list of this many non-negative integers, as a tuple."""
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(type(item) is int and item >= 0 for item in value)
    ):
        raise FormatError(f"{place}: {value!r}, expected {count} integers")
    return tuple(value)


def _get(content: dict[str, Any], place: str, name: str, expected: type) -> Any:
    """A field of the expected type; an integer must not be negative."""
    value = content.get(name)
    if type(value) is not expected or (expected is int and value < 0):
        raise FormatError(f"{place}: {name} is {value!r}, expected {expected.__name__}")
    return value
