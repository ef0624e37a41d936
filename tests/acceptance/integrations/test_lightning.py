"""Batches in Lightning's precisions and in its CombinedLoader; resuming is in test_resume.py."""

from pathlib import Path

import pytest

from cinic_shards import ShardLoader
from tests.acceptance.integrations.test_resume import Seen, needs, run
from tests.acceptance.trees import Tree

DTYPES = {
    "32-true": "torch.float32",
    "bf16-true": "torch.bfloat16",
    "64-true": "torch.float64",
    "bf16-mixed": "torch.float32",
}


@pytest.fixture(scope="module")
def shards(small_tree: Tree) -> Path:
    return small_tree.packed("zstd")


@pytest.fixture(scope="module")
def seen(shards: Path) -> Seen:
    needs("lightning")
    return run("lightning_precision.py", shards)


def ids(shards: Path, split: str) -> list[list[int]]:
    return [batch.indices.tolist() for batch in ShardLoader(shards, split, batch_size=100)]


@pytest.mark.parametrize("precision", DTYPES)
def test_lenet_in_every_precision(shards: Path, seen: Seen, precision: str) -> None:
    """Lightning converts the images and keeps the rest of the batch."""
    assert seen.facts[precision] == [[DTYPES[precision]], ids(shards, "valid")]


def test_a_combined_loader(shards: Path, seen: Seen) -> None:
    pairs = zip(ids(shards, "train"), ids(shards, "valid"), strict=True)
    assert seen.facts["combined"] == [one for pair in pairs for one in pair]
