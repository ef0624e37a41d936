"""The clients that reach a server, how long they try, and why they failed in one line.

obstore retries what can be retried; what is set here is how often and how long.
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
"""Seconds: to connect; without a byte; of one request; of one that writes; and since the first try,
after which there is no other one. A read ends after the sum of the last and ``timeout``, and one
wait between tries, at most."""
MAX_RETRIES = 8

_CLIENT_OPTIONS = frozenset(
    "allow_http allow_invalid_certificates http1_only http2_only pool_idle_timeout "
    "pool_max_idle_per_host proxy_url proxy_ca_certificate proxy_excludes randomize_addresses "
    "root_certificate user_agent".split()
)
_ENDPOINTS = ("endpoint", "endpoint_url", "aws_endpoint", "aws_endpoint_url", "azure_endpoint")

_client_process = 0
"""The process that made the first client; 0 while there is none."""


def has_client() -> bool:
    """Whether this process, or the one that it was forked from, has used a server."""
    return _client_process != 0


class Connection:
    """The clients of one host, made when they are first used."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._clients: dict[str, ObjectStore] = {}

    @property
    def reading(self) -> "ObjectStore":
        """A client whose requests end soon."""
        return self._client("timeout")

    @property
    def writing(self) -> "ObjectStore":
        """A client that may send for long before the server says anything."""
        return self._client("write_timeout")

    def _client(self, timeout: str) -> "ObjectStore":
        global _client_process
        if _client_process not in (0, os.getpid()):
            # Its threads and sockets are not in this process, and it cannot tell: it would hang.
            raise StoreError(
                str(self._address),
                "this process was forked from one that uses an object store, and "
                "cannot use one itself; start processes by 'spawn' or 'forkserver' "
                "(multiprocessing_context= of a DataLoader)",
            )
        if timeout not in self._clients:
            _client_process = os.getpid()
            self._clients[timeout] = _make_client(self._address, timeout)
        return self._clients[timeout]


_memories: dict[str, Any] = {}
"""What lies at ``memory://``, by host."""


def _make_client(address: Address, timeout: str) -> Any:
    """A client for everything at the address's host.

    Args:
        address: where.
        timeout: which of ``TIMES`` one request may take.

    Raises:
        OptionError: an option cannot be.
    """
    import obstore.store as kinds
    from obstore.exceptions import BaseError

    if address.scheme == "memory":
        if address.options.get("process", str(os.getpid())) != str(os.getpid()):
            raise StoreError(str(address), "lies in another process alone; work with workers=1")
        return _memories.setdefault(address.host, kinds.MemoryStore())
    options = dict(address.options)
    numbers = {
        name: _number(address, name, options.pop(name, usual))
        for name, usual in {**TIMES, "max_retries": MAX_RETRIES}.items()
    }
    times = {name: timedelta(seconds=numbers[name]) for name in TIMES}
    client: dict[str, Any] = {
        "connect_timeout": times["connect_timeout"],
        # A server says nothing while it is sent something.
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
                # A wait is random, up to this times the one before.
                "base": 4,
            },
        },
    }
    try:
        if address.scheme in ("http", "https"):
            if options:
                raise ValueError(f"unknown option {', '.join(sorted(options))}")
            return kinds.HTTPStore(f"{address.scheme}://{address.host}", **common)
        if address.scheme == "s3":
            common["credential_provider"] = _profile_credentials(options)
            # Deleting many at once is answered in ways of their own by some servers.
            options.setdefault("disable_bulk_delete", "true")
        kind: Any = {"s3": kinds.S3Store, "gs": kinds.GCSStore, "az": kinds.AzureStore}
        return kind[address.scheme](address.host, config=options, **common)
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
            + (", of seconds" if name in TIMES else "")
        )
    return number


def _is_without_tls(address: Address, options: dict[str, str]) -> bool:
    """Who gives an address that begins with http:// means it."""
    endpoints = [options.get(name, "") for name in _ENDPOINTS]
    if address.scheme == "s3":
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
        endpoints += [os.environ.get(name, "") for name in names]
    return address.scheme == "http" or any(one.startswith("http://") for one in endpoints)


def _profile_credentials(options: dict[str, str]) -> Any:
    """What gives the credentials of a profile of AWS's own configuration, where one is named."""
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
            f"the AWS profile {profile!r} is read by boto3: pip install boto3, or set "
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
    ("dns error|lookup address", "there is no host of that name"),
    (r'message: "([^"]+)"', r"\1"),
    ("request or response body error", "the connection was closed before the end"),
    ("<Code>([^<]+)</Code>", r"\1"),
)
"""What to look for in an error, and what it means."""


def repeated(request: Callable[[], object]) -> None:
    """Make a request that does no harm twice, again where nothing answers.

    obstore does not repeat what may have happened already: only the caller knows that it may.
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
    """Why a request failed: one line of an error that comes with pages."""
    text = str(error)
    line = re.sub(r"^Generic \w+ error: ", "", text.partition("\n")[0])
    causes = ((re.search(pattern, text), said) for pattern, said in _CAUSES)
    cause = next((match.expand(said) for match, said in causes if match), "")
    if request := _REQUEST.search(line):
        tries = int(request["retries"] or 0) + 1
        tried = f"{request['method']}, {tries} {'try' if tries == 1 else 'tries'}"
        line = f"{tried} in {request['time']}: {cause or request['what'].strip()}"
    elif cause and cause not in line:
        line = f"{line} ({cause})"
    if re.search(r"after \d+ retries|HTTP error", text):
        line += "; try again, or allow more (max_retries, retry_timeout, read_timeout)"
    return line
