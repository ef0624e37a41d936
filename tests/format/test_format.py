"""The format's bytes: tar members, index and manifest; round trips and rejected files."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import FormatError
from cinic_shards.format import Index, Manifest, PixelSums, ShardInfo, SplitInfo
from cinic_shards.format.provenance import UNKNOWN, Provenance
from cinic_shards.format.tar import lay_out_members

# Tar

NAMES = {
    "one letter": "a",
    "index": "__index__",
    "CINIC-10": "train/airplane/n02691156_4821.png",
    "not ASCII": "train/Übung/犬_1.png",
    "a space": "train/cat/a b.png",
    "100 bytes": "train/cat/" + "x" * 86 + ".png",
    "101 bytes": "t/" + "x" * 95 + ".png",
    "the longest key": "s" * 47 + "/" + "c" * 47 + "/" + "x" * 95 + ".json",
    "100 bytes behind 155": "p" * 155 + "/" + "x" * 100,
    "100 bytes behind 77 and 77": "p" * 77 + "/" + "q" * 77 + "/" + "x" * 100,
}


def python_member(name: str, content: bytes) -> bytes:
    """The member tarfile writes, with device numbers 0 as in GNU tar; tarfile leaves them empty."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT, "utf-8"))
    header[329:345] = b"0000000\0" * 2
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


def read_tar(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmembers()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513])
def test_a_member_equals_that_of_tarfile(name: str, size: int) -> None:
    content = b"\xa5" * size
    assert fmt.one_member(name, content) == python_member(name, content)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_member_is_an_ordinary_file_without_owner(name: str) -> None:
    (info,) = read_tar(fmt.one_member(name, b"content") + fmt.TAR_END)
    assert (info.name, info.size, info.isreg()) == (name, 7, True)
    assert (info.mode, info.mtime) == (0o644, 0)
    assert (info.uid, info.gid, info.uname, info.gname) == (0, 0, "", "")
    assert info.offset_data == 512 and not info.pax_headers


def test_members_equal_those_of_gnu_tar(tmp_path: Path) -> None:
    version = ["tar", "--version"]
    if not shutil.which("tar") or b"GNU" not in subprocess.check_output(version):
        pytest.skip("NOT RUN: no GNU tar here")
    names = list(NAMES.values())
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    options = "--format=ustar --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=0644".split()
    done = subprocess.run(
        ["tar", "-c", *options, *names], cwd=tmp_path, check=True, capture_output=True
    )
    ours = b"".join(fmt.one_member(name, name.encode()) for name in names) + fmt.TAR_END
    assert done.stdout[: len(ours)] == ours
    assert not done.stdout[len(ours) :].strip(b"\0")  # GNU tar fills a record of 10,240 bytes


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("train/airplane/" + "x" * 88 + ".png", "train/airplane"),
        ("a/b/c/d/" + "x" * 100, "a/b/c/d"),
    ],
)
def test_a_long_name_is_cut_at_its_last_slash(name: str, prefix: str) -> None:
    """Tarfile would cut at an earlier slash; both read the same."""
    member = fmt.one_member(name, b"")
    assert member[345:500].rstrip(b"\0").decode() == prefix
    assert member[:100].rstrip(b"\0").decode() == name.removeprefix(prefix + "/")
    (info,) = read_tar(member + fmt.TAR_END)
    assert info.name == name


@pytest.mark.parametrize(
    "name",
    [
        "x" * 101,
        "a/" + "x" * 101,
        "/" + "x" * 100,
        "p" * 156 + "/x",
        "é" * 51,
    ],
)
def test_names_that_are_too_long(name: str) -> None:
    with pytest.raises(FormatError, match=f"^{name}: the name is too long for a tar member"):
        fmt.one_member(name, b"")


