"""``build`` follows CINIC-10's published construction to the image, and gives the same bytes."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_demo_sources import SYNSETS, encode, make_sources, write_tar
from numpy.typing import NDArray
from PIL import Image

from tests.acceptance.trees import Record, cinic_shard, differences
from tests.support import ROOT
from tests.support.files import digests

CIFAR10 = "cifar-10-python.tar.gz"
REAL_SOURCES = ROOT.parent / "shared" / "tools" / "make_cinic_tree.py"
PER_CLASS = 27
"""In the small tree: 6 images of CIFAR-10 and 21 photos in each class and split."""
SPARE = 8
"""Photos of each class beyond those that are needed: as many cannot be decoded."""


def build(sources: Path, out: Path, *options: object) -> dict[str, Any]:
    """Build by the command; what it prints."""
    where = ("--cifar", sources / CIFAR10, "--imagenet", sources / "synsets")
    said = cinic_shard("build", out, *where, "--json", "--quiet", *options)
    found: dict[str, Any] = json.loads(said)
    return found


def read_sets(path: Path) -> dict[str, tuple[NDArray[np.uint8], list[int]]]:
    """CIFAR-10 as its page says to read it: our own archive, or one that its user trusts."""
    batches = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name.startswith(("data_batch", "test_batch")) and (
                file := archive.extractfile(member)
            ):
                batches[name] = pickle.loads(file.read(), encoding="bytes")
    sets = {}
    parts = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}
    for name, files in parts.items():
        data = np.concatenate([batches[file][b"data"] for file in files])
        labels = [label for file in files for label in batches[file][b"labels"]]
        sets[name] = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
    return sets


def photos_of(synsets: Path) -> dict[str, bytes]:
    """Content of every photo in the tars, by its name without ``.JPEG``."""
    found = {}
    for path in synsets.glob("*.tar"):
        if path.stat().st_size:
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member)
                    assert file is not None
                    found[member.name.partition(".")[0]] = file.read()
    return found


def wrong_images(sources: Path, tree: Path) -> list[str]:
    """Images that are not what their names say, or that a class has twice."""
    sets, photos = read_sets(sources / CIFAR10), photos_of(sources / "synsets")
    classes = sorted(SYNSETS)
    found = []
    seen: Counter[str] = Counter()
    for path in tree.glob("*/*/*"):
        seen[f"{path.parent.name}/{path.name}"] += 1
        with Image.open(path) as image:
            pixels = np.asarray(image)
        if path.name.startswith("cifar10-"):
            _, name, number = path.stem.split("-")
            images, labels = sets[name]
            is_right = classes[labels[int(number)]] == path.parent.name
            is_right &= np.array_equal(pixels, images[int(number)])
        else:
            with Image.open(io.BytesIO(photos[path.stem])) as photo:
                small = photo.convert("RGB").resize((32, 32), Image.Resampling.BOX)
            is_right = np.array_equal(pixels, np.asarray(small))
        if not is_right:
            found.append(f"{path.relative_to(tree)}: other pixels or another class")
    return found + [f"{name}: {count} times" for name, count in seen.items() if count > 1]


def counts_of(tree: Path) -> dict[str, set[int]]:
    """Split and origin -> how many images the classes have: all different numbers."""
    found: dict[str, set[int]] = {}
    for folder in tree.glob("*/*"):
        names = os.listdir(folder)
        origins = Counter("photos" if n.startswith("n") else n.rpartition("-")[0] for n in names)
        for origin in ("cifar10-train", "cifar10-test", "photos"):
            found.setdefault(f"{folder.parent.name}: {origin}", set()).add(origins[origin])
    return found


def dealt(cifar: int) -> dict[str, set[int]]:
    """CIFAR-10's part of ``counts_of``, as published, of so many images a class and split."""
    train = {"train": cifar, "valid": cifar, "test": cifar - cifar // 2}
    test = {"train": 0, "valid": 0, "test": cifar // 2}
    return {f"{split}: cifar10-train": {count} for split, count in train.items()} | {
        f"{split}: cifar10-test": {count} for split, count in test.items()
    }


def add_odd_photos(synsets: Path) -> None:
    """Cut as many of each class as are spare; make others CMYK and PNG; add an empty tar."""
    for names in SYNSETS.values():
        path = synsets / f"{names[0]}.tar"
        with tarfile.open(path) as archive:
            files = [(m.name, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
        for row in range(SPARE):
            files[row] = files[row][0], files[row][1][: len(files[row][1]) // 2]
        for row, (mode, kind) in enumerate((("CMYK", "JPEG"), ("RGB", "PNG")), SPARE):
            with Image.open(io.BytesIO(files[row][1])) as photo:
                files[row] = files[row][0], encode(photo.convert(mode), kind)
        write_tar(path, files)
    (synsets / "n02123159.tar").touch()


@pytest.fixture(scope="module")
def drawn_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of CIFAR-10, drawn, and photos enough for every class, odd ones among them."""
    folder = tmp_path_factory.mktemp("sources")
    make_sources(folder, photos=3 * (PER_CLASS - 6) + SPARE)
    add_odd_photos(folder / "synsets")
    return folder


@pytest.fixture(scope="module", params=["drawn", "real"])
def sources(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """The drawn sources; then those of ``--sources``, or all of CIFAR-10 and a few photographs."""
    if request.param == "drawn":
        drawn: Path = request.getfixturevalue("drawn_sources")
        return drawn
    if given := pytestconfig.getoption("--sources"):
        return Path(given).resolve()
    if not REAL_SOURCES.exists():
        pytest.skip(f"NOT RUN: {REAL_SOURCES.name}, which makes real sources, is not here")
    made = tmp_path_factory.mktemp("real") / "sources"
    subprocess.run([sys.executable, REAL_SOURCES, "sources", made], check=True)
    return made


def test_all_of_cifar10(sources: Path, tmp_path: Path, record_property: Record) -> None:
    """Does ``build`` deal all of CIFAR-10 as published: each image in its class, once, unchanged?

    Beside all the photos that there are. Another number of workers gives the same tree; as shards
    it has the bytes that ``pack`` gives of the tree.
    """
    tree, again, shards = tmp_path / "tree", tmp_path / "again", tmp_path / "shards"
    built = build(sources, tree, "--tree", "--allow-missing")
    counts = counts_of(tree)
    assert {name: count for name, count in counts.items() if "cifar" in name} == dealt(2_000)
    assert wrong_images(sources, tree) == []
    build(sources, again, "--tree", "--allow-missing", "--workers", 1)
    assert differences(digests(again), digests(tree)) == []
    shutil.rmtree(again)
    build(sources, shards, "--allow-missing", "--encoding", "raw")
    cinic_shard("pack", tree, tmp_path / "packed", "--encoding", "raw", "--quiet")
    assert differences(digests(shards), digests(tmp_path / "packed")) == []
    assert not list(tmp_path.glob("*.building"))
    record_property("images", built["num_images"])


def test_a_small_tree_of_odd_photos(
    drawn_sources: Path, tmp_path: Path, record_property: Record
) -> None:
    """Does ``build`` follow each rule for photos, and name those that it cannot use?

    Grey and CMYK ones, PNGs, truncated ones and an empty tar are among them.
    """
    tree, again = tmp_path / "tree", tmp_path / "again"
    built = build(drawn_sources, tree, "--tree", "--per-class", PER_CLASS)
    build(drawn_sources, again, "--tree", "--per-class", PER_CLASS, "--workers", 1)
    assert differences(digests(again), digests(tree)) == []
    photos = {f"{split}: photos": {PER_CLASS - 6} for split in ("train", "valid", "test")}
    assert counts_of(tree) == dealt(6) | photos
    assert wrong_images(drawn_sources, tree) == []
    assert len(built["failed_photos"]) == SPARE * len(SYNSETS)
    assert built["other_formats"]
    assert built["empty_tars"] == ["n02123159.tar"]
    assert len(built["missing_tars"]) == 1359 - 21
    assert not list(tmp_path.glob("*.building"))
    record_property("images", built["num_images"])
    record_property("failed_photos", len(built["failed_photos"]))
