"""Parse a path or URL from the user into a folder, or a server's address and its options.

A URL is used in full or rejected: no part of it is dropped. ``errors.without_secrets`` makes the
form of it that messages show and files store.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, unquote

from cinic_shards.errors import OptionError, without_secrets
from cinic_shards.store.urls import (
    SCHEMES,
    WEB,
    check_host,
    check_no_controls,
    check_server,
    decode,
    decode_path,
    parse_web_url,
    split_scheme,
)

_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")

SERVERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "s3": (
        ("endpoint_url", "endpoint", "aws_endpoint_url", "aws_endpoint"),
        ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    ),
    "gs": (("base_url", "google_base_url"), ("GOOGLE_BASE_URL",)),
    "az": (
        ("endpoint", "azure_endpoint", "azure_storage_endpoint"),
        ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    ),
}
"""Scheme -> the options, and the environment variables, that name a server."""
_SERVER_OPTIONS = frozenset(name for names, _ in SERVERS.values() for name in names)
_ACCOUNTS = ("account_name", "azure_storage_account_name")
_USUAL_SERVER = re.compile(
    r"https://(s3[a-z0-9.-]*\.amazonaws\.com(\.cn)?|storage\.googleapis\.com|"
    r"[a-z0-9]+\.blob\.core\.windows\.net)"
)
"""Servers that the account or the bucket alone identifies."""
_FILES = frozenset(
    ("root_certificate", "proxy_ca_certificate", "service_account_key",
     "google_service_account_key", "headers")
)  # fmt: skip
"""Options that hold text with line breaks, most of them the content of a file."""
_NOT_SECRET = re.compile(r".*(timeout|retries|region|endpoint|endpoint_url|base_url|account_name)")

_SECRET_VARIABLE = re.compile(r"(AWS|AZURE|GOOGLE|HF)_.*(KEY|TOKEN|SECRET|PASSWORD|SAS)")


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a store's files on a server."""

    scheme: str
    """``s3``, ``gs``, ``az``, ``http``, ``https`` or ``memory``."""
    host: str
    """The bucket, the container, or the server with its port."""
    prefix: str
    """The prefix of all names, without ``/`` at either end."""
    options: dict[str, str] = field(default_factory=dict, repr=False)
    """Storage options by lower-case name; may hold secrets."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    """Headers sent with each request; may hold secrets."""
    query: str = field(default="", repr=False)
    """Query sent with each request, with its ``?``; may hold secrets."""

    def __str__(self) -> str:
        prefix = self.prefix
        if self.scheme in WEB:  # as in a URL, where these characters end the path
            prefix = prefix.replace("%", "%25").replace("?", "%3F").replace("#", "%23")
        return f"{self.scheme}://{self.host}/{prefix}".rstrip("/")

    @property
    def endpoint(self) -> str:
        """URL of the server that an option or the environment names for S3, Google or Azure.

        It is empty if they name none.

        Raises:
            OptionError: it is not a URL.
        """
        names, variables = SERVERS.get(self.scheme, ((), ()))
        given = [(name, self.options.get(name)) for name in names]
        given += [(f"${name}", os.environ.get(name)) for name in variables]
        for name, url in given:
            if url is not None:
                check_server(f"{self}: {name}", url)
                return url
        return ""

    @property
    def identity(self) -> tuple[str, ...]:
        """A tuple that is equal for two addresses of the same files. It holds no secrets."""
        host, server = self.host, self.endpoint.rstrip("/").lower()
        if self.scheme in WEB:
            host = host.lower().removesuffix(":80" if self.scheme == "http" else ":443")
        server = "" if _USUAL_SERVER.fullmatch(server) else server
        server, host = (text.replace("localhost", "127.0.0.1") for text in (server, host))
        if self.scheme == "az":
            accounts = (self.options.get(name, "") for name in _ACCOUNTS)
            server += " " + ("".join(accounts) or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", ""))
        if self.scheme == "memory":
            server = self.options.get("process", str(os.getpid()))
        return self.scheme, server, host, self.prefix

    @property
    def secrets(self) -> set[str]:
        """Texts that no message may show, as they are and as in a URL: a server may repeat them.

        They are the query, and the values of options, headers and environment variables.
        """
        texts = [text for name, text in self.options.items() if not _NOT_SECRET.fullmatch(name)]
        texts += [form for text in self.headers.values() for form in (text, text.split()[-1])]
        texts += [text for name, text in os.environ.items() if _SECRET_VARIABLE.match(name)]
        parts = "&".join([*texts, self.query]).split("&")
        texts += [part.partition("=")[2] for part in parts]
        both = {form for text in texts for form in (text, unquote(text), quote(text, safe=""))}
        return both - {"true", "false"}


def parse_address(text: str, options: Mapping[str, Any] | None = None) -> Address | str:
    """Parse a URL into an address; return the path of a folder for ``file://`` and plain paths.

    Args:
        text: ``s3://bucket/prefix``, ``gs://``, ``az://container/prefix``, ``https://``,
            ``http://``, ``hf://datasets/<owner>/<name>[@<revision>]/<folder>``, ``memory://``,
            ``file:///folder`` or a path. A URL's query holds options. In ``http``, ``https`` and
            ``file`` URLs and in queries, ``%`` and two digits stand for a byte; in other URLs,
            all characters stand for themselves.
        options: more options; they override those of the query. For web servers, ``query`` is
            sent with each file's URL, and ``headers`` with each request.

    Raises:
        OptionError: the path or URL is invalid, its scheme is unknown, an option is invalid or
            given twice, or a folder is given options.
    """
    start, colon, _ = text.partition(":")
    if not colon or not (start.lower() in SCHEMES or "://" in text):
        if not text or "\0" in text:
            raise OptionError(f"the path {text!r} is invalid; give a folder or a URL")
        _check_no_options(text, options)
        return text
    scheme, rest = split_scheme(text)
    shown = without_secrets(f"{scheme}://{rest}")
    before, has_query, query = rest.partition("?")
    host, _, path = before.partition("/")
    if "@" in host:
        raise OptionError(f"{shown}: the URL holds a password; set it in the environment")
    chosen, headers = _all_options(shown, query if has_query else None, options or {})
    if scheme == "file":
        _check_no_options(shown, {**chosen, **({"headers": ""} if headers else {})})
        if host.lower() not in ("", "localhost") or "/" not in before:
            raise OptionError(f"{shown}: expected file:///folder, with three slashes")
        folder = os.fsdecode(decode(shown, f"/{path}"))
        check_no_controls(shown, folder)
        return folder
    if scheme == "memory":
        _check_no_options(shown, {**chosen, **({"headers": ""} if headers else {})})
    check_host(shown, scheme, host)
    if scheme in WEB:
        if "%2f" in path.lower():
            raise OptionError(f"{shown}: the path has an escaped '/' (%2F); expected '/'")
        path = decode_path(shown, path)
    path = path.removesuffix("/")
    if path and set(path.split("/")) & {"", ".", ".."}:
        raise OptionError(f"{shown}: the path has an empty part, '.' or '..'; leave it out")
    with_files = chosen.pop("query", None)
    if with_files is not None:
        with_files = "?" + with_files.removeprefix("?")
        if scheme not in (*WEB, "hf") or with_files == "?":
            raise OptionError(f"{shown}: option query is for web servers; remove it")
    if scheme == "hf":
        address = _hugging_face(shown, host, path, chosen)
        return replace(address, headers={**address.headers, **headers}, query=with_files or "")
    return Address(scheme, host, path, chosen, headers, with_files or "")


def check_variables(scheme: str) -> None:
    """Check the environment variables that obstore reads: it would panic at a line break.

    Raises:
        OptionError: a variable holds a control character.
    """
    start = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}.get(scheme)
    for name, value in os.environ.items():
        if start and name.startswith(start) and name.lower() not in _FILES:
            check_no_controls(f"${name}", value)


def _all_options(
    shown: str, query: str | None, options: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the options of a URL's query and others, and the option ``headers``."""
    given = {name: value for name, value in options.items() if str(name).lower() != "headers"}
    headers = [value for name, value in options.items() if name not in given]
    chosen = {} if query is None else _parse_query(shown, query)
    chosen |= _check_options(shown, given.items())
    if "headers" in chosen:
        headers.append(chosen.pop("headers"))
    return chosen, _headers(shown, headers[0]) if headers else {}


