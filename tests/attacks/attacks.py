"""Hostile datasets: one folder for each attack, small, the same every time.

    python -m tests.attacks.attacks FOLDER

Nothing here uses the package, because it would refuse to write such datasets. Each attack starts
from a valid dataset of four images, and changes one thing. The digests are computed after the
change: they are right, so that they do not reveal it.
"""

import hashlib
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zstandard
from numpy.typing import NDArray

from tests.support.odd_pngs import GREY, PALETTE, RGB, RGBA, SIGNATURE, chunk, encode_png

SHARD = "train-00000-of-00001.tar"
OUTSIDE = "/tmp/cinic-shards-escaped"
"""No attack may make a file whose path starts with this."""

# Groups of entry points that must reject an attack.
READ_MANIFEST = "load verify unpack info duplicates"
READ_INDEX = "load verify unpack reindex duplicates"
CHECK_ALL = "verify reindex"
DECODE = "load verify reindex pack"


@dataclass(frozen=True, slots=True)
class Attack:
    """One hostile dataset."""

    make: Callable[[Path], None]
    """Writes the dataset to a folder that does not exist yet."""
    refused_by: frozenset[str]
    """Entry points that must raise or find a fault; others may do so too."""
    png: bytes = b""
    """The PNG for a tree to pack, if the attack is an image."""
    num_pixels: int = 16
    """Pixels of the largest image that may be decoded."""


ATTACKS: dict[str, Attack] = {}


# --- A dataset as parts that can be changed ---------------------------------------------------


@dataclass(slots=True)
class Image:
    """A sample."""

    key: str
    png: bytes
    rgb: NDArray[np.int64] | None = None
    """None: every pixel is black."""


@dataclass(slots=True)
class Member:
    """A tar member."""

    name: bytes
    content: bytes = b""
    kind: bytes = b"0"
    link: bytes = b""
    size: bytes = b""
    """The header's size field, if it differs from the content's size."""
    row: int | None = None
    """Row of the sample or block whose payload this is; None for other members."""

    def to_bytes(self) -> bytes:
        """Return header, content and padding."""
        size = self.size or b"%011o\0" % len(self.content)
        fields = [self.name, b"0000644\0", b"0000000\0", b"0000000\0", size, b"0" * 11 + b"\0",
                  b" " * 8, self.kind, self.link, b"ustar\0", b"00", b"", b"", b"0000000\0",
                  b"0000000\0", b""]  # fmt: skip
        header = struct.pack("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x", *fields)
        header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
        return header + self.content + bytes(-len(self.content) % 512)


Columns = dict[str, list[Any]]
Content = dict[str, Any]
Edit = Callable[[Any], object]
"""Changes a part before it is written."""


def _keep(part: Any) -> None:
    """Change nothing."""


@dataclass(slots=True)
class Draft:
    """The parts of a dataset; each function field changes a part before it is written."""

    images: list[Image]
    shape: tuple[int, int] = (4, 4)
    sidecars: tuple[str, ...] = ("cls",)
    encoding: str = "png"
    payload: Callable[[bytes], bytes] = lambda data: data
    """Changes the first block, in an encoding with blocks."""
    members: Edit = _keep
    """Changes the list of members."""
    columns: Edit = _keep
    """Changes the index's columns: name -> list."""
    index: Edit = _keep
    index_bytes: Callable[[bytes], bytes] = lambda data: data
    end: bytes = bytes(1024)
    """Bytes after the index's member."""
    manifest: Edit = _keep
    manifest_bytes: Callable[[bytes], bytes] = lambda data: data
    """Changes the manifest before its digest is filled in."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Files beside the shard: name -> content."""

    def write(self, folder: Path) -> None:
        """Write the dataset."""
        folder.mkdir(parents=True)
        shard, index_at, index_data = self._shard()
        (folder / SHARD).write_bytes(shard)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        manifest = self._manifest(shard, index_at, index_data)
        (folder / "manifest.json").write_bytes(manifest)

    def _shard(self) -> tuple[bytes, int, bytes]:
        """Return the shard's bytes, the offset of its index, and the index."""
        members = self._blocks() if self.encoding != "png" else []
        for row, image in enumerate(self.images if self.encoding == "png" else []):
            label = CLASSES.index(image.key.split("/")[1])
            members.append(Member(image.key.encode() + b".png", image.png, row=row))
            if "cls" in self.sidecars:
                members.append(Member(image.key.encode() + b".cls", b"%d" % label))
            if "json" in self.sidecars:
                members.append(Member(image.key.encode() + b".json", _json_sidecar(image.key)))
        self.members(members)
        data, offsets = b"", {}
        for member in members:
            if member.row is not None:
                offsets[member.row] = len(data) + 512
            data += member.to_bytes()
        payloads = {member.row: member.content for member in members if member.row is not None}
        index_data = self.index_bytes(self._index(offsets, payloads))
        at = len(data) + 512
        return data + Member(b"__index__", index_data).to_bytes() + self.end, at, index_data

    def _blocks(self) -> list[Member]:
        """Return the members of two blocks, of three images and of one."""
        members = []
        for block, images in enumerate((self.images[:BLOCK_SIZE], self.images[BLOCK_SIZE:])):
            pixels = np.stack([image.rgb for image in images if image.rgb is not None])
            payload = encode_block(pixels.astype(np.uint8), self.encoding)
            name = f"train/00000-{block:05d}.".encode()
            suffix = b"images.npy" if self.encoding == "raw" else b"images.zst"
            labels = np.array([CLASSES.index(image.key.split("/")[1]) for image in images], "<i8")
            content = payload if block else self.payload(payload)
            members.append(Member(name + suffix, content, row=block))
            members.append(Member(name + b"labels.npy", npy("<i8", labels)))
        return members

    def _index(self, offsets: dict[int, int], payloads: dict[int, bytes]) -> bytes:
        images = self.images
        first_row = list(range(0, len(images), 1 if self.encoding == "png" else BLOCK_SIZE))
        columns: Columns = {
            "label": [CLASSES.index(image.key.split("/")[1]) for image in images],
            "origin": [0] * len(images),
            "synset": [0] * len(images),
            "number": [-1] * len(images),
            "pixel_hash": [_pixel_hash(image, self.shape) for image in images],
            "offset": [offsets.get(row, 0) for row in range(len(images))],
            "length": [len(image.png) for image in images],
            "crc32": [zlib.crc32(image.png) for image in images],
            "first_row": first_row,
        }
        if self.encoding != "png":
            columns |= {
                "offset": [offsets[block] for block in payloads],
                "length": [len(data) for data in payloads.values()],
                "crc32": [zlib.crc32(data) for data in payloads.values()],
            }
        self.columns(columns)
        content = {
            "format": "cinic-shards-index",
            "version": "0.2",
            "encoding": self.encoding,
            "block_size": 1024 if self.encoding == "png" else BLOCK_SIZE,
            "image_shape": [*self.shape, 3],
            "num_samples": len(images),
            "num_payloads": len(first_row),
            "keys": [image.key for image in images],
            "columns": {
                name: {"dtype": dtype, "data": _column_data(columns[name], dtype)}
                for name, dtype in DTYPES.items()
            },
        }
        self.index(content)
        # A key may hold bytes that are not UTF-8.
        data: bytes = msgpack.packb(content, unicode_errors="surrogateescape")
        return data

    def _manifest(self, shard: bytes, index_at: int, index_data: bytes) -> bytes:
        num_samples = len(self.images)
        labels = [image.key.split("/")[1] for image in self.images]
        pixels = [image.rgb for image in self.images if image.rgb is not None]
        sums = sum((rgb.sum(axis=(0, 1)) for rgb in pixels), np.zeros(3, np.int64))
        squares = sum(((rgb**2).sum(axis=(0, 1)) for rgb in pixels), np.zeros(3, np.int64))
        num_pixels = num_samples * self.shape[0] * self.shape[1]
        variances = num_pixels * squares - sums * sums
        fingerprint = hashlib.blake2b(digest_size=32)
        for image, label in zip(self.images, labels, strict=True):
            fingerprint.update(image.key.encode() + b"\0")
            fingerprint.update(struct.pack("<I", CLASSES.index(label)))
            fingerprint.update(_pixel_hash(image, self.shape))
        content: Content = {
            "format": "cinic-shards",
            "version": "0.2",
            "digest": "sha256:" + "0" * 64,
            "required_features": [],
            "encoding": self.encoding,
            "block_size": 1024 if self.encoding == "png" else BLOCK_SIZE,
            "image_shape": [*self.shape, 3],
            "num_samples": num_samples,
            "fingerprint": f"blake2b:{fingerprint.hexdigest()}",
            "classes": sorted(set(labels)),
            "splits": [
                {
                    "name": "train",
                    "first_id": 0,
                    "num_samples": num_samples,
                    "mean": (sums / (255 * max(1, num_pixels))).tolist(),
                    "std": (np.sqrt(variances) / (255 * max(1, num_pixels))).tolist(),
                    "num_pixels": num_pixels,
                    "pixel_sums": sums.tolist(),
                    "pixel_square_sums": squares.tolist(),
                    "image_sizes": [[*self.shape, num_samples]],
                    "shards": [_shard_entry(SHARD, shard, index_at, index_data, labels)],
                }
            ],
            "options": {
                "seed": 0,
                "shard_size": 10240,
                "sidecars": list(self.sidecars) if self.encoding == "png" else [],
            },
            "libraries": {},
            "licence": "",
            "citation": "",
        }
        self.manifest(content)
        return seal(self.manifest_bytes((json.dumps(content, indent=1) + "\n").encode()))


