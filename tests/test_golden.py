"""Data and states of release 0.1.0 are verified, read and resumed, to the bit."""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cinic_shards import Augment, Batch, ShardLoader, Subset
from cinic_shards.check.verify import verify
from cinic_shards.format import MANIFEST_NAME
from cinic_shards.read.dataset import Dataset
from cinic_shards.write.pack import PackOptions, pack

RELEASE = Path(__file__).parent / "golden" / "0.1.0"
"""Made by golden/make_golden.py."""
SAVED = json.loads((RELEASE / "states.json").read_text())
ENCODINGS = tuple(SAVED["packing"])

Run = dict[str, Any]
"""An epoch of one rank: a loader's setting, its ids, and a state that was taken within it."""


def loader_of(run: Run) -> ShardLoader:
    """A loader with a run's settings, given as this version's options."""
    options = dict(run["setting"])
    if "subset" in options:
        given = {{"fraction_seed": "seed"}.get(k, k): v for k, v in options["subset"].items()}
        options["subset"] = Subset(**given)
    if "augment" in options:
        options["augment"] = Augment(**options["augment"])
    shards = RELEASE / run["encoding"]
    return ShardLoader(shards, **options, workers=2, rank=run["rank"], world_size=run["world_size"])


def images_digest(batches: list[Batch]) -> str:
    """SHA-256 of the images' values in the order (N, H, W, C)."""
    sha256 = hashlib.sha256()
    for batch in batches:
        sha256.update(batch.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
    return sha256.hexdigest()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images that the release packed, extracted by tar; generated again they might differ."""
    root = tmp_path_factory.mktemp("golden")
    for shard in (RELEASE / "png").glob("*.tar"):
        with tarfile.open(shard) as file:
            pngs = [member for member in file.getmembers() if member.name.endswith(".png")]
            file.extractall(root, pngs, filter="data")
    return root


def pixels(shards: Path, split: str) -> np.ndarray[Any, Any]:
    """All images of a split in the dataset's order, uint8 (N, 32, 32, 3)."""
    loader = ShardLoader(shards, split=split, batch_size=100, shuffle=False, workers=1)
    (batch,) = loader
    return batch.images.permute(0, 2, 3, 1).contiguous().numpy()


def manifest_of(shards: Path) -> dict[str, Any]:
    """A manifest's content, without libraries' versions and the digest that depends on them."""
    content: dict[str, Any] = json.loads((shards / MANIFEST_NAME).read_text())
    return {name: value for name, value in content.items() if name not in ("libraries", "digest")}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_dataset_is_intact(encoding: str, tree: Path) -> None:
    found = verify(RELEASE / encoding, against=tree, workers=1)
    assert (found.is_whole, found.num_samples, found.strays) == (True, 19, ())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_dataset_is_read(encoding: str, tree: Path) -> None:
    dataset = Dataset(RELEASE / encoding)
    assert dataset.manifest.libraries["cinic-shards"] == "0.1.0"
    for split in ("test", "train"):
        keys = dataset.columns_of(split).keys
        expected = [np.asarray(Image.open(tree / f"{key}.png").convert("RGB")) for key in keys]
        np.testing.assert_array_equal(pixels(RELEASE / encoding, split), np.stack(expected))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_packing_the_same_images_gives_the_same_bytes(
    encoding: str, tree: Path, tmp_path: Path
) -> None:
    options = SAVED["packing"][encoding]
    if "sidecars" in options:
        options = options | {"sidecars": tuple(options["sidecars"])}
    manifest = pack(tree, tmp_path, PackOptions(encoding=encoding, **options), workers=1)
    before, mine = manifest_of(RELEASE / encoding), manifest_of(tmp_path)
    libraries = Dataset(RELEASE / encoding).manifest.libraries
    if manifest.libraries.get("libzstd") == libraries.get("libzstd"):
        for path in (RELEASE / encoding).glob("*.tar"):
            assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    else:  # a different release of libzstd may compress differently
        for split in ("test", "train"):
            np.testing.assert_array_equal(
                pixels(tmp_path, split), pixels(RELEASE / encoding, split)
            )
        for content in (before, mine):
            for info in content["splits"]:
                del info["shards"]
    assert mine == before


def run_name(run: Run) -> str:
    return f"{run['encoding']}, {run['name']}, rank {run['rank']} of {run['world_size']}"


@pytest.mark.parametrize("run", SAVED["runs"], ids=run_name)
def test_a_loader_gives_the_same_batches_as_the_release(run: Run) -> None:
    """Compare an entire epoch, and the rest of it from a saved state.

    The release's order needs its state: new loaders have plan version 2.
    """
    loader, step = loader_of(run), run["state"]["step"]
    loader.load_state_dict(run["state"] | {"step": 0})
    batches = list(loader)
    assert [batch.indices.tolist() for batch in batches] == run["ids"]
    assert [batch.labels.tolist() for batch in batches] == run["labels"]
    assert [int(batch.valid.sum()) for batch in batches] == run["valid"]
    resumed = loader_of(run)
    resumed.load_state_dict(run["state"])
    assert resumed.state_dict() == run["state"]
    batches = list(resumed)
    assert [batch.indices.tolist() for batch in batches] == run["ids"][step:] != []
    assert images_digest(batches) == run["images_sha256"]


def test_ranks_of_any_number_share_a_state() -> None:
    shared = [run for run in SAVED["runs"] if run["name"] == "global"]
    assert len(shared) == 3 * len(ENCODINGS)
    for encoding in ENCODINGS:
        one, *two = (run for run in shared if run["encoding"] == encoding)
        assert [run["state"] for run in two] == [one["state"]] * 2
        steps = zip(*(run["ids"] for run in two), strict=True)
        assert [first + second for first, second in steps] == one["ids"]
