"""Clients for servers: their timeouts and retries, and their errors as one line.

obstore retries requests that can be retried; this file sets how often and how long.
"""

import os
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cinic_shards.errors import OptionError, StoreError
from cinic_shards.store.address import Address

if TYPE_CHECKING:
    from obstore.store import ObjectStore

TIMES = {
    "connect_timeout": 10.0,
    "read_timeout": 30.0,
    "timeout": 120.0,
    "write_timeout": 600.0,
    "retry_timeout": 120.0,
}
"""Limits in seconds: to connect; without receiving a byte; for one request; for one request that
writes; and from the first try to the start of the last retry. A read takes at most
``retry_timeout`` plus ``timeout`` plus one wait between tries."""
MAX_RETRIES = 8
"""Retries of one request."""

_CLIENT_OPTIONS = frozenset(
    "allow_http allow_invalid_certificates http1_only http2_only pool_idle_timeout "
    "pool_max_idle_per_host proxy_url proxy_ca_certificate proxy_excludes randomize_addresses "
    "root_certificate user_agent".split()
)
_ENDPOINTS = ("endpoint", "endpoint_url", "aws_endpoint", "aws_endpoint_url", "azure_endpoint")

_client_process = 0
"""Id of the process that made the first client; 0 if there is no client yet."""


def has_client() -> bool:
    """True if this process, or the process it was forked from, has used a server."""
    return _client_process != 0


class Connection:
    """The clients of one host, made on first use."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._clients: dict[str, ObjectStore] = {}

    @property
    def reading(self) -> "ObjectStore":
        """A client with the timeout for reading."""
        return self._client("timeout")

    @property
    def writing(self) -> "ObjectStore":
        """A client with the timeout for writing: long uploads get no answer until they end."""
        return self._client("write_timeout")

    def _client(self, timeout: str) -> "ObjectStore":
        global _client_process
        if _client_process not in (0, os.getpid()):
            # obstore's threads do not survive a fork, and it does not notice: it would hang.
            raise StoreError(
                str(self._address),
                "this process was forked from one that uses an object store, so it "
                "cannot use one itself; start processes with 'spawn' or 'forkserver' "
                "(multiprocessing_context= of a DataLoader)",
            )
        if timeout not in self._clients:
            _client_process = os.getpid()
            self._clients[timeout] = _make_client(self._address, timeout)
        return self._clients[timeout]


_memories: dict[str, Any] = {}
"""Host -> the store at ``memory://`` that host."""


def _make_client(address: Address, timeout: str) -> Any:
    """Make a client for all files of the address's host.

    Args:
        address: the store's address.
        timeout: the entry of ``TIMES`` that limits one request.

    Raises:
        OptionError: an option is invalid.
        StoreError: the store is the ``memory://`` of a different process.
    """
    import obstore.store as stores
    from obstore.exceptions import BaseError

    if address.scheme == "memory":
        if address.options.get("process", str(os.getpid())) != str(os.getpid()):
            raise StoreError(str(address), "exists only in another process; use workers=1")
        return _memories.setdefault(address.host, stores.MemoryStore())
    options = dict(address.options)
    numbers = {
        name: _number(address, name, options.pop(name, default))
        for name, default in {**TIMES, "max_retries": MAX_RETRIES}.items()
    }
    times = {name: timedelta(seconds=numbers[name]) for name in TIMES}
    client: dict[str, Any] = {
        "connect_timeout": times["connect_timeout"],
        # A server sends nothing while it receives a request.
        "read_timeout": times["read_timeout" if timeout == "timeout" else timeout],
        "timeout": times[timeout],
        "allow_http": _is_without_tls(address, options),
    }
    client |= {name: options.pop(name) for name in _CLIENT_OPTIONS & options.keys()}
    if address.headers:
        client["default_headers"] = address.headers
    common: dict[str, Any] = {
        "client_options": client,
        "retry_config": {
            "max_retries": int(numbers["max_retries"]),
            "retry_timeout": times["retry_timeout"],
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=10),
                # Each wait is random, up to 4 times the one before.
                "base": 4,
            },
        },
    }
    try:
        if address.scheme in ("http", "https"):
            if options:
                raise ValueError(f"unknown option {', '.join(sorted(options))}")
            return stores.HTTPStore(f"{address.scheme}://{address.host}", **common)
        if address.scheme == "s3":
            common["credential_provider"] = _profile_credentials(options)
            # Some servers answer bulk deletes in a non-standard way.
            options.setdefault("disable_bulk_delete", "true")
        classes: Any = {"s3": stores.S3Store, "gs": stores.GCSStore, "az": stores.AzureStore}
        return classes[address.scheme](address.host, config=options, **common)
    except OptionError:
        raise
    except (BaseError, ValueError, TypeError) as error:
        raise OptionError(f"{address}: {reason(error)}; see docs/object-storage.md") from error


