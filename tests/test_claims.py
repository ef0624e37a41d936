"""Claims without timings hold on a generated tree, and on real photographs if they are available.

``make claims`` runs the timed ones on an idle machine.
"""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.namespaces import can_make_hosts

PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "cinic-mini.tar"

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=["drawn", "photographs"])
def tree_options(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Arguments that choose the tree: 9,000 generated images, or 1,890 photographs."""
    if request.param == "drawn":
        return ["--per-class", "300"]
    if not PHOTOGRAPHS.exists():
        pytest.skip(f"NOT RUN: {PHOTOGRAPHS.name} is not here")
    folder = tmp_path_factory.mktemp("photographs")
    with tarfile.open(PHOTOGRAPHS) as archive:
        archive.extractall(folder, filter="data")
    return ["--tree", str(folder)]


@pytest.mark.parametrize(
    "name",
    "round_trip stock_readers pixels bad_input nothing_lost encodings selected stats "
    "archives".split(),
)
def test_a_claim_holds(name: str, tree_options: list[str], tmp_path: Path) -> None:
    run_claim(name, tree_options, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "bad_sources",
        "damage",
        "resume",
        "order",
        "one_order",
        "abandoned",
        "training",
        "parameters",
        "object_store",
        "dask_packing",
        "restore_cifar10",
        "fetch",
        "build",
    ],
)
def test_a_claim_on_its_own_tree_holds(name: str, tmp_path: Path) -> None:
    run_claim(name, [], tmp_path)


@pytest.mark.parametrize("name", ["nodes", "stream_speed"])
def test_a_claim_of_several_hosts_holds(name: str, tmp_path: Path) -> None:
    if not can_make_hosts():
        pytest.skip("NOT RUN: makes network namespaces, as root")
    run_claim(name, ["--per-class", "200", "--repeats", "1"], tmp_path)


def test_the_report(tree_options: list[str], tmp_path: Path) -> None:
    run_claim("report", tree_options, tmp_path)


def test_the_benchmark_of_cpu_seconds_runs(tmp_path: Path) -> None:
    run_claim("cpu_seconds", ["--per-class", "30", "--repeats", "1"], tmp_path)


def test_a_bad_network(tmp_path: Path) -> None:
    run_claim("bad_network", ["--per-class", "200", "--repeats", "1"], tmp_path)


def run_claim(name: str, options: list[str], tmp_path: Path) -> None:
    script = ROOT / "tools" / "claims" / f"{name}.py"
    command = [sys.executable, script, "--scratch", tmp_path, "--untimed"]
    result = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True)
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["claim"] == name
    assert line["holds"] and result.returncode == 0, json.dumps(line, indent=1)
    assert not list(tmp_path.iterdir())
