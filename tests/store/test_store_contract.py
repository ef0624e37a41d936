"""The contract of every store: a folder, memory, two S3 servers and a web server."""

import io
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

import cinic_shards.format as fmt
from cinic_shards.errors import MissingError, OptionError, OutputError, StoreError
from cinic_shards.read.open import is_packing, read_manifest
from cinic_shards.store import LocalStore, RemoteStore, Store, WorkFolder, open_store
from cinic_shards.store.remote import PART_BYTES
from cinic_shards.write.pack import PackOptions, pack
from tests.support.servers import S3Server, in_thread

DATA = np.random.default_rng(0).bytes(3 * PART_BYTES + 12_345)
"""Content that takes several requests to read."""


REAL = [pytest.param(name, marks=pytest.mark.real) for name in ("seaweedfs", "juicefs")]
WRITTEN = ["folder", "memory", *REAL]


def open_empty(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store that can be written."""
    if name == "folder":
        (tmp_path / "folder").mkdir()
        return open_store(tmp_path / "folder")
    if name == "memory":
        return open_store(f"memory://{uuid4()}/a/prefix")
    server: S3Server = request.getfixturevalue(name)
    return open_store(f"s3://{server.bucket}/{uuid4()}/a", server.storage_options)


@pytest.fixture(params=WRITTEN)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store that can be written."""
    return open_empty(request.param, request, tmp_path)


@pytest.fixture(params=[*WRITTEN, pytest.param("web", marks=pytest.mark.real)])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, Store]:
    """A store to read from and one to write to, both of the same files."""
    if request.param == "web":
        root: Path = request.getfixturevalue("web_root") / f"{uuid4()} b"
        root.mkdir()
        return open_store(f"{request.getfixturevalue('web')}/{root.name}"), LocalStore(root)
    store = open_empty(request.param, request, tmp_path)
    return store, store


def write(store: Store, name: str, data: bytes) -> None:
    with store.create(name) as file:
        file.write(data)


class TestReading:
    """Tests that run on every store, including a web server."""

    def test_an_entire_file(self, pair: tuple[Store, Store]) -> None:
        store, writer = pair
        write(writer, "x.json", DATA[:1000])
        assert store.read("x.json") == DATA[:1000]
        assert store.size("x.json") == 1000

    def test_an_empty_file(self, pair: tuple[Store, Store]) -> None:
        store, writer = pair
        write(writer, "x", b"")
        assert store.read("x") == b"" and store.size("x") == 0
        assert store.map("x", 0).shape == (0,)

    def test_ranges(self, pair: tuple[Store, Store]) -> None:
        store, writer = pair
        write(writer, "x", DATA)
        end = len(DATA)
        ranges = [(end - 1, end), (0, 1), (5, 5), (0, PART_BYTES + 1), (7, 9), (end - 500, end)]
        for start, stop in ranges:
            assert bytes(store.read_range("x", start, stop)) == DATA[start:stop]

    def test_many_ranges_from_threads(self, pair: tuple[Store, Store]) -> None:
        store, writer = pair
        write(writer, "x", DATA)
        starts = np.random.default_rng(1).integers(0, len(DATA) - 4096, 64).tolist()
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda start: store.read_range("x", start, start + 4096), starts))
        assert [bytes(data) for data in found] == [DATA[start : start + 4096] for start in starts]

    @pytest.mark.parametrize("start, stop", [(0, 101), (99, 101), (100, 101), (5000, 5001)])
    def test_a_range_beyond_the_end(self, pair: tuple[Store, Store], start: int, stop: int) -> None:
        store, writer = pair
        write(writer, "x", DATA[:100])
        with pytest.raises(StoreError, match=r"/x: .*(100 bytes, expected at least|shorter)"):
            store.read_range("x", start, stop)

    def test_map(self, pair: tuple[Store, Store]) -> None:
        store, writer = pair
        write(writer, "x", DATA)
        mapped = store.map("x", len(DATA), read_ahead=True)
        assert mapped.dtype == np.uint8 and mapped.tobytes() == DATA
        assert not mapped.flags.writeable

    @pytest.mark.parametrize("expected", [99, 101])
    def test_map_with_a_wrong_size(self, pair: tuple[Store, Store], expected: int) -> None:
        store, writer = pair
        write(writer, "x", DATA[:100])
        with pytest.raises(StoreError, match=f"/x: 100 bytes, the manifest says {expected}"):
            store.map("x", expected)

    def test_missing_files(self, pair: tuple[Store, Store]) -> None:
        store, _ = pair
        for read in (
            lambda: store.read("x"),
            lambda: store.size("x"),
            lambda: store.read_range("x", 0, 1),
            lambda: store.map("x", 1),
        ):
            with pytest.raises(MissingError, match=rf"^{store}/x: (not found|No such file)"):
                read()

    def test_a_file_that_is_replaced(self, pair: tuple[Store, Store]) -> None:
        """A replacement of the same size between two reads is an error, never a mixture."""
        store, writer = pair
        if store.is_local:
            pytest.skip("a mapping keeps its file; ranges of local files are not checked")
        write(writer, "x", DATA[:PART_BYTES])
        store.read_range("x", 0, 100)
        other = open_store(writer if writer.is_local else _again(writer))
        write(other, "x", DATA[1 : PART_BYTES + 1])
        for read in (
            lambda: store.read("x"),
            lambda: store.size("x"),
            lambda: store.read_range("x", 100, 200),
            lambda: store.map("x", PART_BYTES),
        ):
            with pytest.raises(StoreError, match="/x: was replaced while it was read"):
                read()

    def test_no_dataset(self, pair: tuple[Store, Store]) -> None:
        store, _ = pair
        said = "no dataset" if store.can_list else "a web server does not list its files"
        with pytest.raises(StoreError, match=said):
            read_manifest(store)


