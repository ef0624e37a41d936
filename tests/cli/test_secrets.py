"""No command shows or stores a secret: every command, kind of address, place and outcome."""

import contextlib
import functools
import hashlib
import itertools
import os
import shutil
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from make_demo_sources import make_sources

from cinic_shards.cli import console
from cinic_shards.write.pack import PackOptions, pack
from tests.support.command import Run
from tests.support.servers import free_port
from tests.support.tiny_servers import Server, tiny_server

HEAD, TAIL = "Sup3rSecr3t", "Hid5enTok6n"
SECRET = HEAD + TAIL

COMMANDS = """
pack {tree} {A} --workers 1
pack {A} {out} --workers 1
pack {tree} {out} --executor {A}
pack {tree} {out} --executor=dask://{A}
convert {A} {out} --encoding raw --workers 1
convert {shards} {A} --encoding raw --workers 1 --overwrite
unpack {A} {out} --workers 1
unpack {shards} {A} --workers 1
select {A} {out} --workers 1
select {shards} {A} --workers 1 --overwrite
select {shards} {A} --tree --workers 1
select {shards} {out} --symlink-to {A} --workers 1
info {A}
info {A} --json --duplicates
verify {A} --workers 1
verify {A} --json --workers 1
verify {shards} --against {A} --workers 1
reindex {A} --workers 1
stats {A}
stats {A} --json
show {A} -o {out}.png --per-class 1
show {shards} -o {A} --per-class 1
report {A} -o {out}.html --sample 3
report {shards} -o {A} --sample 3
fetch {out} --url {A}
fetch {out} --url={A} --accept-hash 0123456789abcdef0123456789abcdef
fetch {out} --url {A} --accept-hash {md5}
fetch {A} --url http://127.0.0.1:9/x
build {A} --cifar {out} --imagenet {out} --workers 1
build {out} --tree --cifar {A} --imagenet {out} --workers 1
build {out} --tree --cifar {cifar} --imagenet {A} --workers 1 --per-class 9
build {out} --tree --cifar {cifar} --imagenet {out} --contributors {A} --workers 1
build {out} --scratch {A} --cifar {cifar} --imagenet {out} --workers 1 --per-class 9
restore-cifar10 {A} {out}
restore-cifar10 {shards} {A}
restore-cifar10 {shards} --check {A}
contributors {A}
contributors {A} -o {out}
contributors {shards} -o {A}
bench {A} {shards}
bench {tree} {A}
info {shards} {A}
info --{A}
{A}
warmup {A}
pack {tree} {out} --encoding {A}
""".strip().splitlines()

S3 = "region=x&access_key_id=k&secret_access_key=" + SECRET
KINDS = {
    "s3": "s3://{U}bucket/x/y?endpoint_url=http://{host}&max_retries=0&" + S3,
    "gs": "gs://{U}bucket/x/y?max_retries=0&service_account_key=" + SECRET,
    "az": "az://{U}bucket/x/y?endpoint=http://{host}&account_name=me&max_retries=0&account_key=aaaa",
    "http": "http://{U}{host}/bucket/x/y?max_retries=0",
    "https": "https://{U}{host}/bucket/x/y?max_retries=0",
    "hf": "hf://{U}datasets/me/set?max_retries=0&token=" + SECRET,
    "file": "http://{U}{host}/file?x=1",
    "memory": "memory://{U}bucket/x/y?x=1",
    "folder": "file://{U}{out}?x=1",
    "other": "ftp://{U}host/x?x=1",
    "dask": "dask://{U}{host}?x=1",
    "one slash": "s3:/{U}bucket/x?x=1",
    "capitals": "HTTPS://{U}{host}/x?x=1",
}
"""Kind of address -> the address, with ``{U}`` for a user name and password, and a query."""

