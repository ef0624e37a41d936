"""A run that is killed resumes at the same batch, to the bit, on any number of ranks."""

import json
import random
import signal
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.acceptance.trees import Record, Tree, python

CASES: dict[str, dict[str, Any]] = {
    "raw": {"order": "full", "tail": "short"},
    "zstd": {"split": "train+valid"},
    "png": {"subset": {"origin": "imagenet"}, "order": "window"},
}
"""Encoding, and the loader's options."""
WORLDS = (1, 2, 3, 8)
KILLS = 4
RUNS, RUNS_OF_A_LARGE_TREE = 4, 2
MAX_SECONDS = 1.0
"""From making a rank's loader to its first batch."""


@dataclass
class Run:
    """Run programs/resume.py; return what it printed, and its exit status."""

    batches: list[str] = field(default_factory=list)
    """Hash of each."""
    seconds: list[float] = field(default_factory=list)
    """To resume, if it did."""
    status: int | None = None


def run(*arguments: object) -> list[Run]:
    """Start programs/resume.py; return its runs."""
    runs = [Run()]
    for line in python("resume.py", *arguments).splitlines():
        word, value = line.split()
        if word == "batch":
            runs[-1].batches.append(value)
        elif word == "seconds":
            runs[-1].seconds.append(float(value))
        else:
            runs[-1].status = int(value)
            runs.append(Run())
    return runs[:-1]


@pytest.mark.parametrize("encoding", CASES)
def test_a_killed_run_resumes_to_the_bit(
    small_tree: Tree, encoding: str, tmp_path: Path, record_property: Record
) -> None:
    """Are the batches of two epochs the same after each of several ``kill -9``, on any world?

    Each run is killed four times: after the last step of the first epoch, and at random steps; each
    time another process, of a random number of ranks, resumes from the last state. Hashes are of
    ids, labels and pixels after augmentation.
    """
    shards = small_tree.packed(encoding)
    arguments = (shards, tmp_path / "state.json", json.dumps(CASES[encoding]))
    (undisturbed,) = run(*arguments, [[1, 0]])
    expected = undisturbed.batches
    chance = random.Random(encoding)
    plans = []
    end_of_epoch = len(expected) // 2
    others = [step for step in range(1, len(expected) + 1) if step != end_of_epoch]
    for _ in range(RUNS_OF_A_LARGE_TREE if small_tree.is_large else RUNS):
        kills = sorted([end_of_epoch, *chance.sample(others, KILLS - 1)])
        plans.append([*pairwise([0, *kills, len(expected)])])
    parts = [part for plan in plans for part in plan]
    worlds = [chance.choice(WORLDS) for _ in parts]
    ends = [stop - start for plan in plans for start, stop in plan]
    ends[KILLS :: KILLS + 1] = [0] * len(plans)  # the last part is not killed
    runs = run(*arguments, json.dumps([*zip(worlds, ends, strict=True)]))
    for found, (start, stop), world, end in zip(runs, parts, worlds, ends, strict=True):
        what = f"from step {start} to {stop} with {world} ranks; all parts: {plans}"
        assert found.status == (-signal.SIGKILL if end else 0), what
        assert found.batches == expected[start:stop], what
    seconds = [value for found in runs for value in found.seconds]
    assert len(seconds) == len(plans) * KILLS
    record_property("kills", len(seconds))
    record_property("batches_in_an_epoch", end_of_epoch)
    record_property("seconds_to_resume", {"median": median(seconds), "max": max(seconds)})
    assert not small_tree.has_bars or max(seconds) <= MAX_SECONDS