def _shard_entry(
    name: str, shard: bytes, index_at: int, index_data: bytes, labels: list[str]
) -> Content:
    return {
        "name": name,
        "size": len(shard),
        "sha256": hashlib.sha256(shard).hexdigest(),
        "index_offset": index_at,
        "index_length": len(index_data),
        "index_sha256": hashlib.sha256(index_data).hexdigest(),
        "num_samples": len(labels),
        "classes": {label: labels.count(label) for label in sorted(set(labels))},
        "origins": {"unknown": len(labels)} if labels else {},
    }


def seal(data: bytes) -> bytes:
    """Fill in the manifest's digest."""
    digest = hashlib.sha256(data).hexdigest().encode()
    return data.replace(b"sha256:" + b"0" * 64, b"sha256:" + digest, 1)


def npy(descr: str, array: NDArray[Any]) -> bytes:
    """Return an npy file as specified in docs/format.md."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {array.shape}, }}"
    return b"\x93NUMPY\1\0\x76\0" + text.ljust(117).encode() + b"\n" + array.tobytes()


def left_over(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the residuals (3, N, H, W) of images (N, H, W, 3) after prediction."""
    red, green, blue = np.moveaxis(pixels, 3, 0)
    planes = np.stack([red - green, green, blue - green])
    for axis in (2, 3):
        planes = np.diff(planes, axis=axis, prepend=np.uint8(0))
    return planes


def encode_block(pixels: NDArray[np.uint8], encoding: str) -> bytes:
    """Return the payload of a block of images (N, H, W, 3)."""
    if encoding == "raw":
        return npy("|u1", pixels)
    return zstd(npy("|u1", left_over(pixels)))


def zstd(content: bytes, **options: Any) -> bytes:
    """Compress to one zstd frame."""
    return zstandard.ZstdCompressor(level=1, **options).compress(content)


BLOCK_SIZE = 3
CLASSES = ["cat", "dog"]
DTYPES = {
    "label": "<i4",
    "origin": "|u1",
    "synset": "<u4",
    "number": "<i8",
    "pixel_hash": "|V16",
    "offset": "<u8",
    "length": "<u8",
    "crc32": "<u4",
    "first_row": "<u8",
}


def _column_data(values: list[Any], dtype: str) -> bytes:
    if dtype == "|V16":
        return b"".join(values)
    return np.array(values, dtype).tobytes()


def _pixel_hash(image: Image, shape: tuple[int, int]) -> bytes:
    if image.rgb is None:
        return _hash_of_black(*shape)
    pixels = image.rgb.astype(np.uint8).tobytes()
    return hashlib.blake2b(struct.pack("<3I", *shape, 3) + pixels, digest_size=16).digest()


@cache
def _hash_of_black(height: int, width: int) -> bytes:
    digest = hashlib.blake2b(struct.pack("<3I", height, width, 3), digest_size=16)
    digest.update(bytes(3 * height * width))
    return digest.digest()


def _json_sidecar(key: str) -> bytes:
    name = key.split("/")[1]
    values = {"key": key, "class": name, "label": CLASSES.index(name), "origin": "unknown",
              "synset": "", "number": -1}  # fmt: skip
    return json.dumps(values, separators=(",", ":")).encode()


def _in_packing_order(images: Iterable[Image]) -> list[Image]:
    """Sort in packing order; for seed 0, the hash is keyed with eight zeros."""

    def place(image: Image) -> bytes:
        return hashlib.blake2b(image.key.encode(), key=bytes(8), digest_size=16).digest()

    return sorted(images, key=place)


@cache
def good_images() -> tuple[Image, ...]:
    """Return the four images, 4x4 pixels, that all attacks start from."""
    keys = ["train/cat/a", "train/cat/b", "train/dog/c", "train/dog/d"]
    images = []
    for seed, key in enumerate(keys):
        rgb = np.random.default_rng(seed).integers(0, 256, (4, 4, 3))
        images.append(Image(key, encode_png(rgb, RGB, 8), rgb))
    return tuple(_in_packing_order(images))


