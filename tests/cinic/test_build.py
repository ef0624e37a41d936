"""Building CINIC-10: every rule of its construction, the same bytes always, no partial output."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_demo_sources import SYNSETS, encode, make_sources, write_tar
from PIL import Image

from cinic_shards import cli
from cinic_shards.cinic import build as building
from cinic_shards.cinic import cifar10
from cinic_shards.cinic import render as rendering
from cinic_shards.cinic.build import build_shards, build_tree
from cinic_shards.cinic.build_folder import BuildFolder
from cinic_shards.cinic.build_options import BuildOptions, Built
from cinic_shards.cinic.cifar10 import CLASSES, read_cifar10
from cinic_shards.cinic.draw import Shares, draw_cifar10, draw_order
from cinic_shards.cinic.sink import PixelsJob, write_pixels
from cinic_shards.cinic.synsets import synsets_by_class
from cinic_shards.errors import (
    CinicShardsError,
    FormatError,
    LimitError,
    OptionError,
    OutputError,
    SourcesError,
    StoreError,
)
from cinic_shards.format import MANIFEST_NAME
from cinic_shards.read.open import read_manifest
from cinic_shards.store import open_store
from cinic_shards.write.pack import PackOptions, pack
from tests.support import ROOT
from tests.support.disk import record_disk
from tests.support.files import files_of, write

SHARED = ROOT.parent / "shared"
BATCH_SIZE = 30
"""A small CIFAR-10: 15 images of each class to train, 3 to test."""
FULL = 27
"""Images of each class in each split if all of that CIFAR-10 is used: 6, and 21 photos."""
PHOTOS = 70
"""Photos of each class: 63 are needed for splits of 27."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "BATCH_SIZE", BATCH_SIZE)