def _number(address: Address, name: str, value: Any) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise OptionError(
            f"{address}: {name}={value}: expected a number"
            + (" of seconds" if name in TIMES else "")
        )
    return number


def _is_without_tls(address: Address, options: dict[str, str]) -> bool:
    """True if the address or an endpoint starts with ``http://``: the user asked for it."""
    endpoints = [options.get(name, "") for name in _ENDPOINTS]
    if address.scheme == "s3":
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
        endpoints += [os.environ.get(name, "") for name in names]
    return address.scheme == "http" or any(one.startswith("http://") for one in endpoints)


def _profile_credentials(options: dict[str, str]) -> Any:
    """Return a provider of the credentials of an AWS profile; None if no profile is named."""
    profile = options.pop("profile", None)
    if profile is None and not ("access_key_id" in options or os.environ.get("AWS_ACCESS_KEY_ID")):
        profile = os.environ.get("AWS_PROFILE")
    if not profile:
        return None
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise OptionError(
            f"the AWS profile {profile!r} needs boto3: pip install boto3, or set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    return Boto3CredentialProvider(boto3.session.Session(profile_name=profile))


_REQUEST = re.compile(
    r"Error performing (?P<method>\w+) \S+ in (?P<time>[\d.]+[^\d\s,]+)"
    r"(, after (?P<retries>\d+) retries)?.*? - (?P<what>.*)"
)
_CAUSES = (
    ("InvalidRange|StartTooLarge|Range Not Satisfiable", "the file is shorter"),
    ("NoSuchBucket|ContainerNotFound", "there is no such bucket; make it first"),
    ("kind: Timeout|TimedOut|timed out", "no answer in time"),
    ("dns error|lookup address", "there is no host of this name"),
    (r'message: "([^"]+)"', r"\1"),
    ("request or response body error", "the connection was closed before the end"),
    ("<Code>([^<]+)</Code>", r"\1"),
)
"""Patterns to look for in an error, and their meaning."""


def repeated(request: Callable[[], object]) -> None:
    """Make an idempotent request, and repeat it up to three times while no server answers.

    obstore does not retry a request that may already have taken effect; only the caller knows that
    repeating it is harmless.
    """
    from obstore.exceptions import GenericError

    start = time.monotonic()
    for wait_seconds in (0.2, 1.0, 5.0):
        try:
            request()
            return
        except GenericError as error:
            is_late = time.monotonic() - start > TIMES["retry_timeout"]
            if is_late or "HTTP error" not in str(error):
                raise
            time.sleep(wait_seconds)
    request()


def reason(error: Exception) -> str:
    """Return why a request failed, in one line; obstore's messages have many lines."""
    text = str(error)
    line = re.sub(r"^Generic \w+ error: ", "", text.partition("\n")[0])
    causes = ((re.search(pattern, text), meaning) for pattern, meaning in _CAUSES)
    cause = next((match.expand(meaning) for match, meaning in causes if match), "")
    if request := _REQUEST.search(line):
        tries = int(request["retries"] or 0) + 1
        tried = f"{request['method']}, {tries} {'try' if tries == 1 else 'tries'}"
        line = f"{tried} in {request['time']}: {cause or request['what'].strip()}"
    elif cause and cause not in line:
        line = f"{line} ({cause})"
    if re.search(r"after \d+ retries|HTTP error", text):
        line += "; try again, or allow more (max_retries, retry_timeout, read_timeout)"
    return line
