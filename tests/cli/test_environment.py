"""An environment that others take for granted: home, folders, variables, umask, clock."""

import functools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cinic_shards.errors import OptionError
from cinic_shards.loader.cache import CACHE_BYTES_VARIABLE, CACHE_DIR_VARIABLE, Cache
from cinic_shards.loader.cinic10 import CINIC10
from cinic_shards.loader.loader import ShardLoader
from cinic_shards.loader.torch_datasets import ShardIterable
from cinic_shards.loader.world import default_threads, find_world
from cinic_shards.read.dataset import Dataset
from cinic_shards.store import open_store
from cinic_shards.write.pack import PackOptions, pack
from tests.support.command import Run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def read_with_disk_cache(shards: Path, cache: Cache | None = None) -> int:
    loader = ShardLoader(shards, cache=cache or Cache("disk"), batch_size=16, workers=1)
    return sum(len(labels) for _, labels in loader)


# --- Variables -------------------------------------------------------------------------------


def test_empty_variables_are_not_set(
    packed: dict[str, Path], here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = "RANK WORLD_SIZE LOCAL_WORLD_SIZE TMPDIR XDG_CACHE_HOME HF_ENDPOINT HF_TOKEN".split()
    for name in [*names, CACHE_DIR_VARIABLE, CACHE_BYTES_VARIABLE]:
        monkeypatch.setenv(name, "")
    assert find_world(None, None) == (0, 1) and default_threads() >= 1
    assert read_with_disk_cache(packed["zstd"]) == 80
    assert os.listdir(here) == [] and (tmp_path / ".cache" / "cinic-shards").is_dir()
    assert str(open_store("hf://me/set/a")) == "https://huggingface.co/me/set/resolve/main/a"


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("0", "0")])
def test_torchrun_variables_that_contradict_each_other(
    rank: str, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(OptionError, match=r"\$RANK is .*: expected a lower rank"):
        find_world(None, None)


@pytest.mark.parametrize("how", ["variable", "option"])
def test_a_cache_below_home(
    packed: dict[str, Path], here: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = Cache("disk", folder="~/cache" if how == "option" else None)
    if how == "variable":
        monkeypatch.setenv(CACHE_DIR_VARIABLE, "~/cache")
    assert read_with_disk_cache(packed["zstd"], cache) == 80
    assert os.listdir(here) == [] and (tmp_path / "cache").is_dir()


@pytest.mark.parametrize("folder", ["", "~", "~/cache", "s3://bucket/cache"])
def test_a_cache_folder_that_is_none(
    packed: dict[str, Path], here: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a home folder; ``expanduser`` then returns ``~`` unchanged."""
    monkeypatch.setattr(os.path, "expanduser", os.fspath)
    with pytest.raises(OptionError):
        Cache("disk", folder=folder)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(CACHE_DIR_VARIABLE, folder)
    with pytest.raises(OptionError, match=r"no home folder|is a URL"):
        read_with_disk_cache(packed["zstd"])
    assert os.listdir(here) == []


def test_a_missing_temporary_folder(
    run: Run, demo_tree: Path, demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would use /tmp, without a word."""
    archive = shutil.make_archive(str(tmp_path / "tree"), "gztar", demo_tree)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    for arguments in (
        ("verify", demo_shards, "--against", archive),
        ("pack", archive, "memory://temporary/out"),
    ):
        found = run(*arguments)
        assert found.status == 2 and f"error: $TMPDIR: {tmp_path / 'missing'}: exp" in found.err
    store = open_store("memory://temporary/x")
    with pytest.raises(OptionError, match=r"\$TMPDIR"), store.create("x"):
        pass


# --- Umask and working folder ----------------------------------------------------------------


def test_a_umask_that_forbids_everything(run: Run, demo_tree: Path, tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        found = run("pack", demo_tree, tmp_path / "out")
    finally:
        os.umask(before)
    assert found.status == 2 and found.err.startswith("error: the umask is 0777: ")
    assert os.listdir(tmp_path) == []


def test_readers_keep_their_folder(
    packed: dict[str, Path], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are opened after the working folder has changed."""
    monkeypatch.chdir(packed["png"].parent)
    dataset = Dataset("png")
    loader = ShardLoader("png", batch_size=16, workers=1)
    images, batches = CINIC10("png"), ShardIterable("png", batch_size=16)
    cache = Cache("disk", folder="cache")
    monkeypatch.chdir(here)
    assert len(dataset.columns) == 270
    assert sum(len(labels) for _, labels in loader) == 80
    assert images[0][1] == images.targets[0] and len(batches) == 5
    assert cache.folder == packed["png"].parent / "cache"
    assert os.listdir(here) == []


# --- Clock -----------------------------------------------------------------------------------


@pytest.fixture
def old_tree(tmp_path: Path, demo_tree: Path) -> Path:
    """A tree of 1938."""
    root = tmp_path / "old"
    shutil.copytree(demo_tree / "train" / "cat", root / "train" / "cat")
    for path in [*root.rglob("*"), root]:
        os.utime(path, (-1e9, -1e9))
    return root


@pytest.fixture
def clock_of_1970(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    epoch = time.gmtime(0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "localtime", lambda seconds=0: epoch)
    yield


def archives_of(root: Path) -> Iterator[Path]:
    """The tree in a tar and in a zip; their dates cannot be before 1970 and 1980."""
    yield root
    with tarfile.open(root.with_suffix(".tar"), "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(root, ".")
    yield root.with_suffix(".tar")
    with zipfile.ZipFile(root.with_suffix(".zip"), "w", strict_timestamps=False) as archive:
        for path in root.rglob("*.png"):
            archive.write(path, path.relative_to(root))
    yield root.with_suffix(".zip")


@pytest.mark.usefixtures("clock_of_1970")
def test_dates_before_1980(old_tree: Path, tmp_path: Path) -> None:
    manifests = [
        pack(source, tmp_path / f"out{number}", PackOptions(), workers=1)
        for number, source in enumerate(archives_of(old_tree))
    ]
    assert manifests[0] == manifests[1] == manifests[2]
    np.savez(tmp_path / "x.npz", a=np.arange(3))  # as restore-cifar10 does
    assert np.load(tmp_path / "x.npz")["a"].tolist() == [0, 1, 2]


# --- The cache of compiled kernels -----------------------------------------------------------

REAL = functools.partial(pytest.param, marks=pytest.mark.real)
KERNEL = """
import warnings
import numba.core.caching as caching
{prepare}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import kernel
    print(kernel.add(2))
print(len(caught), *[str(one.message) for one in caught])
"""
NOT_IN_TREE = "caching.InTreeCacheLocator.from_function = classmethod(lambda *one: None)"
NOWHERE = (
    NOT_IN_TREE + "\ncaching.UserWideCacheLocator.from_function = classmethod(lambda *o: None)"
)


def run_kernel(folder: Path, prepare: str = "", **environment: str) -> list[str]:
    """Compile a kernel in a fresh process, in a new working folder; return what it prints."""
    (folder / "here").mkdir(exist_ok=True)
    (folder / "kernel.py").write_text(
        "from cinic_shards.codec.kernels.base import kernel\n"
        "@kernel\ndef add(x):\n    return x + 1\n"
    )
    inherited = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "HOME")}
    paths = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KERNEL.format(prepare=prepare))],
        capture_output=True, text=True, timeout=60, cwd=folder / "here",
        env={**inherited, "PYTHONPATH": paths, "TMPDIR": str(folder)} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert os.listdir(folder / "here") == []
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "home", ["XDG_CACHE_HOME=", *map(REAL, ["XDG_CACHE_HOME=cache", "none writable"])]
)
def test_kernels_without_a_cache_folder_use_a_temporary_one(tmp_path: Path, home: str) -> None:
    name, _, value = home.partition("=")
    variables = {name: value} if name.isupper() else {}
    prepare = NOT_IN_TREE if variables else NOWHERE
    first = run_kernel(tmp_path, prepare, **variables)
    assert first[0] == "3" and first[1].startswith("1 compiled kernels are kept in ")
    (folder,) = tmp_path.glob("cinic-shards-kernels-*")
    assert folder.stat().st_mode & 0o777 == 0o700 and list(folder.rglob("*.nbc"))
    assert run_kernel(tmp_path, prepare, **variables) == ["3", "0"]


@pytest.mark.parametrize("how", ["open to others", *map(REAL, ["a link", "a file"])])
def test_a_temporary_folder_of_others_is_not_used(tmp_path: Path, how: str) -> None:
    """Its files would be executed."""
    folder = tmp_path / f"cinic-shards-kernels-{os.geteuid()}"
    if how == "a file":
        folder.touch()
    elif how == "a link":
        (tmp_path / "other").mkdir(mode=0o700)
        folder.symlink_to("other")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    first = run_kernel(tmp_path, NOWHERE)
    assert first[0] == "3"
    assert first[1].startswith("1 kernels are compiled again in every process: no folder")
    assert not list(tmp_path.rglob("*.nb?"))


def test_a_damaged_cache_of_kernels_only_costs_time(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert run_kernel(tmp_path, NUMBA_CACHE_DIR=str(cache)) == ["3", "0"]
    (index,) = cache.rglob("*.nbi")
    index.write_bytes(index.read_bytes()[:20])
    found = run_kernel(tmp_path, NUMBA_CACHE_DIR=str(cache))
    assert found[0] == "3" and found[1].startswith("1 kernels are compiled again in every process")


LISTEN = """
from cinic_shards.jobs.compiling import compiling_reported
listening = compiling_reported(print)
listening.__enter__()
"""


def test_compiling_is_reported_if_the_cache_is_cold(tmp_path: Path) -> None:
    cold = run_kernel(tmp_path, LISTEN, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert cold == ["compiling kernels, once on this machine", "3", "0"]
    assert run_kernel(tmp_path, LISTEN, NUMBA_CACHE_DIR=str(tmp_path / "cache")) == ["3", "0"]


COMPILE_AT_ONCE = """
import threading, time
from cinic_shards.codec.kernels import base, one_compiler

end = one_compiler.end_compiling
base.end_compiling = lambda times: (time.sleep(0.02), end(times))  # lets other threads run first
KERNELS
kernels = [globals()[f"add{number}"] for number in range(8)]
found = []

def call_all(first):
    found.append([kernel(1) for kernel in [*kernels[first:], *kernels[:first]]])

threads = [threading.Thread(target=call_all, args=(first,)) for first in (0, 0, 4, 4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*map(sorted, found), one_compiler._file, one_compiler._depth)
"""


def test_threads_that_compile_kernels_at_once(tmp_path: Path) -> None:
    each = "@base.kernel\ndef add{0}(x):\n    return x + {0}\n"
    kernels = "".join(each.format(number) for number in range(8))
    (tmp_path / "at_once.py").write_text(COMPILE_AT_ONCE.replace("KERNELS", kernels))
    done = subprocess.run(
        [sys.executable, tmp_path / "at_once.py"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout == f"{4 * f'{[*range(1, 9)]} '}None 0\n", done.stderr


@pytest.mark.real
@pytest.mark.parametrize(
    ("workers", "runs"), [("1", ([], [])), ("2", ([], [], ["--quiet"], ["--json"]))]
)
def test_a_command_says_once_that_kernels_are_compiled(
    demo_tree: Path, tmp_path: Path, workers: str, runs: tuple[list[str], ...]
) -> None:
    said = []
    for number, options in enumerate(runs):
        cache = tmp_path / ("cache" if number < 2 else f"cache{number}")
        command = [sys.executable, "-m", "cinic_shards", "pack", demo_tree, tmp_path / str(number)]
        done = subprocess.run(
            [*command, "--workers", workers, *options],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=True,
            env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        )  # fmt: skip
        said.append(done.stderr.count("compiling kernels, once on this machine\n"))
    assert said == [1, *[0] * (len(runs) - 1)]


@pytest.mark.real
@pytest.mark.parametrize("progress", [True, False])
def test_a_loader_says_with_progress_that_kernels_are_compiled(
    packed: dict[str, Path], tmp_path: Path, progress: bool
) -> None:
    script = f"""
        from cinic_shards import ShardLoader
        for _ in range(2):
            for batch in ShardLoader({str(packed["png"])!r}, batch_size=9, progress={progress}):
                pass
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE, text=True,
        check=True, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stderr.count("compiling kernels, once on this machine\n") == progress


@pytest.mark.real
def test_a_user_without_a_home(demo_tree: Path, tmp_path: Path) -> None:
    """User 2000 can read everything, as in a container, but write only to one folder."""
    user = "setpriv --reuid 2000 --regid 2000 --clear-groups --inh-caps +dac_read_search".split()
    user += ["--ambient-caps", "+dac_read_search", "env", "-i", f"TMPDIR={tmp_path / 'tmp'}"]
    user += [f"PYTHONPATH={os.pathsep.join(sys.path)}", "PYTHONDONTWRITEBYTECODE=1"]
    if not hasattr(os, "geteuid") or os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("NOT RUN: needs root and setpriv")
    for name in ("here", "tmp"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, 2000, 2000)
    tree = Path(shutil.copytree(demo_tree, tmp_path / "tree"))
    for folder in (tmp_path, *tmp_path.parents[:3], tree, *tree.glob("*"), *tree.glob("*/*")):
        folder.chmod(0o755)
    shards = tmp_path / "here" / "shards"
    errors = ""
    for command in (
        ["pack", tree, shards, "--encoding", "zstd", "--workers", "2"],
        ["verify", shards, "--against", tree, "--workers", "2"],
        ["show", shards, "-o", tmp_path / "here" / "x.png"],
        ["report", shards, "-o", tmp_path / "here" / "x.html"],
        ["warmup"],
    ):
        done = subprocess.run(
            [*user, sys.executable, "-m", "cinic_shards", *map(str, command)],
            capture_output=True, text=True, cwd=tmp_path / "here",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        errors += done.stderr
    assert errors.count("compiled kernels are kept in ") == 1 and not re.search(
        r"\bagain\b", errors
    )
    assert sorted(os.listdir(tmp_path / "here")) == ["shards", "x.html", "x.png"]
