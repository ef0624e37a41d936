"""Small servers in this process: an object store and a web server that fail on demand.

They are quick to start, unlike those of ``servers``, and their errors repeat whatever was sent.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.support.servers import in_thread

_DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


class Server(ThreadingHTTPServer):
    """Files by path; GET, HEAD, PUT, copy, DELETE and S3's listing of a bucket."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.status = 200
        """Answer with this status; 200 to work."""
        self.cuts = False
        """Close the connection after half of a file."""
        self.stalls_at = ""
        """From the first request of a path that ends so, no request is answered; "" for none."""
        self.stalled, self.mended = threading.Event(), threading.Event()
        """Set once it stalls; set it to answer again."""

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that a client closes."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *parts: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.cuts:
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def _handle(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        path = unquote(url.path).lstrip("/")
        if self.server.stalls_at and path.endswith(self.server.stalls_at):
            self.server.stalled.set()
        if self.server.stalled.is_set():
            self.server.mended.wait()
        if self.server.status != 200:
            echo = escape(
                f"{self.requestline}\n{self.headers}\nhttp://{self.server.host}{self.path}"
            )
            self._answer(self.server.status, f"<Error><Message>{echo}</Message></Error>".encode())
        elif self.command == "PUT":
            if source := self.headers.get("x-amz-copy-source"):
                sent = self.server.files[unquote(source).lstrip("/")]
                self.server.files[path] = sent
                etag = f'"{hashlib.md5(sent).hexdigest()}"'
                body = f"<CopyObjectResult><ETag>{escape(etag)}</ETag></CopyObjectResult>"
                self._answer(200, body.encode(), ETag=etag)
                return
            self.server.files[path] = sent
            self._answer(200, ETag=f'"{hashlib.md5(sent).hexdigest()}"')
        elif self.command == "DELETE":
            self.server.files.pop(path, None)
            self._answer(204)
        elif "list-type" in (query := parse_qs(url.query)):
            self._list(path.strip("/"), query)
        elif path not in self.server.files:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._send(self.server.files[path])

    def _send(self, data: bytes) -> None:
        version = {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Last_Modified": _DATE}
        wanted = self.headers.get("Range", "")
        if not wanted:
            self._answer(200, data, **version)
            return
        first, last = wanted.removeprefix("bytes=").split("-")
        start, stop = int(first), min(int(last or len(data)), len(data) - 1) + 1
        found = f"bytes {start}-{stop - 1}/{len(data)}"
        self._answer(206, data[start:stop], Content_Range=found, **version)

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        keys = [path.removeprefix(f"{bucket}/") for path in sorted(self.server.files)]
        keys = [key for key in keys if key.startswith(prefix)]
        folders = {prefix + key[len(prefix) :].partition("/")[0] + "/" for key in keys
                   if "/" in key[len(prefix) :]} if "delimiter" in query else set()  # fmt: skip
        entries = [
            f"<Contents><Key>{escape(key)}</Key><LastModified>2015-10-21T07:28:00.000Z"
            f"</LastModified><ETag>&quot;x&quot;</ETag>"
            f"<Size>{len(self.server.files[f'{bucket}/{key}'])}</Size></Contents>"
            for key in keys
            if not any(key.startswith(folder) for folder in folders)
        ]
        entries += [
            f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders
        ]
        body = (
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<IsTruncated>false</IsTruncated>{''.join(entries)}</ListBucketResult>"
        )
        self._answer(200, body.encode())


for _method in ("GET", "HEAD", "PUT", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler._handle)


@contextmanager
def tiny_server() -> Iterator[Server]:
    """Run a server."""
    with in_thread(Server()) as server:
        try:
            yield server
        finally:
            server.mended.set()
