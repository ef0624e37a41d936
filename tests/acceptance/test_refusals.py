"""Bad input gives one clear message and nothing that looks finished; damage is found and named."""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from make_demo_sources import SYNSETS, make_sources

from tests.acceptance.trees import Tree, cinic_shard
from tests.support.command import COMMAND
from tests.support.odd_pngs import damaged_pngs
from tests.support.servers import caddy


def refuse(names: str, *words: object) -> None:
    """Run the command, which must fail with one message that names the given text."""
    done = subprocess.run(
        [str(COMMAND), *map(str, words)], capture_output=True, text=True, check=False
    )
    said = f"status {done.returncode}: {done.stderr}"
    assert done.returncode in (1, 2), said
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr, said
    assert names in done.stderr, said


def png_of(cat: Path) -> bytes:
    """Any image's file."""
    return min(cat.glob("*_*.png")).read_bytes()


def write_twice(cat: Path) -> None:
    """One key as two files."""
    for name in ("twice.png", "twice.PNG"):
        (cat / name).write_bytes(png_of(cat))


def remove_all(cat: Path) -> None:
    """Leave a tree without images."""
    shutil.rmtree(cat.parents[1])
    cat.mkdir(parents=True)


FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "zero-byte file": ("train/cat/empty.png", lambda cat: (cat / "empty.png").touch()),
    "unreadable file": (
        "train/cat/dangling.png",
        lambda cat: (cat / "dangling.png").symlink_to("nowhere"),
    ),
    "content that is no PNG": (
        "train/cat/text.png",
        lambda cat: (cat / "text.png").write_text("not a picture at all"),
    ),
    "the same key twice": ("train/cat/twice", write_twice),
    "a dot in a stem": (
        "train/cat/a.b.png",
        lambda cat: (cat / "a.b.png").write_bytes(png_of(cat)),
    ),
    "a JPEG": ("train/cat/photo.jpg", lambda cat: (cat / "photo.jpg").write_bytes(b"\xff\xd8")),
    "no images": ("no .png file", remove_all),
    "truncated pixel data": (
        "train/cat/cut.png",
        lambda cat: (cat / "cut.png").write_bytes(damaged_pngs()["cut after 60 bytes"]),
    ),
    "corrupt pixel data": (
        "train/cat/corrupt.png",
        lambda cat: (cat / "corrupt.png").write_bytes(damaged_pngs()["changed byte in middle"]),
    ),
}
"""Fault -> text that the message must contain, and a function that puts it in a cat folder."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_tree(demo_tree: Path, fault: str, tmp_path: Path) -> None:
    """Does a tree with a fault give one clear message, status 1 or 2, and no output?"""
    names, damage = FAULTS[fault]
    tree = shutil.copytree(demo_tree, tmp_path / "tree")
    damage(tree / "train" / "cat")
    refuse(names, "pack", tree, tmp_path / "out")
    assert os.listdir(tmp_path) == ["tree"]


def test_an_output_folder_with_other_files(demo_tree: Path, tmp_path: Path) -> None:
    """Does an output folder with other files give one clear message, and stay as it is?"""
    (tmp_path / "thesis.tex").write_text("mine")
    refuse("thesis.tex", "pack", demo_tree, tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_full_disk(demo_tree: Path, mount_disk: Callable[[int], Path]) -> None:
    """Does a full disk give one clear message, and no output?"""
    out = mount_disk(2**18) / "shards"
    refuse(str(out), "pack", demo_tree, out)
    assert not out.exists()


def test_a_truncated_shard(demo_shards: Path, tmp_path: Path) -> None:
    """Does the loader raise an error that names a truncated shard?"""
    shards = shutil.copytree(demo_shards, tmp_path / "shards")
    shard = min(shards.glob("train-*.tar"))
    shard.write_bytes(shard.read_bytes()[:-2000])
    code = f"from cinic_shards import ShardLoader; ShardLoader({str(shards)!r}, batch_size=8)"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    # In a user's program it is an exception: its last line is the message.
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and shard.name in last and "truncated" in last, last


# --- Sources of CINIC-10 ------------------------------------------------------------------------

HEADER = "synset, image_num, cinic_set, class\n"
CAT, DOG = SYNSETS["cat"], SYNSETS["dog"]


def cut(path: Path, out: Path) -> Path:
    """Write the first two thirds of a file."""
    out.parent.mkdir(exist_ok=True)
    data = path.read_bytes()
    out.write_bytes(data[: 2 * len(data) // 3])
    return out


@pytest.fixture(scope="session")
def sources(demo_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn sources, and bad ones beside them; read only."""
    folder = tmp_path_factory.mktemp("sources")
    make_sources(folder, photos=30)
    cifar, synsets, tree = (
        folder / name for name in ("cifar-10-python.tar.gz", "synsets", "CINIC-10.tar.gz")
    )
    with tarfile.open(tree, "w:gz", compresslevel=1) as archive:
        archive.add(demo_tree, "CINIC-10")
    cut(cifar, folder / "truncated-cifar.tar.gz")
    cut(tree, folder / "truncated.tar.gz")
    cut(tree, folder / "served" / tree.name)
    for name in ("no-cats", "cut-dogs"):
        shutil.copytree(synsets, folder / name)
    for synset in CAT:
        (folder / "no-cats" / f"{synset}.tar").unlink()
    cut(synsets / f"{DOG[0]}.tar", folder / "cut-dogs" / f"{DOG[0]}.tar")
    (folder / "rows.csv").write_text(f"{HEADER}{DOG[0]}, 999999, train, dog\n")
    bad_line = f"{HEADER}n02084071, 1, train, dog\nn0208, 2, train, dog\n"
    (folder / "bad.csv").write_text(bad_line)
    (folder / "page.tar.gz").write_text("<html>not found</html>" * 999)
    return folder


