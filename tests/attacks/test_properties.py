"""The parsers on any bytes: they raise only the package's exceptions, or return valid results.

Hypothesis changes valid files, because random bytes are rejected at once. Each test takes a second
or two and tries the same inputs every time; with ``CINIC_PROPERTY_SECONDS=600``, each tries new
inputs for ten minutes.
"""

import hashlib
import io
import json
import os
import re
import tarfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgpack
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import cinic_shards.format as fmt
from cinic_shards import codec
from cinic_shards.check.shard import CheckJob, check_shard
from cinic_shards.codec import ENCODINGS, Payloads, decode_png
from cinic_shards.errors import DecodeError, FormatError
from cinic_shards.format import Index, Manifest, ShardInfo
from cinic_shards.read.webdataset import decode
from cinic_shards.store import LocalStore
from tests.attacks.attacks import SHARD, change
from tests.support.odd_pngs import SIGNATURE, chunk, damaged_pngs, odd_pngs

SECONDS = float(os.environ.get("CINIC_PROPERTY_SECONDS", "0"))

# Pillow warns about some files; only its exceptions matter here.
pytestmark = pytest.mark.filterwarnings("ignore")

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[T]], T]


def explore(holds: Callable[[Any], None], inputs: st.SearchStrategy[Any], examples: int) -> None:
    """Try a property on a third of ``examples`` inputs; on all, and repeatedly, for ``SECONDS``."""
    end = time.monotonic() + SECONDS
    once = settings(
        max_examples=examples if SECONDS else examples // 3,
        deadline=None,
        database=None,
        derandomize=not SECONDS,
        suppress_health_check=list(HealthCheck),
    )(given(inputs)(lambda one: holds(one)))
    once()
    while time.monotonic() < end:
        once()


# --- Inputs -----------------------------------------------------------------------------------

NUMBERS = [0, 1, 2, 255, 512, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63, 2**64 - 1]


@st.composite
def changed_bytes(draw: Draw[Any], originals: list[bytes]) -> bytes:
    """A valid file with one to four changes, or any bytes."""
    if draw(st.integers(0, 19)) == 0:
        return bytes(draw(st.binary(max_size=2000)))
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([1, 4, 8, 100, 512]))
        kind = draw(st.sampled_from("bit number bytes insert cut repeat splice".split()))
        if kind == "bit" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            size = draw(st.sampled_from([1, 4, 8]))
            number = draw(st.sampled_from(NUMBERS)) % 256**size
            data[at : at + size] = number.to_bytes(size, draw(st.sampled_from(["big", "little"])))
        elif kind == "bytes":
            new = draw(st.binary(min_size=1, max_size=8))
            data[at : at + len(new)] = new
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=20))
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        elif kind == "splice":
            other = draw(st.sampled_from(originals))
            start = draw(st.integers(0, len(other)))
            data[at : at + length] = other[start : start + length]
    return bytes(data)


