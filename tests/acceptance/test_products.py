"""Products: statistics, the report, CIFAR-10 restored, models and a training run."""

import csv
import json
import os
import pickle
import random
import subprocess
import sys
import tarfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_demo_tree import draw
from numpy.typing import NDArray
from PIL import Image

from benchmarks.training.models import PUBLISHED_PARAMETERS, build, num_parameters
from cinic_shards.cinic.cifar10 import CLASSES, FOLDER, read_cifar10
from cinic_shards.codec import ENCODINGS
from cinic_shards.format.provenance import CIFAR10_SIZES, parse_stem
from tests.acceptance.trees import Record, Tree, cinic_shard
from tests.support import ROOT
from tests.support.files import digests

TRAIN = "benchmarks.training.train"

# --- Statistics ---------------------------------------------------------------------------------

MAX_ERROR = 1e-12
CIFAR10_TRAIN_MEAN = (0.49139968, 0.48215841, 0.44653091)
"""To eight digits, as code for CIFAR-10 commonly has it; of all 50,000 images."""


def mean_and_std(sums: NDArray[np.int64], squares: NDArray[np.int64], num: int) -> list[float]:
    """Means, then deviations, of the channels on the scale 0 to 1, from exact sums."""
    means = [Fraction(int(one), 255 * num) for one in sums]
    squared = [Fraction(int(one), 255**2 * num) for one in squares]
    stds = [float(two - one**2) ** 0.5 for one, two in zip(means, squared, strict=True)]
    return [*map(float, means), *stds]


def test_stats_are_exact(tree: Tree, record_property: Record) -> None:
    """Are means and deviations of ``stats`` those of Pillow's pixels, and CIFAR-10's as published?

    Of all images, each split, train and valid together, each origin, and one class of one split.
    The mean of CIFAR-10's train set is compared if all of its 50,000 images are in the tree.
    """
    split, class_name, stem = np.array([key.split("/") for key in tree.keys]).T
    origin = np.array([parse_stem(one).origin for one in stem])
    pixels = tree.pixels.reshape(len(tree.keys), -1, 3)
    sums = pixels.sum(axis=1, dtype=np.int64)
    squares = np.stack([np.einsum("pc,pc->c", one, one, dtype=np.int64) for one in pixels])
    parts = {"": np.full(len(split), True), "--split train+valid": split != "test"}
    parts |= {f"--split {name}": split == name for name in np.unique(split)}
    parts |= {f"--origin {name}": origin == name for name in np.unique(origin)}
    one_class = (split == split[0]) & (class_name == class_name[0])
    parts[f"--split {split[0]} --class {class_name[0]}"] = one_class
    errors = {}
    for options, mask in parts.items():
        found = json.loads(cinic_shard("stats", tree.packed(), "--json", *options.split()))
        assert found["num_samples"] == mask.sum(), options
        num_pixels = int(mask.sum()) * pixels.shape[1]
        expected = mean_and_std(sums[mask].sum(axis=0), squares[mask].sum(axis=0), num_pixels)
        errors[options] = float(np.abs(np.array(found["mean"] + found["std"]) - expected).max())
        is_complete = found["num_samples"] == CIFAR10_SIZES["train"]
        if options == "--origin cifar10-train" and is_complete:
            record_property("cifar10_train_mean", found["mean"])
            assert found["mean"] == pytest.approx(CIFAR10_TRAIN_MEAN, rel=0, abs=5e-9)
    record_property("largest_error", max(errors.values()))
    record_property("parts", list(parts))
    assert max(errors.values()) <= MAX_ERROR, errors


# --- Report -------------------------------------------------------------------------------------

MAX_REPORT_SECONDS, MAX_REPORT_MEGABYTES = 120.0, 15.0


@pytest.fixture(scope="session")
def report(tree: Tree) -> tuple[Path, float]:
    """The page of ``report``, and the seconds that it takes."""
    file = tree.scratch / "report.html"
    shards = tree.packed()
    start = time.perf_counter()
    cinic_shard("report", shards, "-o", file, "--quiet")
    return file, time.perf_counter() - start


