"""Epochs and commands over a bad network: latency, faults, a server that stalls, leaves or dies.

SeaweedFS behind ``tools/fault_proxy.py``, on loopback, shards of ``zstd``.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Queue
from statistics import median
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from fault_proxy import FAULTS, FaultProxy, Faults

from cinic_shards.store import open_store
from tests.acceptance.trees import Record, Tree, cinic_shard, python, started, torchrun
from tests.support.command import COMMAND
from tests.support.sampling import sampled
from tests.support.servers import Answer, Request, S3Server, address_of, answering

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


@pytest.mark.parametrize("seconds", [5, 15, pytest.param(60, marks=pytest.mark.long)])
def test_a_server_that_is_away_in_mid_epoch(
    seaweedfs: S3Server,
    url: str,
    from_a_folder: list[str],
    seconds: int,
    record_property: Record,
) -> None:
    """Are epochs a folder's to the bit if the server is away for some time in one of them?"""
    server = address_of(seaweedfs.endpoint)
    proxy = FaultProxy(server, Faults())
    num_requests = 0

    def leave() -> None:
        nonlocal proxy, num_requests
        with proxy:
            while not proxy.counts[""] > 20:  # in the first epoch
                time.sleep(0.002)
        num_requests = proxy.counts[""]
        time.sleep(seconds)
        proxy = FaultProxy(server, Faults(), proxy.address)

    way = behind(seaweedfs, proxy)
    with ThreadPoolExecutor(1) as threads:
        left = threads.submit(leave)
        read = ThreadPoolExecutor(1).submit(epochs, way, url, {})
        left.result()
        with proxy:
            hashes, _ = read.result()
            record_property("requests", {"before": num_requests, "after": proxy.counts[""]})
    assert proxy.counts[""] > 0, "the epochs had ended before"
    assert hashes == from_a_folder


def test_a_busy_server_ends_no_request(record_property: Record) -> None:
    """Does each of 1,000 requests wait for a server that answers 503 for 100 s?"""
    num_requests, busy_seconds = 1000, 100.0
    ended: Queue[Exception | float] = Queue()

    def read() -> None:  # in a daemon thread, as the loader's are
        try:
            store.read_range("x", 0, 1000)
            ended.put(time.monotonic() - begun)
        except Exception as error:
            ended.put(error)

    def answer(request: Request) -> Answer:
        is_busy = request.time - begun < busy_seconds
        return Answer(503) if is_busy else Answer(body=bytes(1000))

    with answering(answer) as server:
        store = open_store(server.url)
        begun = time.monotonic()
        for _ in range(num_requests):
            Thread(target=read, daemon=True).start()
        found = [ended.get() for _ in range(num_requests)]
    failed = [error for error in found if isinstance(error, Exception)]
    record_property("tries", len(server.requests))
    record_property("seconds", [round(find(found), 1) for find in (min, max) if not failed])
    assert failed == []


@pytest.fixture(scope="module")
def stalls(url: str, seaweedfs: S3Server) -> Iterator[FaultProxy]:
    """A proxy before the server; each test chooses after how many requests it stalls."""
    with FaultProxy(address_of(seaweedfs.endpoint), Faults()) as proxy:
        yield proxy