@pytest.mark.parametrize("sizes", [[], [0], [5], [512, 0, 513, 1], [0, 0, 10_000]])
def test_consecutive_members(sizes: list[int]) -> None:
    names = [f"train/cat/{number}.png" for number in range(len(sizes))]
    buffer, starts = lay_out_members([name.encode() for name in names], np.array(sizes, int))
    expected = [fmt.one_member(name, bytes(size)) for name, size in zip(names, sizes, strict=True)]
    assert buffer.tobytes() == b"".join(expected)
    assert starts.tolist() == [
        info.offset_data for info in read_tar(buffer.tobytes() + fmt.TAR_END)
    ]


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        (UNKNOWN, '"origin":"unknown","synset":"","number":-1}'),
        (
            Provenance("cifar10-test", "", 0),
            '"origin":"cifar10-test","synset":"","number":0}',
        ),
        (
            Provenance("imagenet", "n02691156", 10**18 - 1),
            '"origin":"imagenet","synset":"n02691156","number":999999999999999999}',
        ),
    ],
)
def test_json_sidecar(provenance: Provenance, expected: str) -> None:
    start = '{"key":"train/ü \\"x/1","class":"ü \\"x","label":3,'
    found = fmt.sidecar_json('train/ü "x/1', 3, provenance)
    assert found == (start + expected).encode()


@pytest.mark.parametrize(
    ("shard", "name"),
    [
        (("train", 0, 1), "train-00000-of-00001.tar"),
        (("a.b-c", 12, 345), "a.b-c-00012-of-00345.tar"),
        (("t", 99_999, 100_001), "t-99999-of-100001.tar"),
    ],
)
def test_shard_name(shard: tuple[str, int, int], name: str) -> None:
    assert fmt.shard_name(*shard) == name


# Pixels


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (32, 32), (5, 7), (7, 5)])
def test_pixel_hash_matches_its_definition(shape: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *shape, 3), np.uint8)
    head = b"".join(n.to_bytes(4, "little") for n in (*shape, 3))
    expected = [
        hashlib.blake2b(head + image.tobytes(), digest_size=16).digest() for image in images
    ]
    found = fmt.pixel_hashes(images)
    assert (found.dtype, found.shape) == (np.uint8, (3, 16))
    assert [row.tobytes() for row in found] == expected


def test_pixel_hash_depends_on_the_shape() -> None:
    shapes = [(2, 8), (8, 2), (4, 4), (1, 16)]
    hashes = {fmt.pixel_hashes(np.zeros((1, *s, 3), np.uint8)).tobytes() for s in shapes}
    assert len(hashes) == 4


def sums_of(pixels: NDArray[np.uint8]) -> PixelSums:
    wide = pixels.reshape(-1, 3).astype(np.int64)
    r, g, b = wide.sum(axis=0).tolist()
    rr, gg, bb = (wide**2).sum(axis=0).tolist()
    return PixelSums(len(wide), (r, g, b), (rr, gg, bb))


@pytest.mark.parametrize("low, high", [(0, 256), (0, 2), (254, 256), (100, 102)])
@pytest.mark.parametrize("num_pixels", [1, 2, 1000, 100_003])
def test_mean_and_std_are_numpys(low: int, high: int, num_pixels: int) -> None:
    pixels = np.random.default_rng(1).integers(low, high, (num_pixels, 3), np.uint8)
    sums = sums_of(pixels)
    channels = np.ascontiguousarray(pixels.T) / 255  # numpy adds up rows pairwise, columns not
    np.testing.assert_allclose(sums.mean, channels.mean(axis=1), rtol=1e-14)
    np.testing.assert_allclose(sums.std, channels.std(axis=1), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("value", [0, 1, 77, 255])
def test_std_has_no_cancellation(value: int) -> None:
    """A billion equal pixels have a deviation of 0; with a different one it is still exact."""
    count = 10**9
    equal = PixelSums(count, (value * count,) * 3, (value**2 * count,) * 3)
    assert equal.std == (0, 0, 0)
    other = equal + sums_of(np.full((1, 3), 255 - value, np.uint8))
    expected = abs(255 - 2 * value) / 255 * count**0.5 / (count + 1)
    assert other.std == pytest.approx((expected,) * 3, rel=1e-12)


def test_sums_add_up() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (100, 3), np.uint8)
    assert sums_of(pixels[:30]) + sums_of(pixels[30:]) == sums_of(pixels)


# Index

END = 10_000
NUM_CLASSES = 5


