"""One file of a web server, read from any byte on."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from cinic_shards.errors import OptionError, StoreError
from cinic_shards.store.address import Address
from cinic_shards.store.remote import RemoteStore

_DAY_SECONDS = "86400"
"""One answer may take so long; without a byte, it takes ``read_timeout``."""
_CHUNK_BYTES = 2**16
"""Asked for at once: Ctrl-C is heard between two chunks."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server has begun to send."""

    version: str
    """The file's ETag, or the date of its last modification, as far as the server tells."""
    size: int
    """Of the whole file, in bytes."""
    chunks: Iterator[memoryview]
    """The bytes.

    Raises StoreError where the connection ends too soon.
    """


class WebFile(RemoteStore):
    """A file at a URL; redirects are followed."""

    def __init__(self, url: str, *, max_retries: int = 2) -> None:
        """Read a file.

        Args:
            url: ``https://`` or ``http://``; a query stays as it is.
            max_retries: of one request that is refused; who asks for more waits in between.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
            raise OptionError(f"{url}: expected https://host/file, without a password")
        query = f"?{parts.query}" if parts.query else ""
        # A client of the file itself: a name below it would lose the query.
        place = f"{parts.netloc}{parts.path}{query}"
        options = {"timeout": _DAY_SECONDS, "max_retries": str(max_retries)}
        super().__init__(Address(parts.scheme, place, "", options))

    def open(self, start: int) -> Answer | None:
        """Ask for the bytes from ``start`` on.

        Returns:
            The answer; None where the server cannot begin there: it has no ranges, or the file is
            shorter.

        Raises:
            MissingError: there is no such file.
            StoreError: the server cannot be reached, or refuses.
        """
        import obstore
        from obstore.exceptions import GenericError, NotSupportedError

        options: obstore.GetOptions = {"range": {"offset": start}} if start else {}
        with self._errors(StoreError):
            try:
                found = obstore.get(self._connection.reading, "", options=options)
            except NotSupportedError:
                return None
            except GenericError as error:
                if start and "416 Range Not Satisfiable" in str(error):
                    return None
                raise
            meta = found.meta
            version = meta["e_tag"] or meta["last_modified"].isoformat()
            chunks = found.stream(min_chunk_size=_CHUNK_BYTES)
        return Answer(version, int(meta["size"]), self._chunks(chunks))

    def _chunks(self, chunks: Iterator[object]) -> Iterator[memoryview]:
        while True:
            with self._errors(StoreError):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield memoryview(chunk)  # type: ignore[arg-type]
