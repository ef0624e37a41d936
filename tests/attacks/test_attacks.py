"""Hostile files do no harm: the attacks of attacks.py, on every entry point.

The entry points are the loader, ``verify`` (also quick), ``unpack``, ``reindex``, ``info``, ``info
--duplicates``, ``select``, ``stats`` and, for images, ``pack``. An attack runs in a child process.
It must not crash or block the process, take much memory, raise an exception that is not the
package's, or write outside the output. attacks.py says which entry points must reject it.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cinic_shards.options import usable_cores
from tests.attacks.attacks import ATTACKS
from tests.support import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="NOT RUN: no processes to fork")

Results = dict[str, list[dict[str, Any]]]


SAMPLE = [*{name.partition(":")[0]: name for name in [*ATTACKS][::2]}.values()]
"""An attack of each type; tests/acceptance runs all."""


def run_attacks(names: list[str], folder: Path) -> Results:
    """Return results by attack, from one process per core, at most four.

    Not in this process, because it is larger and has threads.
    """
    num_runners = min(4, usable_cores(), len(names))
    runners = []
    for number in range(num_runners):
        with open(folder / f"{number}.jsonl", "w") as out:
            command = [sys.executable, "-W", "ignore", "-m", "tests.attacks.run"]
            command += names[number::num_runners]
            runners.append(subprocess.Popen(command, stdout=out, cwd=ROOT))
    assert {runner.wait() for runner in runners} <= {0, 1}  # 1: there are problems, see below
    found: Results = {}
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            result = json.loads(line)
            found.setdefault(result["attack"], []).append(result)
    return found


def check(attack: str, results: Results) -> None:
    came = results[attack]
    assert len(came) == 9 + bool(ATTACKS[attack].png)
    problems = [f"{one['way']}: {one['problem']}" for one in came if one["problem"]]
    assert not problems, (attack, problems)


def test_a_sample_of_attacks_does_no_harm(tmp_path: Path) -> None:
    results = run_attacks(SAMPLE, tmp_path)
    for attack in SAMPLE:
        check(attack, results)


def test_the_table_asks_for_something() -> None:
    refused = Counter(way for attack in ATTACKS.values() for way in attack.refused_by)
    assert min(refused.values()) > 20 and len(refused) == 7
    kinds = Counter(name.partition(":")[0] for name in ATTACKS)
    assert set(kinds) == {
        *("tar", "index", "msgpack", "PNG", "manifest", "folder", "raw", "zstd"),
    }


def test_attacks_are_small_and_the_same_every_time(tmp_path: Path) -> None:
    for name in [*ATTACKS][::10]:
        for place in ("one", "two"):
            ATTACKS[name].make(tmp_path / place / name.replace("/", "_"))
    for one in (tmp_path / "one").rglob("*"):
        if one.is_file() and not one.is_symlink():
            two = tmp_path / "two" / one.relative_to(tmp_path / "one")
            data = one.read_bytes()
            assert data == two.read_bytes() and len(data) < 2**20
