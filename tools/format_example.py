"""Build the worked example of docs/format.md and print the blocks that the document shows.

    python tools/format_example.py FOLDER

writes ``FOLDER/tree``, two PNGs of 2x2 pixels, and ``FOLDER/shards``, the dataset packed from it.
tests/docs/test_format.py compares every printed block with the document: after a change of the
format, copy the blocks again.

Both PNGs are constants made for this purpose, so no compressor's version matters, and the
manifest names no library, because versions differ between machines: the bytes are the same
everywhere.
"""

import hashlib
import io
import struct
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
import zstandard
from numpy.typing import NDArray
from PIL import Image

import cinic_shards.format as fmt
from cinic_shards.codec import ENCODINGS
from cinic_shards.format import Manifest
from cinic_shards.write.pack import pack, packing_order

_PNG_START = """
    89 50 4e 47 0d 0a 1a 0a
    00 00 00 0d 49 48 44 52 00 00 00 02 00 00 00 02 08 02 00 00 00 fd d4 9a 73
"""
_PNG_END = "00 00 00 00 49 45 4e 44 ae 42 60 82"
# A row of pixels follows its filter type 0; the zlib stream is one stored block.
PNGS = {
    # red, green; blue, white
    "train/cat/n02121808_77": bytes.fromhex(
        f"""{_PNG_START}
        00 00 00 19 49 44 41 54 78 01 01 0e 00 f1 ff
        00 ff 00 00 00 ff 00
        00 00 00 ff ff ff ff
        1f ee 05 fb de dd ec 2b
        {_PNG_END}"""
    ),
    # cyan, magenta; yellow, black
    "train/dog/ours": bytes.fromhex(
        f"""{_PNG_START}
        00 00 00 19 49 44 41 54 78 01 01 0e 00 f1 ff
        00 00 ff ff ff 00 ff
        00 ff ff 00 00 00 00
        33 da 05 fb 18 69 b9 a9
        {_PNG_END}"""
    ),
}
"""The example's images by key."""

SHARD = fmt.shard_name("train", 0, 1)

_HEADER_FIELDS = (
    ("name", 100),
    ("mode: 0644", 8),
    ("owner: 0", 8),
    ("group: 0", 8),
    ("size of the content", 12),
    ("time: 0", 12),
    ("checksum", 8),
    ("type: an ordinary file", 1),
    ("name of a link: none", 100),
    ("magic", 6),
    ("version", 2),
    ("name of the owner: none", 32),
    ("name of the group: none", 32),
    ("major device: 0", 8),
    ("minor device: 0", 8),
    ("prefix of the name: none", 155),
    ("not used", 12),
)


class Piece(NamedTuple):
    """Consecutive bytes and what they mean."""

    data: bytes
    meaning: str


def build_example(folder: Path) -> Path:
    """Write the tree and the dataset below ``folder``; return the dataset's folder."""
    for key, data in PNGS.items():
        path = folder / "tree" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    shards = folder / "shards"
    manifest = pack(folder / "tree", shards, workers=1, warn=lambda text: None)
    (shards / fmt.MANIFEST_NAME).write_bytes(replace(manifest, libraries={}).to_bytes())
    return shards


def blocks(shards: Path) -> dict[str, str]:
    """Return the text of each block of the document, in the document's order."""
    manifest_bytes = (shards / fmt.MANIFEST_NAME).read_bytes()
    manifest = Manifest.from_bytes(manifest_bytes, location=fmt.MANIFEST_NAME, encodings=ENCODINGS)
    info = manifest.splits[0].shards[0]
    shard = (shards / SHARD).read_bytes()
    index = shard[info.index_offset : info.index_offset + info.index_length]
    with tarfile.open(shards / SHARD) as tar:
        members = tar.getmembers()
    payload = members[0].offset_data
    content = msgpack.unpackb(index)
    return {
        "order": _order(manifest.options["seed"]),
        "members": _members(members, len(shard)),
        "header": _dump(0, _header_pieces(shard[: fmt.TAR_BLOCK])),
        "payload": _dump(payload, _png_pieces(shard[payload : payload + members[0].size])),
        "index": _dump(0, _index_pieces(content)),
        "pixels": _dump(0, _pixel_hash_pieces(PNGS[content["keys"][0]])),
        "fingerprint": _dump(0, _fingerprint_pieces(content)),
        "raw": _dump(0, _raw_pieces(_images(content))),
        "left": _dump(0, _left_pieces(_images(content))),
        "manifest": manifest_bytes.decode(),
    }


def _order(seed: int) -> str:
    keys = list(PNGS)
    lines = []
    for row in packing_order(keys, seed).tolist():
        digest = hashlib.blake2b(
            keys[row].encode(), key=struct.pack("<Q", seed), digest_size=16
        ).hexdigest()
        lines.append(f"{digest}  {keys[row]}\n")
    return "".join(lines)


def _members(members: list[tarfile.TarInfo], size: int) -> str:
    rows: list[tuple[object, ...]] = [("header", "content", "bytes", "member")]
    rows += [(m.offset, m.offset_data, m.size, m.name) for m in members]
    rows.append((size - len(fmt.TAR_END), "", len(fmt.TAR_END), "(zeros)"))
    return "".join(f"{row[0]:>6}  {row[1]:>7}  {row[2]:>5}  {row[3]}\n" for row in rows)


