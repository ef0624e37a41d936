"""Synset tars and their photos: which members are used, and why the others are not."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_demo_sources import encode, write_tar
from PIL import Image

from cinic_shards.cinic.photos import list_photos, read_photos, shrink_photo
from cinic_shards.errors import StoreError


def photo(width: int = 40, height: int = 50, mode: str = "RGB", seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def boxed(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(500, 375), (33, 64), (20, 10), (1, 1)])
def test_a_photo_is_shrunk_without_cropping(mode: str, size: tuple[int, int]) -> None:
    data = encode(photo(*size, mode=mode))
    pixels, note = shrink_photo(data)
    assert note == ""
    assert np.array_equal(pixels, boxed(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("GIF", "P"), ("BMP", "RGB")]
)
def test_other_formats_named_jpeg(kind: str, mode: str) -> None:
    image = photo(mode=mode)
    pixels, note = shrink_photo(encode(image, kind))
    assert note == f"a {kind}, not a JPEG; decoded as {kind}"
    assert np.array_equal(pixels, boxed(image))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cannot identify image file"),
        (b"<html>404 Not Found</html>", "cannot identify image file"),
        (encode(photo(mode="L"), "PPM"), "cannot identify image file"),
        (encode(photo())[:-400], "image file is truncated"),
        (encode(photo())[:20], "cannot identify image file"),
        (encode(photo(), "PNG")[:-400], "truncated"),
    ],
)  # fmt: skip
def test_photos_that_cannot_be_decoded(data: bytes, why: str) -> None:
    pixels, found = shrink_photo(data)
    assert pixels is None
    assert found.startswith("cannot be decoded: ") and why in found
    assert "0x" not in found  # no address: the message is the same in every run


def test_a_decompression_bomb() -> None:
    bomb = encode(Image.new("1", (10_000, 9_000)), "PNG")
    pixels, why = shrink_photo(bomb)
    assert pixels is None
    assert "90000000 pixels" in why


def test_photos_are_listed_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    data = [encode(photo(seed=seed)) for seed in range(3)]
    path = tmp_path / "n02691156.tar"
    names = ["n02691156_10.JPEG", "./n02691156_9.JPEG", "n02691156/n02691156_100.jpg"]
    write_tar(path, zip(names, data, strict=True))
    tar = list_photos(str(path))
    assert (tar.problem, tar.left_out, tar.numbers.tolist()) == ("", (), [9, 10, 100])
    assert list(read_photos(tar.path, tar.offsets, tar.sizes)) == [data[1], data[0], data[2]]
    assert [tar.row_of(number) for number in (9, 10, 11, 100, 101)] == [0, 1, None, 2, None]


def test_members_that_are_not_photos_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "n02691156.tar"
    data = encode(photo())
    link = tarfile.TarInfo("n02691156_5.JPEG")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    folder = tarfile.TarInfo("photos")
    folder.type = tarfile.DIRTYPE
    with tarfile.open(path, "w") as archive:
        for name in (
            "n02691156_1.JPEG", "a/n02691156_1.JPEG", "n02691156_007.JPEG", "n02690373_2.JPEG",
            "readme.txt", "n02691156_3.png", "n02691156_-3.JPEG",
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        archive.addfile(tarfile.TarInfo("n02691156_4.JPEG"))
        archive.addfile(link)
        archive.addfile(folder)
    tar = list_photos(str(path))
    assert tar.numbers.tolist() == [1]
    other = "not named n02691156_<number>.JPEG"
    assert tar.left_out == (
        "a/n02691156_1.JPEG: a duplicate of its number",
        *(f"{name}: {other}" for name in (
            "n02691156_007.JPEG", "n02690373_2.JPEG", "readme.txt", "n02691156_3.png",
            "n02691156_-3.JPEG",
        )),
        "n02691156_4.JPEG: an empty file",
        "n02691156_5.JPEG: not an ordinary file",
    )  # fmt: skip


def test_a_tar_of_0_bytes(tmp_path: Path) -> None:
    path = tmp_path / "n02691156.tar"
    path.touch()
    tar = list_photos(str(path))
    assert (len(tar), tar.is_empty, tar.problem) == (0, True, "")


def test_tars_that_cannot_be_used(tmp_path: Path) -> None:
    good = tmp_path / "n02691156.tar"
    data = encode(photo())
    write_tar(good, [(f"n02691156_{number}.JPEG", data) for number in range(3)])
    content = good.read_bytes()
    second = 512 + -(-len(data) // 512) * 512
    broken = bytearray(content)
    broken[second : second + 512] = b"\xff" * 512

    def problem(data: bytes) -> str:
        good.write_bytes(data)
        tar = list_photos(str(good))
        assert len(tar) == 0 and not tar.is_empty
        return tar.problem

    assert problem(content[:second]).startswith(f"damaged or truncated at byte {second:,} of")
    assert problem(content[: second + 100]).startswith(f"damaged or truncated at byte {second:,}")
    assert problem(bytes(broken)).startswith(f"damaged or truncated at byte {second:,} of")
    assert problem(content[: second + 600]).startswith("not a complete tar file (unexpected end")
    assert problem(content[:300]).startswith("not a complete tar file")
    assert problem(b"not a tar" * 100).startswith("not a complete tar file")
    assert problem(b"\0" * 10240) == "holds no photo, expected n02691156_<number>.JPEG"
    write_tar(good, [("n02084071_1.JPEG", data)])
    assert problem(good.read_bytes()) == (
        "holds no photo, expected n02691156_<number>.JPEG; it holds n02084071_1.JPEG: not named "
        "n02691156_<number>.JPEG"
    )
    good.unlink()
    assert list_photos(str(good)).problem == "cannot be read: No such file or directory"
    os.mkfifo(good)
    assert list_photos(str(good)).problem == "not an ordinary file"


def test_every_truncation_of_a_tar_is_found(tmp_path: Path) -> None:
    path = tmp_path / "n02691156.tar"
    write_tar(path, [(f"n02691156_{number}.JPEG", encode(photo(9, 9))) for number in range(3)])
    content = path.read_bytes()
    num_photos = len(list_photos(str(path)))
    end = max(position for position, byte in enumerate(content) if byte)
    for size in range(1, len(content), 97):
        path.write_bytes(content[:size])
        tar = list_photos(str(path))
        assert (tar.problem != "") == (size < end // 512 * 512 + 1024), size
        assert len(tar) == (0 if tar.problem else num_photos)


def test_a_tar_that_changes_after_it_was_listed(tmp_path: Path) -> None:
    path = tmp_path / "n02691156.tar"
    write_tar(path, [("n02691156_1.JPEG", encode(photo()))])
    tar = list_photos(str(path))
    path.write_bytes(b"short")
    with pytest.raises(StoreError, match=r"n02691156\.tar: has changed since it was listed"):
        list(read_photos(tar.path, tar.offsets, tar.sizes))
