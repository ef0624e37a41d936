"""docs/format.md shows the bytes that the package writes, and is enough to write a reader."""

import hashlib
import json
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from format_example import PNGS, SHARD, blocks, build_example

import cinic_shards.format as fmt
from cinic_shards.codec import ENCODINGS
from cinic_shards.format import Manifest, sidecar_json
from cinic_shards.format.provenance import ORIGINS, UNKNOWN
from cinic_shards.write.pack import PackOptions, pack
from tests.support import ROOT

DOCUMENT = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"^```\w+ (\w+)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL))
NAMES = "order members header payload index pixels fingerprint raw left manifest".split()
TABLES = [
    [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
     for line in table.splitlines()]
    for table in re.findall(r"(?:^\|.*\n)+", DOCUMENT, re.MULTILINE)
]  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_example(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def manifest(shards: Path) -> Any:
    return json.loads((shards / "manifest.json").read_bytes())


@pytest.fixture(scope="module")
def shard(shards: Path) -> bytes:
    return (shards / SHARD).read_bytes()


def shown_bytes(name: str) -> tuple[int, bytes]:
    """Return offset and bytes of a block of hex, whose lines must be consecutive."""
    start, data = -1, b""
    for line in SHOWN[name].splitlines():
        offset, text = int(line[:6]), line[8:55].split()
        start = offset if start < 0 else start
        assert offset == start + len(data), line
        for item in text:
            byte, _, times = item.partition("*")
            data += bytes.fromhex(byte) * int(times or 1)
    return start, data


def table_of(*header: str, row: str) -> list[list[str]]:
    """Return the rows, without back-quotes, of the table with this header and such a row."""
    for table in TABLES:
        rows = [[cell.strip("`") for cell in cells] for cells in table[2:]]
        if tuple(table[0]) == header and any(cells[0] == row for cells in rows):
            return rows
    raise AssertionError(f"no table {header} with a row {row}")


def fields_of(*, row: str) -> list[str]:
    return [cells[0] for cells in table_of("field", "type", "content", row=row)]


# The bytes.


def test_every_block_is_shown() -> None:
    assert list(SHOWN) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_block_is_what_the_package_writes(shards: Path, name: str) -> None:
    """If you changed the format on purpose, tools/format_example.py prints the new blocks."""
    assert SHOWN[name] == blocks(shards)[name]


@pytest.mark.parametrize(
    ("name", "offset", "size"), [("header", 0, 512), ("payload", 512, 82), ("index", 4608, 515)]
)
def test_the_hex_is_in_the_shard(shard: bytes, name: str, offset: int, size: int) -> None:
    shown_offset, data = shown_bytes(name)
    assert shown_offset == (offset if name == "payload" else 0)
    assert len(data) == size
    assert shard[offset : offset + size] == data


def test_the_hashed_bytes(manifest: Any) -> None:
    columns = msgpack.unpackb(shown_bytes("index")[1])["columns"]
    first = hashlib.blake2b(shown_bytes("pixels")[1], digest_size=16).digest()
    assert columns["pixel_hash"]["data"][:16] == first
    fingerprint = hashlib.blake2b(shown_bytes("fingerprint")[1], digest_size=32).hexdigest()
    assert manifest["fingerprint"] == f"blake2b:{fingerprint}"


def test_the_manifest_proves_the_shard(shard: bytes, manifest: Any) -> None:
    info = manifest["splits"][0]["shards"][0]
    assert info["size"] == len(shard)
    assert info["sha256"] == hashlib.sha256(shard).hexdigest()
    assert info["index_sha256"] == hashlib.sha256(shown_bytes("index")[1]).hexdigest()


def test_the_manifest_lacks_only_the_libraries(shards: Path, tmp_path: Path) -> None:
    packed = pack(shards.parent / "tree", tmp_path, workers=1, warn=lambda text: None)
    shown = Manifest.from_bytes(
        SHOWN["manifest"].encode(), location="docs/format.md", encodings=ENCODINGS
    )
    assert packed.libraries and not shown.libraries
    assert replace(packed, libraries={}) == shown


# The tables.


def test_the_version() -> None:
    assert f"Version {fmt.VERSION}, encoding `{'`, `'.join(ENCODINGS)}`." in DOCUMENT
    assert f"This is `{fmt.VERSION}`." in DOCUMENT


def test_the_manifest_tables(manifest: Any) -> None:
    (split,) = manifest["splits"]
    assert fields_of(row="digest") == list(manifest)
    assert fields_of(row="first_id") == list(split)
    assert fields_of(row="index_sha256") == list(split["shards"][0])
    assert fields_of(row="seed") == [*manifest["options"], "parent"]  # only if selected


def test_the_index_tables() -> None:
    index = fmt.Index.from_bytes(
        shown_bytes("index")[1], location="", end=2**20, num_classes=2, encodings=ENCODINGS
    )
    assert index.to_bytes() == shown_bytes("index")[1]
    content = msgpack.unpackb(replace(index, classes=("cat", "dog", "eel")).to_bytes())
    assert fields_of(row="num_payloads") == list(content)
    rows = table_of("column", "dtype", "values", "content", row="crc32")
    dtypes = {name: column["dtype"] for name, column in content["columns"].items()}
    assert [(name, dtype) for name, dtype, _, _ in rows] == list(dtypes.items())


def test_the_sidecar_table() -> None:
    sidecar = json.loads(sidecar_json("a/b/c", 0, UNKNOWN))
    assert [cells[0] for cells in table_of("field", "type", "value", row="key")] == list(sidecar)


def test_the_origin_table() -> None:
    rows = table_of("code", "origin", "stem", "synset", "number", row="0")
    assert [(int(code), name) for code, name, *_ in rows] == list(enumerate(ORIGINS))


def test_the_header_table() -> None:
    header = shown_bytes("header")[1]
    end = 0
    for offset, size, name, content in table_of("offset", "bytes", "field", "content", row="0"):
        assert int(offset) == end, name
        end += int(size)
        field = header[int(offset) : end]
        if content == "zeros" or name == "prefix":
            assert field == bytes(int(size)), name
        elif re.fullmatch(r"\w+|\w+` and a zero", content):
            digits, _, zero = content.partition("`")
            assert field == digits.encode() + bytes(bool(zero)), name
        else:
            assert name in ("name", "size", "chksum")
    assert end == 512


# A reader written from the document, without the package.


def read_as_documented(folder: Path) -> Iterator[tuple[str, int, str, int, bytes]]:
    """Yield key, label, origin, number and PNG of every sample, after checking it."""
    manifest_bytes = (folder / "manifest.json").read_bytes()
    manifest = json.loads(manifest_bytes)
    digest = manifest["digest"].removeprefix("sha256:").encode()
    start = manifest_bytes.index(b'"sha256:' + digest) + len(b'"sha256:')
    blank = manifest_bytes[:start] + b"0" * 64 + manifest_bytes[start + 64 :]
    assert hashlib.sha256(blank).hexdigest().encode() == digest
    origins = {code: name for code, name, *_ in table_of(
        "code", "origin", "stem", "synset", "number", row="0")}  # fmt: skip
    fingerprint = hashlib.blake2b(digest_size=32)
    sample_id = 0
    for split in manifest["splits"]:
        previous = b""
        assert split["first_id"] == sample_id
        sample_id += split["num_samples"]
        for info in split["shards"]:
            data = (folder / info["name"]).read_bytes()
            assert len(data) == info["size"]
            index_bytes = data[info["index_offset"] :][: info["index_length"]]
            assert hashlib.sha256(index_bytes).hexdigest() == info["index_sha256"]
            index = msgpack.unpackb(index_bytes)
            columns = {
                name: list(struct.iter_unpack({
                    "<i4": "<i", "|u1": "B", "<u4": "<I", "<i8": "<q", "|V16": "16s", "<u8": "<Q",
                }[column["dtype"]], column["data"]))
                for name, column in index["columns"].items()
            }  # fmt: skip
            assert info["num_samples"] == index["num_samples"] == index["num_payloads"]
            for row, key in enumerate(index["keys"]):
                values = {name: column[row][0] for name, column in columns.items()}
                assert values["first_row"] == row
                seed = struct.pack("<Q", manifest["options"]["seed"])
                order = hashlib.blake2b(key.encode(), key=seed, digest_size=16).digest()
                assert previous < order
                previous = order
                payload = data[values["offset"] :][: values["length"]]
                assert zlib.crc32(payload) == values["crc32"]
                label = values["label"]
                assert manifest["classes"][label] == key.split("/")[1]
                fingerprint.update(key.encode() + b"\0" + struct.pack("<I", label))
                fingerprint.update(values["pixel_hash"])
                yield key, label, origins[str(values["origin"])], values["number"], payload
    assert manifest["fingerprint"] == "blake2b:" + fingerprint.hexdigest()


def test_a_reader_from_the_document(shards: Path) -> None:
    dog, cat = "train/dog/ours", "train/cat/n02121808_77"
    assert list(read_as_documented(shards)) == [
        (dog, 1, "unknown", -1, PNGS[dog]),
        (cat, 0, "imagenet", 77, PNGS[cat]),
    ]


def test_the_same_reader_on_many_shards(tmp_path: Path) -> None:
    files = {}
    for number in range(24):
        split, name = ("train", "valid")[number % 2], ("a", "b.c", "ü")[number % 3]
        key = f"{split}/{name}/cifar10-test-{number:03d}"
        files[key] = PNGS["train/dog/ours" if number % 5 else "train/cat/n02121808_77"]
        path = tmp_path / "tree" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[key])
    options = PackOptions(shard_size=5, seed=2**53 - 2, sidecars=("cls", "json"))
    pack(tmp_path / "tree", tmp_path / "shards", options, workers=1)
    samples = {key: rest for key, *rest in read_as_documented(tmp_path / "shards")}
    assert samples == {
        key: [("a", "b.c", "ü").index(key.split("/")[1]), "cifar10-test", int(key[-3:]), data]
        for key, data in files.items()
    }
    names = sorted(path.name for path in (tmp_path / "shards").glob("*.tar"))
    assert names == [
        f"{split}-0000{i}-of-00003.tar" for split in ("train", "valid") for i in range(3)
    ]
    keys = [key for key in samples if key.startswith("train/")][:5]
    with tarfile.open(tmp_path / "shards" / names[0]) as tar:
        assert tar.getnames() == [
            *(f"{key}.{suffix}" for key in keys for suffix in ("png", "cls", "json")),
            "__index__",
        ]
