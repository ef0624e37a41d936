"""The list of ImageNet's images: written and read in the authors' format, and bad lists."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cinic_shards.cinic.contributors import (
    Contributor,
    list_contributors,
    read_contributors,
    save_contributors,
    write_contributors,
)
from cinic_shards.errors import FormatError, OutputError, StoreError
from cinic_shards.write.pack import PackOptions, pack
from tests.support.command import Run

HEADER = "synset, image_num, cinic_set, class\n"


def shards_of(tmp_path: Path, *stems: str, encoding: str = "png") -> Path:
    for stem in stems:
        path = tmp_path / "tree" / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
    options = PackOptions(encoding=encoding, shard_size=2, block_size=2)
    pack(tmp_path / "tree", tmp_path / "shards", options, workers=1, warn=lambda text: None)
    return tmp_path / "shards"


@pytest.mark.parametrize("encoding", ["png", "zstd"])
def test_the_authors_format(encoding: str, tmp_path: Path) -> None:
    shards = shards_of(
        tmp_path,
        *("test/truck/n04490091_1", "test/airplane/cifar10-test-3", "extra/cat/n02121808_007"),
        *("train/airplane/n02691156_10025", "train/airplane/n02691156_999", "valid/ship/ours"),
        *("train/airplane/n02690373_20000", "train/cat/n02121808_5", "valid/cat/n02121808_6"),
        encoding=encoding,
    )
    text = io.StringIO()
    write_contributors(list_contributors(shards), text)
    assert text.getvalue() == HEADER + (
        "n02690373, 20000, train, airplane\n"
        "n02691156, 999, train, airplane\n"
        "n02691156, 10025, train, airplane\n"
        "n02121808, 5, train, cat\n"
        "n02121808, 6, valid, cat\n"
        "n04490091, 1, test, truck\n"
        "n02121808, 7, extra, cat\n"
    )


def test_written_and_read(demo_shards: Path, tmp_path: Path) -> None:
    found = list_contributors(demo_shards)
    assert len(found) == 210 and len({one.split for one in found}) == 3
    save_contributors(found, tmp_path / "x.csv")
    assert read_contributors(tmp_path / "x.csv") == found
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]
    with pytest.raises(OutputError, match=r"there is no folder .*none; make it first"):
        save_contributors(found, tmp_path / "none" / "x.csv")


def test_class_names_that_need_quotes(tmp_path: Path) -> None:
    names = ['a, "b"', "été", " c", "d"]
    found = [Contributor("n00000007", row, "train", name) for row, name in enumerate(names)]
    save_contributors(found, tmp_path / "x.csv")
    read = read_contributors(tmp_path / "x.csv")
    assert [one.class_name for one in read] == ['a, "b"', "été", "c", "d"]


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "n02691156, 10025, train, airplane\nn02121808, 7, test, cat\n",
        "synset,image_num,cinic_set,class\nn02691156,10025,train,airplane\nn02121808,7,test,cat",
        "\ufeff synset , image_num,cinic_set ,class \r\n"
        "  n02691156 ,\t10025, train , airplane\r\n\r\n , \nn02121808, 0007, test, cat\r\n",
    ],
)
def test_spaces_are_ignored(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(text.encode())
    assert read_contributors(tmp_path / "x.csv") == [
        Contributor("n02691156", 10025, "train", "airplane"),
        Contributor("n02121808", 7, "test", "cat"),
    ]


def test_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        HEADER + "n02691156, 1, train, airplane\n\n"
        "n0269115, 1, train, airplane\n"
        "n02691156, x, train, airplane\n"
        "n02691156, 1, train\n"
        "n02691156, 1, , airplane\n"
        "n02691156, 1, ../up, airplane\n"
        "n02691156, 1, train, ../up\n"
        "n02691156, 1, train, airplane\n"
        "n02691156, -1, train, airplane\n"
    )
    with pytest.raises(FormatError) as error:
        read_contributors(path)
    assert str(error.value).splitlines() == [
        f"{path}: 8 bad lines",
        "  line 4: synset is 'n0269115', expected n and eight digits",
        "  line 5: image_num is 'x', expected digits",
        "  line 6: 3 values, expected synset, image_num, cinic_set, class",
        "  line 7: cinic_set is '', expected a split's name such as train",
        "  line 8: cinic_set is '../up', expected a split's name such as train",
        "  line 9: class is '../up': expected train/<class>/<stem>",
        "  line 10: the same as line 2",
        "  line 11: image_num is '-1', expected digits",
    ]
    path.write_text(HEADER + "x\n" * 30)
    with pytest.raises(FormatError, match=r"30 bad lines\n  line 2: .*29 more like it: line 3, "):
        read_contributors(path)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "line 1: '', expected the header synset, image_num, cinic_set, class"),
        (b"a,b\n", "line 1: 'a, b', expected the header"),
        (HEADER.encode() + b"\xff\xfe", "not UTF-8 text"),
        (HEADER.encode() + b'"a', "not comma-separated values"),
        (HEADER.encode() + b"a" * 200_000, "not comma-separated values"),
    ],
)
def test_files_that_are_not_a_list(data: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(data)
    with pytest.raises(FormatError, match=problem):
        read_contributors(tmp_path / "x.csv")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"x\.csv: No such file"):
        read_contributors(tmp_path / "x.csv")


def test_the_command(demo_shards: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "x.csv"
    text = ""
    for more in ([], ["-o", path], ["-q", "--out", path]):
        status, out, _ = run("contributors", demo_shards, *more)
        assert status == 0
        if more:
            assert out == ("" if "-q" in more else f"210 ImageNet images: {path}\n")
            assert path.read_text() == text
        else:
            text = out
    assert text.startswith(HEADER) and len(text.splitlines()) == 211
    rows = json.loads(run("contributors", demo_shards, "--json").out)
    assert len(rows) == 210 and list(rows[0]) == ["synset", "image_num", "cinic_set", "class"]
    assert ", ".join(map(str, rows[0].values())) == text.splitlines()[1]
    found = json.loads(run("contributors", demo_shards, "--json", "-o", path).out)
    assert found == {"path": str(path), "num_images": 210}
