"""Fetching from real servers on loopback, good and bad ones."""

import functools
import hashlib
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fault_proxy import FaultProxy, Faults

from cinic_shards.cinic import fetch as fetch_module
from cinic_shards.cinic.fetch import MD5, fetch
from cinic_shards.errors import MissingError, OptionError, OutputError, StoreError
from cinic_shards.store import WebFile, lock_file
from tests.support.disk import record_disk
from tests.support.files import files_of
from tests.support.servers import in_thread

CONTENT = random.Random(0).randbytes(3_000_000)
HASH = hashlib.md5(CONTENT).hexdigest()
NAME = "CINIC-10.tar.gz"


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "WAIT_SECONDS", (0.01,) * 3)
    monkeypatch.setattr(fetch_module, "RETRY_SECONDS", 1.0)


@pytest.fixture
def served(web_root: Path) -> Iterator[Path]:
    """The archive in the folder that ``web`` serves."""
    path = web_root / NAME
    path.write_bytes(CONTENT)
    yield path
    path.unlink()


@pytest.fixture
def url(web: str, served: Path) -> str:
    return f"{web}/{NAME}"


@pytest.fixture
def proxied(web: str, served: Path) -> Iterator[FaultProxy]:
    """A proxy in front of ``web``."""
    parts = urlsplit(web)
    assert parts.hostname and parts.port
    with FaultProxy((parts.hostname, parts.port), Faults()) as proxy:
        yield proxy


class Server(http.server.SimpleHTTPRequestHandler):
    """Python's own server, which has no ranges and no ETags."""

    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(str(self.headers.get("Range")))
        super().do_GET()

    def log_message(self, *parts: object) -> None:
        pass


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with in_thread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def plain(web_root: Path, served: Path) -> Iterator[tuple[str, list[str]]]:
    """A server without ranges, and the ranges requested from it."""
    requests: list[str] = []
    handler = type("Handler", (Server,), {"requests": requests})
    with serving(functools.partial(handler, directory=str(web_root))) as base:  # type: ignore[arg-type]
        yield f"{base}/{NAME}", requests