def _again(store: Store) -> Store:
    """A second object for the same store, as a different process would have."""
    assert isinstance(store, RemoteStore)
    return RemoteStore(store.address)


class TestWriting:
    """Tests that run on every store except a web server."""

    def test_names(self, store: Store) -> None:
        assert store.names() == []
        for name in ("b.tar", "a.tar", "B"):
            write(store, name, b"x")
        store.folder("below").make()
        write(store.folder("below"), "c", b"x")
        assert store.names() == ["B", "a.tar", "b.tar", "below"]
        assert store.folder("below").names() == ["c"]
        assert store.folder("other").names() == []

    def test_a_file_appears_when_it_is_complete(self, store: Store) -> None:
        with store.create("x") as file:
            file.write(b"abc")
            assert "x" not in store.names()
            file.write(b"def")
        assert store.names() == ["x"] and store.read("x") == b"abcdef"

    def test_a_large_file(self, store: Store) -> None:
        write(store, "x", DATA)
        assert store.map("x", len(DATA)).tobytes() == DATA

    def test_an_npz_file(self, store: Store) -> None:
        """``np.savez`` seeks back in the file it writes."""
        with store.create("x.npz") as file:
            np.savez(file, a=np.arange(1000), b=np.zeros(3))
        with np.load(io.BytesIO(store.read("x.npz"))) as found:
            assert found["a"].tolist() == list(range(1000))

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_an_error_keeps_the_older_file(self, store: Store, error: type[BaseException]) -> None:
        write(store, "x", b"old")
        with pytest.raises(error, match="mine"), store.create("x") as file:
            file.write(b"half")
            raise error("mine")
        assert store.names() == ["x"] and store.read("x") == b"old"

    def test_an_older_file_is_replaced(self, store: Store) -> None:
        write(store, "x", b"old")
        assert store.read("x") == b"old"
        write(store, "x", b"newer")
        assert store.read("x") == b"newer"

    def test_delete(self, store: Store) -> None:
        write(store, "x", b"abc")
        store.delete("x")
        store.delete("x")
        assert store.names() == []

    def test_take(self, store: Store) -> None:
        below = store.folder("below")
        below.make()
        write(below, "x", b"new")
        write(store, "x", b"old")
        store.take(below, "x")
        store.take(below, "x")
        assert store.read("x") == b"new" and below.names() == []

    def test_a_prefix(self, store: Store) -> None:
        store.folder("below").make()
        mine = store.folder("below", prefix="abc-")
        write(store.folder("below"), "x", b"1")
        write(mine, "x", b"2")
        assert store.folder("below").names() == ["abc-x", "x"]
        assert mine.names() == ["x"] and mine.read("x") == b"2" and mine.size("x") == 1
        store.take(mine, "x")
        assert store.read("x") == b"2" and mine.names() == []
        write(mine, "y", b"3")
        mine.delete("y")
        mine.delete("x")
        assert store.folder("below").names() == ["x"]

    def test_a_work_folder(self, store: Store) -> None:
        with WorkFolder(store, fmt.PACKING_FOLDER, "packing") as work:
            write(work.files, "x", b"1")
            assert is_packing(store, store.names())
        with WorkFolder(store, fmt.PACKING_FOLDER, "packing") as work:  # the first was killed
            assert work.files.names() == ["x"]
            write(store.folder(fmt.PACKING_FOLDER), "mine", b"2")
            assert work.remove() == ["mine"]
        assert not is_packing(store, store.names())
        with pytest.raises(OutputError, match="holds mine, which packing did not make; move"):
            WorkFolder(store, fmt.PACKING_FOLDER, "packing")
        store.folder(fmt.PACKING_FOLDER).delete("mine")
        with WorkFolder(store, fmt.PACKING_FOLDER, "packing") as work:
            assert work.remove() == []
        # SeaweedFS lists an empty folder for a while.
        assert not store.folder(fmt.PACKING_FOLDER).names()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "https://127.0.0.1:1/x"])
