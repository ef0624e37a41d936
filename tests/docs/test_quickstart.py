"""The commands of docs/quickstart.md print what the page shows, but for numbers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
SHOWN = [
    (command, output)
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.M | re.S)
    for command, output in re.findall(r"^\$ (.+)\n((?:(?!\$ ).+\n)*)", block, re.M)
    if output
]
"""Commands whose output the page shows, and the output."""


def test_the_page_shows_outputs() -> None:
    assert [command.split()[0] for command, _ in SHOWN].count("cinic-shard") == 3


def without_numbers(text: str) -> list[str]:
    return re.sub(r"\d[\d,.]*", "#", text).split()


@pytest.mark.real
def test_commands_print_what_the_page_shows(tmp_path: Path) -> None:
    for command, output in SHOWN:
        words = re.sub("^cinic-shard", "python -m cinic_shards", command).split()
        words = [{"python": sys.executable}.get(word, word) for word in words]
        words = [str(ROOT / word) if word.startswith("tools/") else word for word in words]
        done = subprocess.run(
            words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert without_numbers(done.stdout) == without_numbers(output)
