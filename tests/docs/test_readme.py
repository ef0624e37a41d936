"""The README's training example runs unchanged, and is about ten lines."""

from pathlib import Path

import pytest
from make_demo_tree import make_tree
from readme_example import example

from cinic_shards.write.pack import pack


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
