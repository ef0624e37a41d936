"""``CINIC10`` has the samples of torchvision's ImageFolder, in its order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, random_split

from cinic_shards import CINIC10, Dataset, Partition, ShardLoader, Subset
from cinic_shards.loader.bench import import_torchvision
from tests.acceptance.trees import Record, Tree


def imagefolders(tree: Tree, splits: Sequence[str]) -> list[Any]:
    """ImageFolder of each split, by torchvision."""
    import_torchvision()
    from torchvision.datasets import ImageFolder

    return [ImageFolder(str(tree.folder / split)) for split in splits]


@pytest.mark.parametrize("encoding", ["png", "zstd"])
def test_samples_are_imagefolders(tree: Tree, encoding: str, record_property: Record) -> None:
    """Does `CINIC10` have ImageFolder's names, labels and pixels, in ImageFolder's order?"""
    row_of = {key: row for row, key in enumerate(tree.keys)}
    counts = {}
    for split in sorted({key.partition("/")[0] for key in tree.keys}):
        (theirs,) = imagefolders(tree, [split])
        ours = CINIC10(tree.packed(encoding), split)
        samples = [(str(tree.folder / name), label) for name, label in ours.samples]
        assert samples == theirs.samples
        assert ours.targets == theirs.targets and ours.class_to_idx == theirs.class_to_idx
        rows = [row_of[name.removesuffix(".png")] for name, _ in ours.samples]
        for start in range(0, len(rows), 10_000):
            part = slice(start, start + 10_000)
            assert np.array_equal(ours.data[part], tree.pixels[rows[part]])
        counts[split] = len(samples)
    record_property("samples", counts)
    assert sum(counts.values()) == len(tree.keys)


def test_seeded_splits_are_imagefolders(tree: Tree, record_property: Record) -> None:
    """Does a seeded `random_split` of `CINIC10` hold the files of one of ImageFolder?"""
    theirs: ConcatDataset[Any] = ConcatDataset(imagefolders(tree, ["train", "valid"]))
    paths = [path for folder in theirs.datasets for path, _ in folder.samples]
    ours = CINIC10(tree.packed(), "train+valid")
    for seed in range(3):
        parts, their_parts = (
            random_split(data, [0.5, 0.3, 0.2], torch.Generator().manual_seed(seed))
            for data in (ours, theirs)
        )
        for part, their_part in zip(parts, their_parts, strict=True):
            names = [str(tree.folder / ours.samples[index][0]) for index in part.indices]
            assert names == [paths[index] for index in their_part.indices]
            (image, label), (their_image, their_label) = part[0], their_part[0]
            assert label == their_label and np.array_equal(image, their_image)
    record_property("samples", len(paths))


def test_published_indices_are_imagefolders(tree: Tree, record_property: Record) -> None:
    """Do indices into ImageFolder's `test`, as papers publish them, choose the same files?

    Every index is in one of three parts, as a list, and as FedML's text of all three.
    """
    (theirs,) = imagefolders(tree, ["test"])
    shards = tree.packed("raw")
    columns = Dataset(shards).columns
    order = np.random.default_rng(0).permutation(len(theirs.samples))
    text = tree.scratch / "net_dataidx_map.txt"
    parts = np.array_split(order, 3)
    lists = (f"{n}: [\n{', '.join(map(str, part.tolist()))}\n]" for n, part in enumerate(parts))
    text.write_text("{\n" + ",\n".join(lists) + "\n}\n")
    partition = Partition.read_indices(text, Dataset(shards), "test")
    seen = 0
    for number, part in enumerate(parts):
        expected = sorted(theirs.samples[index][0] for index in part.tolist())
        for subset in (Subset(indices=part), Subset(partition=partition, part=number)):
            loader = ShardLoader(shards, "test", subset=subset, tail="short")
            ids = np.concatenate([batch.indices.numpy() for batch in loader])
            names = sorted(f"{tree.folder / key}.png" for key in columns.keys[ids].tolist())
            assert names == expected
        seen += len(part)
    assert seen == len(theirs.samples)
    record_property("indices", seen)
