"""Other labels than the dataset's, in the loaders and in what is written."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cinic_shards import CINIC10, Dataset, ShardIterable, ShardLoader, Subset, export, select
from cinic_shards.errors import CinicShardsError, OptionError


def labels_by_id(batches: Any) -> dict[int, int]:
    return {
        number: label
        for batch in batches
        for number, label in zip(batch.indices.tolist(), batch.labels.tolist(), strict=True)
    }


@pytest.fixture
def shards(packed: dict[str, Path]) -> Path:
    return packed["raw"]


OWN = np.arange(270) % 7


@pytest.mark.parametrize(
    ("labels", "expected", "classes"),
    [
        ("origin", lambda c: np.unique(c.origin, return_inverse=True)[1],
         ["cifar10-test", "cifar10-train", "imagenet"]),
        ("contiguous", lambda c: (c.labels == 5).astype(int), ["cat", "dog"]),
        (OWN, lambda c: OWN[c.ids], None),
        (OWN.tolist(), lambda c: OWN[c.ids], None),
        (lambda c: c.number % 3, lambda c: c.number % 3, None),
        (lambda c: np.full(len(c), 12), lambda c: np.full(len(c), 12), [*map(str, range(13))]),
    ],
)  # fmt: skip
def test_labels(shards: Path, labels: Any, expected: Any, classes: list[str] | None) -> None:
    names = ["cat", "dog"] if isinstance(labels, str) and labels == "contiguous" else None
    subset = Subset(labels=labels, classes=names)
    loader = ShardLoader(shards, "train+test", batch_size=16, subset=subset, tail="short")
    columns = Dataset(shards).columns
    found = labels_by_id(loader)
    ids = np.array(sorted(found))
    wanted = expected(columns.take(ids))
    if isinstance(labels, str) and labels == "origin":  # in the order of the format's list
        order = ["cifar10-train", "cifar10-test", "imagenet"]
        names_of = np.array(sorted(classes or []))[wanted]
        wanted, classes = np.array([order.index(name) for name in names_of]), order
    np.testing.assert_array_equal([found[number] for number in ids.tolist()], wanted)
    assert list(loader.classes) == (classes or list(Dataset(shards).manifest.classes))
    assert loader.dataset.targets == wanted.tolist()
    dataset = CINIC10(shards, "train+test", subset=subset)
    assert dict(zip(dataset.ids.tolist(), dataset.targets, strict=True)) == found
    assert dataset.classes == list(loader.classes)
    if not callable(labels):
        assert labels_by_id(pickle.loads(pickle.dumps(loader))) == found
    shared = ShardIterable(shards, "train+test", batch_size=16, subset=subset, tail="short")
    assert labels_by_id(shared) == found
    plain = ShardLoader(shards, "train+test", batch_size=16, shuffle=False)  # it shares the files
    assert labels_by_id(plain) == {
        number: int(columns.labels[number]) for number in labels_by_id(plain)
    }


def test_a_file_of_labels(shards: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", OWN)
    subset = Subset(labels=tmp_path / "labels.npy", per_class=3)
    found = labels_by_id(ShardLoader(shards, batch_size=8, subset=subset, tail="short"))
    assert len(found) == 30 and found == {number: OWN[number] for number in found}


def noisy(shards: Path, noise: float, seed: int) -> NDArray[np.int64]:
    subset = Subset(label_noise=noise, seed=seed)
    return np.array(CINIC10(shards, "train+valid+test", order="packed", subset=subset).targets)


def test_label_noise(shards: Path) -> None:
    true = Dataset(shards).columns.labels
    one, again, other = noisy(shards, 0.2, 0), noisy(shards, 0.2, 0), noisy(shards, 0.2, 1)
    np.testing.assert_array_equal(one, again)
    assert (one != true).sum() == (other != true).sum() == 54 and (one != other).any()
    more = noisy(shards, 0.5, 0)
    assert set(np.flatnonzero(one != true)) < set(np.flatnonzero(more != true))
    all_wrong = noisy(shards, 1.0, 0)
    assert (all_wrong != true).all()
    steps = np.bincount((all_wrong - true) % 10, minlength=10)[1:]
    assert steps.min() > 10  # 30 on average


def test_a_state_belongs_to_its_labels(shards: Path) -> None:
    plain = ShardLoader(shards, batch_size=8)
    noisy_one = ShardLoader(shards, batch_size=8, subset=Subset(label_noise=0.2))
    ShardLoader(shards, batch_size=8, subset=Subset(label_noise=0.2)).load_state_dict(
        noisy_one.state_dict()
    )
    with pytest.raises(CinicShardsError, match="samples"):
        plain.load_state_dict(noisy_one.state_dict())
    with pytest.raises(CinicShardsError, match="samples"):
        noisy_one.load_state_dict(plain.state_dict())


def test_what_is_written(shards: Path, tmp_path: Path) -> None:
    pets = Subset(classes=["cat", "dog"], labels="contiguous")
    assert select(shards, tmp_path / "pets", subset=pets, workers=1).classes == ("cat", "dog")
    export(shards, tmp_path / "pets-npz", "npz", subset=pets, splits="test")
    content = np.load(tmp_path / "pets-npz" / "test.npz")
    assert content["classes"].tolist() == ["cat", "dog"] and set(content["labels"]) == {0, 1}
    noise = Subset(label_noise=0.2, seed=3)
    with pytest.raises(OptionError, match="only 'contiguous' can be written"):
        select(shards, tmp_path / "noisy", subset=noise)
    export(shards, tmp_path / "noisy-npz", "npz", subset=noise, splits="test")
    found = np.load(tmp_path / "noisy-npz" / "test.npz")
    dataset = CINIC10(shards, "test", subset=noise)
    assert found["labels"].tolist() == dataset.targets


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"labels": "origins"}, "did you mean 'origin'"),
        ({"labels": [1, 2]}, "int64 of shape (2,); expected integers, one for each of the 270 sa"),
        ({"labels": [-1] * 270}, "labels: -1: expected 0 to"),
        ({"labels": lambda c: c.labels[1:]}, "one for each of the 90 chosen samples"),
        ({"labels": lambda c: c.labels * 0.5}, "found float64 of shape (90,)"),
        ({"label_noise": 1.5}, "label_noise=1.5: expected 0 to 1"),
        ({"label_noise": 0.1, "labels": "contiguous", "classes": ["cat"]}, "at least two classes"),
    ],
)
def test_mistakes(shards: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError, match=re.escape(problem)):
        ShardLoader(shards, batch_size=4, subset=Subset(**options))