@pytest.fixture(scope="session")
def demo_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CIFAR-10, and 70 photos of each class; read only."""
    out = tmp_path_factory.mktemp("demo") / "sources"
    make_sources(out, photos=PHOTOS, batch_size=BATCH_SIZE)
    return out


@pytest.fixture
def sources(demo_sources: Path, tmp_path: Path) -> Path:
    """A copy of the sources, for tests that change them."""
    return shutil.copytree(demo_sources, tmp_path / "sources")


@pytest.fixture(scope="session")
def demo_built(demo_sources: Path) -> tuple[Path, Built]:
    """A tree of all of CIFAR-10; read only."""
    out = demo_sources.parent / "tree"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "BATCH_SIZE", BATCH_SIZE)
        return out, run_build(demo_sources, out, per_class=FULL)


def run_build(sources: Path, out: Path, *, workers: int = 1, **options: Any) -> Built:
    return build_tree(
        sources / "cifar-10-python.tar.gz",
        sources / "synsets",
        out,
        BuildOptions(**options),
        workers=workers,
        warn=lambda text: None,
    )


def stems_of(tree: Path, split: str, class_name: str = "*", names: str = "*") -> list[str]:
    return sorted(path.stem for path in tree.glob(f"{split}/{class_name}/{names}.png"))


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_tree_survives_a_power_cut(
    demo_sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool
) -> None:
    """All images are on the disk before the tree gets its name."""
    out = tmp_path / "tree"
    if is_folder:
        out.mkdir()
    calls = record_disk(monkeypatch, tmp_path)
    run_build(demo_sources, out, per_class=9)
    synced = calls.index("sync disk")
    renames = [number for number, call in enumerate(calls) if call.startswith("rename")]
    assert renames and synced < renames[0]
    assert calls[renames[-1] + 1] == ("sync tree" if is_folder else "sync .")


def test_a_file_that_is_written_in_part(tmp_path: Path) -> None:
    """The system writes the bytes that fit, and reports an error only for the next ones."""
    resource = pytest.importorskip("resource")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    job = PixelsJob(str(tmp_path), images, (0,), ("train/cat/x",))
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_pixels(job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def build_error(sources: Path, error: type[CinicShardsError], **options: Any) -> str:
    """Return the message with which building fails; check that nothing is left behind."""
    before = sorted(sources.parent.iterdir())
    with pytest.raises(error) as caught:
        run_build(sources, sources.parent / "new" / "tree", **options)
    assert type(caught.value) is error
    assert sorted(sources.parent.iterdir()) == before
    return str(caught.value)


def add_photos(sources: Path, synset: str, files: dict[str, bytes]) -> Path:
    path = sources / "synsets" / f"{synset}.tar"
    write_tar(path, files.items())
    return path


def photo(width: int = 40, height: int = 50, mode: str = "RGB", seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def boxed(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX))


# --- synsets ----------------------------------------------------------------------------------


def test_the_table_of_synsets() -> None:
    counts = {name: len(synsets) for name, synsets in synsets_by_class().items()}
    assert counts == {
        "airplane": 33, "automobile": 41, "bird": 872, "cat": 53, "deer": 37, "dog": 95,
        "frog": 54, "horse": 87, "ship": 64, "truck": 24,
    }  # fmt: skip
    assert tuple(counts) == CLASSES
    times = Counter(synset for synsets in synsets_by_class().values() for synset in synsets)
    assert [synset for synset, count in times.items() if count > 1] == ["n03770679"]


def test_the_table_is_that_of_the_authors() -> None:
    path = SHARED / "data" / "synsets-to-cifar-10-classes.txt"
    if not path.exists():
        pytest.skip(f"NOT RUN: the authors' list, {path.name}, is missing")
    found: dict[str, set[str]] = {}
    name = ""
    for line in path.read_text().splitlines():
        if line.startswith("-"):
            found[name].add(line.lstrip("-").partition(":")[0])
        elif line.strip():
            name = line.strip()
            found[name] = set()
    assert found == {name: set(synsets) for name, synsets in synsets_by_class().items()}


# --- the draw ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per_class", "cifar", "from_test", "num_photos"),
    [(9000, 2000, 1000, 7000), (900, 200, 100, 700), (9, 2, 1, 7), (8, 1, 0, 7), (1, 0, 0, 1)],
)
def test_shares(per_class: int, cifar: int, from_test: int, num_photos: int) -> None:
    shares = Shares(per_class)
    found = shares.cifar, shares.cifar_test_in_test, shares.photos
    assert found == (cifar, from_test, num_photos)


def test_the_draw_is_pinned() -> None:
    """A seed must give the same draw in every release and on every machine."""
    names = [f"truck/n04490091_{number}" for number in range(8)]
    assert draw_order(names, 0).tolist() == [7, 6, 0, 5, 2, 3, 4, 1]
    assert draw_order(names, 1).tolist() == [7, 3, 5, 0, 2, 1, 4, 6]
    digests = [
        hashlib.blake2b(f"draw/{name}".encode(), key=bytes(8), digest_size=16).digest()
        for name in names
    ]
    assert draw_order(names, 0).tolist() == sorted(range(8), key=lambda row: digests[row])


def test_cifar10_is_dealt_as_published(demo_sources: Path) -> None:
    source = read_cifar10(demo_sources / "cifar-10-python.tar.gz")
    drawn = draw_cifar10(source, Shares(FULL), 0)
    again = draw_cifar10(source, Shares(FULL), 0)
    other = draw_cifar10(source, Shares(FULL), 1)
    assert drawn == again != other
    assert len({(image.cifar_set, image.index) for image in drawn}) == len(drawn) == 6 * BATCH_SIZE
    for class_code, name in enumerate(CLASSES):
        labels = {
            source.sets[image.cifar_set].labels[image.index]
            for image in drawn
            if image.key.split("/")[1] == name
        }
        assert labels == {class_code}


def test_cifar10_is_too_small(demo_sources: Path) -> None:
    source = read_cifar10(demo_sources / "cifar-10-python.tar.gz")
    with pytest.raises(SourcesError) as caught:
        draw_cifar10(source, Shares(100), 0)
    assert len(caught.value.problems) == 20
    assert caught.value.problems[0] == "its train set has 15 of airplane, expected at least 55"


# --- rules ------------------------------------------------------------------------------------


def test_counts(demo_built: tuple[Path, Built]) -> None:
    tree, built = demo_built
    assert built.num_images == 3 * 10 * FULL
    assert set(os.listdir(tree)) == {"train", "valid", "test"}
    for split in ("train", "valid", "test"):
        assert tuple(sorted(os.listdir(tree / split))) == CLASSES
        for name in CLASSES:
            from_test = 3 if split == "test" else 0
            assert len(stems_of(tree, split, name, "cifar10-test-*")) == from_test
            assert len(stems_of(tree, split, name, "cifar10-train-*")) == 6 - from_test
            assert len(stems_of(tree, split, name, "n*")) == FULL - 6
            expected = {"cifar10-train": 6 - from_test, "imagenet": FULL - 6}
            if from_test:
                expected["cifar10-test"] = from_test
            assert built.counts[split][name] == expected


def test_every_image_matches_its_name(demo_sources: Path, demo_built: tuple[Path, Built]) -> None:
    tree, _ = demo_built
    source = read_cifar10(demo_sources / "cifar-10-python.tar.gz")
    seen = Counter()
    for path in tree.glob("*/*/*.png"):
        pixels = np.asarray(Image.open(path))
        seen[path.stem] += 1
        if path.stem.startswith("cifar10-"):
            _, cifar_set, index = path.stem.split("-")
            one = source.sets[cifar_set]
            assert np.array_equal(pixels, one.images[int(index)])
            assert CLASSES[one.labels[int(index)]] == path.parent.name
        else:
            synset, number = path.stem.split("_")
            assert synset in SYNSETS[path.parent.name]
            with tarfile.open(demo_sources / "synsets" / f"{synset}.tar") as archive:
                file = archive.extractfile(f"{synset}_{number}.JPEG")
                assert file is not None
                assert np.array_equal(pixels, boxed(Image.open(file)))
    assert len(seen) == 3 * 10 * FULL and set(seen.values()) == {1}


def test_drawn_photos_are_dealt_to_the_splits_in_turn(
    demo_sources: Path, demo_built: tuple[Path, Built]
) -> None:
    tree, _ = demo_built
    for name, synsets in SYNSETS.items():
        stems = [f"{synset}_{number + 1}" for synset in sorted(synsets) for number in range(35)]
        order = draw_order([f"{name}/{stem}" for stem in stems], 0)
        drawn = [stems[row] for row in order[: 3 * (FULL - 6)]]
        for start, split in enumerate(("train", "valid", "test")):
            assert stems_of(tree, split, name, "n*") == sorted(drawn[start::3])


def test_the_bytes_do_not_depend_on_workers_or_listing_order(
    demo_sources: Path, demo_built: tuple[Path, Built], tmp_path: Path, listing_order: str
) -> None:
    tree, _ = demo_built
    workers = 2 if listing_order == "reversed" else 1
    run_build(demo_sources, tmp_path / "again", per_class=FULL, workers=workers)
    assert files_of(tmp_path / "again") == files_of(tree)


def test_a_different_seed_gives_a_different_draw(
    demo_sources: Path, demo_built: tuple[Path, Built], tmp_path: Path
) -> None:
    tree, _ = demo_built
    run_build(demo_sources, tmp_path / "other", per_class=FULL, seed=1)
    for names in ("n*", "cifar10-train-*"):
        one, other = (
            stems_of(tree, "train", "*", names),
            stems_of(tmp_path / "other", "train", "*", names),
        )
        assert len(one) == len(other) and one != other
    test_set = "test", "*", "cifar10-test-*"
    assert stems_of(tree, *test_set) == stems_of(tmp_path / "other", *test_set)


@pytest.mark.parametrize(
    ("workers", "options"),
    [
        (1, PackOptions(encoding="zstd", block_size=64, shard_size=256, seed=3)),
        pytest.param(2, PackOptions(shard_size=200), marks=pytest.mark.real),
    ],
)
def test_shards_are_those_of_the_tree_packed(
    demo_sources: Path,
    demo_built: tuple[Path, Built],
    tmp_path: Path,
    workers: int,
    options: PackOptions,
) -> None:
    pack(demo_built[0], tmp_path / "packed", options, workers=1)
    built = build_shards(
        demo_sources / "cifar-10-python.tar.gz",
        demo_sources / "synsets",
        tmp_path / "built",
        BuildOptions(per_class=FULL),
        options,
        workers=workers,
        warn=lambda text: None,
    )
    assert files_of(tmp_path / "built") == files_of(tmp_path / "packed")
    assert built.manifest is not None and built.manifest.num_samples == 3 * 10 * FULL
    assert sorted(os.listdir(tmp_path)) == ["built", "packed"]


# --- what is left out, and warnings -----------------------------------------------------------


def damage(sources: Path, stems: list[str]) -> None:
    """Truncate these photos in their tars."""
    for synset in {stem.partition("_")[0] for stem in stems}:
        path = sources / "synsets" / f"{synset}.tar"
        with tarfile.open(path) as archive:
            files = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
        for stem in stems:
            if stem.startswith(synset):
                files[f"{stem}.JPEG"] = files[f"{stem}.JPEG"][:-100]
        write_tar(path, files.items())


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.real)])
def test_photos_that_cannot_be_decoded_give_their_slots_to_the_next(
    sources: Path, demo_built: tuple[Path, Built], tmp_path: Path, workers: int
) -> None:
    stems = [f"{synset}_{n + 1}" for synset in sorted(SYNSETS["cat"]) for n in range(35)]
    drawn = [stems[row] for row in draw_order([f"cat/{stem}" for stem in stems], 0)]
    # Two drawn photos, and the first photo that replaces one of them.
    bad = [drawn[4], drawn[30], drawn[63]]
    damage(sources, bad)
    out = tmp_path / "tree"
    built = run_build(sources, out, per_class=FULL, workers=workers)
    expected = drawn[:63]
    expected[4], expected[30] = drawn[65], drawn[64]
    for start, split in enumerate(("train", "valid", "test")):
        assert stems_of(out, split, "cat", "n*") == sorted(expected[start::3])
    assert sorted(text.partition(".")[0] for text in built.failed_photos) == sorted(bad)
    assert all("cannot be decoded: " in text for text in built.failed_photos)
    before, after = files_of(demo_built[0]), files_of(out)
    assert {n: d for n, d in before.items() if "/cat/" not in n} == {
        n: d for n, d in after.items() if "/cat/" not in n
    }


def test_everything_left_out_is_reported(sources: Path, tmp_path: Path) -> None:
    synsets = sources / "synsets"
    (synsets / "n02123159.tar").touch()
    (synsets / "n99999999.tar").write_bytes(b"in no class")
    files = {"n02123597_1.JPEG": encode(photo(), "PNG"), "readme.txt": b"hello"}
    add_photos(sources, "n02123597", files)
    stems = [f"{synset}_{n + 1}" for synset in sorted(SYNSETS["dog"]) for n in range(35)]
    drawn = [stems[row] for row in draw_order([f"dog/{stem}" for stem in stems], 0)]
    damage(sources, drawn[:1])
    warnings: list[str] = []
    built = build_tree(
        sources / "cifar-10-python.tar.gz", synsets, tmp_path / "tree",
        BuildOptions(per_class=FULL), workers=1, warn=warnings.append,
    )  # fmt: skip
    assert built.empty_tars == ["n02123159.tar"]
    assert built.left_out_members == [
        "n02123597.tar: readme.txt: not named n02123597_<number>.JPEG"
    ]
    assert len(built.missing_tars) == 1359 - 20 - 2
    assert [text.partition(".")[0] for text in built.failed_photos] == drawn[:1]
    assert not built.unusable_tars and not built.short_classes and not built.missing_rows
    assert any(text.startswith("1,337 synsets without a tar: n01319339, ") for text in warnings)
    assert "1 tars of 0 bytes, left out: n02123159.tar" in warnings
    assert len(warnings) == 4 + len(built.other_formats)


def test_a_photo_that_is_not_a_jpeg_is_reported(sources: Path, tmp_path: Path) -> None:
    files = {f"n02121808_{number}.JPEG": encode(photo(seed=number), "PNG") for number in range(90)}
    add_photos(sources, "n02121808", files)
    built = run_build(sources, tmp_path / "tree", per_class=FULL)
    found = [
        stem for stem in stems_of(tmp_path / "tree", "*", "cat") if stem.startswith("n02121808")
    ]
    assert len(built.other_formats) == len(found) > 20
    assert built.other_formats[0].endswith(".JPEG: a PNG, not a JPEG; decoded as PNG")


def test_a_synset_in_two_classes(sources: Path, tmp_path: Path) -> None:
    for name in ("n02958343", "n02814533", "n04490091", "n03345487"):
        (sources / "synsets" / f"{name}.tar").unlink()
    files = {f"n03770679_{number}.JPEG": encode(photo(seed=number)) for number in range(3)}
    add_photos(sources, "n03770679", files)
    built = run_build(sources, tmp_path / "tree", per_class=1)
    assert built.in_two_classes == [f"n03770679_{n} (automobile and truck)" for n in range(3)]


# --- too few photos ---------------------------------------------------------------------------


def test_too_few_photos_of_several_classes(sources: Path) -> None:
    for name in (*SYNSETS["cat"], SYNSETS["ship"][0]):
        (sources / "synsets" / f"{name}.tar").unlink()
    message = build_error(sources, SourcesError, per_class=FULL)
    lines = message.splitlines()
    assert lines[0].endswith("synsets: 2 problems; nothing was built")
    assert lines[1].startswith(
        "  cat: 0 of 63 photos; tars missing or empty: n01322898 n01323068 n02120997 "
    )
    assert set(SYNSETS["cat"]) <= set(lines[1].split())
    assert lines[2].startswith("  ship: 35 of 63 photos; tars missing or empty: ")
    assert SYNSETS["ship"][0] in lines[2].split() and SYNSETS["ship"][1] not in lines[2].split()
    hint = "more photos are needed; or use --allow-missing to build with what there is"
    assert lines[3:] == [hint]


def test_the_largest_size_that_fits_is_named(sources: Path, tmp_path: Path) -> None:
    (sources / "synsets" / f"{SYNSETS['ship'][0]}.tar").unlink()
    message = build_error(sources, SourcesError, per_class=FULL)
    assert "; nothing was built; use --per-class 14; or use --allow-missing" in message
    run_build(sources, tmp_path / "tree", per_class=14)
    build_error(sources, SourcesError, per_class=15)


def test_too_few_photos_allowed(sources: Path, tmp_path: Path) -> None:
    for name in (*SYNSETS["cat"], SYNSETS["ship"][0]):
        (sources / "synsets" / f"{name}.tar").unlink()
    built = run_build(sources, tmp_path / "tree", per_class=FULL, allow_missing=True)
    assert built.short_classes == ["cat: 0 of 63 photos", "ship: 35 of 63 photos"]
    counts = [len(stems_of(tmp_path / "tree", s, "ship", "n*")) for s in ("train", "valid", "test")]
    assert counts == [12, 12, 11]


def test_too_many_damaged_photos(sources: Path, tmp_path: Path) -> None:
    stems = [f"{synset}_{n + 1}" for synset in SYNSETS["frog"] for n in range(5)]
    damage(sources, stems)
    message = build_error(sources, SourcesError, per_class=FULL)
    assert "frog: 60 of 63 photos" in message
    assert "10 photos cannot be decoded: n01639765_1.JPEG: cannot be decoded: image" in message
    built = run_build(sources, tmp_path / "tree", per_class=FULL, allow_missing=True)
    assert built.short_classes == ["frog: 60 of 63 photos"]
    assert built.num_images == 3 * 10 * FULL - 3


def test_damaged_tars_are_named_all_at_once(sources: Path, tmp_path: Path) -> None:
    for name in SYNSETS["cat"]:
        path = sources / "synsets" / f"{name}.tar"
        path.write_bytes(path.read_bytes()[:3000])
    for per_class in (1, 9):
        message = build_error(sources, SourcesError, per_class=per_class)
        assert "n02121808.tar: not a complete tar file (unexpected end of data); downl" in message
        assert "n02123045.tar: " in message
    built = run_build(sources, tmp_path / "tree", per_class=9, allow_missing=True)
    assert len(built.unusable_tars) == 2
    assert built.short_classes == ["cat: 0 of 21 photos"]


def test_a_folder_without_synsets(sources: Path) -> None:
    shutil.rmtree(sources / "synsets")
    assert "No such file or directory; nothing was built; give a folder of" in build_error(
        sources, SourcesError
    )
    (sources / "synsets").mkdir()
    message = build_error(sources, SourcesError)
    assert message.endswith(
        "holds none of the 1,359 synset tars needed, such as n01319339.tar; nothing was "
        "built; give a folder of ImageNet's synset tars, n########.tar"
    )
    (sources / "synsets").rmdir()
    (sources / "synsets").write_bytes(b"a file")
    assert "Not a directory" in build_error(sources, SourcesError)


def test_a_wrong_archive_instead_of_cifar10(sources: Path) -> None:
    archive = sources / "cifar-10-python.tar.gz"
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    assert "cifar-10-python.tar.gz: not a complete tar archive" in build_error(sources, FormatError)
    shutil.copy(sources / "synsets" / "n02121808.tar", archive)
    assert "not CIFAR-10's Python version" in build_error(sources, FormatError)
    archive.unlink()
    assert "No such file or directory" in build_error(sources, StoreError)


@pytest.mark.parametrize("options", [{"per_class": 0}, {"per_class": 9001}, {"seed": -1}])
def test_invalid_options(options: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        BuildOptions(**options)  # type: ignore[arg-type]


# --- a published list -------------------------------------------------------------------------


def write_contributors(path: Path, rows: list[tuple[str, int, str, str]]) -> Path:
    lines = ["synset, image_num, cinic_set, class", *(", ".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def contributors_of(tree: Path) -> list[tuple[str, int, str, str]]:
    rows = []
    for path in sorted(tree.glob("*/*/n*.png")):
        synset, number = path.stem.split("_")
        rows.append((synset, int(number), path.parent.parent.name, path.parent.name))
    return rows


def test_a_list_is_replayed(demo_sources: Path, tmp_path: Path) -> None:
    run_build(demo_sources, tmp_path / "one", per_class=9, seed=5)
    rows = contributors_of(tmp_path / "one")
    path = write_contributors(tmp_path / "list.csv", rows)
    built = run_build(demo_sources, tmp_path / "two", per_class=9, seed=5, contributors=path)
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    assert not built.missing_rows
    # CIFAR-10's part is not in the list: it depends on the seed.
    run_build(demo_sources, tmp_path / "three", per_class=9, seed=6, contributors=path)
    assert contributors_of(tmp_path / "three") == rows
    assert stems_of(tmp_path / "three", "train") != stems_of(tmp_path / "one", "train")


def test_contributors_in_no_source(sources: Path, tmp_path: Path) -> None:
    rows = [
        ("n02121808", 1, "train", "cat"),
        ("n02121808", 36, "valid", "cat"),
        ("n02123159", 7, "test", "cat"),
    ]
    path = write_contributors(tmp_path / "list.csv", rows)
    options: dict[str, Any] = {"per_class": 1, "contributors": path}
    message = build_error(sources, SourcesError, **options)
    assert message == (
        f"{path}: 2 of 3 rows have no photo in any source: n02121808_36, n02123159_7; nothing was "
        "built; download the tars that should hold them (n02123159.tar: missing); or use "
        "--allow-missing to leave these photos out"
    )
    built = run_build(sources, tmp_path / "tree", **options, allow_missing=True)
    assert built.missing_rows == ["n02121808_36", "n02123159_7"]
    assert contributors_of(tmp_path / "tree") == rows[:1]


def test_contributors_of_a_different_dataset(sources: Path, tmp_path: Path) -> None:
    rows = [("n02121808", 1, "train", "cat"), ("n02121808", 2, "val", "cat")]
    path = write_contributors(tmp_path / "list.csv", [*rows, ("n02121808", 3, "train", "lion")])
    message = build_error(sources, SourcesError, contributors=path, allow_missing=True)
    assert message.startswith(f"{path}: 2 problems; nothing was built\n")
    assert "n02121808_2: cinic_set is 'val', expected one of train, valid, test" in message
    assert "n02121808_3: class is 'lion', expected one of airplane, automobile, " in message


def test_a_contributor_that_cannot_be_decoded(sources: Path, tmp_path: Path) -> None:
    damage(sources, ["n02121808_1"])
    rows = [("n02121808", number, "train", "cat") for number in (1, 2)]
    path = write_contributors(tmp_path / "list.csv", rows)
    options: dict[str, Any] = {"per_class": 1, "contributors": path}
    message = build_error(sources, SourcesError, **options)
    assert "1 of its photos cannot be decoded: n02121808_1.JPEG: cannot be decoded" in message
    built = run_build(sources, tmp_path / "tree", **options, allow_missing=True)
    assert contributors_of(tmp_path / "tree") == rows[1:]
    assert len(built.failed_photos) == 1


# --- no partial output ------------------------------------------------------------------------


def test_an_output_that_is_not_empty(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="mine: already exists; give an empty or a new folder"):
        run_build(sources, tmp_path / "mine", per_class=1)
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]


def test_an_empty_folder_is_built_in(sources: Path, mount_disk: Callable[[int], Path]) -> None:
    """The folder may be a mount point, as it is here: nothing can be renamed into it."""
    disk = mount_disk(12_000_000)
    before = sorted(disk.parent.iterdir())
    run_build(sources, disk, per_class=1)
    assert sorted(os.listdir(disk)) == ["test", "train", "valid"]
    assert len(list(disk.glob("*/*/*.png"))) == 30
    assert sorted(disk.parent.iterdir()) == before


def test_a_full_disk_is_reported_before_anything_is_read(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    message = build_error(sources, OutputError)
    assert "100 MB free, about 1,106 MB needed; free some space or build elsewhere" in message


def test_a_disk_that_fills_up(
    sources: Path, mount_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount_disk(1_200_000)
    monkeypatch.setattr(building, "check_space", lambda folder, needed: None)
    said = "No space left on device; free some space or build else"
    with pytest.raises(OutputError, match=said) as caught:
        run_build(sources, disk / "tree", per_class=14)
    assert "run the same command again to resume" in caught.value.__notes__[-1]
    assert os.listdir(disk) == ["tree.building"]


@pytest.mark.parametrize("stage", ["list", "cifar"])
@pytest.mark.parametrize("is_there", [False, True])
def test_an_early_interrupt_leaves_nothing(
    sources: Path, tmp_path: Path, stage: str, is_there: bool
) -> None:
    if is_there:
        (tmp_path / "new" / "tree").mkdir(parents=True)

    def interrupt(doing: str, done: int, total: int) -> None:
        if doing == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_tree(
            sources / "cifar-10-python.tar.gz", sources / "synsets", tmp_path / "new" / "tree",
            BuildOptions(per_class=FULL), workers=1, progress=interrupt, warn=lambda text: None,
        )  # fmt: skip
    assert sorted(path.name for path in tmp_path.rglob("*") if "sources" not in path.parts) == (
        ["new", "tree"] if is_there else []
    )


@pytest.mark.parametrize(
    ("builder", "end", "is_there"),
    [
        (build_tree, KeyboardInterrupt, False),
        (build_tree, OSError, True),
        (build_shards, SystemExit, False),
        (build_shards, OSError, True),
    ],
)
def test_an_interrupted_build_resumes(
    sources: Path,
    demo_built: tuple[Path, Built],
    tmp_path: Path,
    builder: Callable[..., Built],
    end: type[BaseException],
    is_there: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupted in turn while photos are written and, if there are any, while shards are."""
    monkeypatch.setattr(rendering, "_PHOTOS_A_JOB", 7)
    out = tmp_path / "new" / "out"
    out.mkdir(parents=True) if is_there else None
    work = (
        out / ".building" if is_there and builder is build_tree else tmp_path / "new/out.building"
    )
    first: list[tuple[str, int]] = []

    def build(stage: str = "", number: int = 0) -> Built:
        def progress(doing: str, done: int, total: int) -> None:
            first.append((doing, done))
            if doing == stage and done >= number:
                raise end

        return builder(
            sources / "cifar-10-python.tar.gz", sources / "synsets", out,
            BuildOptions(per_class=FULL), workers=1, progress=progress, warn=lambda text: None,
        )  # fmt: skip

    expected = OutputError if end is OSError else end
    stages = [("photos", 100), ("photos", 300), *([("pack", 1)] if builder is build_shards else [])]
    for stage, number in stages:
        with pytest.raises(expected) as caught:
            build(stage, number)
        said = f"run the same command again to resume, or remove {work}"
        assert said in caught.value.__notes__[-1]
    write(work, "mine.txt", data=b"mine")
    first.clear()
    built = build()
    # What was done before is reported at once.
    assert sum(doing == "photos" for doing, _ in first) > 300 / 7
    assert files_of(work) == {"mine.txt": b"mine"}
    if builder is build_tree:
        shutil.rmtree(work)
        assert files_of(out) == files_of(demo_built[0])
    else:
        pack(demo_built[0], tmp_path / "packed", workers=1)
        assert files_of(out) == files_of(tmp_path / "packed")
    assert built.as_json() == demo_built[1].as_json()


