"""PNG: parse chunks, call inflate and undo the row filters of an entire batch in one kernel.

The fast path handles what nearly every file is: 8-bit RGB, not interlaced, no chunk that changes
pixels. It either decodes a file or leaves it to Pillow, which then decides what an unusual or
damaged file means. So the package and Pillow agree on every file by construction.
"""

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.kernels.base import kernel, part
from cinic_shards.codec.kernels.memory import call, load_byte


def _crc_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0xEDB88320), table >> 1)
    return table.astype(np.uint32)


_CRC_TABLE = _crc_table()


@part
def _crc32(address, length):
    """Compute a CRC-32 byte by byte, for the few bytes of a PNG's small chunks."""
    crc = np.uint32(0xFFFFFFFF)
    for i in range(length):
        index = (np.int64(crc) ^ load_byte(address + i)) & 0xFF
        crc = _CRC_TABLE[index] ^ (crc >> np.uint32(8))
    return np.int64(crc ^ np.uint32(0xFFFFFFFF))


@kernel
def crc32_batch(crc32, addresses, lengths, out):
    """Compute the CRC-32 of N payloads into ``out`` uint32 (N,).

    Args:
        crc32: address of libdeflate_crc32.
        addresses: int64 (N,).
        lengths: sizes in bytes, int64 (N,).
        out: overwritten.
    """
    for i in range(len(addresses)):
        out[i] = np.uint32(call(crc32, 0, addresses[i], np.int64(lengths[i])) & 0xFFFFFFFF)


def _words(names: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(name, "big") for name in names.split(b" "))


_IHDR, _IDAT, _IEND, _TEXT, _GAMA, _CHRM, _SRGB, _PHYS, _BKGD, _TIME, _SBIT = _words(
    b"IHDR IDAT IEND tEXt gAMA cHRM sRGB pHYs bKGD tIME sBIT"
)
_SIGNATURE = _words(b"\x89PNG \r\n\x1a\n")


@part
def _load_u32(address):
    """Load the big-endian 32-bit word at an address."""
    return (
        (load_byte(address) << 24)
        | (load_byte(address + 1) << 16)
        | (load_byte(address + 2) << 8)
        | load_byte(address + 3)
    )


@part
def _is_harmless(chunk, length):
    """True if Pillow reads a chunk of this type and length without any effect on the pixels."""
    return (
        (chunk == _GAMA and length == 4)
        or (chunk == _CHRM and length == 32)
        or (chunk == _SRGB and length == 1)
        or (chunk == _PHYS and length == 9)
        or (chunk == _TIME and length == 7)
        or (chunk == _BKGD and length == 6)
        or (chunk == _SBIT and length == 3)
    )


@part
def _find_png_data(address, length, height, width, joined):
    """Find the compressed pixels of a PNG.

    A single IDAT chunk is used in place; several are copied into ``joined``, a uint8 array that is
    at least as long as the file.

    Returns:
        Address and length of the pixels; length 0 if Pillow must decode the file.
    """
    if length < 57:  # signature, IHDR, an empty IDAT and IEND
        return address, 0
    if _load_u32(address) != _SIGNATURE[0] or _load_u32(address + 4) != _SIGNATURE[1]:
        return address, 0
    header = address + 8
    if _load_u32(header) != 13 or _load_u32(header + 4) != _IHDR:
        return address, 0
    if _load_u32(header + 8) != width or _load_u32(header + 12) != height:
        return address, 0
    # Bit depth 8, colour type 2 (RGB), compression 0, filter method 0, no interlace.
    if _load_u32(header + 16) != 0x08020000 or load_byte(header + 20) != 0:
        return address, 0
    if _crc32(header + 4, 17) != _load_u32(header + 21):
        return address, 0

    end = address + length
    position = address + 33
    data = address
    data_length = 0
    num_parts = 0
    after_data = False
    while True:
        if position + 12 > end:
            return address, 0
        chunk_length = _load_u32(position)
        chunk = _load_u32(position + 4)
        body = position + 8
        position = body + chunk_length + 4
        if position > end:
            return address, 0
        if chunk == _IDAT:
            if after_data:
                return address, 0
            if num_parts == 1:
                for i in range(data_length):
                    joined[i] = load_byte(data + i)
            if num_parts >= 1:
                for i in range(chunk_length):
                    joined[data_length + i] = load_byte(body + i)
                data = joined.ctypes.data
                data_length += chunk_length
            else:
                data = body
                data_length = chunk_length
            num_parts += 1
        elif chunk == _IEND:
            return data, data_length
        elif num_parts == 0:
            if not _is_harmless(chunk, chunk_length):
                return address, 0
            if _crc32(body - 4, chunk_length + 4) != _load_u32(position - 4):
                return address, 0
        else:
            after_data = True
            if not (_is_harmless(chunk, chunk_length) or (chunk == _TEXT and chunk_length < 4096)):
                return address, 0


# The loops below index flat arrays with unsigned numbers: numba then neither counts references of
# row slices nor handles negative indices, and LLVM can vectorise.
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)


