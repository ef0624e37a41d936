"""Caches change only where pixels come from; blocks that fit are decoded once."""

import errno
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cinic_shards.errors import OptionError
from cinic_shards.loader import cache as cache_module
from cinic_shards.loader.block_source import BlockEpoch, BlockSource
from cinic_shards.loader.cache import CACHE_DIR_VARIABLE, Cache, _folder_of
from cinic_shards.loader.cache_folder import CachedSplit, cached_splits, remove
from cinic_shards.loader.loader import ShardLoader
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.split import SplitReader
from cinic_shards.write.pack import PackOptions, pack
from tests.support.command import Run
from tests.support.processes import start_forked, wait_for

ENCODINGS = ("png", "zstd", "raw")
NUM_BLOCKS = 7
"""Blocks of the split train: 90 samples in shards of 40, blocks of 16."""


@pytest.fixture(scope="module", params=ENCODINGS)
def shards(request: pytest.FixtureRequest, packed: dict[str, Path]) -> Path:
    return packed[request.param]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the decoded blocks, in order."""
    blocks: list[int] = []
    read_block = SplitReader.read_block

    def count(self: Any, block: int, out: Any) -> Any:
        blocks.append(block)
        return read_block(self, block, out)

    monkeypatch.setattr(SplitReader, "read_block", count)
    return blocks


def cache_in(folder: Path, kind: Any) -> Cache:
    return Cache(kind, folder=folder if kind == "disk" else None)


def epochs(loader: ShardLoader, count: int = 2) -> list[tuple[bytes, list[int]]]:
    return [
        (batch.images.contiguous().numpy().tobytes(), batch.indices.tolist())
        for _ in range(count)
        for batch in loader
    ]


@pytest.mark.parametrize("order", ["window", "full"])
@pytest.mark.parametrize("cache", ["ram", "disk", "device"])
def test_a_cache_never_changes_a_batch(
    shards: Path, tmp_path: Path, cache: str, order: str
) -> None:
    plain = ShardLoader(shards, batch_size=7, cache="ram", order=order)
    other = ShardLoader(shards, batch_size=7, cache=cache_in(tmp_path, cache), order=order)
    assert epochs(plain) == epochs(other)


@pytest.mark.parametrize("cache", ["ram", "disk", "device"])
def test_a_second_epoch_decodes_nothing(
    shards: Path, tmp_path: Path, cache: str, decoded: list[int]
) -> None:
    loader = ShardLoader(shards, batch_size=7, tail="short", cache=cache_in(tmp_path, cache))
    epochs(loader, 1)
    if "raw" in shards.name and cache != "device":
        assert decoded == []  # the shards are the cache
    else:
        assert sorted(decoded) == list(range(NUM_BLOCKS))
    del decoded[:]
    epochs(loader, 2)
    assert decoded == []


def test_without_a_cache_each_block_is_decoded_once_an_epoch(
    demo_tree: Path, tmp_path: Path, decoded: list[int]
) -> None:
    """True if the lanes are longer than the blocks, and one rank reads everything."""
    pack(demo_tree, tmp_path, PackOptions(encoding="zstd", block_size=5), workers=1)
    loader = ShardLoader(tmp_path, batch_size=4, tail="short")
    for _ in range(3):
        del decoded[:]
        epochs(loader, 1)
        assert sorted(decoded) == list(range(18))


def test_a_cache_with_room_for_some_blocks(shards: Path, decoded: list[int]) -> None:
    cache = Cache("ram", max_bytes=100_000)
    some = ShardLoader(shards, batch_size=7, tail="short", cache=cache)
    assert epochs(some) == epochs(ShardLoader(shards, batch_size=7, tail="short"))
    del decoded[:]
    epochs(some, 1)
    if "raw" not in shards.name:
        assert set(decoded) == set(range(2, NUM_BLOCKS))  # 32 images of 3,072 bytes fit


def test_blocks_that_no_step_needs_are_released(demo_tree: Path, tmp_path: Path) -> None:
    pack(demo_tree, tmp_path, PackOptions(encoding="zstd", block_size=3), workers=1)
    loader = ShardLoader(tmp_path, batch_size=3, workers=1, shuffle=False)
    made: list[int] = []
    empty = np.empty

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        @staticmethod
        def empty(shape: Any, *args: Any, **options: Any) -> Any:
            made.append(isinstance(shape, tuple))
            return empty(shape, *args, **options)

    from cinic_shards.loader import block_source as source

    patch = pytest.MonkeyPatch()
    patch.setattr(source, "np", Counting())
    patch.setattr(source, "IMAGES_AT_ONCE", 1)
    try:
        assert len(epochs(loader, 1)) == 30
    finally:
        patch.undo()
    assert sum(made) <= 22  # 16 steps ahead, and a few under way


def test_a_different_process_uses_the_blocks_on_disk(
    shards: Path, tmp_path: Path, decoded: list[int]
) -> None:
    def read_all() -> None:
        os.environ["CINIC_SHARDS_CACHE_DIR"] = str(tmp_path)
        for _ in ShardLoader(shards, batch_size=7, cache="disk", tail="short"):
            pass

    assert [wait_for(child) for child in [start_forked(read_all) for _ in range(2)]] == [0, 0]
    cache = Cache("disk", folder=tmp_path)
    loader = ShardLoader(shards, batch_size=7, tail="short", cache=cache)
    assert epochs(loader, 1)
    assert decoded == []


@pytest.mark.skipif(sys.platform != "linux", reason="the default folder on Linux")
@pytest.mark.parametrize("xdg", ["", "caches"])
def test_the_default_folder(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xdg: str
) -> None:
    monkeypatch.delenv(CACHE_DIR_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / xdg) if xdg else "")
    dataset = Dataset(shards)
    found = _folder_of(Cache("disk"), dataset.manifest, dataset.split("train"))
    assert found.parent.parent == tmp_path / (xdg or ".cache") / "cinic-shards"
    assert found.name == "train" and len(found.parent.name) == 32


def test_a_half_written_block_is_decoded_again(
    shards: Path, tmp_path: Path, decoded: list[int]
) -> None:
    if "raw" in shards.name:
        pytest.skip("raw shards need no cache on disk")
    options: dict[str, Any] = {
        "batch_size": 7, "tail": "short", "cache": Cache("disk", folder=tmp_path)
    }  # fmt: skip
    expected = epochs(ShardLoader(shards, **options), 1)
    (path,) = tmp_path.glob("*/train/pixels")
    with open(path, "r+b") as file:
        file.seek(20 * 3072)
        file.write(bytes(3072))
    del decoded[:]
    assert epochs(ShardLoader(shards, **options), 1) == expected
    assert decoded == [1]


def test_invalid_caches(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(**options: Any) -> ShardLoader:
        return ShardLoader(shards, batch_size=7, **options)

    with pytest.raises(OptionError, match="cache='gpu': expected one of none, ram, disk, device"):
        load(cache="gpu")
    if "raw" in shards.name:
        return
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OptionError, match=r"cache='disk': .*; set folder of the Cache to a writ"):
        load(cache=Cache("disk", folder=tmp_path / "file"))
    monkeypatch.setenv("CINIC_SHARDS_CACHE_BYTES", "1 GB")
    with pytest.raises(OptionError, match=r"\$CINIC_SHARDS_CACHE_BYTES is '1 GB', expected a num"):
        load(cache="ram")
    monkeypatch.setenv("CINIC_SHARDS_CACHE_BYTES", "-1")
    with pytest.raises(OptionError, match=r"\$CINIC_SHARDS_CACHE_BYTES=-1: expected"):
        load(cache="ram")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("gpu", {}, "kind='gpu': expected one of none, ram, disk, device"),
        ("ram", {"max_bytes": -1}, "max_bytes=-1: expected an integer, at least 0"),
        ("ram", {"max_bytes": 1e9}, "max_bytes=1000000000.0: expected an integer"),
        ("none", {"max_bytes": 1}, "max_bytes is for ram and disk, not for cache='none'"),
        ("device", {"max_bytes": 1}, "max_bytes is for ram and disk, not for cache='device'"),
        ("ram", {"folder": "x"}, "folder is for disk, not for cache='ram'"),
    ],
)
def test_invalid_options_of_a_cache(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Cache(kind, **options)


def test_the_environment_limits_a_cache_without_max_bytes(
    shards: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    if "raw" in shards.name:
        pytest.skip("raw shards are the cache")
    monkeypatch.setenv("CINIC_SHARDS_CACHE_BYTES", "100000")
    for cache, left in ((Cache("ram"), 5), (Cache("ram", max_bytes=10**9), 0)):
        loader = ShardLoader(shards, batch_size=7, tail="short", cache=cache)
        epochs(loader, 1)
        del decoded[:]
        epochs(loader, 1)
        assert len(set(decoded)) == left


def test_a_full_disk(shards: Path, mount_disk: Any) -> None:
    if "raw" in shards.name:
        pytest.skip("raw shards need no cache on disk")
    disk = mount_disk(80_000)
    with pytest.raises(OptionError, match=r"the split's pixels need 0\.3 MB, 0\.\d MB are free"):
        ShardLoader(shards, batch_size=7, cache=Cache("disk", folder=disk))


def test_full_order_of_uncached_zstd(shards: Path) -> None:
    options: dict[str, Any] = {"batch_size": 7, "order": "full"}
    if "zstd" not in shards.name:
        ShardLoader(shards, **options)
    if "png" in shards.name:
        with pytest.raises(OptionError, match="decode an entire png block for nearly"):
            ShardLoader(shards, cache=Cache("ram", max_bytes=1000), **options)
    if "zstd" not in shards.name:
        return
    with pytest.raises(OptionError, match="order='full' would decode an entire zstd block"):
        ShardLoader(shards, **options)
    with pytest.raises(OptionError, match="order='full'"):
        ShardLoader(shards, cache=Cache("ram", max_bytes=1000), **options)
    ShardLoader(shards, cache="ram", **options)
    ShardLoader(shards, shuffle=False, batch_size=7, order="full")


def test_processes_that_wait_for_each_other_do_not_deadlock(
    demo_tree: Path, tmp_path: Path
) -> None:
    """Each has threads that lock some blocks and wait for others; the kernel could see a cycle."""
    pack(demo_tree, tmp_path / "shards", PackOptions(encoding="zstd", block_size=4), workers=1)
    read_block = SplitReader.read_block

    def slow(self: SplitReader, *arguments: Any) -> Any:
        time.sleep(0.01)
        return read_block(self, *arguments)

    def read_all(seed: int) -> None:
        SplitReader.read_block = slow  # type: ignore[method-assign]
        cache = Cache("disk", folder=tmp_path / "cache")
        for _ in ShardLoader(tmp_path / "shards", batch_size=8, workers=4, cache=cache, seed=seed):
            pass

    children = [start_forked(partial(read_all, seed)) for seed in range(3)]
    assert [wait_for(child) for child in children] == [0, 0, 0]


@contextmanager
def stopped_holder(path: Path, positions: list[int]) -> Iterator[int]:
    """A stopped process that holds the locks of some bytes of a file; yields its process id."""

    def hold() -> None:
        descriptor = os.open(path, os.O_RDWR)
        for position in positions:
            fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, position)
        os.kill(os.getpid(), signal.SIGSTOP)

    child = start_forked(hold)
    os.waitpid(child, os.WUNTRACED)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGCONT)
        assert wait_for(child) == 0


def zstd_loader(packed: dict[str, Path], folder: Path) -> ShardLoader:
    cache = Cache("disk", folder=folder)
    return ShardLoader(packed["zstd"], batch_size=7, tail="short", cache=cache)


def test_a_stopped_process_that_holds_blocks_is_named_and_not_waited_for(
    packed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    monkeypatch.setattr(cache_module, "WAIT_SECONDS", 0.1, raising=False)
    expected = epochs(ShardLoader(packed["zstd"], batch_size=7, tail="short"))
    warned: list[bool] = []

    def read() -> None:
        loader = zstd_loader(packed, tmp_path)
        (locks,) = tmp_path.glob("*/train/locks")
        with stopped_holder(locks, [2, 4]) as holder:
            with pytest.warns(
                UserWarning, match=rf"cache='disk': .*: process {holder} has held"
            ) as w:
                found = epochs(loader, 1)
            warned.append(len(w) == 1)
            found += epochs(loader, 1)
        assert found == expected and all(warned)
        decoded.clear()
        epochs(loader, 1)
        assert sorted(decoded) == [2, 4]  # it is cached now, since the lock is free
        decoded.clear()
        epochs(loader, 1)
        assert decoded == []

    assert wait_for(start_forked(read), timeout=10) == 0


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EPERM, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("when", ["opening", "later"])
def test_a_file_system_without_locks(
    packed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, when: str
) -> None:
    """Some NFS and SMB servers refuse all locks, or stop to offer them."""

    def refuse(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    def read() -> None:
        if when == "opening":
            monkeypatch.setattr(fcntl, "lockf", refuse)
            with pytest.raises(OptionError, match="cannot lock files; use a different disk"):
                zstd_loader(packed, tmp_path)
            return
        loader = zstd_loader(packed, tmp_path)
        monkeypatch.setattr(fcntl, "lockf", refuse)
        with pytest.warns(UserWarning, match="this file system cannot lock files"):
            found = epochs(loader)
        assert found == epochs(ShardLoader(packed["zstd"], batch_size=7, tail="short"))

    assert wait_for(start_forked(read), timeout=10) == 0


def test_the_command_lists_caches_and_deletes_those_not_in_use(
    packed: dict[str, Path], tmp_path: Path, run: Run
) -> None:
    used = zstd_loader(packed, tmp_path)
    for encoding in ("png", "zstd"):
        cache = Cache("disk", folder=tmp_path)
        epochs(ShardLoader(packed[encoding], split="test", batch_size=7, cache=cache), 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pixels").write_bytes(b"not a cache")
    listed = run("cache", "--folder", tmp_path)
    assert listed.status == 0 and "3 caches, 0." in listed.out
    assert str(packed["png"]) in listed.out and " train " in listed.out
    cleared = run("cache", "--folder", tmp_path, "--clear")
    assert (cleared.out.count("deleted"), cleared.out.count("in use")) == (2, 1)
    assert epochs(used, 1)
    assert [path.parent.name for path in tmp_path.glob("*/*/pixels")] == ["train"]
    assert (tmp_path / "mine" / "pixels").exists()
    del used
    assert run("cache", "--folder", tmp_path, "--clear").out.endswith(
        f"0 caches, 0.0 MB: {tmp_path}\n"
    )


def test_a_dataset_whose_path_is_not_utf8(
    packed: dict[str, Path], tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        shutil.copytree(packed["zstd"], folder)
    except OSError:
        pytest.skip("NOT RUN: this file system stores no name that is not UTF-8")
    loader = ShardLoader(folder, batch_size=7, cache=Cache("disk", folder=tmp_path / "caches"))
    assert len(epochs(loader, 1)) == 12
    (found,) = cached_splits(tmp_path / "caches")
    assert found.dataset == str(folder)
    for options in (), ("--json",):
        listed = run("cache", "--folder", tmp_path / "caches", *options)
        assert listed.status == 0 and "caf" in listed.out


def disk_cache(packed: dict[str, Path], root: Path) -> CachedSplit:
    zstd_loader(packed, root)
    (cached,) = cached_splits(root)
    return cached


def test_a_damaged_note_of_the_dataset_does_not_hide_a_cache(
    packed: dict[str, Path], tmp_path: Path, run: Run
) -> None:
    (disk_cache(packed, tmp_path).path / "dataset").write_bytes(b"\xff\xfe\0")
    assert "1 cache, " in run("cache", "--folder", tmp_path).out
    assert "deleted" in run("cache", "--folder", tmp_path, "--clear").out


@pytest.mark.parametrize("name", ["dataset", "split", "file"])
def test_a_cache_that_another_process_deletes_is_not_listed(
    packed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is gone when the folder of the dataset, the split, or a file in it is looked at."""
    cached = disk_cache(packed, tmp_path)
    path = {"dataset": cached.path.parent, "split": cached.path, "file": cached.path / "pixels"}
    listdir = os.listdir

    def list_and_delete(folder: Any) -> list[str]:
        names = listdir(folder)
        if Path(folder) == path[name].parent:
            shutil.rmtree(cached.path.parent)
        return names

    monkeypatch.setattr(os, "listdir", list_and_delete)
    assert cached_splits(tmp_path) == []
    assert remove(cached)