LOADER = """
import sys
from cinic_shards import ShardLoader
for _ in ShardLoader(sys.argv[1], batch_size=64):
    pass
"""
CINIC = """
import sys
from cinic_shards import CINIC10
for _ in CINIC10(sys.argv[1]):
    pass
"""
WORKERS = """
import sys
from torch.utils.data import DataLoader
from cinic_shards import CINIC10
if __name__ == "__main__":
    data = CINIC10(sys.argv[1])
    for _ in DataLoader(data, 64, num_workers=2, multiprocessing_context="spawn"):
        pass
"""
_NEW = "{bucket}/{unique}"
_CONVERT = ["convert", "{url}", "{out}/new", "--encoding", "raw"]
COMMANDS: dict[str, tuple[list[str], list[int]]] = {
    "fetch": (["fetch", "{out}", "--url", "{web}/file"], [0]),
    "info": (["info", "{url}"], [0]),
    "info --duplicates": (["info", "{url}", "--duplicates"], [1]),
    "verify, 1 worker": (["verify", "{url}", "--workers", "1"], [1, 4]),
    "verify, 2 workers": (["verify", "{url}", "--workers", "2"], [1]),
    "pack, 1 worker": (["pack", "{tree}", _NEW, "--workers", "1"], [0, 3]),
    "pack, 2 workers": (["pack", "{tree}", _NEW, "--workers", "2"], [3]),
    "convert, 1 worker": ([*_CONVERT, "--workers", "1"], [1]),
    "convert, 2 workers": ([*_CONVERT, "--workers", "2"], [1]),
    "unpack": (["unpack", "{url}", "{out}/new", "--workers", "2"], [1]),
    "select": (["select", "{url}", "{out}/new", "--fraction", "0.5", "--workers", "2"], [1]),
    "stats": (["stats", "{url}"], [1, 3]),
    "show": (["show", "{url}", "-o", "{out}/x.png"], [1]),
    "report": (["report", "{url}", "-o", "{out}/x.html"], [1]),
    "the loader": ([LOADER, "{url}"], [0, 1, 8]),
    "CINIC10": ([CINIC, "{url}"], [1, 4]),
    "CINIC10, 2 workers": ([WORKERS, "{url}"], [10]),
}
"""Name -> the command's words, or a program; and after how many requests the server stalls."""
BOUND_SECONDS = 2.0
"""Besides what a process needs to end that waits for nothing."""
NOTHING = """
from cinic_shards import CINIC10, ShardLoader
print("ready", flush=True)
input()
"""


@pytest.fixture(scope="module")
def usual_seconds() -> float:
    """Seconds that Python and torch need to end after Ctrl-C."""
    words = [sys.executable, "-c", NOTHING]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with started(words, **pipes) as process:
        assert process.stdout and process.stdout.readline()
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate()
        return time.monotonic() - start


@pytest.mark.parametrize(
    ("hears", "name", "after"),
    sampled(
        (
            (hears, name, after)
            for number, (name, (_, counts)) in enumerate(COMMANDS.items())
            for after in counts
            for hears in sorted(("all processes", "the first process"), reverse=number % 2 == 1)
        ),
        pytest.mark.long,
    ),
)
def test_ctrl_c_while_a_server_stalls(
    small_tree: Tree,
    seaweedfs: S3Server,
    url: str,
    stalls: FaultProxy,
    name: str,
    after: int,
    hears: str,
    usual_seconds: float,
    tmp_path: Path,
    record_property: Record,
) -> None:
    """Does a command end two seconds after Ctrl-C, whatever it waits for?

    A terminal sends it to all processes, a program such as ``timeout`` to one.
    """
    tokens = {
        "url": url, "out": str(tmp_path), "tree": str(small_tree.folder), "web": stalls.url,
        "bucket": f"s3://{seaweedfs.bucket}", "unique": f"new-{uuid4()}",
    }  # fmt: skip
    words = [word if word.startswith("\n") else word.format(**tokens) for word in COMMANDS[name][0]]
    if words[0].startswith("\n"):
        program = tmp_path / "program.py"
        program.write_text(words[0])
        words = [sys.executable, str(program), *words[1:]]
    else:
        words = [str(COMMAND), *words]
    stalls.counts.clear()
    stalls.faults.script, stalls.faults.chances = [""] * after, {"stall": 1.0}
    env = os.environ | behind(seaweedfs, stalls).environment
    with (
        open(tmp_path / "said", "w+") as said,
        started(words, env=env, stdout=said, stderr=said) as process,
    ):
        while not stalls.counts["stall"]:
            assert process.poll() is None, said.seek(0) or said.read()
            time.sleep(0.01)
        time.sleep(0.5)  # until it waits, with all that waits beside it
        assert process.poll() is None
        start = time.monotonic()
        if hears == "all processes":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        seconds = time.monotonic() - start
        said.seek(0)
        text = said.read()
    record_property("seconds", round(seconds, 2))
    record_property("usual_seconds", round(usual_seconds, 2))
    assert seconds < BOUND_SECONDS + usual_seconds, text
    assert process.returncode in (130, -signal.SIGINT), text
    assert "interrupted" in text or "KeyboardInterrupt" in text
