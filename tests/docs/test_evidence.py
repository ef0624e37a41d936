"""The pages of evidence and of claims: a row for each result, and a figure for each claim."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import claims
import evidence
import pytest

from benchmarks.tables import runs_of
from tests.support import ROOT

DOCS = ROOT / "docs"

HEAD = {
    "versions": {"python": "3.11.7", "numpy": "2.4"},
    "machine": {"system": "Linux", "processor": "a CPU", "cores": 2, "memory_gib": 23.5},
}
PASSED = {
    "test": "test_a::test_one", "question": "Is ``a`` b?", "outcome": "passed", "seconds": 1.2,
    "tree": "given", "images": 27_000, "figures": {"kills": 4, "seconds_to_resume": {"max": 0.107}},
}  # fmt: skip
SKIPPED = PASSED | {"test": "test_a::test_two[a|b]", "outcome": "skipped", "reason": "NOT RUN"}
FAILED = PASSED | {
    "outcome": "failed",
    "reason": "E  /tmp/x is not y",
    "figures": {"long": "word " * 100},
}


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
    copy = (tmp_path / "page.jsonl").read_text(encoding="utf-8")
    assert copy == "\n".join(lines[:3]) + "\n" + json.dumps(without_reason(FAILED)) + "\n"
    (tmp_path / "results.jsonl").write_text(copy)
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page


def test_the_last_result_of_several_runs_counts(tmp_path: Path) -> None:
    for name, results in (("one", [FAILED, SKIPPED]), ("two", [PASSED])):
        lines = "".join(f"{json.dumps(one)}\n" for one in (HEAD, *results))
        (tmp_path / f"{name}.jsonl").write_text(lines)
    command = [sys.executable, ROOT / "tools" / "evidence.py"]
    subprocess.run([*command, "one.jsonl", "two.jsonl", "page.md"], cwd=tmp_path, check=True)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "1 skipped, 1 passed, in 2 s of 2 runs, each test with its last result; tree" in page
    (tmp_path / "again").mkdir()
    subprocess.run([*command, "page.jsonl", "again/page.md"], cwd=tmp_path, check=True)
    assert (tmp_path / "again" / "page.md").read_text(encoding="utf-8") == page


def without_reason(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "reason"}


def test_a_path_of_the_machine_is_refused(tmp_path: Path) -> None:
    result = PASSED | {"figures": {"made": "/home/me/cinic"}}
    (tmp_path / "results.jsonl").write_text(f"{json.dumps(HEAD)}\n{json.dumps(result)}\n")
    command = [sys.executable, ROOT / "tools" / "evidence.py", "results.jsonl", "page.md"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "/home/me/cinic" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def published() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    head, *results = map(json.loads, (DOCS / "evidence.jsonl").read_text().splitlines())
    return head, results


def test_the_published_pages_are_made_of_the_published_lines() -> None:
    head, results = published()
    assert (DOCS / "evidence.md").read_text() == evidence.page(head, results)
    runs = runs_of(DOCS / "plots" / "benchmarks.jsonl")
    assert (DOCS / "claims.md").read_text() == claims.page(runs, head, results)


@pytest.mark.parametrize("claim", [*claims.MEASURED, *claims.TESTED], ids=lambda one: one.says)
def test_a_claim_without_its_figure_is_an_error(claim: claims.Claim) -> None:
    _, results = published()
    runs = runs_of(DOCS / "plots" / "benchmarks.jsonl")
    of = claims.Figures(runs, results)
    assert claim.figure(of)
    for answers in runs:
        for name in of.used:
            answers.rows.pop(name, None)
    failed = [
        one | {"outcome": "failed"} if one["test"].startswith(of.used[-1]) else one
        for one in results
    ]
    with pytest.raises(claims.ClaimError, match="no figure: "):
        claims.rows([claim], "test", runs, failed)
