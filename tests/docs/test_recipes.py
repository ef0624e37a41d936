"""The Python code of the guides in docs/ runs unchanged."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from make_demo_tree import make_tree

from cinic_shards.read.dataset import Dataset
from cinic_shards.write.pack import PackOptions, pack
from tests.support import ROOT

GUIDES = "quickstart recipes resume many-gpus subsets arrays federated trainers".split()
PAGE = "\n".join((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in GUIDES)
RECIPES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, re.M | re.S))

# Lightning imports torchvision, which fails with a CPU build of torch.
PRELUDE = "from cinic_shards.loader.bench import import_torchvision\nimport_torchvision()\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipes")
    make_tree(root / "cinic", per_class=120, seed=2)  # 4 batches of 256 in a split
    pack(root / "cinic", root / "shards", PackOptions(block_size=64), workers=1)
    return root


def test_every_block_of_code_is_a_recipe() -> None:
    assert len(RECIPES) == PAGE.count("```python") == 27


SLOW = (
    "Start with torchrun and DDP",
    "DDP with mp.spawn",
    "Lightning",
    "Lightning Fabric",
    "Accelerate",
    "Ray Train",
    "Read with stock WebDataset",
    "Read with stock WebDataset under DDP",
)


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


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9,000 images of each split, packed with default options."""
    root = tmp_path_factory.mktemp("large")
    make_tree(root / "cinic", per_class=900, seed=3)
    pack(root / "cinic", root / "shards")
    return root


@pytest.mark.real
@pytest.mark.parametrize(("num_ranks", "num_workers"), [(1, 2), (1, 4), (2, 2)])
def test_the_recipe_for_webdataset(large_folder: Path, num_ranks: int, num_workers: int) -> None:
    """Every sample is read once an epoch; tests/read/test_webdataset.py has smaller datasets."""
    code = RECIPES["Read with stock WebDataset"].replace('"png"', '"png", "__key__"')
    code = code.replace("for images, labels in", "for images, keys, labels in")
    code = code.replace("num_workers=2", f"num_workers={num_workers}")
    code += '        print(*keys, sep="\\n")\n'
    found: Counter[str] = Counter()
    for output in run_ranks(large_folder, code, num_ranks):
        keys = output.split()
        assert keys[: len(keys) // 2] != keys[len(keys) // 2 :], "the same order in both epochs"
        found.update(keys)
    expected = Dataset(large_folder / "shards").split("train")
    assert len(found) == len(expected) and set(found.values()) == {2}


@pytest.mark.real
def test_the_recipe_for_webdataset_with_ddp(large_folder: Path) -> None:
    code = RECIPES["Read with stock WebDataset under DDP"] + '        print("batch")\n'
    for output in run_ranks(large_folder, code, 2):
        assert output.split() == ["batch"] * (2 * (9000 // (256 * 2)))


def run_ranks(folder: Path, code: str, num_ranks: int) -> list[str]:
    """Run a program once for each rank, as torchrun does; returns what each rank prints."""
    environments = [
        os.environ | {"RANK": str(rank), "WORLD_SIZE": str(num_ranks)} for rank in range(num_ranks)
    ]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]  # fmt: skip
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * num_ranks
    return outputs


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("DDP with mp.spawn", "torch"),
        ("Lightning", "lightning"),
        ("Lightning Fabric", "lightning"),
        ("Accelerate", "accelerate"),
        ("Ray Train", "ray"),
    ],
)
def test_the_recipe_for_a_trainer(folder: Path, name: str, package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"NOT RUN: {package} is not installed")
    (folder / "train.py").write_text((PRELUDE if package == "lightning" else "") + RECIPES[name])
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, timeout=300)


@pytest.mark.real
def test_the_recipe_for_torchrun(folder: Path) -> None:
    (folder / "train.py").write_text(RECIPES["Start with torchrun and DDP"])
    torchrun = Path(sys.executable).with_name("torchrun")
    command = [str(torchrun), "--standalone", "--nproc-per-node=2", "train.py"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 0
    assert re.search(r"% of 1,200 are right", done.stdout)