def test_a_users_file_in_an_unfinished_tree_stays(sources: Path, tmp_path: Path) -> None:
    def interrupt(doing: str, done: int, total: int) -> None:
        if doing == "photos" and done:
            raise KeyboardInterrupt

    paths = sources / "cifar-10-python.tar.gz", sources / "synsets", tmp_path / "tree"
    options = BuildOptions(per_class=3)
    with pytest.raises(KeyboardInterrupt):
        build_tree(*paths, options, workers=1, progress=interrupt, warn=lambda text: None)
    (folder,) = (tmp_path / "tree.building").glob("*/train/cat")
    write(folder, "mine.png", data=b"mine")
    with pytest.raises(OutputError, match=r"mine\.png: building did not make this file; move it"):
        run_build(sources, tmp_path / "tree", per_class=3)
    assert (folder / "mine.png").read_bytes() == b"mine"
    (folder / "mine.png").rename(tmp_path / "mine.png")
    run_build(sources, tmp_path / "tree", per_class=3)
    assert sorted(os.listdir(tmp_path)) == ["mine.png", "sources", "tree"]


def test_an_unfinished_build_with_different_options_stays(sources: Path, tmp_path: Path) -> None:
    def interrupt(doing: str, done: int, total: int) -> None:
        if doing == "photos" and done:
            raise KeyboardInterrupt

    paths = sources / "cifar-10-python.tar.gz", sources / "synsets", tmp_path / "tree"
    with pytest.raises(KeyboardInterrupt):
        build_tree(
            *paths, BuildOptions(per_class=3), workers=1, progress=interrupt, warn=lambda text: None
        )
    work = tmp_path / "tree.building"
    before = files_of(work)
    said = f"{work}: holds an unfinished build with different options; use the same as before to "
    with pytest.raises(OutputError, match=said):
        run_build(sources, tmp_path / "tree", per_class=2, seed=1)
    assert files_of(work) == before
    run_build(sources, tmp_path / "tree", per_class=3)
    assert sorted(os.listdir(tmp_path)) == ["sources", "tree"]


