"""Addresses: a URL is used in full or rejected, is shown without secrets, and has an identity."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cinic_shards.check.verify import verify
from cinic_shards.cinic.build import build_shards, build_tree
from cinic_shards.cinic.contributors import save_contributors
from cinic_shards.cinic.fetch import fetch
from cinic_shards.cinic.restore import restore_cifar10
from cinic_shards.errors import OptionError, StoreError
from cinic_shards.store import LocalStore, RemoteStore, WebFile, open_store
from cinic_shards.view.montage import show
from cinic_shards.view.report import write_report
from cinic_shards.write.convert import convert
from cinic_shards.write.pack import pack
from cinic_shards.write.select import select, select_tree
from cinic_shards.write.unpack import unpack
from tests.support.tiny_servers import tiny_server

REJECTED: list[tuple[str, str]] = [
    # A fragment.
    ("s3://b/run#1", "s3://b/run: the URL has a '#'"),
    ("s3://b#run", "the URL has a '#'"),
    ("gs://b/run?x=y#1", "the URL has a '#'"),
    ("az://b/run#1?account_name=me", "the URL has a '#'"),
    ("https://host/run#1", "the URL has a '#'"),
    ("hf://datasets/me/set#1", "the URL has a '#'"),
    ("memory://b/run#1", "the URL has a '#'"),
    ("file:///run#1", "the URL has a '#'"),
    # Parts of the path.
    ("s3://b/a//b", "the path has an empty part"),
    ("s3://b//a", "the path has an empty part"),
    ("s3://b/a//", "the path has an empty part"),
    ("s3://b/a/../b", "an empty part, '.' or '..'"),
    ("memory://b/./a", "an empty part, '.' or '..'"),
    ("https://host/a/%2E%2e/b", "an empty part, '.' or '..'"),
    ("https://host/a//b", "the path has an empty part"),
    ("https://host/a%2Fb", r"an escaped '/' \(%2F\)"),
    ("https://host/a%zz", "two hexadecimal digits after '%'"),
    ("https://host/a%FF", "the path is not UTF-8"),
    ("https://host/a%00", "has a control character"),
    ("file:///a%00", "has a control character"),
    ("file:///a%2", "two hexadecimal digits after '%'"),
    ("s3://b/a\nb", "has a control character"),
    ("s3://b/a\tb", "has a control character"),
    ("https://host/a\r", "a space at its start or end"),
    ("s3://b/a ", "a space at its start or end"),
    (" s3://b/a", "unknown scheme"),
    # The bucket or the host.
    ("s3://b:80/a", "not a valid bucket"),
    ("s3://b%20c/a", "not a valid bucket"),
    ("s3://b c/a", "not a valid bucket"),
    ("s3://../a", "not a valid bucket"),
    ("s3://[x/a", "not a valid bucket"),
    ("https://[x/a", "not a valid host"),
    ("https://host:/a", "not a valid host"),
    ("https://host:99999/a", "port 99999, expected at most 65535"),
    ("https://ho%73t/a", "not a valid host"),
    ("https://hö/a", "not a valid host; expected .* xn--"),
    ("https://h{/a", "not a valid host"),
    ("https://host/\udcff", "the URL is not UTF-8"),
    ("s3://b/a?endpoint_url=http://hö", "option endpoint_url: expected a URL"),
    ("s3://key:secret@b/a", "s3://b/a: the URL holds a password"),
    ("s3://token@b/a", "s3://b/a: the URL holds a password"),
    ("memory://me@b/a", "the URL holds a password"),
    ("hf://me:secret@datasets/me/set", "the URL holds a password"),
    ("file://me:secret@/x", "the URL holds a password"),
    # Options.
    ("s3://b/a?region=x&region=y", "option region is given twice"),
    ("s3://b/a?region=x&REGION=y", "option region is given twice"),
    ("s3://b/a?region=", "an option has no value"),
    ("s3://b/a?region", "an option has no value"),
    ("s3://b/a?=x", "an option has an invalid name"),
    ("s3://b/a?", "an option has no value"),
    ("s3://b/a?region=x&", "an option has no value"),
    ("s3://b/a?region=x;y", ""),
    ("s3://b/a?region=%zz", "two hexadecimal digits after '%'"),
    ("s3://b/a?region=%FF", "option region: is not UTF-8"),
    ("s3://b/a?region=x%0Ay", "option region: has a control character"),
    ("s3://b/a?endpoint_url=localhost:9000", "option endpoint_url: expected a URL"),
    ("s3://b/a?endpoint_url=http://me:pw@host", "option endpoint_url: expected a URL"),
    ("s3://b/a?endpoint_url=http://host%3Fx=1", "option endpoint_url: expected a URL"),
    ("s3://b/a?endpoint_url=http://host%23x", "option endpoint_url: expected a URL"),
    ("file:///a?b", "an option has no value"),
    ("file:///a?", "an option has no value"),
    ("memory://b/a?region=x", "memory has no storage options; remove region"),
    ("hf://datasets/me/set?token=", "an option has no value"),
    # Revisions.
    ("hf://datasets/me/set@", "a branch, a tag or a commit"),
    ("hf://datasets/me/set@refs/pr/1", "a branch, a tag or a commit"),
    ("hf://datasets/me/set@a%2Fb", "a branch, a tag or a commit"),
    ("hf://datasets/me/set@a@b", "a branch, a tag or a commit"),
    ("hf://datasets/me@x/set", "expected hf://datasets/<owner>"),
    # Forms of a URL that would be a folder's name.
    ("s3:/b/a", r"s3:.*: expected s3://, or \./ before a path"),
    ("s3:b", r"expected s3://, or \./"),
    ("file:/a", r"expected file://, or \./"),
    ("file:a", r"expected file://, or \./"),
    ("HTTPS:/host/a", r"expected https://, or \./"),
    ("file://LOCALHOST", "with three slashes"),
    ("", "the path '' is invalid"),
    ("a\0b", "is invalid; give a folder or a URL"),
]


@pytest.mark.parametrize(("url", "said"), [row for row in REJECTED if row[1]])
def test_a_url_that_cannot_be_used_in_full_is_rejected(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=said) as caught:
        open_store(url)
    assert "secret" not in str(caught.value) and "pw" not in str(caught.value)
    assert os.listdir() == []


ACCEPTED: list[tuple[str, str, str, str]] = [
    ("s3://b/a%20b", "s3", "b", "a%20b"),
    ("s3://b/a b;c=d&e", "s3", "b", "a b;c=d&e"),
    ("s3://b/ä@b:c", "s3", "b", "ä@b:c"),
    ("s3://My_Bucket.x/A/", "s3", "My_Bucket.x", "A"),
    ("s3://b?region=x", "s3", "b", ""),
    ("https://host/a%20b%23%3F%25", "https", "host", "a b#?%"),
    ("https://host/a;b", "https", "host", "a;b"),
    ("https://[::1]:80/a", "https", "[::1]:80", "a"),
    ("http://Host/", "http", "Host", ""),
    ("hf://datasets/me/set@v1/a%20b", "https", "huggingface.co",
     "datasets/me/set/resolve/v1/a%20b"),
]  # fmt: skip


@pytest.mark.parametrize(("url", "scheme", "host", "prefix"), ACCEPTED)
def test_a_url_is_used_in_full(
    url: str, scheme: str, host: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    store = open_store(url)
    assert isinstance(store, RemoteStore)
    assert (store.address.scheme, store.address.host, store.address.prefix) == (
        scheme,
        host,
        prefix,
    )
    if not url.startswith("hf"):
        again = open_store(str(store))
        assert isinstance(again, RemoteStore) and again.address.prefix == prefix


def test_values_of_a_query_are_used_in_full() -> None:
    store = open_store("s3://b/a?secret_access_key=a+b/c%2B%3D%26d=&region=x;y")
    assert isinstance(store, RemoteStore)
    assert store.address.options == {"secret_access_key": "a+b/c+=&d=", "region": "x;y"}


def test_a_file_url_may_hold_any_byte(tmp_path: Path) -> None:
    store = open_store(f"file://LocalHost{tmp_path}/a%FF%23%3Fb;c")
    assert isinstance(store, LocalStore)
    assert os.fsencode(store.root) == os.fsencode(tmp_path) + b"/a\xff#?b;c"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"region": None}, "option region: is a NoneType"),
        ({"region": ""}, "option region: has no value"),
        ({"region": ["x"]}, "option region: is a list"),
        ({"region": "x", "Region": "x"}, "option region is given twice"),
        ({"region\n": "x"}, "an option has an invalid name"),
        ({1: "x"}, "an option has an invalid name"),
        ({"session_token": "x\n"}, "option session_token: has a control character"),
        ({"endpoint": ""}, "option endpoint: has no value"),
        ({"aws_endpoint": "host:80"}, "option aws_endpoint: expected a URL"),
    ],
)
@pytest.mark.parametrize("url", ["s3://b/a", "memory://b/a", "https://host/a"])
def test_invalid_storage_options(options: dict[Any, Any], said: str, url: str) -> None:
    with pytest.raises(OptionError, match=said):
        open_store(url, options)


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("memory://b", {"region": "x"}, "memory has no storage options; remove region"),
        ("memory://b", {"process": "1"}, "memory has no storage options; remove process"),
        ("memory://b", {"timeout": 3}, "memory has no storage options; remove timeout"),
        ("s3://b", {"max_retries": 1.7}, "option max_retries: expected an integer"),
        ("s3://b", {"bucket": "other"}, "Duplicate key aws_bucket"),
        ("s3://b", {"region": "x", "aws_region": "y"}, "Duplicate key aws_region"),
        ("s3://b", {"access_key_id": "x", "profile": "y"}, "give one of them"),
        ("https://host", {"token": "x"}, "unknown option token"),
    ],
)
def test_options_without_an_effect_are_rejected(
    url: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        open_store(url, options).read("x")


def test_keys_in_options_come_before_a_profile_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "missing")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    options = {"aws_access_key_id": "x", "aws_secret_access_key": "y", "region": "z"}
    limits = {"endpoint_url": "http://127.0.0.1:9", "max_retries": 0}
    with pytest.raises(StoreError, match="1 try"):
        open_store("s3://b", options | limits).read("x")


@pytest.mark.parametrize(
    ("variable", "value", "url", "said"),
    [
        ("HF_ENDPOINT", "mirror.example", "hf://datasets/me/set", r"\$HF_ENDPOINT: expected a URL"),
        ("HF_ENDPOINT", "https://me:secret@x", "hf://datasets/me/set", r"\$HF_ENDPOINT: expected"),
        ("HF_ENDPOINT", "https://x?secret=1", "hf://datasets/me/set", r"\$HF_ENDPOINT: expected"),
        ("HF_TOKEN", "sec\nret", "hf://datasets/me/set", "token of Hugging Face: has a control"),
        ("AWS_ENDPOINT_URL", "", "s3://b", r"\$AWS_ENDPOINT_URL: expected a URL"),
        ("AWS_ENDPOINT_URL", "localhost:9000", "s3://b", r"\$AWS_ENDPOINT_URL: expected a URL"),
        ("AWS_ACCESS_KEY_ID", "secret\n", "s3://b", r"\$AWS_ACCESS_KEY_ID: has a control char"),
        ("AZURE_STORAGE_ENDPOINT", "x", "az://b?account_name=me", r"\$AZURE_STORAGE_ENDPOINT: exp"),
    ],
)
def test_invalid_variables(
    variable: str, value: str, url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(OptionError, match=said) as caught:
        open_store(url).read("x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("token", "sent"), [(" abc\n", "Bearer abc"), ("", None), (" \n", None)])
def test_a_token_is_stripped_as_by_hugging_face(
    token: str, sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    store = open_store("hf://datasets/me/set")
    assert isinstance(store, RemoteStore) and store.address.headers.get("Authorization") == sent


@pytest.mark.parametrize(
    "url",
    [
        "https://host/a#b", "https://host/a/../b", "https://host/%2e%2E/b", "https://host/a\\b",
        "https://host/a%zz", "https://host:99999/a", "https://host/a ",
        "http:/host/a", "https://host/a?b#c", "https://ho st/a",
    ],
)  # fmt: skip
def test_a_web_file_is_requested_in_full_or_rejected(url: str) -> None:
    with pytest.raises(OptionError):
        WebFile(url)


# --- Paths that must be on this machine ------------------------------------------------------

LOCAL: dict[str, Callable[[Path, str], object]] = {
    "pack": lambda shards, url: pack(url, shards / "new", workers=1),
    "verify against": lambda shards, url: verify(shards, against=url, workers=1),
    "unpack": lambda shards, url: unpack(shards, url, workers=1),
    "select a tree": lambda shards, url: select_tree(shards, url, workers=1),
    "link": lambda shards, url: select_tree(shards, shards / "x", symlink_to=url, workers=1),
    "build a tree": lambda shards, url: build_tree("x", "y", url, workers=1),
    "scratch": lambda shards, url: build_shards("x", "y", shards / "z", scratch=url, workers=1),
    "restore": lambda shards, url: restore_cifar10(shards, url, workers=1),
    "check": lambda shards, url: restore_cifar10(shards, check=url, workers=1),
    "contributors": lambda shards, url: save_contributors([], url),
    "fetch": lambda shards, url: fetch(url, url="http://127.0.0.1:9/x"),
    "show": lambda shards, url: show(shards, Path(url), workers=1),
    "report": lambda shards, url: write_report(shards, Path(url), workers=1),
}


@pytest.mark.parametrize("url", ["s3://me:secret@b/x.npz", "file:///x.npz", "ftp://h/x?y=secret"])
@pytest.mark.parametrize("call", LOCAL.values(), ids=LOCAL)
def test_a_url_is_no_path(
    call: Callable[[Path, str], object],
    url: str,
    demo_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be the name of a local folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="is a URL, expected a path") as caught:
        call(demo_shards, url)
    assert os.listdir() == [] and "secret" not in str(caught.value)


# --- Identity --------------------------------------------------------------------------------

S3 = {"access_key_id": "k", "secret_access_key": "s"}
SAME: list[tuple[str, str]] = [
    ("s3://b/x", "S3://b/x/"),
    ("s3://b/x?endpoint_url=http://localhost:9", "s3://b/x?aws_endpoint=http://127.0.0.1:9/"),
    ("s3://b/x?access_key_id=one", "s3://b/x?access_key_id=two"),
    ("s3://b/x", "s3://b/x?endpoint_url=https://s3.eu-west-1.amazonaws.com"),
    ("https://Host:443/a%20b", "https://host/a b/"),
    ("az://c/x?account_name=me", "az://c/x?azure_storage_account_name=me&sas_key=k"),
    ("memory://a/b", "memory://a/b/"),
]
DIFFERENT: list[tuple[str, str]] = [
    ("s3://b/x?endpoint_url=http://one:9", "s3://b/x?endpoint_url=http://two:9"),
    ("s3://b/x", "s3://b/x?endpoint_url=http://two:9"),
    ("az://c/x?account_name=me", "az://c/x?account_name=you"),
    ("gs://b/x", "gs://b/x?base_url=http://h"),
    ("s3://b/x", "gs://b/x"),
    ("http://host:81/x", "http://host/x"),
    ("memory://a/b", "memory://a/c"),
]


@pytest.mark.parametrize(
    ("one", "two", "is_same"),
    [(*pair, True) for pair in SAME] + [(*pair, False) for pair in DIFFERENT],
)
def test_identity(one: str, two: str, is_same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert (open_store(one).identity == open_store(two).identity) == is_same


def test_the_environment_names_a_server_too(monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_store("s3://b/x?endpoint_url=http://one:9")
    two = open_store("s3://b/x")
    assert one.identity != two.identity
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://one:9")
    assert one.identity == two.identity


def test_identity_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "to-missing").symlink_to("missing")
    monkeypatch.chdir(tmp_path)
    names = ["a", "link", "./a", f"file://{tmp_path}/link", "a/../a"]
    assert len({open_store(name).identity for name in names}) == 1
    assert open_store("missing").identity == open_store("to-missing").identity
    assert open_store("a").identity != open_store("missing").identity


def test_an_identity_holds_no_secrets() -> None:
    for url in ("s3://b/x", "gs://b/x", "az://b/x?account_name=me", "https://host/x"):
        for name in ("secret_access_key", "service_account_key", "sas_key", "token"):
            assert "hidden" not in repr(open_store(url, {name: "hidden"}).identity)


def test_a_dataset_may_go_to_another_server_under_the_same_name(demo_shards: Path) -> None:
    """Two servers with the same bucket and prefix do not hold the same dataset."""
    options = "?region=x&access_key_id=k&secret_access_key=s&endpoint_url=http://"
    with tiny_server() as one, tiny_server() as two:
        source, out = (f"s3://bucket/x{options}{server.host}" for server in (one, two))
        select(demo_shards, source, workers=1)
        for write in (
            functools.partial(select, source),
            functools.partial(convert, source, encoding="raw", overwrite=True),
        ):
            with pytest.raises(OptionError, match="is the input dataset"):
                write(source, workers=1)
            with pytest.raises(OptionError, match="is the input dataset"):
                write(source.replace("127.0.0.1", "localhost"), workers=1)
            assert write(out, workers=1).num_samples == 270
        assert verify(out, workers=1).is_whole and verify(source, workers=1).is_whole
        assert one.files != two.files


# --- Relative paths --------------------------------------------------------------------------


def test_a_store_stays_where_it_was_opened(
    demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo_shards.parent)
    store = open_store(demo_shards.name)
    monkeypatch.chdir(tmp_path)
    assert store.read("manifest.json") and open_store("x").identity != store.identity


def test_a_deleted_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StoreError, match="the working folder is missing"):
        open_store("x")
    assert open_store(tmp_path).names() == []
