"""Complete jobs on URLs: the same bytes as in a folder, also after any interruption."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cinic_shards.check.reindex import reindex
from cinic_shards.check.verify import verify
from cinic_shards.errors import CinicShardsError, OptionError, OutputError, StoreError, TreeError
from cinic_shards.format import PACKING_FOLDER
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.open import read_manifest
from cinic_shards.store import Store, open_store
from cinic_shards.view.duplicates import find_duplicates
from cinic_shards.write.convert import convert
from cinic_shards.write.journal import Journal
from cinic_shards.write.pack import PackOptions, pack
from cinic_shards.write.unpack import unpack
from tests.support.files import write
from tests.support.servers import S3Server
from tests.support.tiny_servers import Server, tiny_server

OPTIONS = PackOptions(shard_size=40)


def digests(place: str | Path | Store) -> dict[str, str]:
    """Return name -> SHA-256 of every file of a store."""
    store = open_store(place)
    return {
        name: hashlib.sha256(store.map(name, store.size(name)).data).hexdigest()
        for name in store.names()
        if name != PACKING_FOLDER
    }


@pytest.fixture
def place() -> str:
    """A URL of a store in this process's memory."""
    return f"memory://{uuid4()}/a/cinic"


@pytest.fixture
def packed(place: str, demo_tree: Path) -> str:
    pack(demo_tree, place, OPTIONS, workers=1)
    return place


def test_packed_as_in_a_folder(packed: str, demo_shards: Path) -> None:
    assert digests(packed) == digests(demo_shards)
    assert open_store(packed).folder(PACKING_FOLDER).names() == []


def test_verify(packed: str, demo_tree: Path) -> None:
    found = verify(packed, against=demo_tree, workers=1)
    assert found.is_whole and found.num_samples == 270 and found.strays == ()


def test_verify_names_a_fault(packed: str) -> None:
    store = open_store(packed)
    name = "train-00001-of-00003.tar"
    data = bytearray(store.map(name, store.size(name)).tobytes())
    data[5000] ^= 1
    with store.create(name) as file:
        file.write(data)
    with store.create("stray") as file:
        file.write(b"x")
    found = verify(packed, workers=1)
    assert {fault.location.file for fault in found.faults} == {name} and found.strays == ("stray",)
    store.delete(name)
    (fault,) = verify(packed, workers=1).faults
    assert str(fault) == f"{name}: not found"


def test_info(packed: str, demo_shards: Path) -> None:
    dataset, local = Dataset(packed), Dataset(demo_shards)
    assert dataset.summary() == local.summary()
    found = find_duplicates(dataset.store, dataset.manifest)
    assert found == find_duplicates(local.store, local.manifest)


def test_unpack(packed: str, demo_tree: Path, tmp_path: Path) -> None:
    assert unpack(packed, tmp_path / "again", workers=1).num_written == 270
    for path in demo_tree.rglob("*.png"):
        again = tmp_path / "again" / path.relative_to(demo_tree)
        assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
def test_convert(packed: str, demo_shards: Path, tmp_path: Path, encoding: str) -> None:
    convert(demo_shards, tmp_path / "local", encoding=encoding, workers=1)
    expected = digests(tmp_path / "local")
    convert(packed, f"{packed}-2", encoding=encoding, workers=1)
    convert(packed, tmp_path / "from", encoding=encoding, workers=1)
    convert(demo_shards, f"{packed}-3", encoding=encoding, workers=1)
    for place in (f"{packed}-2", tmp_path / "from", f"{packed}-3"):
        assert digests(place) == expected


def test_convert_to_itself_is_rejected(packed: str) -> None:
    with pytest.raises(OptionError, match="is the input dataset"):
        convert(packed, f"{packed}/", encoding="raw", workers=1)


def test_reindex(packed: str) -> None:
    store = open_store(packed)
    before = digests(packed)
    store.delete("manifest.json")
    with pytest.raises(StoreError, match="cinic-shard reindex rebuilds it"):
        Dataset(packed)
    reindex(packed, workers=1)
    assert digests(packed).keys() == before.keys() and verify(packed, workers=1).is_whole


def test_existing_files_are_not_overwritten(packed: str, demo_tree: Path) -> None:
    before = digests(packed)
    with pytest.raises(OutputError, match=f"^{packed}: already holds a dataset; --overwrite"):
        pack(demo_tree, packed, OPTIONS, workers=1)
    with open_store(packed).create("other") as file:
        file.write(b"x")
    with pytest.raises(OutputError, match="holds other, which its manifest does not name"):
        pack(demo_tree, packed, OPTIONS, workers=1, overwrite=True)
    open_store(packed).delete("other")
    assert digests(packed) == before