def _parse_query(shown: str, query: str) -> dict[str, str]:
    """Return the options in a URL's query; ``+`` stands for itself, as keys often hold it."""
    pairs = [part.partition("=") for part in query.split("&")]
    if not all(value for _, _, value in pairs):  # its name may be a secret
        raise OptionError(f"{shown}: an option has no value; expected name=value")
    return _check_options(shown, ((name, decode(shown, value)) for name, _, value in pairs))


def _check_options(shown: str, options: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    """Return options by lower-case name, as text. Messages show no value: it may be a secret."""
    checked: dict[str, str] = {}
    for name, value in options:
        if not isinstance(name, str) or not _OPTION.fullmatch(name):
            raise OptionError(f"{shown}: an option has an invalid name; expected name=value")
        name = name.lower()
        if name in checked:
            raise OptionError(f"{shown}: option {name} is given twice; expected once")
        checked[name] = _as_text(f"{shown}: option {name}", value)
        if name not in _FILES:
            check_no_controls(f"{shown}: option {name}", checked[name])
        if name in _SERVER_OPTIONS:
            check_server(f"{shown}: option {name}", checked[name])
    return checked


def _as_text(name: str, value: object) -> str:
    """Return an option's value as text; bytes are UTF-8."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise OptionError(f"{name}: is not UTF-8 text") from error
    if not isinstance(value, str | int | float) or value == "":
        found = "has no value" if value == "" else f"is a {type(value).__name__}"
        raise OptionError(f"{name}: {found}, expected a text, a path or a number; or leave it out")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_no_options(location: str, options: Mapping[str, Any] | None) -> None:
    if options:
        names = ", ".join(map(str, options))
        what = "memory" if location.startswith("memory:") else "a folder"
        raise OptionError(f"{location}: {what} has no storage options; remove {names}")


def _headers(shown: str, given: Any) -> dict[str, str]:
    """Return the headers of the option: a dict, or lines such as ``Name: value``."""
    lines = given.items() if isinstance(given, Mapping) else _header_lines(given)
    headers: dict[str, str] = {}
    for name, value in lines:
        is_name = isinstance(name, str) and name.replace("-", "").replace("_", "").isalnum()
        is_new = is_name and name.lower() not in map(str.lower, headers)
        is_text = isinstance(value, str) and value.strip().isprintable() and value.strip()
        if not (is_new and is_text and name.isascii()):
            raise OptionError(
                f"{shown}: option headers: expected lines such as Name: value, each name once"
            )
        headers[name] = value.strip()
    return headers


def _header_lines(text: object) -> Iterator[tuple[str, str]]:
    for line in str(text).splitlines():
        name, _, value = line.partition(":")
        yield name.strip(), value


def _hugging_face(shown: str, host: str, path: str, options: dict[str, str]) -> Address:
    """Return the web address of a repository's files at one revision."""
    parts = path.split("/")
    if host in ("datasets", "spaces"):
        repository, folder = parts[:2], parts[2:]
    else:  # a model: hf://owner/name
        repository, folder = [host, *parts[:1]], parts[1:]
    owner, (name, at, revision) = repository[0], repository[-1].partition("@")
    if len(repository) != 2 or not all((owner, name)) or "@" in owner:
        raise OptionError(f"{shown}: expected hf://datasets/<owner>/<name>[@<revision>]/<folder>")
    if at and (not revision or revision == "refs" or set(revision) & {"%", "@"}):
        raise OptionError(
            f"{shown}: expected a branch, a tag or a commit after '@', without '/'; give the "
            "commit of other revisions"
        )
    server = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    check_server("$HF_ENDPOINT", server)
    scheme, base, above, _ = parse_web_url(server)
    kind = host if host in ("datasets", "spaces") else ""
    names = [decode_path("$HF_ENDPOINT", above).strip("/"), kind, owner, name]
    prefix = "/".join([*filter(None, names), "resolve", revision or "main", *folder])
    token = options.pop("token", None) or os.environ.get("HF_TOKEN", "").strip() or _stored_token()
    check_no_controls("the token of Hugging Face", token)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Address(scheme, base, prefix, options, headers)


def _stored_token() -> str:
    """Return the token that ``hf auth login`` has stored; empty if there is none."""
    variables = os.environ.get
    if is_true(variables("HF_HUB_DISABLE_IMPLICIT_TOKEN")):
        return ""
    cache = variables("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = variables("HF_HOME") or os.path.join(cache, "huggingface")
    path = variables("HF_TOKEN_PATH") or os.path.join(home, "token")
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def is_true(text: str | None) -> bool:
    """Return True if an option or a variable is switched on."""
    return (text or "").lower() in ("true", "1", "yes", "y", "on")
