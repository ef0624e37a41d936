"""Epochs from S3 over a bad network: latency, faults, a server that dies.

SeaweedFS behind ``tools/fault_proxy.py``, on loopback, shards of ``zstd``.
"""

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from fault_proxy import FAULTS, FaultProxy, Faults

from tests.acceptance.trees import Record, Tree, cinic_shard, python, started, torchrun
from tests.support.servers import S3Server, address_of

LATENCY_SECONDS = 0.05
FAULT_SHARE = 0.05
MIN_PROXY, MIN_LATENCY = 0.8, 0.7
"""Rates through the proxy of a direct connection's, and at 50 ms of those at 0."""
EPOCHS = 3
REPEATS = 3
QUICK = {
    "connect_timeout": 1,
    "read_timeout": 1,
    "timeout": 4,
    "retry_timeout": 4,
    "max_retries": 4,
}
"""Seconds, for a server that dies: a request ends within 8.5, which are the waits between refused
tries, at most 0.1, 0.4, 1.6 and 6.4."""
SLACK_SECONDS = 3.0
"""For a rank's threads to end."""


def behind(server: S3Server, proxy: FaultProxy) -> S3Server:
    """The server as it is reached through the proxy."""
    return S3Server(proxy.url, server.bucket)


def epochs(
    server: S3Server, path: object, options: dict[str, Any]
) -> tuple[list[str], list[float]]:
    """Hashes and rates of epochs, in a fresh process."""
    env = os.environ | server.environment
    said = python("epochs.py", path, EPOCHS, json.dumps(options), env=env)
    found = [line.split() for line in said.splitlines()]
    hashes = [value for word, value in found if word == "batches"]
    return hashes, [float(value) for word, value in found if word == "rate"]


@pytest.fixture(scope="module")
def url(small_tree: Tree, seaweedfs: S3Server) -> str:
    """The tree's blocks on S3."""
    url = f"s3://{seaweedfs.bucket}/network"
    options = ("--encoding", "zstd", "--workers", "1", "--quiet")
    cinic_shard("convert", small_tree.packed("zstd"), url, *options,
                env=os.environ | seaweedfs.environment)  # fmt: skip
    return url


@pytest.fixture(scope="module")
def from_a_folder(small_tree: Tree, seaweedfs: S3Server) -> list[str]:
    """Hashes of the epochs that a folder gives."""
    return epochs(seaweedfs, small_tree.packed("zstd"), {})[0]


def test_latency(
    small_tree: Tree, seaweedfs: S3Server, url: str, from_a_folder: list[str],
    record_property: Record,
) -> None:  # fmt: skip
    """Are epochs a folder's at 50 ms a request, and how much slower than directly?

    Only on a given tree of CINIC-10's size do the rates have bars.
    """
    found: dict[str, list[float]] = {}
    server = address_of(seaweedfs.endpoint)
    slow = Faults(latency_seconds=LATENCY_SECONDS)
    with FaultProxy(server, Faults()) as fast, FaultProxy(server, slow) as far:
        ways = {
            "direct": seaweedfs,
            "0 ms": behind(seaweedfs, fast),
            "50 ms": behind(seaweedfs, far),
        }
        for name, way in [*ways.items()] * REPEATS:
            hashes, rates = epochs(way, url, {})
            assert hashes == from_a_folder, name
            found.setdefault(name, []).extend(rates)
    rate = {name: median(rates) for name, rates in found.items()}
    record_property("images_per_second", {name: round(value) for name, value in rate.items()})
    if small_tree.has_bars:
        assert rate["0 ms"] >= MIN_PROXY * rate["direct"]
        assert rate["50 ms"] >= MIN_LATENCY * rate["0 ms"]


def test_faults_change_no_epoch(
    seaweedfs: S3Server, url: str, from_a_folder: list[str], record_property: Record
) -> None:
    """Are epochs a folder's to the bit with 5 % of each fault at once, and 50 ms?"""
    chances = {kind: FAULT_SHARE for kind in FAULTS if kind != "etag"}
    each_once = [one for kind in chances for one in ("", kind, "")]
    faults = Faults(LATENCY_SECONDS, 0, chances, each_once)
    with FaultProxy(address_of(seaweedfs.endpoint), faults) as proxy:
        hashes, _ = epochs(behind(seaweedfs, proxy), url, {"read_timeout": 1})
        counts = {kind or "none": count for kind, count in proxy.counts.items()}
    record_property("requests_by_fault", counts)
    assert hashes == from_a_folder
    assert chances.keys() <= counts.keys()


@pytest.mark.parametrize("kind", ["gone", "stall", "503"])
def test_a_dead_server_ends_every_rank(
    seaweedfs: S3Server, url: str, kind: str, tmp_path: Path, record_property: Record
) -> None:
    """Does each of two ranks end with one error, in the time that the options allow?"""
    with ExitStack() as processes, ExitStack() as proxied:
        proxy = proxied.enter_context(FaultProxy(address_of(seaweedfs.endpoint), Faults()))
        words = torchrun("dies.py", url, tmp_path, json.dumps(QUICK),
                         options=("--standalone", "--nproc-per-node=2"))  # fmt: skip
        env = os.environ | behind(seaweedfs, proxy).environment
        process = processes.enter_context(started(words, env=env))
        while len(list(tmp_path.glob("*.begun"))) < 2:
            assert process.poll() is None, "a rank ended before the server died"
            time.sleep(0.01)
        if kind == "gone":
            proxied.close()
        else:
            proxy.faults.chances = {kind: 1.0}
        process.wait(timeout=120)
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    record_property("ranks", said)
    allowed = QUICK["retry_timeout"] + QUICK["timeout"] + SLACK_SECONDS
    for rank in said:
        assert rank["error"] and rank["waited_seconds"] <= allowed