@pytest.mark.parametrize(("function", "name"), [("listdir", "."), ("stat", "train/pixels")])
def test_a_cache_that_cannot_be_read_is_an_error(
    packed: dict[str, Path], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch,
    function: str, name: str,
) -> None:  # fmt: skip
    path = disk_cache(packed, tmp_path).path.parent / name
    original = getattr(os, function)

    def fail(other: Any, **options: Any) -> Any:
        if other == path:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(other))
        return original(other, **options)

    monkeypatch.setattr(os, function, fail)
    found = run("cache", "--folder", tmp_path)
    assert found.status == 1
    assert found.err == (
        f"error: {path}: Permission denied; make it readable, or delete it by hand\n"
    )


@pytest.mark.parametrize("when", ["before its lock", "before its files"])
def test_a_cache_that_is_deleted_while_it_is_opened_is_made_again(
    packed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """``cinic-shard cache --clear`` in another process; it cannot see that this one starts."""
    cached = disk_cache(packed, tmp_path)
    place, times = {"before its lock": (shutil, "disk_usage"), "before its files": (
        cache_module, "lock_file")}[when], []  # fmt: skip
    original = getattr(*place)

    def delete_first(*arguments: Any, **options: Any) -> Any:
        times.append(1)
        if len(times) <= 2:
            cached.path.rename(tmp_path / f"doomed {len(times)}")
            if when == "before its files":
                return None  # the deleting process holds the lock
        return original(*arguments, **options)

    monkeypatch.setattr(*place, delete_first)
    loader = zstd_loader(packed, tmp_path)
    assert len(times) == 3
    assert epochs(loader) == epochs(ShardLoader(packed["zstd"], batch_size=7, tail="short"))
    (again,) = cached_splits(tmp_path)
    assert not remove(again)  # it is in use


def test_a_complete_cache_begins_no_steps_early(
    packed: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is fetched or decoded any more, even if the shards are remote."""
    monkeypatch.setattr("cinic_shards.read.split.num_maps_left", lambda: 0)
    ahead: list[int] = []
    open_epoch = BlockSource.open_epoch

    def note_steps(self: BlockSource, *arguments: Any) -> BlockEpoch:
        epoch = open_epoch(self, *arguments)
        ahead.append(epoch.steps_ahead)
        return epoch

    monkeypatch.setattr(BlockSource, "open_epoch", note_steps)
    epochs(ShardLoader(packed["zstd"], batch_size=7, tail="short", cache="ram"))
    assert ahead[0] >= 16 and ahead[1] == 0
