"""One file on a web server, read from any byte onwards."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from cinic_shards.errors import StoreError
from cinic_shards.store.address import Address
from cinic_shards.store.connection import TIMES
from cinic_shards.store.failures import RequestError
from cinic_shards.store.remote import RemoteStore
from cinic_shards.store.urls import parse_web_url

_DAY_SECONDS = "86400"
"""Timeout of one answer in seconds; while no byte arrives, ``read_timeout`` applies."""
_CHUNK_BYTES = 2**16
"""Bytes read at a time. What a cut connection has sent of the last ones is lost."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer, whose bytes are still being sent."""

    version: str
    """The file's ETag; if the server sends none, the date of its last modification."""
    size: int
    """Size of the entire file in bytes."""
    chunks: Iterator[memoryview]
    """The bytes; raises ``StoreError`` if the connection ends too soon."""


class WebFile(RemoteStore):
    """A file at a URL; redirects are followed."""

    def __init__(
        self,
        url: str,
        *,
        retry_timeout: float = TIMES["retry_timeout"],
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Set up a file; nothing is requested yet.

        Args:
            url: ``https://`` or ``http://``; a query is kept.
            retry_timeout: seconds from the first try to the start of the last one.
            say: called with a line while the server makes its clients wait; by default it is a
                warning of ``logging``.

        Raises:
            OptionError: the URL is invalid, has a fragment, or holds a password.
        """
        scheme, host, path, query = parse_web_url(url)
        options = {"timeout": _DAY_SECONDS, "retry_timeout": str(retry_timeout)}
        # The client's host is the file's entire URL: a path below a host would lose the query.
        super().__init__(Address(scheme, host + path, "", options, query=query))
        if say is not None:
            self._requests.say = say

    def open(self, start: int) -> Answer | None:
        """Request the bytes from ``start`` to the end.

        Returns:
            The answer; None if the server does not support ranges, or the file is shorter.

        Raises:
            MissingError: there is no such file.
            StoreError: the server cannot be reached, or rejects the request.
        """
        import obstore

        options: obstore.GetOptions = {"range": {"offset": start}} if start else {}
        with self._errors(StoreError):
            try:
                found = self._requests.make(
                    lambda client, path: obstore.get(client, path, options=options)
                )
            except RequestError as error:
                if start and error.failure.kind == "no ranges":
                    return None
                raise
        meta = found.meta
        version = meta["e_tag"] or meta["last_modified"].isoformat()
        chunks = found.stream(min_chunk_size=_CHUNK_BYTES)
        return Answer(version, int(meta["size"]), self._chunks(chunks))

    def _chunks(self, chunks: Iterator[object]) -> Iterator[memoryview]:
        while True:
            with self._errors(StoreError):
                chunk = self._requests.once(partial(next, chunks, None))
            if chunk is None:
                return
            yield memoryview(chunk)
