"""The page of evidence: a row for each result, and nothing left out."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

HEAD = {
    "versions": {"python": "3.11.7", "numpy": "2.4"},
    "machine": {"system": "Linux", "processor": "a CPU", "cores": 2, "memory_gib": 23.5},
}
PASSED = {
    "test": "test_a::test_one", "question": "Is ``a`` b?", "outcome": "passed", "seconds": 1.2,
    "tree": "given", "images": 27_000, "figures": {"kills": 4, "seconds_to_resume": {"max": 0.107}},
}  # fmt: skip
SKIPPED = PASSED | {"test": "test_a::test_two[a|b]", "outcome": "skipped", "reason": "NOT RUN"}
FAILED = PASSED | {"outcome": "failed", "figures": {"long": "word " * 100}}


def test_each_result_is_a_row(tmp_path: Path) -> None:
    lines = [json.dumps(one) for one in (HEAD, PASSED, SKIPPED, FAILED)]
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    command = [sys.executable, ROOT / "tools" / "evidence.py", "results.jsonl", "page.md"]
    subprocess.run(command, cwd=tmp_path, check=True)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "1 passed, 1 skipped, 1 failed, in 4 s; tree: 27,000 images (given).\n" in page
    assert "2 cores of a CPU, 23.5 GiB, Linux; python 3.11.7, numpy 2.4.\n" in page
    *_, two, three, one = page.splitlines()  # those that did not pass come first
    assert one == (
        "| Is `a` b? | passed | kills: 4; seconds to resume: max 0.107 | 1 | `test_a::test_one` |"
    )
    assert two == "| Is `a` b? | **skipped** | NOT RUN | 1 | `test_a::test_two[a b]` |"
    assert "| **failed** | long: word word" in three and "word ... |" in three
