"""Packing is lossless and deterministic, and a failure leaves the output as it was."""

import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from make_demo_tree import make_tree
from numpy.typing import NDArray
from PIL import Image

from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import (
    CinicShardsError,
    FormatError,
    OptionError,
    OutputError,
    StoreError,
    TreeError,
)
from cinic_shards.format import INDEX_NAME, MANIFEST_NAME, Index, Manifest, ShardInfo
from cinic_shards.format.provenance import ORIGINS, parse_stem
from cinic_shards.read.dataset import Dataset
from cinic_shards.write.pack import PackOptions, pack, packing_order
from tests.support.files import PAGE, PNG, digests, files_of, write
from tests.support.odd_pngs import RGB, damaged_pngs, encode_png, odd_pngs
from tests.support.processes import run_forked


def unpack(shards: Path, into: Path) -> dict[str, bytes]:
    """Extract all shards with ``tar xf``; return the files."""
    into.mkdir()
    for shard in sorted(shards.glob("*.tar")):
        subprocess.run(["tar", "xf", shard, "-C", into], check=True)
    return files_of(into)


def read_manifest(shards: Path) -> Manifest:
    return Manifest.from_bytes(
        (shards / MANIFEST_NAME).read_bytes(), location="manifest", encodings=ENCODINGS
    )


def indexes(shards: Path) -> Iterator[tuple[ShardInfo, Index, bytes]]:
    """Yield each shard's manifest entry, index and bytes, in the manifest's order."""
    manifest = read_manifest(shards)
    for shard in (shard for split in manifest.splits for shard in split.shards):
        data = (shards / shard.name).read_bytes()
        index = data[shard.index_offset : shard.index_offset + shard.index_length]
        assert hashlib.sha256(index).hexdigest() == shard.index_sha256
        place, end = shard.name, shard.index_offset
        classes = len(manifest.classes)
        yield (
            shard,
            Index.from_bytes(
                index, location=place, end=end, num_classes=classes, encodings=ENCODINGS
            ),
            data,
        )


def keys_of(shards: Path) -> list[str]:
    return [key for _, index, _ in indexes(shards) for key in index.keys]


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    """Decode a PNG with Pillow."""
    with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
        warnings.filterwarnings("ignore", "Palette images with Transparency")
        return np.asarray(image.convert("RGB"))


def hash_of(pixels: NDArray[np.uint8]) -> bytes:
    shape = struct.pack("<III", *pixels.shape)
    return hashlib.blake2b(shape + pixels.tobytes(), digest_size=16).digest()


