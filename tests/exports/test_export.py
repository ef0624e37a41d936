"""``export``: each format, as the libraries that it is for read it."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cinic_shards import CINIC10, Dataset, Subset, export
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import CinicShardsError, OptionError, OutputError
from cinic_shards.exports import Format
from cinic_shards.loader.bench import import_torchvision
from tests.support.command import Run

Content = tuple[NDArray[np.uint8], list[int], list[str]]
"""Images (N, H, W, 3), names of the classes of the images, file names."""


def from_npz(out: Path, split: str) -> Content:
    content = np.load(out / f"{split}.npz")  # no pickle
    names = content["classes"][content["labels"]].tolist()
    return content["images"], names, [f"{key}.png" for key in content["keys"]]


def from_npy(out: Path, split: str) -> Content:
    images = np.load(out / f"{split}_images.npy", mmap_mode="r")
    classes = (out / "classes.txt").read_text().splitlines()
    names = [classes[label] for label in np.load(out / f"{split}_labels.npy")]
    keys = (out / f"{split}_keys.txt").read_text().splitlines()
    return np.asarray(images), names, [f"{key}.png" for key in keys]


def from_pt(out: Path, split: str) -> Content:
    content = torch.load(out / f"{split}.pt", weights_only=True)
    images = content["images"]
    assert images.is_contiguous(memory_format=torch.channels_last) and images.dtype == torch.uint8
    names = [content["classes"][label] for label in content["labels"].tolist()]
    return images.permute(0, 2, 3, 1).numpy(), names, [f"{key}.png" for key in content["keys"]]


def from_parquet(out: Path, split: str) -> Content:
    import datasets

    datasets.disable_progress_bars()
    name = {"valid": "validation"}.get(split, split)
    read = datasets.load_dataset(str(out), split=name, cache_dir=str(out.parent / "cache"))
    images = np.stack([np.asarray(image.convert("RGB")) for image in read["image"]])
    classes = read.features["label"].names
    names = [classes[label] for label in read["label"]]
    raw = read.cast_column("image", datasets.Image(decode=False))["image"]
    return images, names, [
        f"{split}/{name}/{one['path']}" for name, one in zip(names, raw, strict=True)
    ]  # fmt: skip


def from_cifar(out: Path, split: str) -> Content:
    import_torchvision()
    from torchvision.datasets import CIFAR10

    batches = [f"data_batch_{n}" for n in range(1, 6)] if split == "train" else [f"{split}_batch"]

    class Exported(CIFAR10):
        base_folder = out.name
        train_list = test_list = [[name, None] for name in batches]  # noqa: RUF012 - as its own
        meta = {"filename": "batches.meta", "key": "label_names", "md5": None}  # noqa: RUF012

    read = Exported(out.parent, train=split == "train")
    names = [read.classes[label] for label in read.targets]
    files = []
    for batch in batches:
        files += pickle.loads((out / batch).read_bytes(), encoding="latin1")["filenames"]
    return read.data, names, [f"{split}/{name}/{f}" for name, f in zip(names, files, strict=True)]


READERS: dict[str, Callable[[Path, str], Content]] = {
    "npz": from_npz, "npy": from_npy, "pt": from_pt, "parquet": from_parquet, "cifar": from_cifar,
}  # fmt: skip


def test_every_format_is_read() -> None:
    assert set(READERS) == set(get_args(Format))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("format_", READERS)
def test_other_libraries_read_every_image(
    packed: dict[str, Path], tmp_path: Path, format_: Any, encoding: str
) -> None:
    out = tmp_path / "out"
    done = export(packed[encoding], out, format_)
    assert done.num_samples == 270
    assert sorted(done.files) == sorted(out.iterdir())
    for split in ("train", "valid", "test"):
        images, names, files = READERS[format_](out, split)
        expected = CINIC10(packed["png"], split)
        order = range(90)
        if format_ == "parquet":  # the shards' order
            assert files == [f"{key}.png" for key in Dataset(packed[encoding]).split(split).keys]
            order = [files.index(name) for name, _ in expected.samples]
        assert [files[row] for row in order] == [name for name, _ in expected.samples]
        assert [names[row] for row in order] == [expected.classes[t] for t in expected.targets]
        np.testing.assert_array_equal(images[list(order)], expected.data)


def test_parquet_has_the_files_themselves(
    packed: dict[str, Path], demo_tree: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet

    export(packed["png"], tmp_path / "out", "parquet", splits="train")
    (file,) = (tmp_path / "out").iterdir()
    table = pyarrow.parquet.read_table(file)
    classes = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"][
        "names"
    ]
    for row in table.to_pylist():
        path = demo_tree / "train" / classes[row["label"]] / row["image"]["path"]
        assert path.read_bytes() == row["image"]["bytes"]


def test_a_subset_of_joined_splits(packed: dict[str, Path], tmp_path: Path) -> None:
    subset = Subset(per_class=3, classes=["cat", "dog", "ship"])
    export(packed["zstd"], tmp_path / "out", "npz", splits="all=train+valid", subset=subset)
    images, names, files = from_npz(tmp_path / "out", "all")
    assert images.shape == (9, 32, 32, 3) and names == ["cat"] * 3 + ["dog"] * 3 + ["ship"] * 3
    assert files == sorted(files) and all(name.startswith("all/") for name in files)
    source = CINIC10(packed["png"], "train+valid", subset=subset)
    found = {name.partition("/")[2]: image for name, image in zip(files, images, strict=True)}
    for (name, _), image in zip(source.samples, source.data, strict=True):
        np.testing.assert_array_equal(found[name.partition("/")[2]], image)


def test_arrays_of_a_dataset(packed: dict[str, Path]) -> None:
    dataset = Dataset(packed["zstd"])
    images, labels = dataset.arrays("valid+train")
    columns = dataset.columns_of("train+valid")
    np.testing.assert_array_equal(labels, columns.labels)
    train = CINIC10(packed["png"], "train+valid", order="packed")
    np.testing.assert_array_equal(images, train.data)


def test_images_of_several_sizes(tmp_path: Path) -> None:
    from cinic_shards import pack

    for number, size in enumerate([8, 9]):
        folder = tmp_path / "tree" / "train" / "cat"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, 8), (number, 2, 3)).save(folder / f"cifar10-train-{number}.png")
    pack(tmp_path / "tree", tmp_path / "shards", workers=1)
    with pytest.raises(CinicShardsError, match="images of 2 sizes"):
        export(tmp_path / "shards", tmp_path / "out", "npz")
    assert not (tmp_path / "out").exists()
    export(tmp_path / "shards", tmp_path / "out", "parquet")
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize("format_", READERS)
def test_nothing_half_made_is_left(encoded: dict[str, Path], tmp_path: Path, format_: Any) -> None:
    shards = Path(shutil.copytree(encoded["zstd"], tmp_path / "shards"))
    shard = max(shards.glob("valid-*.tar"))  # the last split
    with open(shard, "r+b") as file:
        file.seek(2000)
        file.write(bytes(500))
    with pytest.raises(CinicShardsError, match=r"damaged|cannot be decoded"):
        export(shards, tmp_path / "a" / "out", format_)
    assert not (tmp_path / "a").exists()


def test_existing_files_are_kept(packed: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "train.npz").write_text("mine")
    with pytest.raises(OutputError, match=r"train\.npz exists; remove it, or write elsewhere"):
        export(packed["raw"], tmp_path, "npz")
    assert [path.name for path in tmp_path.iterdir()] == ["train.npz"]


def test_without_pyarrow(
    packed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptionError, match=r"pip install 'cinic-shards\[parquet\]'"):
        export(packed["raw"], tmp_path / "out", "parquet")
    assert not list(tmp_path.iterdir())


def test_the_command(packed: dict[str, Path], tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    done = run(
        "export", packed["raw"], out, "--format", "npz", "--split", "train", "--class", "cat"
    )
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("9 images, ") and done.out.endswith(f": {out}: train.npz\n")
    shown = run("export", packed["raw"], out, "--format", "pt", "--json")
    content = json.loads(shown.out)
    assert content["num_samples"] == 270 and len(content["files"]) == 3
    wrong = run("export", packed["raw"], out, "--format", "nzp")
    assert wrong.status == 2 and "did you mean 'npz'" in wrong.err
    again = run("export", packed["raw"], out, "--format", "npz")
    assert again.status == 1 and "train.npz exists" in again.err


def test_labels_of_the_command(packed: dict[str, Path], tmp_path: Path, run: Run) -> None:
    pets = ["--class", "cat", "--class", "dog", "--labels", "contiguous"]
    assert run("select", packed["raw"], tmp_path / "pets", *pets, "--quiet").status == 0
    assert Dataset(tmp_path / "pets").manifest.classes == ("cat", "dog")
    options = ["--format", "npz", "--labels", "origin", "--label-noise", "0.1", "--split", "test"]
    assert run("export", packed["raw"], tmp_path / "out", *options).status == 0
    content = np.load(tmp_path / "out" / "test.npz")
    true = Dataset(packed["raw"]).columns_of("test")
    origin_of = dict(zip(true.keys.tolist(), true.origin.tolist(), strict=True))
    found = content["classes"][content["labels"]].tolist()
    wrong = sum(origin_of[k] != one for k, one in zip(content["keys"].tolist(), found, strict=True))
    assert wrong == 9
    refused = run("select", packed["raw"], tmp_path / "x", "--labels", "origin")
    assert refused.status == 2 and "only 'contiguous' can be written" in refused.err