def deep(levels: int) -> list[Any]:
    """Nest lists."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def put(*path: Any, to: object) -> Edit:
    """Return an edit that sets the value at a path of names and positions."""

    def edit(part: Any) -> None:
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = to

    return edit


def change(**parts: Any) -> Draft:
    """Return a draft of the valid dataset with some parts changed."""
    draft = Draft([Image(image.key, image.png, image.rgb) for image in good_images()])
    for name, value in parts.items():
        setattr(draft, name, value)
    return draft


def attack(name: str, refused_by: str, **parts: Any) -> None:
    """Add an attack that changes parts of the valid dataset."""
    ATTACKS[name] = Attack(
        lambda folder: change(**parts).write(folder), frozenset(refused_by.split())
    )


# --- Blocks -----------------------------------------------------------------------------------

ATTACKS["raw: nothing is wrong"] = Attack(change(encoding="raw").write, frozenset())
ATTACKS["zstd: nothing is wrong"] = Attack(change(encoding="zstd").write, frozenset())

READ_BLOCK = "load verify unpack reindex"
RAW_LENGTH = READ_BLOCK + " duplicates"


def another_header(descr: str, *shape: int) -> Callable[[bytes], bytes]:
    """Return an edit that replaces the npy header of an array."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    head = b"\x93NUMPY\1\0\x76\0" + text.ljust(117).encode() + b"\n"
    return lambda content: head + content[128:]


def inside(edit: Callable[[bytes], bytes], **options: Any) -> Callable[[bytes], bytes]:
    """Return an edit of the content of a zstd frame."""
    return lambda payload: zstd(edit(zstandard.ZstdDecompressor().decompress(payload)), **options)


def states(size: int) -> Callable[[bytes], bytes]:
    """Return an edit of the content size in a zstd frame's header, as an 8-byte field."""
    return lambda payload: payload[:4] + b"\xe0" + struct.pack("<Q", size) + payload[6:]


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "objects": another_header("|O", 3, 4, 4, 3),
    "2^62 images": another_header("|u1", 2**62, 4, 4, 3),
    "another shape": another_header("|u1", 3, 3, 8, 2),
    "no header": lambda content: bytes(128) + content[128:],
}
for said, header_of in HEADERS.items():
    attack(f"raw: {said}", "verify reindex unpack", encoding="raw", payload=header_of)
    attack(f"zstd: {said}", READ_BLOCK, encoding="zstd", payload=inside(header_of))
for said, content in {
    "a byte too few": lambda content: content[:-1],
    "a byte too many": lambda content: content + b"\0",
    "nothing": lambda content: b"",
}.items():
    attack(f"raw: {said}", RAW_LENGTH, encoding="raw", payload=content)
    attack(f"zstd: {said}", READ_BLOCK, encoding="zstd", payload=inside(content))
