"""Columns and payloads by row, and the errors of a reader."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import FormatError, OptionError
from cinic_shards.format import MANIFEST_NAME, Manifest
from cinic_shards.read.dataset import Dataset


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
    with pytest.raises(OptionError, match="no split 'dev'; there is test, train, valid"):
        Dataset(shards).split("dev")


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