def make_index(num_samples: int = 4) -> Index:
    rng = np.random.default_rng(num_samples)
    length = rng.integers(0, 90, num_samples).astype(np.uint64)
    gaps = rng.integers(0, 9, num_samples).astype(np.uint64)
    return Index(
        encoding="png",
        block_size=1024,
        image_shape=None,
        keys=[f"train/ü{number}/{number}" for number in range(num_samples)],
        label=rng.integers(0, NUM_CLASSES, num_samples, np.int32),
        origin=rng.integers(0, 4, num_samples, np.uint8),
        synset=rng.integers(0, 10**8, num_samples, np.uint32),
        number=rng.integers(-1, 2**62, num_samples, np.int64),
        pixel_hash=rng.integers(0, 256, (num_samples, 16), np.uint8),
        offset=np.cumsum(length + gaps) - length,
        length=length,
        crc32=rng.integers(0, 2**32, num_samples, np.uint32),
        first_row=np.arange(num_samples, dtype=np.uint64),
    )


def parse_index(data: bytes, end: int = END) -> Index:
    return Index.from_bytes(
        data, location="x.tar: index", end=end, num_classes=NUM_CLASSES, encodings=ENCODINGS
    )


def assert_same(one: Index, other: Index) -> None:
    for name in ("encoding", "block_size", "image_shape", "keys", "classes"):
        assert getattr(one, name) == getattr(other, name)
    for field in fields(Index)[4:-1]:
        left, right = getattr(one, field.name), getattr(other, field.name)
        assert left.dtype == right.dtype and left.shape == right.shape
        np.testing.assert_array_equal(left, right)


def test_an_index_may_state_the_classes() -> None:
    classes = tuple(f"class {label}" for label in range(NUM_CLASSES))
    index = replace(make_index(40), classes=classes)
    assert_same(index, parse_index(index.to_bytes(), end=100_000))
    for stated in (classes[:2], classes[:1] * NUM_CLASSES, (1,)):
        with pytest.raises(
            FormatError, match=r"x.tar: index: (a label is not below 2|classes are)"
        ):
            parse_index(replace(index, classes=stated).to_bytes(), end=100_000)


@pytest.mark.parametrize("num_samples", [0, 1, 2, 4, 1000])
def test_index_round_trip(num_samples: int) -> None:
    index = make_index(num_samples)
    data = index.to_bytes()
    parsed = parse_index(data, end=100_000)
    assert_same(parsed, index)
    assert parsed.to_bytes() == data
    assert len(parsed) == num_samples


def test_a_payload_of_several_samples() -> None:
    index = replace(
        make_index(4),
        encoding="zstd",
        block_size=3,
        image_shape=(5, 6, 3),
        offset=np.array([0, 100], np.uint64),
        length=np.array([100, 50], np.uint64),
        crc32=np.zeros(2, np.uint32),
        first_row=np.array([0, 3], np.uint64),
    )
    assert_same(parse_index(index.to_bytes()), index)


@pytest.mark.parametrize(
    ("origin", "synset", "number", "expected"),
    [
        (0, 0, -1, UNKNOWN),
        (1, 0, 49_999, Provenance("cifar10-train", "", 49_999)),
        (2, 0, 0, Provenance("cifar10-test", "", 0)),
        (3, 2_691_156, 4821, Provenance("imagenet", "n02691156", 4821)),
    ],
)
def test_index_gives_provenance(
    origin: int, synset: int, number: int, expected: Provenance
) -> None:
    index = replace(
        make_index(1),
        origin=np.array([origin], np.uint8),
        synset=np.array([synset], np.uint32),
        number=np.array([number]),
    )
    assert parse_index(index.to_bytes()).provenance(0) == expected


def test_fingerprint_input_matches_its_definition() -> None:
    index = make_index(3)
    assert index.fingerprint_input() == b"".join(
        key.encode() + b"\0" + int(label).to_bytes(4, "little") + pixel_hash.tobytes()
        for key, label, pixel_hash in zip(index.keys, index.label, index.pixel_hash, strict=True)
    )


def u8(*values: int) -> NDArray[np.uint64]:
    return np.array(values, np.uint64)