for said, payload_of in {
    "a bomb": inside(lambda content: content + bytes(2**28)),
    "a bomb that states nothing": inside(
        lambda content: content + bytes(2**28), write_content_size=False
    ),
    "no content size": inside(lambda content: content, write_content_size=False),
    "a content size of 2^60": states(2**60),
    "a content size of 2^63": states(2**63),
    "a content size of 2^64 - 1": states(2**64 - 1),
    "no frame": lambda payload: b"\0" * len(payload),
    "a skippable frame": lambda payload: b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + payload[:4],
    "half a frame": lambda payload: payload[: len(payload) // 2],
    "two frames": lambda payload: payload + payload,
}.items():
    attack(f"zstd: {said}", READ_BLOCK, encoding="zstd", payload=payload_of)
for kind in ("raw", "zstd"):
    for said, path, value in (
        ("blocks of 0", "block_size", 0),
        ("blocks of 2^40", "block_size", 2**40),
        ("blocks of 2", "block_size", 2),
        ("blocks of true", "block_size", True),
        ("another encoding", "encoding", "jpg"),
        ("the encoding png", "encoding", "png"),
        ("no image shape", "image_shape", None),
        ("images of 2^52 pixels", "image_shape", [2**26, 2**26, 3]),
        ("images of 2^25 pixels", "image_shape", [2**12, 2**13, 3]),
        ("images of 0 pixels", "image_shape", [0, 4, 3]),
        ("images of four channels", "image_shape", [4, 4, 4]),
        ("images of 2x8", "image_shape", [2, 8, 3]),
    ):
        refused = "load verify reindex unpack duplicates"
        if said == "images of 2x8" or (said, kind) == ("blocks of 2", "zstd"):
            refused = "load verify reindex"
        attack(f"{kind}: index: {said}", refused, encoding=kind, index=put(path, to=value))
    attack(
        f"{kind}: another label beside",
        CHECK_ALL,
        encoding=kind,
        members=lambda members: setattr(members[1], "content", members[1].content[:-1] + b"\1"),
    )
    attack(
        f"{kind}: payloads overlap",
        RAW_LENGTH,
        encoding=kind,
        columns=lambda columns: columns["offset"].__setitem__(1, columns["offset"][0]),
    )
    attack(
        f"{kind}: a manifest of two image sizes",
        READ_MANIFEST,
        encoding=kind,
        manifest=put("splits", 0, "image_sizes", to=[[4, 4, 3], [5, 5, 1]]),
    )
    attack(
        f"{kind}: a manifest of blocks of 2^40",
        READ_MANIFEST,
        encoding=kind,
        manifest=put("block_size", to=2**40),
    )


# --- Tar members ------------------------------------------------------------------------------


def member(name: str, refused_by: str, *more: Member, at: int = 0) -> None:
    """Add an attack that inserts members; the index still has the right offsets of payloads."""

    def insert(members: list[Member]) -> None:
        members[at:at] = more

    attack(f"tar: {name}", refused_by, members=insert)


PASSWORDS = b"/etc/passwd"
PAX_PATH = b"31 path=../../escaped-by-pax.x\n"
PAX_SIZE = b"19 size=9999999999\n"
NOT_AN_INDEX = b"\xdd\xff\xff\xff\xff"

for said, one in {
    "a member that climbs": Member(b"../../escaped.png", SIGNATURE),
    "an absolute member": Member(OUTSIDE.encode() + b".png", SIGNATURE),
    "a symbolic link": Member(b"train/cat/z.png", kind=b"2", link=PASSWORDS),
    "a linked folder": Member(b"train/cat", kind=b"2", link=b"/tmp"),
    "a hard link": Member(b"train/cat/z.png", kind=b"1", link=PASSWORDS),
    "a character device": Member(b"train/cat/z.png", kind=b"3"),
    "a block device": Member(b"train/cat/z.png", kind=b"4"),
    "a folder": Member(b"train/cat/z.png/", kind=b"5"),
    "a named pipe": Member(b"train/cat/z.png", kind=b"6"),
    "a sparse file of GNU tar": Member(b"train/cat/z.png", bytes(512), kind=b"S"),
    "a long name of GNU tar": Member(b"././@LongLink", b"../x\0", kind=b"L"),
    "a PAX path": Member(b"PaxHeaders/a", PAX_PATH, kind=b"x"),
    "a PAX size": Member(b"PaxHeaders/a", PAX_SIZE, kind=b"x"),
    "a PAX path for all": Member(b"PaxHeaders/a", PAX_PATH, kind=b"g"),
    "a PNG twice": Member(good_images()[0].key.encode() + b".png", SIGNATURE),
    "another index first": Member(b"__index__", NOT_AN_INDEX),
    "an index larger than the file": Member(b"__index__", size=b"7" * 11 + b"\0"),
    "a member of 8 GiB": Member(b"a", size=b"7" * 11 + b"\0"),
    "a size in base 256": Member(b"a", size=b"\x80" + b"\xff" * 11),
    "a negative size": Member(b"a", size=b"\xff" * 12),
    "a size that is no number": Member(b"a", size=b"-0000000001\0"),
}.items():
    member(said, CHECK_ALL, one)
member("another index last", CHECK_ALL, Member(b"__index__", NOT_AN_INDEX), at=8)
member("1,500 empty members", CHECK_ALL, *[Member(b"a")] * 1500)
for said, end in {
    "no end": b"",
    "bytes behind the end": bytes(1024) + b"more",
    "members behind the index": Member(b"../x").to_bytes() + bytes(1024),
}.items():
    attack(f"tar: {said}", CHECK_ALL, end=end)


def with_member(position: int, field_name: str, value: object) -> Edit:
    """Return an edit of one member; each sample has two."""
    return lambda members: setattr(members[position], field_name, value)


for said, edit in {
    "another name for a payload": with_member(2, "name", b"../../escaped.png"),
    "a payload that is a link": with_member(2, "kind", b"2"),
    "another label beside": with_member(1, "content", b"7"),
    "a sidecar of other bytes": with_member(3, "content", b"x" * 5000),
    "a sidecar too few": list.pop,
}.items():
    attack(f"tar: {said}", CHECK_ALL, members=edit)


# --- Wrong indexes ----------------------------------------------------------------------------

LOADED, INDEXED = CHECK_ALL + " load unpack", READ_INDEX
CELLS: dict[str, tuple[str, str, int, Any]] = {
    "offset behind the file": (INDEXED, "offset", 3, 2**30),
    "offset that is negative": (INDEXED, "offset", 3, 2**64 - 512),
    "offset of 2^63": (INDEXED, "offset", 3, 2**63),
    "payload in the index": (INDEXED, "offset", 3, 8704),
    "payload in the index's header": (LOADED, "offset", 3, 8200),
    "payload in a header": (LOADED, "offset", 0, 0),
    "length of 2^64 - 1": (INDEXED, "length", 1, 2**64 - 1),
    "length into the next payload": (INDEXED, "length", 1, 2500),
    "length too short": (LOADED, "length", 1, 20),
    "length of zero": (LOADED, "length", 1, 0),
    "CRC-32": (LOADED, "crc32", 1, 1),
    "pixel hash": (CHECK_ALL, "pixel_hash", 1, bytes(16)),
    "label too high": (INDEXED, "label", 1, 2),
    "label negative": (INDEXED, "label", 1, -1),
    "label of 2^31 - 1": (INDEXED, "label", 1, 2**31 - 1),
    "origin unknown": (INDEXED, "origin", 1, 200),
    "origin of another name": (CHECK_ALL, "origin", 1, 3),
    "synset of ten digits": (CHECK_ALL, "synset", 1, 2**32 - 1),
    "number of -2^63": (CHECK_ALL, "number", 1, -(2**63)),
    "first row twice": (INDEXED, "first_row", 1, 0),
    "first row of 2^64 - 1": (INDEXED, "first_row", 3, 2**64 - 1),
}
for said, (refused, column, row, value) in CELLS.items():
    attack(f"index: {said}", refused, columns=put(column, row, to=value))


def _longer(columns: Columns) -> None:
    """Include some padding in a payload; its CRC-32 and all else is right."""
    data = good_images()[1].png + bytes(9)
    columns["length"][1], columns["crc32"][1] = len(data), zlib.crc32(data)


def _same_payload(columns: Columns) -> None:
    for name in ("offset", "length", "crc32", "pixel_hash"):
        columns[name][1] = columns[name][0]


def _no_bytes(columns: Columns) -> None:
    columns["length"][:] = [0] * 4
    columns["crc32"][:] = [0] * 4


def _wrap(columns: Columns) -> None:
    columns["offset"][3], columns["length"][3] = 2**64 - 100, 200


def _sidecar_as_png(columns: Columns) -> None:
    """Use a sidecar of one byte, the label's digit, as a payload."""
    columns["offset"][3] += 1024
    columns["length"][3] = 1
    columns["crc32"][3] = zlib.crc32(b"%d" % columns["label"][3])


def _other_label(columns: Columns) -> None:
    columns["label"][1] = 1 - columns["label"][1]


for said, refused, edit in (
    ("payload longer, its CRC-32 right", CHECK_ALL, _longer),
    ("the same payload twice", INDEXED, _same_payload),
    ("no bytes anywhere", LOADED, _no_bytes),
    ("offset and length wrap", INDEXED, _wrap),
    ("a payload that is no PNG", LOADED, _sidecar_as_png),
    ("label of another class", CHECK_ALL, _other_label),
    ("payloads backwards", INDEXED, lambda columns: columns["offset"].reverse()),
):
    attack(f"index: {said}", refused, columns=edit)

for said, count in {"2^60": 2**60, "2^53 - 1": 2**53 - 1, "0": 0, "-1": -1}.items():
    attack(f"index: {said} samples", INDEXED, index=put("num_samples", to=count))
    attack(f"index: {said} payloads", INDEXED, index=put("num_payloads", to=count))

KEYS = {
    "of another split": "test/cat/a",
    "that climbs": "train/../a",
    "that climbs far": "../../../escaped",
    "that climbs in its stem": "train/cat/../../escaped",
    "that is absolute": OUTSIDE,
    "that is absolute in parts": "/tmp/x",
    "of two parts": "train/a",
    "of four parts": "train/cat/x/a",
    "that is empty": "",
    "of empty parts": "train//",
    "of a hidden class": "train/.git/a",
    "of two dots": "train/cat/..",
    "with a dot": "train/cat/a.tar",
    "with a zero": "train/cat/a\0b",
    "with a line end": "train/cat/a\nerror: all is well",
    "that steers a terminal": "train/cat/\x1b[2Ja",
    "with a backslash": "train/cat\\..\\..\\a",
    "that is long": "train/cat/" + "a" * 96,
    "that is very long": "train/" + "c" * 500_000 + "/a",
    "that is there twice": good_images()[0].key,
}
for said, key in KEYS.items():
    attack(f"index: key {said}", CHECK_ALL + " unpack", index=put("keys", 1, to=key))
for said, key in {"no UTF-8": "train/cat/\udcff", "half a letter": "\udced\udca0\udc80"}.items():
    attack(f"index: key that is {said}", INDEXED, index=put("keys", 1, to=key))
attack(
    "index: keys without parts, pixels the same",
    CHECK_ALL + " unpack duplicates",
    columns=put("pixel_hash", to=[bytes(16)] * 4),
    index=put("keys", to=["a", "b", "", "\x1b[2J"]),
)


def _swap_keys(content: Content) -> None:
    keys = content["keys"]
    keys[0], keys[1] = keys[1], keys[0]


attack("index: keys of each other", CHECK_ALL, index=_swap_keys)

LABELS, OFFSETS = ("columns", "label"), ("columns", "offset")
for said, edit in {
    "a column missing": lambda content: content["columns"].pop("crc32"),
    "a column a value short": put(*LABELS, "data", to=bytes(12)),
    "a column of text": put(*LABELS, "data", to="0" * 16),
    "a column of numbers": put(*LABELS, "data", to=[0, 0, 1, 1]),
    "a column that is no map": put(*LABELS, to=bytes(16)),
    "a dtype of objects": put(*OFFSETS, "dtype", to="|O"),
    "a dtype of fields": put(*OFFSETS, "dtype", to="<u4,<u4"),
    "a dtype that is no text": put(*OFFSETS, "dtype", to=[["a", "|O"]]),
    "a dtype 200 deep": put(*OFFSETS, "dtype", to=deep(200)),
    "big-endian": put(*OFFSETS, "dtype", to=">u8"),
    "no columns": put("columns", to=[]),
    "no keys": put("keys", to=None),
    "a key that is a number": put("keys", 0, to=7),
    "a key too many": lambda content: content["keys"].append("train/cat/z"),
    "another format": put("format", to="cinic-shards"),
    "another version": put("version", to="9.0"),
    "a version of 500,000 letters": put("version", to="9" * 500_000),
}.items():
    attack(f"index: {said}", INDEXED, index=edit)


def _no_second_sidecars(members: list[Member]) -> None:
    """End the file where they would be."""
    del members[4:]


def _third_is_empty(columns: Columns) -> None:
    columns["offset"][2] = columns["offset"][1] + columns["length"][1]
    columns["length"][2] = columns["crc32"][2] = 0


def _no_last_sidecars(members: list[Member]) -> None:
    del members[7:]


BOTH: dict[str, Any] = {
    "images": list(good_images()[:3]),
    "sidecars": ("cls", "json"),
    "end": b"",
}
attack(
    "index: first sidecars behind the end",
    LOADED,
    **BOTH,
    members=_no_second_sidecars,
    columns=_third_is_empty,
)
attack("index: last sidecars behind the end", CHECK_ALL, **BOTH, members=_no_last_sidecars)

EMPTY_SHARD, EMPTY_INDEX = "train-00001-of-00002.tar", change(images=[])._index({}, {})


def _empty_shard(content: Content) -> None:
    """Add a shard that is only an index, with no samples."""
    entry = _shard_entry(EMPTY_SHARD, EMPTY_INDEX, 0, EMPTY_INDEX, [])
    content["splits"][0]["shards"].append(entry)


attack(
    "index: of no samples, at the file's start",
    CHECK_ALL,
    manifest=_empty_shard,
    files={EMPTY_SHARD: EMPTY_INDEX},
)


# --- msgpack bombs ----------------------------------------------------------------------------

LIMIT = 900_000
"""Size of the larger bombs in bytes."""


def instead(data: bytes) -> Callable[[bytes], bytes]:
    """Return an edit that replaces all bytes."""
    return lambda old: data


def with_field(name: str, value: bytes) -> Callable[[bytes], bytes]:
    """Return an edit that adds a field to an index; of two fields of one name, the last counts."""
    return lambda data: bytes([data[0] + 1]) + data[1:] + msgpack.packb(name) + value


def list_of(count: int) -> bytes:
    """Return the head of a list of ``count`` items."""
    return b"\xdd" + struct.pack(">I", count)


for said, bomb in {
    "a list of 2^32 - 1": b"\xdd\xff\xff\xff\xff",
    "a list of 2^31": b"\xdd\x80\0\0\0" + bytes(1000),
    "a map of 2^32 - 1": b"\xdf\xff\xff\xff\xff",
    "a text of 2^32 - 1": b"\xdb\xff\xff\xff\xff",
    "bytes of 2^32 - 1": b"\xc6\xff\xff\xff\xff",
    "an extension of 2^32 - 1": b"\xc9\xff\xff\xff\xff\x05",
    "lists in lists": b"\x91" * LIMIT,
    "maps in maps": b"\x81\xa1a" * (LIMIT // 3),
    "lists in lists, each of 900,000": list_of(LIMIT) * 1000 + bytes(LIMIT),
    "a wrong time": b"\xc7\x0c\xff" + b"\xff" * 12,
    "a byte of no meaning": b"\xc1",
}.items():
    attack(f"msgpack: {said}", INDEXED, index_bytes=instead(bomb))
    attack(f"msgpack: {said}, in a field", INDEXED, index_bytes=with_field("later", bomb))
for name in ("num_samples", "version", "format", "keys", "columns"):
    bomb = b"\x91" * 1000 + b"\x90"
    attack(f"msgpack: {name} is 1,000 deep", INDEXED, index_bytes=with_field(name, bomb))
for said, item in {
    "lists": b"\x90",
    "maps": b"\x80",
    "texts": b"\xa1x",
    "times": b"\xd6\xff\0\0\0\1",
    "extensions": b"\xd4\5\0",
    "floats": b"\xca\0\0\0\0",
}.items():
    count = LIMIT // 3 // len(item)
    bomb = list_of(count) + item * count
    attack(f"msgpack: many {said}", "", index_bytes=with_field("later", bomb))
attack(
    "msgpack: many lists as keys",
    INDEXED,
    index_bytes=with_field("keys", list_of(LIMIT // 3) + b"\x90" * (LIMIT // 3)),
)
attack(
    "msgpack: a name 100,000 times",
    "",
    index_bytes=with_field("later", b"\xdf\0\1\x86\xa0" + b"\xa1a\xc0" * 100_000),
)
attack("msgpack: bytes behind it", INDEXED, index_bytes=lambda data: data + b"\0")
attack("msgpack: nothing", INDEXED, index_bytes=instead(b""))


# --- PNGs -------------------------------------------------------------------------------------


@cache
def deflated_zeros(size: int) -> bytes:
    """Return the zlib stream of ``size`` zeros, without compressing all of them."""
    step = 2**20
    first = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = first.compress(bytes(step)) + first.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    rest = last.compress(bytes(size % step)) + last.flush()
    adler = (size % 65521 << 16) | 1
    return b"\x78\xda" + block * (size // step) + rest + struct.pack(">I", adler)


def header(height: int, width: int, *kind: int) -> bytes:
    """Return signature and IHDR chunk, by default for 8-bit RGB."""
    body = struct.pack(">II5B", width, height, *(kind or (8, RGB, 0, 0, 0)))
    return SIGNATURE + chunk(b"IHDR", body)


END = chunk(b"IEND", b"")


def png(
    name: str,
    refused_by: str,
    data: bytes,
    shape: tuple[int, int] = (4, 4),
    *,
    black: bool = False,
) -> None:
    """Add an attack with one image; if decoded, its pixels are those of a valid one, or black."""

    def write(folder: Path) -> None:
        rgb = None if black else good_images()[0].rgb
        change(images=[Image("train/cat/a", data, rgb)], shape=shape).write(folder)

    num_pixels = shape[0] * shape[1]
    ATTACKS[f"PNG: {name}"] = Attack(write, frozenset(refused_by.split()), data, num_pixels)


def before(*chunks: bytes) -> bytes:
    """Return a valid image with chunks inserted before its pixels."""
    data = good_images()[0].png
    return data[:33] + b"".join(chunks) + data[33:]


def behind(*chunks: bytes) -> bytes:
    """Return a valid image with chunks inserted after its pixels."""
    return good_images()[0].png[:-12] + b"".join(chunks) + END


for said, (height, width) in {
    "2^31": (2**15, 2**16),
    "2^62": (2**31 - 1, 2**31 - 1),
    "2^64": (2**32 - 1, 2**32 - 1),
    "no": (0, 0),
    "2^26 + 8,192": (8193, 8192),
}.items():
    png(f"{said} pixels", DECODE, header(height, width) + chunk(b"IDAT", deflated_zeros(999)) + END)

SIDE = 2**13
LARGEST = (SIDE, SIDE)
"""2^26 pixels, the most that an image may have."""
for said, kind, num_bytes in (
    ("RGB", (8, RGB, 0, 0, 0), SIDE + 3 * SIDE**2),
    ("grey of 1 bit", (1, GREY, 0, 0, 0), SIDE + SIDE**2 // 8),
    # Interlacing divides every 8 rows into 15.
    ("RGBA of 16 bits, interlaced", (16, RGBA, 0, 0, 1), SIDE // 8 * 15 + 8 * SIDE**2),
):
    data = header(SIDE, SIDE, *kind) + chunk(b"IDAT", deflated_zeros(num_bytes)) + END
    png(f"2^26 pixels, {said}", "", data, LARGEST, black=True)
png(
    "2^26 pixels in one row",
    "",
    header(1, SIDE**2) + chunk(b"IDAT", deflated_zeros(1 + 3 * SIDE**2)) + END,
    (1, SIDE**2),
    black=True,
)
png("2^26 pixels, said of a small image", "load verify", before(), LARGEST)
png("2^26 pixels, without data", DECODE, header(SIDE, SIDE) + END, LARGEST)
attack(
    "PNG: 600 that are said to be of 2^26 pixels",
    "load verify reindex unpack",
    images=[Image(f"train/cat/{number}", b"") for number in range(600)],
    shape=LARGEST,
)

BOMB = deflated_zeros(600_000_000)
STARTS = {"zTXt": b"k\0\0", "iTXt": b"k\0\1\0\0\0", "iCCP": b"k\0\0"}
"""Chunk type -> its data before the zlib stream."""
png("600 MB more than needed", "", header(4, 4) + chunk(b"IDAT", BOMB) + END, black=True)
PARTS = [chunk(b"IDAT", BOMB[at : at + 1000]) for at in range(0, len(BOMB), 1000)]
png("600 MB more in many chunks", "", header(4, 4) + b"".join(PARTS) + END, black=True)
for said, start in STARTS.items():
    large = chunk(said.encode(), start + BOMB)
    png(f"{said} of 600 MB", DECODE, before(large))
    png(f"{said} of 600 MB behind the pixels", "", behind(large))
    small = chunk(said.encode(), start + deflated_zeros(2**20 - 16))
    png(f"{said} of 1 MB, 200 times", "" if said == "iCCP" else DECODE, before(*[small] * 200))
for said, body in {"prVt": b"", "tEXt": b"k\0", "IDAT": b"", "PLTE": bytes(3)}.items():
    chunks = [chunk(said.encode(), body)] * 50_000
    png(f"{said} 50,000 times", "", before(*chunks))
    png(f"{said} 50,000 times behind the pixels", "", behind(*chunks))
png("chunks without an end", DECODE, header(4, 4) + chunk(b"prVt", b"") * 50_000)
for said, length in {"2^31": 2**31, "2^32 - 1": 2**32 - 1}.items():
    for of_type in ("IDAT", "zTXt", "prVt", "IEND"):
        head = struct.pack(">I", length) + of_type.encode()
        png(f"{of_type} of {said} bytes", DECODE if of_type == "IDAT" else "", before(head))
        png(f"{of_type} of {said} bytes behind the pixels", "", behind(head))
for length in (0, 8, 20, 33, 41, 60):
    png(f"cut after {length} bytes", DECODE, good_images()[0].png[:length])
png("a header that comes twice, larger", DECODE, before(header(SIDE, SIDE)[8:]))
png("a larger header behind the pixels", "", behind(header(SIDE, SIDE)[8:]))
png("a header of 12 bytes", DECODE, SIGNATURE + chunk(b"IHDR", header(4, 4)[16:28]) + END)
png(
    "an animation of 2^32 - 1 frames",
    "",
    before(chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0))),
)
png(
    "an animation of a larger frame",
    "",
    before(
        chunk(b"acTL", struct.pack(">II", 2, 0)),
        chunk(b"fcTL", struct.pack(">5I2H2B", 0, 2**31 - 1, 2**31 - 1, 0, 0, 0, 0, 0, 0)),
    ),
)
for said, refused, kind in (
    ("depth 3", DECODE, (3, RGB, 0, 0, 0)),
    ("colour 9", DECODE, (8, 9, 0, 0, 0)),
    ("method 1", "", (8, RGB, 1, 0, 0)),
    ("filter 1", DECODE, (8, RGB, 0, 1, 0)),
    ("interlace 9", "", (8, RGB, 0, 0, 9)),
):
    png(said, refused, header(4, 4, *kind) + good_images()[0].png[33:])
INDEXED_COLOUR = header(4, 4, 8, PALETTE, 0, 0, 0)
BEYOND = chunk(b"IDAT", zlib.compress(b"\0\xff\xff\xff\xff" * 4))
png("no palette", "", INDEXED_COLOUR + chunk(b"IDAT", deflated_zeros(20)) + END, black=True)
png("an empty palette", "", INDEXED_COLOUR + chunk(b"PLTE", b"") + BEYOND + END, black=True)
GREY_OF_8 = header(4, 4, 8, GREY, 0, 0, 0) + chunk(b"IDAT", deflated_zeros(20))
RGB_TRANSPARENCY = header(4, 4)[8:] + chunk(b"tRNS", bytes(6))
png("transparency of another kind", "", GREY_OF_8 + RGB_TRANSPARENCY + END, black=True)
png("text that is no PNG", DECODE + " unpack", b"#!/bin/sh\necho harm\n" * 10)


# --- Manifests --------------------------------------------------------------------------------

SPLIT = ("splits", 0)
SHARD_ENTRY = ("splits", 0, "shards", 0)


def manifest(name: str, refused_by: str, *edits: Edit) -> None:
    """Add an attack that changes the manifest's content."""

    def edit_all(content: Content) -> None:
        for edit in edits:
            edit(content)

    attack(f"manifest: {name}", refused_by, manifest=edit_all)


def _fields() -> dict[str, tuple[tuple[Any, ...], object]]:
    """Return name -> path and right value, for every field."""
    content: Content = {}
    change(manifest=content.update)._manifest(b"", 0, b"")
    fields = {name: ((name,), value) for name, value in content.items()}
    for said, path in (("split's ", SPLIT), ("shard's ", SHARD_ENTRY)):
        part: Any = content
        for step in path:
            part = part[step]
        fields |= {f"{said}{name}": ((*path, name), value) for name, value in part.items()}
    return fields


NOT_READ = ("image_shape", "num_samples", "split's mean", "split's std")
TERMINAL = "\x1b[2J\x9b\u202e"
for said, (path, right) in _fields().items():
    refused = "" if said in NOT_READ else READ_MANIFEST
    other: object = ["a"] if isinstance(right, dict) else {"a": [1]}
    manifest(f"{said} of another type", refused, put(*path, to=other))
    if isinstance(right, int):
        manifest(f"{said} is -1", refused, put(*path, to=-1))
        manifest(f"{said} is 10^4000", refused, put(*path, to=10**4000))
        manifest(f"{said} is true", refused, put(*path, to=True))
        refused = "" if said in NOT_READ else "verify"
        manifest(f"{said} is 2^53 - 1", refused, put(*path, to=2**53 - 1))
    if isinstance(right, str):
        manifest(f"{said} is half a letter", READ_MANIFEST, put(*path, to="\ud800"))
        refused = "" if said in ("licence", "citation") else "verify"
        manifest(f"{said} steers a terminal", refused, put(*path, to=TERMINAL))

for name in (
    *("../x.tar", "../../../../etc/passwd", "/etc/passwd", "/tmp/x.tar", "a/b.tar", "..tar", "..."),
    *(".", "", "x.tar\n", "x\0.tar", "C:x.tar", "manifest.json", "-x.tar", "a" * 5000),
):
    manifest(f"a shard named {name[:30]!r}", READ_MANIFEST, put(*SHARD_ENTRY, "name", to=name))
manifest(
    "a shard of a long name",
    "load verify unpack duplicates",
    put(*SHARD_ENTRY, "name", to="a" * 5000 + ".tar"),
)
for name in ("..", ".", "", "/tmp", "a/b", "../x", "__x", "train\n", "tr\xe4in", "a" * 500_000):
    manifest(f"a split named {name[:30]!r}", READ_MANIFEST, put(*SPLIT, "name", to=name))


def _shard_twice(content: Content) -> None:
    split = content["splits"][0]
    for name in ("shards", "num_samples", "num_pixels", "pixel_sums", "pixel_square_sums"):
        split[name] = split[name] * 2 if name == "shards" else _doubled(split[name])
    split["image_sizes"][0][2] *= 2
    content["options"] = {}


def _doubled(value: Any) -> Any:
    return [2 * one for one in value] if isinstance(value, list) else 2 * value


def split_again(name: str) -> Edit:
    """Return an edit that puts the same shard into a second split."""
    return lambda content: content["splits"].append(
        {**content["splits"][0], "name": name, "first_id": 4}
    )


manifest("a shard twice", READ_MANIFEST, _shard_twice)
manifest("a split twice", READ_MANIFEST, split_again("train"))
manifest("a shard in two splits", READ_MANIFEST, split_again("valid"))

for said, edit in {
    "unknown version": put("version", to="1.0"),
    "unknown feature": put("required_features", to=["x"]),
    "a feature that is no text": put("required_features", to=[[]]),
    "a feature 900 deep": put("required_features", to=deep(900)),
    "50,000 features": put("required_features", to=[str(number) for number in range(50_000)]),
    "another encoding": put("encoding", to="../x"),
    "classes that are there twice": put("classes", to=["cat", "cat"]),
    "classes that are numbers": put("classes", to=[1, 2]),
    "classes that are null": put("classes", to=[None, "dog"]),
    "classes that are half a letter": put("classes", to=["cat", "\ud800"]),
    "classes that are lists": put("classes", to=[[], []]),
    "images of 0 pixels": put(*SPLIT, "image_sizes", to=[[0, 4, 4]]),
    "images of 2^52 pixels": put(*SPLIT, "image_sizes", to=[[2**26, 2**26, 4]]),
    "images of 2^106 pixels": put(*SPLIT, "image_sizes", to=[[2**53 - 1, 2**53 - 1, 4]]),
    "images of -1 pixels": put(*SPLIT, "image_sizes", to=[[-1, 4, 4]]),
    "images of two numbers": put(*SPLIT, "image_sizes", to=[[4, 4]]),
    "images of lists": put(*SPLIT, "image_sizes", to=[[[4], [4], [4]]]),
    "pixel sums that cannot be": put(*SPLIT, "pixel_sums", to=[2**53 - 1] * 3),
    "no pixels": put(*SPLIT, "num_pixels", to=0),
    "an index behind the file": put(*SHARD_ENTRY, "index_offset", to=2**40),
    "an index that is too long": put(*SHARD_ENTRY, "index_length", to=2**40),
    "counts that do not add up": put(*SHARD_ENTRY, "num_samples", to=3),
}.items():
    manifest(said, READ_MANIFEST, edit)
manifest(
    "a split without shards",
    READ_MANIFEST,
    put(*SPLIT, "shards", to=[]),
    put(*SPLIT, "num_samples", to=0),
)

for levels in (400, 900):
    manifest(f"a field {levels} deep", "", put("later", to=deep(levels)))
    manifest(f"an option {levels} deep", "", put("options", "later", to=deep(levels)))
    manifest(f"a library {levels} deep", "", put("libraries", "later", to=deep(levels)))
    manifest(f"sidecars {levels} deep", "verify", put("options", "sidecars", to=deep(levels)))
    for name in ("block_size", "digest", "classes", "version", "splits"):
        manifest(f"{name} {levels} deep", READ_MANIFEST, put(name, to=deep(levels)))
    for said, path in {
        "pixel sums": (*SPLIT, "pixel_sums"),
        "a count": (*SHARD_ENTRY, "classes", "cat"),
    }.items():
        manifest(f"{said} {levels} deep", READ_MANIFEST, put(*path, to=deep(levels)))

for name, key in (("classes", "cat"), ("origins", "unknown")):
    for said, wrong in {
        "text": "1",
        "null": None,
        "negative": -1,
        "2^70": 2**70,
        "a list": [1],
        "a float": 1.5,
    }.items():
        path = (*SHARD_ENTRY, name, key)
        manifest(f"a shard's count of {name} is {said}", READ_MANIFEST, put(*path, to=wrong))
    path = (*SHARD_ENTRY, name, "dog")
    manifest(f"a shard's {name} do not add up", "verify", put(*path, to=3))

for said, sidecars in {
    "nested": [["cls"]],
    "a map": {"cls": 1},
    "text": "cls",
    "a number": 1,
    "null": None,
    "maps": [{}],
    "numbers": [1],
    "unknown": ["exe"],
    "there twice": ["cls", "cls"],
}.items():
    manifest(f"sidecars that are {said}", "verify", put("options", "sidecars", to=sidecars))
for said, seed in {
    "text": "0",
    "negative": -1,
    "2^64": 2**64,
    "a list": [],
    "a map": {},
    "null": None,
    "another one": 1,
}.items():
    manifest(f"a seed that is {said}", "verify", put("options", "seed", to=seed))
manifest("a shard size that is text", "", put("options", "shard_size", to="x"))
manifest("libraries that are numbers", "", put("libraries", "x", to=1))

OPEN = "load verify unpack duplicates"
"""Entry points that read more than the manifest."""
for said, refused, edit in (
    ("classes backwards", "verify", put("classes", to=["dog", "cat"])),
    ("a class more", "verify", put("classes", to=["cat", "dog", "eel"])),
    ("classes that steer a terminal", "verify", put("classes", to=[TERMINAL, "\x9b2J"])),
    ("50,000 classes", "verify", put("classes", to=[str(number) for number in range(50_000)])),
    ("long classes", "verify", put("classes", to=["c" * 400_000, "d" * 400_000])),
    ("one class of two", OPEN, put("classes", to=["cat"])),
    ("no classes", OPEN, put("classes", to=[])),
    ("no splits", "load verify", put("splits", to=[])),
    ("images of no size", "load verify", put(*SPLIT, "image_sizes", to=[])),
    ("images of another size", "load verify", put(*SPLIT, "image_sizes", to=[[4, 5, 4]])),
    ("images of a size twice", "verify", put(*SPLIT, "image_sizes", to=[[4, 4, 4], [4, 4, 9]])),
    (
        "images of 20,000 sizes",
        "load verify",
        put(*SPLIT, "image_sizes", to=[[number + 1, 1, 1] for number in range(20_000)]),
    ),
    ("another SHA-256", "verify", put(*SHARD_ENTRY, "sha256", to="0" * 64)),
    ("another SHA-256 of the index", OPEN, put(*SHARD_ENTRY, "index_sha256", to="0" * 64)),
    ("another fingerprint", "verify", put("fingerprint", to="blake2b:" + "0" * 64)),
    ("an index at 0", OPEN, put(*SHARD_ENTRY, "index_offset", to=0)),
):
    manifest(said, refused, edit)


def shard_says(**values: object) -> Edit:
    """Return an edit of some of the shard's fields."""
    return lambda content: content["splits"][0]["shards"][0].update(values)


SHA256_OF_NOTHING = hashlib.sha256(b"").hexdigest()
for said, edit in {
    "an index of 0 bytes": shard_says(index_length=0, index_sha256=SHA256_OF_NOTHING),
    "a file of 0 bytes": shard_says(size=0, index_offset=0, index_length=0),
    "a file of 2^53 - 1 bytes": shard_says(size=2**53 - 1, index_offset=2**53 - 9, index_length=8),
}.items():
    manifest(said, OPEN, edit)


def _index_at_the_end(content: Content) -> None:
    shard = content["splits"][0]["shards"][0]
    shard.update(index_offset=shard["size"], index_length=0, index_sha256=SHA256_OF_NOTHING)


def _all_is_the_index(content: Content) -> None:
    shard = content["splits"][0]["shards"][0]
    shard.update(index_offset=0, index_length=shard["size"], index_sha256=shard["sha256"])


manifest("an index of nothing, at the end", OPEN, _index_at_the_end)
manifest("all of the file is the index", OPEN, _all_is_the_index)
manifest(
    "2^53 - 1 samples, that add up",
    OPEN,
    put(*SPLIT, "num_samples", to=2**53 - 1),
    put(*SHARD_ENTRY, "num_samples", to=2**53 - 1),
)


def text(name: str, refused_by: str, edit: Callable[[bytes], bytes]) -> None:
    """Add an attack that changes the manifest's bytes; the digest is right."""
    attack(f"manifest: {name}", refused_by, manifest_bytes=edit)


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Return an edit that replaces some bytes."""
    return lambda data: data.replace(old, new, 1)


for said, data in {
    "nothing": b"",
    "a list": b"[]",
    "lists in lists": b"[" * LIMIT,
    "maps in maps": b'{"a":' * (LIMIT // 5),
}.items():
    text(said, READ_MANIFEST, instead(data))
text("a first id of NaN", READ_MANIFEST, replaced(b'"first_id": 0', b'"first_id": NaN'))
text("bytes that are no UTF-8", READ_MANIFEST, replaced(b"train", b"tr\xffin"))
text("a long number", READ_MANIFEST, replaced(b'"seed": 0', b'"seed": 1' + b"0" * LIMIT))
text("zeros behind it", READ_MANIFEST, lambda data: data + bytes(1000))
text("another digest", READ_MANIFEST, lambda data: seal(data) + b" ")
text("a NaN", "", replaced(b'"libraries"', b'"a": NaN, "libraries"'))
text("an Infinity", "", replaced(b'"libraries"', b'"a": -Infinity, "libraries"'))
text("a seed of 1e999", "verify", replaced(b'"seed": 0', b'"seed": 1e999'))
text("UTF-16", "", lambda data: data.decode().encode("utf-16"))
text("900,000 blanks", "", lambda data: data + b" " * LIMIT)
text("a name twice", "", replaced(b'"format"', b'"encoding": "x",\n "format"'))


# --- Folders ----------------------------------------------------------------------------------


def folder_with(name: str, refused_by: str, edit: Callable[[Path], object]) -> None:
    """Add an attack that changes the valid dataset's folder."""

    def make(folder: Path) -> None:
        change().write(folder)
        edit(folder)

    ATTACKS[f"folder: {name}"] = Attack(make, frozenset(refused_by.split()))


def other_file(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return an edit that replaces a file with something else."""

    def edit(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return edit


def _sparse(path: Path) -> None:
    """Write a sparse file of 64 GiB, which takes no space on the disk."""
    with open(path, "wb") as file:
        file.truncate(2**36)


for name, refused in (("manifest.json", READ_MANIFEST), (SHARD, READ_INDEX)):
    for said, make in {
        "named pipe": os.mkfifo,
        "folder": os.mkdir,
        "link to endless zeros": lambda path: path.symlink_to("/dev/zero"),
        "link to itself": lambda path: path.symlink_to(path.name),
    }.items():
        folder_with(f"{name} is a {said}", refused, other_file(name, make))
# Only the manifest: hashing a shard of this size would take long.
folder_with(
    "manifest.json is of 64 GiB and takes no room",
    READ_MANIFEST,
    other_file("manifest.json", _sparse),
)

for name in (
    "x-00000-of-999999999.tar",
    "x-999999998-of-999999999.tar",
    "x-00000-of-00001.tar",
    "train-00000-of-00002.tar",
    "_unpacking-00000-of-00001.tar",
):
    attack(f"folder: {name} beside", "reindex", files={name: b""})
for name in ("x-00000-of-00000.tar", "x-1-of-2.tar", "-00000-of-00001.tar", "a\nb.tar"):
    attack(f"folder: {name!r} beside", "", files={name: b""})
folder_with("a folder _packing", "reindex", lambda folder: (folder / "_packing").mkdir())


def main() -> None:
    """Run the command."""
    root = Path(sys.argv[1])
    for name, made in ATTACKS.items():
        made.make(root / name.replace("/", "_"))
    print(f"{len(ATTACKS)} attacks: {root}")


if __name__ == "__main__":
    main()
