"""The words of the project: what a docstring starts with, and phrases with a plainer form."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support import ROOT

FOLDERS = "cinic_shards", "tests", "tools", "benchmarks"

STARTS = "Of", "Where", "What", "Whether"
"""A docstring starts with none of these: it names a thing or an action. A question may."""

PLAINER = {
    r"anew": "again; rebuilt, re-encoded",
    r"go(es)? on": "resume, continue",
    r"there more than once": "duplicate",
    r"with other bytes": "with different content",
    r"that (is|are) none": "invalid",
    r"(size|header|value|name) that cannot be": "invalid",
    r"where none": "None if there is none",
    r"cannot be had": "missing",
    r"told|tells?": "reports, returns, prints, says",
    r"the one who waits": "progress",
    r"what the places are": "maps positions",
}
"""A phrase as a regular expression -> what to write instead."""


def python_files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile"])


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a page; docstrings, messages and comments of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for number, line in enumerate(node.value.splitlines()):
                yield node.lineno + number, line
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.search(r"(^|\s)# (.*)", line):
            yield number, match[2]


def test_docstrings_start_with_a_noun_or_a_verb() -> None:
    found = []
    begins = re.compile(rf"""["']({"|".join(STARTS)})\b""")
    for path in python_files():
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if begins.search(text) else ():
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if is_text and isinstance(node.value.value, str):
                first = node.value.value.partition("\n")[0]
                if first.split(" ")[0] in STARTS and not first.endswith("?"):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {first}")
    assert not found, "\n".join(found)


def test_plain_words() -> None:
    pattern = re.compile(rf"\b({'|'.join(PLAINER)})\b", re.IGNORECASE)
    found = []
    for path in [*python_files(), *pages()]:
        if path == Path(__file__) or not pattern.search(path.read_text(encoding="utf-8")):
            continue
        for number, line in texts(path):
            if match := pattern.search(line):
                plainer = next(p for one, p in PLAINER.items() if re.fullmatch(one, match[0], re.I))
                where = f"{path.relative_to(ROOT)}:{number}"
                found.append(f"{where}: {match[0]!r} in {line.strip()[:90]!r}; write: {plainer}")
    assert not found, "\n".join(found)