INDEX_VALUES: dict[str, tuple[dict[str, NDArray[Any]], str]] = {
    "payload one byte too long": (
        {"offset": u8(0, 10, 20, 30), "length": u8(1, 1, 1, END - 29)},
        "a payload is outside the shard's first 10000 bytes",
    ),
    "payload behind the end": (
        {"offset": u8(0, 10, 20, END + 1), "length": u8(1, 1, 1, 0)},
        "a payload is outside",
    ),
    "payload longer than the shard": (
        {"offset": u8(0, 10, 20, 30), "length": u8(1, 1, 1, 2**64 - 1)},
        "a payload is outside",
    ),
    "offset and length wrap around": (
        {"offset": u8(0, 10, 20, 2**64 - 1), "length": u8(1, 1, 1, 2)},
        "a payload is outside",
    ),
    "payloads overlap by a byte": (
        {"offset": u8(0, 10, 20, 30), "length": u8(1, 11, 1, 1)},
        "payloads overlap",
    ),
    "payloads out of order": (
        {"offset": u8(10, 0, 20, 30), "length": u8(1, 1, 1, 1)},
        "payloads overlap",
    ),
    "label too high": ({"label": np.array([0, 1, 2, NUM_CLASSES])}, "a label is not below 5"),
    "label negative": ({"label": np.array([0, -1, 2, 3])}, "a label is not below 5"),
    "origin": ({"origin": np.array([0, 1, 2, 4])}, "an origin code is unknown"),
    "first row not 0": ({"first_row": u8(1, 2, 3, 4)}, "first rows do not divide the samples"),
    "first rows fall": ({"first_row": u8(0, 2, 1, 3)}, "first rows do not divide"),
    "first rows repeat": ({"first_row": u8(0, 1, 1, 3)}, "first rows do not divide"),
    "first row too high": ({"first_row": u8(0, 1, 2, 4)}, "first rows do not divide"),
    "samples without payloads": (
        {name: u8() for name in ("offset", "length", "crc32", "first_row")},
        "first rows do not divide",
    ),
}


@pytest.mark.parametrize("case", INDEX_VALUES)
def test_invalid_index_values(case: str) -> None:
    values, message = INDEX_VALUES[case]
    data = replace(make_index(), **values).to_bytes()  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=f"^x.tar: index: .*{message}.*; fetch the file again"):
        parse_index(data)


def test_payloads_without_samples() -> None:
    index = replace(make_index(0), offset=u8(0), length=u8(0), crc32=u8(0), first_row=u8(0))
    with pytest.raises(FormatError, match="first rows do not divide"):
        parse_index(index.to_bytes())


def test_a_payload_may_end_where_the_index_begins() -> None:
    index = replace(make_index(2), offset=u8(0, END - 5), length=u8(END - 5, 5))
    assert_same(parse_index(index.to_bytes()), index)


Content = dict[str, Any]


def column(name: str, **values: object) -> Callable[[Content], object]:
    return lambda content: content["columns"][name].update(values)


INDEX_CONTENTS: dict[str, tuple[Callable[[Content], object], str]] = {
    "format": (lambda c: c.update(format="cinic-shards"), "not an index"),
    "no format": (lambda c: c.pop("format"), "not an index"),
    "next major": (lambda c: c.update(version="1.0"), "format version '1.0'; this release reads 0"),
    "no version": (lambda c: c.pop("version"), "format version None"),
    "version no text": (lambda c: c.update(version=0.1), "format version 0.1"),
    "no keys": (lambda c: c.pop("keys"), "keys is None, expected list"),
    "a key too few": (lambda c: c["keys"].pop(), "3 keys for 4 samples"),
    "a key that is bytes": (lambda c: c["keys"].__setitem__(1, b"x"), "keys"),
    "count negative": (lambda c: c.update(num_samples=-4), "num_samples is -4"),
    "count a float": (lambda c: c.update(num_payloads=4.0), "num_payloads is 4.0, expected int"),
    "count a bool": (lambda c: c.update(num_payloads=True), "num_payloads is True, expected int"),
    "samples": (lambda c: c.update(num_samples=5), "4 keys for 5 samples"),
    "payloads": (lambda c: c.update(num_payloads=5), "offset has 32 bytes .* expected 5 values"),
    "count of a bomb": (lambda c: c.update(num_payloads=2**63), "num_payloads is 9223372036854"),
    "no columns": (lambda c: c.pop("columns"), "columns is None, expected dict"),
    "no crc32": (lambda c: c["columns"].pop("crc32"), "crc32 is None, expected dict"),
    "a column no map": (lambda c: c["columns"].update(label=b""), "label is b'', expected dict"),
    "no data": (lambda c: c["columns"]["label"].pop("data"), "column label: data is None"),
    "data a list": (column("label", data=[0, 1, 2, 3]), r"column label: data is \[0, 1, 2, 3\]"),
    "a byte too few": (column("label", data=bytes(15)), "label has 15 bytes of '<i4', expected 4"),
    "a byte too many": (column("pixel_hash", data=bytes(65)), "pixel_hash has 65 bytes"),
    "big-endian": (column("label", dtype=">i4"), "bytes of '>i4', expected 4 values of '<i4'"),
    "an object": (column("synset", dtype="|O"), "bytes of '|O', expected 4 values of '<u4'"),
    "no dtype": (lambda c: c["columns"]["label"].pop("dtype"), "bytes of None"),
}  # fmt: skip


