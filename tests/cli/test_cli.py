"""The command: exit statuses, one message for a mistake, help with examples, no import of torch."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from cinic_shards import __version__, cli, progress
from cinic_shards.codec import ENCODINGS
from cinic_shards.jobs.processes import LOGGER
from cinic_shards.read.dataset import Dataset
from cinic_shards.write.pack import PackOptions, pack
from tests.support.command import Outcome, Run, outcome
from tests.support.files import write

COMMAND = Path(sys.executable).with_name("cinic-shard")


def run_process(*arguments: object, **environment: str) -> Outcome:
    """Run the command as a user does, but not on a terminal."""
    result = subprocess.run(
        [str(part) for part in (COMMAND, *arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )
    return outcome(result.returncode, result.stdout, result.stderr)


def is_one_message(outcome: Outcome, status: int) -> bool:
    """Return True if there is one message on stderr, nothing on stdout and no traceback."""
    return (
        outcome.status == status
        and outcome.err.startswith("error: ")
        and outcome.err.count("error: ") == 1
        and "Traceback" not in outcome.err
        and outcome.out == ""
    )


# --- pack -------------------------------------------------------------------------------------


def test_pack_in_a_separate_process(demo_tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    found = run_process("pack", demo_tree, out)
    assert (found.status, found.err) == (0, "")
    line = r"270 images in 3 shards, \d\.\d MB, \d+\.\d s \([\d,]+ images/s\): "
    assert re.fullmatch(line + re.escape(f"{out}\n"), found.out)
    pack(demo_tree, tmp_path / "expected", workers=1)
    for path in (tmp_path / "expected").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "arguments, options",
    [
        ("", PackOptions()),
        ("--shard-size 40", PackOptions(shard_size=40)),
        ("--shards 4", PackOptions(shards=4)),
        ("--seed 3", PackOptions(seed=3)),
        ("--sidecars cls", PackOptions(sidecars=("cls",))),
        ("--sidecars cls,json", PackOptions(sidecars=("cls", "json"))),
        ("--sidecars json", PackOptions(sidecars=("json",))),
        ("--sidecars none", PackOptions(sidecars=())),
        ("--workers 1 --seed 0 --shard-size 10240", PackOptions()),
        ("--encoding raw", PackOptions(encoding="raw")),
        (
            "--encoding zstd --block-size 16 --shard-size 40",
            PackOptions(encoding="zstd", block_size=16, shard_size=40),
        ),
    ],
)
def test_options_reach_the_packer(
    run: Run, demo_tree: Path, tmp_path: Path, arguments: str, options: PackOptions
) -> None:
    found = run("pack", demo_tree, tmp_path / "out", "--workers", "1", *arguments.split())
    assert (found.status, found.err) == (0, "")
    assert found.out.endswith(f": {tmp_path / 'out'}\n") and found.out.count("\n") == 1
    expected = pack(demo_tree, tmp_path / "expected", options, workers=1)
    assert Dataset(tmp_path / "out").manifest == expected


def test_convert(run: Run, demo_tree: Path, demo_shards: Path, tmp_path: Path) -> None:
    arguments = ("convert", demo_shards, tmp_path / "out", "--workers", "1")
    found = run(*arguments, "--encoding", "raw")
    assert (found.status, found.err) == (0, "")
    assert found.out.startswith("270 images in 9 shards, ")
    assert run("verify", tmp_path / "out", "--against", demo_tree, "--workers", "1").status == 0
    assert "encoding: raw\nblock size: 1024\n" in run("info", tmp_path / "out").out
    again = run(*arguments, "--encoding", "raw")
    assert is_one_message(again, 1) and "--overwrite replaces it" in again.err
    back = run("convert", tmp_path / "out", tmp_path / "png", "--encoding", "png")
    assert back.status == 0 and back.err.startswith("warning: the PNGs are re-encoded: ")
    for command in (["convert", demo_shards, "--encoding", "raw"], ["select", demo_shards]):
        found = run(*command, tmp_path / command[0], "--shards", "2", "--workers", "1")
        assert found.status == 0 and found.out.startswith("270 images in 6 shards, ")
    many = run("pack", demo_tree, tmp_path / "x", "--encoding", "raw", "--block-size", "99999")
    assert is_one_message(many, 2) and "choose a smaller --block-size" in many.err


def test_warmup(run: Run) -> None:
    found = run("warmup")
    assert found.status == 0
    assert re.fullmatch(r"all kernels compiled, \d+\.\d s\n", found.out)


def test_overwrite(run: Run, demo_tree: Path, tmp_path: Path) -> None:
    arguments = ("pack", demo_tree, tmp_path / "out", "--workers", "1")
    assert run(*arguments).status == 0
    again = run(*arguments)
    assert is_one_message(again, 1) and "--overwrite replaces it" in again.err
    assert run(*arguments, "--overwrite").status == 0


def test_quiet(run: Run, demo_tree: Path, tmp_path: Path) -> None:
    shutil.copytree(demo_tree, tmp_path / "tree")
    (tmp_path / "tree" / "notes.txt").touch()
    arguments = ("pack", tmp_path / "tree", "--workers", "1")
    loud = run(*arguments, tmp_path / "loud")
    assert loud.err == "warning: left out, not images: notes.txt\n"
    quiet = run(*arguments, tmp_path / "quiet", "--quiet")
    assert quiet == Outcome(0, "", "") == run(*arguments, tmp_path / "q", "-q")


def test_a_long_run_prints_lines_of_progress(
    run: Run, demo_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal there is no bar; with 0 seconds between lines, each report is a line."""
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    found = run("pack", demo_tree, tmp_path / "out", "--workers", "1", "--shard-size", "90")
    assert found.status == 0
    lines = found.err.splitlines()
    assert len(lines) == 30 + 4
    assert all(re.match(r"scan: [\d,]+ images, ", line) for line in lines[:30])
    assert all(re.match(r"pack: [\d,]+ of 270 images, ", line) for line in lines[30:])
    assert "\x1b" not in found.err + found.out