def test_an_invalid_number_of_workers_leaves_nothing(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="workers=0"):
        run_build(sources, tmp_path / "tree", workers=0, per_class=1)
    assert os.listdir(tmp_path) == ["sources"]


def test_a_build_resumes_after_a_power_cut(
    sources: Path,
    demo_built: tuple[Path, Built],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Images of finished jobs are empty or missing, and the log ends with zeros."""
    monkeypatch.setattr(rendering, "_PHOTOS_A_JOB", 7)

    def interrupt(doing: str, done: int, total: int) -> None:
        if doing == "photos" and done > 100:
            raise KeyboardInterrupt

    paths = sources / "cifar-10-python.tar.gz", sources / "synsets", tmp_path / "tree"
    options = BuildOptions(per_class=FULL)
    with pytest.raises(KeyboardInterrupt):
        build_tree(*paths, options, workers=1, progress=interrupt, warn=lambda text: None)
    images = sorted((tmp_path / "tree.building").glob("*/*/*/*.png"))
    images[0].write_bytes(b"")
    images[-1].unlink()
    (log,) = (tmp_path / "tree.building").glob("*-log")
    with open(log, "ab") as file:
        file.write(bytes(50) + b"\n")
    run_build(sources, tmp_path / "tree", per_class=FULL)
    assert files_of(tmp_path / "tree") == files_of(demo_built[0])


def test_the_tar_of_a_build_is_on_the_disk_before_a_job_is_noted(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record_disk(monkeypatch, tmp_path)
    paths = sources / "cifar-10-python.tar.gz", sources / "synsets", tmp_path / "out"
    build_shards(*paths, BuildOptions(per_class=1), workers=1, warn=lambda text: None)
    assert calls.count("sync out.building/tar/images.tar") > 2


def test_ctrl_c_after_the_end_of_a_build(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes before the folder for temporary files is removed."""

    def interrupt(folder: BuildFolder) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BuildFolder, "remove", interrupt)
    out, work = tmp_path / "tree", tmp_path / "tree.building"
    with pytest.raises(KeyboardInterrupt) as found:
        run_build(sources, out, per_class=1)
    assert found.value.__notes__ == [
        f"{out} is complete; remove {work}, which is not needed any more"
    ]
    assert len(list(out.glob("*/*/*.png"))) == 30