@pytest.mark.parametrize("case", INDEX_CONTENTS)
def test_invalid_index_contents(case: str) -> None:
    change, message = INDEX_CONTENTS[case]
    content = msgpack.unpackb(make_index().to_bytes())
    change(content)
    with pytest.raises(FormatError, match=f"^x.tar: index.*{message}".replace("|", r"\|")):
        parse_index(msgpack.packb(content))


HOSTILE_MSGPACK = {
    "empty": b"",
    "a number": b"\x01",
    "a list": b"\x90",
    "no byte of msgpack": b"\xc1",
    "a map of 4 billion": b"\xdf\xff\xff\xff\xff",
    "a list of 4 billion": b"\xdd\xff\xff\xff\xff",
    "bytes of 4 billion": b"\xc6\xff\xff\xff\xff",
    "nested": b"\x91" * 100_000,
    "a number as a key": b"\x81\x01\x01",
    "a list as a key": b"\x81\x90\x01",
    "text that is no UTF-8": b"\x81\xa1\xff\x01",
    "zeros": bytes(1000),
    "JSON": b'{"format": "cinic-shards-index"}',
}


@pytest.mark.parametrize("data", HOSTILE_MSGPACK.values(), ids=HOSTILE_MSGPACK)
def test_bytes_that_are_not_an_index(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"^x\.tar: index: not .*; fetch the file again"):
        parse_index(data)


def test_truncated_and_longer_indexes_are_rejected() -> None:
    data = make_index().to_bytes()
    for longer_or_cut in (*(data[:stop] for stop in range(len(data))), data + b"\0"):
        with pytest.raises(FormatError):
            parse_index(longer_or_cut)


def test_a_changed_bit_gives_an_index_within_bounds_or_a_format_error() -> None:
    """Most changes can only be found by the index's SHA-256 in the manifest; all stay in bounds."""
    data = make_index().to_bytes()
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            try:
                index = parse_index(bytes(damaged))
            except FormatError:
                continue
            ends = [int(o) + int(n) for o, n in zip(index.offset, index.length, strict=True)]
            assert max(ends) <= END
            assert index.label.min() >= 0 and index.label.max() < NUM_CLASSES


def test_unknown_fields_and_columns_are_ignored() -> None:
    index = make_index()
    content = msgpack.unpackb(index.to_bytes())
    content["later"] = {"any": [1, None, 2.5]}
    content["columns"]["blur"] = {"dtype": "<f4", "data": bytes(16)}
    content["columns"]["label"]["unit"] = "class"
    content["version"] = "0.99"
    assert_same(parse_index(msgpack.packb(content)), index)


def test_order_and_width_of_msgpack_do_not_matter() -> None:
    index = make_index()
    content = msgpack.unpackb(index.to_bytes())
    content["columns"] = dict(reversed(content["columns"].items()))
    data = msgpack.packb(dict(reversed(content.items())))
    wide = data.replace(b"num_samples\x04", b"num_samples\xcf" + (4).to_bytes(8, "big"))
    assert len(wide) == len(data) + 8
    assert_same(parse_index(wide), index)


# Manifest


def make_shard(name: str, num_samples: int) -> ShardInfo:
    return ShardInfo(
        name=name,
        size=4096,
        sha256="0123456789abcdef" * 4,
        index_offset=2048,
        index_length=300,
        index_sha256="fedcba9876543210" * 4,
        num_samples=num_samples,
        classes={"ü": num_samples - 1, "cat": 1},
        origins={"imagenet": num_samples},
    )


