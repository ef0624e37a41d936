r"""A proxy for an HTTP server that fails on purpose, as networks and servers do.

Use it in tests, and to test your own timeouts and retries:

    python tools/fault_proxy.py 127.0.0.1:8333 --listen 127.0.0.1:9333 \
        --latency 0.05 --fault 503=0.05 --fault cut=0.05 --fault stall=0.01

It speaks HTTP/1.1 without TLS, keeps connections open, and passes every byte on unchanged if no
fault is drawn. Each request gets at most one fault, at random or, in a test, by a script.
"""

import argparse
import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

STATUSES = {
    "429": b"429 Too Many Requests",
    "500": b"500 Internal Server Error",
    "503": b"503 Service Unavailable",
}
FAULTS = {
    **{status: f"answer {line.decode()}" for status, line in STATUSES.items()},
    "cut": "send half of the body, then close the connection",
    "etag": "send a different ETag",
    "reset": "reset the connection before an answer",
    "stall": "never answer",
    "stall-body": "send half of the body, then nothing",
}
"""Fault -> what it does."""

_CHUNK_BYTES = 2**16
"""Largest piece that is passed on, if the bandwidth is limited."""
_FAST_BYTES = 2**20
_HEAD = re.compile(rb"^(content-length|transfer-encoding|etag):[ \t]*(.*?)[ \t]*\r$", re.I | re.M)


@dataclass(slots=True)
class Faults:
    """Faults to cause; may be changed while the proxy runs."""

    latency_seconds: float = 0.0
    """Wait before each request is passed on."""
    bytes_a_second: float = 0.0
    """Bandwidth of each connection's answers; 0: unlimited."""
    chances: dict[str, float] = field(default_factory=dict)
    """Fault -> its probability for each request."""
    script: list[str] = field(default_factory=list)
    """Faults of the next requests, "" for none; used up before any is drawn at random."""
    seed: int = 0
    retry_after: str = ""
    """``Retry-After`` header of answers 429 and 503: seconds or a date; empty for none."""

    def __post_init__(self) -> None:
        if unknown := {*self.chances, *filter(None, self.script)} - FAULTS.keys():
            raise ValueError(f"fault {sorted(unknown)}: expected any of {', '.join(FAULTS)}")
        if sum(self.chances.values()) > 1:
            raise ValueError(f"chances of {self.chances}: more than 1 together")


