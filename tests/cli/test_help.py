"""Help, suggestions, completion, ``--json`` and ``--quiet`` of every command."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from cinic_shards import cli
from cinic_shards.loader import bench, warmup
from tests.support.command import Run

GROUP: Any = typer.main.get_command(cli.app)
NAMES = sorted(GROUP.commands)


def examples(text: str) -> list[list[str]]:
    """The commands in a help's examples, as words."""
    lines = text.partition("\nExamples:\n")[2].replace("\\\n", "")
    return [shlex.split(re.split(" && | [|] ", line)[0]) for line in lines.splitlines()]


# --- Help -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = run(name, "--help")
    assert (found.status, found.err) == (0, "")
    assert [line for line in found.out.splitlines() if len(line) > 80] == []
    assert not re.search(r"<(bool|int|float|str|path|list.*)>|`|\*\*", found.out)
    first, _, rest = found.out.partition("\n\n  ")
    assert first.startswith(f"Usage: cinic-shard {name} ")
    assert rest.startswith(GROUP.commands[name].help.partition("\n")[0] + "\n")
    for param in GROUP.commands[name].params:
        assert param.help and (param.metavar or param.is_flag)
    commands = examples(found.out)
    assert commands and all(words[:2] == ["cinic-shard", name] for words in commands)
    for words in commands:
        GROUP.commands[name].make_context(name, words[2:])  # they are valid


def test_help_has_a_line_for_each_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("--help").out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    for name in NAMES:
        start = GROUP.commands[name].help.partition("\n")[0].rstrip(".")
        assert [line for line in lines if line.startswith(f"  {name} ")] == [
            f"  {name:<15}  {start}"
        ]


def test_no_arguments_show_the_first_steps(run: Run) -> None:
    found = run()
    assert (found.status, found.out) == (2, "")
    commands = re.findall(r"^  (cinic-shard .*?)   *\S", found.err, re.M)
    assert [line.split()[1] for line in commands] == ["pack", "verify", "info"]
    assert "All commands:  cinic-shard --help\n" in found.err


# --- Suggestions ------------------------------------------------------------------------------

SUGGESTIONS = [
    ("pakc a b", "Did you mean 'pack'"),
    ("verfy a", "Did you mean 'verify'?"),
    ("restore-cifar a", "Did you mean 'restore-cifar10'?"),
    ("pack a b --encodin raw", "Did you mean --encoding?"),
    ("verify a --quik", "Did you mean --quick, --quiet?"),
    ("pack a b --encoding zst", "'zst' is not one of 'png', 'zstd', 'raw'; did you mean 'zstd'?"),
    ("restore-cifar10 a b --format batch", "did you mean 'batches'?"),
    ("stats {shards} --split trian", "there is test, train, valid; did you mean 'train'?"),
    ("stats {shards} --split train+tset", "did you mean 'test'?"),
    ("unpack {shards} {tmp}/x --split Valid", "did you mean 'valid'?"),
    ("unpack {shards} {tmp}/x --class aeroplane", "did you mean 'airplane'?"),
    ("stats {shards} --class Cat", "did you mean 'cat'?"),
    ("show {shards} -o {tmp}/x.png --class trcuk", "did you mean 'truck'?"),
    ("stats {shards} --origin imgenet", "did you mean 'imagenet'?"),
    ("select {shards} {tmp}/x --split all=trainn", "did you mean 'train'?"),
    ("select {shards} {tmp}/x --exclude-duplicates-of tests", "did you mean 'test'?"),
]


@pytest.mark.parametrize("line, said", SUGGESTIONS)
def test_a_similar_name_is_suggested(
    run: Run, demo_shards: Path, tmp_path: Path, line: str, said: str
) -> None:
    found = run(*line.format(shards=demo_shards, tmp=tmp_path).split())
    assert (found.status, found.out) == (2, "") and said in found.err