def test_packing_options_that_fail_do_not_cost_the_images(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise LimitError("too many shards")

    paths = sources / "cifar-10-python.tar.gz", sources / "synsets", tmp_path / "out"
    options = BuildOptions(per_class=1)
    with monkeypatch.context() as patch, pytest.raises(LimitError) as found:
        patch.setattr(building, "pack", fail)
        build_shards(*paths, options, workers=1, warn=lambda text: None)
    assert "with different packing options, or remove" in found.value.__notes__[0]
    (tar,) = (tmp_path / "out.building").glob("*/images.tar")
    assert tar.stat().st_size > 30_000
    build_shards(*paths, options, PackOptions(shard_size=5), workers=1, warn=lambda text: None)
    assert sorted(os.listdir(tmp_path)) == ["out", "sources"]


def test_a_build_killed_while_its_folder_is_removed(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tree is gone already."""
    out = tmp_path / "tree"
    out.mkdir()

    class Killed(BaseException):
        pass

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == "images.tar" and (out / "valid").exists():
            raise Killed
        original(path, missing_ok)

    original = Path.unlink
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "unlink", unlink)
        run_build(sources, out, per_class=1)
    with pytest.raises(OutputError, match="tree: already exists"):
        run_build(sources, out, per_class=1)
    assert len(list(out.glob("t*/*/*.png"))) + len(list(out.glob("valid/*/*.png"))) == 30


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_build_killed_while_its_splits_are_moved(
    sources: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tree"
    out.mkdir()

    class Killed(BaseException):
        pass

    def rename(old: Path, new: Path) -> None:
        if len(os.listdir(out)) - 1 == number:
            raise Killed
        original(old, new)

    original = os.rename
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        patch.setattr(BuildFolder, "take_back", lambda folder, target: None)
        if number == 3:
            patch.setattr(BuildFolder, "remove", lambda folder: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run_build(sources, out, per_class=1)
    assert len(os.listdir(out)) == number + 1
    run_build(sources, out, per_class=1)
    run_build(sources, tmp_path / "expected", per_class=1)
    assert files_of(out) == files_of(tmp_path / "expected")
    assert sorted(os.listdir(out)) == ["test", "train", "valid"]


def test_a_folder_that_appears_meanwhile_stays(sources: Path, tmp_path: Path) -> None:
    """It has the name of a split that could not be moved there."""
    out = tmp_path / "tree"
    out.mkdir()

    def appear(doing: str, done: int, total: int) -> None:
        write(out, "valid/mine.txt", data=b"mine")

    with pytest.raises(OutputError, match="valid: Directory not empty"):
        build_tree(
            sources / "cifar-10-python.tar.gz", sources / "synsets", out,
            BuildOptions(per_class=1), workers=1, progress=appear, warn=lambda text: None,
        )  # fmt: skip
    assert sorted(os.listdir(out)) == [".building", "valid"]
    assert files_of(out / "valid") == {"mine.txt": b"mine"}


def test_shards_on_a_server_and_a_scratch_folder(sources: Path, tmp_path: Path) -> None:
    seen: set[str] = set()
    out = open_store("memory://bucket/built")
    built = build_shards(
        sources / "cifar-10-python.tar.gz", sources / "synsets", out,
        BuildOptions(per_class=1), scratch=tmp_path / "scratch", workers=1,
        progress=lambda doing, done, total: seen.update(os.listdir(tmp_path / "scratch")),
        warn=lambda text: None,
    )  # fmt: skip
    assert seen == {"built.building"}
    assert os.listdir(tmp_path / "scratch") == []
    assert built.manifest == read_manifest(out)


def test_two_processes_build_the_same_output(sources: Path, tmp_path: Path) -> None:
    def again(doing: str, done: int, total: int) -> None:
        with pytest.raises(OutputError, match="another process is building there"):
            run_build(sources, tmp_path / "tree", per_class=1)

    build_tree(
        sources / "cifar-10-python.tar.gz", sources / "synsets", tmp_path / "tree",
        BuildOptions(per_class=1), workers=1, progress=again, warn=lambda text: None,
    )  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["sources", "tree"]


def test_the_work_folder_of_a_killed_process_is_cleared(sources: Path, tmp_path: Path) -> None:
    with BuildFolder(tmp_path / "tree.building") as left:
        left.begin({"other": "build"})
        left.note_names(["train/cat/half"])
        write(left.tree, "train/cat/half.png", data=b"half")
    run_build(sources, tmp_path / "tree", per_class=1)
    assert sorted(os.listdir(tmp_path)) == ["sources", "tree"]
    assert len(list((tmp_path / "tree").glob("*/*/*.png"))) == 30


@pytest.mark.parametrize("names", [["thesis.tex"], ["lock", "thesis.tex"]])
def test_a_work_folder_with_other_files_is_rejected(
    sources: Path, tmp_path: Path, names: list[str]
) -> None:
    other = tmp_path / "tree.building"
    other.mkdir()
    for name in names:
        (other / name).write_text("mine")
    with pytest.raises(
        OutputError, match=r"tree\.building: needed for unfinished files, but holds"
    ):
        run_build(sources, tmp_path / "tree", per_class=1)
    assert sorted(os.listdir(other)) == names
    assert sorted(os.listdir(tmp_path)) == ["sources", "tree.building"]


@pytest.mark.real
def test_killed_packing_resumes(sources: Path, tmp_path: Path) -> None:
    """The rebuilt tar looks the same to the journal, which keeps the finished shards."""
    paths = [
        str(path)
        for path in (sources / "cifar-10-python.tar.gz", sources / "synsets", tmp_path / "shards")
    ]
    program = textwrap.dedent(f"""
        import os
        from cinic_shards.cinic import cifar10
        from cinic_shards.cinic.build import build_shards
        from cinic_shards.cinic.build_options import BuildOptions
        from cinic_shards.write.pack import PackOptions

        def progress(doing, done, total):
            if doing == "pack" and done > 300:
                os._exit(9)

        cifar10.BATCH_SIZE = {BATCH_SIZE}
        options = BuildOptions(per_class={FULL}), PackOptions(shard_size=100)
        build_shards(*{paths}, *options, workers=1, progress=progress, warn=print)
    """)
    killed = subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    assert killed.returncode == 9
    left = [note.stem for note in (tmp_path / "shards" / "_packing").glob("*.tar.json")]
    assert left and sorted(os.listdir(tmp_path)) == ["shards", "shards.building", "sources"]
    packed: list[tuple[int, int]] = []

    def progress(doing: str, done: int, total: int) -> None:
        if doing == "pack":
            packed.append((done, total))

    options = BuildOptions(per_class=FULL), PackOptions(shard_size=100)
    build_shards(*paths, *options, workers=1, progress=progress, warn=lambda text: None)
    kept = sum(70 if name.endswith("-00002-of-00003.tar") else 100 for name in left)
    assert packed[0] == (kept, 3 * 10 * FULL)
    assert sorted(os.listdir(tmp_path)) == ["shards", "sources"]
    assert MANIFEST_NAME in os.listdir(tmp_path / "shards")


# --- the command ------------------------------------------------------------------------------


def run_command(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cinic-shard", "build", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as exit_:
            return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    return 0


@pytest.fixture
def options(sources: Path) -> list[object]:
    return [
        "--cifar", sources / "cifar-10-python.tar.gz", "--imagenet", sources / "synsets",
        "--per-class", 1, "--workers", 1,
    ]  # fmt: skip


def test_the_command_writes_shards(
    options: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(tmp_path / "shards", *options, "--encoding", "raw") == 0
    out, err = capsys.readouterr()
    assert out.startswith("30 images in 3 shards, ")
    assert "warning: 1,339 synsets without a tar: n01319339, " in err
    assert sorted(os.listdir(tmp_path)) == ["shards", "sources"]


def test_the_command_writes_a_tree_and_json(
    options: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(tmp_path / "tree", *options, "--tree", "--json", "--quiet") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["num_images"], err) == (30, "")
    assert found["counts"]["test"]["truck"] == {"imagenet": 1}
    assert len(found["missing_tars"]) == 1339
    assert found["libraries"]["pillow"]
    assert len(list((tmp_path / "tree").glob("*/*/*.png"))) == 30


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--per-class", 27, "--imagenet", "nowhere"], 1, "error: nowhere: No such file"),
        (["--per-class", 100_000], 2, "error: 100000 images of a class in a split: expected 1 to"),
        (["--tree", "--encoding", "raw"], 2, "error: --tree writes no shards; leave out the pac"),
        (["--cifar", "nowhere"], 1, "error: nowhere: No such file or directory"),
    ],
)  # fmt: skip
def test_a_mistake_gives_one_message(
    options: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    more: list[object], status: int, message: str,
) -> None:  # fmt: skip
    assert run_command(tmp_path / "out", *options, *more) == status
    out, err = capsys.readouterr()
    assert (out, err.count("error: ")) == ("", 1)
    assert err.startswith(message)
    assert os.listdir(tmp_path) == ["sources"]
