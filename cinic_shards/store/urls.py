"""The parts of a URL, each used in full or rejected, and paths that must not be URLs."""

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from cinic_shards.errors import HIDDEN, OptionError, without_secrets

SCHEMES = ("s3", "gs", "az", "http", "https", "hf", "memory", "file")
WEB = ("http", "https")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LOCATED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file or folder that must be on this machine.

    Raises:
        OptionError: the path is a URL, or is empty.
    """
    text = os.fsdecode(path)
    scheme, colon, _ = text.partition(":")
    # A Path keeps only one of the slashes.
    if colon and (scheme.lower() in SCHEMES or _LOCATED.match(text)):
        shown = without_secrets(text)
        raise OptionError(f"{shown}: is a URL, expected a path; write ./ before a name with ':'")
    if not text or "\0" in text:
        raise OptionError(f"the path {text!r} is invalid; give a file or a folder")
    return Path(text)


def parse_web_url(url: str) -> tuple[str, str, str, str]:
    """Split the URL of a file on a web server; nothing of it is decoded.

    Returns:
        The scheme, the host, the path with its first ``/``, and the query with its ``?``.

    Raises:
        OptionError: the URL is invalid, or holds a password.
    """
    expected = f"{without_secrets(url)}: expected https://host/file, without a password"
    if not url.lower().startswith(("http://", "https://")):
        raise OptionError(expected)
    scheme, rest = split_scheme(url)
    before, mark, query = rest.partition("?")
    host, slash, path = before.partition("/")
    if not host or "@" in host:
        raise OptionError(expected)
    shown = without_secrets(url)
    check_host(shown, scheme, host)
    if "\\" in path or {decode(shown, part) for part in path.split("/")} & {b".", b".."}:
        raise OptionError(f"{shown}: the path has a '\\', '.' or '..'; leave it out")
    return scheme, host, slash + path, mark + query


def split_scheme(text: str) -> tuple[str, str]:
    """Return the scheme in lower case and what follows ``://``, with the checks of all URLs.

    Raises:
        OptionError: the scheme is unknown, or the URL has a fragment, a control character, or a
            space at an end.
    """
    shown = without_secrets(text)
    start, separator, rest = text.partition("://")
    scheme = (start if separator else text.partition(":")[0]).lower()
    if not separator and scheme in SCHEMES:
        raise OptionError(f"{scheme}:{HIDDEN}: expected {scheme}://, or ./ before a path")
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise OptionError(f"{shown}: unknown scheme {scheme}://; expected a path or {known}")
    if text != text.strip():
        raise OptionError(f"{shown}: the URL has a space at its start or end; remove it")
    check_no_controls(shown, text)
    if re.search("[\ud800-\udfff]", text):
        raise OptionError(f"{shown}: the URL is not UTF-8 text")
    if "#" in text:
        raise OptionError(
            f"{shown}: the URL has a '#', expected none; in http, https and file URLs, and in "
            "options, write %23"
        )
    return scheme, rest


def check_host(shown: str, scheme: str, host: str) -> None:
    """Raise OptionError unless this is the name of a bucket, or of a server for web schemes."""
    if not host:
        if scheme != "memory":
            raise OptionError(f"{shown}: the URL has no {_noun(scheme)}")
        return
    if not (_HOST if scheme in WEB else _BUCKET).fullmatch(host):
        expected = (
            "letters, digits, '-' and '.', perhaps a port; other names in their form xn--..."
            if scheme in WEB
            else "letters, digits, '-', '_', '.'"
        )
        raise OptionError(f"{shown}: not a valid {_noun(scheme)}; expected {expected}")
    port = host.rpartition(":")[2] if ":" in host and not host.endswith("]") else "0"
    if int(port) > 65_535:
        raise OptionError(f"{shown}: port {port}, expected at most 65535")


def _noun(scheme: str) -> str:
    return "host" if scheme in WEB else "bucket"


def check_server(name: str, url: str) -> None:
    """Check the URL of a server that an option or a variable names; obstore would panic.

    Raises:
        OptionError: it is not a URL, or has a password or a query.
    """
    try:
        scheme, _, _, query = parse_web_url(url)
    except OptionError:
        scheme = query = "?"
    if query or scheme not in WEB:
        raise OptionError(
            f"{name}: expected a URL such as https://host, without a password or a query"
        )


def decode_path(shown: str, path: str) -> str:
    """Decode the ``%`` escapes of a URL's path.

    Args:
        shown: the URL, for the message.
        path: the encoded path.

    Raises:
        OptionError: an escape is invalid or stands for a control character, or the text is not
            UTF-8.
    """
    try:
        text = decode(shown, path).decode()
    except UnicodeDecodeError as error:
        raise OptionError(f"{shown}: the path is not UTF-8 text") from error
    check_no_controls(shown, text)
    return text


def decode(shown: str, text: str) -> bytes:
    """Decode the ``%`` escapes of a text.

    Raises:
        OptionError: an escape is invalid.
    """
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        raise OptionError(f"{shown}: expected two hexadecimal digits after '%'; write %25 for '%'")
    return unquote_to_bytes(text)


def check_no_controls(shown: str, text: str) -> None:
    """Raise OptionError if a text has a line break or a different control character."""
    if _CONTROL.search(text):
        raise OptionError(f"{shown}: has a control character, expected none")