PLACES = {
    "none": ("", ""),
    "password": (f"me:{SECRET}@", ""),
    "user": (f"{SECRET}@", ""),
    "password with /": (f"me:{HEAD}/{TAIL}@", ""),
    "password with #": (f"me:{HEAD}#{TAIL}@", ""),
    "password with ?": (f"me:{HEAD}?{TAIL}@", ""),
    "password with @": (f"me:{HEAD}@{TAIL}@", ""),
    "escaped": (f"me:{SECRET}%40", ""),
    "fragment": ("", f"#{SECRET}"),
    "bare query": ("", f"&{SECRET}"),
    "encoded": ("", f"&session_token={HEAD}%2F{TAIL}"),
    **{
        f"option {name}": ("", f"&{name}={SECRET}")
        for name in (
            "X-Amz-Signature", "sig", "session_token", "sas_key", "sas_token", "bearer_token",
            "profile", "password", "timeout", "retry_timeout", "allow_http", "user_agent",
            "root_certificate", "skip_signature", "service_account", "pool_idle_timeout",
        )
    },
    **{
        f"{name} with a password": ("", f"&{name}=http://me:{SECRET}@127.0.0.1:9")
        for name in ("proxy_url", "endpoint", "endpoint_url", "base_url")
    },
    "header": ("", f"&headers=X-Key:%20Bearer%20{SECRET}"),
    "signed": ("", f"&query=sig%3D{SECRET}%26x=1"),
    "line break": ("", f"&session_token={SECRET}%0A"),
    "empty before": ("", f"&region=&session_token={SECRET}"),
}  # fmt: skip
"""Place of a secret -> what is before the host, and what is after the query."""

OUTCOMES = ("works", "cut", "empty", "403", "404", "500", "no server")
_ASKING = {
    command
    for command in COMMANDS
    if command.split()[0] in ("info", "verify", "reindex", "stats", "fetch", "contributors")
    or command.partition(" ")[2].startswith("{A} {out}")
    or command.startswith(("pack {tree} {A}", "convert", "select {shards} {A}", "show {A}"))
}
_SENT = (
    "none", "encoded", "proxy_url with a password", "header", "signed",
    *(f"option {name}" for name in ("session_token", "sas_key", "bearer_token", "user_agent")),
    *(f"option {name}" for name in ("sig", "X-Amz-Signature")),
)  # fmt: skip
"""Places of a secret in addresses that are valid for some server."""
_ONLINE = ("s3", "gs", "az", "http", "https", "hf", "file")

ENVIRONMENT = (
    "AWS_SESSION_TOKEN", "HF_TOKEN", "AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_ACCOUNT_KEY",
    "AWS_SECRET_ACCESS_KEY",
)  # fmt: skip
"""Variables that hold the secret in every case."""


@dataclass(frozen=True)
class Case:
    command: str
    kind: str
    place: str
    outcome: str


CASES = [
    Case(*one)
    for one in itertools.product(COMMANDS, KINDS, PLACES, OUTCOMES)
    # If no server is asked, there is only one outcome.
    if one[3] == "works" or (one[0] in _ASKING and one[1] in _ONLINE and one[2] in _SENT)
]


@dataclass
class Bench:
    """Servers, files and folders that the cases share."""

    run: Run
    server: Server
    dead: str
    fixed: dict[str, object]
    work: Path
    files: dict[str, bytes]
    errors: list[BaseException]
    log: pytest.LogCaptureFixture


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    make_sources(folder, photos=2, batch_size=10)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, demo_tree: Path) -> Path:
    """A dataset of 18 images, as ``pack`` makes it."""
    folder = tmp_path_factory.mktemp("small")
    for split in ("test", "train"):
        shutil.copytree(demo_tree / split / "cat", folder / "tree" / split / "cat")
    pack(folder / "tree", folder / "shards", PackOptions(), workers=1)
    return folder


