"""A loader on a URL: the same batches as from a folder, one request a block, errors named."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import indent
from typing import Any
from uuid import uuid4

import pytest
import torch

from cinic_shards import CINIC10, Augment, ShardLoader, Subset
from cinic_shards.errors import DecodeError, OptionError, StoreError
from cinic_shards.loader.cache import Cache
from cinic_shards.read.child import read_in_child
from cinic_shards.read.dataset import Dataset
from cinic_shards.store import LocalStore, Store, open_store
from cinic_shards.store.base import Bytes
from cinic_shards.store.remote import RemoteStore
from cinic_shards.write.pack import PackOptions, pack
from tests.support.processes import start_forked, wait_for
from tests.support.servers import S3Server, in_thread

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


def loader_threads() -> list[threading.Thread]:
    """Threads of loaders; one that makes requests may wait for a call that Ctrl-C has stopped."""
    return [t for t in threading.enumerate() if t.name.startswith("cinic-shards_")]


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
    assert loader_threads() == []


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
    local, remote = (
        CINIC10(path, "test", order="packed") for path in (encoded[encoding], stores[encoding])
    )
    assert remote.targets == local.targets
    requests.clear()
    for position in (3, 100, 2, 3):
        assert remote[position][0].tobytes() == local[position][0].tobytes()
    assert sum(requests.values()) == 4 + 2  # indexes, blocks


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_damage_is_named(encoded_tree: Path, encoding: str) -> None:
    store = open_store(f"memory://{uuid4()}")
    pack(encoded_tree, store, options(encoding), workers=1)
    reader = ShardLoader(store, batch_size=20).dataset.reader
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
    name = loader.dataset.reader.shards[0].name
    with store.create(name) as file:
        file.write(store.read(loader.dataset.reader.shards[1].name))
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


# --- Servers that fail or stall -----------------------------------------------------------------


class FarStore(LocalStore):
    """A folder that is read like a server's: by ranges, after a gate."""

    is_local = False

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate: Callable[[], object] = lambda: None

    def read_range(self, name: str, start: int, stop: int) -> Bytes:
        self.gate()
        return super().read_range(name, start, stop)