# --- Completion -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, completed",
    [
        ("cinic-shard pa", ["pack", "partition"]),
        ("cinic-shard pack a b --enc", ["--encoding"]),
        ("cinic-shard pack a b --encoding ", ["png", "zstd", "raw"]),
    ],
)
def test_completion(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: str, completed: list[str]
) -> None:
    monkeypatch.setenv("_CINIC_SHARD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    assert run().out.split() == completed


# --- JSON and quiet ---------------------------------------------------------------------------

WRITTEN = "path num_samples num_shards bytes encoding fingerprint seconds"
JSON = {
    "pack {tree} {tmp}/x": WRITTEN,
    "convert {shards} {tmp}/x --encoding raw": WRITTEN,
    "select {shards} {tmp}/x --class cat": WRITTEN,
    "select {shards} {tmp}/x --class cat --tree": "path num_written num_kept seconds",
    "unpack {shards} {tmp}/x --class cat": "path num_written num_kept seconds",
    "info {shards}": "num_samples encoding classes splits",
    "info {shards} --duplicates": "counts groups",
    "verify {shards}": "is_whole faults num_samples leftovers",
    "verify {shards} --against {tree}": "is_whole faults num_samples leftovers",
    "show {shards} -o {tmp}/x.png": "path num_images seconds",
    "report {shards} -o {tmp}/x.html": "path bytes is_whole num_faults seconds",
    "stats {shards}": "num_samples mean std splits classes origins synsets duplicates",
    "stats {shards} --histograms": "num_samples histograms",
    "reindex {copy}": "path num_samples num_shards fingerprint seconds",
    "warmup": "seconds",
    "bench {tree} {shards}": (
        "name setting dtype images_per_second rates ratio_to_best_imagefolder"
    ),
    "cache --folder {tmp}": "",
    "contributors {shards}": "synset image_num cinic_set class",
}
"""Command -> keys that its help names; fetch, build and restore-cifar10 are in tests/cinic."""
RESULTS = ("info", "stats", "bench", "contributors")
"""The commands whose ``--quiet`` prints the result."""


@pytest.fixture
def arguments(
    demo_tree: Path, demo_shards: Path, shards: Path, tmp_path: Path, monkeypatch: Any
) -> dict[str, Path]:
    """Paths for the commands; nothing is measured or compiled."""
    results = [bench.Result(name, "", (1.0,)) for name in ("imagefolder", "cinic-shards")]
    monkeypatch.setattr(bench, "compare", lambda *args, **options: results)
    monkeypatch.setattr(warmup, "warm_up", lambda: None)
    return {"tree": demo_tree, "shards": demo_shards, "copy": shards, "tmp": tmp_path}


@pytest.mark.parametrize("line", JSON)
def test_json(run: Run, arguments: dict[str, Path], line: str) -> None:
    words = line.format(**arguments).split()
    found = run(*words, "--json")
    assert (found.status, found.err, found.hints) == (0, "", ())
    content = json.loads(found.out)
    first = content[0] if isinstance(content, list) and content else content
    assert set(JSON[line].split()) <= set(first)
    if "path" in first:
        assert Path(first["path"]).exists()
    described = re.sub(r"\s+", " ", run(words[0], "--help").out)
    for key in JSON[line].split() if words[0] != "select" else ():
        assert key in described


@pytest.mark.parametrize("line", JSON)
def test_quiet(run: Run, arguments: dict[str, Path], line: str) -> None:
    found = run(*line.format(**arguments).split(), "--quiet")
    assert (found.status, found.err, found.hints) == (0, "", ())
    assert bool(found.out) == line.startswith(RESULTS)


@pytest.mark.parametrize(
    "line", ["info {tmp}", "verify {tmp}", "pack {tmp}/no {tmp}/x", "stats {tmp}"]
)
def test_a_failure_prints_no_json(run: Run, tmp_path: Path, line: str) -> None:
    found = run(*line.format(tmp=tmp_path).split(), "--json")
    assert (found.status, found.out) == (1, "") and found.err.startswith("error: ")


# --- What to do next --------------------------------------------------------------------------

NEXT = [
    ("pack {tree} {tmp}/x", "cinic-shard verify {tmp}/x --against {tree}"),
    ("pack {tree}/train {tmp}/x --split-name a", "--against {tree}/train --split-name a"),
    ("convert {shards} {tmp}/x --encoding raw", "cinic-shard verify {tmp}/x"),
    ("select {shards} {tmp}/x --class cat", "cinic-shard info {tmp}/x"),
    ("verify {shards} --against {tree}", "in Python, ShardLoader('{shards}', split=...)"),
    ("reindex {copy}", "cinic-shard verify {copy}"),
    ("report {shards} -o {tmp}/x.html", "open {tmp}/x.html in a browser"),
    ("info {shards}", None),
    ("unpack {shards} {tmp}/x --class cat", None),
    ("show {shards} -o {tmp}/x.png", None),
]  # fmt: skip


@pytest.mark.parametrize("line, said", NEXT)
def test_the_last_line_says_what_to_do_next(
    run: Run, arguments: dict[str, Path], line: str, said: str | None
) -> None:
    found = run(*line.format(**arguments).split())
    assert found.status == 0
    hints = [hint for hint in found.hints if hint.startswith("next: ")]
    assert len(hints) == (said is not None)
    if said is not None:
        assert hints[0].endswith(said.format(**arguments))
        if "cinic-shard" in hints[0]:  # the command works as it is printed
            assert run(*shlex.split(hints[0])[2:]).status == 0


def test_the_next_command_is_quoted(run: Run, demo_tree: Path, tmp_path: Path) -> None:
    found = run("pack", demo_tree, tmp_path / "my shards")
    assert f"cinic-shard verify '{tmp_path}/my shards' --against" in found.hints[-1]
