"""Subsets: the samples that each option keeps, the columns, and invalid options."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_demo_tree import make_tree
from numpy.typing import NDArray
from PIL import Image

from cinic_shards import ShardLoader, Subset
from cinic_shards.errors import CinicShardsError, OptionError, StoreError
from cinic_shards.format.provenance import parse_stem
from cinic_shards.loader.cache import Cache
from cinic_shards.read.columns import Columns
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.selection import select
from cinic_shards.write.pack import PackOptions, pack

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """180 images per split, and 8 more in train with pixels of 7 of test: one in another class."""
    root = tmp_path_factory.mktemp("selection") / "tree"
    make_tree(root, per_class=18, seed=4)
    for number, (old, new) in enumerate([("cat", "cat"), ("dog", "cat"), *[("ship", "ship")] * 5]):
        png = sorted((root / "test" / old).iterdir())[number]
        (root / "train" / new / f"n09999999_{number}.png").write_bytes(png.read_bytes())
    with Image.open(sorted((root / "test" / "cat").iterdir())[0]) as image:  # different bytes
        image.save(root / "train" / "cat" / "n09999999_7.png", compress_level=0)
    return root


@pytest.fixture(scope="module")
def shards(tree: Path) -> Path:
    out = tree.parent / "shards"
    pack(tree, out, PackOptions(encoding="zstd", shard_size=50, block_size=16), workers=1)
    return out


def keys_left(shards: Path, split: str, *, loader_seed: int = 0, **subset: Any) -> list[str]:
    """Return the keys that a loader visits, after checking that its images match them."""
    loader = ShardLoader(
        shards, split=split, batch_size=7, tail="short", seed=loader_seed, subset=Subset(**subset)
    )
    columns = loader.dataset.columns
    keys = []
    for batch in loader:
        keys += columns.keys[batch.indices.numpy()].tolist()
        np.testing.assert_array_equal(columns.labels[batch.indices], batch.labels)
        for image, key in zip(batch.images, keys[-batch.num_samples :], strict=True):
            with Image.open(shards.parent / "tree" / f"{key}.png") as png:
                expected = np.asarray(png.convert("RGB")).transpose(2, 0, 1)
            np.testing.assert_array_equal(image, expected)
    assert len(keys) == loader.num_samples and len(set(keys)) == len(keys)
    return sorted(keys)


def all_keys(tree: Path, *splits: str) -> list[str]:
    return sorted(
        str(path.relative_to(tree).with_suffix(""))
        for split in splits
        for path in (tree / split).glob("*/*.png")
    )


def origin(key: str) -> str:
    return parse_stem(key.split("/")[2]).origin


def test_columns_match_the_file_names(tree: Path, shards: Path) -> None:
    columns = Dataset(shards).columns
    assert len(columns) == 548 and sorted(columns.keys) == all_keys(tree, "test", "train", "valid")
    classes = sorted(path.name for path in (tree / "train").iterdir())
    for row, key in enumerate(columns.keys.tolist()):
        split, class_name, stem = key.split("/")
        said = columns.origin[row], columns.synset[row], columns.number[row]
        assert said == parse_stem(stem)
        assert (columns.split[row], classes[columns.labels[row]]) == (split, class_name)
    ids = torch.tensor([3, 400])
    assert columns.origin[ids].tolist() == [columns.origin[3], columns.origin[400]]


@pytest.mark.parametrize("split", ["train+valid", "valid+train", "test+valid", "test+train+valid"])
def test_several_splits(tree: Path, shards: Path, split: str) -> None:
    assert keys_left(shards, split) == all_keys(tree, *split.split("+"))
    ids = [i for batch in ShardLoader(shards, split=split, shuffle=False) for i in batch.indices]
    assert ids == sorted(ids)


def test_the_order_of_names_does_not_matter(shards: Path) -> None:
    one, other = (
        ShardLoader(shards, split=s, batch_size=8) for s in ("train+valid", "valid+train")
    )
    assert one.state_dict() == other.state_dict()


@pytest.mark.parametrize(
    ("subset", "is_left"),
    [
        ({"classes": ["cat", "ship"]}, lambda key: key.split("/")[1] in ("cat", "ship")),
        ({"origin": "cifar"}, lambda key: origin(key).startswith("cifar10-")),
        ({"origin": "cifar10"}, lambda key: origin(key).startswith("cifar10-")),
        ({"origin": "cifar-train"}, lambda key: origin(key) == "cifar10-train"),
        ({"origin": "imagenet"}, lambda key: origin(key) == "imagenet"),
        ({"origin": ["imagenet", "cifar10-test"]}, lambda key: origin(key) != "cifar10-train"),
        ({"where": lambda columns: columns.number % 2 == 1}, lambda key: int(key[-1]) % 2 == 1),
        (
            {"classes": ["dog"], "origin": "cifar", "where": lambda c: c.number > 9000},
            lambda key: (
                "/dog/" in key
                and origin(key).startswith("cifar10-")
                and parse_stem(key.split("/")[2]).number > 9000
            ),
        ),
    ],
)
@pytest.mark.parametrize("split", ["train", "test+valid"])
def test_filters(
    tree: Path, shards: Path, subset: dict[str, Any], is_left: Any, split: str
) -> None:
    every = all_keys(tree, *split.split("+"))
    expected = [key for key in every if is_left(key)]
    assert 0 < len(expected) < len(every)
    assert keys_left(shards, split, **subset) == expected


def test_duplicates_of_another_split_are_left_out(tree: Path, shards: Path) -> None:
    assert [key for key in all_keys(tree, "train") if "/n09999999_" not in key] == keys_left(
        shards, "train", exclude_duplicates_of="test"
    )
    assert len(keys_left(shards, "train", exclude_duplicates_of="valid")) == 188
    assert len(keys_left(shards, "train", exclude_duplicates_of="valid+test")) == 180


def test_a_fraction_if_a_split_has_no_sample(tree: Path, shards: Path) -> None:
    chosen = keys_left(
        shards, "train+valid", fraction=0.5, where=lambda columns: columns.split == "train"
    )
    expected = keys_left(shards, "train", fraction=0.5)
    assert chosen == expected and 0 < len(chosen) < len(all_keys(tree, "train"))


def test_a_fraction_of_each_class_of_each_split(shards: Path) -> None:
    keys = keys_left(shards, "train+valid", fraction=0.3, exclude_duplicates_of="test")
    counts = Counter(tuple(key.split("/")[:2]) for key in keys)
    assert set(counts.values()) == {5} and len(counts) == 20
    less = keys_left(shards, "train+valid", fraction=0.1, exclude_duplicates_of="test")
    assert set(less) < set(keys)
    assert keys == keys_left(shards, "train+valid", fraction=0.3, exclude_duplicates_of="test")
    other = keys_left(shards, "train+valid", fraction=0.3, seed=1, exclude_duplicates_of="test")
    assert len(other) == len(keys) and other != keys
    assert len(keys_left(shards, "test", fraction=1e-9)) == 10  # one of each class
    # A different order, but the same subset.
    assert keys == keys_left(
        shards, "train+valid", fraction=0.3, exclude_duplicates_of="test", loader_seed=9
    )


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ({"classes": ["cat", "cow"]}, "no class 'cow'; there is airplane, automobile"),
        ({"classes": "cat"}, "classes='cat': expected a list of strings or None"),
        ({"classes": np.array(["cow"])}, "no class .*'cow'"),
        ({"origin": "moon"}, "no origin 'moon'; expected one of cifar, cifar-train"),
        ({"origin": "cifar-valid"}, "no origin 'cifar-valid'"),
        ({"fraction": 0}, "more than 0 and at most 1"),
        ({"fraction": 1.5}, "more than 0 and at most 1"),
        ({"fraction": float("nan")}, "expected a finite number"),
        ({"fraction": "0.1"}, "expected a finite number"),
        ({"fraction": 0.5, "seed": 1.5}, "expected an integer"),
        ({"where": "x"}, "expected a function or None"),
        ({"exclude_duplicates_of": "nope"}, "no split 'nope'"),
        ({"exclude_duplicates_of": "dev+valid"}, "valid is named twice"),
        ({"ids": [180, 5, 6]}, "ids: 2 of 3 are not in train: 5, 6; give positions in the dataset"),
        ({"ids": [180, -1, 10**30]}, "ids: 2 of 3 are not in train: -1, 1000"),
        ({"ids": [180, 181, 180, 180]}, "ids: duplicate ids: 180; give each once"),
        ({"ids": [180.0]}, r"ids=\[180.0\]: expected a list of integers or None"),
        ({"ids": np.array([True, False])}, "expected a list of integers or None"),
        ({"ids": np.array([[180]])}, "expected a list of integers or None"),
        ({"ids": 180}, "expected a list of integers or None"),
        ({"ids": []}, r"no sample of train is left by ids=\(\)"),
        ({"ids": range(180, 220), "origin": "unknown"}, r"left by origin='unknown', ids=\(180, "),
        (
            {"exclude_duplicates_of": "valid+train"},
            "other than those that are read, train",
        ),
        ({"origin": "unknown"}, "no sample of train is left by origin='unknown'"),
        ({"classes": []}, r"no sample of train is left by classes=\(\)"),
        ({"where": lambda columns: columns.number}, r"int64 of shape \(188,\); expected"),
        ({"where": lambda columns: columns.number[:3] > 0}, r"bool of shape \(3,\); expected"),
        ({"where": lambda columns: True}, "expected a numpy array of bool"),
    ],
)
def test_invalid_options_are_rejected(shards: Path, subset: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ShardLoader(shards, split="train", subset=Subset(**subset))


@pytest.mark.parametrize("split", ["", "train+", "+", "train+train", "train,valid", "all"])
def test_invalid_splits_are_rejected(shards: Path, split: str) -> None:
    with pytest.raises(OptionError, match="split"):
        ShardLoader(shards, split=split)


def test_commas_do_not_join_splits(shards: Path) -> None:
    with pytest.raises(OptionError, match=r"no split 'train,valid'; .*; join splits with \+"):
        ShardLoader(shards, split="train,valid")


@pytest.mark.parametrize("ids", [list, tuple, np.array, torch.tensor, set])
def test_ids_choose_samples_of_the_dataset(shards: Path, ids: Any) -> None:
    columns = Dataset(shards).columns
    chosen = [400, 183, 366]
    keys = keys_left(shards, "train+val", ids=ids(chosen))
    assert keys == sorted(columns.keys[chosen])
    first = keys_left(shards, "train", ids=ids([183, 200]), where=lambda c: c.ids == 200)
    assert first == [columns.keys[200]]


def test_columns_have_ids(shards: Path) -> None:
    dataset = Dataset(shards)
    assert dataset.columns.ids.tolist() == list(range(548))
    of_valid = dataset.columns_of("valid")
    assert of_valid.ids.tolist() == list(range(368, 548))
    assert of_valid.take(np.array([5, 3])).ids.tolist() == [373, 371]
    reader = dataset.split("test+valid")
    assert reader.columns.ids.tolist() == [*range(180), *range(368, 548)]
    assert reader.keys == reader.columns.keys.tolist()


def test_where_gets_the_columns_of_the_splits_that_are_read(shards: Path) -> None:
    seen: list[Columns] = []

    def where(columns: Columns) -> NDArray[np.bool_]:
        seen.append(columns)
        return columns.split == "valid"

    loader = ShardLoader(shards, split="train+valid", subset=Subset(where=where), tail="short")
    assert loader.num_samples == 180
    assert [len(columns) for columns in seen] == [368]


def test_blocks_without_a_selected_sample_are_not_read(shards: Path) -> None:
    dataset = Dataset(shards)
    reader = dataset.split("train")
    first = reader.columns.keys[reader.block_starts[5]]
    subset = Subset(where=lambda c: c.keys == first)
    chosen = select(dataset, reader, subset)
    assert chosen.blocks.tolist() == [5] and chosen.block_starts.tolist() == [0, 1]
    loader = ShardLoader(shards, batch_size=1, subset=subset, check="off")
    (batch,) = loader
    assert loader.dataset.columns.keys[batch.indices.numpy()].tolist() == [first]
    stats = loader.stats()
    assert stats.blocks_decoded == 1
    assert stats.bytes_read == int(reader.payloads(np.array([5])).lengths[0])


@pytest.mark.parametrize("cache", ["none", "ram", "disk", "device"])
def test_a_subset_in_every_cache(shards: Path, tmp_path: Path, cache: Any) -> None:
    subset = Subset(classes=["frog"], origin="imagenet")
    options: dict[str, Any] = {"batch_size": 5, "subset": subset}
    expected = list(ShardLoader(shards, **options))
    folder = tmp_path if cache == "disk" else None
    loader = ShardLoader(shards, cache=Cache(cache, folder=folder), **options)
    for _ in range(2):
        loader.set_epoch(0)
        for one, other in zip(expected, loader, strict=True):
            assert torch.equal(one.indices, other.indices)
            assert torch.equal(one.images, other.images)
    assert (loader.stats().blocks_decoded == 0) == (cache != "none")


def folder_files(tree: Path, *splits: str) -> list[str]:
    """Keys in the order of ImageFolder, or of several joined by ConcatDataset."""
    return [
        str(path.relative_to(tree).with_suffix(""))
        for split in splits
        for folder in sorted((tree / split).iterdir())
        for path in sorted(folder.iterdir(), key=lambda path: path.name)
    ]


INDEX_FILES = {
    "list": lambda path, values: values,
    "array": lambda path, values: np.array(values),
    "json": lambda path, values: write(path, str(values)),
    "text": lambda path, values: write(path, "\n".join(map(str, values)) + "\n"),
    "npy": lambda path, values: save(path.with_suffix(".npy"), np.array(values, np.int32)),
}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def save(path: Path, array: NDArray[Any]) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize("form", INDEX_FILES)
@pytest.mark.parametrize("split", ["train", "valid+train"])
def test_indices_are_imagefolders(
    tree: Path, shards: Path, tmp_path: Path, split: str, form: str
) -> None:
    files = folder_files(tree, *split.split("+"))
    indices = [len(files) - 1, 0, 17, 100]
    given = INDEX_FILES[form](tmp_path / "list", indices)
    assert keys_left(shards, split, indices=given) == sorted(files[index] for index in indices)


@pytest.mark.parametrize("form", ["keys", "files", "paths", "windows", "short", "json", "file"])
def test_keys_and_file_names(tree: Path, shards: Path, tmp_path: Path, form: str) -> None:
    chosen = folder_files(tree, "train")[3:90:7]
    given: Any = {
        "keys": chosen,
        "files": [f"{key}.png" for key in chosen],
        "paths": [str(tree / f"{key}.png") for key in chosen],
        "windows": [f"C:\\data\\{key}.png".replace("/", "\\") for key in chosen],
        "short": [key.partition("/")[2] for key in chosen],
        "json": write(tmp_path / "list.json", str(chosen).replace("'", '"')),
        "file": write(tmp_path / "list.txt", "\r\n".join(chosen) + "\n\n"),
    }[form]
    assert keys_left(shards, "train", keys=given) == sorted(chosen)


def test_deduplicate_keeps_the_first_of_equal_pixels(tree: Path, shards: Path) -> None:
    columns = Dataset(shards).columns
    assert len(np.unique(columns.pixel_hash)) == 540  # 8 copies; see the fixture
    for split, copies in (("train", 1), ("train+test", 8), ("valid", 0)):
        everything = all_keys(tree, *split.split("+"))
        left = keys_left(shards, split, deduplicate=True)
        assert len(left) == len(everything) - copies
        dropped = set(everything) - set(left)
        assert all("n09999999" in key for key in dropped)  # test comes first
    cats = keys_left(shards, "train+test", deduplicate=True, classes=["cat"])
    assert len(cats) == 36 + 3 - 2  # of the copies, that of a dog stays


def test_a_number_of_samples_of_each_class(shards: Path) -> None:
    four = keys_left(shards, "train+valid", per_class=4, seed=3)
    assert Counter(key.split("/")[1] for key in four) == dict.fromkeys(CLASSES, 4)
    nine = keys_left(shards, "train+valid", per_class=9, seed=3)
    assert set(four) < set(nine)
    assert set(four) != set(keys_left(shards, "train+valid", per_class=4, seed=4))
    both = keys_left(shards, "train", per_class=6, imbalance=3.0, classes=["cat", "dog", "ship"])
    assert Counter(key.split("/")[1] for key in both) == {"cat": 6, "dog": 3, "ship": 2}


@pytest.mark.parametrize("imbalance", [1, 2.5, 10, 100, 1e6])
def test_a_long_tail(shards: Path, imbalance: float) -> None:
    found = Counter(key.split("/")[1] for key in keys_left(shards, "valid", imbalance=imbalance))
    expected = [max(1, int(18 * imbalance ** (-i / 9) + 1e-9)) for i in range(10)]
    assert [found[name] for name in CLASSES] == expected


def test_a_long_tail_has_the_published_sizes() -> None:
    from cinic_shards.read.subset import _long_tail

    # CIFAR-10-LT: https://github.com/kaidic/LDAM-DRW, 5,000 images a class
    assert _long_tail([5000] * 10, 100) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert _long_tail([9000] * 10, 1000)[6] == 90  # floats say 89.99...


@pytest.mark.parametrize(
    ("subset", "problem"),
    [
        ({"indices": [0, 188]}, "indices: 1 of 2 are out of range: 188; train has 188 samples"),
        ({"indices": [-1]}, "1 of 1 are out of range: -1"),
        ({"indices": [4, 4]}, "indices: duplicate indices: 4"),
        ({"indices": [0.5]}, "indices=[0.5]: expected a list of integers, a string, a path"),
        ({"keys": ["train/cat/x"]}, "keys: 1 of 1 name no sample of train, or several: "),
        ({"per_class": 40}, "per_class=40: class airplane has 18 samples left"),
        ({"per_class": 0}, "per_class=0: expected an integer, at least 1"),
        ({"imbalance": 0.5}, "imbalance=0.5: expected 1 to 1,000,000"),
        ({"part": 3}, "partition and part: give both or none"),
    ],
)
def test_invalid_choices(shards: Path, subset: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError, match=re.escape(problem)):
        ShardLoader(shards, batch_size=2, subset=Subset(**subset))


@pytest.mark.parametrize(
    ("option", "content", "problem"),
    [
        ("indices", b"1\n1\n", "duplicate indices: 1"),
        ("indices", b"1\nx\n", "expected indices: a list in JSON"),
        ("indices", b"[1, true]", "a value is not an integer"),
        ("indices", b"\x93NUMPY", "expected indices"),
        ("keys", b"\xff", "expected names: a list in JSON, or text"),
        ("keys", b"[1]", "a value is not a text"),
        ("keys", b"", "no sample of train is left by keys="),
    ],
)
def test_lists_with_a_mistake(
    shards: Path, tmp_path: Path, option: str, content: bytes, problem: str
) -> None:
    path = tmp_path / "list"
    path.write_bytes(content)
    with pytest.raises(CinicShardsError, match=re.escape(problem)):
        ShardLoader(shards, batch_size=2, subset=Subset(**{option: path}))
    path.unlink()
    with pytest.raises(StoreError, match="list: No such file"):
        ShardLoader(shards, batch_size=2, subset=Subset(**{option: path}))
