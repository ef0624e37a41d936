"""The questions about a device run on a CPU; nobody has asked them on a GPU yet."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from make_demo_tree import make_tree

from cinic_shards.write.pack import PackOptions, pack
from tests.support import ROOT

SMALL = """--device cpu --batch-size 16 --seconds 0.05 --steps 2 --model tiny --runs 2
    --fast-epochs 1 --fast-width 4 --fast-fraction 0.6""".split()


@pytest.mark.real
def test_the_questions_about_a_device(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", per_class=100, seed=0)
    pack(tmp_path / "tree", tmp_path / "shards", PackOptions(encoding="zstd"), workers=1)
    command = [sys.executable, "-m", "benchmarks.training.device", tmp_path / "tree"]
    done = subprocess.run([*command, tmp_path / "shards", *SMALL], cwd=ROOT, check=True,
                          stdout=subprocess.PIPE, text=True)  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    asked = [row["question"] for row in rows]
    assert {*asked} == {"machine", "equal", "rate", "training", "fast"}
    assert [row["is_equal"] for row in rows if row["question"] == "equal"] == [True] * 4
    rates = [row for row in rows if "images_per_second" in row]
    assert len(rates) >= 5 and all(row["images_per_second"] > 0 for row in rates)
    assert len(rows[-1]["accuracies"]) == 2