def test_report_is_small(tree: Tree, report: tuple[Path, float], record_property: Record) -> None:
    """Is the report at most 15 MB large, and how long does it take?"""
    file, seconds = report
    megabytes = file.stat().st_size / 1e6
    record_property("seconds_to_make", round(seconds, 1))
    record_property("megabytes", round(megabytes, 1))
    assert megabytes <= MAX_REPORT_MEGABYTES
    assert not tree.has_bars or seconds <= MAX_REPORT_SECONDS


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_report_in_a_browser(report: tuple[Path, float], width: int, is_dark: bool) -> None:
    """Can Chromium use the report without a network, at any width, without a console message?"""
    chromium = pytest.importorskip("tests.support.chromium", reason="NOT RUN: no selenium")
    if missing := chromium.missing_programs():
        pytest.skip(f"NOT RUN: no {' and '.join(missing)}")
    with chromium.open_page(report[0], width=width, is_dark=is_dark) as page:
        data = json.loads(page.text("#data"))
        images = data["images"]
        page.choose("#filter-class", data["classes"][-1])
        wanted = [
            f"{data['splits'][images['split'][i]]}/{data['classes'][-1]}/{images['stem'][i]}"
            for i, label in enumerate(images["class"])
            if label == len(data["classes"]) - 1
        ]
        assert f" of {len(wanted):,} matching image" in page.text("#status")
        page.find("#grid button").click()
        assert page.text("#details-key") == wanted[0]
        root = "document.documentElement"
        assert page.run(f"return {root}.scrollWidth <= {root}.clientWidth")
        assert (page.console(), page.requests()) == ([], [])


# --- CIFAR-10 -----------------------------------------------------------------------------------

MAX_RESTORE_SECONDS = 60.0
Sets = dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]


@pytest.fixture(scope="module")
def cifar_tree(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
) -> Tree:  # fmt: skip
    """A tree with all of CIFAR-10: the given one, or drawn: its test set in the split test."""
    if pytestconfig.getoption("--tree"):
        given: Tree = request.getfixturevalue("given_tree")
        return given
    root = tmp_path_factory.mktemp("cifar")
    rng = np.random.default_rng(0)
    for name, size in CIFAR10_SIZES.items():
        for label, class_name in enumerate(CLASSES):
            numbers = range(label, size, len(CLASSES))
            for number, image in zip(numbers, draw(len(numbers), label, rng), strict=True):
                split = "test" if name == "test" else ("train", "valid")[number // 10 % 2]
                folder = root / "tree" / split / class_name
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(folder / f"cifar10-{name}-{number}.png")
    return Tree(root / "tree", "drawn", root)


def sets_of(tree: Tree) -> Sets:
    """CIFAR-10's images and labels, as Pillow decodes the tree."""
    sets = {
        name: (np.zeros((size, 32, 32, 3), np.uint8), np.full(size, -1))
        for name, size in CIFAR10_SIZES.items()
    }
    for key, pixels in zip(tree.keys, tree.pixels, strict=True):
        _, class_name, stem = key.split("/")
        if stem.startswith("cifar"):
            provenance = parse_stem(stem)
            images, labels = sets[provenance.origin.removeprefix("cifar10-")]
            images[provenance.number] = pixels
            labels[provenance.number] = CLASSES.index(class_name)
    return sets


def make_archive(sets: Sets, folder: Path) -> Path:
    """CIFAR-10 as Python's own pickle writes it."""
    (folder / FOLDER).mkdir()
    meta: dict[bytes, object] = {b"label_names": [name.encode() for name in CLASSES]}
    (folder / FOLDER / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    for name, (images, labels) in sets.items():
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        for start in range(0, len(images), 10_000):
            rows = slice(start, start + 10_000)
            file = "test_batch" if name == "test" else f"data_batch_{start // 10_000 + 1}"
            content = {b"data": planes[rows].copy(), b"labels": labels[rows].tolist()}
            (folder / FOLDER / file).write_bytes(pickle.dumps(content, protocol=2))
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(folder / FOLDER, FOLDER)
    return folder / "cifar-10-python.tar.gz"


def test_cifar10_is_restored(
    cifar_tree: Tree, pytestconfig: pytest.Config, tmp_path: Path, record_property: Record
) -> None:
    """Does CIFAR-10 come out of each encoding in under a minute, each image and label the same?

    ``--check`` compares with the archive of ``--sources``, or one made of the tree, before it
    writes; then what was written is compared with the tree. A given tree must hold all 60,000
    images.
    """
    expected = sets_of(cifar_tree)
    if any((labels < 0).any() for _, labels in expected.values()):
        assert cifar_tree.origin == "given" and not cifar_tree.has_bars
        pytest.skip("the given tree does not hold all of CIFAR-10")
    sources = pytestconfig.getoption("--sources") if cifar_tree.origin == "given" else None
    archive = (sources and sources / "cifar-10-python.tar.gz") or make_archive(expected, tmp_path)
    seconds, written = {}, []
    for encoding in ENCODINGS:
        shards, out = cifar_tree.packed(encoding), tmp_path / encoding
        start = time.perf_counter()
        cinic_shard("restore-cifar10", shards, out, "--check", archive)
        seconds[encoding] = round(time.perf_counter() - start, 1)
        found = read_cifar10(out / FOLDER)
        for name, (images, labels) in expected.items():
            assert np.array_equal(found.sets[name].images, images), encoding
            assert np.array_equal(found.sets[name].labels, labels), encoding
        written.append(digests(out / FOLDER))
    assert written == [written[0]] * len(ENCODINGS)
    record_property("seconds_to_restore", seconds)
    record_property("archive", "given" if sources else "made of the tree")
    record_property("images", len(cifar_tree.keys))
    assert not cifar_tree.has_bars or max(seconds.values()) < MAX_RESTORE_SECONDS


# --- Models and training ------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_parameters(name: str, record_property: Record) -> None:
    """Has a model the published number of parameters (to 0.1 million), and does a step reach all?

    After one step on four random images the loss is finite, and no gradient is zero.
    """
    torch.manual_seed(0)
    model = build(name)
    millions = num_parameters(model) / 1e6
    record_property(
        "millions", {"found": round(millions, 3), "published": PUBLISHED_PARAMETERS[name]}
    )
    assert abs(millions - PUBLISHED_PARAMETERS[name]) < 0.1
    loss = torch.nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), parameter_name


KILLS = 2
EXACT = ("epoch", "loss", "train_accuracy", "test_accuracy", "lr")
"""Columns of the log that are not times."""


def start_training(shards: Path, out: Path, options: list[str]) -> "subprocess.Popen[bytes]":
    """Begin to train, or resume, in one thread."""
    words = [sys.executable, "-m", TRAIN, shards, *options, "--out", out, "--quiet", "--resume"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*map(str, words)], env=env, cwd=ROOT, stdout=subprocess.DEVNULL)


