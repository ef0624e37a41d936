"""Clients for servers: their options, credentials, certificates and timeouts."""

import os
import re
import ssl
import threading
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from cinic_shards.errors import OptionError, StoreError, text_without_secrets
from cinic_shards.store.address import SERVERS, Address, check_variables, is_true

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
writes; and from the first try to the start of the last one. A read takes at most ``retry_timeout``
plus ``timeout``."""
MAX_RETRIES = 999_999.0
"""Retries of one request; only ``retry_timeout`` limits them unless the option is given."""

_CLIENT_OPTIONS = frozenset(
    "allow_http allow_invalid_certificates http1_only http2_only pool_idle_timeout "
    "pool_max_idle_per_host proxy_url proxy_ca_certificate proxy_excludes randomize_addresses "
    "root_certificate user_agent".split()
)
_KEY_OPTIONS = ("access_key_id", "aws_access_key_id")

_PEMS = ("root_certificate", "proxy_ca_certificate")
_REGIONS = ("region", "aws_region", "default_region", "aws_default_region")
_VIRTUAL_HOSTED = ("virtual_hosted_style_request", "aws_virtual_hosted_style_request")

_MAX_CLIENTS = 64
"""The most clients that a host keeps, each with its connections. Only ``query`` needs many."""

_client_process = 0
"""Id of the process that made the first client; 0 if there is no client yet."""


def has_client() -> bool:
    """True if this process, or the process it was forked from, has used a server."""
    return _client_process != 0


class Connection:
    """The clients of one host, made on first use."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._clients: dict[tuple[str, str], ObjectStore] = {}
        self._lock = threading.Lock()
        self._region = ""

    @cached_property
    def limits(self) -> dict[str, float]:
        """The entries of ``TIMES``, and ``max_retries``.

        Raises:
            OptionError: one is not a number.
        """
        defaults = {**TIMES, "max_retries": MAX_RETRIES}
        given = self.address.options
        return {
            name: _number(self.address, name, given.get(name, defaults[name])) for name in defaults
        }

    def check_process(self) -> None:
        """Raise StoreError if this process was forked from one that uses a server."""
        if _client_process not in (0, os.getpid()):
            # obstore's threads do not survive a fork, and it does not notice: it would hang.
            raise StoreError(
                str(self.address),
                "this process was forked from one that uses an object store, so it "
                "cannot use one itself; start processes with 'spawn' or 'forkserver' "
                "(multiprocessing_context= of a DataLoader)",
            )

    def client(self, timeout: str, path: str) -> tuple["ObjectStore", str]:
        """Return a client for a file, and the file's path for the client.

        Args:
            timeout: the entry of ``TIMES`` that limits one request. Long uploads get no answer
                until they end.
            path: the file's path on the server.
        """
        global _client_process
        file = path if self.address.query else ""  # a client adds no query to a path
        with self._lock:
            client = self._clients.pop((timeout, file), None)
            if client is None:
                _client_process = os.getpid()
                client = _make_client(self, timeout, file)
            self._clients[timeout, file] = client  # as the last one
            if len(self._clients) > _MAX_CLIENTS:
                del self._clients[next(iter(self._clients))]
        return client, "" if file else path

    def renew(self, client: "ObjectStore", region: str = "") -> None:
        """Replace a client by one with new credentials, and with a region if it is given."""
        with self._lock:
            if client in self._clients.values():  # else another thread has just replaced it
                self._region = region or self._region
                self._clients.clear()

    def tls(self) -> ssl.SSLContext:
        """Return the settings for TLS of requests that obstore does not make."""
        context = ssl.create_default_context()
        options = self.options
        if text := options.get("root_certificate"):
            context.load_verify_locations(
                cadata=_certificate(self.address, "root_certificate", text)
            )
        if is_true(options.get("allow_invalid_certificates")):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    @property
    def options(self) -> dict[str, str]:
        """The address's options, and what servers have said about them."""
        options = dict(self.address.options)
        if self._region:
            options = {name: text for name, text in options.items() if name not in _REGIONS}
            options["region"] = self._region
        return options


_memories: dict[str, Any] = {}
"""Host -> the store at ``memory://`` that host."""


