"""Addresses of stores; local files: atomic writes, mapped reads, and errors that name the file."""

import errno
import fcntl
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cinic_shards.errors import OptionError, OutputError, StoreError
from cinic_shards.store import (
    TEMPORARY_SUFFIX,
    LocalStore,
    RemoteStore,
    lock_byte,
    lock_file,
    open_store,
)
from cinic_shards.store.system import num_maps_left
from tests.support.disk import record_disk
from tests.support.files import PAGE
from tests.support.processes import start_forked, wait_for


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    (tmp_path / "folder").mkdir()
    return LocalStore(tmp_path / "folder")


@pytest.mark.parametrize("path_type", [str, Path])
def test_a_path_is_a_folder(tmp_path: Path, path_type: Callable[[object], str]) -> None:
    store = open_store(path_type(tmp_path / "x"))
    assert store.root == tmp_path / "x" and str(store) == str(tmp_path / "x")


URLS: list[tuple[str, dict[str, Any], str]] = [
    ("s3://bucket", {}, "s3://bucket"),
    ("s3://bucket/a/b/", {}, "s3://bucket/a/b"),
    ("S3://bucket/a?region=x&endpoint_url=http%3A%2F%2Fh%3A1", {}, "s3://bucket/a"),
    ("gs://bucket/a", {"service_account_key": "secret"}, "gs://bucket/a"),
    ("az://container/a?account_name=me", {"max_retries": 3}, "az://container/a"),
    ("https://host:8080/a%20b/", {}, "https://host:8080/a b"),
    ("memory://", {}, "memory:"),
    ("memory://x/y", {}, "memory://x/y"),
    ("hf://datasets/me/set", {}, "https://huggingface.co/datasets/me/set/resolve/main"),
    ("hf://datasets/me/set@v1/a/b", {}, "https://huggingface.co/datasets/me/set/resolve/v1/a/b"),
    ("hf://me/model/a", {}, "https://huggingface.co/me/model/resolve/main/a"),
]


@pytest.mark.parametrize("url, options, shown", URLS)
def test_a_url_is_an_address(
    url: str, options: dict[str, Any], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    store = open_store(url, options)
    assert isinstance(store, RemoteStore) and str(store) == shown
    assert store.can_list == (not shown.startswith("http")) and not store.is_local
    assert "secret" not in repr(store.address)
    for name, value in options.items():
        assert store.address.options[name] == str(value)


def test_storage_options_override_those_of_the_url() -> None:
    store = open_store(
        "s3://b/x?region=one&Access_Key_Id=me", {"REGION": "two", "allow_http": True}
    )
    assert isinstance(store, RemoteStore)
    options = {"region": "two", "access_key_id": "me", "allow_http": "true"}
    assert store.address.options == options


def test_a_hugging_face_token_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "abc")
    store = open_store("hf://datasets/me/set")
    assert isinstance(store, RemoteStore)
    assert store.address.headers == {"Authorization": "Bearer abc"}
    assert "abc" not in repr(store.address)


