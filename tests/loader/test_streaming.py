"""A loader on a URL: the same batches as from a folder, one request a block, errors named."""

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from textwrap import indent
from typing import Any
from uuid import uuid4

import pytest
import torch

from cinic_shards import CINIC10, Augment, ShardLoader, Subset
from cinic_shards.errors import DecodeError, OptionError, StoreError
from cinic_shards.loader.cache import Cache
from cinic_shards.store import Store, open_store
from cinic_shards.store.base import Bytes
from cinic_shards.store.remote import RemoteStore
from cinic_shards.write.pack import PackOptions, pack
from tests.support.servers import S3Server

ENCODINGS = ("png", "zstd", "raw")
IMAGENET = Subset(origin="imagenet")


def options(encoding: str) -> PackOptions:
    return PackOptions(encoding=encoding, shard_size=50, block_size=16)


@pytest.fixture(scope="module")
def stores(encoded_tree: Path) -> dict[str, Store]:
    made = {encoding: open_store(f"memory://{uuid4()}/x") for encoding in ENCODINGS}
    for encoding, store in made.items():
        pack(encoded_tree, store, options(encoding), workers=1)
    return made


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of requests for each range, by shard name and start, ``name start``."""
    counts: Counter[str] = Counter()
    read_range = RemoteStore.read_range

    def counted(self: RemoteStore, name: str, start: int, stop: int) -> Bytes:
        counts[f"{name} {start}"] += 1
        return read_range(self, name, start, stop)

    monkeypatch.setattr(RemoteStore, "read_range", counted)
    return counts


def same(one: Any, other: Any) -> bool:
    return all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.indices, b.indices)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("cache", ["none", "ram", "disk", "device"])
def test_the_same_batches_as_from_a_folder(
    encoded: dict[str, Path],
    stores: dict[str, Store],
    requests: Counter[str],
    tmp_path: Path,
    encoding: str,
    cache: Any,
) -> None:
    options: dict[str, Any] = {"batch_size": 20, "augment": Augment(), "tail": "short"}
    local = ShardLoader(encoded[encoding], **options)
    made = Cache(cache, folder=tmp_path if cache == "disk" else None)
    remote = ShardLoader(stores[encoding], cache=made, **options)
    assert len(requests) == 4 == sum(requests.values())  # the index of each shard
    assert remote.state_dict() == local.state_dict()
    for epoch in range(2):
        requests.clear()
        assert same(remote, local)
        expected = 0 if epoch and cache != "none" else 14  # blocks
        assert len(requests) == expected == sum(requests.values())
    assert [t for t in threading.enumerate() if "cinic-shards" in t.name] == []


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_ranks_and_a_resume(
    encoded: dict[str, Path], stores: dict[str, Store], encoding: str
) -> None:
    options: dict[str, Any] = {"global_batch_size": 30, "subset": IMAGENET}
    local = ShardLoader(encoded[encoding], **options)
    for _ in zip(range(2), local, strict=False):
        pass
    state = local.state_dict()
    rest = [batch.indices.tolist() for batch in load(local, state)]
    ranks = [
        load(ShardLoader(stores[encoding], rank=rank, world_size=3, **options), state)
        for rank in range(3)
    ]
    joined = [
        [i for batch in step for i in batch.indices.tolist()] for step in zip(*ranks, strict=True)
    ]
    assert joined == rest


def load(loader: ShardLoader, state: dict[str, Any]) -> ShardLoader:
    loader.load_state_dict(state)
    return loader


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_order_full_needs_a_cache(
    encoded: dict[str, Path], stores: dict[str, Store], encoding: str
) -> None:
    with pytest.raises(OptionError, match="would decode an entire"):
        ShardLoader(stores[encoding], order="full", batch_size=20)
    local = ShardLoader(encoded[encoding], order="full", batch_size=20, cache="ram")
    assert same(ShardLoader(stores[encoding], order="full", batch_size=20, cache="ram"), local)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_images_by_index(
    encoded: dict[str, Path], stores: dict[str, Store], requests: Counter[str], encoding: str
) -> None:
    local, remote = CINIC10(encoded[encoding], "test"), CINIC10(stores[encoding], "test")
    assert remote.targets == local.targets
    requests.clear()
    for position in (3, 100, 2, 3):
        assert remote[position][0].tobytes() == local[position][0].tobytes()
    assert sum(requests.values()) == 4 + 2  # indexes, blocks


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_damage_is_named(encoded_tree: Path, encoding: str) -> None:
    store = open_store(f"memory://{uuid4()}")
    pack(encoded_tree, store, options(encoding), workers=1)
    reader = ShardLoader(store, batch_size=20)._reader
    shard, index = reader.shards[1], reader._indexes[1]
    data = bytearray(store.read(shard.name))
    data[
        int(index.offset[7 if encoding == "png" else 0]) + 128 + 7 * 3072 * (encoding == "raw")
    ] ^= 1
    with store.create(shard.name) as file:
        file.write(data)
    # A zstd block's first damaged sample depends on the shuffled order.
    sample = r"sample \d+" if encoding == "zstd" else rf"sample 7 \({index.keys[7]}\)"
    with pytest.raises(DecodeError, match=f"train-00001-of-00004.tar: {sample}"):
        list(ShardLoader(open_store(str(store)), batch_size=20))


def test_a_shard_that_is_replaced_while_it_is_read(encoded_tree: Path) -> None:
    store = open_store(f"memory://{uuid4()}")
    pack(encoded_tree, store, options("zstd"), workers=1)
    loader = ShardLoader(open_store(str(store)), batch_size=20)
    name = loader._reader.shards[0].name
    with store.create(name) as file:
        file.write(store.read(loader._reader.shards[1].name))
    with pytest.raises(StoreError, match=rf"{name}: was replaced while it was read"):
        list(loader)


@pytest.mark.real
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_from_a_real_server(
    seaweedfs: S3Server, encoded_tree: Path, encoded: dict[str, Path], encoding: str
) -> None:
    store = open_store(f"s3://{seaweedfs.bucket}/{uuid4()}", seaweedfs.storage_options)
    pack(encoded_tree, store, options(encoding), workers=1)
    assert same(
        ShardLoader(store, batch_size=20, augment=Augment()),
        ShardLoader(encoded[encoding], batch_size=20, augment=Augment()),
    )


LOADED = """
import sys
from torch.utils.data import DataLoader
from cinic_shards import CINIC10, ShardIterable, Subset