def _make_client(connection: Connection, timeout: str, file: str) -> Any:
    """Make a client for all files of a host, or for one file.

    Args:
        connection: gives the address and the options.
        timeout: the entry of ``TIMES`` that limits one request.
        file: the path of the file; empty for all files.

    Raises:
        OptionError: an option is invalid.
        StoreError: the store is the ``memory://`` of a different process.
    """
    import obstore.store as stores
    from obstore.exceptions import BaseError

    address = connection.address
    if address.scheme == "memory":
        if address.options.get("process", str(os.getpid())) != str(os.getpid()):
            raise StoreError(str(address), "exists only in another process; use workers=1")
        return _memories.setdefault(address.host, stores.MemoryStore())
    check_variables(address.scheme)
    numbers = connection.limits
    times = {name: timedelta(seconds=numbers[name]) for name in TIMES}
    options = {name: text for name, text in connection.options.items() if name not in numbers}
    client: dict[str, Any] = {
        "connect_timeout": times["connect_timeout"],
        # A server sends nothing while it receives a request.
        "read_timeout": times["read_timeout" if timeout == "timeout" else timeout],
        "timeout": times[timeout],
        # If the address or an endpoint starts with http://, the user asked for it.
        "allow_http": address.scheme == "http" or address.endpoint.startswith("http://"),
    }
    client |= {name: options.pop(name) for name in _CLIENT_OPTIONS & options.keys()}
    client |= {name: _certificate(address, name, client[name]) for name in _PEMS if name in client}
    if address.headers:
        client["default_headers"] = address.headers
    common: dict[str, Any] = {
        "client_options": client,
        # ``Requests`` tries again; it also does so for what obstore would not.
        "retry_config": {"max_retries": 0, "retry_timeout": times["retry_timeout"]},
    }
    try:
        if address.scheme in ("http", "https"):
            if options:
                raise ValueError(f"unknown option {', '.join(sorted(options))}")
            url = f"{address.scheme}://{address.host}"
            url += f"/{quote(file)}" if file else ""
            url += address.query
            return stores.HTTPStore(url, **common)
        if address.scheme == "s3":
            _name_bucket_in_host(address, options)
            common["credential_provider"] = _profile_credentials(options)
            # Some servers answer bulk deletes in a non-standard way.
            options.setdefault("disable_bulk_delete", "true")
        classes: Any = {"s3": stores.S3Store, "gs": stores.GCSStore, "az": stores.AzureStore}
        return classes[address.scheme](address.host, config=options, **common)
    except OptionError:
        raise
    except (BaseError, ValueError, TypeError) as error:
        hide_secrets(error, address)
        line = re.sub(r"^Generic \w+ error: ", "", str(error).partition("\n")[0])
        raise OptionError(f"{address}: {line}; see docs/object-storage.md") from error


def _certificate(address: Address, name: str, text: str) -> str:
    """Return certificates in PEM, which an option holds, or the file that it names."""
    if "-----BEGIN" in text:
        return text
    try:
        with open(text, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError):
        pass  # its text holds the option's value, which may be a secret
    raise OptionError(
        f"{address}: option {name}: expected a file of certificates in PEM, or their text"
    )


def _name_bucket_in_host(address: Address, options: dict[str, str]) -> None:
    """Put the bucket's name before the endpoint's host, if it belongs there.

    obstore leaves this to the caller: it would ask for the file in the endpoint itself.
    """
    is_chosen = any(is_true(options.get(name)) for name in _VIRTUAL_HOSTED) or is_true(
        os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST")
    )
    endpoint = address.endpoint
    parts = urlsplit(endpoint)
    if is_chosen and endpoint and not parts.netloc.startswith(f"{address.host}."):
        for name in SERVERS["s3"][0]:
            options.pop(name, None)
        options["endpoint_url"] = f"{parts.scheme}://{address.host}.{parts.netloc}{parts.path}"


def hide_secrets(error: BaseException, address: Address) -> None:
    """Remove secrets from the text of a library's error: it is in tracebacks, as the cause."""
    error.args = tuple(text_without_secrets(str(one), address.secrets) for one in error.args)


def _number(address: Address, name: str, value: Any) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6 or (name not in TIMES and number % 1):
        expected = "a number of seconds" if name in TIMES else "an integer"
        raise OptionError(f"{address}: option {name}: expected {expected}, 0 to 999,999")
    return number


def _profile_credentials(options: dict[str, str]) -> Any:
    """Return a provider of the credentials of an AWS profile; None if no profile is named."""
    profile = options.pop("profile", None)
    has_key = any(name in options for name in _KEY_OPTIONS)
    if profile and has_key:
        raise OptionError("options: a profile and an access key are given; give one of them")
    if not (profile or has_key or os.environ.get("AWS_ACCESS_KEY_ID")):
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
