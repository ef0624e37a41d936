"""A zstd file, decompressed a block at a time: memory is bounded, and its end is checked."""

from collections.abc import Iterator
from typing import IO

import zstandard

_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50
"""Magic number of frames without data; the last four bits may be any."""
_MAX_BLOCK_BYTES = 2**17
_MAX_HEADER_BYTES = 14
"""The most bytes of a frame's header, after the magic number."""
_MAX_WINDOW_BYTES = 2**27
"""The most memory that a frame may ask for, as in zstd's own tool."""
_SKIP_BYTES = 2**16


class ZstdFile:
    """The content of a zstd file of one or more frames, read only forwards.

    libzstd's own reader takes a truncated file for a complete one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._pieces = self._decompress()
        self._piece = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes; fewer only at the end.

        Raises:
            EOFError: the file is truncated.
            ValueError, zstandard.ZstdError: the file is damaged.
        """
        parts = []
        while size:
            if not self._piece:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._piece = memoryview(piece)
            parts.append(self._piece[:size])
            self._piece = self._piece[size:]
            size -= len(parts[-1])
        return b"".join(parts)

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError("unexpected end of data")
        return data

    def _decompress(self) -> Iterator[bytes]:
        """Yield the content of all blocks of all frames; pieces may be empty."""
        while magic := self._file.read(4):
            number = int.from_bytes(magic, "little")
            if number == _MAGIC:
                yield from self._frame(magic)
            elif number & ~15 == _SKIPPABLE:
                size = int.from_bytes(self._exactly(4), "little")
                while size:
                    size -= len(self._exactly(min(size, _SKIP_BYTES)))
            else:
                raise ValueError("invalid header of a zstd frame")

    def _frame(self, magic: bytes) -> Iterator[bytes]:
        header = magic + self._exactly(2)
        # The first byte after the magic number gives the size of the header, which is at least 6.
        size = zstandard.frame_header_size(header + bytes(_MAX_HEADER_BYTES))
        header = header[:size] + self._exactly(max(0, size - len(header)))
        parameters = zstandard.get_frame_parameters(header)
        if parameters.window_size > _MAX_WINDOW_BYTES:
            raise WindowError(
                f"compressed with a window of {parameters.window_size:,} bytes (zstd --long or "
                f"--ultra), expected at most {_MAX_WINDOW_BYTES:,}"
            )
        frame = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
        yield frame.decompress(header)
        is_last = 0
        while not is_last:
            block_header = self._exactly(3)
            number = int.from_bytes(block_header, "little")
            is_last, block_type, block_bytes = number & 1, number >> 1 & 3, number >> 3
            if block_bytes > _MAX_BLOCK_BYTES or block_type == 3:
                raise ValueError("invalid header of a zstd block")
            block = self._exactly(1 if block_type == 1 else block_bytes)
            yield frame.decompress(block_header + block)
        if parameters.has_checksum:
            yield frame.decompress(self._exactly(4))
        if not frame.eof:
            raise ValueError("invalid zstd frame")


class WindowError(Exception):
    """A frame would need too much memory."""
