"""``CINIC10``, in place of ImageFolder and CIFAR10."""

import copy
import pickle
import rlcompleter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_demo_tree import make_tree
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, random_split
from torch.utils.data import Subset as TorchSubset

from cinic_shards import CINIC10, Subset
from cinic_shards.errors import DecodeError, FormatError, OptionError
from cinic_shards.loader.bench import import_torchvision
from cinic_shards.loader.cache import Cache
from cinic_shards.read.dataset import Dataset
from cinic_shards.write.pack import PackOptions, pack

# Torch warns about more workers than cores, and Python about a fork in a process with threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
]


def to_array(image: Any) -> Any:
    return torch.from_numpy(np.array(image))


def imagefolders(tree: Path, splits: str) -> list[Any]:
    """Torchvision's ImageFolder of each split."""
    import_torchvision()
    from torchvision.datasets import ImageFolder

    return [ImageFolder(str(tree / name)) for name in splits.split("+")]


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
@pytest.mark.parametrize("split", ["test", "train+valid", "valid+train"])
def test_it_replaces_imagefolder(
    encoded_tree: Path, encoded: dict[str, Path], encoding: str, split: str
) -> None:
    folders = imagefolders(encoded_tree, split)
    theirs: ConcatDataset[Any] = ConcatDataset(folders)
    ours = CINIC10(encoded[encoding], split)
    assert ours.classes == folders[0].classes
    assert ours.class_to_idx == folders[0].class_to_idx
    samples = [(str(encoded_tree / name), label) for name, label in ours.samples]
    assert samples == [sample for folder in folders for sample in folder.samples]
    assert ours.imgs is ours.samples
    assert ours.targets == [label for folder in folders for label in folder.targets]
    assert len(ours) == len(theirs) == len(ours.data)
    columns = Dataset(encoded[encoding]).columns
    assert [f"{key}.png" for key in columns.keys[ours.ids]] == [name for name, _ in ours.samples]
    again = CINIC10(encoded[encoding], split)  # decodes one by one; ``ours`` has ``data``
    for position, (image, label) in enumerate(theirs):
        pixels = np.asarray(image)
        np.testing.assert_array_equal(ours.data[position], pixels)
        for found, found_label in (ours[position], again[position]):
            assert isinstance(found, Image.Image) and found.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(found), pixels)
            assert type(found_label) is int and found_label == label


STEMS = [
    "a",
    "a-1",
    "a1",
    "a_1",
    "A",
    "a 1",
    "10",
    "9",
    "~",
    "a\u00e4",
    "z\u00e9",
    "\U0001f600",
    "\ufb01",
]


def test_names_are_sorted_as_imagefolder_sorts_them(tmp_path: Path) -> None:
    """With the suffix, by code points; and classes of which one's name begins with the other's."""
    for name in ("cat", "cat-2", "Cat", "cat2"):
        folder = tmp_path / "tree" / "train" / name
        folder.mkdir(parents=True)
        for number, stem in enumerate(STEMS):
            Image.new("RGB", (4, 4), (number, len(name), 0)).save(folder / f"{stem}.png")
    pack(tmp_path / "tree", tmp_path / "shards", PackOptions(shard_size=9), workers=1, warn=list)
    (theirs,) = imagefolders(tmp_path / "tree", "train")
    ours = CINIC10(tmp_path / "shards")
    assert [
        (str(tmp_path / "tree" / name), label) for name, label in ours.samples
    ] == theirs.samples


def test_the_order_of_packing(encoded: dict[str, Path]) -> None:
    chosen = Subset(fraction=0.5)
    ours = CINIC10(encoded["zstd"], "valid+train", order="packed", subset=chosen)
    sorted_ = CINIC10(encoded["zstd"], "valid+train", subset=chosen)
    assert ours.ids.tolist() == sorted(sorted_.ids.tolist()) != sorted_.ids.tolist()
    assert sorted(ours.samples) == sorted(sorted_.samples)
    assert ours.split == "valid+train"
    reader = Dataset(encoded["zstd"]).split("train+valid")
    assert ours.targets == reader.labels[np.isin(reader.ids(np.arange(360)), ours.ids)].tolist()


def test_indices_of_imagefolder_choose_the_same_images(
    encoded_tree: Path, encoded: dict[str, Path]
) -> None:
    (theirs,) = imagefolders(encoded_tree, "train")
    ours = CINIC10(encoded["zstd"])
    ours_parts, their_parts = (
        random_split(data, [100, 50, 30], torch.Generator().manual_seed(7))
        for data in (ours, theirs)
    )
    published = TorchSubset(ours, [170, 3, 4, 99]), TorchSubset(theirs, [170, 3, 4, 99])
    for part, their_part in (published, *zip(ours_parts, their_parts, strict=True)):
        names = [Path(ours.samples[i][0]).name for i in part.indices]
        assert names == [Path(theirs.samples[i][0]).name for i in their_part.indices]
        for (image, label), (their_image, their_label) in zip(part, their_part, strict=True):
            assert label == their_label and image.tobytes() == their_image.tobytes()


