"""A shard's index: columns of its samples and payloads, and the hash of an image's pixels."""

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from cinic_shards.errors import FormatError
from cinic_shards.format.blocks import (
    block_starts,
    check_block_bytes,
)
from cinic_shards.format.fields import (
    MAX_BLOCK_SIZE,
    MAX_NAME_BYTES,
    MAX_PIXELS,
    VERSION,
    Encodings,
    PayloadRules,
    check_version,
    class_names,
    get_field,
    get_integers,
    get_rules,
    shown,
)
from cinic_shards.format.provenance import ORIGINS, Provenance

PIXEL_HASH_BYTES = 16


def pixel_hashes(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compute the pixel hash of each image: BLAKE2b-128 over its shape and RGB pixels.

    Args:
        images: uint8, shape (N, H, W, 3), C-contiguous.

    Returns:
        uint8, shape (N, 16).
    """
    num_images = len(images)
    shape = struct.pack("<3I", *images.shape[1:])
    seeded = hashlib.blake2b(shape, digest_size=PIXEL_HASH_BYTES)
    digests = []
    size = images[0].size if num_images else 0
    pixels = images.reshape(-1).data
    for start in range(0, num_images * size, size or 1):
        state = seeded.copy()
        state.update(pixels[start : start + size])
        digests.append(state.digest())
    return np.frombuffer(b"".join(digests), np.uint8).reshape(num_images, PIXEL_HASH_BYTES)


def unpack_index(data: bytes, location: str) -> Any:
    """Unpack an index without checking its content.

    Raises:
        FormatError: the bytes are not msgpack.
    """
    try:
        return msgpack.unpackb(data)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise FormatError(location, f"not msgpack ({error}); fetch the file again") from error


_COLUMNS = (
    ("label", "<i4", "sample"),
    ("origin", "|u1", "sample"),
    ("synset", "<u4", "sample"),
    ("number", "<i8", "sample"),
    ("pixel_hash", "|V16", "sample"),
    ("offset", "<u8", "payload"),
    ("length", "<u8", "payload"),
    ("crc32", "<u4", "payload"),
    ("first_row", "<u8", "payload"),
)
"""Name and stored dtype of each column; and if it has a value per sample or per payload."""


@dataclass(frozen=True, slots=True)
class Index:
    """The columns of one shard's index: N samples in P payloads."""

    encoding: str
    block_size: int
    image_shape: tuple[int, int, int] | None
    """(H, W, 3) if all of the shard's images have one size, else None."""
    keys: list[str]
    """``split/class/stem`` of each sample."""
    label: NDArray[np.int32]
    """Label of each sample, shape (N,)."""
    origin: NDArray[np.uint8]
    """Position of each sample's origin in ``provenance.ORIGINS``, shape (N,)."""
    synset: NDArray[np.uint32]
    """The eight digits of the WordNet id as a number, 0 for none, shape (N,)."""
    number: NDArray[np.int64]
    """Number of the image in CIFAR-10's set or in its ImageNet synset, -1 for none, shape (N,)."""
    pixel_hash: NDArray[np.uint8]
    """``pixel_hashes`` of each sample, uint8, shape (N, 16)."""
    offset: NDArray[np.uint64]
    """Offset of each payload in the shard, shape (P,)."""
    length: NDArray[np.uint64]
    """Size of each payload in bytes, shape (P,)."""
    crc32: NDArray[np.uint32]
    """CRC-32 of each payload, shape (P,)."""
    first_row: NDArray[np.uint64]
    """First row of each payload in the shard, shape (P,)."""
    classes: tuple[str, ...] | None = None
    """The dataset's class names if a class has no sample in the dataset; else None, because the
    keys and labels of all shards give them."""

    def __len__(self) -> int:
        return len(self.keys)

    def provenance(self, row: int) -> Provenance:
        """Return the provenance of one sample."""
        synset = int(self.synset[row])
        return Provenance(
            ORIGINS[self.origin[row]], f"n{synset:08d}" if synset else "", int(self.number[row])
        )

    def fingerprint_input(self) -> bytes:
        """Return the bytes that this shard adds to the dataset's fingerprint."""
        labels = self.label.astype("<u4").tobytes()
        hashes = self.pixel_hash.tobytes()
        return b"".join(
            b"%b\0%b%b" % (key.encode(), labels[4 * i : 4 * i + 4], hashes[16 * i : 16 * i + 16])
            for i, key in enumerate(self.keys)
        )

    def to_bytes(self) -> bytes:
        """Encode the index as msgpack, as it is stored in a shard."""
        columns = {
            name: {"dtype": dtype, "data": getattr(self, name).astype(_item(dtype)).tobytes()}
            for name, dtype, _ in _COLUMNS
        }
        content = {
            "format": "cinic-shards-index",
            "version": VERSION,
            "encoding": self.encoding,
            "block_size": self.block_size,
            "image_shape": self.image_shape,
            "num_samples": len(self.keys),
            "num_payloads": len(self.offset),
            **({} if self.classes is None else {"classes": self.classes}),
            "keys": self.keys,
            "columns": columns,
        }
        data: bytes = msgpack.packb(content, use_bin_type=True)
        return data

    @classmethod
    def from_bytes(
        cls, data: bytes, *, location: str, end: int, num_classes: int, encodings: Encodings
    ) -> "Index":
        """Parse and check an index.

        Args:
            data: the bytes from ``to_bytes``.
            location: the index's location, for messages.
            end: offset of the index in its shard; every payload must end before it.
            num_classes: the number of classes; every label must be less.
            encodings: the encodings that can be read.

        Raises:
            FormatError: the bytes are not a valid index, or it points outside its shard.
        """
        content = unpack_index(data, location)
        if not isinstance(content, dict) or content.get("format") != "cinic-shards-index":
            raise FormatError(location, "not an index of cinic-shards; fetch the file again")
        check_version(location, content.get("version"))
        rules = get_rules(content, location, encodings)
        block_size = get_field(content, location, "block_size", int)
        image_shape = content.get("image_shape")
        if image_shape is not None:
            image_shape = get_integers(image_shape, 3, location, "image_shape")
        counts = {
            "sample": get_field(content, location, "num_samples", int),
            "payload": get_field(content, location, "num_payloads", int),
        }
        keys = get_field(content, location, "keys", list)
        if len(keys) != counts["sample"] or set(map(type, keys)) - {str}:
            raise FormatError(location, f"{len(keys)} keys for {counts['sample']} samples")
        if (longest := max(map(len, keys), default=0)) > 2 * MAX_NAME_BYTES + 1:
            raise FormatError(location, f"a key of {longest:,} characters; fetch the file again")
        classes = content.get("classes")
        if classes is not None:
            classes = class_names(classes, location)
        stored = get_field(content, location, "columns", dict)
        columns = {}
        for name, dtype, per in _COLUMNS:
            column = get_field(stored, location, name, dict)
            values = column.get("data")
            if type(values) is not bytes:
                reason = f"column {name}: data is {shown(values)}, expected bytes"
                raise FormatError(location, reason)
            expected_bytes = np.dtype(dtype).itemsize * counts[per]
            if column.get("dtype") != dtype or len(values) != expected_bytes:
                raise FormatError(
                    location,
                    f"column {name} has {len(values)} bytes of "
                    f"{shown(column.get('dtype'))}, expected {counts[per]} values of {dtype!r}",
                )
            array = np.frombuffer(values, _item(dtype))
            columns[name] = array.reshape(-1, PIXEL_HASH_BYTES) if dtype == "|V16" else array
        index = cls(content["encoding"], block_size, image_shape, keys, **columns, classes=classes)
        index._check(location, end, num_classes, rules)
        return index

    @property
    def block_starts(self) -> NDArray[np.int64]:
        """First row of each block, then N: shape (number of blocks + 1,)."""
        return block_starts(len(self), self.block_size)

    def describe_block(self, block: int) -> str:
        """Return a block's number and samples for a message: ``block 1 (samples 16 to 31)``."""
        first, stop = self.block_starts[block : block + 2].tolist()
        return f"block {block} (samples {first} to {stop - 1})"

    def _check(self, location: str, end: int, num_classes: int, rules: PayloadRules) -> None:
        problem = ""
        # Unsigned numbers: the lengths are checked first, so that no difference wraps around.
        if (self.length > end).any() or (self.offset > np.uint64(end) - self.length).any():
            problem = f"a payload is outside the shard's first {end} bytes"
        elif (self.offset[1:] < self.offset[:-1] + self.length[:-1]).any():
            problem = "payloads overlap"
        elif ((self.label < 0) | (self.label >= num_classes)).any():
            problem = f"a label is not below {num_classes}, the number of classes"
        elif self.classes is not None and (self.label >= len(self.classes)).any():
            problem = f"a label is not below {len(self.classes)}, the number of its classes"
        elif (self.origin >= len(ORIGINS)).any():
            problem = "an origin code is unknown"
        elif not 1 <= self.block_size <= MAX_BLOCK_SIZE:
            problem = f"block_size is {self.block_size}, expected 1 to {MAX_BLOCK_SIZE:,}"
        elif self.image_shape is not None and not (
            self.image_shape[2] == 3
            and 1 <= self.image_shape[0] * self.image_shape[1] <= MAX_PIXELS
        ):
            problem = f"image_shape is {self.image_shape}"
        else:
            starts = self.block_starts[:-1] if rules.has_blocks else np.arange(len(self))
            if not np.array_equal(self.first_row, starts):
                problem = "the payloads' first rows do not divide the samples"
            elif rules.has_blocks:
                problem = self._block_problem(location, rules.pixels_offset)
        if problem:
            raise FormatError(location, f"{problem}; fetch the file again")

    def _block_problem(self, location: str, pixels_offset: int | None) -> str:
        """Return what is wrong with the blocks' sizes, or an empty string."""
        if self.image_shape is None:
            return "it has blocks but no image_shape"
        check_block_bytes(min(self.block_size, len(self)), self.image_shape, location)
        pixels = np.diff(self.block_starts) * int(np.prod(self.image_shape))
        if pixels_offset is not None and not np.array_equal(self.length, pixels_offset + pixels):
            return "a block's length is not that of its header and pixels"
        return ""


def _item(dtype: str) -> str:
    """Return the numpy dtype of a column's values; a pixel hash is read as 16 bytes."""
    return "|u1" if dtype == "|V16" else dtype
