"""Restoring CIFAR-10 from shards: torchvision and numpy read it back; and its errors."""

import json
import pickle
import shutil
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cinic_shards.cinic import cifar10
from cinic_shards.cinic.cifar10 import (
    CLASSES,
    FOLDER,
    Cifar10,
    CifarSet,
    read_cifar10,
    write_batches,
)
from cinic_shards.cinic.pickles import write_pickle
from cinic_shards.cinic.restore import Restored, restore_cifar10
from cinic_shards.errors import FormatError, OptionError, OutputError
from cinic_shards.loader.bench import import_torchvision
from cinic_shards.store import LocalStore, WorkFolder
from cinic_shards.write.pack import PackOptions, pack
from tests.support.command import Run

SIZE = 20
SPLITS = ("test", "train", "valid")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "BATCH_SIZE", SIZE)


@pytest.fixture(scope="module")
def cifar() -> Cifar10:
    """A CIFAR-10 of 100 and 20 images."""
    rng = np.random.default_rng(0)

    def one(size: int) -> CifarSet:
        images = rng.integers(0, 256, (size, 32, 32, 3), np.uint8)
        return CifarSet(images, rng.integers(0, 10, size))

    return Cifar10(one(5 * SIZE), one(SIZE), CLASSES)


@pytest.fixture(scope="module")
def tree(cifar: Cifar10, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of its images in random splits, and some other images; read only."""
    root = tmp_path_factory.mktemp("restore") / "tree"
    rng = np.random.default_rng(1)
    for name, one in cifar.sets.items():
        for row, (image, label) in enumerate(zip(one.images, one.labels.tolist(), strict=True)):
            dash = "-" if row % 7 == 0 else ""
            save(root, rng.choice(SPLITS), CLASSES[label], f"cifar{dash}10-{name}-{row}", image)
    for number in range(60):
        image = rng.integers(0, 256, (32, 32, 3), np.uint8)
        save(root, SPLITS[number % 3], CLASSES[number % 10], f"n02084071_{number}", image)
    return root


def save(root: Path, split: str, class_name: str, stem: str, image: Any) -> Path:
    path = root / split / class_name / f"{stem}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


@pytest.fixture(scope="module")
def shards(tree: Path) -> dict[str, Path]:
    """``tree`` in each encoding; read only."""
    out = {encoding: tree.parent / encoding for encoding in ("png", "zstd", "raw")}
    for encoding, folder in out.items():
        pack(tree, folder, PackOptions(encoding=encoding, shard_size=40, block_size=8), workers=1)
    return out


def archive(cifar: Cifar10, path: Path) -> Path:
    write_batches(cifar, path.parent / FOLDER)
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.add(path.parent / FOLDER, FOLDER)
    shutil.rmtree(path.parent / FOLDER)
    return path


def assert_same(found: Cifar10, expected: Cifar10) -> None:
    for name, one in expected.sets.items():
        assert np.array_equal(found.sets[name].images, one.images)
        assert np.array_equal(found.sets[name].labels, one.labels)


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
def test_it_is_the_same_in_every_encoding(
    encoding: str, shards: dict[str, Path], cifar: Cifar10, tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int]] = []
    out = tmp_path / "new" / "out"
    published = archive(cifar, tmp_path / "cifar-10-python.tar.gz")
    done = restore_cifar10(
        shards[encoding], out, check=published, progress=lambda *step: seen.append(step)
    )
    assert done == Restored(6 * SIZE, out / FOLDER, True)
    assert_same(read_cifar10(out / FOLDER), cifar)
    assert [path.name for path in out.iterdir()] == [FOLDER]
    assert seen[0] == ("read", 0, 120) and seen[-1] == ("read", 120, 120)


def test_from_a_url(tree: Path, cifar: Cifar10, tmp_path: Path) -> None:
    for encoding in ("png", "zstd"):
        url = f"memory:///restore/{encoding}"
        pack(tree, url, PackOptions(encoding=encoding, block_size=16), workers=1)
        restore_cifar10(url, tmp_path / encoding)
        assert_same(read_cifar10(tmp_path / encoding / FOLDER), cifar)


def test_torchvision_reads_it(shards: dict[str, Path], cifar: Cifar10, tmp_path: Path) -> None:
    """As in docs/cinic10.md; torchvision's digests are those of files with other image names."""
    restore_cifar10(shards["raw"], tmp_path)
    import_torchvision()
    from torchvision.datasets import CIFAR10

    class RestoredCIFAR10(CIFAR10):  # type: ignore[misc]
        train_list = tuple((name, None) for name, _ in CIFAR10.train_list)
        test_list = tuple((name, None) for name, _ in CIFAR10.test_list)
        meta = CIFAR10.meta | {"md5": None}

    for is_train, one in ((True, cifar.train), (False, cifar.test)):
        found = RestoredCIFAR10(tmp_path, train=is_train)
        assert found.classes == list(CLASSES)
        assert np.array_equal(found.data, one.images) and found.targets == one.labels.tolist()


def test_the_pickles_are_python_2s(shards: dict[str, Path], cifar: Cifar10, tmp_path: Path) -> None:
    """Both encodings that people load the published pickles with work."""
    restore_cifar10(shards["png"], tmp_path / FOLDER)
    with open(tmp_path / FOLDER / "data_batch_2", "rb") as file:
        data = file.read()
    planes = cifar.train.images[SIZE : 2 * SIZE].transpose(0, 3, 1, 2).reshape(SIZE, -1)
    for encoding, key in (("bytes", bytes), ("latin1", str)):
        found = pickle.loads(data, encoding=encoding)
        assert {type(name) for name in found} == {key}
        one = {name if key is str else name.decode(): value for name, value in found.items()}
        assert np.array_equal(one["data"], planes) and one["data"].dtype == np.uint8
        assert one["labels"] == cifar.train.labels[SIZE : 2 * SIZE].tolist()
        last = f"cifar10-train-{2 * SIZE - 1}.png"
        assert one["filenames"][-1] == (last if key is str else last.encode())
    meta = pickle.loads((tmp_path / FOLDER / "batches.meta").read_bytes(), encoding="latin1")
    assert meta == {"num_cases_per_batch": SIZE, "label_names": list(CLASSES), "num_vis": 3072}


@pytest.mark.parametrize(("out", "kind"), [("x.npz", None), ("x", "npz"), ("y/x.npz", "npz")])
def test_npz(
    out: str, kind: str | None, shards: dict[str, Path], cifar: Cifar10, tmp_path: Path
) -> None:
    restore_cifar10(shards["zstd"], tmp_path / out, format=kind)
    with np.load(tmp_path / out) as found:
        assert list(found["label_names"]) == list(CLASSES)
        for name, one in cifar.sets.items():
            assert np.array_equal(found[f"x_{name}"], one.images)
            assert np.array_equal(found[f"y_{name}"], one.labels)


def test_check_without_output(shards: dict[str, Path], cifar: Cifar10, tmp_path: Path) -> None:
    published = archive(cifar, tmp_path / "x.tar.gz")
    assert restore_cifar10(shards["png"], check=published) == Restored(120, None, True)
    with pytest.raises(OptionError, match="a path to write to, or an archive"):
        restore_cifar10(shards["png"])


def test_a_different_archive(shards: dict[str, Path], cifar: Cifar10, tmp_path: Path) -> None:
    images, labels = cifar.train.images.copy(), cifar.test.labels.copy()
    images[[3, 50], 31, 31, 2] ^= 1
    labels[7] = (labels[7] + 1) % 10
    other = Cifar10(
        CifarSet(images, cifar.train.labels), CifarSet(cifar.test.images, labels), CLASSES
    )
    published = archive(other, tmp_path / "x.tar.gz")
    with pytest.raises(FormatError) as error:
        restore_cifar10(shards["png"], tmp_path / "out", check=published)
    was, there = CLASSES[cifar.test.labels[7]], CLASSES[labels[7]]
    assert str(error.value).splitlines() == [
        f"{shards['png']}: differs from {published}; nothing was written",
        "  train: 2 images with different pixels: 3, 50",
        f"  test: 1 image with a different label: 7 ({was}, in the archive {there})",
    ]
    assert not (tmp_path / "out").exists()


def test_missing_images_are_named(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "tree")
    for stem in ("cifar-10-train-0", *(f"cifar10-train-{n}" for n in (1, 2, 3, 4, 5, 99))):
        (path,) = copy.glob(f"*/*/{stem}.png")
        path.unlink()
    (path,) = copy.glob("*/*/cifar10-test-19.png")
    path.unlink()
    pack(copy, tmp_path / "shards", workers=1)
    with pytest.raises(FormatError) as error:
        restore_cifar10(tmp_path / "shards", tmp_path / "out")
    assert str(error.value).splitlines() == [
        f"{tmp_path / 'shards'}: does not hold all of CIFAR-10; nothing was written",
        "  train: 7 of 100 images missing: 0, 1, 2, 3, 4, ...",
        "  test: 1 of 20 images missing: 19",
    ]
    assert not (tmp_path / "out").exists()


def test_duplicate_images(tree: Path, cifar: Cifar10, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "tree")
    image, name = cifar.train.images[8], CLASSES[cifar.train.labels[8]]
    (first,) = copy.glob("*/*/cifar10-train-8.png")
    split = next(split for split in SPLITS if split != first.parts[-3])
    second = save(copy, split, name, "cifar-10-train-8", image)
    pack(copy, tmp_path / "alike", workers=1)
    said: list[str] = []
    restore_cifar10(tmp_path / "alike", tmp_path / "out", warn=said.append)
    assert len(said) == 1 and "train: 1 image duplicated with the same content; the f" in said[0]
    assert_same(read_cifar10(tmp_path / "out" / FOLDER), cifar)

    second.unlink()
    save(copy, split, name, "cifar-10-train-8", 255 - image)
    other = CLASSES[(cifar.test.labels[3] + 1) % 10]
    save(copy, "valid", other, "cifar-10-test-3", cifar.test.images[3])
    pack(copy, tmp_path / "unlike", workers=1)
    with pytest.raises(FormatError, match="does not hold all of CIFAR-10") as error:
        restore_cifar10(tmp_path / "unlike", tmp_path / "out2")
    _, train, test = str(error.value).splitlines()
    assert train.startswith("  train: 1 image duplicated with different pixels or classes: ")
    assert f"{split}/{name}/cifar-10-train-8" in train and "/cifar10-train-8" in train
    assert f"valid/{other}/cifar-10-test-3" in test


def test_additional_classes(tree: Path, cifar: Cifar10, tmp_path: Path) -> None:
    """Labels are found by the classes' names; the dataset may have additional classes."""
    copy = shutil.copytree(tree, tmp_path / "tree")
    save(copy, "train", "aardvark", "n02084071_1000", cifar.test.images[0])
    pack(copy, tmp_path / "more", workers=1, warn=lambda text: None)
    restore_cifar10(tmp_path / "more", tmp_path / "out")
    assert_same(read_cifar10(tmp_path / "out" / FOLDER), cifar)
    (path,) = copy.glob("*/*/cifar10-test-5.png")
    path.rename(copy / "train" / "aardvark" / path.name)
    pack(copy, tmp_path / "strange", workers=1, warn=lambda text: None)
    with pytest.raises(FormatError, match="test: 1 image in a class that CIFAR-10 does not have: "):
        restore_cifar10(tmp_path / "strange", tmp_path / "out2")


def test_other_images_may_have_other_sizes(tree: Path, cifar: Cifar10, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "tree")
    save(copy, "train", "cat", "n02084071_1000", np.zeros((40, 50, 3), np.uint8))
    pack(copy, tmp_path / "shards", workers=1)
    restore_cifar10(tmp_path / "shards", tmp_path / "out")
    assert_same(read_cifar10(tmp_path / "out" / FOLDER), cifar)
    (path,) = copy.glob("*/*/cifar10-test-5.png")
    Image.fromarray(np.zeros((33, 32, 3), np.uint8)).save(path)
    pack(copy, tmp_path / "large", workers=1)
    with pytest.raises(FormatError, match=r"1 image not of size 32x32: .*-5 \(33x32\)"):
        restore_cifar10(tmp_path / "large", tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
def test_damage_is_named(encoding: str, shards: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(shards[encoding], tmp_path / "shards")
    path = sorted(copy.glob("train-*.tar"))[0]
    data = bytearray(path.read_bytes())
    data[2000:30000] = bytes(28000)
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"written: \d+ images cannot be decoded\n  train-00000"):
        restore_cifar10(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written(shards: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / "x.npz").touch()
    for out in (tmp_path, tmp_path / FOLDER, tmp_path / "x.npz"):
        with pytest.raises(OutputError, match="already exists; remove it, or write elsewhere"):
            restore_cifar10(shards["png"], out)
    with pytest.raises(OutputError, match=r"x.npz.*Not a directory"):
        restore_cifar10(shards["png"], tmp_path / "x.npz" / "deep")
    for out, kind, problem in (
        ("x", "tar", "format='tar': expected one of batches, npz"),
        ("y.npz", "batches", "batches are a folder"),
        (FOLDER, "npz", "is the name of the folder of batches"),
    ):
        with pytest.raises(OptionError, match=problem):
            restore_cifar10(shards["png"], tmp_path / "z" / out, format=kind)
    with pytest.raises(OptionError, match="workers=0: expected"):
        restore_cifar10(shards["png"], tmp_path / "z", workers=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FOLDER, "x.npz"]


@pytest.mark.parametrize("out", ["a/b", "a/b.npz"])
def test_an_interrupt_leaves_no_partial_output(
    out: str, shards: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []

    def interrupted(value: Any, *more: Any, **arrays: Any) -> bytes:
        written.append(b"")
        if len(written) == 3 or arrays:
            raise KeyboardInterrupt
        return write_pickle(value)

    monkeypatch.setattr(cifar10, "write_pickle", interrupted)
    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        restore_cifar10(shards["png"], tmp_path / out)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    monkeypatch.setattr(cifar10, "BATCH_SIZE", SIZE)
    out_folder = LocalStore(tmp_path / "a" / "b")
    with WorkFolder(out_folder, f"{FOLDER}.partial", "restoring") as work:  # killed
        work.path("batches").mkdir()
        (work.path("batches") / "data_batch_1").touch()
    restore_cifar10(shards["png"], tmp_path / "a" / "b")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [FOLDER]


def test_the_command(shards: dict[str, Path], cifar: Cifar10, tmp_path: Path, run: Run) -> None:
    restore = partial(run, "restore-cifar10")
    published = archive(cifar, tmp_path / "cifar-10-python.tar.gz")
    status, out, _ = restore(shards["zstd"], tmp_path / "out", "--check", published)
    assert status == 0 and out.startswith(f"120 images, each the same as in {published}, ")
    assert out.endswith(f"s: {tmp_path / 'out' / FOLDER}\n")
    assert restore(shards["png"], tmp_path / "x.npz", "-q") == (0, "", "")
    found = json.loads(restore(shards["png"], "--check", published, "--json").out)
    assert found.pop("seconds") > 0
    assert found == {"path": None, "num_images": 120, "is_checked": True}
    status, out, err = restore(shards["png"], tmp_path / "x.npz")
    assert (status, out) == (1, "") and err.startswith(
        f"error: {tmp_path / 'x.npz'}: already exists"
    )
    status, _, err = restore(shards["png"])
    assert status == 2 and err.startswith("error: give a path")
    status, _, err = restore(shards["png"], "--check", tmp_path / "none.tar.gz")
    assert status == 1 and err == f"error: {tmp_path / 'none.tar.gz'}: No such file or directory\n"
