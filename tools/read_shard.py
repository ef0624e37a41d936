"""Print the samples of a dataset, read with what docs/format.md says and nothing of the package.

    python tools/read_shard.py SHARDS [--split train] [--keys]

A line for each sample: id, key, label, origin, synset or -, number or -1, bytes of the payload.
"""

import argparse
import json
import re
import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

# What _check() expects: a value, type, range or pattern. () is none: no feature is known.
NAME, HASH, COUNT = "[A-Za-z0-9_][A-Za-z0-9_.-]*", re.compile("[0-9a-f]{64}"), range(2**53)
SHARD = {"name": re.compile(f"{NAME}[.]tar"), "size": COUNT, "sha256": HASH, "index_sha256": HASH}
SHARD |= {"index_offset": COUNT, "index_length": COUNT, "num_samples": COUNT[1:]}
SPLIT = {"name": re.compile(f"(?!__){NAME}"), "num_samples": COUNT[1:], "shards": [SHARD]}
MANIFEST = {"format": "cinic-shards", "version": re.compile("0[.][0-9]+"), "encoding": "png"}
MANIFEST |= {"required_features": [()], "digest": str, "classes": [str], "splits": [SPLIT]}
DTYPES = {"label": "<i4", "origin": "|u1", "synset": "<u4", "number": "<i8", "pixel_hash": "|V16"}
DTYPES |= {"offset": "<u8", "length": "<u8", "crc32": "<u4", "first_row": "<u8"}
INDEX = {"format": "cinic-shards-index", "version": MANIFEST["version"], "keys": [str]}
INDEX |= {"columns": {name: {"dtype": text, "data": bytes} for name, text in DTYPES.items()}}
ORIGINS = ("unknown", "cifar10-train", "cifar10-test", "imagenet")


def read_dataset(folder: Path) -> Iterator[tuple[str, int, dict[str, Any], bytes]]:
    """Key, label, provenance and payload of each sample; a ValueError tells what is wrong where."""
    manifest = read_manifest(folder)
    for shard in [shard for split in manifest["splits"] for shard in split["shards"]]:
        place, count, end = folder / shard["name"], shard["num_samples"], 0
        with place.open("rb") as file:
            _check(f"{place}: size", file.seek(0, 2), shard["size"])
            left = shard["size"] - file.seek(shard["index_offset"])
            _check(f"{place}: index_length", shard["index_length"], range(left + 1))
            data = file.read(shard["index_length"])
            _check(f"{place}: index_sha256", sha256(data).hexdigest(), shard["index_sha256"])
            try:
                index = msgpack.unpackb(data)
            except (ValueError, TypeError, RecursionError) as error:
                raise ValueError(f"{place}: index: {error}") from error
            _check(f"{place}: index", index, INDEX | {"num_samples": count, "num_payloads": count})
            _check(f"{place}: index: number of keys", len(index["keys"]), count)
            columns = [index["keys"]]
            for name, dtype in DTYPES.items():
                data = index["columns"][name]["data"]
                _check(f"{place}: index: bytes of {name}", len(data), count * int(dtype[2:]))
                columns.append(np.frombuffer(data, dtype).tolist())
            for row, (key, label, *values) in enumerate(zip(*columns, strict=True)):
                code, synset, number, _, offset, length, crc32, first_row = values
                where = f"{place}: sample {row} ({key!r})"
                _check(f"{where}: label", label, range(len(manifest["classes"])))
                _check(f"{where}: origin", code, range(len(ORIGINS)))
                _check(f"{where}: first_row", first_row, row)
                _check(f"{where}: offset", offset, range(end, shard["index_offset"] - length + 1))
                end = file.seek(offset) + length
                payload = file.read(length)
                _check(f"{where}: CRC-32", f"{zlib.crc32(payload):08x}", f"{crc32:08x}")
                _check(f"{where}: first bytes", payload[:8], b"\x89PNG\r\n\x1a\n")
                synset = f"n{synset:08d}" if synset else ""
                provenance = {"origin": ORIGINS[code], "synset": synset, "number": number}
                yield key, label, provenance, payload


def read_manifest(folder: Path) -> Any:
    """The manifest as it is, after the document's checks 1 to 3 of what is used here."""
    place = folder / "manifest.json"
    data = place.read_bytes()
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: {error}") from error
    _check(f"{place}", manifest, MANIFEST)
    before, _, after = data.partition(f'"{manifest["digest"]}'.encode(errors="replace"))
    digest = sha256(before + b'"sha256:' + b"0" * 64 + after).hexdigest()
    _check(f"{place}: digest", manifest["digest"], f"sha256:{digest}")
    _check(f"{place}: different classes", len(set(manifest["classes"])), len(manifest["classes"]))
    first_id = 0
    for split in manifest["splits"]:
        count = sum(shard["num_samples"] for shard in split["shards"])
        _check(f"{place}: {split['name']}", split, {"first_id": first_id, "num_samples": count})
        first_id += count
    return manifest


def _check(place: str, found: Any, expected: Any) -> None:
    if type(found) is type(expected) is list:
        found, expected = dict(enumerate(found)), dict.fromkeys(range(len(found)), expected[0])
    if type(found) is type(expected) is dict:
        for name, part in expected.items():
            _check(f"{place}: {name}", found.get(name), part)
    elif type(found) is not expected and not (
        (type(found) is type(expected) and found == expected)
        or (type(found) is int and type(expected) is range and found in expected)
        or (type(found) is str and type(expected) is re.Pattern and expected.fullmatch(found))
    ):
        raise ValueError(f"{place} is {found!r:.200}, expected {expected}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the samples of a dataset.")
    parser.add_argument("shards", type=Path, metavar="SHARDS", help="the dataset's folder")
    parser.add_argument("--split", help="print its samples alone")
    parser.add_argument("--keys", action="store_true", help="print keys alone")
    args = parser.parse_args()
    try:
        for sample_id, (key, label, provenance, payload) in enumerate(read_dataset(args.shards)):
            if args.split in (None, key.partition("/")[0]):
                line = (sample_id, key, label, *provenance.values(), len(payload))
                print(key if args.keys else "\t".join(str(value) or "-" for value in line))
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