def test_overwrite(packed: str, demo_tree: Path, tmp_path: Path) -> None:
    pack(demo_tree, packed, PackOptions(shard_size=70), workers=1, overwrite=True)
    pack(demo_tree, tmp_path / "local", PackOptions(shard_size=70), workers=1)
    assert digests(packed) == digests(tmp_path / "local")


def test_a_bad_tree_leaves_the_output_as_it_was(packed: str, tmp_path: Path) -> None:
    before = digests(packed)
    write(tmp_path / "bad", *(f"train/a/{number}.png" for number in range(50)))
    path = tmp_path / "bad" / "train" / "a" / "7.png"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(TreeError, match=r"train/a/7\.png"):
        pack(tmp_path / "bad", packed, OPTIONS, workers=1, overwrite=True)
    assert digests(packed) == before
    assert open_store(packed).folder(PACKING_FOLDER).names() == []


class Stopped(BaseException):
    """Stands for the end of the process: nothing is cleaned up."""


def stop_in(owner: object, method: str, when: Callable[[tuple[object, ...]], bool]):  # type: ignore[no-untyped-def]
    """Make a method that raises Stopped instead of its work if ``when`` accepts its arguments."""
    original = getattr(owner, method)

    def stopping(*args: object, **options: object) -> object:
        if when(args):
            raise Stopped
        return original(*args, **options)

    return stopping


MOMENTS: dict[str, tuple[str, Callable[[tuple[object, ...]], bool]]] = {
    "before the listing": ("create", lambda args: args[1] == "listing.npz"),
    "before the first note": ("create", lambda args: args[1] == "begin.json"),
    "before a shard": ("create", lambda args: args[1] == "train-00001-of-00003.tar"),
    "before a shard's note": ("create", lambda args: args[1] == "train-00001-of-00003.tar.json"),
    "before the manifest": ("create", lambda args: args[1] == "manifest.json"),
    "before moving": ("create", lambda args: args[1] == "moving.json"),
    "after some moves": ("take", lambda args: args[2] == "train-00001-of-00003.tar"),
    "before the manifest moves": ("take", lambda args: args[2] == "manifest.json"),
    "before the notes go": ("delete", lambda args: args[1] == "train-00001-of-00003.tar.json"),
    "before the journal goes": ("delete", lambda args: args[1] == "listing.npz"),
    "within the journal's end": ("delete", lambda args: args[1] == "moving.json"),
}


