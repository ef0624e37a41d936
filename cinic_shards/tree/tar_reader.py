"""The bytes of a tar from a stranger, as tarfile may read them: onwards, and bounded."""

import tarfile
from typing import IO, Any

from cinic_shards.tree.spool import Spool

PIECE_BYTES = 2**20
"""Copied or skipped at once."""
_MAX_HEADER_BYTES = 2**18
"""Of what precedes one member: long names, dates."""


class TarBytes:
    """The bytes of a tar, for tarfile to read on, a bounded number of them at once."""

    def __init__(self, file: IO[bytes], *, size: int | None, limit: int) -> None:
        """Read from a file's begin.

        Args:
            file: the tar.
            size: its bytes, where it can be skipped in.
            limit: the most bytes that it may have.
        """
        self._file = file
        self._size = size
        self._limit = limit
        self._at = 0
        self._may_read = _MAX_HEADER_BYTES
        self._last = b""

    def tell(self) -> int:
        """Where the next byte is."""
        return self._at

    def seek(self, position: int, whence: int = 0) -> Any:
        """Refuse: an honest tar is read on."""
        raise tarfile.ReadError(f"a member at {position:,}, expected one at {self._at:,}")

    def close(self) -> None:
        """Nothing: whoever opened the file closes it."""

    def read(self, size: int) -> bytes:
        """A part of a member's headers."""
        self._may_read -= size
        if size < 0 or self._may_read < 0:
            raise tarfile.ReadError(f"headers of more than {_MAX_HEADER_BYTES:,} bytes")
        self._last = self._read(size)
        return self._last

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
        """Go on to the next member."""
        self._may_read = _MAX_HEADER_BYTES
        if position < self._at:
            raise tarfile.ReadError("a size that cannot be")
        if self._size is not None:
            if position > self._size:
                raise EOFError("unexpected end of data")
            self._file.seek(position)
            self._at = position
        while self._at < position:
            if not self._read(min(position - self._at, PIECE_BYTES)):
                raise EOFError("unexpected end of data")

    def check_end(self) -> None:
        """Behind the last member are zeros alone; a compressed file is checked to its end."""
        if len(self._last) < tarfile.BLOCKSIZE:
            raise EOFError("unexpected end of data")
        if any(self._last):
            raise tarfile.ReadError("a header that is none")
        while data := self._read(PIECE_BYTES):
            if data.count(0) != len(data):
                raise tarfile.ReadError("more data behind the archive's end")


def too_large(size: int) -> str:
    """What to say of an archive that grows beyond measure."""
    return (
        f"it holds {size:,} bytes and more, too many for its size; unpack it and pack its folder "
        "if that is right"
    )
