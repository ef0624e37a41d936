"""Duplicates: images with the same pixels are found, even if their files differ."""

from pathlib import Path

import numpy as np
import pytest

from cinic_shards.read.dataset import Dataset
from cinic_shards.view.duplicates import find_duplicates
from cinic_shards.write.pack import PackOptions, pack
from tests.support.odd_pngs import RGB, encode_png

COLOURS = np.random.default_rng(0).integers(0, 256, (30, 4, 5, 3), np.int64)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Shards of numbered images; the same number means the same pixels."""
    layout = {
        "train/cat": [0, 1, 2, 2, 3],
        "train/dog": [4, 5, 5, 5, 0],
        "test/cat": [1, 6, 7],
        "test/dog": [8, 5, 9],
        "valid/cat": [1, 10],
    }
    for folder, numbers in layout.items():
        (tmp_path / "tree" / folder).mkdir(parents=True)
        for place, number in enumerate(numbers):
            # A different filter gives different bytes for the same pixels.
            data = encode_png(COLOURS[number], RGB, 8, filters=[place % 5] * 4)
            (tmp_path / "tree" / folder / f"{place}-{number}.png").write_bytes(data)
    pack(tmp_path / "tree", tmp_path / "out", PackOptions(shard_size=3), workers=1,
         warn=lambda text: None)  # fmt: skip
    return tmp_path / "out"


def test_duplicates(shards: Path) -> None:
    dataset = Dataset(shards)
    found = find_duplicates(dataset.store, dataset.manifest)
    assert sorted(tuple(sorted(group)) for group in found.groups) == [
        ("test/cat/0-1", "train/cat/1-1", "valid/cat/0-1"),
        ("test/dog/1-5", "train/dog/1-5", "train/dog/2-5", "train/dog/3-5"),
        ("train/cat/0-0", "train/dog/4-0"),
        ("train/cat/2-2", "train/cat/3-2"),
    ]
    first_of_0 = next(g for g in found.groups if any(key.endswith("-0") for key in g))[0]
    counts = found.counts
    assert counts["other class"] == {"train": 1}
    assert counts["dog"].get("test & train") == 1
    assert counts["cat"]["test & train"] == 1 and counts["cat"]["train & valid"] == 1
    assert counts["cat"]["test & valid"] == 1
    in_train = {name: row.get("train", 0) for name, row in counts.items()}
    of_0 = first_of_0.split("/")[1]
    assert in_train == {
        "cat": 1 + (of_0 == "cat"),
        "dog": 1 + (of_0 == "dog"),
        "other class": 1,
    }


def test_no_duplicates(tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / "tree" / "train" / "cat" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(COLOURS[number], RGB, 8))
    pack(tmp_path / "tree", tmp_path / "out", workers=1, warn=lambda text: None)
    dataset = Dataset(tmp_path / "out")
    found = find_duplicates(dataset.store, dataset.manifest)
    assert found.groups == () and found.counts == {}
