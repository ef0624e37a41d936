"""Reading CIFAR-10's published pickles, as every Python writes them, and nothing else."""

import io
import pickle
import struct
import sys
import tarfile
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cinic_shards.cinic import cifar10, pickles
from cinic_shards.cinic.cifar10 import CLASSES, FOLDER, read_cifar10
from cinic_shards.cinic.pickles import read_pickle
from cinic_shards.errors import FormatError, StoreError

SIZE = 20


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "BATCH_SIZE", SIZE)


def contents(seed: int = 0) -> dict[str, dict[bytes, Any]]:
    """Content of each file."""
    rng = np.random.default_rng(seed)
    files: dict[str, dict[bytes, Any]] = {
        name: {
            b"data": rng.integers(0, 256, (SIZE, 3072), np.uint8),
            b"labels": rng.integers(0, 10, SIZE).tolist(),
            b"batch_label": b"",
            b"filenames": [b"a_s_%06d.png" % row for row in range(SIZE)],
        }
        for name in (*cifar10.TRAIN_BATCHES, *cifar10.TEST_BATCHES)
    }
    names = [name.encode() for name in CLASSES]
    files["batches.meta"] = {b"label_names": names, b"num_vis": 3072}
    return files


def archive(path: Path, files: dict[str, bytes], folder: str = FOLDER, mode: Any = "w:gz") -> Path:
    level = {"compresslevel": 1} if mode == "w:gz" else {}
    with tarfile.open(path, mode, **level) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pickled(files: dict[str, dict[bytes, Any]], protocol: int = 2) -> dict[str, bytes]:
    return {name: pickle.dumps(content, protocol) for name, content in files.items()}