@pytest.fixture
def bench(
    run: Run,
    small: Path,
    sources: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Bench]:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, SECRET)
    errors: list[BaseException] = []
    monkeypatch.setattr(console, "app", functools.partial(recorded, console.app, errors))
    monkeypatch.setattr("cinic_shards.cinic.fetch.RETRY_SECONDS", 0.0)
    shards = {path.name: path.read_bytes() for path in (small / "shards").iterdir()}
    files = {
        f"{folder}/{name}": data
        for folder in ("bucket/x/y", "datasets/me/set/resolve/main")
        for name, data in shards.items()
    }
    archive = b"abc" * 50_000  # a part of it is kept
    md5 = hashlib.md5(archive).hexdigest()
    fixed = {"tree": small / "tree", "shards": small / "shards", "out": work / "out", "md5": md5}
    fixed["cifar"] = sources / "cifar-10-python.tar.gz"
    with tiny_server() as server:
        dead = f"127.0.0.1:{free_port()}"
        yield Bench(run, server, dead, fixed, work, files | {"file": archive}, errors, caplog)


def recorded(app, errors: list[BaseException], **options: object) -> None:  # type: ignore[no-untyped-def]
    """Run the command, and keep its exception for a look at the chain of its causes."""
    try:
        app(**options)
    except Exception as error:
        errors.append(error)
        raise


def everything(bench: Bench, case: Case) -> Iterator[tuple[str, str]]:
    """Run a case; yield where a text is found, and the text."""
    host = bench.dead if case.outcome == "no server" else bench.server.host
    user, end = PLACES[case.place]
    address = KINDS[case.kind].format(U=user, host=host, **bench.fixed) + end
    if case.kind in ("gs",):  # Google's key is a JSON document
        key = (
            f'{{"private_key": "{SECRET}", "client_email": "x", "private_key_id": "{SECRET}", '
            f'"disable_oauth": true, "gcs_base_url": "http://{host}"}}'
        )
        address = address.replace(f"service_account_key={SECRET}", f"service_account_key={key}")
    os.environ["HF_ENDPOINT"] = f"http://{host}"
    bench.server.status = int(case.outcome) if case.outcome.isdecimal() else 200
    bench.server.files = dict(bench.files) if case.outcome in ("works", "cut") else {}
    bench.server.cuts = case.outcome == "cut"
    bench.errors.clear()
    arguments = [
        part.format(A="\0", **bench.fixed).replace("\0", address) for part in case.command.split()
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = bench.run(*arguments)
        except BaseException as error:
            raise AssertionError(f"{case}: {error!r}") from error
    yield "stdout", found.out
    yield "stderr", found.err
    for error in bench.errors:
        yield "traceback", "".join(traceback.format_exception(error))
        while error is not None:
            yield "exception", f"{error!r} {vars(error)}"
            yield "context", repr(error.__context__)
            error = error.__cause__ or error.__context__  # type: ignore[assignment]
    yield "log", bench.log.text
    bench.log.clear()
    for warning in caught:
        yield "warning", str(warning.message)
    for path in [*bench.work.rglob("*")]:
        yield "name of a file", str(path)
        if path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes().decode("latin-1")
    for path in bench.server.files:
        yield "name on the server", path
        if path.endswith(".json"):
            yield f"server: {path}", bench.server.files[path].decode("latin-1")


def check(bench: Bench, cases: list[Case]) -> None:
    problems = []
    for case in cases:
        for where, text in everything(bench, case):
            for part in (HEAD, TAIL):
                if part.lower() in text.lower():
                    at = text.lower().index(part.lower())
                    problems.append(f"{case}\n   {where}: ...{text[max(0, at - 60) : at + 40]!r}")
        for path in bench.work.iterdir():
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not problems, f"{len(problems)} secrets in {len(cases)} cases\n" + "\n".join(
        problems[:20]
    )


def test_a_sample_of_all_cases_shows_no_secret(bench: Bench) -> None:
    check(bench, CASES[::397])


@pytest.mark.real
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_shows_a_secret(bench: Bench, command: str, pytestconfig: pytest.Config) -> None:
    """All 33,000 cases take most of an hour; see the option ``--secrets-step``."""
    step = int(pytestconfig.getoption("--secrets-step"))
    check(bench, [case for case in CASES if case.command == command][::step])
