"""Packing on processes, on any Executor, and on a real dask cluster."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest
from make_demo_tree import make_tree

from cinic_shards import jobs
from cinic_shards.errors import OptionError, OutputError
from cinic_shards.jobs import open_executor, run_jobs
from cinic_shards.options import usable_cores
from cinic_shards.write.convert import convert
from cinic_shards.write.pack import PackOptions, pack
from cinic_shards.write.shard import write_shard
from tests.support.files import digests
from tests.support.servers import DaskCluster, dask_cluster, free_port

COMMAND = Path(sys.executable).with_name("cinic-shard")
SMALL = PackOptions(shard_size=64, block_size=32)


def num_workers(executor: Executor) -> int:
    return executor._max_workers  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree") / "cinic"
    make_tree(root, per_class=30, seed=0)
    return root


@pytest.mark.parametrize(
    ("where", "workers", "expected"),
    [(None, None, usable_cores()), (None, 3, 3), ("process:3", None, 3), ("process", 2, 2)],
)
def test_processes(where: str | None, workers: int | None, expected: int) -> None:
    with open_executor(where, workers) as executor:
        assert num_workers(executor) == expected


@pytest.mark.parametrize(
    ("where", "workers", "said"),
    [
        ("process:0", None, "workers=0: expected an integer, at least 1"),
        ("process:", None, "expected process, process:N or dask://host:8786"),
        ("process:-1", None, "expected process, process:N or dask://host:8786"),
        ("ray://host", None, "executor 'ray://host': expected process, process:N or dask"),
        ("process:2", 2, "2 workers and process:2: give only one of them"),
        ("dask://host:1", 2, "2 workers and dask://host:1: give only one of them"),
    ],
)
def test_invalid_executors_are_rejected(where: str, workers: int | None, said: str) -> None:
    with pytest.raises(OptionError, match=said), open_executor(where, workers):
        pass


def test_any_executor_gives_the_same_bytes_and_stays_open(tree: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "one", SMALL, workers=1)
    with ThreadPoolExecutor(3) as executor:
        pack(tree, tmp_path / "threads", SMALL, executor=executor)
        convert(tmp_path / "one", tmp_path / "raw", encoding="raw", executor=executor)
        assert executor.submit(abs, -1).result() == 1
    convert(tmp_path / "one", tmp_path / "raw1", encoding="raw", workers=1)
    assert digests(tmp_path / "one") == digests(tmp_path / "threads")
    assert digests(tmp_path / "raw") == digests(tmp_path / "raw1")


def test_the_callers_executor_stays_open_after_a_failure(tree: Path, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", per_class=3, seed=0)
    bad = next((tmp_path / "tree").glob("*/*/*.png"))
    bad.write_bytes(bad.read_bytes()[:100])
    with ThreadPoolExecutor(2) as executor:
        with pytest.raises(Exception, match=bad.name):
            pack(tmp_path / "tree", tmp_path / "out", executor=executor)
        assert not (tmp_path / "out").exists()
        pack(tree, tmp_path / "out", executor=executor)


class OtherReleases(ThreadPoolExecutor):
    """Workers that have a different release of pillow."""

    def submit(self, function, *args):  # type: ignore[no-untyped-def, override]
        if function is write_shard:
            (job,) = args
            args = (dataclasses.replace(job, libraries=job.libraries | {"pillow": "0.1"}),)
        return super().submit(function, *args)


def test_a_worker_with_different_releases_is_rejected(tree: Path, tmp_path: Path) -> None:
    with (
        OtherReleases(2) as executor,
        pytest.raises(OutputError, match=r"a worker on .* has .*'pillow'.* install the same"),
    ):
        pack(tree, tmp_path / "out", SMALL, executor=executor)
    assert not (tmp_path / "out").exists()


def test_no_scheduler(monkeypatch: pytest.MonkeyPatch, tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(jobs, "WAIT_SECONDS", 0.5)
    place = f"dask://127.0.0.1:{free_port()}"
    with pytest.raises(OptionError, match=f"{place}: no scheduler answers; start one"):
        pack(tree, tmp_path / "out", executor=place)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with dask_cluster(tmp_path_factory.mktemp("dask")) as started:
        yield started


@pytest.mark.real
def test_no_worker(monkeypatch: pytest.MonkeyPatch, tree: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(jobs, "WAIT_SECONDS", 1.0)
    with (
        dask_cluster(tmp_path, num_workers=0) as empty,
        pytest.raises(OptionError, match="has no worker; start some: dask worker tcp://"),
    ):
        pack(tree, tmp_path / "out", executor=empty.address)


@pytest.mark.real
def test_dask_gives_the_same_bytes(cluster: DaskCluster, tree: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "one", SMALL, workers=1)
    # Relative paths: the workers were started in a different folder.
    pack(
        Path(os.path.relpath(tree)), os.path.relpath(tmp_path / "dask"), SMALL,
        executor=cluster.address,
    )  # fmt: skip
    convert(tmp_path / "dask", tmp_path / "z", encoding="zstd", executor=cluster.address)
    convert(tmp_path / "one", tmp_path / "z1", encoding="zstd", workers=1)
    assert digests(tmp_path / "one") == digests(tmp_path / "dask")
    assert digests(tmp_path / "z") == digests(tmp_path / "z1")


@pytest.mark.real
def test_a_bad_image_is_reported_and_leaves_nothing(cluster: DaskCluster, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", per_class=30, seed=0)
    bad = next((tmp_path / "tree").glob("*/*/*.png"))
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(Exception, match=bad.name):
        pack(tmp_path / "tree", tmp_path / "out", SMALL, executor=cluster.address)
    assert not (tmp_path / "out").exists()


@pytest.mark.real
def test_a_killed_worker_does_not_matter(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", per_class=300, seed=0)
    pack(tmp_path / "tree", tmp_path / "one", SMALL, workers=1)
    (tmp_path / "dask").mkdir()
    with dask_cluster(tmp_path / "dask") as cluster:
        process = subprocess.Popen(
            [COMMAND, "pack", tmp_path / "tree", tmp_path / "out", "--shard-size", "64",
             "--block-size", "32", "--executor", cluster.address],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while process.poll() is None and len(list(tmp_path.glob("out/_packing/*.tar"))) < 5:
            time.sleep(0.002)
        assert process.poll() is None
        os.kill(cluster.workers[0].pid, signal.SIGKILL)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert digests(tmp_path / "out") == digests(tmp_path / "one")


@pytest.mark.real
def test_after_all_workers_died_the_same_call_resumes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(jobs, "WAIT_SECONDS", 2.0)
    make_tree(tmp_path / "tree", per_class=300, seed=0)
    pack(tmp_path / "tree", tmp_path / "one", SMALL, workers=1)
    (tmp_path / "dask").mkdir()
    with dask_cluster(tmp_path / "dask") as cluster, ThreadPoolExecutor(1) as thread:
        packing = thread.submit(
            pack, tmp_path / "tree", tmp_path / "out", SMALL, executor=cluster.address
        )
        while not packing.done() and len(list(tmp_path.glob("out/_packing/*.tar"))) < 5:
            time.sleep(0.002)
        assert not packing.done()
        for worker in cluster.workers:
            os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(OutputError, match="run the same command again"):
            packing.result(timeout=60)
    assert len(list(tmp_path.glob("out/_packing/*.tar"))) >= 5
    pack(tmp_path / "tree", tmp_path / "out", SMALL, workers=1)
    assert digests(tmp_path / "out") == digests(tmp_path / "one")


@pytest.mark.real
def test_an_error_of_a_job_on_a_cluster_is_raised(cluster: DaskCluster, tmp_path: Path) -> None:
    with open_executor(cluster.address, None) as executor, pytest.raises(FileNotFoundError):
        run_jobs(executor, os.listdir, [str(tmp_path / "missing")])
