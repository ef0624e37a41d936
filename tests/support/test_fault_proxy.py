"""A store behind a proxy that fails: the right bytes, or one error in bounded time."""

import gc
import re
import socket
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from fault_proxy import FAULTS, FaultProxy, Faults

from cinic_shards import ShardLoader
from cinic_shards.check.verify import verify
from cinic_shards.errors import OutputError, StoreError
from cinic_shards.loader.block_source import FETCHES_AT_ONCE
from cinic_shards.store import Store, open_store
from cinic_shards.write.pack import PackOptions, pack
from tests.support.servers import S3Server, address_of

pytestmark = pytest.mark.real

DATA = np.random.default_rng(0).bytes(1_000_000)
QUICK = {
    "connect_timeout": 1,
    "read_timeout": 0.5,
    "timeout": 3,
    "write_timeout": 3,
    "retry_timeout": 3,
    "max_retries": 3,
}
BOUND_SECONDS = 3 + 3 + 4
"""``retry_timeout``, one more request, and slack for a slow machine.

It is less than a further request, and than the library's own 180 seconds.
"""


@pytest.fixture
def proxied(web: str, web_root: Path) -> tuple[Path, FaultProxy]:
    """Return a folder that a web server serves, and a proxy before the server."""
    folder = web_root / str(uuid4())
    folder.mkdir()
    (folder / "x").write_bytes(DATA)
    return folder, FaultProxy(address_of(web), Faults())


def open_behind(proxy: FaultProxy, folder: Path, **options: float) -> Store:
    return open_store(f"{proxy.url}/{folder.name}", QUICK | options)


RETRIED = [fault for fault in FAULTS if fault != "etag"]


@pytest.mark.parametrize(
    "fault, how",
    [(fault, how) for fault in RETRIED for how in ("read", "read_range", "map")]
    + [(fault, "size") for fault in RETRIED if fault not in ("cut", "stall-body")],
)
def test_a_fault_that_passes_is_retried(
    proxied: tuple[Path, FaultProxy], fault: str, how: str
) -> None:
    folder, proxy = proxied
    with proxy:
        store = open_behind(proxy, folder)
        proxy.faults.script = [fault, fault]
        if how == "read":
            assert store.read("x") == DATA
        elif how == "read_range":
            assert bytes(store.read_range("x", 500, 900_000)) == DATA[500:900_000]
        elif how == "size":
            assert store.size("x") == len(DATA)
        else:
            assert store.map("x", len(DATA)).tobytes() == DATA
    assert proxy.counts[fault] == 2


@pytest.mark.parametrize("fault", RETRIED)
def test_a_fault_that_stays_is_reported_in_time(
    proxied: tuple[Path, FaultProxy], fault: str
) -> None:
    folder, proxy = proxied
    proxy.faults.chances = {fault: 1.0}
    with proxy:
        store = open_behind(proxy, folder)
        start = time.monotonic()
        location = re.escape(f"{proxy.url}/{folder.name}/x: bytes 500 to 900,000: ")
        with pytest.raises(StoreError, match=f"^{location}.*try again, or allow more"):
            store.read_range("x", 500, 900_000)
        assert time.monotonic() - start < BOUND_SECONDS
    assert proxy.counts[fault] >= 2