@pytest.mark.parametrize(
    "path, options, said",
    [
        ("ftp://host/x", {}, "unknown scheme ftp://; expected a path or s3://"),
        ("s3:///x", {}, "s3:///x: the URL has no bucket"),
        ("https:///x", {}, "https:///x: the URL has no host"),
        ("https://me:secret@host/x", {}, "^https://host/x: the URL holds a password"),
        ("file://host/x", {}, "expected file:///folder, with three slashes"),
        ("file:///x?region=y", {}, "file:///x: a folder has no storage options; remove region"),
        ("x", {"region": "y"}, "x: a folder has no storage options; remove region"),
        ("x", {1: 2}, "x: a folder has no storage options; remove 1"),
        ("hf://datasets/me", {}, "expected hf://datasets/<owner>/<name>"),
        ("hf://me", {}, "expected hf://datasets/<owner>/<name>"),
    ],
)
def test_invalid_paths(path: str, options: dict[Any, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        open_store(path, options)


@pytest.mark.parametrize(
    "url, options, said",
    [
        ("s3://bucket/x", {"foo": "bar"}, "^s3://bucket/x: .*'foo' is not valid for store 'S3'"),
        ("https://host/x", {"region": "y"}, "^https://host/x: unknown option region"),
        ("s3://bucket/x?timeout=soon", {}, "option timeout: expected a number of seconds"),
        ("s3://bucket/x", {"max_retries": -1}, "option max_retries: expected an integer"),
        ("az://container/x", {}, "Account must be specified"),
    ],
)
def test_invalid_options(
    url: str, options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(OptionError, match=said):
        open_store(url, options).read("x")


def test_a_profile_needs_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    said = "the AWS profile 'me' needs boto3: pip install boto3, or set AWS_ACCESS_KEY_ID"
    with pytest.raises(OptionError, match=said):
        open_store("s3://bucket/x?profile=me").read("x")
    monkeypatch.setenv("AWS_PROFILE", "me")
    with pytest.raises(OptionError, match=said):
        open_store("s3://bucket/x").read("x")


def test_an_open_store_is_returned(store: LocalStore) -> None:
    assert open_store(store) is store
    with pytest.raises(OptionError, match="is already open"):
        open_store(store, {"region": "x"})


def test_file_urls(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/a%20b")
    assert isinstance(store, LocalStore) and store.root == tmp_path / "a b"


@pytest.mark.parametrize("command", [["--help"], ["pack", "--help"]])
def test_help_does_not_import_obstore(command: list[str]) -> None:
    script = (
        "import sys; from cinic_shards.__main__ import main; import cinic_shards.write.pack\n"
        "import cinic_shards.write.dataset, cinic_shards.store\n"
        f"sys.argv[1:] = {command}\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'obstore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_names(store: LocalStore) -> None:
    assert store.names() == []
    for name in ("b", "a", ".hidden", "B"):
        (store.root / name).touch()
    (store.root / "folder").mkdir()
    assert store.names() == [".hidden", "B", "a", "b", "folder"]


def test_names_of_a_missing_folder(tmp_path: Path) -> None:
    assert LocalStore(tmp_path / "missing").names() == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: a file, expected a folder"):
        LocalStore(tmp_path / "file").names()


def test_names_of_a_folder_with_an_invalid_name(tmp_path: Path) -> None:
    with pytest.raises((StoreError, OutputError), match="File name too long"):
        LocalStore(tmp_path / ("x" * 300)).names()


def test_a_file_appears_when_it_is_complete(store: LocalStore) -> None:
    with store.create("x.tar") as file:
        file.write(b"abc")
        (name,) = store.names()
        assert re.fullmatch(rf"x\.tar\.[0-9a-f]{{12}}{TEMPORARY_SUFFIX}", name)
        file.write(b"def")
    assert store.names() == ["x.tar"]
    assert store.read("x.tar") == b"abcdef"


def test_a_file_survives_a_power_cut(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content is on the disk before its name, and its name when it is created."""
    calls = record_disk(monkeypatch, store.root)
    with store.create("x") as file:
        file.write(b"abc")
    assert calls == ["sync x.partial", "rename x.partial x", "sync ."]


def test_a_new_folder_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_disk(monkeypatch, tmp_path)
    LocalStore(tmp_path / "a" / "b").make()
    LocalStore(tmp_path / "a" / "b").make()
    assert calls == ["sync a", "sync ."]


@pytest.mark.parametrize("number, is_error", [(errno.EIO, True), (errno.EINVAL, False)])
def test_a_folder_that_cannot_be_synced(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, is_error: bool
) -> None:
    """Some file systems only sync files; that is no error of the disk."""

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="error") if is_error else nullcontext():
        store.sync()


def test_an_older_file_stays_until_the_new_one_is_complete(store: LocalStore) -> None:
    (store.root / "x").write_bytes(b"old")
    with store.create("x") as file:
        file.write(b"newer")
        assert store.read("x") == b"old"
    assert store.read("x") == b"newer"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_an_error_leaves_nothing_and_passes(store: LocalStore, error: type[BaseException]) -> None:
    (store.root / "x").write_bytes(b"old")
    with pytest.raises(error, match="mine"), store.create("x") as file:
        file.write(b"half")
        raise error("mine")
    assert store.names() == ["x"]
    assert store.read("x") == b"old"


def test_a_generator_that_is_dropped_leaves_nothing(store: LocalStore) -> None:
    """A thread may hold such a generator when its process ends."""

    def write_slowly():  # type: ignore[no-untyped-def]
        with store.create("x") as file:
            file.write(b"half")
            yield

    writing = write_slowly()
    next(writing)
    assert len(store.names()) == 1
    writing.close()
    assert store.names() == []


def test_a_file_with_the_suffix_is_left_alone(store: LocalStore) -> None:
    (store.root / ("x" + TEMPORARY_SUFFIX)).write_bytes(b"mine")
    with store.create("x") as file:
        file.write(b"short")
    assert store.names() == ["x", "x" + TEMPORARY_SUFFIX] and store.read("x") == b"short"


@pytest.mark.parametrize(
    "prepare, said",
    [
        (lambda root: root.rmdir(), "No such file or directory"),
        (lambda root: (root / "x").mkdir(), "Is a directory"),
        (lambda root: (root.rmdir(), root.write_bytes(b"")), "Not a directory"),
    ],
    ids=["no folder", "a folder of that name", "a file instead of a folder"],
)
def test_a_file_that_cannot_be_written(
    store: LocalStore, prepare: Callable[[Path], object], said: str
) -> None:
    prepare(store.root)
    with pytest.raises(OutputError, match=f"^{store.root}/x: {said}"), store.create("x") as file:
        file.write(b"abc")
    assert not list(store.root.parent.rglob(f"*{TEMPORARY_SUFFIX}"))


def test_a_full_disk(mount_disk: Callable[[int], Path]) -> None:
    disk = mount_disk(16 * PAGE)
    store = LocalStore(disk)
    (disk / "x").write_bytes(b"old")
    with (
        pytest.raises(OutputError, match=r"/x: No space left on device; free some or write else"),
        store.create("x") as file,
    ):
        for _ in range(100):
            file.write(bytes(PAGE))
    assert store.names() == ["x"] and store.read("x") == b"old"
    assert store.free_bytes() == 15 * PAGE


@pytest.mark.parametrize("num_pages", [2.5, 24.5])
def test_one_write_larger_than_the_disk(
    mount_disk: Callable[[int], Path], num_pages: float
) -> None:
    """The system writes a part of it without an error; the file must not appear complete."""
    disk = mount_disk(2 * PAGE)
    with pytest.raises(OutputError, match="No space left"), LocalStore(disk).create("x") as file:
        file.write(bytes(int(num_pages * PAGE)))
    assert os.listdir(disk) == []


@pytest.mark.parametrize("size", [1, 4096, 10_001])
def test_map(store: LocalStore, size: int) -> None:
    data = np.random.default_rng(0).bytes(size)
    (store.root / "x").write_bytes(data)
    mapped = store.map("x", size)
    assert mapped.dtype == np.uint8 and mapped.tobytes() == data
    assert not mapped.flags.writeable
    (store.root / "x").unlink()
    assert mapped.tobytes() == data  # the mapping keeps the file's content


def test_map_of_an_empty_file(store: LocalStore) -> None:
    (store.root / "x").touch()
    assert store.map("x", 0).shape == (0,)


@pytest.mark.parametrize("path", ["folder", "memory://maps"])
def test_maps_keep_no_file_open(tmp_path: Path, path: str) -> None:
    store = open_store(path if ":" in path else tmp_path)
    with store.create("x") as file:
        file.write(b"abc")
    maps = [store.map("x", 3)]  # the first call may open files that stay open
    before = num_open_files()
    maps += [store.map("x", 3) for _ in range(20)]
    assert num_open_files() == before
    assert {mapped.tobytes() for mapped in maps} == {b"abc"}


def num_open_files() -> int:
    """Return the number of descriptors that this process has open."""
    num_open = 0
    for descriptor in range(1024):
        with suppress(OSError):
            os.fstat(descriptor)
            num_open += 1
    return num_open


def test_a_map_ends_with_its_last_array(store: LocalStore) -> None:
    (store.root / "x").write_bytes(bytes(2 * PAGE))
    before = num_maps_left()
    part = store.map("x", 2 * PAGE)[PAGE:]
    view = store.map("x", 2 * PAGE).data
    assert num_maps_left() == before - 2
    del part, view
    assert num_maps_left() == before


def test_too_many_open_files(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(StoreError, match=r"Too many open files; raise the limit .*: ulimit -n"):
        store.map("x", 3)


class _ByteByByte(io.FileIO):
    """A file as on some FUSE mounts: a read returns fewer bytes than it was asked for."""

    def readinto(self, buffer: Any) -> int:
        return super().readinto(memoryview(buffer)[:1])


@pytest.mark.parametrize("size, said", [(100, ""), (50, "50 bytes, expected at least 90")])
def test_short_reads(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, size: int, said: str
) -> None:
    """Short reads are continued. A file that shrinks while it is read is an error."""
    data = bytes(range(100))
    (store.root / "x").write_bytes(data)

    def shrinking(name: str) -> io.BufferedReader:
        file = io.BufferedReader(_ByteByByte(store.root / name), 1)
        monkeypatch.setattr(os, "fstat", partial(_fstat_and_truncate, store.root / name, size))
        return file

    monkeypatch.setattr(store, "_open", shrinking)
    if not said:
        assert store.read_range("x", 10, 90) == data[10:90] and store.read("x") == data
        return
    with pytest.raises(StoreError, match=f"/x: {said}; the file is truncated"):
        store.read_range("x", 10, 90)


def _fstat_and_truncate(path: Path, size: int, descriptor: int) -> os.stat_result:
    state = os.stat(path)
    os.truncate(path, size)
    return state


@pytest.mark.parametrize("size, expected", [(0, 1), (10, 9), (9, 10), (1_000_000, 2_000_000)])
def test_map_with_a_wrong_size(store: LocalStore, size: int, expected: int) -> None:
    (store.root / "x").write_bytes(bytes(size))
    said = rf"/x: {size:,} bytes, the manifest says {expected:,}; .* fetch it again"
    with pytest.raises(StoreError, match=said):
        store.map("x", expected)


@pytest.mark.parametrize("how", ["read", "map"])
@pytest.mark.parametrize(
    "prepare, said",
    [
        (lambda root: None, "No such file or directory"),
        (lambda root: root.rmdir(), "No such file or directory"),
        (lambda root: (root / "x").symlink_to("nowhere"), "No such file or directory"),
        (lambda root: (root / "x").mkdir(), "Is a directory"),
    ],
    ids=["no file", "no folder", "dangling link", "a folder"],
)
def test_files_that_cannot_be_read(
    store: LocalStore, prepare: Callable[[Path], object], said: str, how: str
) -> None:
    prepare(store.root)
    with pytest.raises(StoreError, match=f"^{store.root}/x: {said}"):
        store.read("x") if how == "read" else store.map("x", 3)


def test_delete(store: LocalStore) -> None:
    (store.root / "x").touch()
    store.delete("x")
    store.delete("x")
    assert store.names() == []


# --- Locks ------------------------------------------------------------------------------------


def test_locks_of_files(tmp_path: Path) -> None:
    first, second = (lock_file(tmp_path / "x", shared=True) for _ in range(2))
    assert first is not None and second is not None
    assert lock_file(tmp_path / "x") is None
    first.close()
    second.close()
    only = lock_file(tmp_path / "x")
    assert only is not None and lock_file(tmp_path / "x", shared=True) is None
    only.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EPERM, errno.EACCES])
def test_a_file_system_without_locks_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="this file system cannot lock files; use a diff") as found:
        lock_file(tmp_path / "x")
    assert found.value.filename == str(tmp_path / "x")


def test_smb_denies_access_to_a_held_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    def hold() -> None:
        with open(tmp_path / "x", "ab") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            (tmp_path / "held").touch()
            signal.pause()

    child = start_forked(hold)
    try:
        while not (tmp_path / "held").exists():
            time.sleep(0.001)
        monkeypatch.setattr(fcntl, "flock", deny)
        assert lock_file(tmp_path / "x") is None
        monkeypatch.setattr(fcntl, "lockf", deny)
        with (
            open(tmp_path / "x", "ab") as file,
            lock_byte(file.fileno(), 7, wait_seconds=0.05) as why,
        ):
            assert why == f"process {child} has held a lock for 0.05 s"
    finally:
        os.kill(child, signal.SIGKILL)
        wait_for(child)