@part
def _unfilter_rgb(filtered, out, start, height, width):
    """Undo the row filters of one image.

    ``filtered`` is uint8, flat (H, 1 + 3 W); the pixels go to ``out``, flat uint8, from ``start``.
    Returns False if a filter byte is invalid.
    """
    stride = _THREE * np.uint64(width)
    row = np.uint64(0)
    to = np.uint64(start)
    above = to
    for y in range(height):
        filter_type = filtered[row]
        row += _ONE
        if filter_type == 4 and y > 0:
            _unfilter_paeth(filtered, row, out, above, to, stride)
        elif filter_type == 2 and y > 0:
            for x in range(stride):
                out[to + x] = filtered[row + x] + out[above + x]
        elif filter_type == 1 or filter_type == 4:  # Sub; Paeth with nothing above is Sub
            a0 = np.uint8(0)
            a1 = np.uint8(0)
            a2 = np.uint8(0)
            for x in range(np.uint64(0), stride, _THREE):
                a0 = np.uint8(a0 + filtered[row + x])
                a1 = np.uint8(a1 + filtered[row + x + _ONE])
                a2 = np.uint8(a2 + filtered[row + x + _TWO])
                out[to + x] = a0
                out[to + x + _ONE] = a1
                out[to + x + _TWO] = a2
        elif filter_type == 0 or filter_type == 2:  # None; Up with nothing above
            for x in range(stride):
                out[to + x] = filtered[row + x]
        elif filter_type == 3:
            for x in range(stride):
                left = np.uint32(out[to + x - _THREE]) if x >= _THREE else np.uint32(0)
                up = np.uint32(out[above + x]) if y > 0 else np.uint32(0)
                out[to + x] = np.uint8(filtered[row + x] + ((left + up) >> np.uint32(1)))
        else:
            return False
        row += stride
        above = to
        to += stride
    return True


@part
def _paeth(a, b, c):
    """Compute PNG's Paeth predictor of left a, above b and above-left c, without a branch.

    The nearest of a, b, c to a + b - c, in that order on ties, is the larger of a and b if
    3c - a - b is at most the smaller, else the smaller if it is at least the larger, else c.
    """
    low = min(a, b)
    high = max(a, b)
    t = 3 * c - a - b
    return high if t <= low else (low if high <= t else c)


@part
def _unfilter_paeth(filtered, row, out, above, to, stride):
    """Undo a Paeth row; three channels at once, since each waits for its previous pixel."""
    a0 = np.int32(0)
    a1 = np.int32(0)
    a2 = np.int32(0)
    c0 = np.int32(0)
    c1 = np.int32(0)
    c2 = np.int32(0)
    for x in range(np.uint64(0), stride, _THREE):
        b0 = np.int32(out[above + x])
        b1 = np.int32(out[above + x + _ONE])
        b2 = np.int32(out[above + x + _TWO])
        a0 = (_paeth(a0, b0, c0) + np.int32(filtered[row + x])) & np.int32(255)
        a1 = (_paeth(a1, b1, c1) + np.int32(filtered[row + x + _ONE])) & np.int32(255)
        a2 = (_paeth(a2, b2, c2) + np.int32(filtered[row + x + _TWO])) & np.int32(255)
        out[to + x] = np.uint8(a0)
        out[to + x + _ONE] = np.uint8(a1)
        out[to + x + _TWO] = np.uint8(a2)
        c0 = b0
        c1 = b1
        c2 = b2


@kernel
def decode_png_batch(inflate, allocate, release, addresses, lengths, out, done):
    """Decode N PNGs.

    Args:
        inflate: address of libdeflate_zlib_decompress.
        allocate: address of libdeflate_alloc_decompressor.
        release: address of libdeflate_free_decompressor.
        addresses: int64 (N,).
        lengths: sizes in bytes, int64 (N,).
        out: uint8 (N, H, W, 3); overwritten.
        done: bool (N,); set to True for decoded files, False for files that Pillow must decode.
    """
    num_images, height, width, _ = out.shape
    filtered = np.empty(height * (1 + 3 * width), np.uint8)
    pixels = out.reshape(-1)
    joined = np.empty(lengths.max() if num_images else 0, np.uint8)
    decompressor = call(allocate)
    for i in range(num_images):
        done[i] = False
        data, data_length = _find_png_data(
            addresses[i], np.int64(lengths[i]), height, width, joined
        )
        if data_length == 0 or decompressor == 0:
            continue
        # Without a pointer for the actual size (0), any size but filtered.size is an error.
        status = call(
            inflate, decompressor, data, data_length, filtered.ctypes.data, filtered.size, 0
        )
        if status & 0xFFFFFFFF == 0:
            done[i] = _unfilter_rgb(filtered, pixels, i * height * width * 3, height, width)
    if decompressor != 0:
        call(release, decompressor)


@kernel
def find_png_data_batch(
    addresses, lengths, height, width, joined, joined_starts, data, data_lengths
):
    """Find the compressed pixels of N PNGs, to be decompressed from Python.

    Args:
        addresses: int64 (N,).
        lengths: sizes in bytes, int64 (N,).
        height: expected height in pixels.
        width: expected width in pixels.
        joined: uint8 buffer for files with several IDAT chunks.
        joined_starts: offset of each file's part of ``joined``, int64 (N,).
        data: address of each file's compressed pixels, int64 (N,); overwritten.
        data_lengths: their sizes in bytes, int64 (N,), 0 for files that Pillow must decode;
            overwritten.
    """
    for i in range(len(addresses)):
        data[i], data_lengths[i] = _find_png_data(
            addresses[i], np.int64(lengths[i]), height, width, joined[joined_starts[i] :]
        )


@kernel
def unfilter_batch(filtered, out, done):
    """Undo the row filters of N images.

    Args:
        filtered: uint8 (N, H (1 + 3 W)).
        out: uint8 (N, H, W, 3); overwritten.
        done: bool (N,); False images are skipped, and set to False if a filter byte is invalid.
    """
    num_images, height, width, _ = out.shape
    pixels = out.reshape(-1)
    for i in range(num_images):
        if done[i]:
            done[i] = _unfilter_rgb(filtered[i], pixels, i * height * width * 3, height, width)