@pytest.fixture
def nothing_left(sources: Path, tmp_path: Path) -> Iterator[None]:
    """The test leaves nothing beside the sources or its output."""
    before = set(sources.rglob("*"))
    yield
    assert set(sources.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "names"),
    [
        ("--cifar", "CINIC-10.tar.gz", "CINIC-10.tar.gz"),
        ("--cifar", "truncated-cifar.tar.gz", "truncated-cifar.tar.gz"),
        ("--imagenet", "no-cats", CAT[0]),
        ("--imagenet", "cut-dogs", DOG[0]),
        ("--contributors", "rows.csv", "999999"),
        ("--contributors", "bad.csv", "line 3"),
    ],
)
@pytest.mark.usefixtures("nothing_left")
def test_build_from_bad_sources(
    sources: Path, option: str, value: str, names: str, tmp_path: Path
) -> None:
    """Does ``build`` give one clear message for a bad source, and leave nothing?"""
    options = {"--cifar": "cifar-10-python.tar.gz", "--imagenet": "synsets", option: value}
    words = [word for name, file in options.items() for word in (name, sources / file)]
    refuse(names, "build", tmp_path / "out", "--quiet", "--per-class", 9, *words)


@pytest.mark.parametrize("name", ["page.tar.gz", "truncated.tar.gz"])
@pytest.mark.usefixtures("nothing_left")
def test_pack_a_bad_archive(sources: Path, name: str, tmp_path: Path) -> None:
    """Does ``pack`` give one clear message for a page or a truncated archive, and leave nothing?"""
    refuse(str(sources / name), "pack", sources / name, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "names", "left"),
    [
        ("CINIC-10.tar.gz", "6ee4d0c996905fe93221de577967a372", ["x.unexpected"]),  # as published
        ("gone.tar.gz", "gone.tar.gz", []),
    ],
)
def test_fetch_another_file(
    sources: Path, name: str, names: str, left: list[str], tmp_path: Path
) -> None:
    """Does ``fetch`` give one clear message for another file or none, and not name it as asked?"""
    for folder in ("web", "out"):
        (tmp_path / folder).mkdir()
    with caddy(tmp_path / "web", sources / "served") as url:
        refuse(names, "fetch", tmp_path / "out" / "x", "--url", f"{url}/{name}", "--quiet")
    assert os.listdir(tmp_path / "out") == left


def test_restore_cifar10_from_a_part(small_tree: Tree, tmp_path: Path) -> None:
    """Does ``restore-cifar10`` give one clear message where images are missing?

    A tree may hold all of CIFAR-10, but not in two of its splits.
    """
    part, out = tmp_path / "part", tmp_path / "out"
    cinic_shard("select", small_tree.packed(), part, "--split", "train+test", "--quiet")
    refuse("missing", "restore-cifar10", part, out)
    assert os.listdir(tmp_path) == ["part"]