def log_of(run: Path) -> list[dict[str, str]]:
    """The rows of a run's log so far."""
    if not (run / "log.csv").exists():
        return []
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def train_and_kill(shards: Path, run: Path, options: list[str]) -> list[int]:
    """Kill a run twice, then let it end; return the steps within its epoch at which it resumed."""
    chance = random.Random(0)
    resumed_at = []
    for _ in range(KILLS):
        num_rows = len(log_of(run))
        process = start_training(shards, run.parent, options)
        try:
            while len(log_of(run)) == num_rows and process.poll() is None:
                time.sleep(0.05)
            time.sleep(chance.uniform(0.2, 0.6) * float(log_of(run)[-1]["seconds"]))
        finally:
            process.kill()
            process.wait()
        checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
        resumed_at.append(int(checkpoint["loader"]["step"]))
    assert start_training(shards, run.parent, options).wait() == 0
    return resumed_at


def same_state(one: Any, other: Any) -> bool:
    """True if two checkpoints' parts are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_state(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_state, one, other))
    return bool(one == other)


def test_a_killed_training_run_ends_with_the_same_weights(
    small_tree: Tree, tmp_path: Path, record_property: Record
) -> None:
    """Does a short run learn, and does one that is killed twice end the same, to the bit?

    Two runs of a tiny model at the same time; one is left alone. On a given tree they learn from
    CIFAR-10's part of the training split, and are tested on CIFAR-10's test set.
    """
    is_given = small_tree.origin == "given"
    min_accuracy, options = 0.3, ["--epochs", "4", "--lr", "0.05"]
    if is_given:
        min_accuracy, options = (
            0.5 if small_tree.has_bars else 0.3,
            ["--epochs", "8", "--train-origin", "cifar"],
        )
        options += ["--test-origin", "cifar-test"]
    options += ["--model", "tiny", "--channels-last", "--workers", "1"]
    options += ["--checkpoint-seconds", "0.1"]
    shards = small_tree.packed("raw")
    name = "tiny-train-cifar-seed0" if is_given else "tiny-train-seed0"
    alone, killed = tmp_path / "alone" / name, tmp_path / "killed" / name
    process = start_training(shards, alone.parent, options)
    try:
        resumed_at = train_and_kill(shards, killed, options)
        assert process.wait() == 0
    finally:
        process.kill()
    rows = log_of(alone)
    losses, accuracy = [float(row["loss"]) for row in rows], float(rows[-1]["test_accuracy"])
    record_property("test_accuracy", round(accuracy, 4))
    record_property("losses", [round(loss, 3) for loss in losses])
    record_property("killed_and_resumed_at_step", resumed_at)
    record_property("images_per_second", [round(float(r["images_per_second"])) for r in rows])
    record_property("waiting_share", [round(float(row["waiting_share"]), 3) for row in rows])
    assert any(resumed_at) and (killed / "curves.png").exists()
    assert accuracy > min_accuracy and losses[-1] < losses[0]
    for row, other in zip(rows, log_of(killed), strict=True):
        assert [row[column] for column in EXACT] == [other[column] for column in EXACT]
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (alone, killed)]
    for part in ("model", "optimizer", "rng"):
        assert same_state(states[0][part], states[1][part]), f"other {part}"
