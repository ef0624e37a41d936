"""The code of docs/recipes.md runs unchanged."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from make_demo_tree import make_tree

from cinic_shards.write.pack import pack
from tests.support import ROOT

PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, re.M | re.S))

# Lightning imports torchvision, which fails with a CPU build of torch.
PRELUDE = "from cinic_shards.loader.bench import import_torchvision\nimport_torchvision()\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipes")
    make_tree(root / "cinic", per_class=60, seed=2)
    pack(root / "cinic", root / "shards", workers=1)
    return root


def test_every_block_of_code_is_a_recipe() -> None:
    assert len(RECIPES) == PAGE.count("```python") == 8


SLOW = ("Many GPUs: torchrun and DDP", "Lightning", "Stock WebDataset")


FORK = """
import json, sys
import torch, cinic_shards.loader.loader
from tests.support.processes import run_forked

recipes = json.load(sys.stdin)
run = lambda code: run_forked(lambda: exec(code, {"__name__": "__main__"}))
print(json.dumps({name: run(code) for name, code in recipes.items()}))
"""
"""Runs each recipe in a copy of a process that has imported everything and called nothing yet."""


@pytest.fixture(scope="module")
def statuses(folder: Path) -> dict[str, int]:
    """Exit status of each quick recipe."""
    quick = {name: code for name, code in RECIPES.items() if name not in SLOW}
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        cwd=folder, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        input=json.dumps(quick), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in SLOW])
def test_recipe(statuses: dict[str, int], name: str) -> None:
    assert statuses[name] == 0


def run(folder: Path, code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=300)


@pytest.mark.real
def test_the_recipe_for_webdataset(folder: Path) -> None:
    run(folder, RECIPES["Stock WebDataset"])


@pytest.mark.real
def test_the_recipe_for_lightning(folder: Path) -> None:
    if find_spec("lightning") is None:
        pytest.skip("NOT RUN: lightning is not installed")
    run(folder, PRELUDE + RECIPES["Lightning"])


@pytest.mark.real
def test_the_recipe_for_torchrun(folder: Path) -> None:
    (folder / "train.py").write_text(RECIPES["Many GPUs: torchrun and DDP"])
    torchrun = Path(sys.executable).with_name("torchrun")
    command = [str(torchrun), "--standalone", "--nproc-per-node=2", "train.py"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 0
    assert re.search(r"% of 600 are right", done.stdout)