url, context, local = sys.argv[1:]
subset = Subset(origin="imagenet")
data, other = CINIC10(url, "test", subset=subset), CINIC10(local, "test", subset=subset)
assert data.targets == other.targets and data.ids.tolist() == other.ids.tolist()
read = lambda pair: [(image.tobytes(), label) for image, label in pair]
for epoch in range(2):
    loader = DataLoader(data, 8, num_workers=2, multiprocessing_context=context, collate_fn=list)
    assert [read(batch) for batch in loader] == [
        read(batch) for batch in DataLoader(other, 8, collate_fn=list)
    ]
batches = DataLoader(ShardIterable(url, batch_size=8), None, num_workers=2,
                     multiprocessing_context=context)
assert [b.indices.tolist() for b in batches] == [
    b.indices.tolist() for b in ShardIterable(local, batch_size=8)
]
print("the same", len(data))
"""


@pytest.mark.real
@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_a_dataloader_that_forks(
    seaweedfs: S3Server, encoded_tree: Path, encoded: dict[str, Path], context: str, tmp_path: Path
) -> None:
    url = f"s3://{seaweedfs.bucket}/{uuid4()}"
    store = open_store(url, seaweedfs.storage_options)
    pack(encoded_tree, store, options("zstd"), workers=1)
    script = tmp_path / "load.py"  # without a main guard, which fork does not need
    script.write_text(
        LOADED if context == "fork" else "if __name__ == '__main__':\n" + indent(LOADED, "    ")
    )
    done = subprocess.run(
        [sys.executable, script, url, context, encoded["zstd"]],
        env=os.environ | seaweedfs.environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and "the same" in done.stdout, done.stderr


@pytest.mark.real
def test_an_error_of_the_child_that_reads_indexes(seaweedfs: S3Server) -> None:
    code = f"from cinic_shards import CINIC10; CINIC10('s3://{seaweedfs.bucket}/nothing', 'test')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | seaweedfs.environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1].startswith("cinic_shards.errors.StoreError: s3://")
