"""Columns and payloads by row, and the errors of a reader."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cinic_shards import CINIC10, ShardIterable, ShardLoader, Subset, select, stats, unpack
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import FormatError, OptionError
from cinic_shards.format import MANIFEST_NAME, Manifest
from cinic_shards.loader import bench
from cinic_shards.read.dataset import Dataset, find_split
from cinic_shards.view.montage import show
from cinic_shards.write.select import select_tree


def test_payloads_are_the_files(demo_tree: Path, shards: Path) -> None:
    reader = Dataset(shards).split("valid")
    rows = np.random.default_rng(0).permutation(len(reader))
    payloads = reader.payloads(rows)
    for position, row in enumerate(rows.tolist()):
        path = demo_tree / f"{reader.key(row)}.png"
        assert payloads[position] == path.read_bytes()
        assert Dataset(shards).manifest.classes[reader.labels[row]] == path.parent.name


def test_a_location_names_shard_sample_and_key(shards: Path) -> None:
    reader = Dataset(shards).split("train")
    for row, shard, sample in ((0, 0, 0), (39, 0, 39), (40, 1, 0), (89, 2, 9)):
        location = f"train-0000{shard}-of-00003.tar: sample {sample} ({reader.key(row)})"
        assert reader.locate(row) == location


def test_ids_count_through_the_splits_in_name_order(shards: Path) -> None:
    dataset = Dataset(shards)
    rows = np.arange(3)
    assert dataset.split("test").ids(rows).tolist() == [0, 1, 2]
    assert dataset.split("train").ids(rows).tolist() == [90, 91, 92]
    assert dataset.split("valid").ids(rows).tolist() == [180, 181, 182]


def test_summary_counts(shards: Path) -> None:
    summary = Dataset(shards).summary()
    assert summary["num_samples"] == 270
    for split in summary["splits"].values():
        assert split["num_samples"] == 90 and split["num_shards"] == 3
        assert sum(split["classes"].values()) == sum(split["origins"].values()) == 90
        assert split["image_sizes"] == {"32x32": 90}
        assert split["bytes"] > 90 * 1024


def test_an_unknown_split_is_rejected(shards: Path) -> None:
    with pytest.raises(OptionError, match="no split 'nope'; there is test, train, valid"):
        Dataset(shards).split("nope")


@pytest.mark.parametrize(
    ("known", "name", "found"),
    [
        ("test train valid", "val", "valid"),
        ("test train valid", "validation", "valid"),
        ("test train valid", "dev", "valid"),
        ("dev test train", "valid", "dev"),
        ("train val valid", "val", "val"),  # an exact name wins
        ("train val valid", "valid", "valid"),
        ("train val valid", "dev", "no split 'dev'; it may mean val or valid: give one of these"),
        ("test train", "val", "no split 'val'; there is test, train"),
        ("test train valid", "Val", "no split 'Val'; there is"),
        ("test train valid", "eval", "no split 'eval'; there is"),
    ],
)
def test_names_of_the_validation_split(known: str, name: str, found: str) -> None:
    if " " not in found:
        assert find_split(name, known.split(), "here") == found
        return
    with pytest.raises(OptionError, match=f"^here: {found}"):
        find_split(name, known.split(), "here")


@pytest.mark.parametrize(
    "result",
    [
        lambda shards, name, out: Dataset(shards).split(f"train+{name}").name,
        lambda shards, name, out: Dataset(shards).columns_of(name).keys.tolist(),
        lambda shards, name, out: [split.name for split in Dataset(shards).splits(f"{name}+train")],
        lambda shards, name, out: ShardLoader(shards, split=name, batch_size=10).state_dict(),
        lambda shards, name, out: ShardIterable(shards, split=name, batch_size=10).state_dict(),
        lambda shards, name, out: CINIC10(shards, f"{name}+train").split,
        lambda shards, name, out: len(CINIC10(shards, subset=Subset(exclude_duplicates_of=name))),
        lambda shards, name, out: stats(shards, split=name).to_json(),
        lambda shards, name, out: stats(shards, split=name, origins=["imagenet"]).to_json(),
        lambda shards, name, out: show(shards, f"{out}.png", split=name),
        lambda shards, name, out: unpack(shards, out, splits=name, workers=1),
        lambda shards, name, out: select(shards, out, splits=[name, f"a=train+{name}"], workers=1),
        lambda shards, name, out: select_tree(shards, out, splits=name, workers=1),
    ],
)
def test_every_function_takes_these_names(shards: Path, tmp_path: Path, result: Any) -> None:
    expected = result(shards, "valid", tmp_path / "valid")
    assert result(shards, "dev", tmp_path / "dev") == expected


def test_a_comparison_with_imagefolder_takes_these_names(
    demo_tree: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "IMAGEFOLDER_WORKERS", (0,))
    monkeypatch.setattr(bench, "take_turns", lambda jobs, rounds, before: {})
    options: dict[str, Any] = {"batch_size": 10, "epochs": 1, "normalize": False}
    assert bench.compare(demo_tree, [shards], split="val", **options) == []
    with pytest.raises(OptionError, match=r"split 'train\+valid': ImageFolder reads one split"):
        bench.compare(demo_tree, [shards], split="train+val", **options)


def test_an_index_that_contradicts_the_manifest_is_rejected(shards: Path) -> None:
    """Both files are intact and have valid digests; only their counts differ."""
    path = shards / MANIFEST_NAME
    manifest = Manifest.from_bytes(path.read_bytes(), location="manifest", encodings=ENCODINGS)
    split = manifest.splits[0]
    shard = replace(split.shards[0], num_samples=split.shards[0].num_samples - 1)
    split = replace(split, shards=(shard, *split.shards[1:]), num_samples=split.num_samples - 1)
    first_ids = [0, 89, 179]
    splits = [
        replace(part, first_id=first)
        for part, first in zip([split, *manifest.splits[1:]], first_ids, strict=True)
    ]
    path.write_bytes(replace(manifest, splits=tuple(splits)).to_bytes())
    with pytest.raises(FormatError, match="index: 40 samples, the manifest says 39"):
        Dataset(shards).split("test")


def test_an_index_with_payloads_outside_the_shard_is_rejected(shards: Path) -> None:
    """All digests are valid, but offsets beyond the file must not become addresses."""
    path = shards / MANIFEST_NAME
    manifest = Manifest.from_bytes(path.read_bytes(), location="manifest", encodings=ENCODINGS)
    shard = manifest.splits[0].shards[0]
    file = shards / shard.name
    data = bytearray(file.read_bytes())
    index = slice(shard.index_offset, shard.index_offset + shard.index_length)
    reader = Dataset(shards).split("test")
    offsets = reader._indexes[0].offset.tobytes()
    outside = (reader._indexes[0].offset + np.uint64(2**40)).tobytes()
    del reader
    assert data[index].count(offsets) == 1
    data[index] = data[index].replace(offsets, outside)
    file.write_bytes(data)
    changed = replace(shard, index_sha256=hashlib.sha256(data[index]).hexdigest())
    split = replace(manifest.splits[0], shards=(changed, *manifest.splits[0].shards[1:]))
    path.write_bytes(replace(manifest, splits=(split, *manifest.splits[1:])).to_bytes())
    with pytest.raises(FormatError, match="a payload is outside the shard's first"):
        Dataset(shards).split("test")