class FaultProxy:
    """The proxy, in its own thread; use it as a context manager.

    Attributes:
        address: host and port that it listens on.
        faults: the faults to cause.
        counts: requests by the fault that they got; "" for none.
        num_sent: bytes of bodies that were sent to clients.
    """

    def __init__(
        self, upstream: tuple[str, int], faults: Faults, listen: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self.upstream = upstream
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self.num_sent = 0
        self._chance = random.Random(faults.seed)
        self._loop = asyncio.new_event_loop()
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._connected, *listen, limit=_FAST_BYTES)
        )
        self.address: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy")

    @property
    def url(self) -> str:
        """URL of the proxy."""
        return f"http://{self.address[0]}:{self.address[1]}"

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        for listening in self._server.sockets:
            self._loop.remove_reader(listening)
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task, writer in self._clients.items():
                task.cancel()
                writer.transport.abort()
            await asyncio.wait(tasks)  # with asyncio's own, which accept connections
        self._server.close()  # only now: a connection that is just accepted needs it

    def _draw(self) -> str:
        """Return the next request's fault, and count it."""
        fault = self.faults.script.pop(0) if self.faults.script else self._by_chance()
        self.counts[fault] += 1
        return fault

    def _by_chance(self) -> str:
        drawn = self._chance.random()
        for fault, chance in self.faults.chances.items():
            drawn -= chance
            if drawn < 0:
                return fault
        return ""

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client in a task; its connection is closed even if the task never began."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._clients[task] = writer
        task.add_done_callback(lambda task: self._clients.pop(task).close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client's connection, with a connection to the server for it."""
        up_writer = None
        try:
            up_reader, up_writer = await asyncio.open_connection(*self.upstream, limit=_FAST_BYTES)
            while await self._exchange(reader, writer, up_reader, up_writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either side is gone, or the proxy stops
        finally:
            if up_writer is not None:
                up_writer.close()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> bool:
        """Pass on one request and its answer; return True if another may follow."""
        request = await reader.readuntil(b"\r\n\r\n")
        fault = self._draw()
        await asyncio.sleep(self.faults.latency_seconds)
        if fault == "reset":
            _reset(writer)
            return False
        if fault == "stall":
            while await reader.read(_CHUNK_BYTES):  # until the client gives up
                pass
            return False
        if fault in STATUSES:
            async for _ in _body(reader, request):
                pass
            head = b"HTTP/1.1 " + STATUSES[fault] + b"\r\ncontent-length: 0\r\n"
            if self.faults.retry_after and fault in ("429", "503"):
                head += b"retry-after: " + self.faults.retry_after.encode() + b"\r\n"
            writer.write(head + b"\r\n")
            await writer.drain()
            return True
        up_writer.write(request)
        async for part in _body(reader, request):
            up_writer.write(part)
            await up_writer.drain()
        answer = await up_reader.readuntil(b"\r\n\r\n")
        if fault == "etag":
            answer = re.sub(rb"(?im)^(etag:[ \t]*\W?)", rb"\1other", answer)
        writer.write(answer)
        if request.startswith(b"HEAD ") or re.match(rb"\S+ (1\d\d|204|304) ", answer):
            await writer.drain()
            return True
        left = _length(answer) // 2 if fault in ("cut", "stall-body") else None
        most = _CHUNK_BYTES if self.faults.bytes_a_second else _FAST_BYTES
        async for part in _body(up_reader, answer, until_end=True, most=most):
            part = part if left is None else part[:left]
            writer.write(part)
            self.num_sent += len(part)
            await writer.drain()
            if self.faults.bytes_a_second:
                await asyncio.sleep(len(part) / self.faults.bytes_a_second)
            if left is not None:
                left -= len(part)
                if left <= 0:
                    break
        if fault == "stall-body":
            while await reader.read(_CHUNK_BYTES):
                pass
        return fault not in ("cut", "stall-body") and bool(_HEAD.search(answer))


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, as a crashed server or a firewall does."""
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _fields(head: bytes) -> dict[bytes, bytes]:
    return {match[1].lower(): match[2] for match in _HEAD.finditer(head)}


def _length(head: bytes) -> int:
    return int(_fields(head).get(b"content-length", 0))


async def _body(
    reader: asyncio.StreamReader,
    head: bytes,
    *,
    until_end: bool = False,
    most: int = _CHUNK_BYTES,
) -> AsyncIterator[bytes]:
    """Yield the body after a head, as it is on the wire."""
    fields = _fields(head)
    if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line
            async for part in _exactly(reader, size, most):
                yield part
            if size:
                yield await reader.readexactly(2)
                continue
            while True:  # trailers, up to an empty line
                line = await reader.readuntil(b"\r\n")
                yield line
                if line == b"\r\n":
                    return
    elif b"content-length" in fields:
        async for part in _exactly(reader, int(fields[b"content-length"]), most):
            yield part
    elif until_end:
        while part := await reader.read(most):
            yield part


async def _exactly(reader: asyncio.StreamReader, size: int, most: int) -> AsyncIterator[bytes]:
    while size:
        part = await reader.read(min(size, most))
        if not part:
            raise asyncio.IncompleteReadError(b"", size)
        size -= len(part)
        yield part


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host or "127.0.0.1", int(port)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the proxy until it is interrupted."""
    known = "\n".join(f"  {name:11} {what}" for name, what in FAULTS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nfaults:\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("upstream", type=_host_and_port, help="host:port of the server")
    parser.add_argument("--listen", type=_host_and_port, default=("127.0.0.1", 0))
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each request")
    parser.add_argument("--bandwidth", type=float, default=0.0, help="bytes a second a connection")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="FAULT=CHANCE", help="repeatable"
    )
    parser.add_argument("--retry-after", default="", help="what answers 429 and 503 ask for")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    chances = {
        fault: float(chance) for fault, _, chance in (one.partition("=") for one in args.fault)
    }
    faults = Faults(
        args.latency, args.bandwidth, chances, seed=args.seed, retry_after=args.retry_after
    )
    with FaultProxy(args.upstream, faults, args.listen) as proxy:
        print(f"{proxy.url} -> {args.upstream[0]}:{args.upstream[1]}", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        print(dict(proxy.counts))


if __name__ == "__main__":
    main()
