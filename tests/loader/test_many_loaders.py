"""Many loaders of one dataset in one process, as for the clients of federated learning."""

import gc
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from cinic_shards import ShardLoader, Subset, partition
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import CinicShardsError
from cinic_shards.write.convert import convert
from cinic_shards.write.pack import PackOptions, pack


def mapped_files(folder: Path) -> list[str]:
    """Paths below a folder that this process maps, once for each mapping."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line.split()[-1] for line in lines if str(folder) in line]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_clients_share_files_and_threads(encoded: dict[str, Path], encoding: str) -> None:
    shards = encoded[encoding]
    parts = partition(shards, "dirichlet", parts=30, alpha=0.5)
    one = ShardLoader(shards, batch_size=8)
    expected = {i: im for b in one for i, im in zip(b.indices.tolist(), b.images, strict=True)}
    gc.collect()
    before = mapped_files(shards), len(os.listdir("/proc/self/fd")), threading.active_count()
    clients = [
        ShardLoader(shards, batch_size=8, subset=Subset(partition=parts, part=i), tail="short")
        for i in range(30)
    ]
    for _ in range(2):
        seen = []
        for client in clients:
            for batch in client:
                seen += batch.indices.tolist()
                for number, image in zip(batch.indices.tolist(), batch.images, strict=True):
                    if number in expected:
                        assert torch.equal(image, expected[number])
        assert sorted(seen) == sorted(np.concatenate([*parts.parts.values()]).tolist())
    after = mapped_files(shards), len(os.listdir("/proc/self/fd")), threading.active_count()
    assert after == before


def test_each_loader_counts_its_own_bytes(encoded: dict[str, Path]) -> None:
    parts = partition(encoded["raw"], "fractions", fractions={"most": 0.8, "few": 0.1})
    loaders = {
        name: ShardLoader(
            encoded["raw"], batch_size=3, subset=Subset(partition=parts, part=name), tail="short"
        )
        for name in parts
    }
    iterators = [iter(loader) for loader in loaders.values()]
    while iterators:  # in turn
        iterators = [iterator for iterator in iterators if next(iterator, None) is not None]
    for name, loader in loaders.items():
        assert loader.stats().bytes_read == 3072 * len(parts.ids(name))


def test_a_dataset_that_was_replaced_is_opened_anew(
    encoded: dict[str, Path], demo_tree: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(encoded["raw"], shards)
    old = ShardLoader(shards, batch_size=10, shuffle=False)
    first = next(iter(old)).images
    pack(demo_tree, shards, PackOptions(encoding="raw"), overwrite=True, workers=1)
    new = ShardLoader(shards, batch_size=10, shuffle=False)
    assert new.num_samples == 90 and not torch.equal(next(iter(new)).images, first)
    assert torch.equal(next(iter(old)).images, first)  # its files are still mapped
    del old, new
    gc.collect()
    convert(encoded["raw"], shards, encoding="zstd", overwrite=True, workers=1)
    again = ShardLoader(shards, batch_size=10, shuffle=False)
    assert torch.equal(next(iter(again)).images, first)


def test_damage_is_found_by_each_loader(encoded: dict[str, Path], tmp_path: Path) -> None:
    shards = Path(shutil.copytree(encoded["raw"], tmp_path / "shards"))
    shard = max((path for path in shards.glob("train-*.tar")), key=lambda path: path.name)
    with open(shard, "r+b") as file:
        file.seek(2000)
        file.write(b"damage")
    loaders = [ShardLoader(shards, batch_size=5, on_error="skip", shuffle=False) for _ in range(2)]
    for loader in loaders:
        with pytest.warns(UserWarning, match="damaged samples skipped"):
            list(loader)
    one, other = (loader.skipped for loader in loaders)
    assert one == other != {}
    shutil.copy(encoded["raw"] / shard.name, shard)  # fetched again, while the others are open
    again = ShardLoader(shards, batch_size=5, on_error="skip", shuffle=False)
    list(again)
    assert again.skipped == {}
    shard.unlink()
    with pytest.raises(CinicShardsError, match=shard.name):
        ShardLoader(shards, batch_size=5)
