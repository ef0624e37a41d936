"""Stock webdataset reads blocks: raw ones as they are, zstd ones with our two steps."""

from pathlib import Path

import numpy as np
import pytest
import webdataset

from cinic_shards.errors import DecodeError
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.webdataset import decode, unbatch

# webdataset leaves closing its files to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
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


def test_stock_decoding_of_raw(shards: Path) -> None:
    if shards.name.endswith("zstd"):
        pytest.skip("zstd needs our steps")
    dataset = webdataset.WebDataset(urls(shards), shardshuffle=False, empty_check=False)
    blocks = list(dataset.decode().to_tuple("images.npy", "labels.npy"))
    images, labels = expected(shards)
    np.testing.assert_array_equal(np.concatenate([block for block, _ in blocks]), images)
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), labels)


@pytest.mark.parametrize("member", ["images", "labels"])
@pytest.mark.parametrize("cut", [0, 5, 130, -1])
def test_damaged_members(shards: Path, member: str, cut: int) -> None:
    sample = next(iter(webdataset.WebDataset(urls(shards), shardshuffle=False, empty_check=False)))
    (name,) = [name for name in sample if name.startswith(member)]
    damaged = sample | {name: sample[name][:cut]}
    with pytest.raises(DecodeError, match=r"train/00000-00000: (images|labels)\."):
        decode(damaged)
    with pytest.raises(DecodeError, match=r"expected one of images\.zst, images\.npy"):
        decode({name: data for name, data in sample.items() if not name.startswith("images")})
