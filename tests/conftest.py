"""Fixtures that many test modules use: trees and their datasets, listing orders, disks, servers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from make_demo_tree import make_tree

from cinic_shards import cli, options
from cinic_shards.codec import ENCODINGS
from cinic_shards.store import system
from cinic_shards.write.pack import PackOptions, pack
from tests.support import servers
from tests.support.command import Outcome, Run, outcome


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of tests/acceptance, here because pytest reads them only from this far up."""
    group = parser.getgroup("acceptance")
    group.addoption("--tree", type=Path, help="folder of CINIC-10's PNGs; default: small trees")
    group.addoption("--sources", type=Path, help="cifar-10-python.tar.gz and synsets/*.tar")
    group.addoption("--kills", default="4", help="kills of each command; default: 4")
    group.addoption("--secrets-step", default="13", help="test every n-th case; default: 13")
    group.addoption("--results", type=Path, help="write a JSON line for each test")
    parser.addoption("--screenshots", type=Path, help="keep pictures of pages in this folder")


@pytest.fixture(scope="session", autouse=True)
def _no_syncs() -> Iterator[None]:
    """Do not wait for the disk, which takes most of the time of a small packing.

    Processes that tests start do wait; tests/support/disk.py notes the calls for power cuts.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(system, "_syncfs", lambda descriptor: None)
        yield


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process, with one worker by default: quicker than starting any."""
    monkeypatch.setattr(options, "usable_cores", lambda: 1)

    def run_main(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["cinic-shard", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        return outcome(status, *capsys.readouterr())

    return run_main


@pytest.fixture(scope="session")
def demo_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 images of each split; read only."""
    root = tmp_path_factory.mktemp("demo") / "tree"
    make_tree(root, per_class=9, seed=0)
    return root


@pytest.fixture(scope="session")
def packed(demo_tree: Path) -> dict[str, Path]:
    """``demo_tree`` in each encoding: shards of 40, 40 and 10 samples, blocks of 16; read only."""
    folders = {encoding: demo_tree.parent / encoding for encoding in ENCODINGS}
    for encoding, folder in folders.items():
        options = PackOptions(encoding=encoding, shard_size=40, block_size=16)
        pack(demo_tree, folder, options, workers=1)
    return folders


@pytest.fixture(scope="session")
def demo_shards(demo_tree: Path) -> Path:
    """``demo_tree`` in shards of 40, 40 and 10 samples; read only."""
    out = demo_tree.parent / "shards"
    pack(demo_tree, out, PackOptions(shard_size=40), workers=1)
    return out


@pytest.fixture
def shards(demo_shards: Path, tmp_path: Path) -> Path:
    """A copy of ``demo_shards`` to change or damage."""
    return Path(shutil.copytree(demo_shards, tmp_path / "shards"))


@pytest.fixture(scope="session")
def encoded_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """180 images of each split; read only."""
    root = tmp_path_factory.mktemp("encoded") / "tree"
    make_tree(root, per_class=18, seed=6)
    return root


@pytest.fixture(scope="session")
def encoded(encoded_tree: Path) -> dict[str, Path]:
    """``encoded_tree`` in each encoding, by its name: 14 blocks of 16 in 4 shards a split."""
    out = {encoding: encoded_tree.parent / encoding for encoding in ENCODINGS}
    for encoding, shards in out.items():
        options = PackOptions(encoding=encoding, shard_size=50, block_size=16)
        pack(encoded_tree, shards, options, workers=1)
    return out


@pytest.fixture(params=["sorted", "reversed", "by length"])
def listing_order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """List folders in this order: file systems differ in theirs."""
    listdir, scandir = os.listdir, os.scandir
    order: Callable[[str], Any] = {
        "sorted": str,
        "reversed": lambda name: [-ord(letter) for letter in name],
        "by length": lambda name: (len(name), name[::-1]),
    }[request.param]

    class Entries(list[Any]):
        """Stand-in for the result of ``os.scandir``: an iterator that can be closed."""

        def __enter__(self) -> "Entries":
            return self

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(os, "listdir", lambda path=".": sorted(listdir(path), key=order))
    monkeypatch.setattr(
        os, "scandir", lambda path=".": Entries(sorted(scandir(path), key=lambda e: order(e.name)))
    )
    return str(request.param)


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a disk of ``num_bytes``, rounded up to full pages: a tmpfs, which needs root."""
    disk = tmp_path / "disk"

    def mount(num_bytes: int) -> Path:
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(disk)]
        if sys.platform != "linux" or subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
            pytest.skip("NOT RUN: a small tmpfs to fill up cannot be mounted here; it needs root")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    """An S3 server."""
    with servers.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def juicefs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    """An S3 server of a different implementation."""
    with servers.juicefs(tmp_path_factory.mktemp("juicefs")) as server:
        yield server


@pytest.fixture(scope="session")
def web_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``web`` serves."""
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="session")
def web(web_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A web server's URL."""
    with servers.caddy(tmp_path_factory.mktemp("caddy"), web_root) as url:
        yield url
