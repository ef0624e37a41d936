r"""Write a page of evidence from the results of ``make acceptance``, and a copy of the results.

make acceptance TREE=./cinic
python tools/evidence.py acceptance.jsonl docs/evidence.md

The copy, docs/evidence.jsonl, lacks the tracebacks of failed tests: they name files of the machine.
``python tools/evidence.py docs/evidence.jsonl docs/evidence.md`` writes the same page again. The
tests may run in parts: with several files of results, a test counts with its last result.
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

MAX_LETTERS = 160
"""Longer figures are cut; acceptance.jsonl has all of them."""


def shown(value: Any) -> str:
    """A figure as a few words: ``kills 4; seconds to resume: median 0.07, max 0.11``."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def row(result: dict[str, Any]) -> str:
    """A table row for one result."""
    figures = "; ".join(
        f"{name.replace('_', ' ')}: {shown(value)}" for name, value in result["figures"].items()
    )
    if len(figures) > MAX_LETTERS:
        figures = figures[: MAX_LETTERS - 4].rpartition(" ")[0] + " ..."
    if result["outcome"] == "skipped":
        figures = result["reason"]
    cells = [
        result["question"].replace("``", "`"),
        f"**{result['outcome']}**" if result["outcome"] != "passed" else "passed",
        figures.replace("|", r"\|"),
        f"{result['seconds']:,.0f}",
        f"`{result['test'].replace('|', ' ')}`",
    ]
    return f"| {' | '.join(cells)} |"


PAGE = """# Evidence

Results of `make acceptance TREE=./cinic`, written by `tools/evidence.py`. Each row is a test of
[tests/acceptance](../tests/acceptance): the question that it answers, and the figures it saw.

{counts}, in {seconds:,.0f} s{runs}; tree: {trees}.
{cores} cores of {processor}, {memory_gib} GiB, {system}; {versions}.

| question | result | figures | seconds | test |
| --- | --- | --- | ---: | --- |
{rows}
"""


def page(head: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """The page, in Markdown."""
    counts = Counter(one["outcome"] for one in results)
    trees = {f"{one['images']:,} images ({one['tree']})" for one in results if "tree" in one}
    num_runs = head.get("runs", 1)
    return PAGE.format(
        runs=f" of {num_runs} runs, each test with its last result" if num_runs > 1 else "",
        counts=", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()),
        seconds=sum(one["seconds"] for one in results),
        trees=", ".join(sorted(trees)),
        versions=", ".join(f"{name} {version}" for name, version in head["versions"].items()),
        rows="\n".join(map(row, sorted(results, key=lambda one: one["outcome"] == "passed"))),
        **head["machine"],
    )


def main() -> None:
    """Read the results, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+", help="JSON lines of make acceptance")
    parser.add_argument("page", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    for path in args.results:
        head, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        again = {one["test"] for one in lines}
        results = [one for one in results if one["test"] not in again] + lines
    if len(args.results) > 1:
        head["runs"] = len(args.results)
    for one in results:
        if one["outcome"] == "failed":
            one.pop("reason", None)
    copy = "".join(f"{json.dumps(one)}\n" for one in (head, *results))
    if found := re.search(r"/(?:tmp|home|root|Users)/\S*", copy):
        parser.error(f"a path of this machine, {found[0]}: remove it from the test")
    args.page.write_text(page(head, results), encoding="utf-8")
    args.page.with_suffix(".jsonl").write_text(copy, encoding="utf-8")


if __name__ == "__main__":
    main()
