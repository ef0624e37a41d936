"""Packing and downloads that are killed, on a disk, an object store, a cluster or a bad network."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
import pytest
from fault_proxy import FaultProxy, Faults

from tests.acceptance.trees import Record, Tree, cinic_shard, differences
from tests.support.command import COMMAND
from tests.support.files import digests
from tests.support.servers import S3Server, caddy, dask_cluster

KILLS, KILLS_OF_A_LARGE_TREE = 40, 10
KILLS_ON_A_STORE = 5
NUM_SHARDS = 100
"""About as many: so that a killed job has finished some."""
MAX_SENT = 1.1
"""Times an archive's bytes that are sent for it."""


def start(*arguments: object, **options: Any) -> "subprocess.Popen[bytes]":
    """Start the command."""
    return subprocess.Popen([str(COMMAND), *map(str, arguments)], **options)


def children_of(process_id: int) -> list[int]:
    """The processes that one started."""
    with suppress(FileNotFoundError):
        text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
        return [int(number) for number in text.split()]
    return []


def many_shards(tree: Tree) -> tuple[str, ...]:
    """Options for packing a tree into many shards."""
    return (*tree.options, "--shard-size", str(max(1, len(tree.keys) // NUM_SHARDS)))


def outcome(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """How far a killed job had come."""
    if found == expected:
        return "had finished"
    is_noted = any(name.endswith(".tar.json") for name in found)
    return "resumed" if is_noted else "started again"


def test_a_killed_packing_job_resumes(
    small_tree: Tree, tmp_path: Path, record_property: Record
) -> None:
    """Does a packing job that is killed at any moment end as if it had never been?

    With 1 to 4 workers, the command and one of its workers in turn get SIGKILL at a random moment;
    then the same command runs again. Linux only: workers are found in /proc.
    """
    command = ("pack", small_tree.folder, tmp_path / "out", "--quiet", *many_shards(small_tree))
    begun = time.perf_counter()
    cinic_shard(*command, "--workers", "2")
    usual_seconds = time.perf_counter() - begun
    expected = digests(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    chance = random.Random(0)
    outcomes: Counter[str] = Counter()
    num_kills = KILLS_OF_A_LARGE_TREE if small_tree.is_large else KILLS
    for number in range(num_kills):
        workers = chance.choice([1, 2, 3, 4])
        process = start(*command, "--workers", workers, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.1, 1.1) * usual_seconds)
        started = children_of(process.pid)
        victim = chance.choice(started[-workers:]) if number % 2 and started else process.pid
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        process.wait()
        who = "the command" if victim == process.pid else "a worker"
        found = outcome(digests(tmp_path / "out"), expected)
        outcomes[f"{who}: {found}"] += 1
        if found != "had finished":
            cinic_shard(*command, "--workers", chance.choice([1, 2, 3, 4]))
            after = digests(tmp_path / "out")
            assert differences(after, expected) == [], f"kill {number} of {who}"
        shutil.rmtree(tmp_path / "out")
    record_property("kills", num_kills)
    record_property("outcomes", dict(sorted(outcomes.items())))
    record_property("usual_seconds", round(usual_seconds, 2))
    assert any("resumed" in how for how in outcomes), "no killed job had finished a shard"


def in_bucket(server: S3Server, prefix: str) -> dict[str, str]:
    """SHA-256 of everything below a prefix, by a client that is not the package's."""
    client = server.client()
    found = {}
    for path in [item["path"] for batch in obstore.list(client, prefix) for item in batch]:
        digest = hashlib.sha256()
        for part in obstore.get(client, path).stream():
            digest.update(part)
        found[path.removeprefix(f"{prefix}/")] = digest.hexdigest()
    return found


def test_packing_to_an_object_store(
    small_tree: Tree, seaweedfs: S3Server, tmp_path: Path, record_property: Record
) -> None:
    """Has packing straight to S3 the bytes of a folder, and also after it was killed?

    On SeaweedFS, where ``verify`` finds the shards complete; killed jobs leave no file and no
    multipart upload beside them.
    """
    env = {**os.environ, **seaweedfs.environment}
    options = ("--quiet", *many_shards(small_tree))
    cinic_shard("pack", small_tree.folder, tmp_path / "expected", *options)
    expected = digests(tmp_path / "expected")

    def url(prefix: str) -> str:
        return f"s3://{seaweedfs.bucket}/{prefix}"

    begun = time.perf_counter()
    cinic_shard("pack", small_tree.folder, url("packed"), *options, env=env)
    seconds = time.perf_counter() - begun
    assert differences(in_bucket(seaweedfs, "packed"), expected) == []
    cinic_shard("verify", url("packed"), "--against", small_tree.folder, "--quiet", env=env)
    chance = random.Random(0)
    outcomes: Counter[str] = Counter()
    for number in range(KILLS_ON_A_STORE):
        job = ("pack", small_tree.folder, url(f"kill-{number}"), *options)
        process = start(*job, env=env, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.2, 1.0) * seconds)
        process.kill()
        process.wait()
        found = outcome(in_bucket(seaweedfs, f"kill-{number}"), expected)
        outcomes[found] += 1
        if found != "had finished":
            cinic_shard(*job, env=env)
            after = in_bucket(seaweedfs, f"kill-{number}")
            assert differences(after, expected) == [], f"kill {number}"
    assert seaweedfs.num_uploads() == 0, "multipart uploads that nobody ended"
    record_property("kills", KILLS_ON_A_STORE)
    record_property("outcomes", dict(outcomes))
    record_property("seconds_to_pack", round(seconds, 1))
    assert outcomes["resumed"], "no killed job had finished a shard"


@pytest.mark.parametrize("is_killed", [False, True], ids=["whole cluster", "a worker killed"])
def test_packing_on_a_dask_cluster(
    small_tree: Tree, is_killed: bool, tmp_path: Path, record_property: Record
) -> None:
    """Has packing on a dask cluster the same bytes, also if one of its two workers is killed?"""
    out, servers = tmp_path / "out", tmp_path / "dask"
    servers.mkdir()
    expected = digests(small_tree.packed("zstd"))
    with dask_cluster(servers) as cluster:
        where = ("--executor", cluster.address, "--encoding", "zstd", *small_tree.options)
        process = start("pack", small_tree.folder, out, "--quiet", *where)
        num_packed = 0
        while is_killed and process.poll() is None and num_packed < len(expected) // 5:
            time.sleep(0.01)
            num_packed = len(list(out.glob("_packing/*.tar")))
        if is_killed:
            assert process.poll() is None, "it was done before a worker could be killed"
            os.kill(cluster.workers[0].pid, signal.SIGKILL)
        assert process.wait() == 0
    assert differences(digests(out), expected) == []
    record_property("files_compared", len(expected))


def test_a_download_is_cut_again_and_again(
    small_tree: Tree, tmp_path: Path, record_property: Record
) -> None:
    """Is a download that is cut, reset and killed the same bytes, with hardly a byte sent twice?

    The tree as a tar.gz on a web server, behind a proxy that also answers 503, and counts bytes.
    """
    archive = small_tree.archive("CINIC-10.tar.gz")
    size, sha256 = archive.stat().st_size, hashlib.sha256(archive.read_bytes()).hexdigest()
    out, web = tmp_path / "fetched" / archive.name, tmp_path / "web"
    served = tmp_path / "served"
    for folder in (out.parent, web, served):
        folder.mkdir()
    (served / archive.name).symlink_to(archive)
    faults = Faults(bytes_a_second=size / 10)  # slow until the command is killed
    with caddy(web, served) as url:
        address = urlsplit(url)
        assert address.hostname and address.port
        with FaultProxy((address.hostname, address.port), faults) as proxy:
            command = ("fetch", out, "--accept-hash", sha256, "--quiet", "--url")
            process = start(*command, f"{proxy.url}/{archive.name}")
            part = out.with_name(f"{out.name}.part")
            while process.poll() is None and not (
                part.exists() and part.stat().st_size > size / 10
            ):
                time.sleep(0.05)
            assert process.poll() is None, "it was done before it could be killed"
            process.kill()
            process.wait()
            faults.bytes_a_second = 0.0
            faults.script += ["cut", "503", "cut", "reset", "cut", "cut"]
            faults.chances = {"cut": 0.5, "reset": 0.1, "503": 0.1}
            cinic_shard(*command, f"{proxy.url}/{archive.name}")
            counts, sent = dict(proxy.counts), proxy.num_sent
    assert hashlib.sha256(out.read_bytes()).hexdigest() == sha256
    assert os.listdir(out.parent) == [out.name]
    record_property("requests_by_fault", counts)
    record_property("sent", round(sent / size, 3))
    assert counts.get("cut", 0) >= 4 and sent <= MAX_SENT * size