def test_a_long_path_stays_on_its_line(run: Run, demo_tree: Path, tmp_path: Path) -> None:
    out = tmp_path / ("x" * 200) / ("y" * 200)
    found = run("pack", demo_tree, out, "--workers", "1")
    assert found.status == 0 and found.out.endswith(f": {out}\n")


@pytest.mark.parametrize("name", ["shards[1]", "[bold]", "shards[/b]", ":cat:", "a\\[b]"])
def test_a_path_is_printed_unchanged(run: Run, demo_tree: Path, tmp_path: Path, name: str) -> None:
    """Markup of the printing library in a path has no effect."""
    out = tmp_path / name
    found = run("pack", demo_tree, out, "--workers", "1")
    assert found.status == 0 and found.out.endswith(f": {out}\n")
    again = run("pack", demo_tree, out, "--workers", "1")
    assert is_one_message(again, 1) and str(out) in again.err


# --- Mistakes ---------------------------------------------------------------------------------

MISTAKES = {
    "no such tree": (1, "pack {tmp}/nothing {tmp}/out", "no such folder"),
    "a file for a tree": (1, "pack {tmp}/file {tmp}/out", "not a folder"),
    "an empty tree": (1, "pack {tmp}/empty {tmp}/out", "no .png file in any"),
    "a fault in the tree": (1, "pack {tmp}/faulty {tmp}/out", "train/cat/x.png: an empty file"),
    "an occupied output": (1, "pack {tree} {tmp}/occupied", "holds thesis.tex and 0 more"),
    "a file for an output": (1, "pack {tree} {tmp}/file", "a file, expected a folder"),
    "a path through a file": (1, "pack {tree} {tmp}/file/x", "{tmp}/file"),
    "a name too long": (1, "pack {tree} {tmp}/{long}", "File name too long"),
    "a tree's name too long": (1, "pack {tmp}/{long} {tmp}/out", "{long}"),
    "a link to itself": (1, "pack {tmp}/loop {tmp}/out", "{tmp}/loop"),
    "an output inside the tree": (2, "pack {tree} {tree}/shards", "is inside the tree"),
    "an output on a web server": (
        2,
        "pack {tree} https://host/x",
        "server cannot be written",
    ),
    "a shard size and shards": (
        2,
        "pack {tree} {tmp}/out --shard-size 9 --shards 2",
        "shards 2: give one of them",
    ),
    "a shard size of 0": (2, "pack {tree} {tmp}/out --shard-size 0", "expected at least 1"),
    "a negative seed": (2, "pack {tree} {tmp}/out --seed -1", "expected a number from 0"),
    "no workers": (2, "pack {tree} {tmp}/out --workers 0", "expected an integer, at least 1"),
    "an unknown sidecar": (2, "pack {tree} {tmp}/out --sidecars txt", "expected any of cls, json"),
    "none and another": (2, "pack {tree} {tmp}/out --sidecars none,cls", "expected any of cls"),
    "an empty sidecar": (2, "pack {tree} {tmp}/out --sidecars cls,", "expected any of cls, json"),
    "no dataset": (1, "info {tmp}/nothing", "no dataset; give a folder that cinic-shard pack"),
    "an empty folder": (1, "info {tmp}/empty", "no dataset"),
    "a tree for a dataset": (
        1,
        "info {tree}",
        "a folder of images, not of shards; pack it first: cinic-shard pack {tree}",
    ),
    "a file for a dataset": (1, "info {tmp}/file", "a file, expected a folder"),
    "a damaged manifest": (1, "info {tmp}/damaged", "the file is damaged or was edited"),
    "a URL with an unknown scheme": (2, "info ftp://host/x", "unknown scheme ftp://"),
    "a dataset's name too long": (1, "info {tmp}/{long}", "File name too long"),
    "a URL for a tree": (2, "pack s3://b/x {tmp}/out", "is a URL, expected a path"),
    "a URL for a tree to write": (2, "unpack {shards} s3://b/x", "is a URL, expected a path"),
    "a URL with a fragment": (2, "pack {tree} s3://b/x#1 --overwrite", "the URL has a '#'"),
    "a URL with one slash": (2, "pack {tree} s3:/b/x", "expected s3://, or ./ before a path"),
    "an unknown executor": (2, "pack {tree} {tmp}/out --executor x", "expected process, process:N"),
    "a tree and links": (
        2,
        "select {shards} {tmp}/out --tree --symlink-to {tree}",
        "--symlink-to writes links; give one of them",
    ),
    "a format of nothing": (
        2,
        "restore-cifar10 {shards} --check {tmp}/file --format npz",
        "there is nothing to write",
    ),
    "bench without shards": (1, "bench {tree} {tmp}/nothing", "no dataset"),
    "bench of an unknown split": (2, "bench {tree} {shards} --split nope", "no split 'nope'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_one_message(
    run: Run, demo_tree: Path, demo_shards: Path, tmp_path: Path, mistake: str
) -> None:
    for folder in ("empty", "faulty/train/cat", "occupied"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("file", "faulty/train/cat/x.png", "occupied/thesis.tex"):
        (tmp_path / file).touch()
    (tmp_path / "loop").symlink_to("loop")
    shutil.copytree(demo_shards, tmp_path / "damaged")
    manifest = tmp_path / "damaged" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    before = sorted(tmp_path.rglob("*"))

    paths = {"tmp": tmp_path, "tree": demo_tree, "shards": demo_shards, "long": "x" * 300}
    status, line, said = MISTAKES[mistake]
    found = run(*(part.format(**paths) for part in line.split()))
    assert is_one_message(found, status), found
    assert said.format(**paths) in found.err
    assert sorted(tmp_path.rglob("*")) == before


EMPTY = """
pack,,{tmp}/out
pack,{tree},
pack,{tree},{tmp}/out,--executor,
unpack,{shards},
info,
verify,{shards},--against,
show,{shards},-o,{tmp}/x.png,--split,
stats,{shards},--split=
fetch,{tmp},--url=
fetch,{tmp},--accept-hash,
report,{shards},-o,
contributors,{shards},--out=
""".strip().splitlines()


@pytest.mark.parametrize("line", EMPTY)
def test_an_empty_argument_is_rejected(
    run: Run,
    demo_tree: Path,
    demo_shards: Path,
    tmp_path: Path,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes from an unset variable; it would be the working folder, or the default."""
    monkeypatch.chdir(tmp_path)
    paths = {"tmp": tmp_path, "tree": demo_tree, "shards": demo_shards}
    found = run(*line.format(**paths).split(","))
    assert found.status == 2 and "an argument is empty" in found.err and found.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_value_may_end_with_an_equals_sign(run: Run, tmp_path: Path) -> None:
    """Such as base64 in the query of a signed URL."""
    found = run("fetch", tmp_path, "--url=ftp://host/f?sig=QUJD=")
    assert "unknown scheme ftp" in found.err or "expected https" in found.err, found.err


def test_warnings_of_logging_are_warnings(
    run: Run, demo_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dataset, "summary", lambda self: LOGGER.warning("busy \x1b[31m"))
    found = run("info", demo_shards, "--json")
    assert (found.status, found.out) == (0, "null\n")
    assert found.err == "warning: busy \\x1b[31m\n"


USAGE = [
    ("pack", "Missing argument"),
    ("pack a", "Missing argument"),
    ("pack a b c", "unexpected extra argument"),
    ("pack a b --shard-size many", "Invalid value for --shard-size"),
    ("pack a b --splits 3", "No such option"),
    ("transform a b", "No such command"),
    ("convert a b", "Missing option"),
    ("convert a", "Missing argument"),
    ("convert a b --encoding jpg", "jpg is not one of png zstd raw"),
    ("pack a b --encoding webp", "webp is not one of png zstd raw"),
    ("build a --cifar b --imagenet c --encoding webp", "webp is not one of png zstd raw"),
    ("restore-cifar10 a b --format tar", "tar is not one of batches npz"),
    ("verify", "Missing argument"),
    ("unpack a", "Missing argument"),
    ("reindex", "Missing argument"),
    ("--wrong", "No such option"),
    ("info", "Missing argument"),
    ("bench a b --batch-size 0", "Invalid value for --batch-size"),
    ("bench a b --epochs 0", "Invalid value for --epochs"),
]


@pytest.mark.parametrize("line, said", USAGE)
def test_wrong_usage(run: Run, line: str, said: str) -> None:
    found = run(*line.split())
    text = re.sub(r"[^\w-]+", " ", found.err)  # without the frame drawn around it
    assert found.status == 2 and said.lower() in text.lower()
    assert "Traceback" not in found.err and "Usage" in found.err


def test_a_mistake_in_a_separate_process(tmp_path: Path) -> None:
    (tmp_path / "tree" / "train" / "a").mkdir(parents=True)
    for name in ("x.png", "y.png", "z.jpg"):
        (tmp_path / "tree" / "train" / "a" / name).touch()
    found = run_process("pack", tmp_path / "tree", tmp_path / "out", "--workers", "2")
    assert is_one_message(found, 1)
    assert found.err == (
        f"error: {tmp_path}/tree: 3 problems; nothing was packed\n"
        "  train/a/x.png: an empty file\n"
        "  train/a/y.png: an empty file\n"
        "  train/a/z.jpg: an image, but not a PNG; convert it or remove it\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("utf-8", marks=pytest.mark.real)])
def test_a_name_that_is_not_utf8_is_reported(tmp_path: Path, encoding: str) -> None:
    folder = os.fsencode(tmp_path / "tree" / "train" / "a")
    os.makedirs(folder)
    try:
        with open(folder + b"/\xff.png", "wb"):
            pass
    except OSError:
        pytest.skip("NOT RUN: this file system stores no name that is not UTF-8")
    found = run_process(
        "pack", tmp_path / "tree", tmp_path / "out", "--workers", "1", PYTHONIOENCODING=encoding
    )
    assert is_one_message(found, 1)
    assert "a name that is not UTF-8; rename it" in found.err


def test_a_name_with_control_characters_does_not_steer_the_terminal(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "tree" / "train" / "\x1b[31mred").mkdir(parents=True)
    (tmp_path / "tree" / "train" / "a").mkdir()
    (tmp_path / "tree" / "train" / "a" / "\x1b]0;title\x07.png").touch()
    (tmp_path / "tree" / "train" / "\x9b2J.png").touch()
    found = run("pack", tmp_path / "tree", tmp_path / "out", "--workers", "1")
    assert is_one_message(found, 1)
    assert all(letter.isprintable() for letter in found.err.replace("\n", ""))


# --- info -------------------------------------------------------------------------------------


def test_info_as_json(run: Run, demo_shards: Path) -> None:
    found = run("info", demo_shards, "--json")
    assert (found.status, found.err) == (0, "")
    summary = json.loads(found.out)
    assert summary["num_samples"] == 270 and summary["encoding"] == "png"
    assert list(summary["splits"]) == ["test", "train", "valid"]
    assert all(sum(split["classes"].values()) == 90 for split in summary["splits"].values())
    assert summary == json.loads(json.dumps(Dataset(demo_shards).summary()))


def test_info(run: Run, demo_shards: Path) -> None:
    found = run("info", demo_shards)
    assert (found.status, found.err) == (0, "")
    manifest = Dataset(demo_shards).manifest
    for text in (manifest.fingerprint, manifest.licence, manifest.citation):
        assert text in found.out
    rows = [line.split() for line in found.out.splitlines()]
    assert ["images", "90", "90", "90"] in rows and ["shards", "3", "3", "3"] in rows
    assert ["image", "size", "32x32", "32x32", "32x32"] in rows
    assert all(["class:", name, "9", "9", "9"] in rows for name in manifest.classes)
    assert ["origin:", "imagenet", "70", "70", "70"] in rows


@pytest.mark.parametrize("name", ["[bold]", "[red]cat", ":cat:", "a[b]", "x" * 80])
def test_info_prints_a_class_unchanged(
    run: Run, tmp_path: Path, demo_tree: Path, name: str
) -> None:
    source = sorted((demo_tree / "train" / "cat").iterdir())[0]
    (tmp_path / "tree" / "train" / name).mkdir(parents=True)
    shutil.copy(source, tmp_path / "tree" / "train" / name)
    assert run("pack", tmp_path / "tree", tmp_path / "out", "--workers", "1").status == 0
    found = run("info", tmp_path / "out")
    assert found.status == 0 and f"class: {name}" in found.out
    assert list(json.loads(run("info", tmp_path / "out", "--json").out)["classes"]) == [name]


# --- Help -------------------------------------------------------------------------------------


def test_version(run: Run) -> None:
    assert run("--version") == Outcome(0, f"cinic-shard {__version__}\n", "")


@pytest.mark.parametrize(
    "command",
    [(), ("pack",), ("info",), ("build",), ("select",), ("bench",)],
    ids=" ".join,
)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_has_an_example(run: Run, command: tuple[str, ...], flag: str) -> None:
    found = run(*command, flag)
    assert (found.status, found.err) == (0, "")
    assert "Example" in found.out and "cinic-shard " + (command or ("pack",))[0] in found.out


GROUPS = {
    "Make and read": "pack convert select partition export unpack",
    "Look and check": "info verify show report stats reindex",
    "CINIC-10": "fetch build restore-cifar10 contributors",
    "Tools": "bench warmup cache",
}


def test_help_names_every_command_in_its_group(run: Run) -> None:
    text = run("--help").out
    names = [name for group, commands in GROUPS.items() for name in (group, *commands.split())]
    in_order = "|".join(map(re.escape, names))
    found = re.findall(rf"^ *({in_order})(?::$| )", text, re.M)
    assert found == names
    assert len(cli.app.registered_commands) == len(names) - len(GROUPS)


def test_choices_are_the_encodings() -> None:
    assert get_args(cli.options.EncodingName) == tuple(ENCODINGS)


# --- verify, unpack, reindex, duplicates ------------------------------------------------------


def damage(shards: Path) -> Path:
    path = sorted(shards.glob("train-*.tar"))[0]
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    return path


def test_an_intact_dataset(run: Run, demo_tree: Path, shards: Path) -> None:
    found = run("verify", shards)
    assert (found.status, found.err) == (0, "")
    assert re.fullmatch(
        r"intact: every byte and image of 270 samples in 9 shards, .* s\n", found.out
    )
    assert "intact: everything but the images of" in run("verify", shards, "--quick").out
    assert run("verify", shards, "--quiet") == Outcome(0, "", "")
    assert f"intact, same as {demo_tree}: " in run("verify", shards, "--against", demo_tree).out


def test_a_tree_with_other_files_must_not_be_deleted(
    run: Run, demo_tree: Path, packed: dict[str, Path], shards: Path, tmp_path: Path
) -> None:
    tree = Path(shutil.copytree(demo_tree, tmp_path / "tree"))
    write(tree, "labels.csv", "train/cat/a.txt", "train/b.txt", ".DS_Store")
    (tree / "train" / "dodo").mkdir()
    found = run("verify", shards, "--against", tree)
    assert found.status == 1
    first, *groups = found.out.splitlines()
    assert first.startswith(f"intact, same images as {tree}: ")
    assert groups == [
        f"{tree}: not in the dataset:",
        "  1 file: labels.csv",
        "  2 files in train/: train/b.txt, train/cat/a.txt",
    ]
    assert f"error: {tree}: 3 files are not in the dataset; move them before" in found.err
    assert "1 file such as .DS_Store" in found.err and "train/dodo" in found.err
    quiet = run("verify", shards, "--against", tree, "--quiet")
    assert (quiet.status, quiet.err.count("\n")) == (1, 1)
    content = json.loads(run("verify", shards, "--against", tree, "--json").out)
    assert content["leftovers"]["files"] == ["labels.csv", "train/b.txt", "train/cat/a.txt"]
    for name in ("labels.csv", "train/cat/a.txt", "train/b.txt"):
        (tree / name).unlink()
    assert run("verify", shards, "--against", tree).status == 0
    assert f"intact, same pixels as {tree}: " in run("verify", packed["raw"], "--against", tree).out


def test_every_fault_is_a_line(run: Run, shards: Path) -> None:
    path = damage(shards)
    found = run("verify", shards, "--workers", "1")
    assert found.status == 1 and found.err == f"error: {shards}: 2 faults\n"
    assert [line.partition(":")[0].partition(",")[0] for line in found.out.splitlines()] == [
        path.name,
        path.name,
    ]
    assert ", offset 512, sample 0 (train/" in found.out
    content = json.loads(run("verify", shards, "--json", "--workers", "1").out)
    assert not content["is_whole"] and len(content["faults"]) == 2
    assert content["faults"][1]["sample"] == 0 and content["faults"][1]["offset"] == 512


def test_files_that_are_not_part_of_the_dataset(run: Run, shards: Path) -> None:
    (shards / "notes.txt").touch()
    found = run("verify", shards)
    assert found.status == 0 and found.err == "warning: not part of the dataset: notes.txt\n"


def test_unpack(run: Run, demo_tree: Path, shards: Path, tmp_path: Path) -> None:
    found = run("unpack", shards, tmp_path / "out")
    assert found.status == 0 and found.out.startswith("270 files written, ")
    assert subprocess.run(["diff", "-r", demo_tree, tmp_path / "out"]).returncode == 0
    again = run("unpack", shards, tmp_path / "out").out
    assert again.startswith("0 files written, 270 existed already, ")
    part = run("unpack", shards, tmp_path / "part", "--class", "cat", "--class", "dog")
    assert part.out.startswith("54 files written, ")
    for number, options in enumerate((["train+dev"], ["dev", "--split", "train"])):
        joined = run("unpack", shards, tmp_path / f"joined{number}", "--split", *options)
        assert joined.out.startswith("180 files written, ")
        assert {path.name for path in (tmp_path / f"joined{number}").iterdir()} == {
            "train", "valid",
        }  # fmt: skip
    wrong = run("unpack", shards, tmp_path / "part", "--split", "nope")
    assert is_one_message(wrong, 2) and "no split 'nope'; there is test, train, valid" in wrong.err


def test_reindex(run: Run, shards: Path) -> None:
    (shards / "manifest.json").unlink()
    assert "cinic-shard reindex" in run("info", shards).err
    assert run("reindex", shards).out == f"270 samples: {shards}/manifest.json\n"
    assert run("verify", shards).status == 0
    damage(shards)
    assert is_one_message(run("reindex", shards), 1)


def test_duplicates(run: Run, demo_tree: Path, shards: Path, tmp_path: Path) -> None:
    found = run("info", shards, "--duplicates")
    assert (found.status, found.out) == (0, "0 images have duplicates\n")
    tree = Path(shutil.copytree(demo_tree, tmp_path / "tree"))
    for path in sorted(tree.glob("train/*/*.png"))[:3]:
        shutil.copy(path, tree / "test" / "cat" / f"copy_of_{path.name}")
    run("pack", tree, tmp_path / "out", "--quiet")
    lines = run("info", tmp_path / "out", "--duplicates").out.splitlines()
    assert lines[0] == "3 images have duplicates"
    assert lines[1].split() == ["class", "test", "&", "train"]
    assert lines[-1].split() == ["all", "3"]
    content = json.loads(run("info", tmp_path / "out", "--duplicates", "--json").out)
    assert [len(group) for group in content["groups"]] == [2, 2, 2]


# --- What is imported -------------------------------------------------------------------------

IMPORTS = """
import sys
sys.argv = ["cinic-shard", *{arguments!r}]
from cinic_shards.cli import main
status = 0
try:
    main()
except SystemExit as exit_:
    status = exit_.code or 0
found = sorted(set({unwanted!r}) & set(sys.modules))
print(status, found, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "line, unwanted",
    [
        ("--help", "torch numba numpy PIL"),
        ("--version", "torch numba numpy PIL"),
        ("pack --help", "torch numba numpy PIL"),
        ("bench --help", "torch numba numpy PIL"),
        ("build --help", "torch numba numpy PIL"),
        ("pack {tree} {tmp}/out --workers 1 --quiet", "torch webdataset torchvision"),
        ("info {shards}", "torch numba webdataset torchvision"),
        # Processes that only distribute jobs.
        ("pack {tree} {tmp}/out --workers 2 --quiet", "torch numba"),
        pytest.param(
            "verify {shards} --against {tree} --workers 2 --quiet",
            "torch numba",
            marks=pytest.mark.real,
        ),
        pytest.param(
            "unpack {shards} {tmp}/out --workers 2 --quiet", "torch numba", marks=pytest.mark.real
        ),
        pytest.param(
            "convert {shards} {tmp}/out --encoding raw --workers 2 --quiet",
            "torch numba",
            marks=pytest.mark.real,
        ),
        pytest.param(
            "select {shards} {tmp}/out --class cat --workers 2 --quiet",
            "torch numba",
            marks=pytest.mark.real,
        ),
    ],
)
def test_libraries_that_a_command_does_not_import(
    demo_tree: Path, demo_shards: Path, tmp_path: Path, line: str, unwanted: str
) -> None:
    paths = {"tmp": tmp_path, "tree": demo_tree, "shards": demo_shards}
    arguments = [part.format(**paths) for part in line.split()]
    script = IMPORTS.format(arguments=arguments, unwanted=unwanted.split())
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stderr.splitlines()[-1] == "0 []"


@pytest.mark.real
def test_workers_do_not_import_torch(demo_tree: Path, tmp_path: Path) -> None:
    """Several processes pack even if torch cannot be imported."""
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text("raise ImportError('no torch')")
    found = run_process(
        *("pack", demo_tree, tmp_path / "out", "--workers", "2", "--quiet"),
        PYTHONPATH=os.pathsep.join([str(tmp_path / "broken"), os.environ.get("PYTHONPATH", "")]),
    )
    assert (found.status, found.err) == (0, "")


# --- On a terminal ----------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_bar(demo_tree: Path, tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "pack", demo_tree, tmp_path / "out", "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # on Linux: the other end is closed
        pass
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and out.startswith(b"270 images in 3 shards")
    assert b"pack" in shown and b"\x1b[" in shown
