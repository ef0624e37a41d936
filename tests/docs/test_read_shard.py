"""tools/read_shard.py, a reader written from docs/format.md alone, reads packed datasets."""

import ast
import hashlib
import io
import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from format_example import PNGS, SHARD, build_example
from PIL import Image
from read_shard import read_dataset, read_manifest

from cinic_shards.codec import ENCODINGS
from cinic_shards.format import Index, Manifest
from cinic_shards.format.provenance import parse_stem
from cinic_shards.read.dataset import Dataset
from cinic_shards.write.pack import PackOptions, pack
from tests.support import ROOT

SCRIPT = ROOT / "tools" / "read_shard.py"
DOG, CAT = "train/dog/ours", "train/cat/n02121808_77"


# The script itself.


def test_it_is_short() -> None:
    assert sum(line.strip() != "" for line in SCRIPT.read_text().splitlines()) < 120


def test_it_does_not_import_the_package() -> None:
    imported = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level
            imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names <= {"numpy", "zstandard", "msgpack"}


# Intact datasets.


def test_samples_equal_the_tree(demo_tree: Path, demo_shards: Path) -> None:
    files = {
        path.relative_to(demo_tree).with_suffix("").as_posix(): path.read_bytes()
        for path in demo_tree.glob("*/*/*.png")
    }
    classes = sorted({key.split("/")[1] for key in files})
    samples = list(read_dataset(demo_shards))
    assert len(samples) == len(files) == 270
    assert {key: payload for key, _, _, payload in samples} == files
    for key, label, provenance, _ in samples:
        _, class_name, stem = key.split("/")
        assert classes[label] == class_name
        assert provenance == parse_stem(stem)._asdict()


def test_samples_and_order_equal_the_packages(demo_shards: Path) -> None:
    dataset = Dataset(demo_shards)
    samples = read_dataset(demo_shards)
    sample_id = 0
    for split in dataset.manifest.splits:
        reader = dataset.split(split.name)
        for row in range(len(reader)):
            key, label, _, payload = next(samples)
            assert (key, label) == (reader.key(row), reader.labels[row])
            assert reader.ids(np.array([row])) == [sample_id]
            sample_id += 1
            image = np.empty((1, *reader.image_shape), np.uint8)
            reader.read_images(np.array([row]), image)
            assert (image[0] == np.asarray(Image.open(io.BytesIO(payload)))).all()
    assert next(samples, None) is None


def test_columns_equal_the_packages(demo_shards: Path) -> None:
    manifest = Manifest.from_bytes(
        (demo_shards / "manifest.json").read_bytes(), location="", encodings=ENCODINGS
    )
    samples = read_dataset(demo_shards)
    for shard in [shard for split in manifest.splits for shard in split.shards]:
        data = (demo_shards / shard.name).read_bytes()
        stored = data[shard.index_offset :][: shard.index_length]
        end, num_classes = shard.index_offset, len(manifest.classes)
        index = Index.from_bytes(
            stored, location="", end=end, num_classes=num_classes, encodings=ENCODINGS
        )
        for row, start in enumerate(index.offset.tolist()):
            payload = data[start : start + int(index.length[row])]
            provenance = index.provenance(row)._asdict()
            expected = (index.keys[row], index.label[row], provenance, payload)
            assert next(samples) == expected
    assert next(samples, None) is None


def test_unusual_names_sizes_and_sidecars(tmp_path: Path) -> None:
    files = {}
    for number in range(24):
        split, name = ("valid", "a.b")[number % 2], ("Ü", "ü", "a b.c", "n01440764")[number % 4]
        key = f"{split}/{name}/cifar-10-test-{number:04d}"
        image = Image.new("RGB", (number % 3 + 1, 2), (number, 0, 0))
        path = tmp_path / "tree" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        files[key] = path.read_bytes()
    options = PackOptions(shard_size=5, seed=3, sidecars=("json",))
    pack(tmp_path / "tree", tmp_path / "shards", options, workers=1, warn=lambda text: None)
    samples = list(read_dataset(tmp_path / "shards"))
    assert {key: payload for key, _, _, payload in samples} == files
    for key, label, provenance, _ in samples:
        assert ["a b.c", "n01440764", "Ü", "ü"][label] == key.split("/")[1]
        number = int(key[-4:])
        assert provenance == {"origin": "cifar10-test", "synset": "", "number": number}