def test_train_as_in_cifar10(encoded: dict[str, Path]) -> None:
    assert CINIC10(encoded["raw"]).split == CINIC10(encoded["raw"], train=True).split == "train"
    assert CINIC10(encoded["raw"], train=False).split == "test"
    for split, train in (("train", True), ("test", False), ("valid", False)):
        with pytest.raises(OptionError, match=f"split='{split}' and train={train}: give one"):
            CINIC10(encoded["raw"], split, train=train)


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
def test_tensors_for_v2_transforms(encoded: dict[str, Path], encoding: str) -> None:
    import_torchvision()
    from torchvision.transforms import v2

    images = CINIC10(encoded[encoding], "test").data
    plain = CINIC10(encoded[encoding], "test", loader="tensor")
    image, label = plain[7]
    assert type(image) is torch.Tensor and image.dtype == torch.uint8 and image.is_contiguous()
    assert torch.equal(image, torch.from_numpy(images[7]).permute(2, 0, 1)) and label == 0
    mean, std = [0.47, 0.46, 0.43], [0.24, 0.24, 0.26]
    transform = v2.Compose([
        v2.RandomCrop(32, padding=4, padding_mode="reflect"), v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std),
    ])  # fmt: skip
    ours = CINIC10(encoded[encoding], "test", transform, loader="tensor")
    torch.manual_seed(3)
    (found, labels), *_ = DataLoader(ours, 20)
    torch.manual_seed(3)
    torch.empty((), dtype=torch.int64).random_()  # the DataLoader's seed
    expected = torch.stack([transform(plain[i][0]) for i in range(20)])
    assert torch.equal(found, expected) and labels.tolist() == ours.targets[:20]


def test_changed_pixels_and_labels_take_effect(encoded: dict[str, Path]) -> None:
    data = CINIC10(encoded["zstd"], "test", loader="tensor")
    data.data[5, :3] = 255
    data.targets[5] = 9
    for one in (data, pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        image, label = one[5]
        assert label == 9 and (image[:, :3] == 255).all() and (image[:, 3:] != 255).any()
    image.zero_()  # a copy
    assert data.data[5].any()
    for name in ("data", "samples", "imgs"):  # in CIFAR10 and ImageFolder this chooses samples
        with pytest.raises(AttributeError, match=name):
            setattr(data, name, getattr(data, name)[:9])


def test_a_line_about_it(encoded: dict[str, Path]) -> None:
    data = CINIC10(encoded["zstd"], "val", loader="tensor", transform=torch.nn.Identity())
    assert repr(data) == (
        f"CINIC10({str(encoded['zstd'])!r}, 'valid', loader='tensor', order='folder'): "
        "180 samples of 10 classes"
    )
    assert {
        "samples", "imgs", "targets", "data", "classes", "class_to_idx", "ids", "root", "split",
        "transform", "target_transform",
    } <= {*dir(data)}  # fmt: skip


def test_tab_completion_decodes_nothing(encoded: dict[str, Path]) -> None:
    data = CINIC10(encoded["zstd"])
    found = rlcompleter.Completer({"data": data}).attr_matches("data.")
    assert {"data.data", "data.samples"} <= {name.rstrip("(") for name in found}
    assert data._data is data._samples is data._opened is None


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
    names = data.samples
    assert len(pickle.dumps(data)) == size
    for again in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data), copy.copy(data)):
        assert again.targets == data.targets and again.samples == names
        np.testing.assert_array_equal(again.ids, data.ids)
        np.testing.assert_array_equal(again[7][0], data[7][0])


def test_a_dataset_that_was_replaced(encoded_tree: Path, tmp_path: Path) -> None:
    pack(encoded_tree, tmp_path / "shards", workers=1)
    data = CINIC10(tmp_path / "shards")
    make_tree(tmp_path / "tree", per_class=18, seed=9)
    pack(tmp_path / "tree", tmp_path / "shards", workers=1, overwrite=True)
    uses: list[Any] = [lambda: data[0], lambda: data.samples, lambda: data.data]
    for use in uses:
        with pytest.raises(FormatError, match="the dataset has changed since the CINIC10 was made"):
            use()


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
def test_damage_is_named(encoded_tree: Path, tmp_path: Path, encoding: str) -> None:
    options = PackOptions(encoding=encoding, block_size=16, shards=2)
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
    damaged = CINIC10(tmp_path / "shards")
    position = damaged.ids.tolist().index(reader.ids(np.array([row]))[0])
    with pytest.raises(DecodeError, match=f"train-00000-of-00002.tar: {sample}"):
        damaged[position]
    with pytest.raises(FormatError, match=r"split train: (1|16) images cannot be .*\n  train-00"):
        _ = damaged.data


def test_invalid_options_of_the_dataset(encoded: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="cache='device'"):
        CINIC10(encoded["raw"], cache="device")
    with pytest.raises(OptionError, match="no split 'nope'"):
        CINIC10(encoded["raw"], "nope")
    with pytest.raises(OptionError, match="no split ''"):
        CINIC10(encoded["raw"], "")
    with pytest.raises(OptionError, match="loader='numpy': expected one of pil, tensor"):
        CINIC10(encoded["raw"], loader="numpy")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="order='window': expected one of folder, packed"):
        CINIC10(encoded["raw"], order="window")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="colour"):
        CINIC10(encoded["raw"], colour="red")