@pytest.mark.parametrize("old", ["no older dataset", "an older dataset"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_same_command_resumes(
    place: str,
    demo_tree: Path,
    demo_shards: Path,
    moment: str,
    old: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overwrite = old == "an older dataset"
    if overwrite:
        pack(demo_tree, place, PackOptions(shard_size=30), workers=1)
    before = digests(place)
    store = open_store(place)
    with monkeypatch.context() as patch:
        method, when = MOMENTS[moment]
        patch.setattr(type(store), method, stop_in(type(store), method, when))
        if method in ("create", "take"):  # nothing is undone, as if the process was killed
            patch.setattr(Journal, "remove", lambda journal: None)
        with pytest.raises(Stopped):
            pack(demo_tree, place, OPTIONS, workers=1, overwrite=overwrite)
    try:  # if there is a manifest, the dataset is complete: the old or the new one
        read_manifest(store)
        assert digests(place) in (before, digests(demo_shards))
    except StoreError as error:
        assert "packing did not finish" in str(error)
    pack(demo_tree, place, OPTIONS, workers=1, overwrite=overwrite)
    assert digests(place) == digests(demo_shards)
    assert store.folder(PACKING_FOLDER).names() == []


@pytest.fixture
def stalling() -> Iterator[tuple[Server, Callable[..., Store]]]:
    """A server that stalls at the first file of a job, and a function that opens a store there."""
    with tiny_server() as server:
        server.stalls_at = "listing.npz"
        options = {"endpoint_url": f"http://{server.host}", "region": "us-east-1"}
        options |= {"access_key_id": "me", "secret_access_key": "secret"}
        yield server, lambda **more: open_store("s3://bucket/cinic", options | more)


def test_ctrl_c_while_a_server_stalls_at_the_start(
    stalling: tuple[Server, Callable[..., Store]], demo_tree: Path, demo_shards: Path
) -> None:
    """No request is made after it. The request under way may still write its file later."""
    server, opened = stalling
    store = opened(read_timeout=3, write_timeout=3, retry_timeout=3)
    main = threading.get_ident()

    def interrupt() -> None:
        server.stalled.wait()
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as found:
        pack(demo_tree, store, OPTIONS, workers=1)
    thread.join()
    assert "run the same command again to resume" in found.value.__notes__[0]
    server.mended.set()
    while not any(path.endswith("-listing.npz") for path in server.files):
        time.sleep(0.01)
    pack(demo_tree, store, OPTIONS, workers=1)
    assert digests(store) == digests(demo_shards)
    assert not any(PACKING_FOLDER in path for path in server.files)


def test_a_server_that_is_lost_at_the_start(
    stalling: tuple[Server, Callable[..., Store]], demo_tree: Path
) -> None:
    _, opened = stalling
    store = opened(read_timeout=0.2, write_timeout=0.2, retry_timeout=0.2)
    with pytest.raises(OutputError, match=r"listing\.npz: PUT, .*no answer in time") as found:
        pack(demo_tree, store, OPTIONS, workers=1)
    assert "run the same command again to resume" in found.value.__notes__[0]


def test_a_job_that_was_killed_at_its_very_end_is_complete(
    place: str, demo_tree: Path, demo_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(place)
    with monkeypatch.context() as patch:
        ends = stop_in(type(store), "delete", lambda args: args[1] == "lock")
        patch.setattr(type(store), "delete", ends)
        with pytest.raises(Stopped):
            pack(demo_tree, place, OPTIONS, workers=1)
    assert digests(place) == digests(demo_shards) and Dataset(place).summary()
    with pytest.raises(OutputError, match="already holds a dataset"):
        pack(demo_tree, place, OPTIONS, workers=1)
    pack(demo_tree, place, OPTIONS, workers=1, overwrite=True)
    assert store.folder(PACKING_FOLDER).names() == []


# The command line, with a real server


@pytest.mark.real
@pytest.mark.parametrize("server", ["seaweedfs", "juicefs"])
def test_the_command_line_on_a_server(
    server: str, request: pytest.FixtureRequest, demo_tree: Path, demo_shards: Path, tmp_path: Path
) -> None:
    s3: S3Server = request.getfixturevalue(server)
    place = f"s3://{s3.bucket}/{uuid4()}/cinic"

    def run(*arguments: str | Path) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cinic_shards", *arguments],
            env={**os.environ, **s3.environment},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        return done.stdout

    run("pack", demo_tree, place, "--shard-size", "40", "--workers", "2")
    assert digests(open_store(place, s3.storage_options)) == digests(demo_shards)
    assert "intact, same as" in run("verify", place, "--against", demo_tree)
    assert "images" in run("info", place)
    assert "have duplicates" in run("info", place, "--duplicates")
    run("convert", place, f"{place}-raw", "--encoding", "raw")
    run("unpack", f"{place}-raw", tmp_path / "tree")
    assert len(list((tmp_path / "tree").rglob("*.png"))) == 270


@pytest.mark.real
def test_from_a_web_server(
    web: str, web_root: Path, demo_tree: Path, demo_shards: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_shards, web_root / "cinic")
    place = f"{web}/cinic"
    assert verify(place, against=demo_tree, workers=2).is_whole
    assert Dataset(place).summary() == Dataset(demo_shards).summary()
    convert(place, tmp_path / "copy", encoding="png", workers=1)
    assert digests(tmp_path / "copy") == digests(demo_shards)
    assert unpack(place, tmp_path / "tree", workers=1).num_written == 270
    with pytest.raises(OptionError, match="a web server does not list its files"):
        reindex(place, workers=1)


def start_packing(
    server: S3Server, tree: Path, place: str, workers: int
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cinic_shards", "pack", tree, place, "--shard-size", "40"]
    environment = {**os.environ, **server.environment}
    return subprocess.Popen([*command, "--workers", str(workers), "-q"], env=environment)


@pytest.fixture(scope="module")
def usual_seconds(seaweedfs: S3Server, demo_tree: Path) -> float:
    """Seconds that the command takes on this machine if nothing interrupts it."""
    start = time.monotonic()
    place = f"s3://{seaweedfs.bucket}/{uuid4()}/cinic"
    assert start_packing(seaweedfs, demo_tree, place, 2).wait() == 0
    return time.monotonic() - start


@pytest.mark.real
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment(
    seaweedfs: S3Server, demo_tree: Path, demo_shards: Path, usual_seconds: float, seed: int
) -> None:
    place = f"s3://{seaweedfs.bucket}/{uuid4()}/cinic"
    process = start_packing(seaweedfs, demo_tree, place, 2)
    time.sleep(random.Random(seed).uniform(0.2, 1.0) * usual_seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = open_store(place, seaweedfs.storage_options)
    try:
        is_done = digests(store) == digests(demo_shards) and not store.folder("_packing").names()
    except CinicShardsError:
        is_done = False
    if not is_done:
        assert start_packing(seaweedfs, demo_tree, place, 1).wait() == 0
    assert digests(open_store(place, seaweedfs.storage_options)) == digests(demo_shards)
    assert store.folder("_packing").names() == []