def refused(
    tree: Path, out: Path, error: type[CinicShardsError], *, workers: int = 1, **options: object
) -> str:
    """Return the message of a failed packing, after checking that no file has changed."""
    before = files_of(out.parent), sorted(out.parent.rglob("*"))
    with pytest.raises(error) as caught:
        pack(tree, out, workers=workers, warn=lambda text: None, **options)  # type: ignore[arg-type]
    assert type(caught.value) is error
    assert (files_of(out.parent), sorted(out.parent.rglob("*"))) == before
    return str(caught.value)


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    """A tree of two splits with two classes, 3 images each, without CINIC-10 names."""
    root = tmp_path / "small"
    write(root, *(f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in "012"))
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A path to pack to, in an otherwise empty folder."""
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs" / "shards"


# --- Content of a dataset ---------------------------------------------------------------------


@pytest.mark.parametrize("sidecars", [(), ("cls",), ("json",), ("cls", "json")], ids=",".join)
def test_tar_restores_every_file(
    demo_tree: Path, tmp_path: Path, sidecars: tuple[str, ...]
) -> None:
    pack(demo_tree, tmp_path / "out", PackOptions(shard_size=40, sidecars=sidecars), workers=1)
    extracted = unpack(tmp_path / "out", tmp_path / "extracted")
    originals = files_of(demo_tree)
    assert {path: data for path, data in extracted.items() if path.endswith(".png")} == originals
    classes = sorted({path.split("/")[1] for path in originals})
    expected: dict[str, bytes] = {INDEX_NAME: extracted[INDEX_NAME], **originals}
    for path in originals:
        key = path.removesuffix(".png")
        _, class_name, stem = key.split("/")
        label, origin = classes.index(class_name), parse_stem(stem)
        if "cls" in sidecars:
            expected[f"{key}.cls"] = str(label).encode()
        if "json" in sidecars:
            values = {"key": key, "class": class_name, "label": label}
            values |= {"origin": origin.origin, "synset": origin.synset, "number": origin.number}
            assert json.loads(extracted[f"{key}.json"]) == values
            expected[f"{key}.json"] = json.dumps(values, separators=(",", ":")).encode()
    assert extracted == expected


@pytest.mark.parametrize(
    "path",
    [
        f"train/{'c' * 89}/{'s' * 95}.png",
        f"{'S' * 60}/{'c' * 34}/{'s' * 95}.png",
        f"train/{'é' * 44}/{'ü' * 47}.png",
        "train/a b/with 'quotes' \" and *.png",
        "train/a.b/-rf.png",
        "train/__key__/__url__.png",
        "_/日本語/写真.png",
        # Exactly 100 bytes, and 101.
        f"train/{'c' * 60}/{'s' * 29}.png",
        f"train/{'c' * 60}/{'s' * 30}.png",
    ],
    ids=ascii,
)
def test_any_allowed_name_is_restored(tmp_path: Path, path: str) -> None:
    write(tmp_path / "tree", path)
    options = PackOptions(sidecars=("cls", "json"))
    pack(tmp_path / "tree", tmp_path / "out", options, workers=1, warn=lambda text: None)
    extracted = unpack(tmp_path / "out", tmp_path / "extracted")
    key = path.removesuffix(".png")
    assert set(extracted) == {path, f"{key}.cls", f"{key}.json", INDEX_NAME}
    assert extracted[path] == PNG
    assert json.loads(extracted[f"{key}.json"])["key"] == key == keys_of(tmp_path / "out")[0]


@pytest.mark.parametrize("sidecars", [(), ("cls",), ("json",), ("cls", "json")], ids=",".join)
def test_members_and_their_order(demo_tree: Path, out: Path, sidecars: tuple[str, ...]) -> None:
    pack(demo_tree, out, PackOptions(shard_size=40, sidecars=sidecars), workers=1)
    for shard, index, data in indexes(out):
        with tarfile.open(out / shard.name) as tar:
            members = tar.getmembers()
        suffixes = ("png", *sidecars)
        names = [f"{key}.{suffix}" for key in index.keys for suffix in suffixes]
        assert [member.name for member in members] == [*names, INDEX_NAME]
        for member in members:
            assert member.isreg() and member.mode == 0o644 and not member.pax_headers
            assert member.uid == member.gid == member.mtime == 0
            assert member.uname == member.gname == ""
        pngs = members[: -1 : len(suffixes)]
        assert [member.offset_data for member in pngs] == index.offset.tolist()
        assert [member.size for member in pngs] == index.length.tolist()
        assert (members[-1].offset_data, members[-1].size) == (
            shard.index_offset,
            shard.index_length,
        )
        content_end = shard.index_offset + -(-shard.index_length // 512) * 512
        assert data[content_end:] == bytes(1024)


def test_the_order_of_sidecars_does_not_matter(small_tree: Path, tmp_path: Path) -> None:
    """The same sidecars in any order give the same bytes."""
    for name, sidecars in (("one", ("cls", "json")), ("two", ("json", "cls", "json"))):
        options = PackOptions(sidecars=sidecars)
        pack(small_tree, tmp_path / name, options, workers=1, warn=lambda text: None)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.parametrize(
    "shard_size, sizes",
    [(1, [1] * 90), (7, [7] * 12 + [6]), (45, [45, 45]), (89, [89, 1]), (90, [90]), (10_240, [90])],
)
def test_shard_sizes(demo_tree: Path, out: Path, shard_size: int, sizes: list[int]) -> None:
    manifest = pack(demo_tree, out, PackOptions(shard_size=shard_size), workers=1)
    assert [split.name for split in manifest.splits] == ["test", "train", "valid"]
    for split in manifest.splits:
        assert [shard.num_samples for shard in split.shards] == sizes
        assert [shard.name for shard in split.shards] == [
            f"{split.name}-{i:05d}-of-{len(sizes):05d}.tar" for i in range(len(sizes))
        ]
    names = [shard.name for split in manifest.splits for shard in split.shards]
    assert sorted(os.listdir(out)) == sorted([*names, MANIFEST_NAME])
    assert sorted(f"{key}.png" for key in keys_of(out)) == sorted(files_of(demo_tree))


def test_index_columns_match_names_and_files(demo_tree: Path, demo_shards: Path) -> None:
    classes = read_manifest(demo_shards).classes
    assert classes == tuple(sorted(os.listdir(demo_tree / "train")))
    for shard, index, data in indexes(demo_shards):
        assert len(index) == shard.num_samples
        assert index.first_row.tolist() == list(range(len(index)))
        for row, key in enumerate(index.keys):
            split, class_name, stem = key.split("/")
            file = (demo_tree / f"{key}.png").read_bytes()
            origin = parse_stem(stem)
            start, length = int(index.offset[row]), int(index.length[row])
            assert shard.name.startswith(f"{split}-")
            assert classes[index.label[row]] == class_name
            assert index.provenance(row) == origin
            assert index.origin[row] == ORIGINS.index(origin.origin) > 0
            assert index.synset[row] == int(origin.synset[1:] or 0)
            assert index.number[row] == origin.number
            assert data[start : start + length] == file
            assert index.crc32[row] == zlib.crc32(file)
            assert index.pixel_hash[row].tobytes() == hash_of(pixels_of(file))


def test_the_manifest_counts(demo_tree: Path, demo_shards: Path) -> None:
    manifest = read_manifest(demo_shards)
    assert manifest.num_samples == 270
    assert [split.first_id for split in manifest.splits] == [0, 90, 180]
    for shard, index, data in indexes(demo_shards):
        assert (shard.size, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        parts = [key.split("/") for key in index.keys]
        assert shard.classes == Counter(class_name for _, class_name, _ in parts)
        assert shard.origins == Counter(parse_stem(stem).origin for _, _, stem in parts)
    for split in manifest.splits:
        origins = sum((Counter(shard.origins) for shard in split.shards), Counter[str]())
        cifar10 = {"cifar10-train": 20}
        if split.name == "test":  # the only split with images of CIFAR-10's test set
            cifar10 = {"cifar10-train": 10, "cifar10-test": 10}
        assert origins == {"imagenet": 70, **cifar10}
    assert {shard.name for split in manifest.splits for shard in split.shards} | {
        MANIFEST_NAME
    } == set(os.listdir(demo_shards))


def test_pack_returns_what_it_writes(small_tree: Path, out: Path) -> None:
    manifest = pack(str(small_tree), str(out), workers=1, warn=lambda text: None)
    assert manifest == read_manifest(out)
    assert manifest.options == {"seed": 0, "shard_size": 10_240, "sidecars": ["cls"]}


def test_statistics_are_numpys(demo_tree: Path, demo_shards: Path) -> None:
    for split in read_manifest(demo_shards).splits:
        files = files_of(demo_tree / split.name).values()
        pixels = np.stack([pixels_of(file) for file in files]).reshape(-1, 3) / 255
        assert pixels.dtype == np.float64
        np.testing.assert_allclose(split.pixels.mean, pixels.mean(axis=0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(split.pixels.std, pixels.std(axis=0), rtol=0, atol=1e-12)
        assert split.image_sizes == {(32, 32): 90} and split.pixels.count == 90 * 1024


def fingerprint_of(tree: Path, keys: list[str]) -> str:
    """Compute the fingerprint as docs/format.md defines it, from the tree and an order."""
    classes = sorted({key.split("/")[1] for key in keys})
    state = hashlib.blake2b(digest_size=32)
    for key in keys:
        label = classes.index(key.split("/")[1])
        pixels = pixels_of((tree / f"{key}.png").read_bytes())
        state.update(key.encode() + b"\0" + struct.pack("<I", label) + hash_of(pixels))
    return f"blake2b:{state.hexdigest()}"


def test_fingerprint_and_order_match_their_definitions(demo_tree: Path, demo_shards: Path) -> None:
    def place(key: str) -> bytes:
        return hashlib.blake2b(key.encode(), key=bytes(8), digest_size=16).digest()

    keys = [path.removesuffix(".png") for path in files_of(demo_tree)]
    order = sorted(keys, key=lambda key: (key.split("/")[0], place(key)))
    assert keys_of(demo_shards) == order
    assert read_manifest(demo_shards).fingerprint == fingerprint_of(demo_tree, order)


@pytest.mark.parametrize("seed", [0, 1, 2**53 - 1])
def test_packing_order_is_keyed_by_the_seed(seed: int) -> None:
    keys = [f"train/cat/{i}" for i in range(100)]
    key = struct.pack("<Q", seed)
    hashes = [hashlib.blake2b(k.encode(), key=key, digest_size=16).digest() for k in keys]
    assert packing_order(keys, seed).tolist() == sorted(range(100), key=lambda i: hashes[i])


def test_packing_order_of_nothing() -> None:
    assert packing_order([], 0).tolist() == []


def test_a_seed_changes_the_order_and_nothing_else(
    demo_tree: Path, demo_shards: Path, out: Path
) -> None:
    pack(demo_tree, out, PackOptions(shard_size=40, seed=1), workers=1)

    def samples(shards: Path) -> list[tuple[object, ...]]:
        return [
            (key, int(index.label[i]), index.pixel_hash[i].tobytes(), int(index.crc32[i]))
            for _, index, _ in indexes(shards)
            for i, key in enumerate(index.keys)
        ]

    assert samples(out) != samples(demo_shards)
    assert sorted(samples(out)) == sorted(samples(demo_shards))
    one, other = read_manifest(out), read_manifest(demo_shards)
    assert one.fingerprint == fingerprint_of(demo_tree, keys_of(out)) != other.fingerprint
    assert [split.pixels for split in one.splits] == [split.pixels for split in other.splits]


def test_the_fingerprint_depends_on_samples_alone(
    demo_tree: Path, demo_shards: Path, tmp_path: Path
) -> None:
    same = read_manifest(demo_shards).fingerprint
    for number, options in enumerate(
        [PackOptions(shard_size=7), PackOptions(sidecars=()), PackOptions(sidecars=("json",))]
    ):
        out = tmp_path / str(number)
        assert pack(demo_tree, out, options, workers=1).fingerprint == same
    tree = tmp_path / "tree"
    shutil.copytree(demo_tree, tree)
    changed = sorted(tree.glob("train/cat/*.png"))[0]
    with Image.open(changed) as image:
        image.load()
    image.save(changed, compress_level=0)  # different bytes, same pixels
    assert pack(tree, tmp_path / "recompressed", workers=1).fingerprint == same
    image.putpixel((5, 5), (image.getpixel((5, 5))[0] ^ 1, 0, 0))
    image.save(changed)
    assert pack(tree, tmp_path / "changed", workers=1).fingerprint != same


# --- The same tree gives the same bytes -------------------------------------------------------


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.real)])
def test_any_number_of_workers_gives_the_same_bytes(
    demo_tree: Path, demo_shards: Path, out: Path, workers: int
) -> None:
    pack(demo_tree, out, PackOptions(shard_size=40), workers=workers)
    assert digests(out) == digests(demo_shards)


def test_the_order_of_listing_does_not_matter(
    demo_tree: Path, demo_shards: Path, out: Path, listing_order: str
) -> None:
    pack(demo_tree, out, PackOptions(shard_size=40), workers=1)
    assert digests(out) == digests(demo_shards)


def test_folder_dates_and_modes_do_not_matter(
    demo_tree: Path, demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "elsewhere"
    for path, data in files_of(demo_tree).items():
        write(tree, path, data=data)
        os.utime(tree / path, (1, 1))
        (tree / path).chmod(0o600)
    monkeypatch.chdir(tmp_path)
    pack("elsewhere", "out", PackOptions(shard_size=40), workers=1)
    assert digests(tmp_path / "out") == digests(demo_shards)


# --- Image formats ----------------------------------------------------------------------------


def test_images_of_many_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, 300), (300, 1), (32, 32), (32, 32), (7, 5), (5, 7), (200, 100)]
    for number, size in enumerate(sizes):
        data = encode_png(rng.integers(0, 256, (*size, 3)), RGB, 8)
        write(tmp_path / "tree", f"train/cat/{number}.png", data=data)
    manifest = pack(tmp_path / "tree", tmp_path / "out", workers=1, warn=lambda text: None)
    assert manifest.splits[0].image_sizes == Counter(sizes)
    assert manifest.splits[0].pixels.count == sum(height * width for height, width in sizes)
    assert json.loads((tmp_path / "out" / MANIFEST_NAME).read_bytes())["image_shape"] is None
    files = files_of(tmp_path / "tree")
    for _, index, _ in indexes(tmp_path / "out"):
        for key, found in zip(index.keys, index.pixel_hash, strict=True):
            assert found.tobytes() == hash_of(pixels_of(files[f"{key}.png"]))
    everything = np.concatenate([pixels_of(file).reshape(-1, 3) for file in files.values()]) / 255
    np.testing.assert_allclose(manifest.splits[0].pixels.mean, everything.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(manifest.splits[0].pixels.std, everything.std(axis=0), atol=1e-12)
    extracted = unpack(tmp_path / "out", tmp_path / "extracted")
    assert files.items() <= extracted.items()


def test_every_png_format_has_pillows_pixels(tmp_path: Path) -> None:
    """Grey, palette, alpha, 16 bits, interlaced: the file is unchanged, the pixels are RGB."""
    kinds = list(odd_pngs().values())
    for number, data in enumerate(kinds):
        write(tmp_path / "tree", f"train/cat/{number}.png", data=data)
    manifest = pack(tmp_path / "tree", tmp_path / "out", workers=1, warn=lambda text: None)
    (split,) = manifest.splits
    hashes = {
        int(key.split("/")[2]): found.tobytes()
        for _, index, _ in indexes(tmp_path / "out")
        for key, found in zip(index.keys, index.pixel_hash, strict=True)
    }
    assert hashes == {number: hash_of(pixels_of(data)) for number, data in enumerate(kinds)}
    pixels = np.stack([pixels_of(data) for data in kinds]).reshape(-1, 3) / 255
    np.testing.assert_allclose(split.pixels.mean, pixels.mean(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(split.pixels.std, pixels.std(axis=0), rtol=0, atol=1e-12)
    extracted = unpack(tmp_path / "out", tmp_path / "extracted")
    assert files_of(tmp_path / "tree").items() <= extracted.items()


def test_a_class_that_a_split_lacks_keeps_the_labels(small_tree: Path, out: Path) -> None:
    write(small_tree, "train/aa/x.png")
    said: list[str] = []
    manifest = pack(small_tree, out, workers=1, warn=said.append)
    assert said[0] == "split test has no image of aa"
    assert manifest.classes == ("a", "aa", "b")
    for _, index, _ in indexes(out):
        for key, label in zip(index.keys, index.label.tolist(), strict=True):
            assert manifest.classes[label] == key.split("/")[1]


def test_a_suffix_in_capitals_becomes_small(tmp_path: Path) -> None:
    write(tmp_path / "tree", "train/a/n02121808_1.PNG", "train/a/n02121808_2.png")
    said: list[str] = []
    pack(tmp_path / "tree", tmp_path / "out", workers=1, warn=said.append)
    assert len(said) == 1 and "train/a/n02121808_1.PNG" in said[0]
    extracted = unpack(tmp_path / "out", tmp_path / "extracted")
    assert extracted["train/a/n02121808_1.png"] == PNG


# --- Warnings and progress --------------------------------------------------------------------


def test_a_cinic10_tree_gives_no_warning_and_has_its_licence(demo_shards: Path) -> None:
    manifest = read_manifest(demo_shards)  # packed where any warning is an error
    assert "CC-BY-4.0" in manifest.licence and "Darlow" in manifest.citation


def test_other_names_are_kept_and_give_a_warning(small_tree: Path, out: Path) -> None:
    write(small_tree, "train/a/n02121808_1.png")
    with pytest.warns(UserWarning, match="^12 images do not have names as in CINIC-10"):
        manifest = pack(small_tree, out, workers=1)
    assert manifest.licence == manifest.citation == ""
    counts: Counter[str] = Counter()
    for shard, _, _ in indexes(out):
        counts.update(shard.origins)
    assert counts == {"unknown": 12, "imagenet": 1}


def test_progress_counts_up_to_every_image(demo_tree: Path, out: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    pack(
        demo_tree,
        out,
        PackOptions(shard_size=7),
        workers=1,
        progress=lambda *call: calls.append(call),
    )
    assert [doing for doing, _, _ in calls] == ["scan"] * 30 + ["pack"] * (1 + 3 * 13)
    for doing, last in (("scan", ("scan", 270, 0)), ("pack", ("pack", 270, 270))):
        done = [count for what, count, _ in calls if what == doing]
        assert done == sorted(done)
        assert [call for call in calls if call[0] == doing][-1] == last


def test_progress_is_reported_while_one_worker_works(demo_tree: Path, out: Path) -> None:
    """Progress must not jump from nothing to the end."""
    found: list[int] = []

    def progress(doing: str, done: int, total: int) -> None:
        if doing == "pack" and done:
            found.append(len(list(out.rglob("*.tar"))))

    pack(demo_tree, out, PackOptions(shard_size=1), workers=1, progress=progress)
    assert len(found) == 270 and 1 <= found[0] < 270


# --- Options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, said",
    [
        ({"shard_size": 0}, "shard size 0: expected at least 1"),
        ({"shard_size": -5}, "shard size -5: expected at least 1"),
        ({"seed": -1}, "seed -1: expected a number from 0"),
        ({"seed": 2**64}, f"seed {2**64}: expected a number from 0"),
        ({"sidecars": ("txt",)}, "sidecars txt: expected any of cls, json"),
        ({"sidecars": ("cls", "")}, "sidecars : expected any of cls, json"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        PackOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        PackOptions(**options)  # type: ignore[arg-type]


def test_options_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        PackOptions().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("workers", [0, -1])
def test_fewer_than_one_worker_is_rejected(small_tree: Path, out: Path, workers: int) -> None:
    message = refused(small_tree, out, OptionError, workers=workers)
    assert message == f"workers={workers}: expected an integer, at least 1"


# --- Trees that cannot be packed --------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.real)])
def test_all_damaged_images_are_reported_at_once(
    demo_tree: Path, tmp_path: Path, out: Path, workers: int
) -> None:
    """Their headers are intact: only decoding finds them, in several shards."""
    tree = tmp_path / "tree"
    shutil.copytree(demo_tree, tree)
    damaged = {
        name: data
        for name, data in damaged_pngs().items()
        if data[:33] == damaged_pngs()["no IDAT"][:33]
    }
    assert len(damaged) >= 8
    paths = []
    for number, data in enumerate(damaged.values()):
        paths.append(f"{('train', 'test', 'valid')[number % 3]}/frog/damaged{number}.png")
        write(tree, paths[-1], data=data)
    with pytest.raises(TreeError) as caught:
        pack(tree, out, PackOptions(shard_size=20), workers=workers, warn=lambda text: None)
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == sorted(paths)
    assert all(": not a readable PNG: " in problem for problem in caught.value.problems)
    assert not out.exists()


@pytest.mark.parametrize("every", [1, 3])
def test_many_damaged_images_in_one_shard(tmp_path: Path, out: Path, every: int) -> None:
    for number in range(300):
        data = PNG if number % every else PNG[:-30]
        write(tmp_path / "tree", f"train/a/{number:03}.png", data=data)
    with pytest.raises(TreeError) as caught:
        pack(tmp_path / "tree", out, workers=1)
    found = [problem.partition(": ")[0] for problem in caught.value.problems]
    assert found == [f"train/a/{number:03}.png" for number in range(0, 300, every)]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("data", [b"", b"text", PNG[:-30]], ids=["empty", "text", "cut"])
def test_a_bad_tree_leaves_the_output_as_it_was(
    small_tree: Path, out: Path, data: bytes, exists: bool
) -> None:
    if exists:
        out.mkdir()
    write(small_tree, "train/a/x.png", data=data)
    assert "train/a/x.png: " in refused(small_tree, out, TreeError)


def test_folders_above_the_output_are_removed_too(small_tree: Path, out: Path) -> None:
    write(small_tree, "train/a/x.png", data=PNG[:-30])
    refused(small_tree, out / "deeper" / "still", TreeError)
    assert not out.exists()


def test_a_missing_tree_is_rejected(tmp_path: Path, out: Path) -> None:
    assert "no such folder" in refused(tmp_path / "nothing", out, TreeError)


CHANGES: dict[str, Callable[[Path], object]] = {
    "another size": lambda path: path.write_bytes(PNG + b"more"),
    "cut": lambda path: os.truncate(path, 40),
    "emptied": lambda path: path.write_bytes(b""),
    "same size, other date": lambda path: os.utime(path, (1, 1)),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a dangling link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "its folder gone": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_between_scan_and_write(
    small_tree: Path, out: Path, change: str
) -> None:
    write(small_tree, "notes.txt")  # so that there is a warning between the two
    said: list[str] = []

    def warn(text: str) -> None:
        said.append(text)
        CHANGES[change](small_tree / "train" / "b" / "1.png")

    with pytest.raises(TreeError) as caught:
        pack(small_tree, out, workers=1, warn=warn)
    assert said == ["left out, not images: notes.txt"]
    assert any(problem.startswith("train/b/1.png: ") for problem in caught.value.problems)
    assert len(caught.value.problems) == (3 if change == "its folder gone" else 1)
    assert not out.exists()


APPEARANCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda tree: write(tree, "train/b/new.png"), "train/b/new.png: new since"),
    "a class": (lambda tree: write(tree, "train/new/x.png"), "train/new/x.png: new since"),
    "a split": (lambda tree: write(tree, "new/a/x.png"), "new/a/x.png: new since"),
    "a bad name": (lambda tree: write(tree, "train/b/x.y.png"), "train/b/x.y.png: a dot in"),
    "a file that is replaced": (
        lambda tree: os.replace(tree / "train/b/1.png", tree / "train/b/7.png"),
        "train/b/1.png: cannot be read: No such file",
    ),
}


@pytest.mark.parametrize("appearance", APPEARANCES)
def test_a_file_that_appears_between_scan_and_write(
    small_tree: Path, out: Path, appearance: str
) -> None:
    make, said = APPEARANCES[appearance]
    write(small_tree, "notes.txt")  # so that there is a warning between the two
    with pytest.raises(TreeError) as caught:
        pack(small_tree, out, workers=1, warn=lambda text: make(small_tree) and None)
    assert any(problem.startswith(said) for problem in caught.value.problems)
    assert not out.exists()


def test_a_file_that_is_deleted_after_it_was_read(small_tree: Path, out: Path) -> None:
    def progress(doing: str, done: int, total: int) -> None:
        if doing == "pack" and done == total:
            (small_tree / "train/b/1.png").unlink(missing_ok=True)

    with pytest.raises(TreeError, match=r"train/b/1\.png: gone since packing began"):
        pack(small_tree, out, workers=1, progress=progress, warn=lambda text: None)


def test_a_stray_file_that_appears_does_not_matter(small_tree: Path, out: Path) -> None:
    def progress(doing: str, done: int, total: int) -> None:
        write(small_tree, "train/b/notes.txt")

    pack(small_tree, out, workers=1, progress=progress, warn=lambda text: None)
    assert (out / MANIFEST_NAME).exists()


# --- Outputs that cannot be written -----------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", ".hidden", "train-00000-of-00001.tar", "folder/x"])
def test_a_folder_with_other_files_is_rejected(
    small_tree: Path, out: Path, name: str, overwrite: bool
) -> None:
    write(out, name, data=b"mine")
    message = refused(small_tree, out, OutputError, overwrite=overwrite)
    assert f"{out}: holds {name.split('/')[0]} and 0 more, but no dataset" in message


def test_a_dataset_is_only_replaced_on_request(
    demo_tree: Path, small_tree: Path, out: Path
) -> None:
    pack(demo_tree, out, workers=1)
    message = refused(small_tree, out, OutputError)
    assert "already holds a dataset; --overwrite replaces it" in message


def test_overwrite_leaves_nothing_of_the_old_dataset(
    demo_tree: Path, small_tree: Path, out: Path, tmp_path: Path
) -> None:
    pack(demo_tree, out, PackOptions(shard_size=7), workers=1)
    pack(small_tree, out, workers=1, overwrite=True, warn=lambda text: None)
    pack(small_tree, tmp_path / "fresh", workers=1, warn=lambda text: None)
    assert files_of(out) == files_of(tmp_path / "fresh")


@pytest.mark.parametrize("exists", [False, True])
def test_overwrite_without_a_dataset(small_tree: Path, out: Path, exists: bool) -> None:
    if exists:
        out.mkdir()
    pack(small_tree, out, workers=1, overwrite=True, warn=lambda text: None)
    assert len(read_manifest(out).splits) == 2


def test_overwrite_if_shards_are_missing(demo_tree: Path, small_tree: Path, out: Path) -> None:
    pack(demo_tree, out, workers=1)
    (out / "train-00000-of-00001.tar").unlink()
    pack(small_tree, out, workers=1, overwrite=True, warn=lambda text: None)
    assert sorted(set(keys_of(out))) == sorted(
        path.removesuffix(".png") for path in files_of(small_tree)
    )


@pytest.mark.parametrize("name", ["notes.txt", ".keep", "train-00007-of-00009.tar", "folder/x"])
def test_overwrite_rejects_files_that_the_manifest_does_not_name(
    demo_tree: Path, small_tree: Path, out: Path, name: str
) -> None:
    pack(demo_tree, out, workers=1)
    write(out, name, data=b"mine")
    message = refused(small_tree, out, OutputError, overwrite=True)
    assert f"holds {name.split('/')[0]}, which its manifest does not name" in message


@pytest.mark.parametrize("data", [b"", b"{}", b"mine", b'{"format": "something else"}'])
def test_overwrite_rejects_an_invalid_manifest(small_tree: Path, out: Path, data: bytes) -> None:
    write(out, MANIFEST_NAME, data=data)
    assert MANIFEST_NAME in refused(small_tree, out, FormatError, overwrite=True)


def test_overwrite_rejects_a_folder_with_a_shards_name(
    demo_tree: Path, small_tree: Path, out: Path
) -> None:
    pack(demo_tree, out, workers=1)
    (out / "train-00000-of-00001.tar").unlink()
    write(out, "train-00000-of-00001.tar/thesis.tex")
    assert "train-00000-of-00001.tar" in refused(small_tree, out, OutputError, overwrite=True)


@pytest.mark.parametrize("data", [b"", b"text", PNG[:-30]], ids=["empty", "text", "cut"])
def test_the_old_dataset_survives_a_bad_tree(
    demo_tree: Path, small_tree: Path, out: Path, data: bytes
) -> None:
    pack(demo_tree, out, workers=1)
    write(small_tree, "train/a/x.png", data=data)
    refused(small_tree, out, TreeError, overwrite=True)


@pytest.mark.parametrize("inside", ["", "shards", "train", "train/a/shards", "x/y"])
def test_an_output_inside_the_tree_is_rejected(small_tree: Path, inside: str) -> None:
    assert "is inside the tree" in refused(small_tree, small_tree / inside, OptionError)


def test_an_output_that_links_into_the_tree_is_rejected(small_tree: Path, out: Path) -> None:
    out.symlink_to(small_tree / "train")
    assert "is inside the tree" in refused(small_tree, out / "shards", OptionError)


def test_an_output_whose_name_starts_with_the_trees(small_tree: Path) -> None:
    out = small_tree.with_name(small_tree.name + "-shards")
    pack(small_tree, out, workers=1, warn=lambda text: None)
    assert (out / MANIFEST_NAME).exists()


def test_a_url_with_an_unknown_scheme_is_rejected(small_tree: Path) -> None:
    with pytest.raises(OptionError, match=r"^ftp://host/x: unknown scheme"):
        pack(small_tree, "ftp://host/x", workers=1)


@pytest.mark.parametrize("deeper", ["", "x", "x/y"])
def test_a_file_where_a_folder_should_be(small_tree: Path, out: Path, deeper: str) -> None:
    out.write_bytes(b"mine")
    with pytest.raises(OutputError, match=f"^{out}"):
        pack(small_tree, out / deeper, workers=1, warn=lambda text: None)
    assert out.read_bytes() == b"mine"


def test_a_file_name_that_is_too_long(small_tree: Path, out: Path) -> None:
    assert "File name too long" in refused(small_tree, out.with_name("x" * 300), OutputError)


def test_a_broken_link_instead_of_a_folder(small_tree: Path, out: Path) -> None:
    out.symlink_to("nowhere")
    refused(small_tree, out, OutputError)


# --- Full disks -------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_rejected_before_writing(
    demo_tree: Path, mount_disk: Callable[[int], Path]
) -> None:
    disk = mount_disk(200_000)
    message = refused(demo_tree, disk / "shards", OutputError)
    said = r": [\d.]+ MB free, the shards need about [\d.]+ MB; free some space or write elsewhere$"
    assert re.search(said, message)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.real)])
def test_a_disk_that_is_full_while_shards_are_written(
    tmp_path: Path, mount_disk: Callable[[int], Path], workers: int
) -> None:
    """One shard per image needs more space than the estimate."""
    tree = tmp_path / "tree"
    make_tree(tree, per_class=3, seed=0)
    disk = mount_disk(500_000)
    options = PackOptions(shard_size=1)
    with pytest.raises(OutputError) as caught:
        pack(tree, disk / "shards", options, workers=workers)
    assert ": No space left on device; free some or write elsewhere" in str(caught.value)
    assert "run the same command again to resume" in caught.value.__notes__[-1]
    assert os.listdir(disk / "shards") == ["_packing"]
    if sys.platform == "linux":
        subprocess.run(["mount", "-o", "remount,size=5000000", str(disk)], check=True)
    pack(tree, disk / "shards", options, workers=workers)
    pack(tree, tmp_path / "expected", options, workers=1)
    assert digests(disk / "shards") == digests(tmp_path / "expected")


def test_a_disk_that_is_full_when_the_manifest_is_written(
    small_tree: Path, mount_disk: Callable[[int], Path]
) -> None:
    """A manifest that fits only in part must not look complete."""
    disk = mount_disk(200 * PAGE)

    def fill(text: str) -> None:  # called with the last warning before the manifest
        with open(disk / "filler", "wb", buffering=0) as file:
            file.truncate(0)
            free = os.statvfs(disk).f_bavail
            file.write(bytes(PAGE * (free - 1)))

    with pytest.raises(OutputError, match=r"manifest\.json: No space left on device"):
        pack(small_tree, disk / "shards", PackOptions(shard_size=1), workers=1, warn=fill)
    assert os.listdir(disk / "shards") == ["_packing"]
    (disk / "filler").unlink()
    pack(small_tree, disk / "shards", PackOptions(shard_size=1), workers=1, warn=lambda text: None)
    assert MANIFEST_NAME in os.listdir(disk / "shards")


# --- Interruptions ----------------------------------------------------------------------------


class Stop(BaseException):
    """An error that is not an Exception and that the package does not know."""


ERRORS = [KeyboardInterrupt, SystemExit, Stop, ZeroDivisionError, MemoryError, OutputError]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("when", [("scan", 9), ("scan", 270), ("pack", 0)])
def test_an_interruption_before_a_shard_is_finished_leaves_nothing(
    demo_tree: Path, out: Path, when: tuple[str, int], error: type[BaseException]
) -> None:
    def progress(doing: str, done: int, total: int) -> None:
        if doing == when[0] and done >= when[1]:
            raise error

    with pytest.raises(error):
        pack(demo_tree, out, PackOptions(shard_size=7), workers=1, progress=progress)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("when", [7, 270])
def test_an_interruption_keeps_finished_shards(
    demo_tree: Path, out: Path, when: int, error: type[BaseException]
) -> None:
    def progress(doing: str, done: int, total: int) -> None:
        if doing == "pack" and done >= when:
            raise error

    with pytest.raises(error) as caught:
        pack(demo_tree, out, PackOptions(shard_size=7), workers=1, progress=progress)
    (note,) = caught.value.__notes__
    said = r"finished shards are kept \((\d+)\); run the same command again to resume, or remove "
    found = re.fullmatch(rf"{said}{out}/_packing to start over", note)
    assert found and int(found[1]) >= when // 7
    assert [path.name for path in out.iterdir()] == ["_packing"]
    seen: list[tuple[str, int]] = []
    pack(
        demo_tree, out, PackOptions(shard_size=7), workers=1,
        progress=lambda doing, done, total: seen.append((doing, done)),
    )  # fmt: skip
    assert next(done for doing, done in seen if doing == "pack") >= when
    pack(demo_tree, out.with_name("again"), PackOptions(shard_size=7), workers=1)
    assert digests(out) == digests(out.with_name("again"))


def test_the_message_says_how_to_start_over(demo_tree: Path, out: Path) -> None:
    """Removing the folder that the message names is enough."""

    def progress(doing: str, done: int, total: int) -> None:
        if doing == "pack" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        pack(demo_tree, out, PackOptions(shard_size=7), workers=1, progress=progress)
    shutil.rmtree(caught.value.__notes__[-1].split()[-4])
    pack(demo_tree, out, PackOptions(shard_size=9), workers=1)


@pytest.mark.parametrize("when", [0, pytest.param(7, marks=pytest.mark.real)])
def test_an_interruption_ends_the_workers_first(demo_tree: Path, out: Path, when: int) -> None:
    """No worker may still write after the call has ended."""
    out.mkdir()  # so that it is kept, and files that a worker still wrote would be found

    def progress(doing: str, done: int, total: int) -> None:
        if doing == "pack" and done >= when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(demo_tree, out, PackOptions(shard_size=1), workers=2, progress=progress)
    left = digests(out)
    assert (left == {}) == (when == 0)
    time.sleep(0.2)
    assert digests(out) == left


def test_foreign_files_survive_a_failure(small_tree: Path, out: Path) -> None:
    """Files that others write to the folder in the meantime are not deleted."""

    def warn(text: str) -> None:
        write(out, "mine.txt", data=b"mine")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pack(small_tree, out, workers=1, warn=warn)
    assert (out / "mine.txt").read_bytes() == b"mine"
    with pytest.raises(OutputError, match=r"holds mine\.txt and 0 more"):
        pack(small_tree, out, workers=1, warn=lambda text: None)
    assert (out / "mine.txt").read_bytes() == b"mine"


@pytest.mark.parametrize("old", [False, True])
def test_a_killed_process_leaves_nothing_that_looks_complete(
    demo_tree: Path, small_tree: Path, out: Path, old: bool
) -> None:
    if old:
        pack(small_tree, out, workers=1, warn=lambda text: None)
    before = digests(out)

    def progress(doing: str, done: int, total: int) -> None:
        if doing == "pack" and done:
            os._exit(9)

    options = PackOptions(shard_size=7)
    assert (
        run_forked(
            lambda: pack(demo_tree, out, options, workers=1, overwrite=True, progress=progress)
        )
        == 9
    )
    left = digests(out)
    assert {path: digest for path, digest in left.items() if "/" not in path} == before
    assert len(left) > len(before) and not any(path.endswith("/manifest.json") for path in left)
    if old:
        assert "--overwrite replaces it" in refused(demo_tree, out, OutputError)
    else:
        with pytest.raises(StoreError, match="packing did not finish; run the same command again"):
            Dataset(out)


# --- Packing an unpacked dataset again --------------------------------------------------------


def test_unpacking_and_packing_again_gives_the_same(demo_shards: Path, tmp_path: Path) -> None:
    unpack(demo_shards, tmp_path / "tree")
    for path in [tmp_path / "tree" / INDEX_NAME, *(tmp_path / "tree").rglob("*.cls")]:
        path.unlink()
    pack(tmp_path / "tree", tmp_path / "again", PackOptions(shard_size=40), workers=1)
    assert digests(tmp_path / "again") == digests(demo_shards)


def test_only_versions_may_change_the_manifest(demo_tree: Path, demo_shards: Path) -> None:
    manifest = read_manifest(demo_shards)
    assert set(manifest.libraries) >= {"cinic-shards", "numpy", "pillow"}
    other = replace(manifest, libraries={})
    assert other.splits == manifest.splits
