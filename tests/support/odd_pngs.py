"""PNG files of every type: those that the fast decoder must read, and those that it leaves alone.

``odd_pngs()`` returns valid files by name, ``damaged_pngs()`` invalid ones. Unlike Pillow, the
encoder here can write any bit depth, row filter, interlacing and chunk.
"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
SIGNATURE = b"\x89PNG\r\n\x1a\n"

# First row, first column, row step and column step of Adam7's passes.
_ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a PNG chunk with its length and CRC."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def encode_png(
    samples: NDArray[np.int64],
    colour: int,
    depth: int,
    *,
    interlace: bool = False,
    filters: Sequence[int] = (0, 1, 2, 3, 4),
    before: Sequence[bytes] = (),
    after: Sequence[bytes] = (),
    parts: int = 1,
) -> bytes:
    """Encode a PNG.

    Args:
        samples: shape (H, W, channels), values below 2**depth.
        colour: the colour type.
        depth: bits a sample.
        interlace: use Adam7.
        filters: row filters, used in turn.
        before: chunks before the pixels.
        after: chunks after the pixels.
        parts: number of IDAT chunks.
    """
    height, width, channels = samples.shape
    if channels != _CHANNELS[colour]:
        raise ValueError(f"colour type {colour} has {_CHANNELS[colour]} channels, not {channels}")
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlace))
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    data = b"".join(
        _filter_rows(samples[y0::dy, x0::dx], depth, filters) for y0, x0, dy, dx in passes
    )
    compressed = zlib.compress(data)
    step = -(-len(compressed) // parts)
    idats = [
        chunk(b"IDAT", compressed[start : start + step])
        for start in range(0, len(compressed), step)
    ]
    return b"".join(
        [SIGNATURE, chunk(b"IHDR", header), *before, *idats, *after, chunk(b"IEND", b"")]
    )


def _filter_rows(samples: NDArray[np.int64], depth: int, filters: Sequence[int]) -> bytes:
    height, width, channels = samples.shape
    if not height or not width:
        return b""
    flat = samples.reshape(height, -1)
    if depth == 16:
        rows = np.stack([flat >> 8, flat & 255], axis=2).reshape(height, -1)
    elif depth == 8:
        rows = flat
    else:
        bits = (flat[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    rows = rows.astype(np.int64)
    distance = max(1, channels * depth // 8)
    above = np.zeros_like(rows[0])
    out = []
    for y, row in enumerate(rows):
        filter_type = filters[y % len(filters)]
        left = np.concatenate([np.zeros(distance, np.int64), row[:-distance]])[: len(row)]
        corner = np.concatenate([np.zeros(distance, np.int64), above[:-distance]])[: len(row)]
        estimate = left + above - corner
        distances = np.abs(np.stack([estimate - left, estimate - above, estimate - corner]))
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
        predicted = [0 * row, left, above, (left + above) // 2, paeth][filter_type]
        out.append(bytes([filter_type]) + ((row - predicted) & 255).astype(np.uint8).tobytes())
        above = row
    return b"".join(out)


def odd_pngs(height: int = 32, width: int = 32, seed: int = 0) -> dict[str, bytes]:
    """Return valid PNG files of one size, by name."""
    rng = np.random.default_rng(seed)

    def noise(channels: int, depth: int) -> NDArray[np.int64]:
        return rng.integers(0, 2**depth, (height, width, channels))

    palette = chunk(b"PLTE", rng.integers(0, 256, 3 * 256, dtype=np.uint8).tobytes())
    rgb = noise(3, 8)
    files = {
        "RGB, all filters": encode_png(rgb, RGB, 8),
        "RGB, several IDAT chunks": encode_png(rgb, RGB, 8, parts=7),
        "RGB, one IDAT chunk a byte": encode_png(rgb // 64, RGB, 8, parts=10**9),
        "RGB, interlaced": encode_png(rgb, RGB, 8, interlace=True),
        "RGB, transparent colour": encode_png(
            rgb, RGB, 8, before=[chunk(b"tRNS", b"\0\1\0\2\0\3")]
        ),
        "RGB, suggested palette": encode_png(rgb, RGB, 8, before=[palette]),
        "RGB, gAMA": encode_png(rgb, RGB, 8, before=[chunk(b"gAMA", struct.pack(">I", 45455))]),
        "RGB, gAMA cHRM sRGB pHYs bKGD tIME sBIT": encode_png(
            rgb,
            RGB,
            8,
            before=[
                chunk(b"gAMA", struct.pack(">I", 45455)),
                chunk(b"cHRM", struct.pack(">8I", *range(8))),
                chunk(b"sRGB", b"\0"),
                chunk(b"pHYs", struct.pack(">IIB", 3, 2, 0)),
                chunk(b"bKGD", bytes(6)),
                chunk(b"tIME", bytes(7)),
                chunk(b"sBIT", b"\5\6\5"),
            ],
        ),
        "RGB, ICC profile": encode_png(
            rgb, RGB, 8, before=[chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"profile" * 20))]
        ),
        "RGB, text before and after": encode_png(
            rgb,
            RGB,
            8,
            before=[
                chunk(b"tEXt", b"Comment\0before"),
                chunk(b"zTXt", b"k\0\0" + zlib.compress(b"z")),
            ],
            after=[chunk(b"tEXt", b"date:create\0today"), chunk(b"tIME", bytes(7))],
        ),
        "RGB, text that names itself interlace": encode_png(
            rgb, RGB, 8, before=[chunk(b"tEXt", b"interlace\0")]
        ),
        "RGB, private chunk": encode_png(rgb, RGB, 8, before=[chunk(b"prVt", b"x")]),
        "RGB, IDAT with a wrong CRC": _break_idat_crc(encode_png(rgb, RGB, 8)),
        "RGB, no IEND": encode_png(rgb, RGB, 8)[:-12],
        "RGB, bytes after IEND": encode_png(rgb, RGB, 8) + b"more",
        "RGB, a complete stream of one row less": _without_last_row(rgb),
        "RGB, a complete stream of one row more": _with_height(
            encode_png(np.concatenate([rgb, rgb[:1]]), RGB, 8), height
        ),
        "RGB 16 bit": encode_png(noise(3, 16), RGB, 16),
        "RGB 16 bit, interlaced": encode_png(noise(3, 16), RGB, 16, interlace=True),
        "RGBA": encode_png(noise(4, 8), RGBA, 8),
        "RGBA 16 bit": encode_png(noise(4, 16), RGBA, 16),
        "RGBA, interlaced": encode_png(noise(4, 8), RGBA, 8, interlace=True),
        "grey and alpha": encode_png(noise(2, 8), GREY_ALPHA, 8),
        "grey and alpha 16 bit": encode_png(noise(2, 16), GREY_ALPHA, 16),
    }
    for number, name in enumerate(("None", "Sub", "Up", "Average", "Paeth")):
        files[f"RGB, only filter {name}"] = encode_png(rgb, RGB, 8, filters=[number])
    for depth in (1, 2, 4, 8, 16):
        grey = noise(1, depth)
        files[f"grey {depth} bit"] = encode_png(grey, GREY, depth)
        files[f"grey {depth} bit, interlaced"] = encode_png(grey, GREY, depth, interlace=True)
        files[f"grey {depth} bit, transparent"] = encode_png(
            grey, GREY, depth, before=[chunk(b"tRNS", b"\0\1")]
        )
        if depth <= 8:
            files[f"palette {depth} bit"] = encode_png(grey, PALETTE, depth, before=[palette])
            files[f"palette {depth} bit, transparent"] = encode_png(
                grey, PALETTE, depth, before=[palette, chunk(b"tRNS", bytes(range(2**depth)))]
            )
    return files


def damaged_pngs(height: int = 32, width: int = 32, seed: int = 0) -> dict[str, bytes]:
    """Return files that begin like a PNG of this size but are damaged, by name."""
    rng = np.random.default_rng(seed)
    good = encode_png(rng.integers(0, 256, (height, width, 3)), RGB, 8)
    at = good.index(b"IDAT") + 4
    stop = len(good) - 16
    damaged = {f"cut after {size} bytes": good[:size] for size in (33, 41, 60, at + 100, stop - 9)}
    for name, position in (("header", 20), ("first data byte", at), ("middle", (at + stop) // 2)):
        damaged[f"changed byte in {name}"] = _with_byte(good, position, good[position] ^ 0x15)
    body = zlib.decompress(good[at:stop])
    head, end = good[: at - 8], chunk(b"IEND", b"")
    damaged["filter byte 7"] = head + chunk(b"IDAT", zlib.compress(b"\7" + body[1:])) + end
    damaged["no IDAT"] = head + end
    return damaged


def _with_height(data: bytes, height: int) -> bytes:
    """Return the same file with a different height in its header."""
    width, rest = data[16:20], data[24:29]
    header = chunk(b"IHDR", width + struct.pack(">I", height) + rest)
    return SIGNATURE + header + data[8 + len(header) :]


def _without_last_row(rgb: NDArray[np.int64]) -> bytes:
    """Drop the last row, unless it is the only one: Pillow fills it with zeros, without error."""
    height = len(rgb)
    if height == 1:
        return encode_png(rgb, RGB, 8)
    return _with_height(encode_png(rgb[:-1], RGB, 8), height)


def _with_byte(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


def _break_idat_crc(data: bytes) -> bytes:
    """Break the CRC of IDAT: Pillow ignores it, because the data has an Adler-32."""
    return _with_byte(data, len(data) - 13, data[len(data) - 13] ^ 1)
