"""Servers as they are: busy, stalled, away, and each different from the others."""

import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cinic_shards.errors import CinicShardsError, MissingError, OptionError, StoreError
from cinic_shards.store import (
    RemoteStore,
    WebFile,
    connection,
    elsewhere,
    open_store,
    remote,
    requests,
)
from cinic_shards.store.failures import Failure
from tests.support.servers import (
    Answer,
    Request,
    answering,
    make_certificates,
    stalling,
)

DATA = np.random.default_rng(0).bytes(100_000)
S3 = {"access_key_id": "me", "secret_access_key": "secret", "region": "us-east-1"}
PATIENT = {"retry_timeout": 20}
"""A failure that is retried takes longer than a test allows."""
QUICK_SECONDS = 2.0
"""The bound on what must not wait."""


def s3(url: str, **options: object) -> RemoteStore:
    """A store on an S3 server at a URL."""
    store = open_store("s3://bucket/folder", S3 | {"endpoint_url": url} | options)
    assert isinstance(store, RemoteStore)
    return store


@contextmanager
def ctrl_c_after(seconds: float) -> Iterator[None]:
    """Send Ctrl-C to this thread, once."""
    main = threading.get_ident()
    timer = threading.Timer(seconds, lambda: signal.pthread_kill(main, signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGINT, before)


def write(store: RemoteStore) -> None:
    with store.create("x") as file:
        file.write(DATA)


METHODS: dict[str, Callable[[RemoteStore], object]] = {
    "names": lambda store: store.names(),
    "read": lambda store: store.read("x"),
    "size": lambda store: store.size("x"),
    "read_range": lambda store: store.read_range("x", 1, 2),
    "map": lambda store: store.map("x", 1),
    "create": write,
    "delete": lambda store: store.delete("x"),
    "take": lambda store: store.take(store.folder("below"), "x"),
}


class TestWaiting:
    """Nothing waits without end, and nothing gives up before its time."""

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("state", ["stalls", "is busy"])
    def test_ctrl_c(self, method: str, state: str) -> None:
        """Ctrl-C is noticed while a server stalls, and between two tries."""
        with stalling() as stalled, answering(lambda _: Answer(503)) as busy:
            limits = {"read_timeout": 4, "write_timeout": 4, "retry_timeout": 4}
            store = s3(stalled if state == "stalls" else busy.url, **limits)
            with ctrl_c_after(0.3):
                start = time.monotonic()
                with pytest.raises(KeyboardInterrupt):
                    METHODS[method](store)
                assert time.monotonic() - start < QUICK_SECONDS

    @pytest.mark.parametrize("sent", [0, 10])
    def test_ctrl_c_while_a_file_is_fetched(self, sent: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer() -> None:
                connection = server.accept()[0]
                head = "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nETag: x\r\n"
                if sent:
                    connection.sendall(f"{head}\r\n{'x' * sent}".encode())
                ended.wait()
                connection.close()

            ended = threading.Event()
            thread = threading.Thread(target=answer)
            thread.start()
            try:
                with ctrl_c_after(0.3):
                    start = time.monotonic()
                    with pytest.raises(KeyboardInterrupt):
                        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
                        found = WebFile(url).open(0)
                        assert found is not None
                        list(found.chunks)
                    assert time.monotonic() - start < QUICK_SECONDS
            finally:
                ended.set()
                thread.join()

    def test_threads_end_after_their_request(self) -> None:
        before = {*threading.enumerate()}  # one may wait for a call that Ctrl-C has stopped
        with answering(lambda _: Answer(body=DATA)) as server:
            s3(server.url).read("x")
            deadline = time.monotonic() + 5
            while any("cinic-shards" in one.name for one in {*threading.enumerate()} - before):
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def test_a_thread_that_is_about_to_end_makes_its_call(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The caller takes an idle thread, and then sleeps until the thread would end."""

        class Slow(list[Any]):
            def pop(self, *arguments: Any) -> Any:
                inbox = super().pop(*arguments)
                time.sleep(0.2)
                return inbox

        monkeypatch.setattr(elsewhere, "IDLE_SECONDS", 0.04)
        monkeypatch.setattr(elsewhere, "_idle", Slow())
        assert [elsewhere.start(lambda: 1).outcome.get(timeout=5) for _ in range(2)] == [
            (1, None)
        ] * 2

    @pytest.mark.parametrize("status", [500, 503])
    def test_an_abandoned_request_is_not_sent_again(
        self, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither after a failure, nor after the wait that the server had asked for."""
        monkeypatch.setattr(requests, "FIRST_WAIT_SECONDS", 0.2)
        with answering(lambda _: Answer(status)) as server:
            store = s3(server.url)
            if status == 503:
                store._requests._open_again = time.monotonic() + 0.2
            started = elsewhere.start(lambda: store.read("x"))
            deadline = time.monotonic() + 5
            while status == 500 and not server.requests and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.05)
            started.abandoned.set()
            started.outcome.get(timeout=5)
            assert len(server.requests) == (1 if status == 500 else 0)

    def test_time_limits_the_tries_and_not_their_number(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Many more tries than any default number, in a short time."""
        monkeypatch.setattr(requests, "MAX_WAIT_SECONDS", 0.02)
        monkeypatch.setattr(requests, "FIRST_WAIT_SECONDS", 0.02)
        with answering(lambda _: Answer(503 if len(server.requests) < 30 else 200)) as server:
            assert s3(server.url).read("x") == b""
        assert len(server.requests) == 30

    def test_the_last_try_is_at_the_end_of_the_time(self) -> None:
        with answering(lambda _: Answer(500)) as server:
            with pytest.raises(StoreError, match=r"GET, \d+ tries in 1\.\d s: 500 Internal Server"):
                s3(server.url, retry_timeout=1).read("x")
            assert 0.8 <= server.requests[-1].time - server.requests[0].time < 2

    def test_max_retries(self) -> None:
        said = "GET, 3 tries in "
        with answering(lambda _: Answer(500)) as server, pytest.raises(StoreError, match=said):
            s3(server.url, max_retries=2).read("x")
        assert len(server.requests) == 3

    @pytest.mark.parametrize(
        "status, code",
        [(400, "RequestTimeout"), (409, "OperationAborted"), (408, ""), (429, ""), (502, "")],
    )
    @pytest.mark.parametrize("method", ["read", "create"])
    def test_temporary_failures(self, status: int, code: str, method: str) -> None:
        """S3 reports some with a status that is otherwise final."""
        busy = Answer(status, f"<Error><Code>{code}</Code></Error>".encode())
        with answering(lambda _: busy if len(server.requests) < 2 else Answer(200)) as server:
            METHODS[method](s3(server.url))

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize("form", ["seconds", "date"])
    def test_retry_after(self, status: int, form: str, caplog: pytest.LogCaptureFixture) -> None:
        """It is honoured by all threads, and reported once. One request asks for the header."""

        def answer(request: Request) -> Answer:
            date = format_datetime(datetime.now(UTC) + timedelta(seconds=1.99), True)
            header = {"Retry-After": "1" if form == "seconds" else date}
            is_open = request.time - server.requests[0].time > 0.9
            return Answer(body=DATA) if is_open else Answer(status, headers=header)

        with answering(answer) as server, caplog.at_level(logging.WARNING):
            store = s3(server.url)
            with ThreadPoolExecutor(4) as threads:
                assert list(threads.map(store.read, "x" * 4)) == [DATA] * 4
        early = [one for one in server.requests if one.time - server.requests[0].time < 0.9]
        assert len(early) <= 5
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 1
        assert re.match("s3://bucket/folder: the server asks to wait [12] s; waiting$", said[0])

    def test_a_retry_after_beyond_the_time(self, caplog: pytest.LogCaptureFixture) -> None:
        said = r"2 tries in 1\.\d s: 503 Service Unavailable"
        busy = Answer(503, headers={"Retry-After": "999"})
        with answering(lambda _: busy) as server, pytest.raises(StoreError, match=said):
            s3(server.url, retry_timeout=1).read("x")
        said = r"asks to wait 999 s; waiting, \d s of them \(retry_timeout\)"
        assert re.search(said, caplog.text)

    @pytest.mark.parametrize(
        ("header", "is_later"),
        [
            ("7", True),
            ("Wed, 21 Oct 2099 07:28:00 GMT", True),
            ("Wed, 21 Oct 2099 07:28:00 -0000", True),
            ("Wed, 21 Oct 2099 07:28:00", True),
            ("Wed, 21 Oct 2015 07:28:00 -0000", False),
            ("soon", False),
            (None, False),
        ],
    )
    def test_forms_of_retry_after(self, header: str | None, is_later: bool) -> None:
        assert (requests._seconds(header) > 0) == is_later

    def test_a_failure_without_a_url_has_no_retry_after(self) -> None:
        store = open_store("http://127.0.0.1:9/x")
        assert isinstance(store, RemoteStore)
        failure = Failure("temporary", "busy", status=503)
        client: Any = None
        assert store._requests._ask(failure, client, "") == (0, {})

    def test_an_answer_does_not_steer_the_terminal(self, caplog: pytest.LogCaptureFixture) -> None:
        strange = Answer(500, b"<Code>\x1b[31mX</Code>")
        said = r"500 Internal|x1b\[31mX"
        with answering(lambda _: strange) as server, pytest.raises(StoreError, match=said) as found:
            s3(server.url, retry_timeout=0).read("x")
        assert "\x1b" not in str(found.value) + caplog.text

    def test_a_cut_answer_resumes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If each connection ends after some bytes, what was received is kept."""
        monkeypatch.setattr(remote, "_CHUNK_BYTES", 10_000)
        monkeypatch.setattr(requests, "MAX_WAIT_SECONDS", 0.02)

        with answering(lambda _: Answer(body=DATA, most=30_000)) as server:
            assert bytes(s3(server.url).read_range("x", 0, 100_000)) == DATA
        ranges = [one.headers["Range"] for one in server.requests]
        assert len(ranges) == 5 and ranges[:2] == ["bytes=0-99999"] * 2


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a certificate authority that nobody knows, and of a server's certificate."""
    folder = tmp_path_factory.mktemp("tls")
    try:
        make_certificates(folder)
    except FileNotFoundError:
        pytest.skip("NOT RUN: the command openssl is missing")
    return folder


NO_BUCKET = b"<Error><Code>NoSuchBucket</Code></Error>"
WRONG_KEY = b"<Error><Code>InvalidAccessKeyId</Code></Error>"


@pytest.mark.parametrize("method", ["read", "size", "names", "create", "delete"])
@pytest.mark.parametrize(
    "status, body, said",
    [
        (404, NO_BUCKET, "there is no such bucket; make it first"),
        (403, WRONG_KEY, "InvalidAccessKeyId; the credentials are missing, wrong, or do not"),
        (400, b"<Error><Code>InvalidBucketName</Code></Error>", "InvalidBucketName"),
        (501, b"", "501 Not Implemented"),
    ],
)
def test_rejections_are_not_retried(status: int, body: bytes, said: str, method: str) -> None:
    """The cause is named also by ``size``, although the answer to HEAD does not hold it."""
    with answering(lambda _: Answer(status, body)) as server:
        start = time.monotonic()
        with pytest.raises(CinicShardsError, match=f"s3://bucket/folder.*{said}") as caught:
            METHODS[method](s3(server.url, **PATIENT))
        assert not isinstance(caught.value, MissingError)
        assert time.monotonic() - start < QUICK_SECONDS
    assert len(server.requests) <= 2


def test_an_unknown_host_is_not_retried() -> None:
    try:
        socket.getaddrinfo("none.invalid", 80)
    except socket.gaierror as error:
        if error.errno != socket.EAI_NONAME:
            pytest.skip("NOT RUN: there is no name server here")
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"there is no host none\.invalid"):
        open_store("http://none.invalid/x", PATIENT).read("x")
    assert time.monotonic() - start < QUICK_SECONDS


def test_missing_credentials_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service that gives a cloud's machine its credentials does not answer elsewhere."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    options = PATIENT | {"metadata_endpoint": "http://127.0.0.1:1", "region": "us-east-1"}
    start = time.monotonic()
    with pytest.raises(StoreError, match="no credentials are given, and this machine has none"):
        open_store("s3://bucket/x", options).read("x")
    assert time.monotonic() - start < QUICK_SECONDS


class TestCertificates:
    @pytest.mark.parametrize("how", ["text", "file", "variable"])
    def test_a_private_authority(
        self, authority: Path, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = authority / "ca.pem"
        option = {"text": path.read_text(), "file": str(path)}.get(how)
        if option is None:
            monkeypatch.setenv("SSL_CERT_FILE", str(path))
        options = {"root_certificate": option} if option else {}
        with answering(lambda _: Answer(body=DATA), tls=context(authority)) as server:
            assert open_store(server.url, options).read("x") == DATA

    def test_a_busy_server_of_a_private_authority(self, authority: Path) -> None:
        """The request that asks for ``Retry-After`` knows the authority too."""

        def answer(request: Request) -> Answer:
            is_open = request.time - server.requests[0].time > 0.9
            return Answer(body=DATA) if is_open else Answer(503, headers={"Retry-After": "1"})

        with answering(answer, tls=context(authority)) as server:
            options = {"root_certificate": authority / "ca.pem"}
            assert open_store(server.url, options).read("x") == DATA
        assert len(server.requests) == 3

    @pytest.mark.parametrize(
        "change, said",
        [
            (lambda url: url, "certificate is not trusted .UnknownIssuer.; .*root_certificate"),
            (lambda url: url.replace("localhost", "127.0.0.1"), "certificate is"),
        ],
    )
    def test_a_certificate_that_is_not_trusted(
        self, authority: Path, change: Callable[[str], str], said: str
    ) -> None:
        with answering(lambda _: Answer(body=DATA), tls=context(authority)) as server:
            start = time.monotonic()
            with pytest.raises(StoreError, match=said):
                open_store(change(server.url), PATIENT).read("x")
            assert time.monotonic() - start < QUICK_SECONDS

    def test_a_server_without_tls(self) -> None:
        with answering(lambda _: Answer()) as server:
            start = time.monotonic()
            with pytest.raises(StoreError, match="does not use TLS; use http://"):
                open_store(server.url.replace("http:", "https:"), PATIENT).read("x")
            assert time.monotonic() - start < QUICK_SECONDS

    def test_a_missing_file_of_certificates(self, tmp_path: Path) -> None:
        store = open_store("https://127.0.0.1:1", {"root_certificate": tmp_path / "none"})
        with pytest.raises(OptionError, match="root_certificate: expected a file of certificates"):
            store.read("x")


def context(authority: Path) -> Any:
    import ssl

    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(authority / "pem", authority / "key")
    return found


class TestHead:
    @pytest.mark.parametrize("status", [403, 404, 405, 501])
    @pytest.mark.parametrize("url", ["s3", "http"])
    def test_a_server_without_head(self, status: int, url: str) -> None:
        def answer(request: Request) -> Answer:
            return Answer(status) if request.method == "HEAD" else Answer(body=DATA)

        with answering(answer) as server:
            store = s3(server.url) if url == "s3" else open_store(server.url)
            assert store.size("x") == len(DATA)
            assert store.map("x", len(DATA)).tobytes() == DATA
        assert [one.method for one in server.requests].count("HEAD") == 1

    def test_a_missing_file(self) -> None:
        said = "folder/x: not found"
        with answering(lambda _: Answer(404)) as server, pytest.raises(MissingError, match=said):
            s3(server.url).size("x")


def test_two_etags_of_one_file() -> None:
    """Two servers behind one address may not agree on the ETag."""

    def answer(request: Request) -> Answer:
        return Answer(body=DATA, headers={"ETag": f'"{len(server.requests) % 2}"'})

    with answering(answer) as server:
        store = s3(server.url)
        store.read_range("x", 0, 10)
        said = "was replaced while it was read.* several servers answer at this address"
        with pytest.raises(StoreError, match=said):
            store.read_range("x", 10, 20)


@pytest.mark.parametrize("form", ["option", "variable", "with the bucket"])
def test_virtual_hosted_style(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some servers find the bucket only in the host's name. A proxy replaces the name server."""
    options: dict[str, object] = {"virtual_hosted_style_request": True}
    if form == "variable":
        monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
        options = {}
    host = "bucket.s3.test" if form == "with the bucket" else "s3.test"
    with answering(lambda _: Answer(body=DATA)) as server:
        store = s3(f"http://{host}:99", proxy_url=server.url, **options)
        assert store.read("x") == DATA
    assert server.requests[0].target == "http://bucket.s3.test:99/folder/x"


class TestSignedFolders:
    QUERY = "Expires=9&Signature=a%2Bb~_&Key-Pair-Id=K"

    @pytest.mark.parametrize("name", ["x", "a b+c&d.tar"])
    def test_a_query_goes_with_each_file(self, name: str) -> None:
        def answer(request: Request) -> Answer:
            return Answer(403 if not request.target.endswith(f"?{self.QUERY}") else 200, DATA)

        with answering(answer) as server:
            store = open_store(f"{server.url}/a%20folder", {"query": self.QUERY})
            assert store.read(name) == DATA
            assert bytes(store.read_range(name, 5, 9)) == DATA[5:9]
            assert store.map(name, len(DATA)).tobytes() == DATA
            paths = {one.target.partition("?")[0] for one in server.requests}
        assert paths == {f"/a%20folder/{'x' if name == 'x' else 'a%20b%2Bc%26d.tar'}"}
        assert "Signature" not in str(store)

    def test_the_number_of_clients_is_limited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each file needs one, because a client adds no query to a path."""
        monkeypatch.setattr(connection, "_MAX_CLIENTS", 2)
        with answering(lambda _: Answer(body=DATA)) as server:
            store = open_store(server.url, {"query": self.QUERY})
            assert isinstance(store, RemoteStore)
            for name in "abac":
                assert store.read(name) == DATA
            clients = store._requests._connection._clients
            assert [name for _, name in clients] == ["a", "c"]

    @pytest.mark.parametrize(
        "given", [{"X-Key": "abc", "Cookie": "a=b"}, "X-Key: abc\nCookie: a=b"]
    )
    def test_headers_go_with_each_request(self, given: object) -> None:
        with answering(lambda _: Answer(body=DATA)) as server:
            assert open_store(server.url, {"headers": given}).read("x") == DATA
        headers = server.requests[0].headers
        assert (headers["X-Key"], headers["Cookie"]) == ("abc", "a=b")

    def test_headers_in_the_url(self) -> None:
        with answering(lambda _: Answer(body=DATA)) as server:
            assert open_store(f"{server.url}/?headers=X-Key:%20abc").read("x") == DATA
        assert server.requests[0].headers["X-Key"] == "abc"

    @pytest.mark.parametrize("given", ["abc", {"a b": "c"}, {"a": "b\nc"}, {"a": 1}])
    def test_invalid_headers(self, given: object) -> None:
        with pytest.raises(OptionError, match="option headers: expected lines such as Name: val"):
            open_store("http://host/x", {"headers": given})

    def test_a_query_is_for_web_servers(self) -> None:
        with pytest.raises(OptionError, match="option query is for web servers"):
            open_store("s3://bucket/x", {"query": "a=b"})


@pytest.mark.parametrize("method", ["read", "size", "read_range"])
def test_expired_credentials_are_renewed(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers report an expired token with status 400, which HEAD does not explain."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    given = 0

    def answer(request: Request) -> Answer:
        nonlocal given
        if request.target == "/credentials":
            given += 1
            until = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
            words = {"AccessKeyId": f"key{given}", "SecretAccessKey": "s", "Token": "t"}
            return Answer(body=json.dumps(words | {"Expiration": until}).encode())
        if "key1" in request.headers["Authorization"]:
            return Answer(400, b"<Error><Code>ExpiredToken</Code></Error>")
        return Answer(body=DATA)

    (tmp_path / "token").write_text("abc")
    with answering(answer) as server:
        store = open_store(
            "s3://bucket/folder",
            {
                "endpoint_url": server.url,
                "region": "us-east-1",
                "container_credentials_full_uri": f"{server.url}/credentials",
                "container_authorization_token_file": tmp_path / "token",
                **PATIENT,
            },
        )
        assert isinstance(store, RemoteStore)
        METHODS[method](store)
    assert given == 2


def test_expired_credentials_that_stay() -> None:
    expired = Answer(400, b"<Error><Code>ExpiredToken</Code></Error>")
    said = "ExpiredToken: the credentials have expired; renew them"
    with answering(lambda _: expired) as server, pytest.raises(StoreError, match=said):
        s3(server.url, **PATIENT).read("x")
    assert len(server.requests) == 2


@pytest.mark.parametrize("method", ["read", "size", "create"])
@pytest.mark.parametrize("status", [301, 400])
def test_a_bucket_in_a_different_region(
    status: int, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"

    def answer(request: Request) -> Answer:
        signed = f"{request.headers['Authorization']}{request.target}"
        if "eu-west-1" in signed:
            return Answer(body=DATA)
        if status == 301:
            return Answer(301, headers={"x-amz-bucket-region": "eu-west-1"})
        return Answer(400, body)

    with answering(answer) as server:
        METHODS[method](s3(server.url, **PATIENT))
        METHODS[method](s3(server.url, **PATIENT))
    assert "the bucket is in the region eu-west-1; set region=eu-west-1" in caplog.text


def test_a_different_region_that_is_not_named() -> None:
    said = "the bucket is in a different region; set region"
    with answering(lambda _: Answer(301)) as server, pytest.raises(StoreError, match=said):
        s3(server.url, **PATIENT).read("x")


class TestHuggingFaceToken:
    @pytest.fixture(autouse=True)
    def no_token(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HF_TOKEN", "HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("HF_ENDPOINT", raising=False)

    @pytest.mark.parametrize(
        "variable, value, file",
        [
            ("", "", ".cache/huggingface/token"),
            ("XDG_CACHE_HOME", "{}/cache", "cache/huggingface/token"),
            ("HF_HOME", "{}/hf", "hf/token"),
            ("HF_HOME", "~/hf", "hf/token"),
            ("HF_TOKEN_PATH", "{}/mine", "mine"),
        ],
    )
    def test_the_token_of_its_own_login(
        self, variable: str, value: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if variable:
            monkeypatch.setenv(variable, value.format(tmp_path))
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("abc\n")
        with answering(lambda _: Answer(body=DATA)) as server:
            monkeypatch.setenv("HF_ENDPOINT", server.url)
            assert open_store("hf://datasets/me/set").read("x") == DATA
            monkeypatch.setenv("HF_TOKEN", "other")
            assert open_store("hf://datasets/me/set").read("x") == DATA
        sent = [one.headers["Authorization"] for one in server.requests]
        assert sent == ["Bearer abc", "Bearer other"]

    def test_it_can_be_switched_off(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "token").write_text("abc")
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
        store = open_store("hf://datasets/me/set")
        assert isinstance(store, RemoteStore) and not store.address.headers


@pytest.mark.parametrize("how", ["option", "HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All requests go through it, also the one that asks for ``Retry-After``."""

    def answer(request: Request) -> Answer:
        is_open = request.time - server.requests[0].time > 0.9
        return Answer(body=DATA) if is_open else Answer(503, headers={"Retry-After": "1"})

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with answering(answer) as server:
        options = {"proxy_url": server.url} if how == "option" else {}
        if not options:
            monkeypatch.setenv(how, server.url)
        assert open_store("http://files.test/folder", options).read("x") == DATA
    assert {one.target for one in server.requests} == {"http://files.test/folder/x"}
    assert len(server.requests) == 3


@pytest.mark.parametrize("how", ["option", "HTTPS_PROXY"])
def test_a_proxy_for_https(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        options: dict[str, object] = {"proxy_url": url} if how == "option" else {}
        if not options:
            monkeypatch.setenv("HTTPS_PROXY", url)
        heads: list[bytes] = []

        def reject() -> None:
            with server.accept()[0] as connection:
                heads.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=reject)
        thread.start()
        with pytest.raises(StoreError, match=r"files\.test"):
            open_store("https://files.test/folder", options | {"max_retries": 0}).read("x")
        thread.join()
    assert heads[0].startswith(b"CONNECT files.test:443 ")
