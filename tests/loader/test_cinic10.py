"""``CINIC10``, in place of ImageFolder and CIFAR10."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_demo_tree import make_tree
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Subset as TorchSubset

from cinic_shards import CINIC10, ShardLoader, Subset
from cinic_shards.errors import DecodeError, FormatError, OptionError
from cinic_shards.loader.bench import import_torchvision
from cinic_shards.loader.cache import Cache
from cinic_shards.write.pack import PackOptions, pack

# Torch warns about more workers than cores, and Python about a fork in a process with threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
]


def to_array(image: Any) -> Any:
    return torch.from_numpy(np.array(image))


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
@pytest.mark.parametrize("split", ["test", "train+valid"])
def test_it_replaces_imagefolder(
    encoded_tree: Path, encoded: dict[str, Path], encoding: str, split: str
) -> None:
    import_torchvision()
    from torchvision.datasets import ImageFolder

    folders = [ImageFolder(str(encoded_tree / name)) for name in split.split("+")]
    ours = CINIC10(encoded[encoding], split)
    assert ours.classes == folders[0].classes
    assert ours.class_to_idx == folders[0].class_to_idx
    assert len(ours) == len(ours.targets) == sum(map(len, folders))
    theirs = {
        (split_name, Path(path).stem): (np.asarray(image), label)
        for split_name, folder in zip(split.split("+"), folders, strict=True)
        for (path, _), (image, label) in zip(folder.samples, folder, strict=True)
    }
    columns = ShardLoader(encoded[encoding], split=split, tail="short").dataset.columns
    for position in range(len(ours)):
        image, label = ours[position]
        split_name, _, stem = columns.keys[ours.ids[position]].split("/")
        pixels, expected = theirs.pop((split_name, stem))
        assert isinstance(image, Image.Image) and image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert type(label) is int and label == expected == ours.targets[position]
    assert theirs == {}


def test_transforms_and_indices(encoded: dict[str, Path]) -> None:
    plain = CINIC10(encoded["zstd"], "valid")
    pets = Subset(classes=["cat", "dog"])
    ours = CINIC10(encoded["zstd"], "valid", to_array, lambda label: -label, subset=pets)
    assert len(ours) == 36 and set(ours.targets) == {3, 5}
    image, label = ours[35]
    assert image.shape == (32, 32, 3) and label == -ours.targets[35]
    assert torch.equal(image, ours[-1][0]) and torch.equal(image, ours[np.int64(35)][0])
    position = plain.ids.tolist().index(ours.ids[35])
    assert torch.equal(image, to_array(plain[position][0]))
    for index in (36, -37):
        with pytest.raises(IndexError):
            ours[index]
    assert [label for _, label in ours.__getitems__([3, 3, 0])] == [ours[i][1] for i in (3, 3, 0)]


@pytest.mark.parametrize(
    ("context", "encoding"),
    [
        ("fork", "png"),
        ("fork", "raw"),
        ("fork", "zstd"),
        pytest.param("spawn", "zstd", marks=pytest.mark.real),
        pytest.param("forkserver", "zstd", marks=pytest.mark.real),
    ],
)
def test_dataloader_workers(encoded: dict[str, Path], context: str, encoding: str) -> None:
    subset = Subset(where=lambda c: c.number % 3 > 0)
    data = CINIC10(encoded[encoding], transform=to_array, subset=subset)
    data[0]  # opens the files here before the workers start
    loader = DataLoader(
        TorchSubset(data, range(5, len(data))), 16, num_workers=2, multiprocessing_context=context
    )
    position = 5
    for images, labels in loader:
        for image, label in zip(images, labels, strict=True):
            assert torch.equal(image, data[position][0]) and label == data.targets[position]
            position += 1
    assert position == len(data)


def test_workers_share_the_cache_on_disk(encoded: dict[str, Path], tmp_path: Path) -> None:
    cache = Cache("disk", folder=tmp_path)
    data = CINIC10(encoded["zstd"], transform=to_array, cache=cache)
    expected = [to_array(image) for image, _ in CINIC10(encoded["zstd"])]
    loader = DataLoader(data, 16, num_workers=2, multiprocessing_context="fork")
    assert all(map(torch.equal, torch.cat([images for images, _ in loader]), expected))
    assert list(tmp_path.glob("*/train/pixels"))


def test_it_pickles_without_open_files(encoded: dict[str, Path]) -> None:
    data = CINIC10(encoded["zstd"], subset=Subset(where=lambda columns: columns.number > 100))
    size = len(pickle.dumps(data))
    data[0]
    assert len(pickle.dumps(data)) == size
    again = pickle.loads(pickle.dumps(data))
    assert again.targets == data.targets
    np.testing.assert_array_equal(again[7][0], data[7][0])


def test_a_dataset_that_was_replaced(encoded_tree: Path, tmp_path: Path) -> None:
    pack(encoded_tree, tmp_path / "shards", workers=1)
    data = CINIC10(tmp_path / "shards")
    make_tree(tmp_path / "tree", per_class=18, seed=9)
    pack(tmp_path / "tree", tmp_path / "shards", workers=1, overwrite=True)
    with pytest.raises(FormatError, match="the dataset has changed since the CINIC10 was made"):
        data[0]


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
def test_damage_is_named(encoded_tree: Path, tmp_path: Path, encoding: str) -> None:
    options = PackOptions(encoding=encoding, block_size=16)
    pack(encoded_tree, tmp_path / "shards", options, workers=1)
    data = CINIC10(tmp_path / "shards")
    reader = data._open()[0]
    row = 40
    index = reader._indexes[0]
    payload = row if encoding == "png" else row // 16
    with open(tmp_path / "shards" / reader.shards[0].name, "r+b") as file:
        skip = 128 + (row % 16) * 3072 if encoding == "raw" else 60
        file.seek(int(index.offset[payload]) + skip)
        file.write(b"damage")
    sample = rf"sample 40 \({index.keys[40]}\)"
    with pytest.raises(DecodeError, match=f"train-00000-of-00002.tar: {sample}"):
        CINIC10(tmp_path / "shards")[row]


def test_invalid_options_of_the_dataset(encoded: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="cache='device'"):
        CINIC10(encoded["raw"], cache="device")
    with pytest.raises(OptionError, match="no split 'dev'"):
        CINIC10(encoded["raw"], "dev")
    with pytest.raises(TypeError, match="colour"):
        CINIC10(encoded["raw"], colour="red")