def _header_pieces(header: bytes) -> Iterable[Piece]:
    start = 0
    for meaning, size in _HEADER_FIELDS:
        yield Piece(header[start : start + size], meaning)
        start += size


def _png_pieces(png: bytes) -> Iterable[Piece]:
    yield Piece(png[:8], "PNG signature")
    start = 8
    while start < len(png):
        size = 12 + int.from_bytes(png[start : start + 4], "big")
        yield Piece(png[start : start + size], f"chunk {png[start + 4 : start + 8].decode()}")
        start += size


def _index_pieces(content: dict[str, Any]) -> Iterable[Piece]:
    """Yield the items of the index, each packed separately."""
    packer = msgpack.Packer()
    yield Piece(packer.pack_map_header(len(content)), f"map of {len(content)} fields")
    for name in content:
        if name == "keys":
            break
        yield Piece(packer.pack(name), f'"{name}"')
        value = content[name]
        yield Piece(packer.pack(value), f'"{value}"' if isinstance(value, str) else f"{value}")
    keys = content["keys"]
    yield Piece(packer.pack("keys") + packer.pack_array_header(len(keys)), '"keys": array of 2')
    for key in keys:
        yield Piece(packer.pack(key), f'"{key}"')
    columns = content["columns"]
    yield Piece(
        packer.pack("columns") + packer.pack_map_header(len(columns)),
        f'"columns": map of {len(columns)}',
    )
    for name, column in columns.items():
        dtype, data = column["dtype"], column["data"]
        yield Piece(packer.pack(name), f'"{name}": a map of 2,')
        opening = packer.pack_map_header(2) + packer.pack("dtype") + packer.pack(dtype)
        yield Piece(opening + packer.pack("data"), f'"dtype": "{dtype}", "data":')
        text = "2 hashes" if name == "pixel_hash" else str(np.frombuffer(data, dtype).tolist())
        yield Piece(packer.pack(data), f"{len(data)} bytes: {text}")


def _pixel_hash_pieces(png: bytes) -> Iterable[Piece]:
    with Image.open(io.BytesIO(png)) as image:
        yield Piece(struct.pack("<3I", image.height, image.width, 3), "height, width, 3")
        yield Piece(image.convert("RGB").tobytes(), "4 pixels")


def _fingerprint_pieces(content: dict[str, Any]) -> Iterable[Piece]:
    labels, hashes = (content["columns"][name]["data"] for name in ("label", "pixel_hash"))
    for row, key in enumerate(content["keys"]):
        yield Piece(key.encode() + b"\0", "key and a zero")
        yield Piece(labels[4 * row : 4 * row + 4], "label")
        yield Piece(hashes[16 * row : 16 * row + 16], "pixel hash")


def _images(content: dict[str, Any]) -> NDArray[np.uint8]:
    pngs = [Image.open(io.BytesIO(PNGS[key])) for key in content["keys"]]
    return np.stack([np.asarray(png.convert("RGB")) for png in pngs])


def _raw_pieces(images: NDArray[np.uint8]) -> Iterable[Piece]:
    payload = ENCODINGS["raw"].encode(images)
    yield Piece(payload[:8], "npy, version 1.0")
    yield Piece(payload[8:10], "118 bytes follow")
    yield Piece(payload[10 : fmt.NPY_HEADER_BYTES], "dtype and shape")
    for row, pixels in enumerate(images):
        yield Piece(pixels.tobytes(), f"pixels of row {row}")


def _left_pieces(images: NDArray[np.uint8]) -> Iterable[Piece]:
    content = zstandard.ZstdDecompressor().decompress(ENCODINGS["zstd"].encode(images))
    yield Piece(content[:10], "npy, version 1.0, 118 bytes follow")
    yield Piece(content[10 : fmt.NPY_HEADER_BYTES], "dtype and shape")
    size = images[..., 0].size
    for plane, name in enumerate(("red less green", "green", "blue less green")):
        start = fmt.NPY_HEADER_BYTES + plane * size
        yield Piece(content[start : start + size], f"residuals of {name}")


def _dump(offset: int, pieces: Iterable[Piece]) -> str:
    """Return a hex dump, 16 bytes a line after their offset; a final ``00*88`` is 88 zero bytes."""
    lines = []
    for data, meaning in pieces:
        shown = data.rstrip(b"\0")
        num_zeros = len(data) - len(shown)
        if num_zeros <= 8:
            shown, num_zeros = data, 0
        rows = [shown[start : start + 16].hex(" ") for start in range(0, len(shown), 16)] or [""]
        for row, text in enumerate(rows):
            if num_zeros and row == len(rows) - 1:
                text = f"{text} 00*{num_zeros}".strip()
            line = f"{offset + 16 * row:>6}  {text:<47}  {meaning if row == 0 else ''}"
            lines.append(f"{line.rstrip()}\n")
        offset += len(data)
    return "".join(lines)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/format_example.py FOLDER")
    for name, text in blocks(build_example(Path(sys.argv[1]))).items():
        print(f"--- {name}\n{text}")


if __name__ == "__main__":
    main()
