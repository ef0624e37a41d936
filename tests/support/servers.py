"""Real servers on loopback, for tests; each is ended by its process id."""

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

S = TypeVar("S", bound=ThreadingHTTPServer)

BIN = Path(sys.executable).parent
_WAIT_SECONDS = 60.0

KEY, SECRET = "testtest", "testsecret"


def free_port() -> int:
    """Return a port that nobody listens on."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = int(sock.getsockname()[1])
        # SeaweedFS also listens 10,000 ports above each of its ports.
        if port + 10_000 < 65_536:
            return port


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of a URL."""
    host, _, port = url.rpartition("/")[2].rpartition(":")
    return host, int(port)


@contextmanager
def running(
    command: Sequence[object], log: Path, url: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; enter when it answers at ``url``, and kill it at the end."""
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )
        try:
            wait_until_up(process, url, log)
            yield process
        finally:
            process.kill()
            process.wait()


def wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until an HTTP server answers."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except HTTPError as error:
            error.close()
            if error.code < 500:
                return
        except (URLError, OSError):
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"{url} does not answer: {log.read_text()[-2000:]}")
        time.sleep(0.05)


@dataclass(frozen=True)
class S3Server:
    """An S3 server and how to reach it."""

    endpoint: str
    bucket: str = "bucket"
    filer: str = ""
    """URL that lists SeaweedFS's files, including those that S3 does not show."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for the command line."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    @property
    def storage_options(self) -> dict[str, str]:
        """Options for ``open_store``."""
        return {
            "endpoint_url": self.endpoint,
            "access_key_id": KEY,
            "secret_access_key": SECRET,
            "region": "us-east-1",
        }

    def num_uploads(self) -> int:
        """Return the number of unfinished multipart uploads."""
        url = f"{self.filer}/buckets/{self.bucket}/.uploads/?limit=1000"
        request = urllib.request.Request(url, headers={"Accept": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                return len(json.load(answer)["Entries"] or ())
        except HTTPError as error:
            error.close()
            if error.code != 404:
                raise
            return 0

    def client(self) -> S3Store:
        """Return a client that is independent of the package."""
        config: Any = self.storage_options
        return S3Store(self.bucket, config=config, client_options={"allow_http": True})


def make_bucket(server: S3Server) -> S3Server:
    """Write until it succeeds: a server may answer before all its parts are up."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            obstore.put(server.client(), "ready", b"1")
            return server
        except BaseError:  # whatever the server cannot do yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextmanager
def seaweedfs(folder: Path, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """Run SeaweedFS's S3 server at an address of this machine or namespace."""
    master, volume, filer, s3 = (free_port() for _ in range(4))
    identity = {
        "name": "ci",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    command = [
        BIN / "weed", "server", f"-ip={host}", f"-ip.bind={host}", f"-dir={folder / 'data'}",
        f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-s3",
        f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.config={folder / 's3.json'}", "-volume.max=0", "-master.volumeSizeLimitMB=1024",
    ]  # fmt: skip
    endpoint = f"http://{host}:{s3}"
    with running(command, folder / "log", endpoint):
        yield make_bucket(S3Server(endpoint, filer=f"http://{host}:{filer}"))


@contextmanager
def juicefs(folder: Path) -> Iterator[S3Server]:
    """Run JuiceFS's gateway, a different implementation of S3."""
    port, metrics = free_port(), free_port()
    database = f"sqlite3://{folder / 'meta.db'}"
    subprocess.run(
        [BIN / "juicefs", "format", "--storage", "file", "--bucket", f"{folder / 'data'}/",
         "--no-update", database, "cinic"],
        check=True, capture_output=True,
    )  # fmt: skip
    command = [
        BIN / "juicefs", "gateway", "--no-usage-report", "--no-banner", "--keep-etag",
        "--cache-dir", "memory", "--metrics", f"127.0.0.1:{metrics}", database,
        f"127.0.0.1:{port}",
    ]  # fmt: skip
    endpoint = f"http://127.0.0.1:{port}"
    root = {"MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET}
    with running(command, folder / "log", endpoint, **root):
        yield make_bucket(S3Server(endpoint, bucket="cinic"))


@contextmanager
def caddy(folder: Path, served: Path) -> Iterator[str]:
    """Run a web server for a folder; yield its URL."""
    port = free_port()
    command = [BIN / "caddy", "file-server", "--listen", f"127.0.0.1:{port}", "--root", served]
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with running(command, folder / "log", f"http://127.0.0.1:{port}/", **home):
        yield f"http://127.0.0.1:{port}"


@dataclass(frozen=True)
class DaskCluster:
    """The address of a scheduler, and the processes of its workers."""

    address: str
    workers: list[subprocess.Popen[bytes]]


@contextmanager
def dask_cluster(folder: Path, num_workers: int = 2) -> Iterator[DaskCluster]:
    """Run a dask scheduler, and workers with one thread each."""
    port, pages = free_port(), free_port()
    address = f"127.0.0.1:{port}"
    command = [
        BIN / "dask", "scheduler", "--host", "127.0.0.1", "--port", port,
        "--dashboard-address", f"127.0.0.1:{pages}",
    ]  # fmt: skip
    with ExitStack() as stack:
        up = f"http://127.0.0.1:{pages}/health"
        stack.enter_context(running(command, folder / "scheduler.log", up))
        workers = []
        for number in range(num_workers):
            pages = free_port()
            command = [
                BIN / "dask", "worker", f"tcp://{address}", "--nthreads", 1, "--no-nanny",
                "--dashboard-address", f"127.0.0.1:{pages}", "--local-directory", folder,
                "--name", number,
            ]  # fmt: skip
            up = f"http://127.0.0.1:{pages}/health"
            log = folder / f"worker-{number}.log"
            workers.append(stack.enter_context(running(command, log, up)))
        yield DaskCluster(f"dask://{address}", workers)


@dataclass(frozen=True)
class Request:
    """A request that an ``answering`` server has received."""

    method: str
    target: str
    """Path and query; the entire URL if the client takes the server for a proxy."""
    headers: Message
    time: float
    """When it arrived, in seconds of ``time.monotonic``."""


@dataclass(frozen=True)
class Answer:
    """Answer of an ``answering`` server."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    ranged: bool = True
    """Send the part of the body that the request asks for, as servers with ranges do."""
    most: int | None = None
    """Close the connection after so many bytes of the body; None to send all."""


@dataclass
class Answering:
    """A server that answers as a function says."""

    url: str
    requests: list[Request] = field(default_factory=list)


@contextmanager
def answering(
    answer: Callable[[Request], Answer], *, tls: ssl.SSLContext | None = None
) -> Iterator[Answering]:
    """Run an HTTP server, with TLS if it is given."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_one_request(self) -> None:
            with suppress(OSError):  # the client has given up
                super().handle_one_request()

        def _serve(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(size)
            request = Request(self.command, self.path, self.headers, time.monotonic())
            made.requests.append(request)
            found = answer(request)
            body, status, headers = found.body, found.status, dict(found.headers)
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if asked and status == 200 and found.ranged:
                first, last = int(asked[1]), int(asked[2] or len(body) - 1)
                headers["Content-Range"] = f"bytes {first}-{min(last, len(body) - 1)}/{len(body)}"
                body, status = body[first : last + 1], 206
            if status < 300:
                headers.setdefault("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
                headers.setdefault("ETag", '"same"')
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: found.most])
                self.close_connection |= found.most is not None

        do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _serve  # noqa: N815

        def log_message(self, *parts: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
    made = Answering(f"{scheme}://{host}:{server.server_port}")
    with in_thread(server):
        yield made


@contextmanager
def in_thread(server: S) -> Iterator[S]:
    """Run an HTTP server in a thread, and close it when the block ends."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def stalling() -> Iterator[str]:
    """Run a server that accepts connections and never answers; yield its URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def make_certificates(folder: Path, host: str = "localhost") -> ssl.SSLContext:
    """Write ``ca.pem``, an authority, and return the settings of a server that it vouches for.

    Raises:
        FileNotFoundError: the command openssl is missing.
    """
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (folder / "names").write_text(f"subjectAltName=DNS:{host}\n")
    for command in (
        ["req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=tests"],
        ["req", *new_key, "-keyout", "key", "-out", "request", "-subj", f"/CN={host}"],
        ["x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key",
         "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "pem"],
    ):  # fmt: skip
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pem", folder / "key")
    return context
