"""The README's training example runs unchanged, and is about ten lines."""

import re
from pathlib import Path

import pytest
from make_demo_tree import make_tree
from readme_example import example

from cinic_shards.write.pack import pack
from tests.support import ROOT


def test_the_training_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tree(tmp_path / "tree", per_class=54, seed=0)
    pack(tmp_path / "tree", tmp_path / "shards", workers=1)
    monkeypatch.chdir(tmp_path)
    code = example()
    assert len(code.splitlines()) <= 14
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("loss") == 2


def test_every_figure_of_why_is_a_claim() -> None:
    """docs/claims.md is generated from measurements, and names the command of each."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    claims = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    why = readme.partition("## Why\n")[2].partition("\n## ")[0]
    figures = re.findall(r"\d[\d,.]*\d", why)
    assert len(figures) >= 5
    missing = [one for one in figures if not re.search(rf"(?<![\d.,]){one}(?![\d,])", claims)]
    assert not missing
