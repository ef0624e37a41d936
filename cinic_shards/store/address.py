"""A place as the user gives it -> a folder, or a server's address and the options to reach it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from cinic_shards.errors import OptionError

SCHEMES = ("s3", "gs", "az", "http", "https", "hf", "memory", "file")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store's files are on a server."""

    scheme: str
    """``s3``, ``gs``, ``az``, ``http``, ``https`` or ``memory``."""
    host: str
    """The bucket, the container, or the server with its port."""
    prefix: str
    """What all names begin with; no ``/`` at its ends."""
    options: dict[str, str] = field(default_factory=dict, repr=False)
    """Lower-case names; may hold secrets."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    """Sent with each request."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/{self.prefix}".rstrip("/")


def parse_address(text: str, options: Mapping[str, Any] | None = None) -> Address | str:
    """An address; or the path of a folder, for ``file://`` and what is no URL.

    Args:
        text: ``s3://bucket/prefix``, ``gs://``, ``az://container/prefix``, ``https://``,
            ``http://``, ``hf://datasets/<owner>/<name>[@<revision>]/<folder>``, ``memory://``,
            ``file:///folder`` or a path. A URL's query gives options.
        options: more of them, which go before those of the query.

    Raises:
        OptionError: it is no place that can be read.
    """
    scheme, has_scheme, rest = text.partition("://")
    if not has_scheme:
        _refuse_options(text, options)
        return text
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise OptionError(f"{text}: unknown kind of place {scheme}://; expected a path or {known}")
    parts = urlsplit(f"{scheme}://{rest}")
    shown = f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if scheme == "file":
        _refuse_options(shown, options or dict(parse_qsl(parts.query)))
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise OptionError(f"{text}: expected file:///folder, with three slashes")
        return unquote(parts.path)
    query = parse_qsl(parts.query, keep_blank_values=True)
    chosen = {name.lower(): value for name, value in query}
    chosen |= {name.lower(): _as_text(value) for name, value in (options or {}).items()}
    if scheme == "hf":
        return _hugging_face(shown, parts.netloc, parts.path, chosen)
    if "@" in parts.netloc:
        raise OptionError(f"{shown}: a URL that holds a password; give it by the environment")
    if not parts.netloc and scheme != "memory":
        raise OptionError(f"{shown}: names no {'host' if 'http' in scheme else 'bucket'}")
    path = unquote(parts.path) if scheme in ("http", "https") else parts.path
    return Address(scheme, parts.netloc, path.strip("/"), chosen)


def _refuse_options(place: str, options: Mapping[str, Any] | None) -> None:
    if options:
        raise OptionError(f"{place}: a folder has no storage options; leave {', '.join(options)}")


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _hugging_face(shown: str, kind: str, path: str, options: dict[str, str]) -> Address:
    """The web address that a repository's files are read from, at one revision."""
    parts = path.strip("/").split("/")
    if kind in ("datasets", "spaces"):
        repository, folder = parts[:2], parts[2:]
    else:  # a model: hf://owner/name
        repository, folder = [kind, *parts[:1]], parts[1:]
    if len(repository) != 2 or not all(repository):
        raise OptionError(f"{shown}: expected hf://datasets/<owner>/<name>[@<revision>]/<folder>")
    owner, (name, _, revision) = repository[0], repository[1].partition("@")
    base = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    places = [base.path.strip("/"), kind if kind in ("datasets", "spaces") else "", owner, name]
    prefix = "/".join([*filter(None, places), "resolve", revision or "main", *folder])
    token = options.pop("token", None) or os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Address(base.scheme, base.netloc, prefix.strip("/"), options, headers)
