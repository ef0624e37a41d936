"""Parse a path or URL from the user into a folder, or a server's address and its options."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from cinic_shards.errors import OptionError

SCHEMES = ("s3", "gs", "az", "http", "https", "hf", "memory", "file")


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
        return f"{self.scheme}://{self.host}/{self.prefix}".rstrip("/")


def parse_address(text: str, options: Mapping[str, Any] | None = None) -> Address | str:
    """Parse a URL into an address; return the path of a folder for ``file://`` and plain paths.

    Args:
        text: ``s3://bucket/prefix``, ``gs://``, ``az://container/prefix``, ``https://``,
            ``http://``, ``hf://datasets/<owner>/<name>[@<revision>]/<folder>``, ``memory://``,
            ``file:///folder`` or a path. A URL's query holds options.
        options: more options; they override those of the query. For web servers, ``query`` is
            sent with each file's URL, and ``headers`` with each request.

    Raises:
        OptionError: the URL is invalid, its scheme is unknown, or a folder is given options.
    """
    scheme, has_scheme, rest = text.partition("://")
    if not has_scheme:
        _check_no_options(text, options)
        return text
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise OptionError(f"{text}: unknown scheme {scheme}://; expected a path or {known}")
    parts = urlsplit(f"{scheme}://{rest}")
    shown = f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if scheme == "file":
        _check_no_options(shown, options or dict(parse_qsl(parts.query)))
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise OptionError(f"{text}: expected file:///folder, with three slashes")
        return unquote(parts.path)
    query = parse_qsl(parts.query, keep_blank_values=True)
    chosen = {name.lower(): value for name, value in query}
    given = {name.lower(): value for name, value in (options or {}).items()}
    headers = _headers(shown, given.pop("headers", None) or chosen.pop("headers", ""))
    chosen |= {name: _as_text(value) for name, value in given.items()}
    with_files = f"?{text}" if (text := chosen.pop("query", "").removeprefix("?")) else ""
    if with_files and scheme not in ("http", "https", "hf"):
        raise OptionError(f"{shown}: option query is for web servers; remove it")
    if scheme == "hf":
        address = _hugging_face(shown, parts.netloc, parts.path, chosen)
        return replace(address, headers={**address.headers, **headers}, query=with_files)
    if "@" in parts.netloc:
        raise OptionError(f"{shown}: the URL holds a password; set it in the environment")
    if not parts.netloc and scheme != "memory":
        raise OptionError(f"{shown}: the URL has no {'host' if 'http' in scheme else 'bucket'}")
    path = unquote(parts.path) if scheme in ("http", "https") else parts.path
    return Address(scheme, parts.netloc, path.strip("/"), chosen, headers, with_files)


def _check_no_options(location: str, options: Mapping[str, Any] | None) -> None:
    if options:
        names = ", ".join(options)
        raise OptionError(f"{location}: a folder has no storage options; remove {names}")


def _headers(shown: str, given: Any) -> dict[str, str]:
    """Return the headers of the option: a dict, or lines such as ``Name: value``."""
    if not isinstance(given, Mapping):
        lines = (line.partition(":") for line in str(given).splitlines())
        given = {name: value if colon else None for name, colon, value in lines}
    headers = {str(name).strip(): value for name, value in given.items()}
    for name, value in headers.items():
        is_name = name.replace("-", "").replace("_", "").isalnum() and name.isascii()
        if not is_name or not isinstance(value, str) or not value.strip().isprintable():
            raise OptionError(f"{shown}: option headers: expected lines such as Name: value")
    return {name: value.strip() for name, value in headers.items()}


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _hugging_face(shown: str, host: str, path: str, options: dict[str, str]) -> Address:
    """Return the web address of a repository's files at one revision."""
    parts = path.strip("/").split("/")
    if host in ("datasets", "spaces"):
        repository, folder = parts[:2], parts[2:]
    else:  # a model: hf://owner/name
        repository, folder = [host, *parts[:1]], parts[1:]
    if len(repository) != 2 or not all(repository):
        raise OptionError(f"{shown}: expected hf://datasets/<owner>/<name>[@<revision>]/<folder>")
    owner, (name, _, revision) = repository[0], repository[1].partition("@")
    base = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    above = [base.path.strip("/"), host if host in ("datasets", "spaces") else "", owner, name]
    prefix = "/".join([*filter(None, above), "resolve", revision or "main", *folder])
    token = options.pop("token", None) or os.environ.get("HF_TOKEN") or _stored_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Address(base.scheme, base.netloc, prefix.strip("/"), options, headers)


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