def values(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Strategy for all values of JSON and msgpack."""
    leaves |= st.none() | st.booleans() | st.floats() | st.text(max_size=20)
    leaves |= st.sampled_from(NUMBERS) | st.integers(-(2**63), 2**64 - 1)
    leaves |= st.sampled_from(["../x", "train", "9.0", "a" * 300])
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=6,
    )


@st.composite
def changed_content(draw: Draw[Any], encoded: str, leaves: st.SearchStrategy[Any]) -> Any:
    """The content of a JSON text, with one to three parts changed."""
    content = json.loads(encoded)
    for _ in range(draw(st.integers(1, 3))):
        part, steps = content, draw(st.integers(1, 6))
        while steps and isinstance(part, (dict, list)) and part:
            names = sorted(part) if isinstance(part, dict) else range(len(part))
            name = draw(st.sampled_from(names))
            steps -= 1
            inner = part[name]
            if steps and isinstance(inner, (dict, list)) and inner:
                part = inner
                continue
            kind = draw(st.sampled_from(["replace", "delete", "add"]))
            if kind == "replace":
                part[name] = draw(values(leaves))
            elif kind == "delete":
                del part[name]
            elif isinstance(part, list):
                part.append(draw(values(leaves) | st.just(inner)))
            else:
                part[draw(st.text(max_size=5))] = draw(values(leaves))
            break
    return content


class Good:
    """A valid dataset to change."""

    def __init__(self, folder: Path, encoding: str) -> None:
        change(encoding=encoding).write(folder / "dataset")
        self.root = folder / "dataset"
        self.shard = (self.root / SHARD).read_bytes()
        self.manifest = (self.root / fmt.MANIFEST_NAME).read_bytes()
        self.info = (
            Manifest.from_bytes(self.manifest, location="", encodings=ENCODINGS).splits[0].shards[0]
        )
        start = self.info.index_offset
        self.index = self.shard[start : start + self.info.index_length]


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> list[Good]:
    """One dataset in each encoding."""
    return [Good(tmp_path_factory.mktemp("good"), encoding) for encoding in ENCODINGS]


# --- Index ------------------------------------------------------------------------------------


def test_an_index_is_within_bounds_or_refused(goods: list[Good]) -> None:
    end = max(good.info.index_offset for good in goods)

    def holds(data: bytes) -> None:
        try:
            index = Index.from_bytes(
                data, location="x", end=end, num_classes=2, encodings=ENCODINGS
            )
        except FormatError as error:
            assert len(str(error)) < 5000
            return
        for offset, length in zip(index.offset.tolist(), index.length.tolist(), strict=True):
            assert offset + length <= end
        assert set(index.label.tolist()) <= {0, 1}
        for row in range(len(index)):
            index.provenance(row)
        index.fingerprint_input()
        again = Index.from_bytes(
            index.to_bytes(), location="x", end=end, num_classes=2, encodings=ENCODINGS
        )
        assert again.to_bytes() == index.to_bytes()

    # JSON has no bytes, so they are written as latin-1 text.
    contents = [
        json.dumps(msgpack.unpackb(good.index), default=lambda data: data.decode("latin1"))
        for good in goods
    ]

    def packed(content: dict[str, Any]) -> bytes:
        columns = content.get("columns")
        for column in columns.values() if isinstance(columns, dict) else ():
            if isinstance(column, dict) and isinstance(column.get("data"), str):
                column["data"] = column["data"].encode("latin1", "replace")
        data: bytes = msgpack.packb(content, unicode_errors="surrogatepass")
        return data

    changed = st.sampled_from(contents).flatmap(
        lambda content: changed_content(content, st.binary(max_size=40)).map(packed)
    )
    explore(holds, changed_bytes([good.index for good in goods]) | changed, 300)


# --- Manifest ---------------------------------------------------------------------------------


def sealed(data: bytes) -> bytes:
    """Return a manifest with the right digest, if it still has one."""
    found = re.search(rb'"sha256:([0-9a-f]{64})"', data)
    if found is None:
        return data
    blank = data[: found.start(1)] + b"0" * 64 + data[found.end(1) :]
    digest = hashlib.sha256(blank).hexdigest().encode()
    return data[: found.start(1)] + digest + data[found.end(1) :]


def test_a_manifest_comes_back_or_is_refused(goods: list[Good]) -> None:
    def holds(data: bytes) -> None:
        try:
            manifest = Manifest.from_bytes(data, location="x", encodings=ENCODINGS)
        except FormatError as error:
            assert len(str(error)) < 5000
            return
        first_id = 0
        for split in manifest.splits:
            assert split.first_id == first_id
            first_id += split.num_samples
            for shard in split.shards:
                assert shard.name == Path(shard.name).name != ".."
                assert shard.index_offset + shard.index_length <= shard.size
        written = manifest.to_bytes()
        assert Manifest.from_bytes(written, location="x", encodings=ENCODINGS).to_bytes() == written

    changed = st.sampled_from([good.manifest.decode() for good in goods]).flatmap(
        lambda text: changed_content(text, st.just(float("nan"))).map(
            lambda content: json.dumps(content).encode()
        )
    )
    whole = [good.manifest for good in goods]
    explore(holds, (changed_bytes(whole) | changed).map(sealed), 200)


# --- Shards -----------------------------------------------------------------------------------


def test_an_index_that_is_found_is_in_the_file(goods: list[Good]) -> None:
    def holds(data: bytes) -> None:
        try:
            offset, length = fmt.find_index(np.frombuffer(data, np.uint8), "x")
        except FormatError:
            return
        assert 512 <= offset <= offset + length <= len(data)
        assert data[offset - 512 : offset].startswith(b"__index__\0")

    explore(holds, changed_bytes([good.shard for good in goods]), 400)


@pytest.mark.parametrize("with_manifest", [False, True])
def test_a_shard_is_whole_or_has_faults(
    goods: list[Good], tmp_path: Path, with_manifest: bool
) -> None:
    def holds(one: tuple[Good, bytes]) -> None:
        good, data = one
        (tmp_path / SHARD).write_bytes(data)
        info = digests_right(data, good.info) if with_manifest else None
        job = CheckJob(store=LocalStore(tmp_path), split="train", name=SHARD, info=info, seed=0)
        found = check_shard(job)
        assert all(len(str(fault)) < 5000 for fault in found.faults)
        if found.faults:
            return
        assert found.facts is not None
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            names = tar.getnames()
        num_samples = found.facts.info.num_samples
        encoding = ENCODINGS[found.encoding]
        beside = [fmt.LABELS_SUFFIX] if encoding.has_blocks else found.sidecars
        suffixes = [encoding.suffix, *beside]
        count = -(-num_samples // encoding.rows_a_payload(found.block_size))
        assert len(names) == count * len(suffixes) + 1
        assert [name.partition(".")[2] for name in names[: len(suffixes)]] == suffixes
        assert names[-1] == "__index__"

    changed = st.sampled_from(goods).flatmap(
        lambda good: st.tuples(st.just(good), changed_bytes([good.shard]))
    )
    explore(holds, changed, 200)


def digests_right(data: bytes, info: ShardInfo) -> ShardInfo:
    """A shard's manifest entry with the digests of the changed shard."""
    start = min(info.index_offset, len(data))
    index = data[start : start + info.index_length]
    return ShardInfo(
        name=info.name,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        index_offset=start,
        index_length=len(index),
        index_sha256=hashlib.sha256(index).hexdigest(),
        num_samples=info.num_samples,
        classes=info.classes,
        origins=info.origins,
    )


# --- Blocks -----------------------------------------------------------------------------------


def test_a_block_is_its_pixels_or_refused() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
    payloads = {kind: ENCODINGS[kind].encode(images) for kind in ("zstd", "raw")}
    contents = [zstandard.ZstdDecompressor().decompress(payloads["zstd"])]

    def holds(data: bytes) -> None:
        for kind in payloads:
            out = np.full_like(images, 77)
            problems = ENCODINGS[kind].decode(Payloads.one(np.frombuffer(data, np.uint8)), out)
            assert all(len(problem) < 5000 for problem in problems.values())
            if data == payloads[kind]:
                assert not problems
                np.testing.assert_array_equal(out, images)
            sample = {
                "__key__": "train/00000-00000",
                ENCODINGS[kind].suffix: data,
                fmt.LABELS_SUFFIX: fmt.npy_header("<i8", (5,)) + bytes(40),
            }
            try:
                found = decode(sample)["images"]
            except DecodeError:
                continue
            assert found.dtype == np.uint8 and len(found) == 5

    changed = changed_bytes(contents).map(zstandard.ZstdCompressor(level=1).compress)
    explore(holds, st.sampled_from([*payloads.values()]) | changed_bytes([*payloads.values()])
            | changed, 300)  # fmt: skip


# --- PNGs -------------------------------------------------------------------------------------

SIZE = 8


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return type and body of each chunk."""
    found, at = [], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


@st.composite
def changed_chunks(draw: Draw[Any], originals: list[bytes]) -> bytes:
    """A PNG with chunks moved, removed, repeated or changed; every CRC is right."""
    chunks = chunks_of(draw(st.sampled_from(originals)))
    others = chunks_of(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(chunks) - 1)))
        kind = draw(st.sampled_from(["move", "remove", "take", "body", "type"]))
        if kind == "take" or not chunks:
            chunks.insert(at, draw(st.sampled_from(others)))
        elif kind == "move":
            chunks.insert(draw(st.integers(0, len(chunks) - 1)), chunks.pop(at))
        elif kind == "remove":
            del chunks[at]
        elif kind == "body":
            chunks[at] = chunks[at][0], draw(changed_bytes([chunks[at][1]]))
        else:
            names = b"IHDR IDAT PLTE tRNS acTL fcTL fdAT eXIf iCCP".split()
            chunks[at] = draw(st.sampled_from(names)), chunks[at][1]
    return SIGNATURE + b"".join(chunk(*one) for one in chunks)


def pillow(data: bytes) -> NDArray[np.uint8] | None:
    """Return Pillow's pixels without transparency; None if it fails or the size is different."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                if image.size != (SIZE, SIZE):
                    return None
                image.load()
                image.info.pop("transparency", None)
                pixels = np.asarray(image.convert("RGB"))
                return pixels if pixels.shape == (SIZE, SIZE, 3) else None
        except Exception:  # of any type: if Pillow returns no pixels, we must report an error too
            return None


@pytest.mark.parametrize("way", ["libdeflate by address", "inflate from Python"])
def test_pixels_are_pillows_or_refused(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "inflate from Python":
        monkeypatch.setattr(codec.png, "libdeflate", lambda: None)

    def holds(data: bytes) -> None:
        buffer = np.frombuffer(data, np.uint8)
        payloads = Payloads.in_buffer(buffer, np.array([0]), np.array([len(data)]))
        out = np.full((1, SIZE, SIZE, 3), 77, np.uint8)
        expected = pillow(data)
        if expected is None:
            assert list(decode_png(payloads, out)) == [0]
        else:
            assert not decode_png(payloads, out)
            np.testing.assert_array_equal(out[0], expected)

    files = [*odd_pngs(SIZE, SIZE).values(), *damaged_pngs(SIZE, SIZE).values()]
    explore(holds, changed_bytes(files) | changed_chunks(files), 500)
