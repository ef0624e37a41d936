"""Print key, label, origin and so on of each sample; written from docs/format.md alone."""

import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zstandard

# _check() expects a value, type, range or pattern. [()] matches only []: no feature is known.
NAME, HASH, COUNT = "[A-Za-z0-9_][A-Za-z0-9_.-]*", re.compile("[0-9a-f]{64}"), range(2**53)
SHARD = {"name": re.compile(f"{NAME}[.]tar"), "size": COUNT, "sha256": HASH, "index_sha256": HASH}
SHARD |= {"index_offset": COUNT, "index_length": COUNT, "num_samples": COUNT[1:]}
SPLIT = {"name": re.compile(f"(?!__){NAME}"), "num_samples": COUNT[1:], "shards": [SHARD]}
MANIFEST = {"format": "cinic-shards", "version": re.compile("0[.][0-9]+"), "classes": [str]}
MANIFEST |= {"encoding": re.compile("png|raw|zstd"), "block_size": range(1, 2**20 + 1)}
MANIFEST |= {"required_features": [()], "digest": str, "splits": [SPLIT]}
DTYPES = {"label": "<i4", "origin": "|u1", "synset": "<u4", "number": "<i8", "pixel_hash": "|V16"}
DTYPES |= {"offset": "<u8", "length": "<u8", "crc32": "<u4", "first_row": "<u8"}
INDEX = {"format": "cinic-shards-index", "version": MANIFEST["version"], "keys": [str]}
INDEX |= {"columns": {name: {"dtype": text, "data": bytes} for name, text in DTYPES.items()}}
ORIGINS = ("unknown", "cifar10-train", "cifar10-test", "imagenet")


def read_dataset(folder: Path) -> Iterator[tuple[str, int, dict[str, Any], Any]]:
    """Yield key, label, provenance, and PNG or pixels; a ValueError names what is wrong."""
    manifest = read_manifest(folder)
    encoding, classes = manifest["encoding"], manifest["classes"]
    step = 1 if encoding == "png" else manifest["block_size"]
    for shard in [shard for split in manifest["splits"] for shard in split["shards"]]:
        path, count, end = folder / shard["name"], shard["num_samples"], 0
        data = path.read_bytes()
        _check(f"{path}: size", len(data), shard["size"])
        index_data = data[shard["index_offset"] :][: shard["index_length"]]
        _check(f"{path}: index_sha256", sha256(index_data).hexdigest(), shard["index_sha256"])
        index = _parse(f"{path}: index", msgpack.unpackb, index_data)
        same = {"encoding": encoding, "num_samples": count, "num_payloads": -(-count // step)}
        _check(f"{path}: index", index, INDEX | same)
        _check(f"{path}: index: number of keys", len(index["keys"]), count)
        columns: list[Any] = []
        for name, dtype in DTYPES.items():
            data_of = index["columns"][name]["data"]
            size = count if len(columns) < 5 else -(-count // step)
            _check(f"{path}: index: bytes of {name}", len(data_of), int(dtype[2:]) * size)
            columns.append(np.frombuffer(data_of, dtype).tolist())
        for row, key in enumerate(index["keys"]):
            where = f"{path}: sample {row} ({key!r})"
            if row % step == 0:
                start, length, crc32, first_row = (values[row // step] for values in columns[5:])
                _check(f"{where}: first_row", first_row, row)
                _check(f"{where}: offset", start, range(end, shard["index_offset"] - length + 1))
                end = start + length
                _check(f"{where}: CRC-32", f"{zlib.crc32(data[start:end]):08x}", f"{crc32:08x}")
                shape = [min(step, count - row), *(index.get("image_shape") or ())]
                images = _images(where, data[start:end], encoding, shape)
            label, code, synset, number = (values[row] for values in columns[:4])
            _check(f"{where}: label", label, range(len(classes)))
            _check(f"{where}: origin", code, range(len(ORIGINS)))
            provenance = {"origin": ORIGINS[code], "synset": f"n{synset:08d}" if synset else ""}
            yield key, label, provenance | {"number": number}, images[row % step]


def _images(where: str, payload: bytes, encoding: str, shape: list[Any]) -> Any:
    if encoding == "png":
        _check(f"{where}: first bytes", payload[:8], b"\x89PNG\r\n\x1a\n")
        return [payload]
    _check(f"{where}: image_shape", [*shape, 0, 0, 0][:4], [range(1, 2**26)])
    _check(f"{where}: bytes of pixels", size := np.prod(shape, dtype=object), range(2**27 + 1))
    if encoding == "zstd":
        _check(f"{where}: content", zstandard.frame_content_size(payload), 128 + size)
        payload = _parse(where, zstandard.ZstdDecompressor().decompress, payload)
        shape = [3, *shape[:3]]
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {(*shape,)}, }}".ljust(117)
    _check(f"{where}: npy", payload[:128], b"\x93NUMPY\1\0\x76\0" + text.encode() + b"\n")
    pixels = np.frombuffer(payload, np.uint8, offset=128).reshape(shape)
    if encoding == "zstd":
        red, green, blue = pixels.cumsum(2, np.uint8).cumsum(3, np.uint8)
        pixels = np.stack([red + green, green, blue + green], 3)
    return pixels


def read_manifest(folder: Path) -> Any:
    """Return the manifest; the fields used here have passed checks 1 to 3 of the document."""
    path = folder / "manifest.json"
    data = path.read_bytes()
    manifest = _parse(f"{path}", json.loads, data)
    _check(f"{path}", manifest, MANIFEST)
    before, _, after = data.partition(f'"{manifest["digest"]}'.encode(errors="replace"))
    digest = "sha256:" + sha256(before + b'"sha256:' + b"0" * 64 + after).hexdigest()
    _check(f"{path}: digest", manifest["digest"], digest)
    counts = [
        sum(shard["num_samples"] for shard in split["shards"]) for split in manifest["splits"]
    ]
    for number, split in enumerate(manifest["splits"]):
        expected = {"first_id": sum(counts[:number]), "num_samples": counts[number]}
        _check(f"{path}: {split['name']}", split, expected)
    return manifest


def _parse(location: str, parse: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return parse(data)
    except (ValueError, TypeError, RecursionError, zstandard.ZstdError) as error:
        raise ValueError(f"{location}: {error}") from error


def _check(location: str, found: Any, expected: Any) -> None:
    if type(found) is type(expected) is list:
        found, expected = dict(enumerate(found)), dict.fromkeys(range(len(found)), expected[0])
    if type(found) is type(expected) is dict:
        for name, part in expected.items():
            _check(f"{location}: {name}", found.get(name), part)
    elif type(found) is not expected and not (
        (type(found) is type(expected) and found == expected)
        or (type(found) is int and type(expected) is range and found in expected)
        or (type(found) is str and type(expected) is re.Pattern and expected.fullmatch(found))
    ):
        raise ValueError(f"{location} is {found!r:.200}, expected {expected}")


if __name__ == "__main__":
    try:
        for number, (key, label, found, image) in enumerate(read_dataset(Path(sys.argv[1]))):
            print(
                number, key, label, *(str(v) or "-" for v in found.values()), len(image), sep="\t"
            )
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")