def begun(folder: Path, url: str, size: int, other_url: str = "") -> None:
    """Write a download that was interrupted after ``size`` bytes, with its note."""
    (folder / f"{NAME}.part").write_bytes(CONTENT[:size])
    answer = WebFile(url).open(0)
    assert answer is not None
    note = {"url": url, "version": answer.version, "size": answer.size}
    note |= {"url": other_url} if other_url else {}
    (folder / f"{NAME}.part.json").write_text(json.dumps(note))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download(url: str, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    done = fetch(tmp_path, url=url, accept_hash=HASH, progress=lambda *step: steps.append(step))
    assert (done.path, done.size, done.num_received) == (tmp_path / NAME, len(CONTENT), 3_000_000)
    assert done.digest == f"md5:{HASH}"
    assert done.path.read_bytes() == CONTENT
    assert names(tmp_path) == [NAME]
    assert steps[0] == ("fetch", 0, 3_000_000)
    assert ("fetch", 3_000_000, 3_000_000) in steps
    assert steps[-1] == ("check", 3_000_000, 3_000_000)


@pytest.mark.parametrize("digest", [HASH.upper(), hashlib.sha256(CONTENT).hexdigest()])
def test_a_complete_file_is_not_fetched_again(url: str, tmp_path: Path, digest: str) -> None:
    fetch(tmp_path / "x.tgz", url=url, accept_hash=digest)
    again = fetch(tmp_path / "x.tgz", url="http://127.0.0.1:9/none", accept_hash=digest)
    assert again.num_received == 0
    with pytest.raises(OutputError, match=f"already exists, and its MD5 is {HASH}, expected {MD5}"):
        fetch(tmp_path / "x.tgz", url=url)
    assert (tmp_path / "x.tgz").read_bytes() == CONTENT


def test_an_interrupted_download_resumes(proxied: FaultProxy, tmp_path: Path) -> None:
    url = f"{proxied.url}/{NAME}"
    begun(tmp_path, url, 2_000_000)
    done = fetch(tmp_path, url=url, accept_hash=HASH)
    assert done.num_received == 1_000_000
    assert done.path.read_bytes() == CONTENT
    assert names(tmp_path) == [NAME]


@pytest.mark.parametrize("is_rejected_first", [False, True])
def test_a_download_survives_a_power_cut(
    plain: tuple[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_rejected_first: bool,
) -> None:
    """The file is on the disk before its name is."""
    url, _ = plain
    if is_rejected_first:
        with pytest.raises(StoreError, match="to accept this file"):
            fetch(tmp_path, url=url, accept_hash=MD5)
    calls = record_disk(monkeypatch, tmp_path)
    fetch(tmp_path, url=url, accept_hash=HASH)
    last = [call for call in calls if not call.startswith("delete")][-3:]
    assert last == [f"sync {NAME}.part", f"rename {NAME}.part {NAME}", "sync ."]


def test_a_complete_part_is_renamed(url: str, tmp_path: Path) -> None:
    begun(tmp_path, url, 3_000_000)
    assert fetch(tmp_path, url=url, accept_hash=HASH).num_received == 0
    assert names(tmp_path) == [NAME]


@pytest.mark.parametrize("fault", ["cut", "reset", "503", "429"])
def test_faults_during_a_download(proxied: FaultProxy, tmp_path: Path, fault: str) -> None:
    proxied.faults.script += [fault, fault, "", fault]
    warnings: list[str] = []
    done = fetch(tmp_path, url=f"{proxied.url}/{NAME}", accept_hash=HASH, warn=warnings.append)
    assert done.path.read_bytes() == CONTENT
    assert done.num_received == len(CONTENT)  # no byte twice
    assert proxied.counts[fault] >= 2


def test_a_server_that_stalls(
    proxied: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fetch_module.WebFile.__init__.__globals__, "_DAY_SECONDS", "1")
    monkeypatch.setattr(fetch_module, "RETRY_SECONDS", 10.0)
    proxied.faults.script += ["stall-body", "stall"]
    warnings: list[str] = []
    done = fetch(tmp_path, url=f"{proxied.url}/{NAME}", accept_hash=HASH, warn=warnings.append)
    assert done.path.read_bytes() == CONTENT and done.num_received == len(CONTENT)


def test_a_server_that_is_gone(proxied: FaultProxy, tmp_path: Path) -> None:
    """The time without progress is bounded, and the received bytes are kept."""
    url = f"{proxied.url}/{NAME}"
    proxied.faults.script += ["cut"]
    proxied.faults.chances["reset"] = 1.0
    warnings: list[str] = []
    start = time.monotonic()
    with pytest.raises(
        StoreError, match=r"Connection reset .* bytes are kept; run the same command again"
    ):
        fetch(tmp_path, url=url, accept_hash=HASH, warn=warnings.append)
    assert 1 <= time.monotonic() - start < 5
    assert warnings and all("retrying from byte" in text for text in warnings)
    assert names(tmp_path) == [f"{NAME}.part", f"{NAME}.part.json"]
    size = (tmp_path / f"{NAME}.part").stat().st_size
    assert 0 < size < len(CONTENT)
    proxied.faults.chances.clear()
    done = fetch(tmp_path, url=url, accept_hash=HASH)
    assert done.num_received == len(CONTENT) - size
    assert done.path.read_bytes() == CONTENT


def test_no_server(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"http://127\.0\.0\.1:9/x\.tgz: .*Connection refused"):
        fetch(tmp_path, url="http://127.0.0.1:9/x.tgz", warn=lambda text: None)
    assert 1 <= time.monotonic() - start < 5
    assert names(tmp_path) == []


def test_the_publishers_second_host(
    url: str, hostile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"http://127.0.0.1:1/{NAME}"
    monkeypatch.setattr(fetch_module, "URLS", (nowhere, url))
    said: list[str] = []
    done = fetch(tmp_path, accept_hash=HASH, warn=said.append)
    assert done.path == tmp_path / NAME and done.path.read_bytes() == CONTENT
    assert said[-1].startswith("http://127.0.0.1:1/") and said[-1].endswith(f"; trying {url}")
    done.path.unlink()
    monkeypatch.setattr(fetch_module, "URLS", (url, nowhere))
    with pytest.raises(StoreError, match="MD5 is"):  # a different file is not fetched again
        fetch(tmp_path, accept_hash="0" * 32, warn=pytest.fail)
    monkeypatch.setattr(fetch_module, "URLS", (nowhere, f"{hostile}/none"))
    with pytest.raises(MissingError):
        fetch(tmp_path / "x", accept_hash=HASH, warn=said.append)
    assert not (tmp_path / "x").exists()


def test_the_publishers_part_stays_at_its_host(
    proxied: FaultProxy, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "URLS", (f"{proxied.url}/{NAME}", url))
    proxied.faults.script += ["cut"]
    proxied.faults.chances["reset"] = 1.0
    with pytest.raises(StoreError, match="run the same command again to resume"):
        fetch(tmp_path, accept_hash=HASH, warn=lambda text: None)
    assert (tmp_path / f"{NAME}.part").stat().st_size > 0
    proxied.faults.chances.clear()
    assert 0 < fetch(tmp_path, accept_hash=HASH).num_received < len(CONTENT)


def test_a_server_without_ranges(plain: tuple[str, list[str]], tmp_path: Path) -> None:
    url, requests = plain
    begun(tmp_path, url, 1_000_000)
    requests.clear()
    warnings: list[str] = []
    done = fetch(tmp_path, url=url, accept_hash=HASH, warn=warnings.append)
    assert done.path.read_bytes() == CONTENT and done.num_received == len(CONTENT)
    assert "discarding the 1,000,000 bytes received so far: the server cannot cont" in warnings[0]
    assert requests == ["bytes=1000000-", "None"]


@pytest.mark.parametrize("how", ["grown", "replaced", "shorter than the part"])
def test_a_file_that_changed_between_two_tries(
    url: str, served: Path, tmp_path: Path, how: str
) -> None:
    begun(tmp_path, url, 1_000_000)
    size = {"grown": 3_500_000, "replaced": 3_000_000, "shorter than the part": 900_000}[how]
    other = random.Random(1).randbytes(size)
    served.write_bytes(other)
    os.utime(served, (1, 1))
    warnings: list[str] = []
    accepted = hashlib.md5(other).hexdigest()
    done = fetch(tmp_path, url=url, accept_hash=accepted, warn=warnings.append)
    assert done.path.read_bytes() == other
    assert "discarding the 1,000,000 bytes received so far: " in warnings[0]


def test_a_part_of_a_different_url_is_discarded(url: str, tmp_path: Path) -> None:
    begun(tmp_path, url, 1_000_000, "http://x/y")
    warnings: list[str] = []
    done = fetch(tmp_path, url=url, accept_hash=HASH, warn=warnings.append)
    assert done.path.read_bytes() == CONTENT
    assert "they may be of a different file" in warnings[0]


@pytest.mark.parametrize(
    "mine",
    [
        {".part": b"mine"},
        {".part.json": b"mine"},
        {".part.json": b'{"mine": 1}'},
        {".part": b"mine", ".part.json": b"[]"},
        {".part": b""},
        {".part": b"", ".part.json": b""},
    ],
)
def test_a_users_file_with_the_name_of_a_part_is_rejected(
    url: str, tmp_path: Path, mine: dict[str, bytes]
) -> None:
    for suffix, data in mine.items():
        (tmp_path / f"{NAME}{suffix}").write_bytes(data)
    with pytest.raises(OutputError, match="not those of an earlier one; move them, or give a diff"):
        fetch(tmp_path, url=url, accept_hash=HASH)
    assert files_of(tmp_path) == {f"{NAME}{suffix}": data for suffix, data in mine.items()}


def test_users_files_with_names_of_a_download_stay(url: str, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.unexpected").write_bytes(b"mine")
    with pytest.raises(StoreError, match=r"kept as .*\.unexpected-"):
        fetch(tmp_path, url=url)
    assert (tmp_path / f"{NAME}.unexpected").read_bytes() == b"mine"
    done = fetch(tmp_path, url="http://127.0.0.1:9/" + NAME, accept_hash=HASH)
    assert done.num_received == 0 and done.path.read_bytes() == CONTENT
    assert names(tmp_path) == [NAME, f"{NAME}.unexpected"]


def test_a_file_that_appears_meanwhile_stays(url: str, tmp_path: Path) -> None:
    def appear(doing: str, done: int, total: int) -> None:
        (tmp_path / NAME).write_bytes(b"mine")

    with pytest.raises(OutputError, match="exists now; move it and run the same command again"):
        fetch(tmp_path, url=url, accept_hash=HASH, progress=appear)
    assert (tmp_path / NAME).read_bytes() == b"mine"
    (tmp_path / NAME).unlink()
    assert fetch(tmp_path, url=url, accept_hash=HASH).num_received == 0


def test_ctrl_c_after_the_end_of_a_download(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has its name."""

    def interrupt(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch_module, "sync_folder", interrupt)
    with pytest.raises(KeyboardInterrupt) as found:
        fetch(tmp_path, url=url, accept_hash=HASH)
    assert found.value.__notes__ == [f"{tmp_path / NAME} is complete"]
    assert names(tmp_path) == [NAME]


def test_the_part_of_a_different_process_stays(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made after the file got its name, and is empty yet."""
    part = tmp_path / f"{NAME}.part"
    monkeypatch.setattr(fetch_module, "sync_folder", lambda folder: part.touch())
    fetch(tmp_path, url=url, accept_hash=HASH)
    assert part.exists()


def test_a_download_that_a_different_process_finishes(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does so before this process has locked the part."""

    def lock(path: Path) -> object:
        (tmp_path / NAME).write_bytes(CONTENT)
        (tmp_path / f"{NAME}.part.json").unlink()
        return lock_file(path)

    monkeypatch.setattr(fetch_module, "lock_file", lock)
    assert fetch(tmp_path, url=url, accept_hash=HASH).num_received == 0
    assert names(tmp_path) == [NAME]


def test_a_file_with_a_different_hash_is_kept(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        fetch(tmp_path, url=url)
    assert HASH in str(caught.value) and MD5 in str(caught.value)
    assert names(tmp_path) == [f"{NAME}.unexpected"]
    done = fetch(tmp_path, url="http://127.0.0.1:9/" + NAME, accept_hash=HASH)
    assert done.num_received == 0 and done.path.read_bytes() == CONTENT
    assert names(tmp_path) == [NAME]


class Hostile(http.server.BaseHTTPRequestHandler):
    """Sends fewer bytes than announced, redirects, or rejects the request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind = urlsplit(self.path).path.strip("/")
        if kind == "redirect":
            self.send_response(302)
            self.send_header("Location", f"/file?{urlsplit(self.path).query}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif kind == "loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif kind == "file" and self.path.endswith("?sequence=1&isAllowed=y"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)
        elif kind == "truncated":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(CONTENT[:100_000])
            self.close_connection = True
        else:
            self.send_response(403 if kind == "forbidden" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *parts: object) -> None:
        pass


@pytest.fixture(scope="module")
def hostile() -> Iterator[str]:
    with serving(Hostile) as base:
        yield base


def test_redirects_and_queries(hostile: str, tmp_path: Path) -> None:
    url = f"{hostile}/redirect?sequence=1&isAllowed=y"
    done = fetch(tmp_path / NAME, url=url, accept_hash=HASH)
    assert done.path.read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["truncated", "loop", "forbidden"])
def test_a_server_that_never_sends_the_file(hostile: str, tmp_path: Path, kind: str) -> None:
    """Without ranges, a download that is always cut off would never end: tries are bounded."""
    with pytest.raises(StoreError, match=f"/{kind}: "):
        fetch(tmp_path / NAME, url=f"{hostile}/{kind}", warn=lambda text: None)
    assert not (tmp_path / NAME).exists()


def test_no_such_file(hostile: str, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="/none: not found"):
        fetch(tmp_path / NAME, url=f"{hostile}/none")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "options, said",
    [
        ({"url": "ftp://x/y"}, "expected https://host/file"),
        ({"url": "file:///etc/passwd"}, "expected https://host/file"),
        ({"url": "https://me:secret@x/y"}, "without a password"),
        ({"url": "https://x"}, "names no file"),
        ({"accept_hash": "abc"}, r"expected an MD5 \(32"),
        ({"accept_hash": "z" * 32}, r"expected an MD5 \(32"),
        ({"accept_hash": ""}, r"expected an MD5 \(32"),
        ({"accept_hash": "sha1:" + "0" * 32}, r"expected an MD5 \(32"),
        ({"accept_hash": "sha256:" + "0" * 32}, r"expected an MD5 \(32"),
        ({"url": ""}, "expected https://host/file"),
        ({"url": "https://x/a#b"}, "the URL has a '#'"),
        ({"url": "https://x/a%00"}, "has a control character"),
        ({"url": "https://x/a%FF"}, "not UTF-8"),
        ({"url": "https://x/a%2F.."}, "names no file"),
    ],
)
def test_invalid_options(tmp_path: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        fetch(tmp_path, **options)  # type: ignore[arg-type]
    assert names(tmp_path) == []


def test_secrets_of_a_url_are_not_stored(url: str, tmp_path: Path) -> None:
    """A signed URL gets a new signature; it is still the same file."""
    begun(tmp_path, f"{url}?sig=hidden1", 1_000_000, other_url=url)
    done = fetch(tmp_path, url=f"{url}?sig=hidden2", accept_hash=HASH)
    assert done.num_received == 2_000_000
    with pytest.raises(StoreError) as caught:
        fetch(tmp_path / "x", url=f"{url}?sig=hidden3")
    assert "hidden" not in str(caught.value) and f"{url}: 3,000,000 bytes" in str(caught.value)


def test_invalid_paths(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("none", "file"):
        with pytest.raises(OutputError, match=rf"there is no folder .*{name}; make it first"):
            fetch(tmp_path / name / "x", url=url)


def test_one_process_at_a_time(url: str, tmp_path: Path) -> None:
    held = lock_file(tmp_path / f"{NAME}.part")
    assert held is not None
    with held, pytest.raises(OutputError, match="another process is fetching it"):
        fetch(tmp_path, url=url)
    (tmp_path / f"{NAME}.part").unlink()
    assert fetch(tmp_path, url=url, accept_hash=HASH).size == len(CONTENT)


def test_missing_space_is_reported_first(
    url: str, tmp_path: Path, mount_disk: Callable[[int], Path]
) -> None:
    disk = mount_disk(400_000)
    with pytest.raises(OutputError, match=r"0\.\d MB free, 3\.0 MB needed"):
        fetch(disk, url=url)


def test_a_disk_that_fills_up(
    url: str, tmp_path: Path, mount_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount_disk(400_000)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**40}))
        with pytest.raises(OutputError, match="No space left on device; free some space and run"):
            fetch(disk, url=url)
    assert f"{NAME}.part" in names(disk)


@pytest.mark.real
def test_a_killed_command_resumes(proxied: FaultProxy, tmp_path: Path) -> None:
    proxied.faults.bytes_a_second = 1_000_000
    command = [sys.executable, "-m", "cinic_shards", "fetch", str(tmp_path)]
    command += ["--url", f"{proxied.url}/{NAME}", "--accept-hash", HASH]
    for number in (signal.SIGKILL, signal.SIGINT):
        part = tmp_path / f"{NAME}.part"
        before = part.stat().st_size if part.exists() else 0
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 30
        while not part.exists() or part.stat().st_size < before + 500_000:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        err = process.communicate()[1]
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert "interrupted: fetching did not finish; run the same command again to" in err
    proxied.faults.bytes_a_second = 0.0
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"next: cinic-shard pack {tmp_path / NAME} ./shards\n" in result.stderr
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert names(tmp_path) == [NAME]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and "already complete" in again.stdout
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True).stdout)
    assert found.pop("seconds") >= 0
    assert found == {
        "path": str(tmp_path / NAME), "bytes": len(CONTENT), "digest": f"md5:{HASH}",
        "bytes_received": 0,
    }  # fmt: skip
