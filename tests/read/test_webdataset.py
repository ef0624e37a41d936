"""webdataset reads block shards: raw ones by itself, zstd ones with ``decode`` and ``unbatch``.

Its workers and ranks share the shards of any encoding.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from torch.utils.data import DataLoader

from cinic_shards.errors import DecodeError
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.webdataset import decode, unbatch
from cinic_shards.write.pack import PackOptions, pack
from tests.support import ROOT

# webdataset leaves closing its files to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:This DataLoader will create",  # more workers than cores
)


@pytest.fixture(params=["raw", "zstd"])
def shards(request: pytest.FixtureRequest, packed: dict[str, Path]) -> Path:
    return packed[request.param]


def urls(shards: Path, split: str = "train") -> list[str]:
    return [str(path) for path in sorted(shards.glob(f"{split}-*.tar"))]


def expected(shards: Path) -> tuple[np.ndarray, np.ndarray]:
    reader = Dataset(shards).split("train")
    images = np.empty((len(reader), *reader.image_shape), np.uint8)
    for block, (start, stop) in enumerate(
        zip(reader.block_starts[:-1], reader.block_starts[1:], strict=True)
    ):
        assert not reader.read_block(block, images[start:stop])
    return images, reader.labels


def test_a_pipeline_of_samples(shards: Path) -> None:
    dataset = webdataset.WebDataset(urls(shards), shardshuffle=False, empty_check=False)
    samples = list(dataset.map(decode).compose(unbatch))
    images, labels = expected(shards)
    assert len(samples) == len(labels)
    for sample, image, label in zip(samples, images, labels, strict=True):
        np.testing.assert_array_equal(sample["image"], image)
        assert sample["label"] == label
    assert len({sample["__key__"] for sample in samples}) == len(samples)
    assert samples[17]["__key__"] == "train/00000-00001/0001"


def test_webdataset_decodes_raw_blocks_itself(shards: Path) -> None:
    if shards.name.endswith("zstd"):
        pytest.skip("zstd needs decode and unbatch")
    dataset = webdataset.WebDataset(urls(shards), shardshuffle=False, empty_check=False)
    blocks = list(dataset.decode().to_tuple("images.npy", "labels.npy"))
    images, labels = expected(shards)
    np.testing.assert_array_equal(np.concatenate([block for block, _ in blocks]), images)
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), labels)


@pytest.mark.parametrize("member", ["images", "labels"])
@pytest.mark.parametrize("cut", [0, 5, 130, -1])
def test_damaged_members_are_rejected(shards: Path, member: str, cut: int) -> None:
    sample = next(iter(webdataset.WebDataset(urls(shards), shardshuffle=False, empty_check=False)))
    (name,) = [name for name in sample if name.startswith(member)]
    damaged = sample | {name: sample[name][:cut]}
    with pytest.raises(DecodeError, match=r"train/00000-00000: (images|labels)\."):
        decode(damaged)
    with pytest.raises(DecodeError, match=r"expected one of images\.zst, images\.npy"):
        decode({name: data for name, data in sample.items() if not name.startswith("images")})


# --- Workers and ranks ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eight(demo_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 PNGs of each split in the shards that the default gives 8 blocks; read only."""
    out = tmp_path_factory.mktemp("eight") / "shards"
    pack(demo_tree, out, PackOptions(block_size=12), workers=1)
    assert len(urls(out)) == 8
    return out


def read_keys(shards: Path, num_workers: int, **options: Any) -> list[str]:
    """Read the keys of train with a DataLoader, as docs/recipes.md does."""
    dataset = webdataset.WebDataset(urls(shards), shardshuffle=8, detshuffle=True, **options)
    loader = DataLoader(
        dataset.shuffle(50).to_tuple("__key__"), batch_size=16, num_workers=num_workers
    )
    return [key for (keys,) in loader for key in keys]


@pytest.mark.parametrize(
    ("num_ranks", "num_workers"), [(1, 0), (1, 2), (1, 4), (1, 8), (2, 2), (2, 4), (3, 2), (8, 1)]
)
def test_ranks_and_workers_read_each_sample_once(
    eight: Path, monkeypatch: pytest.MonkeyPatch, num_ranks: int, num_workers: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(num_ranks))
    found: list[str] = []
    for rank in range(num_ranks):
        monkeypatch.setenv("RANK", str(rank))
        found += read_keys(eight, num_workers, nodesplitter=webdataset.split_by_node)
    assert sorted(found) == sorted(Dataset(eight).split("train").columns.keys.tolist())


def test_more_workers_than_shards(eight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/recipes.md quotes webdataset's messages."""
    page = " ".join((ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").split())
    few = "No samples found in dataset; perhaps you have fewer shards than workers"
    with pytest.raises(ValueError, match=few):
        read_keys(eight, 9)
    assert len(read_keys(eight, 9, empty_check=False)) == 90
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    ranks = (
        "you need to add an explicit nodesplitter to your input pipeline for multi-node training"
    )
    with pytest.raises(ValueError, match=ranks):
        read_keys(eight, 0)
    assert few in page and ranks in page