def make_manifest() -> Manifest:
    shards = [make_shard(f"test-0000{i}-of-00002.tar", 2 + i) for i in range(2)]
    pixels = PixelSums(10, (1, 2, 3), (4, 5, 6))
    return Manifest(
        encoding="png",
        block_size=1024,
        classes=("cat", "ü"),
        splits=(
            SplitInfo("test", 0, 5, {(1, 2): 4, (3, 4): 1}, pixels, tuple(shards)),
            SplitInfo(
                "train", 5, 2, {(1, 2): 2}, pixels, (make_shard("train-00000-of-00001.tar", 2),)
            ),
        ),
        fingerprint="blake2b:" + "77" * 32,
        options={"seed": 2**53 - 1, "shard_size": 3, "sidecars": ["cls"]},
        libraries={"numpy": "2.4"},
        licence="CC-BY-4.0",
        citation="A. “B” (2018)",
    )


LOCATION = r"^shards/manifest\.json: "


def parse_manifest(data: bytes) -> Manifest:
    return Manifest.from_bytes(data, location="shards/manifest.json", encodings=ENCODINGS)


def seal(content: Content) -> bytes:
    """A manifest with this content and its correct digest."""
    content = {**content, "digest": "sha256:" + "0" * 64}
    data = json.dumps(content).encode()
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)


def content_of(manifest: Manifest) -> Any:
    return json.loads(manifest.to_bytes())


def test_manifest_round_trip() -> None:
    manifest = make_manifest()
    data = manifest.to_bytes()
    parsed = parse_manifest(data)
    assert parsed == manifest
    assert parsed.to_bytes() == data
    assert parsed.num_samples == 7
    assert parsed.split("train") == manifest.splits[1] and parsed.split("valid") is None


def test_derived_fields_of_a_manifest() -> None:
    manifest = make_manifest()
    content = content_of(manifest)
    assert list(content)[:3] == ["format", "version", "digest"]
    assert content["required_features"] == []
    assert content["num_samples"] == 7
    assert content["image_shape"] is None  # the images have several sizes
    test = content["splits"][0]
    assert test["image_sizes"] == [[1, 2, 4], [3, 4, 1]]
    assert test["mean"] == list(manifest.splits[0].pixels.mean)
    assert test["std"] == list(manifest.splits[0].pixels.std)
    alone = replace(manifest, splits=(replace(manifest.splits[1], first_id=0),))
    assert content_of(alone)["image_shape"] == [1, 2, 3]


def test_the_digest_is_over_the_files_own_bytes() -> None:
    data = make_manifest().to_bytes()
    digest = json.loads(data)["digest"].removeprefix("sha256:")
    blank = data.replace(digest.encode(), b"0" * 64)
    assert hashlib.sha256(blank).hexdigest() == digest


@pytest.mark.parametrize("num_bits", [1, pytest.param(8, marks=pytest.mark.real)])
def test_any_changed_bit_is_rejected(num_bits: int) -> None:
    data = make_manifest().to_bytes()
    for position in range(len(data)):
        for bit in (np.arange(num_bits) + position) % 8:
            damaged = bytearray(data)
            damaged[position] ^= 1 << int(bit)
            with pytest.raises(FormatError, match=LOCATION):
                parse_manifest(bytes(damaged))


def test_any_added_or_missing_byte_is_rejected() -> None:
    data = make_manifest().to_bytes()
    for position in range(len(data)):
        for damaged in (
            data[:position] + data[position + 1 :],
            data[:position] + b" " + data[position:],
            data[:position],
        ):
            with pytest.raises(FormatError, match=LOCATION):
                parse_manifest(damaged)


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data + b"\n",
        lambda data: data.rstrip(),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: json.dumps(json.loads(data)).encode(),
        lambda data: data.replace("ü".encode(), b"\\u00fc"),
        lambda data: data.decode().encode("utf-16"),
    ],
    ids=["line end", "no line end", "BOM", "CR LF", "one line", "escapes", "UTF-16"],
)
def test_the_same_content_in_different_bytes_is_rejected(edit: Callable[[bytes], bytes]) -> None:
    """The digest is over the bytes, so that no canonical JSON is needed."""
    with pytest.raises(FormatError, match="the file is damaged or was edited"):
        parse_manifest(edit(make_manifest().to_bytes()))


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:0", "sha256:" + "0" * 64, "md5:" + "0"])
def test_an_invalid_digest(digest: str) -> None:
    with pytest.raises(FormatError, match="digest"):
        parse_manifest(json.dumps({**content_of(make_manifest()), "digest": digest}).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"1", b"null", b"{}", b'{"format": "x"}', b"[" * 100_000, b"\xff", b"9" * 9999],
    ids=lambda data: repr(data[:20]),
)
def test_bytes_that_are_not_a_manifest(data: bytes) -> None:
    with pytest.raises(FormatError, match=LOCATION + "not "):
        parse_manifest(data)


