"""Batch PNG decoding: the same pixels as Pillow for every file, or an error that names the file."""

import io
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cinic_shards.codec import Payloads, checksums, decode_png, png
from cinic_shards.codec.payloads import libdeflate
from cinic_shards.errors import DecodeError
from tests.support.odd_pngs import GREY, RGB, chunk, damaged_pngs, encode_png, odd_pngs

ODD = odd_pngs()
DAMAGED = damaged_pngs()


@pytest.fixture(params=["libdeflate by address", "inflate from Python"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the fused kernel, and as if no library exported libdeflate's functions."""
    if request.param == "inflate from Python":
        monkeypatch.setattr(png, "libdeflate", lambda: None)


def payloads_of(files: list[bytes]) -> Payloads:
    lengths = np.array([len(file) for file in files], np.int64)
    buffer = np.frombuffer(b"".join(files), np.uint8)
    return Payloads.in_buffer(buffer, np.cumsum(lengths) - lengths, lengths)


def decode(files: list[bytes], height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    out = np.full((len(files), height, width, 3), 77, np.uint8)
    if problems := decode_png(payloads_of(files), out):
        raise DecodeError(*next(iter(problems.items())))
    return out


def pillow(data: bytes) -> NDArray[np.uint8]:
    with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
        warnings.filterwarnings("ignore", "Palette images with Transparency")
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", ODD)
def test_every_png_decodes_as_in_pillow(name: str, both_ways: None) -> None:
    np.testing.assert_array_equal(decode([ODD[name]])[0], pillow(ODD[name]))


def test_a_batch_of_different_pngs(both_ways: None) -> None:
    images = decode(list(ODD.values()))
    for image, data in zip(images, ODD.values(), strict=True):
        np.testing.assert_array_equal(image, pillow(data))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 5), (64, 48)])
def test_any_size(size: tuple[int, int], both_ways: None) -> None:
    files = list(odd_pngs(*size).values())
    for image, data in zip(decode(files, *size), files, strict=True):
        np.testing.assert_array_equal(image, pillow(data))


def test_an_empty_batch(both_ways: None) -> None:
    assert decode([]).shape == (0, 32, 32, 3)


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    filters=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    parts=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    values=st.sampled_from([2, 16, 256]),
)
def test_decoding_restores_the_encoded_pixels(
    size: tuple[int, int], filters: list[int], parts: int, seed: int, values: int
) -> None:
    rgb = np.random.default_rng(seed).integers(0, values, (*size, 3))
    np.testing.assert_array_equal(
        decode([encode_png(rgb, RGB, 8, filters=filters, parts=parts)], *size)[0], rgb
    )


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_names_the_image(name: str, both_ways: None) -> None:
    with pytest.raises((OSError, SyntaxError, ValueError)):
        pillow(DAMAGED[name])
    good = ODD["RGB, all filters"]
    with pytest.raises(DecodeError, match="image 2: not a readable PNG: ") as caught:
        decode([good, good, DAMAGED[name], good])
    assert caught.value.position == 2


def test_a_changed_byte_gives_the_same_result_as_pillow(both_ways: None) -> None:
    rng = np.random.default_rng(1)
    good = ODD["RGB, all filters"]
    for position in rng.integers(0, len(good), 300).tolist():
        data = bytearray(good)
        data[position] ^= 1 << int(rng.integers(8))
        try:
            expected = pillow(bytes(data))
        except (OSError, SyntaxError, ValueError):
            expected = None
        if expected is None or expected.shape != (32, 32, 3):
            with pytest.raises(DecodeError):
                decode([bytes(data)])
        else:
            np.testing.assert_array_equal(decode([bytes(data)])[0], expected)


def test_a_wrong_size_is_reported() -> None:
    data = encode_png(np.zeros((5, 7, 1), np.int64), GREY, 8)
    with pytest.raises(DecodeError, match=r"the image is 5x7 \(height x width\), expected 32x32"):
        decode([data])


def test_a_file_that_is_not_a_png() -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (32, 32)).save(jpeg, "JPEG")
    with pytest.raises(DecodeError, match="image 0: not a readable PNG"):
        decode([jpeg.getvalue()])


def test_a_bomb_is_rejected_by_its_header() -> None:
    header = b"\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\0\0\0"
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(DecodeError):
        decode([data])


def test_more_compressed_data_than_pixels_is_left_to_pillow() -> None:
    """A data bomb after a valid header: only the first rows are decoded, as in Pillow."""
    tall = encode_png(np.ones((4000, 32, 3), np.int64), RGB, 8, filters=[0])
    header = encode_png(np.ones((32, 32, 3), np.int64), RGB, 8)[:33]
    data = header + tall[33:]
    np.testing.assert_array_equal(decode([data])[0], pillow(data))


def test_payloads_outside_their_buffer_are_rejected() -> None:
    buffer = np.zeros(100, np.uint8)
    for offset, length in ((90, 11), (-1, 5), (5, -1), (200, 1)):
        with pytest.raises(ValueError, match="outside the buffer of 100 bytes"):
            Payloads.in_buffer(buffer, np.array([offset]), np.array([length]))


def test_payload_copy() -> None:
    assert payloads_of([b"abc", b"de"])[1] == b"de"


@pytest.mark.usefixtures("both_ways")
def test_checksums() -> None:
    files = [b"", b"a", bytes(2**16), *ODD.values()]
    assert checksums(payloads_of(files)).tolist() == [zlib.crc32(file) for file in files]


def test_libdeflate_is_available() -> None:
    """The other tests and the benchmarks must run the fast path."""
    assert libdeflate() is not None