@pytest.fixture(scope="module")
def small_blocks(encoded_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks of four samples: many more than are fetched ahead."""
    out = tmp_path_factory.mktemp("far") / "shards"
    pack(encoded_tree, out, PackOptions(encoding="zstd", block_size=4), workers=1)
    return out


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
def test_an_outage_that_ends_before_its_blocks_are_needed(
    small_blocks: Path, tmp_path: Path, cache: Any, workers: int
) -> None:
    options: dict[str, Any] = {"batch_size": 4, "tail": "short"}
    store = FarStore(small_blocks)
    made = Cache(cache, folder=tmp_path if cache == "disk" else None)
    loader = ShardLoader(store, workers=workers, cache=made, **options)
    failures: list[int] = []

    def fail() -> None:
        failures.append(1)
        raise StoreError("far", "503, 9 tries")

    iterator = iter(loader)
    found = [next(iterator)]
    time.sleep(0.1)
    store.gate = fail
    found += [next(iterator) for _ in range(4)]
    time.sleep(0.1)
    assert failures  # of blocks that are not needed yet
    store.gate = lambda: None
    found += iterator
    assert same(found, ShardLoader(small_blocks, **options))
    assert loader_threads() == []


def test_an_outage_while_the_consumer_waits_ends_the_epoch(small_blocks: Path) -> None:
    store = FarStore(small_blocks)
    loader = ShardLoader(store, batch_size=4)
    iterator = iter(loader)
    next(iterator)

    def fail() -> None:
        raise StoreError("far", "503, 9 tries")

    store.gate = fail
    with pytest.raises(StoreError, match="far: 503"):
        list(iterator)
    store.gate = lambda: None
    assert len(list(loader)) == len(loader)


@pytest.mark.parametrize("how", ["close", "Ctrl-C", "opening"])
def test_a_stalled_read_is_not_waited_for(small_blocks: Path, how: str) -> None:
    def work() -> None:
        store = FarStore(small_blocks)
        stall = threading.Event().wait
        press = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
        if how == "opening":
            store.gate = stall
            press.start()
        try:
            iterator = iter(ShardLoader(store, batch_size=4, workers=2))
            next(iterator)
            time.sleep(0.1)
            store.gate = stall
            if how == "Ctrl-C":
                press.start()
                list(iterator)
                raise AssertionError("nothing stalled")
            for _ in range(4):
                next(iterator)
            iterator.close()  # type: ignore[attr-defined]
        except KeyboardInterrupt:
            pass

    begin = time.monotonic()
    assert wait_for(start_forked(work), timeout=8) == 0
    assert time.monotonic() - begin < 4


STALLED = """
import sys, threading
from cinic_shards import ShardLoader
from cinic_shards.store import LocalStore

class FarStore(LocalStore):
    is_local, gate = False, staticmethod(lambda: None)
    def read_range(self, *arguments):
        self.gate()
        return super().read_range(*arguments)

store = FarStore(__import__("pathlib").Path(sys.argv[1]))
iterator = iter(ShardLoader(store, batch_size=4))
next(iterator)
FarStore.gate = staticmethod(threading.Event().wait)
for _ in range(4):
    next(iterator)
print("exits", flush=True)
"""


@pytest.mark.real
def test_a_process_ends_although_a_read_stalls(small_blocks: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STALLED, small_blocks], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "exits\n", "")


def test_a_fork_while_another_thread_reads(encoded: dict[str, Path]) -> None:
    """A process that was forked while a thread held a lock would wait for it forever."""
    data = CINIC10(encoded["zstd"], "test")
    expected = data[5][0].tobytes()
    locks = [one for part in data._opened for one in vars(part).values() if hasattr(one, "acquire")]
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        held.set()
        done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def read() -> None:
        assert data[5][0].tobytes() == expected
        assert data[100][0] is not None

    try:
        assert wait_for(start_forked(read), timeout=4) == 0
    finally:
        done.set()
        thread.join()


# --- CINIC10 at a URL -----------------------------------------------------------------------------


class Ranges(SimpleHTTPRequestHandler):
    """Serves files of a folder, also ranges of them."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        start, stop = 0, len(data)
        if text := self.headers.get("Range"):
            start, stop = (int(one) for one in text.removeprefix("bytes=").split("-"))
            stop += 1
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", self.date_time_string(0))
        self.end_headers()
        self.wfile.write(data[start:stop])


@contextmanager
def ranges_served(folder: Path) -> Iterator[str]:
    """Serve a folder; yields its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(folder)))
    server.daemon_threads = True
    with in_thread(server):
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def server(encoded: dict[str, Path]) -> Iterator[str]:
    """URL of a web server in this process."""
    with ranges_served(encoded["zstd"]) as url:
        yield url


def test_indexes_are_read_in_a_child_process(server: str, encoded: dict[str, Path]) -> None:
    store = open_store(server)
    assert isinstance(store, RemoteStore)
    read = read_in_child(store, ["test", "dev", "unknown"])
    assert {name for name, *_ in read.reads} == {
        "manifest.json",
        *(
            f"{split}-0000{number}-of-00004.tar"
            for split in ("test", "valid")
            for number in range(4)
        ),
    }
    read._connection = None  # type: ignore[assignment]
    columns, expected = (
        Dataset(read).columns_of("test"),
        Dataset(encoded["zstd"]).columns_of("test"),
    )
    assert columns.keys.tolist() == expected.keys.tolist()


def test_an_error_in_the_child_process_is_raised(server: str) -> None:
    store = open_store(f"{server}/missing")
    assert isinstance(store, RemoteStore)
    with pytest.raises(StoreError, match=r"missing/manifest\.json: not found; a web serv"):
        read_in_child(store, ["test"])


IMPORTING = """
import importlib, sys, threading
lock = importlib._bootstrap._get_module_lock("obstore")  # as while a thread imports obstore
held = threading.Event()
threading.Thread(target=lambda: (lock.acquire(), held.set(), held.clear(), held.wait()),
                 daemon=True).start()
import time; time.sleep(0.1)
from cinic_shards import CINIC10
from cinic_shards.store import has_client
print(len(CINIC10(sys.argv[1], "test")), has_client())
"""


@pytest.mark.real
def test_locks_of_other_threads_do_not_stop_a_cinic10(server: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, server], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("180 False\n", 0), done.stderr
