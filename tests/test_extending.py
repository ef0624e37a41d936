"""An encoding or a source of images is added by a class: a toy of each, used with all functions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.check.reindex import reindex
from cinic_shards.check.verify import verify
from cinic_shards.codec import ENCODINGS, Encoding, Payloads
from cinic_shards.loader.augment import Augment
from cinic_shards.loader.cinic10 import CINIC10
from cinic_shards.loader.loader import ShardLoader
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.webdataset import decode
from cinic_shards.write.convert import convert
from cinic_shards.write.pack import PackOptions, pack
from cinic_shards.write.select import select
from cinic_shards.write.unpack import unpack
from tests.support.array_source import ArraySource
from tests.support.files import digests

# An encoding


class InvertedEncoding(Encoding):
    """Blocks of 255 minus each pixel value, after an npy header."""

    name = "inverted"
    suffix = "images.inv"

    def encode(self, images: NDArray[np.uint8]) -> bytes:
        return fmt.npy_header("|u1", images.shape) + (255 - images).tobytes()

    def decode(self, payloads: Payloads, out: NDArray[np.uint8]) -> dict[int, str]:
        payload = payloads.memory(0)
        header = fmt.npy_header("|u1", out.shape)
        if payload[: len(header)].tobytes() != header or payload.size != len(header) + out.size:
            return dict.fromkeys(range(len(out)), "not an inverted block")
        out.reshape(-1)[:] = 255 - payload[len(header) :]
        return {}

    def image_shape(self, payload: NDArray[np.uint8]) -> tuple[int, int, int] | None:
        shape = fmt.parse_npy_shape(payload[: fmt.NPY_HEADER_BYTES].tobytes(), "|u1", 4)
        return None if shape is None else (shape[1], shape[2], 3)


@pytest.fixture
def inverted(demo_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``demo_tree`` in the toy encoding, in blocks of 16."""
    monkeypatch.setitem(ENCODINGS, "inverted", InvertedEncoding())
    options = PackOptions(encoding="inverted", shard_size=40, block_size=16)
    pack(demo_tree, tmp_path / "inverted", options, workers=1)
    return tmp_path / "inverted"


def fingerprint(shards: Path) -> str:
    return Dataset(shards).manifest.fingerprint


def test_a_new_encoding_is_packed_verified_and_unpacked(
    inverted: Path, demo_tree: Path, demo_shards: Path, tmp_path: Path
) -> None:
    assert Dataset(inverted).manifest.encoding == "inverted"
    assert fingerprint(inverted) == fingerprint(demo_shards)
    found = verify(inverted, against=demo_tree, workers=1)
    assert found.is_whole and found.num_samples == 270
    assert reindex(inverted, workers=1).encoding == "inverted"
    assert verify(inverted, workers=1).is_whole
    done = unpack(inverted, tmp_path / "tree", workers=1)
    assert done.num_written == 270
    assert verify(inverted, against=tmp_path / "tree", workers=1).is_whole


@pytest.mark.parametrize("other", ["png", "zstd", "raw"])
def test_a_new_encoding_is_converted_to_and_from(
    other: str, inverted: Path, demo_tree: Path, tmp_path: Path
) -> None:
    options = PackOptions(encoding=other, shard_size=40, block_size=16)
    pack(demo_tree, tmp_path / other, options, workers=1)
    convert(tmp_path / other, tmp_path / "back", encoding="inverted", workers=1)
    names = {path.name for path in inverted.glob("*.tar")}
    one, two = digests(inverted), digests(tmp_path / "back")
    assert {name: one[name] for name in names} == {name: two[name] for name in names}
    convert(inverted, tmp_path / "forth", encoding=other, workers=1, warn=lambda text: None)
    assert fingerprint(tmp_path / "forth") == fingerprint(tmp_path / other)
    assert verify(tmp_path / "forth", workers=1).is_whole
    select(inverted, tmp_path / "part", splits=["all=train+test"], workers=1)
    assert verify(tmp_path / "part", workers=1).is_whole


def test_a_new_encoding_is_trained_from(inverted: Path, demo_shards: Path) -> None:
    for augment in (None, Augment()):
        ours = ShardLoader(inverted, batch_size=32, augment=augment)
        images_of = {
            index: image
            for batch in ShardLoader(demo_shards, batch_size=10, augment=augment)
            for index, image in zip(batch.indices.tolist(), batch.images, strict=True)
        }
        for batch in ours:
            expected = torch.stack([images_of[index] for index in batch.indices.tolist()])
            assert torch.equal(batch.images, expected)
    one, two = CINIC10(inverted), CINIC10(demo_shards)
    assert [(np.asarray(i).tobytes(), n) for i, n in (one[3], one[89])] == [
        (np.asarray(i).tobytes(), n) for i, n in (two[3], two[89])
    ]


def test_damage_of_a_new_encoding_is_found(inverted: Path) -> None:
    shard = inverted / "train-00001-of-00003.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    found = verify(inverted, workers=1)
    assert any("sample 0" in str(fault) for fault in found.faults)


def test_a_new_encoding_is_read_by_webdataset(inverted: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
    labels = np.arange(5)
    sample = {
        "__key__": "train/00000-00000",
        "images.inv": InvertedEncoding().encode(images),
        "labels.npy": fmt.npy_header("<i8", (5,)) + labels.astype("<i8").tobytes(),
    }
    np.testing.assert_array_equal(decode(sample)["images"], images)


# A source of images


@pytest.mark.parametrize(
    ("encoding", "workers"),
    [
        *(("png", 1), ("zstd", 1), ("raw", 1), ("zstd", 2)),
        *(pytest.param(encoding, 2, marks=pytest.mark.real) for encoding in ("png", "raw")),
    ],
)
def test_a_new_source_is_packed(encoding: str, workers: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
    labels = (np.arange(30) % 2).astype(np.int32)
    source = ArraySource(images, labels)
    said: list[str] = []
    options = PackOptions(encoding=encoding, shard_size=16, block_size=8)
    manifest = pack(source, tmp_path / "shards", options, workers=workers, warn=said.append)
    assert manifest.num_samples == 30 and manifest.classes == ("cat", "dog")
    assert said == ["30 images do not have names as in CINIC-10; their origin is 'unknown'"]
    assert verify(tmp_path / "shards", against=source, workers=1).is_whole
    reader = Dataset(tmp_path / "shards").split("train")
    for batch in ShardLoader(tmp_path / "shards", batch_size=10):
        rows = [int(reader.key(index).rpartition("-")[2]) for index in batch.indices.tolist()]
        pixels = batch.images.permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(pixels, images[rows])
        assert batch.labels.tolist() == labels[rows].tolist()
