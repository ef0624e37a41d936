"""No file from a stranger does harm: every attack of attacks.py, by every way in.

The ways are the loader, ``verify`` (quick, too), ``unpack``, ``reindex``, ``info``, ``info
--duplicates``, ``select``, ``stats`` and, for images, ``pack``. An attack runs in a process of its
own: it may neither end it nor hold it up, nor take much memory, nor raise what is not the
package's, nor write where it must not. The table in attacks.py says who has to refuse it.
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


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What came of the attacks that are asked for, by name; as many run at once as there are cores.

    They run in other processes than pytest's, which is larger and has threads.
    """
    folder = tmp_path_factory.mktemp("hostile")
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    asked = {call.params["attack"] for call in calls if call and "attack" in call.params}
    names = [name for name in ATTACKS if name in asked]
    num_runners = min(4, usable_cores(), len(names))
    runners = []
    for number in range(num_runners):
        with open(folder / f"{number}.jsonl", "w") as out:
            command = [sys.executable, "-W", "ignore", "-m", "tests.attacks.run"]
            runners.append(
                subprocess.Popen([*command, *names[number::num_runners]], stdout=out, cwd=ROOT)
            )
    for runner in runners:
        runner.wait()
    found: Results = {}
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            result = json.loads(line)
            found.setdefault(result["attack"], []).append(result)
    return found


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_does_no_harm(attack: str, results: Results) -> None:
    came = results[attack]
    assert len(came) == 9 + bool(ATTACKS[attack].png)
    assert [f"{one['way']}: {one['problem']}" for one in came if one["problem"]] == []


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