@pytest.mark.parametrize("encoding", ["raw", "zstd"])
def test_blocks(demo_tree: Path, tmp_path: Path, encoding: str) -> None:
    pngs = {key: payload for key, _, _, payload in read_tree(demo_tree)}
    options = PackOptions(encoding=encoding, block_size=16, shard_size=40)
    pack(demo_tree, tmp_path, options, workers=1)
    expected = Dataset(tmp_path)
    samples = list(read_dataset(tmp_path))
    assert len(samples) == len(pngs)
    for sample_id, (key, label, provenance, pixels) in enumerate(samples):
        assert expected.manifest.classes[label] == key.split("/")[1]
        assert provenance == parse_stem(key.split("/")[2])._asdict()
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(pngs[key]))))
        split = next(s for s in reversed(expected.manifest.splits) if s.first_id <= sample_id)
        assert expected.split(split.name).key(sample_id - split.first_id) == key


def read_tree(tree: Path) -> Any:
    for path in tree.glob("*/*/*.png"):
        yield path.relative_to(tree).with_suffix("").as_posix(), 0, {}, path.read_bytes()


@pytest.mark.parametrize("encoding", ["raw", "zstd"])
def test_a_flipped_byte_of_a_block(demo_tree: Path, tmp_path: Path, encoding: str) -> None:
    pack(demo_tree, tmp_path, PackOptions(encoding=encoding, block_size=16, shards=1), workers=1)
    name = "train-00000-of-00001.tar"
    flip(tmp_path / name, 5000)
    expect_error(tmp_path, f"{name}: sample ", "CRC-32 is ")


# Damage.


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Return the document's example, for a test to damage."""
    return build_example(tmp_path)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def expect_error(folder: Path, *texts: str) -> None:
    with pytest.raises(ValueError) as caught:
        list(read_dataset(folder))
    for text in texts:
        assert text in str(caught.value)


def test_any_flipped_byte_of_the_manifest(shards: Path) -> None:
    path = shards / "manifest.json"
    good = path.read_bytes()
    for offset in range(len(good)):
        flip(path, offset)
        with pytest.raises(ValueError, match=r"manifest\.json"):
            read_manifest(shards)
        path.write_bytes(good)
    assert len(list(read_dataset(shards))) == 2


@pytest.mark.parametrize("part", [0, 0.5, 1])
def test_a_flipped_byte_of_an_index(demo_shards: Path, tmp_path: Path, part: float) -> None:
    shutil.copytree(demo_shards, tmp_path / "copy")
    shard = read_manifest(demo_shards)["splits"][1]["shards"][2]
    offset = shard["index_offset"] + round(part * (shard["index_length"] - 1))
    flip(tmp_path / "copy" / shard["name"], offset)
    expect_error(tmp_path / "copy", f"{shard['name']}: index_sha256 is ")


@pytest.mark.parametrize("row", [0, 17, 39])
@pytest.mark.parametrize("part", [0, 0.5, 1])
def test_a_flipped_byte_of_a_payload(
    demo_shards: Path, tmp_path: Path, row: int, part: float
) -> None:
    shutil.copytree(demo_shards, tmp_path / "copy")
    path = tmp_path / "copy" / read_manifest(demo_shards)["splits"][0]["shards"][1]["name"]
    key, _, _, payload = list(read_dataset(demo_shards))[40 + row]
    start = path.read_bytes().index(payload)
    flip(path, start + round(part * (len(payload) - 1)))
    expect_error(tmp_path / "copy", f"{path.name}: sample {row} ({key!r}): CRC-32 is ")
    read = read_dataset(tmp_path / "copy")
    for _ in range(40 + row):  # those before it are intact
        next(read)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0"])