def python2(content: dict[bytes, Any], module: bytes = b"numpy.core.multiarray") -> bytes:
    """Pickle as Python 2 and numpy 1 do: strings are byte strings."""

    def short(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    def value(what: Any) -> bytes:
        if isinstance(what, bytes):
            return short(what)
        if isinstance(what, int):
            return b"J" + struct.pack("<i", what)
        if isinstance(what, list):
            return b"](" + b"".join(map(value, what)) + b"e"
        shape = b"".join(map(value, what.shape)) + b"\x86"
        dtype = b"cnumpy\ndtype\n" + short(b"u1") + b"K\0K\1\x87R"
        dtype += b"(K\3" + short(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        data = b"T" + struct.pack("<i", what.size) + what.tobytes()
        head = b"c" + module + b"\n_reconstruct\n(cnumpy\nndarray\nK\0\x85" + short(b"b") + b"tR"
        return head + b"(K\1" + shape + dtype + b"\x89" + data + b"tb"

    items = b"".join(short(key) + value(one) for key, one in content.items())
    return b"\x80\x02}(" + items + b"u."


def assert_read(path: Path, files: dict[str, dict[bytes, Any]]) -> None:
    found = read_cifar10(path)
    assert found.label_names == CLASSES
    for one, names in ((found.train, cifar10.TRAIN_BATCHES), (found.test, cifar10.TEST_BATCHES)):
        planes = np.concatenate([files[name][b"data"] for name in names])
        expected = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        assert np.array_equal(one.images, expected) and one.images.flags.c_contiguous
        assert one.labels.tolist() == [x for name in names for x in files[name][b"labels"]]
    assert len(found.sets["train"]) == 5 * SIZE and len(found.sets["test"]) == SIZE
    assert cifar10.set_sizes() == {"train": 5 * SIZE, "test": SIZE}


@pytest.mark.parametrize("protocol", range(5))
def test_python_3_wrote_it(protocol: int, tmp_path: Path) -> None:
    files = contents()
    assert_read(archive(tmp_path / "x.tar.gz", pickled(files, protocol)), files)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_python_2_wrote_it(module: bytes, tmp_path: Path) -> None:
    files = contents()
    data = {name: python2(content, module) for name, content in files.items()}
    assert pickle.loads(data["test_batch"], encoding="bytes").keys() == files["test_batch"].keys()
    assert_read(archive(tmp_path / "x.tar.gz", data), files)


def test_an_archive_without_gzip_and_a_folder(tmp_path: Path) -> None:
    files = contents()
    data = pickled(files) | {"readme.html": b"<html>"}
    assert_read(archive(tmp_path / "x.tar", data, mode="w"), files)
    (tmp_path / FOLDER).mkdir()
    for name, content in data.items():
        (tmp_path / FOLDER / name).write_bytes(content)
    assert_read(tmp_path / FOLDER, files)


def test_an_array_in_column_order(tmp_path: Path) -> None:
    files = contents()
    files["data_batch_2"][b"data"] = np.asfortranarray(files["data_batch_2"][b"data"])
    assert_read(archive(tmp_path / "x.tar.gz", pickled(files)), files)


def test_a_different_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar.gz", pickled(contents()), "cifar-100-python")
    with pytest.raises(FormatError, match=r"not CIFAR-10's Python version; get .* again") as error:
        read_cifar10(path)
    assert str(error.value).count("missing") == 7


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    files = contents()
    files["data_batch_1"][b"labels"][3] = 10
    files["data_batch_2"][b"labels"].pop()
    files["data_batch_3"][b"data"] = files["data_batch_3"][b"data"][:, 1:]
    files["data_batch_4"][b"data"] = files["data_batch_4"][b"data"].astype("<u2")
    del files["data_batch_5"][b"data"]
    files["batches.meta"][b"label_names"] = [b"cat"]
    data = pickled(files)
    del data["test_batch"]
    with pytest.raises(FormatError) as error:
        read_cifar10(archive(tmp_path / "x.tar.gz", data))
    _, *lines = str(error.value).splitlines()
    assert lines == [
        f"  {FOLDER}/data_batch_1: label 3 is 10, expected 0 to 9",
        f"  {FOLDER}/data_batch_2: labels are 19, expected a list of 20",
        f"  {FOLDER}/data_batch_3: data has shape 20x3071, expected 20x3072",
        f"  {FOLDER}/data_batch_4: data is not uint8",
        f"  {FOLDER}/data_batch_5: data is not an array",
        f"  {FOLDER}/test_batch: missing",
        f"  {FOLDER}/batches.meta: label_names are ['cat'], expected {', '.join(CLASSES)}",
    ]


def test_a_label_too_long_to_print(tmp_path: Path) -> None:
    files = contents()
    files["data_batch_1"][b"labels"][3] = 10**5000
    with pytest.raises(FormatError, match="data_batch_1: label 3 is int, expected 0 to 9"):
        read_cifar10(archive(tmp_path / "x.tar.gz", pickled(files)))


def test_a_truncated_archive(tmp_path: Path) -> None:
    data = archive(tmp_path / "x.tar.gz", pickled(contents())).read_bytes()
    cut = tmp_path / "cut.tar.gz"
    for size in (0, 1, 5, 100, len(data) // 3, len(data) - 20):
        cut.write_bytes(data[:size])
        with pytest.raises(FormatError, match=r"cut.tar.gz: not .* again"):
            read_cifar10(cut)


def test_a_file_that_is_not_an_archive(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"<html>not found</html>" * 1000)
    with pytest.raises(FormatError, match="not a complete tar archive"):
        read_cifar10(tmp_path / "x")
    with pytest.raises(StoreError, match="y: No such file"):
        read_cifar10(tmp_path / "y")


def test_a_small_archive_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "MAX_PICKLE_BYTES", 10_000)
    path = archive(tmp_path / "x.tar.gz", {"test_batch": bytes(10_001)})
    with pytest.raises(FormatError, match="test_batch is 10,001 bytes, expected at most 10,000"):
        read_cifar10(path)
    monkeypatch.setattr(cifar10, "_MAX_ARCHIVE_BYTES", 20_000)
    path = archive(tmp_path / "y.tar.gz", {"x": bytes(100_000)}, folder="x")
    with pytest.raises(FormatError, match="holds more than 20,000 bytes"):
        read_cifar10(path)


class Call:
    """An object whose pickle is a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


BOMB = b"(K\0K\0t0" + b"K\0\x85q\0" + b"".join(b"h\0h\0\x86q\0" for _ in range(80))
"""Leaves a tuple that holds itself 2**80 times: computing its hash would never end."""

HOSTILE = {
    "a call": pickle.dumps(Call(print, ("run!",))),
    "a call of protocol 0": pickle.dumps(Call(print, ("run!",)), 0),
    "a codec": pickle.dumps(Call(__import__("codecs").encode, ("a", "rot13")), 2),
    "an array of numpy's own making": pickle.dumps(np.arange(3, dtype=object)),
    "an instance": b"(cbuiltins\nprint\nX\x04\0\0\0run!o.",
    "an instance of protocol 0": b"(S'run!'\nibuiltins\nprint\n.",
    "a new object": b"\x80\x02cbuiltins\nlist\n)\x81.",
    "a name that is built upon": b"\x80\x02cbuiltins\nprint\n}b.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent id": b"Ptest\n.",
    "a large memo position": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
    "a missing memo position": b"\x80\x02h\x07.",
    "a bomb for a key": b"\x80\x02}" + BOMB + b"K\0s.",
    "a bomb for a label": b"\x80\x02}(U\x06labels](" + BOMB + b"eu.",
    "a number without an end": b"I" + b"9" * 5000 + b"\n.",
    "a length without content": b"\x80\x02T\xff\xff\xff\x7fabc.",
    "nothing": b"",
    "no end": b"\x80\x02}",
    "two values": b"\x80\x02}}.",
    "an empty stack": b"\x80\x02\x86.",
    "no mark": b"\x80\x02]e.",
    "an odd dictionary": b"\x80\x02}(K\x01u.",
    "a set": pickle.dumps({1, 2}, 4),
    "an import": b"cthis\ns\n.",
    "a module's attribute": b"\x80\x04\x8c\x05numpy\x8c\x0acore.numpy\x93.",
    "attributes of a function": b"c_codecs\nencode\nN}X\1\0\0\0xK\1s\x86b.",
    "one string encoded many times": b"c_codecs\nencode\nq\0X\xff\0\0\0"
    + b"a" * 255
    + b"X\6\0\0\0latin1\x86q\1]("
    + b"h\0h\1R" * 100
    + b"e.",
    "a large array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
    b"(I99999999999\nI9999\ntS'b'\ntR.",
    "a call that makes a large array": b"cnumpy\nndarray\n(I99999999999\ntR.",
    "a large byte array": b"\x80\x05\x96\xff\xff\xff\xff\x7f\0\0\0abc.",
    "a large frame": b"\x80\x04\x95\xff\xff\xff\xff\x7f\0\0\0}.",
    "a negative memo position": b"Np-1\n.",
    "memo positions with the same hash": b"N"
    + b"".join(b"p%d\n" % (i * (2**61 - 1)) for i in range(30_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = archive(tmp_path / "x.tar.gz", {"data_batch_4": HOSTILE[name]})
    with pytest.raises(FormatError, match=r"data_batch_4: (?!missing)") as error:
        read_cifar10(path)
    assert len(str(error.value).splitlines()) == 8 and len(str(error.value)) < 1000
    assert not capsys.readouterr().out and "this" not in sys.modules


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_takes_little_memory(name: str) -> None:
    tracemalloc.start()
    try:
        with suppress(FormatError):
            read_pickle(HOSTILE[name])
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_rejected_name_is_in_the_message() -> None:
    with pytest.raises(FormatError, match=r"needs 'builtins\.print', .* nothing was executed"):
        read_pickle(HOSTILE["a call"])


def test_a_pickle_with_too_many_opcodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_MAX_STEPS", 100)
    assert read_pickle(pickle.dumps(list(range(80)))) == list(range(80))
    with pytest.raises(FormatError, match="more than 100 opcodes"):
        read_pickle(pickle.dumps(list(range(120))))


def test_any_wrong_byte_is_rejected_or_harmless() -> None:
    data = pickle.dumps(contents()["batches.meta"], 2)
    for at in range(len(data)):
        for value in (0, 0x28, 0x2E, 0x52, 0x62, 0x71, 0x7D, 0x80, 0x95, 0xFF):
            changed = data[:at] + bytes([value]) + data[at + 1 :]
            try:
                read_pickle(changed)
            except FormatError:
                continue
