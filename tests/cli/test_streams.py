"""Closed, full and narrow standard streams, and names from strangers, with every command."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from cinic_shards import cli
from cinic_shards.write.pack import pack
from tests.support.command import COMMAND, Outcome, Run
from tests.support.files import write

COMMANDS = {
    "info": "info {shards}",
    "info --json": "info {shards} --json",
    "info --duplicates": "info {shards} --duplicates",
    "info --duplicates --json": "info {shards} --duplicates --json",
    "verify": "verify {shards} --workers 1",
    "verify --json": "verify {shards} --workers 1 --json",
    "verify of damage": "verify {damaged} --workers 1",
    "verify of damage --json": "verify {damaged} --workers 1 --json",
    "stats": "stats {shards} --workers 1",
    "stats --json": "stats {shards} --workers 1 --histograms --json",
    "reindex": "reindex {shards} --workers 1",
    "show": "show {shards} -o {tmp}/show.png",
    "report": "report {shards} -o {tmp}/report.html --workers 1",
    "contributors": "contributors {shards}",
    "pack": "pack {tree} {tmp}/packed --workers 1",
    "convert": "convert {shards} {tmp}/raw --encoding raw --workers 1",
    "select": "select {shards} {tmp}/selected --workers 1",
    "unpack": "unpack {shards} {tmp}/tree --workers 1",
    "--version": "--version",
    "--help": "--help",
    "help of a command": "pack --help",
}
FAILS = {"verify of damage", "verify of damage --json"}
"""These end with status 1."""

CLASSES = ("żółw", "猫", "emoji 🐈")
"""Names that neither ASCII nor Latin-1 can encode."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree, its shards, and the same shards without the last one; read only."""
    root = tmp_path_factory.mktemp("names")
    for name in CLASSES:
        write(root / "tree" / "train" / name, "n02121808_1.png", "n02121808_2.png")
    pack(root / "tree", root / "shards", workers=1)
    damaged = shutil.copytree(root / "shards", root / "damaged")
    (damaged / "train-00000-of-00001.tar").unlink()
    return root


@pytest.fixture
def arguments(tmp_path: Path, original: Path) -> Callable[[str], list[str]]:
    """Return a function that fills in a command's paths, and splits it at spaces."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    paths = {name: tmp_path / name for name in ("tree", "shards", "damaged")}
    return lambda command: command.format(tmp=tmp_path, **paths).split(" ")


def run_with(monkeypatch: pytest.MonkeyPatch, arguments: list[str], out: Any, err: Any) -> int:
    """Run the command in this process with these standard streams; return its exit status."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["cinic-shard", *arguments])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            cli.main()
        except SystemExit as exit_:
            return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    return 0


def unwritable(stream: str) -> AbstractContextManager[Any]:
    """Return a standard stream that is ``closed`` or ``full``."""
    return nullcontext() if stream == "closed" else open("/dev/full", "w")


def text_file(encoding: str = "utf-8") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


def written(file: io.TextIOWrapper) -> str:
    file.seek(0)
    return file.buffer.read().decode(file.encoding)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ("closed", "error: standard output is closed; send it to a file or to /dev/null\n"),
        ("full", "error: standard output: No space left on device\n"),
    ],
)
def test_standard_output_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, arguments: Any, name: str, stream: str, message: str
) -> None:
    err = text_file()
    with unwritable(stream) as out:
        assert run_with(monkeypatch, arguments(COMMANDS[name]), out, err) == 1
    assert written(err).endswith(message) and "Traceback" not in written(err)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("stream", ["closed", "full"])
def test_standard_error_that_cannot_be_written_changes_nothing_else(
    monkeypatch: pytest.MonkeyPatch, arguments: Any, name: str, stream: str
) -> None:
    out = text_file()
    with unwritable(stream) as err:
        status = run_with(monkeypatch, arguments(COMMANDS[name]), out, err)
    assert status == (name in FAILS)
    assert written(out)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_that_lacks_letters(
    monkeypatch: pytest.MonkeyPatch, arguments: Any, name: str, encoding: str
) -> None:
    out, err = text_file(encoding), text_file(encoding)
    assert run_with(monkeypatch, arguments(COMMANDS[name]), out, err) == (name in FAILS)
    assert "Traceback" not in written(err)
    if name.endswith("--json"):
        json.loads(written(out))
    if name == "contributors":  # the bytes of a file, whatever the encoding
        lines = out.buffer.getvalue().decode().splitlines()  # type: ignore[attr-defined]
        assert [line.split(", ")[-1] for line in lines[1::2]] == sorted(CLASSES)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_control_character_of_a_stranger_reaches_a_terminal(
    run: Run, arguments: Any, tmp_path: Path, name: str
) -> None:
    hostile = "\x1b[2J \x9b31m \x7f \u202e \x07 \r"
    for folder in ("shards", "damaged"):
        path = tmp_path / folder
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["licence"] = manifest["citation"] = hostile
        (path / "manifest.json").write_text(json.dumps(manifest))
    found = run(*arguments(COMMANDS[name]))
    for text in (found.out, found.err):
        assert all(letter.isprintable() or letter == "\n" for letter in text), repr(text)
    if name.endswith("--json") and found.out:
        json.loads(found.out)


def started(command: str, *arguments: str) -> Outcome:
    """Run a shell command in which ``$@`` is the command with its arguments."""
    done = subprocess.run(
        ["sh", "-c", command, "sh", str(COMMAND), *arguments], capture_output=True, text=True
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.mark.real
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ('"$@" >&-', Outcome(1, "", "error: standard output is closed; send it to a file or")),
        ('"$@" >/dev/full', Outcome(1, "", "error: standard output: No space left on device\n")),
        ('"$@" 2>&-', Outcome(0, "{\n", "")),
        ('"$@" 2>/dev/full', Outcome(0, "{\n", "")),
        ('"$@" <&- >&- 2>&-', Outcome(1, "", "")),
        ('"$@" | true; exit 0', Outcome(0, "", "")),
        ('"$@" | head -1', Outcome(0, "{\n", "")),
        ('PYTHONIOENCODING=ascii "$@"', Outcome(0, "{\n", "")),
    ],
)
@pytest.mark.parametrize("name", ["info --json", "stats --json"])
def test_real_processes(arguments: Any, command: str, expected: Outcome, name: str) -> None:
    found = started(command, *arguments(COMMANDS[name]))
    assert found.status == expected.status
    assert found.out.startswith(expected.out) and found.err.startswith(expected.err)
    assert bool(found.out) == bool(expected.out) and bool(found.err) == bool(expected.err)