def test_a_shard_of_the_wrong_size(shards: Path, change: Callable[[bytes], bytes]) -> None:
    data = (shards / SHARD).read_bytes()
    size = len(data)
    (shards / SHARD).write_bytes(change(data))
    expect_error(shards, f"{SHARD}: size is ", f"expected {size}")


def test_a_folder_without_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        next(read_dataset(tmp_path))


def seal(folder: Path, manifest: Any) -> None:
    """Write a manifest with a correct digest."""
    manifest["digest"] = "sha256:" + "0" * 64
    text = json.dumps(manifest)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(text.replace("0" * 64, digest, 1))


def info_of(manifest: Any) -> Any:
    return manifest["splits"][0]["shards"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="other"), "json: format is 'other', expected cinic-shards"),
        (lambda m: m.update(version="1.0"), "version is '1.0'"),
        (lambda m: m.update(required_features=["glow"]), "required_features: 0 is 'glow'"),
        (lambda m: m.update(encoding="jxl"), "encoding is 'jxl', expected "),
        (lambda m: m.pop("classes"), "classes is None"),
        (lambda m: m.update(classes=["cat", 1]), "classes: 1 is 1"),
        (lambda m: m["splits"].append(None), "splits: 1 is None"),
        (lambda m: m["splits"][0].update(name="__x"), "splits: 0: name is '__x'"),
        (lambda m: m["splits"][0].update(first_id=1), "train: first_id is 1, expected 0"),
        (lambda m: m["splits"][0].update(num_samples=3), "num_samples is 3, expected 2"),
        (lambda m: info_of(m).update(num_samples=2.0), "num_samples is 2.0"),
        (lambda m: info_of(m).update(num_samples=True), "num_samples is True"),
        (lambda m: info_of(m).update(size=-1), "size is -1"),
        (lambda m: info_of(m).update(index_length=2**53), "index_length is "),
        (lambda m: info_of(m).update(index_length=2**53 - 1), f"{SHARD}: index_sha256 is "),
        (lambda m: info_of(m).update(index_offset=6145), f"{SHARD}: index_sha256 is "),
        (lambda m: info_of(m).update(name="../x.tar"), "shards: 0: name is '../x.tar'"),
        (lambda m: info_of(m).update(name="x.tar\n"), "shards: 0: name is "),
        (lambda m: info_of(m).update(sha256="0"), "sha256 is '0'"),
        (lambda m: info_of(m).update(index_sha256="0" * 64), f"{SHARD}: index_sha256 is "),
    ],
)
def test_an_invalid_manifest_with_a_correct_digest(
    shards: Path, change: Callable[[Any], object], message: str
) -> None:
    manifest = json.loads((shards / "manifest.json").read_bytes())
    change(manifest)
    seal(shards, manifest)
    expect_error(shards, "manifest.json" if SHARD not in message else SHARD, message)


def put(name: str, dtype: str, *values: int) -> Callable[[Any], object]:
    column = {"dtype": dtype, "data": np.array(values, dtype).tobytes()}
    return lambda index: index["columns"].update({name: column})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.update(format="cinic-shards"), "index: format is 'cinic-shards'"),
        (lambda i: i.update(version="1.0"), "index: version is '1.0'"),
        (lambda i: i.update(num_samples=3), "index: num_samples is 3, expected 2"),
        (lambda i: i.update(num_payloads=1), "index: num_payloads is 1, expected 2"),
        (lambda i: i["keys"].pop(), "number of keys is 1, expected 2"),
        (lambda i: i.update(keys=[DOG, 0]), "index: keys: 1 is 0"),
        (lambda i: i["columns"].pop("crc32"), "columns: crc32 is None"),
        (put("label", "<i8", 1, 0), "label: dtype is '<i8', expected <i4"),
        (put("label", "<i4", 1), "bytes of label is 4, expected 8"),
        (put("label", "<i4", 1, 2), f"sample 1 ({CAT!r}): label is 2, expected range(0, 2)"),
        (put("label", "<i4", -1, 0), f"sample 0 ({DOG!r}): label is -1"),
        (put("origin", "|u1", 0, 4), f"sample 1 ({CAT!r}): origin is 4"),
        (put("first_row", "<u8", 0, 0), f"sample 1 ({CAT!r}): first_row is 0, expected 1"),
        (put("offset", "<u8", 512, 593), f"sample 1 ({CAT!r}): offset is 593"),
        (put("offset", "<u8", 512, 4527), f"sample 1 ({CAT!r}): offset is 4527"),
        (put("offset", "<u8", 512, 2**64 - 82), f"sample 1 ({CAT!r}): offset is "),
        (put("length", "<u8", 2**64 - 1, 82), f"sample 0 ({DOG!r}): offset is 512"),
        (put("crc32", "<u4", 0, 0), f"sample 0 ({DOG!r}): CRC-32 is 'ab1f184e', expected 00000000"),
    ],
)
def test_an_invalid_index_with_correct_digests(
    shards: Path, change: Callable[[Any], object], message: str
) -> None:
    replace_index(shards, change)
    expect_error(shards, SHARD, message)