def test_unknown_fields_are_ignored() -> None:
    manifest = make_manifest()
    content = content_of(manifest)
    content["later"] = [1, {"any": 2.5}]
    content["splits"][0]["later"] = None
    content["splits"][0]["shards"][0]["later"] = "text"
    content["version"] = "0.99"
    assert parse_manifest(seal(content)) == manifest


def test_a_required_feature_is_named() -> None:
    """Features are checked before the digest: a later version may define it differently."""
    content = {**content_of(make_manifest()), "required_features": ["sparse", "x"]}
    content["version"] = "0.7"
    for data in (seal(content), json.dumps(content).encode()):
        with pytest.raises(
            FormatError, match=r"needs sparse, x, which this release cannot read; .* format 0\.7$"
        ):
            parse_manifest(data)


@pytest.mark.parametrize("version", ["1.0", "1", "10.1", "", "00.1", None, 0, 0.1])
def test_a_different_major_version_is_rejected(version: object) -> None:
    with pytest.raises(FormatError, match=r"format version .*; this release reads 0\.x, upgrade"):
        parse_manifest(seal({**content_of(make_manifest()), "version": version}))


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(FormatError, match="encoding 'jxl' is unknown; upgrade cinic-shards"):
        parse_manifest(seal({**content_of(make_manifest()), "encoding": "jxl"}))


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".tar",
        "..tar",
        "../train.tar",
        "a/train.tar",
        "/train.tar",
        "a\\train.tar",
        "C:train.tar",
        "-train.tar",
        "train.tar\n",
        "train\0.tar",
        "train.tar.gz",
        "manifest.json",
        "s3://b/train.tar",
        "träin.tar",
        "train tar.tar",
    ],
)
def test_a_shards_name_cannot_leave_the_folder(name: str) -> None:
    content = content_of(make_manifest())
    content["splits"][0]["shards"][1]["name"] = name
    with pytest.raises(FormatError, match=LOCATION + "split test: .* is not a valid shard name"):
        parse_manifest(seal(content))


TOP: tuple[str | int, ...] = ()
SPLIT: tuple[str | int, ...] = ("splits", 1)
SHARD: tuple[str | int, ...] = (*SPLIT, "shards", 0)
MISSING = object()


