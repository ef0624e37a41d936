"""A file object for tarfile that reads an untrusted tar only forwards and within bounds."""

import tarfile
from typing import IO, Any

from cinic_shards.tree.members import PIECE_BYTES, too_large
from cinic_shards.tree.spool import Spool

_MAX_HEADER_BYTES = 2**18
"""The most bytes of headers before one member: long names, dates."""


class TarBytes:
    """The bytes of a tar; tarfile can read them only forwards, and headers only up to a limit."""

    def __init__(self, file: IO[bytes], *, size: int | None, limit: int) -> None:
        """Read a file from its start.

        Args:
            file: gives the tar's uncompressed bytes.
            size: its size in bytes if the file is seekable, else None.
            limit: the most bytes that it may have.
        """
        self._file = file
        self._size = size
        self._limit = limit
        self._at = 0
        self._may_read = _MAX_HEADER_BYTES
        self.last = b""
        """The last header that was read."""

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._at

    def seek(self, position: int, whence: int = 0) -> Any:
        """Raise an error: a valid tar is only read forwards."""
        raise tarfile.ReadError(f"a member at {position:,}, expected one at {self._at:,}")

    def close(self) -> None:
        """Do nothing: whoever opened the file closes it."""

    def read(self, size: int) -> bytes:
        """Read a part of a member's headers."""
        self._may_read -= size
        if size < 0 or self._may_read < 0:
            raise tarfile.ReadError(f"headers of more than {_MAX_HEADER_BYTES:,} bytes")
        self.last = self._read(size)
        return self.last

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._at += len(data)
        if self._at > self._limit:
            raise tarfile.ReadError(too_large(self._at))
        return data

    def copy(self, size: int, spool: Spool) -> None:
        """Append the next bytes to a spool."""
        while size:
            data = self._read(min(size, PIECE_BYTES))
            if not data:
                raise EOFError("unexpected end of data")
            spool.write(data)
            size -= len(data)

    def skip_to(self, position: int) -> None:
        """Skip to the next member."""
        self._may_read = _MAX_HEADER_BYTES
        if position < self._at:
            raise tarfile.ReadError("invalid size")
        if self._size is not None:
            if position > self._size:
                raise EOFError("unexpected end of data")
            self._file.seek(position)
            self._at = position
        while self._at < position:
            if not self._read(min(position - self._at, PIECE_BYTES)):
                raise EOFError("unexpected end of data")

    def check_end(self) -> None:
        """Check that only zeros follow the last member; also reads a compressed file to its end."""
        if len(self.last) < tarfile.BLOCKSIZE:
            raise EOFError("unexpected end of data")
        if any(self.last):
            raise tarfile.ReadError("invalid header")
        while data := self._read(PIECE_BYTES):
            if data.count(0) != len(data):
                raise tarfile.ReadError("more data after the end of the archive")
