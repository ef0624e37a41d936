"""The command ``partition``."""

import json
from pathlib import Path

import pytest
from PIL import Image

from cinic_shards import Dataset, Partition
from tests.support.command import Run

DIRICHLET = "--scheme dirichlet --parts 25 --alpha 0.3 --min-size 2".split()


def test_a_table_and_a_picture(packed: dict[str, Path], tmp_path: Path, run: Run) -> None:
    out, picture = tmp_path / "parts.json", tmp_path / "parts.png"
    done = run("partition", packed["raw"], "-o", out, *DIRICHLET, "--plot", picture)
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["part", "images", *Dataset(packed["raw"]).manifest.classes]
    found = Partition.read(out)
    for line, (name, size) in zip(lines[1:21], [*found.sizes.items()][:20], strict=True):
        numbers = line.split()
        assert numbers[:2] == [name, str(size)] and sum(map(int, numbers[2:])) == size
    assert lines[21] == "... and 5 more parts, all with --json"
    assert lines[22].startswith("25 parts of train, 90 images: 2 to ")
    assert done.err == "" and done.hints[-1].endswith(f" ./part --partition {out} --part 0")
    with Image.open(picture) as image:
        assert image.size[0] > 500


def test_json_and_forms_of_others(packed: dict[str, Path], tmp_path: Path, run: Run) -> None:
    out, text = tmp_path / "parts.json", tmp_path / "net_dataidx_map.txt"
    shown = run("partition", packed["raw"], "-o", out, *DIRICHLET, "--json", "--to-indices", text)
    assert shown.status == 0 and shown.err == ""
    content = json.loads(shown.out)
    assert content["num_samples"] == 90 and len(content["parts"]) == 25
    assert sum(map(sum, content["parts"].values())) == 90
    again = tmp_path / "again.json"
    done = run("partition", packed["png"], "-o", again, "--from-indices", text, "--quiet")
    assert done == (0, "", "")
    one, other = Partition.read(out), Partition.read(again)
    assert {name: one.ids(name).tolist() for name in one} == {
        name: other.ids(name).tolist() for name in other
    }


def test_named_parts_of_a_subset(packed: dict[str, Path], tmp_path: Path, run: Run) -> None:
    out = tmp_path / "parts.json"
    done = run(
        "partition", packed["raw"], "-o", out, "--scheme", "fractions", "--split", "train+valid",
        "--fractions", "target=0.4,shadow=0.4", "--class", "cat", "--class", "dog", "--deduplicate",
    )  # fmt: skip
    assert done.status == 0  # of 36 images, 14.4, 14.4 and 7.2
    assert "2 parts of train+valid, 29 images" in done.out
    assert "7 images are in no part" in done.out
    assert Partition.read(out).sizes == {"target": 15, "shadow": 14}
    part = tmp_path / "target"
    where = ["--split", "train+valid", "--partition", out, "--part", "target"]
    assert run("select", packed["raw"], part, *where, "--quiet").status == 0
    assert Dataset(part).manifest.num_samples == 15


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("", "--scheme and --from-indices: give one of them"),
        ("--scheme iid --parts 2 --from-indices x", "--scheme and --from-indices: give one of"),
        ("--parts 2 --from-indices x", "the file says what is in each part; leave out options"),
        ("--class cat --from-indices x", "the file says what is in each part"),
        ("--from-indices none.txt", "none.txt: No such file"),
        ("--scheme fractions --fractions a=x", "'a=x': expected a name and a number"),
        ("--scheme fractions --fractions a=0.1,a=0.2", "a is there twice"),
        ("--scheme dirichlet --parts 40 --min-size 10000", "40 parts of at least 10,000 samples"),
        ("--scheme iid --parts 2 --to-indices x.csv", "expected a name that ends with .json or"),
        ("--scheme iid --parts 2 --plot x.gif", "expected a name that ends with .png, .svg or"),
        ("--scheme iid --parts 2 --plot nowhere/x.png", "there is no folder nowhere"),
        ("--scheme iid --parts 2 --alpha 1", "alpha: scheme iid has no such option"),
    ],
)
def test_mistakes(
    packed: dict[str, Path], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch,
    options: str, problem: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    done = run("partition", packed["raw"], "-o", "parts.json", *options.split())
    assert done.status != 0 and done.out == ""
    assert problem in done.err and done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
