"""Unpacking restores the same files, only the wanted ones, and only inside the output."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cinic_shards.errors import CinicShardsError, FormatError, OptionError, OutputError, StoreError
from cinic_shards.format.provenance import parse_stem
from cinic_shards.store import LocalStore, WorkFolder
from cinic_shards.write.unpack import Unpacked, unpack
from tests.support.disk import record_disk
from tests.support.files import files_of, flip
from tests.support.indexes import rewrite_index, with_key


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.real)])
def test_the_tree_is_restored(
    demo_tree: Path, demo_shards: Path, tmp_path: Path, workers: int
) -> None:
    seen: list[tuple[str, int, int]] = []
    done = unpack(
        demo_shards,
        tmp_path / "out",
        workers=workers,
        progress=lambda doing, done, total: seen.append((doing, done, total)),
    )
    assert done == Unpacked(270, 0)
    assert files_of(tmp_path / "out") == files_of(demo_tree)
    assert seen[0] == ("unpack", 0, 270) and seen[-1] == ("unpack", 270, 270)


def test_the_tree_survives_a_power_cut(
    demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sync of the disk after all files: a sync of each would take minutes."""
    calls = record_disk(monkeypatch, tmp_path)
    unpack(demo_shards, tmp_path / "out", splits=["test"], workers=1)
    last = [call for call in calls if not call.startswith("delete")][-2:]
    assert last[0].startswith("rename ") and last[1] == "sync disk"


def origin(path: str) -> str:
    return parse_stem(Path(path).stem).origin


PARTS: dict[str, tuple[dict[str, list[str]], Callable[[str], bool]]] = {
    "a split": ({"splits": ["test"]}, lambda path: path.startswith("test/")),
    "two splits": ({"splits": ["test", "train"]}, lambda path: path.startswith("t")),
    "a class": ({"classes": ["cat"]}, lambda path: "/cat/" in path),
    "an origin": ({"origins": ["imagenet"]}, lambda path: origin(path) == "imagenet"),
    "a set": ({"origins": ["cifar10-train"]}, lambda path: origin(path) == "cifar10-train"),
    "both sets": ({"origins": ["cifar10"]}, lambda path: origin(path).startswith("cifar10-")),
    "all at once": (
        {"splits": ["valid"], "classes": ["dog", "cat"], "origins": ["cifar10"]},
        lambda path: (
            path.startswith(("valid/dog/", "valid/cat/")) and origin(path).startswith("cifar10-")
        ),
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_restored(demo_tree: Path, demo_shards: Path, tmp_path: Path, part: str) -> None:
    options, is_wanted = PARTS[part]
    unpack(demo_shards, tmp_path / "out", workers=1, **options)  # type: ignore[arg-type]
    expected = {path: data for path, data in files_of(demo_tree).items() if is_wanted(path)}
    assert 0 < len(expected) < 270
    assert files_of(tmp_path / "out") == expected


def test_the_same_call_resumes(demo_tree: Path, demo_shards: Path, tmp_path: Path) -> None:
    unpack(demo_shards, tmp_path / "out", workers=1)
    for path in list((tmp_path / "out" / "train").rglob("*.png"))[::3]:
        path.unlink()
    with WorkFolder(LocalStore(tmp_path / "out"), ".unpacking", "unpacking") as work:  # killed
        work.path("train-train-00000-of-00003.tar").write_bytes(b"half a fi")
    assert unpack(demo_shards, tmp_path / "out", workers=1) == Unpacked(30, 240)
    assert files_of(tmp_path / "out") == files_of(demo_tree)


def test_other_files_are_left_alone(demo_tree: Path, demo_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    unpack(demo_shards, out, workers=1)
    assert files_of(out) == {**files_of(demo_tree), "mine.txt": b"mine"}


def test_a_file_with_different_content_is_never_replaced(
    demo_tree: Path, demo_shards: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out" / next(iter(files_of(demo_tree)))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(FormatError, match=f"{path} exists with different content; move it"):
        unpack(demo_shards, tmp_path / "out", workers=1)
    assert path.read_bytes() == b"mine"
    assert len(files_of(tmp_path / "out")) == 270


@pytest.mark.parametrize("link", ["train", "train/cat", ".unpacking"])
def test_links_are_not_followed(demo_shards: Path, tmp_path: Path, link: str) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_bytes(b"mine")
    (out / link).parent.mkdir(parents=True)
    (out / link).symlink_to(elsewhere)
    with pytest.raises(OutputError, match="a symbolic link, expected a folder"):
        unpack(demo_shards, out, workers=1)
    assert os.listdir(elsewhere) == ["mine"]


@pytest.mark.parametrize("key", ["train/../x", "../x/y", "/tmp/x/y", "train/a/../../x", "x"])
def test_keys_do_not_lead_outside_the_output(demo_shards: Path, tmp_path: Path, key: str) -> None:
    shards = Path(shutil.copytree(demo_shards, tmp_path / "shards"))
    rewrite_index(shards, with_key(3, key))
    with pytest.raises(FormatError, match="1 samples could not be unpacked"):
        unpack(shards, tmp_path / "deep" / "out", workers=1)
    assert len(files_of(tmp_path / "deep" / "out")) == len(files_of(tmp_path / "deep")) == 269


def test_a_damaged_sample_is_named_and_the_others_written(
    demo_tree: Path, demo_shards: Path, tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(demo_shards, tmp_path / "shards"))
    flip(shards / "train-00001-of-00003.tar", 700)
    with pytest.raises(FormatError, match=r"train-00001-of-00003.tar: sample 0 \(train/.*CRC-32"):
        unpack(shards, tmp_path / "out", workers=1)
    written = files_of(tmp_path / "out")
    assert len(written) == 269
    assert written.items() <= files_of(demo_tree).items()


@pytest.mark.parametrize(
    "options, error",
    [
        ({"splits": ["nope"]}, OptionError),
        ({"classes": ["unicorn"]}, OptionError),
        ({"origins": ["moon"]}, OptionError),
        ({"workers": 0}, OptionError),
    ],
)
def test_unknown_names_are_rejected(
    demo_shards: Path, tmp_path: Path, options: dict[str, object], error: type[CinicShardsError]
) -> None:
    with pytest.raises(error):
        unpack(demo_shards, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_missing_dataset_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no dataset"):
        unpack(tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_where_a_folder_should_be(demo_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(OutputError, match="out"):
        unpack(demo_shards, tmp_path / "out", workers=1)
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_one_process_at_a_time(demo_shards: Path, tmp_path: Path) -> None:
    with (
        WorkFolder(LocalStore(tmp_path), ".unpacking", "unpacking"),
        pytest.raises(OutputError, match="another process is unpacking there"),
    ):
        unpack(demo_shards, tmp_path, workers=1)
    assert unpack(demo_shards, tmp_path, workers=1).num_written == 270
    assert not (tmp_path / ".unpacking").exists()