def replace_index(shards: Path, change: Callable[[Any], object]) -> None:
    """Put a changed index after the payloads, and update the manifest and its hashes."""
    manifest = json.loads((shards / "manifest.json").read_bytes())
    info = info_of(manifest)
    data = (shards / SHARD).read_bytes()
    start = info["index_offset"]
    index = msgpack.unpackb(data[start:][: info["index_length"]])
    changed = change(index)
    stored = changed if isinstance(changed, bytes) else msgpack.packb(index)
    (shards / SHARD).write_bytes(data[:start] + stored)
    info.update(size=start + len(stored), index_length=len(stored))
    info.update(index_sha256=hashlib.sha256(stored).hexdigest())
    seal(shards, manifest)


@pytest.mark.parametrize(
    "stored",
    [b"", b"\xc1", b"\x80\x80", b"\x81\xa1", b"\x91" * 100_000, b"\x81\x90\x00", b"\xdf" * 5],
)
def test_an_index_that_is_not_msgpack(shards: Path, stored: bytes) -> None:
    replace_index(shards, lambda index: stored)
    expect_error(shards, f"{SHARD}: index: ")


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 100_000, b"[]", b"1", b"{"])
def test_a_manifest_that_is_not_json(shards: Path, data: bytes) -> None:
    (shards / "manifest.json").write_bytes(data)
    expect_error(shards, "manifest.json")


def test_a_payload_that_is_not_a_png(shards: Path) -> None:
    def move(index: Any) -> None:
        put("offset", "<u8", 511, 2560)(index)
        put("crc32", "<u4", zlib.crc32((shards / SHARD).read_bytes()[511:][:82]), 0)(index)

    replace_index(shards, move)
    expect_error(shards, f"sample 0 ({DOG!r}): first bytes is ")


def test_unknown_fields_are_ignored(shards: Path) -> None:
    def extend(index: Any) -> None:
        index["news"] = {"a": [1]}
        index["columns"]["depth"] = "unknown"

    replace_index(shards, extend)
    manifest = json.loads((shards / "manifest.json").read_bytes())
    for part in (manifest, manifest["splits"][0], info_of(manifest)):
        part["news"] = [{}]
    manifest["version"] = "0.3"
    seal(shards, manifest)
    assert [key for key, _, _, _ in read_dataset(shards)] == [DOG, CAT]


# The command.


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


def test_a_line_for_each_sample(shards: Path) -> None:
    result = run(shards)
    assert result.stdout.splitlines() == [
        f"0\t{DOG}\t1\tunknown\t-\t-1\t{len(PNGS[DOG])}",
        f"1\t{CAT}\t0\timagenet\tn02121808\t77\t{len(PNGS[CAT])}",
    ]
    assert (result.stderr, result.returncode) == ("", 0)


def test_a_damaged_dataset_gives_one_line(shards: Path) -> None:
    flip(shards / SHARD, 520)
    result = run(shards)
    assert result.returncode == 1
    assert f"{SHARD}: sample 0 ({DOG!r}): CRC-32 is" in result.stderr
    assert len(result.stderr.splitlines()) == 1
