"""Requests to a server: made elsewhere, and tried again until a time has passed.

obstore makes each request once. It counts retries, and does not pass on a ``Retry-After`` header;
here the time counts.
"""

import random
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.error import HTTPError

from cinic_shards.errors import CinicShardsError, escaped, text_without_secrets
from cinic_shards.jobs.processes import LOGGER
from cinic_shards.jobs.stop import check_stop
from cinic_shards.store.connection import Connection, hide_secrets
from cinic_shards.store.elsewhere import call
from cinic_shards.store.failures import Failure, RequestError, failure_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore

R = TypeVar("R")

FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 0.1, 10.0
"""Each wait between two tries is random: at least the first, at most 4 times the one before."""
_SAY_AFTER_SECONDS = 5.0
"""A request that fails for this time is reported, while it is tried again."""
_SAY_EVERY_SECONDS = 60.0
_ASK_EVERY_SECONDS = 30.0
"""Seconds until a server that has sent no ``Retry-After`` is asked for it again."""


class Requests:
    """Makes the requests to one server, in any number of threads.

    Args:
        connection: makes the clients.
        say: called with a line about a server that makes its clients wait, about once a minute.
    """

    def __init__(
        self,
        connection: Connection,
        say: Callable[[str], None] = LOGGER.warning,
    ) -> None:
        self._connection = connection
        self.say = say
        self._say_again = 0.0
        self._has_succeeded = False
        self._asking = threading.Lock()
        self._ask_again = 0.0
        self._open_again = 0.0
        """When the server may be asked again, by its ``Retry-After``."""
        self.takes_head = True
        """False once the server has rejected a HEAD request and answered a GET request."""

    def make(
        self,
        request: "Callable[[ObjectStore, str], R]",
        path: str = "",
        *,
        timeout: str = "timeout",
    ) -> R:
        """Make a request, and try again while it may succeed and ``retry_timeout`` allows.

        Args:
            request: called with a client and the file's path for it; repeating it must be harmless.
            path: the file's path on the server.
            timeout: the limit of one try, see ``Connection.client``.

        Raises:
            RequestError: the last try failed.
        """
        self.check_process()
        make = partial(self._make, request, path, timeout)
        return make() if self._connection.address.scheme == "memory" else call(make)

    def check_process(self) -> None:
        """Raise StoreError if this process was forked from one that uses a server."""
        self._connection.check_process()

    def once(self, request: Callable[[], R]) -> R:
        """Make a request without retries, such as for the next bytes of an answer.

        Raises:
            RequestError: it failed.
        """

        def make() -> R:
            start = time.monotonic()
            try:
                return request()
            except _errors() as error:
                failure = self._failure_of(error, is_first=False)
                raise RequestError(failure, 1, time.monotonic() - start) from error

        return call(make)

    def _make(self, request: "Callable[[ObjectStore, str], R]", path: str, timeout: str) -> R:
        limits = self._connection.limits
        start = time.monotonic()
        end = start + limits["retry_timeout"]
        num_tries, wait, mended = 0, FIRST_WAIT_SECONDS, set[str]()
        while True:
            if self._open_again > start:
                check_stop(min(self._open_again, end) - time.monotonic())
            client, path_for_client = self._connection.client(timeout, path)
            try:
                result = request(client, path_for_client)
            except CinicShardsError:
                raise
            except _errors() as error:
                failure = self._failure_of(error, is_first=not self._has_succeeded)
                num_tries += 1
                now = time.monotonic()
                if failure.kind not in mended and self._mend(failure, client, path):
                    mended.add(failure.kind)
                    continue
                is_late = now >= end or num_tries > limits["max_retries"]
                if failure.kind != "temporary" or is_late:
                    raise RequestError(failure, num_tries, now - start) from error
            else:
                self._has_succeeded = True
                return result
            if failure.status in (429, 503):
                self._ask_how_long(failure, client, path, end)
            wait = min(random.uniform(FIRST_WAIT_SECONDS, 4 * wait), MAX_WAIT_SECONDS)
            if now + wait - start > _SAY_AFTER_SECONDS:
                self._report(f"{failure.cause}; trying again for up to {end - now:.0f} s")
            check_stop(min(wait, end - time.monotonic()))

    def _failure_of(self, error: Exception, *, is_first: bool) -> Failure:
        """Return ``failure_of`` without secrets, and remove them from the error."""
        failure = failure_of(error, is_first=is_first)
        address = self._connection.address
        hide_secrets(error, address)
        return replace(failure, cause=escaped(text_without_secrets(failure.cause, address.secrets)))

    def _mend(self, failure: Failure, client: "ObjectStore", path: str) -> bool:
        """Change the client so that the failure may not occur again; return True if it can be."""
        if failure.kind == "expired":
            self._connection.renew(client)
            return True
        if failure.kind == "region":
            region = failure.region or self._ask(failure, client, path)[1].get(
                "x-amz-bucket-region"
            )
            if region:
                self._report(f"the bucket is in the region {region}; set region={region}")
                self._connection.renew(client, region)
                return True
        return False

    # What obstore does not pass on

    def _ask_how_long(self, failure: Failure, client: "ObjectStore", path: str, end: float) -> None:
        """Ask a server that is too busy how long it wants its clients to wait."""
        with self._asking:  # the other threads wait for the answer too
            now = time.monotonic()
            if now < max(self._ask_again, self._open_again):
                return
            status, headers = self._ask(failure, client, path)
            seconds = _seconds(headers.get("retry-after")) if status in (429, 503) else 0.0
            now = time.monotonic()
            if seconds > 0:
                self._open_again = now + seconds
                left = end - now
                limit = f", {left:.0f} s of them (retry_timeout)" if left < seconds else ""
                self._report(f"the server asks to wait {seconds:.0f} s; waiting{limit}")
            else:
                self._ask_again = now + _ASK_EVERY_SECONDS

    def _ask(
        self, failure: Failure, client: "ObjectStore", path: str
    ) -> tuple[int, Mapping[str, str]]:
        """Make a small request; return the answer's status and headers, 0 if there is no answer."""
        import obstore
        from obstore.exceptions import BaseError

        address, options = self._connection.address, self._connection.options
        url = failure.url
        if address.scheme == "s3":
            try:
                signed: Any = client
                url = obstore.sign(signed, "GET", path or "/", timedelta(minutes=1))
            except BaseError:  # without credentials
                pass
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        proxies = urllib.request.getproxies()
        if proxy := options.get("proxy_url") or proxies.get("all"):
            proxies = {"http": proxy, "https": proxy, **({} if "proxy_url" in options else proxies)}
        handlers.append(urllib.request.ProxyHandler(proxies))
        handlers.append(urllib.request.HTTPSHandler(context=self._connection.tls()))
        try:
            request = urllib.request.Request(url, headers={**address.headers, "Range": "bytes=0-0"})
            with urllib.request.build_opener(*handlers).open(
                request, timeout=self._connection.limits["connect_timeout"]
            ) as answer:
                return int(answer.status), _lower(answer.headers)
        except HTTPError as error:
            with error:
                return error.code, _lower(error.headers)
        except (OSError, ValueError, HTTPException):
            return 0, {}

    def _report(self, text: str) -> None:
        """Report why this process waits, unless it was reported in the last minute."""
        now = time.monotonic()
        if now >= self._say_again:
            self._say_again = now + _SAY_EVERY_SECONDS
            self.say(f"{self._connection.address}: {text}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that obstore raises; importing it takes time."""
    from obstore.exceptions import BaseError

    return BaseError, ValueError, FileNotFoundError


def _seconds(retry_after: str | None) -> float:
    """Return the seconds that a ``Retry-After`` header asks to wait; 0 if it is invalid."""
    text = (retry_after or "").strip()
    if text.isdecimal():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if date.tzinfo is None:  # without a zone, or with -0000
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
