"""The benchmark suite, tiny and for correctness only: who reads what, and what is written of it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import plot
import pytest
import worker
from contenders import CONTENDERS
from contenders.base import samples_of
from make_demo_tree import make_tree
from questions import QUESTIONS

from tests.support import ROOT

PER_CLASS = 30
HERE = [name for name, contender in CONTENDERS.items() if contender.environment == "project"]
"""Those that are installed beside the tests."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("suite") / "tree"
    make_tree(root, per_class=PER_CLASS, seed=0)
    return root


@pytest.mark.filterwarnings("ignore")  # files that webdataset and datasets leave open
@pytest.mark.parametrize("name", HERE)
def test_a_contender_delivers_every_image_once(name: str, tree: Path, tmp_path: Path) -> None:
    contender = CONTENDERS[name]
    process = worker.Worker()
    process.build(name, str(tree / "train"), str(tmp_path / "out"))
    for augmented, kind in ((False, "uint8"), (True, "float32")):
        reading = {"workers": min(contender.workers), "augmented": augmented, "batch_size": 64}
        process.open(name, str(tmp_path / "out"), reading)
        for _ in range(2):
            found = process.check()
            assert found["labels"] == [PER_CLASS] * 10
            assert found["kind"] == f"{kind} [3, 32, 32]"
            mean, deviation = found["mean"], found["deviation"]
            if augmented:  # black borders lower the mean
                assert -0.4 < mean < 0.1 and 0.8 < deviation < 1.3
            else:
                assert (mean, deviation) == pytest.approx(pixels_of_tree(tree), rel=1e-6)


def pixels_of_tree(tree: Path) -> tuple[float, float]:
    """Mean and deviation of all pixels, by Pillow."""
    import numpy as np
    from contenders.base import pixels_of

    images = np.stack([pixels_of(path) for path, _ in samples_of(tree / "train")])
    return float(images.mean()), float(images.std())


def run(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / "suite.py", *options]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def lines_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows by question."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        rows.setdefault(row["question"], []).append(row)
    return rows


def test_the_runner_asks_and_the_page_is_written(tree: Path, tmp_path: Path) -> None:
    out, docs = tmp_path / "lines.jsonl", tmp_path / "docs"
    done = run(
        *("--tree", tree, "--out", out, "--scratch", tmp_path, "--repeats", 1),
        *("--questions", "uint8", "--contenders", "tensor*", "--seconds", 0.3),
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]
    rows = lines_of(out)
    assert rows.keys() == {"run", "pack", "workers", "uint8"}
    assert {row["contender"] for row in rows["uint8"]} == {"tensor in memory"}
    assert all(row["every_image_once"] and row["images_per_second"] > 0 for row in rows["uint8"])
    (docs / "plots").mkdir(parents=True)
    page = docs / "benchmarks.md"
    page.write_text(f"before\n{plot.BEGIN}\nof before\n{plot.END}\nafter\n")
    command = [sys.executable, ROOT / "benchmarks" / "plot.py", out, "--docs", docs]
    subprocess.run(command, check=True)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "of before" not in text
    assert "exactly once" in text and "| tensor in memory |" in text
    assert (docs / "plots" / "speed.svg").read_text().startswith("<?xml")


def test_what_cannot_be(tree: Path, tmp_path: Path) -> None:
    nothing = run("--tree", tree, "--out", tmp_path / "x", "--contenders", "nobody")
    assert nothing.returncode == 2 and "none of ImageFolder," in nothing.stderr
    nowhere = run("--tree", tmp_path / "nowhere", "--out", tmp_path / "x")
    assert nowhere.returncode == 2 and "no folder" in nowhere.stderr


@pytest.mark.real
def test_every_question(tree: Path, tmp_path: Path) -> None:
    out, contenders = tmp_path / "lines.jsonl", ["webdataset, png", "cinic-shards, zstd"]
    done = run(
        *("--tree", tree, "--out", out, "--scratch", tmp_path, "--repeats", 1, "--seconds", 0.5),
        *("--contenders", *contenders),
    )
    assert done.returncode == 0, done.stderr
    rows = lines_of(out)
    assert rows.keys() == {"run", *QUESTIONS}
    assert not [row for found in rows.values() for row in found if "error" in row]
    assert {row["contender"] for row in rows["pack"]} == set(contenders)
    assert all(row["every_image_once"] for row in rows["uint8"])
    assert list(tmp_path.iterdir()) == [out]