@pytest.mark.parametrize("fault", ["429", "503"])
def test_a_server_that_asks_to_wait(
    proxied: tuple[Path, FaultProxy], fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, proxy = proxied
    proxy.faults.script, proxy.faults.retry_after = [fault, fault], "1"
    with proxy:
        start = time.monotonic()
        assert open_behind(proxy, folder).read("x") == DATA
        assert time.monotonic() - start >= 1
    assert f"{proxy.url}/{folder.name}: the server asks to wait 1 s" in caplog.text


def test_a_new_etag_means_a_replaced_file(proxied: tuple[Path, FaultProxy]) -> None:
    folder, proxy = proxied
    with proxy:
        store = open_behind(proxy, folder)
        store.read_range("x", 0, 100)
        proxy.faults.script = ["etag"]
        with pytest.raises(StoreError, match="was replaced while it was read"):
            store.read_range("x", 100, 200)


def test_a_file_replaced_within_a_body(proxied: tuple[Path, FaultProxy]) -> None:
    """The body is cut, and the rest has a different ETag: an error, never a mixture."""
    folder, proxy = proxied
    with proxy:
        store = open_behind(proxy, folder)
        proxy.faults.script = ["cut", "etag"]
        with pytest.raises(StoreError, match="/x: "):
            store.read_range("x", 500, 900_000)


def test_a_slow_answer_succeeds(proxied: tuple[Path, FaultProxy]) -> None:
    """An answer may take longer than ``read_timeout``, which restarts with each byte."""
    folder, proxy = proxied
    proxy.faults.bytes_a_second = 1e6
    proxy.faults.latency_seconds = 0.1
    with proxy:
        store = open_behind(proxy, folder)
        start = time.monotonic()
        assert store.read("x") == DATA
        assert time.monotonic() - start > 1.0
    assert proxy.counts == {"": 1}  # in the first try


def test_a_trickle_times_out(proxied: tuple[Path, FaultProxy]) -> None:
    folder, proxy = proxied
    proxy.faults.bytes_a_second = 200_000  # a chunk each third of a second
    with proxy:
        start = time.monotonic()
        with pytest.raises(StoreError, match="no answer in time"):
            open_behind(proxy, folder, timeout=1, retry_timeout=2).read("x")
        assert time.monotonic() - start < BOUND_SECONDS


def test_nobody_listens(proxied: tuple[Path, FaultProxy]) -> None:
    folder, proxy = proxied
    with proxy:
        store = open_behind(proxy, folder)
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"4 tries in .*: Connection refused; try again"):
        store.read("x")
    assert time.monotonic() - start < BOUND_SECONDS


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
def test_a_server_that_dies_in_an_epoch(
    encoded_tree: Path, proxied: tuple[Path, FaultProxy], encoding: str
) -> None:
    """Each block is requested once, ahead of its use, and once more when it is needed."""
    folder, proxy = proxied
    options = PackOptions(encoding=encoding, block_size=4)
    pack(encoded_tree, folder / "shards", options, workers=1)
    with proxy:
        store = open_store(f"{proxy.url}/{folder.name}/shards", QUICK | {"max_retries": 0})
        loader = ShardLoader(store, batch_size=8)
        assert loader.dataset.reader.num_blocks > 2 * FETCHES_AT_ONCE
        proxy.faults.chances = {"503": 1.0}
        with pytest.raises(StoreError, match="503"):
            list(loader)
        workers = loader.workers
        assert 0 < proxy.counts["503"] <= loader.dataset.reader.num_blocks + 2 * workers
        proxy.faults.chances = {}
        assert sum(batch.num_samples for batch in loader) == 8 * len(loader)


def test_a_job_with_every_fault(demo_tree: Path, demo_shards: Path, seaweedfs: S3Server) -> None:
    """Many faults of every type: the same bytes."""
    chances = dict.fromkeys(RETRIED, 0.02)
    options = seaweedfs.storage_options | QUICK | {"max_retries": 8, "retry_timeout": 30}
    with FaultProxy(address_of(seaweedfs.endpoint), Faults(0.005, 0, chances)) as proxy:
        options["endpoint_url"] = proxy.url
        store = open_store(f"s3://{seaweedfs.bucket}/{uuid4()}", options)
        manifest = pack(demo_tree, store, PackOptions(shard_size=10), workers=1)
        found = verify(store, against=demo_tree, workers=1)
    assert found.is_whole and not found.strays, found
    assert sum(proxy.counts.values()) > 100 and len(proxy.counts) > 5, proxy.counts
    local = pack(demo_tree, f"memory://{uuid4()}", PackOptions(shard_size=10), workers=1)
    assert manifest == local


@pytest.mark.parametrize("fault", ["503", "stall", "reset"])
def test_a_server_that_dies_during_writing(
    demo_tree: Path, seaweedfs: S3Server, fault: str
) -> None:
    """One error in bounded time; the same call resumes when the server is back."""
    prefix = f"s3://{seaweedfs.bucket}/{uuid4()}"
    options = PackOptions(shard_size=20)
    with FaultProxy(address_of(seaweedfs.endpoint), Faults()) as proxy:
        store = open_store(prefix, seaweedfs.storage_options | QUICK | {"endpoint_url": proxy.url})

        def progress(doing: str, done: int, total: int) -> None:
            if doing == "pack" and done >= 100:
                proxy.faults.chances = {fault: 1.0}

        start = time.monotonic()
        with pytest.raises(OutputError, match=f"^{prefix}/_packing/.* tr(y|ies) in "):
            pack(demo_tree, store, options, workers=1, progress=progress)
        assert time.monotonic() - start < 30
    again = open_store(prefix, seaweedfs.storage_options)
    with pytest.raises(StoreError, match="packing did not finish"):
        verify(again)
    seen: list[tuple[str, int, int]] = []
    pack(demo_tree, again, options, workers=1, progress=lambda *state: seen.append(state))
    assert next(state for state in seen if state[0] == "pack")[1] >= 100
    assert verify(again, workers=1).is_whole and again.folder("_packing").names() == []


def test_a_proxy_that_stops_closes_every_connection(web: str) -> None:
    """Also those that it accepted in that moment: pytest fails a test that leaves one open."""
    for round_ in range(100):
        clients = []
        with FaultProxy(address_of(web), Faults()) as proxy:
            for _ in range(1 + round_ % 8):
                clients.append(socket.create_connection(proxy.address))
                clients[-1].sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        for client in clients:
            client.close()
    gc.collect()