def test_a_web_server_is_read_only(url: str, demo_tree: Path) -> None:
    store = open_store(url)
    for write_it in (
        store.names,
        lambda: store.delete("x"),
        lambda: store.take(store.folder("below"), "x"),
        lambda: store.create("x").__enter__(),
        lambda: pack(demo_tree, url, workers=1),
    ):
        with pytest.raises(OptionError, match=f"^{url}: a web server"):
            write_it()


def test_memory_belongs_to_one_process(demo_tree: Path) -> None:
    url = f"memory://{uuid4()}/x"
    with pytest.raises(StoreError, match="exists only in another process; use workers=1"):
        pack(demo_tree, url, PackOptions(shard_size=50), workers=2)


def test_no_space_for_a_fetched_file(monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"memory://{uuid4()}")
    write(store, "x", DATA[:1000])
    usage = type("Usage", (), {"free": 999})
    monkeypatch.setattr("cinic_shards.store.remote.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(StoreError, match=r"/x: fetching .* free some space or set TMPDIR"):
        store.map("x", 1000)


def test_a_file_larger_than_a_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cinic_shards.store.remote.MAX_FILE_BYTES", 10)
    store = open_store(f"memory://{uuid4()}")
    with pytest.raises(OutputError, match=r"11 bytes, .* choose a smaller --shard-size"):
        write(store, "x", bytes(11))
    assert store.names() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("when, said", [("before", "b'abc'"), ("after", "this process was forked")])
def test_a_fork(web_server_of_python: str, when: str, said: str) -> None:
    """A child may use a store that its parent has not used; else it raises, and does not hang."""
    script = f"""
        import os
        from cinic_shards.store import open_store
        store = open_store({web_server_of_python!r})
        if {when!r} == "after":
            store.read("x")
        if os.fork() == 0:
            try:
                print(store.read("x"))
            except Exception as error:
                print(error)
            os._exit(0)
        os.wait()
        assert store.read("x") == b"abc"
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert said in done.stdout


@pytest.fixture
def web_server_of_python(tmp_path: Path) -> Iterator[str]:
    """A web server without ranges; reading an entire file needs none."""
    (tmp_path / "x").write_bytes(b"abc")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with in_thread(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.mark.real
def test_wrong_credentials(seaweedfs: S3Server) -> None:
    options = seaweedfs.storage_options | {"secret_access_key": "another"}
    store = open_store(f"s3://{seaweedfs.bucket}/x", options)
    said = "SignatureDoesNotMatch; the credentials are missing, wrong"
    with pytest.raises(StoreError, match=said) as caught:
        store.read("x")
    assert "another" not in str(caught.value)


@pytest.mark.real
def test_no_bucket(seaweedfs: S3Server) -> None:
    store = open_store("s3://nobody-made-this/x", seaweedfs.storage_options)
    with pytest.raises(StoreError, match="there is no such bucket; make it first"):
        store.names()


@pytest.mark.real
def test_hugging_face(web: str, web_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = web_root / "datasets" / "me" / "set" / "resolve" / "v1" / "shards"
    folder.mkdir(parents=True)
    (folder / "x").write_bytes(b"abc")
    monkeypatch.setenv("HF_ENDPOINT", web)
    monkeypatch.setenv("HF_TOKEN", "abc")
    store = open_store("hf://datasets/me/set@v1/shards")
    assert store.read("x") == b"abc" and bytes(store.read_range("x", 1, 3)) == b"bc"