def part_of(content: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        content = content[step]
    return content


@pytest.mark.parametrize(
    ("path", "field", "values"),
    [
        (TOP, "required_features", (MISSING, None, "", {})),
        (TOP, "digest", (MISSING,)),
        (TOP, "encoding", (MISSING, None, 1, ["png"])),
        (TOP, "block_size", (MISSING, None, "1024", 1024.0, True, -1)),
        (TOP, "classes", (MISSING, None, "cat", {})),
        (TOP, "splits", (MISSING, None, {}, [1], [None], [[]])),
        (TOP, "fingerprint", (MISSING, None, 1)),
        (TOP, "options", (MISSING, None, [])),
        (TOP, "libraries", (MISSING, None, [])),
        (TOP, "licence", (MISSING, None, 1)),
        (TOP, "citation", (MISSING, None, [])),
        (SPLIT, "name", (MISSING, None, 1)),
        (SPLIT, "first_id", (MISSING, None, 4, 6, -5, 5.0, "5")),
        (SPLIT, "num_samples", (MISSING, None, 1, 3, -2, 2.0, True)),
        (SPLIT, "num_pixels", (MISSING, None, -1, 10.0)),
        (SPLIT, "pixel_sums", (MISSING, None, [1, 2], [1, 2, -3], [1, 2, 3.0], [1, 2, True], {})),
        (SPLIT, "pixel_square_sums", (MISSING, [1, 2, 3, 4], ["1", 2, 3], 7)),
        (SPLIT, "image_sizes", (MISSING, None, [1], [[1, 2]], [[1, 2, "3"]], [[1, 2, -1]], {})),
        (SPLIT, "shards", (MISSING, None, {}, [1], [[]], [])),
        (SHARD, "name", (MISSING, None, 1)),
        (SHARD, "size", (MISSING, None, "4096", 4096.0, -1, 2347)),
        (SHARD, "sha256", (MISSING, None, "", "0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n")),
        (SHARD, "index_offset", (MISSING, None, -1, 3797, 2**70)),
        (SHARD, "index_length", (MISSING, None, -1, 2049, 2**70)),
        (SHARD, "index_sha256", (MISSING, None, "x" * 64)),
        (SHARD, "num_samples", (MISSING, None, 1, 3, 2.0)),
        (SHARD, "classes", (MISSING, None, [])),
        (SHARD, "origins", (MISSING, None, [])),
    ],
)
def test_fields_that_are_missing_or_wrong(
    path: tuple[str | int, ...], field: str, values: tuple[object, ...]
) -> None:
    for value in values:
        content = content_of(make_manifest())
        part = part_of(content, path)
        if value is MISSING:
            del part[field]
        else:
            part[field] = value
        data = json.dumps(content).encode() if field == "digest" else seal(content)
        with pytest.raises(FormatError, match=LOCATION):
            parse_manifest(data)


@pytest.mark.parametrize("field", ["num_samples", "image_shape"])
def test_fields_for_other_readers_are_not_needed(field: str) -> None:
    manifest = make_manifest()
    content = content_of(manifest)
    del content[field], content["splits"][0]["mean"], content["splits"][0]["std"]
    assert parse_manifest(seal(content)) == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["splits"].reverse(), "split train starts at id 5, expected 0"),
        (lambda c: c["splits"][0].update(num_samples=6), "shards do not add up to 6 samples"),
        (lambda c: c["splits"][0]["shards"].pop(), "shards do not add up to 5 samples"),
        (
            lambda c: c["splits"][0]["shards"][0].update(index_length=2049),
            "test-00000-of-00002.tar: its index is outside the file",
        ),
    ],
)
def test_inconsistent_counts_and_offsets(change: Callable[[Any], object], message: str) -> None:
    content = content_of(make_manifest())
    change(content)
    with pytest.raises(FormatError, match=message):
        parse_manifest(seal(content))


def resealed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A manifest that was changed and has a correct digest again."""
    content = content_of(make_manifest())
    change(content)
    content["digest"] = "sha256:" + "0" * 64
    data = json.dumps(content).encode()
    digest = hashlib.sha256(data).hexdigest().encode()
    return data.replace(b"sha256:" + b"0" * 64, b"sha256:" + digest, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(required_features=[[]]), "needs \\[\\], which this release"),
        (lambda c: c.update(classes=["cat", None]), "expected distinct names"),
        (lambda c: c.update(classes=["cat", "cat"]), "expected distinct names"),
        (lambda c: c.update(block_size=2**53), "block_size is 9007199254740992"),
        (lambda c: c["splits"][0].update(name="../x"), "'../x' is not a valid split name"),
        (lambda c: c["splits"][0].update(shards=[], num_samples=0), "do not add up to 0 samples"),
        (lambda c: c["splits"][0].update(num_pixels=0), "impossible for 0 pixels"),
        (lambda c: c["splits"][0].update(pixel_square_sums=[0, 0, 0]), "pixel sums are impossible"),
        (lambda c: c["splits"][0].update(image_sizes=[[2**31, 2**31, 1]]), "2147483648x2147483648"),
        (lambda c: c["splits"][0].update(image_sizes=[[2**70, 1, 1]]), "expected 3 integers"),
        (lambda c: c["splits"][0].update(image_sizes=[[0, 0, 1]]), "images of 0x0 pixels"),
    ],
)
def test_invalid_manifests_with_a_correct_digest(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        parse_manifest(resealed(change))


def test_a_digest_that_is_not_valid_unicode() -> None:
    content = {**content_of(make_manifest()), "digest": "\ud800"}
    with pytest.raises(FormatError, match="digest is"):
        parse_manifest(json.dumps(content).encode())


def test_a_member_too_large_for_ustar() -> None:
    with pytest.raises(FormatError, match="at most 8,589,934,591 bytes"):
        lay_out_headers_of(8 * 2**30)


def lay_out_headers_of(size: int) -> None:
    from cinic_shards.format import tar

    tar._headers([b"x"], np.array([size]))
