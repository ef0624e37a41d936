"""Does a short run on a CPU learn, and does one that is killed end with the same weights?

``benchmarks.training.train`` trains its tiny model twice, at the same time, with one thread each.
One run is left alone. The other one is killed by ``kill -9`` twice, within an epoch, and goes on
from its last checkpoint. Weights, optimizer and log must be equal, to the bit. On a given tree they
learn from CIFAR-10's part of the training split, and are tested on CIFAR-10's test set.
"""

import csv
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from claim import Claim

KILLS = 2
EXACT = ("epoch", "loss", "train_accuracy", "test_accuracy", "lr")
"""Columns of the log that do not tell times."""


def start(shards: Path, out: Path, options: list[str]) -> "subprocess.Popen[bytes]":
    """Begin to train, or go on."""
    command = [sys.executable, "-m", "benchmarks.training.train", shards, *options]
    return subprocess.Popen(
        [*map(str, command), "--out", str(out), "--quiet", "--resume"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )


def log(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's log so far."""
    if not (folder / "log.csv").exists():
        return []
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def steps_done(folder: Path) -> int:
    """How far the run's checkpoint is, in steps of the epoch that was under way."""
    loader = torch.load(folder / "checkpoint.pt", weights_only=True)["loader"]
    return int(loader["step"])


def killed_run(shards: Path, out: Path, folder: Path, options: list[str]) -> list[int]:
    """A run that is killed ``KILLS`` times; the step within its epoch at which each resumes."""
    chance = random.Random(0)
    resumed_at = []
    for _ in range(KILLS):
        rows = len(log(folder))
        process = start(shards, out, options)
        try:
            while len(log(folder)) == rows and process.poll() is None:
                time.sleep(0.05)
            seconds = float(log(folder)[-1]["seconds"])
            time.sleep(chance.uniform(0.2, 0.6) * seconds)
        finally:
            process.kill()
            process.wait()
        resumed_at.append(steps_done(folder))
    if start(shards, out, options).wait() != 0:
        raise SystemExit("the resumed run failed")
    return resumed_at


def same_state(one: Any, other: Any) -> bool:
    """Whether two checkpoints' parts are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_state(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return all(same_state(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        bar, options = 0.3, ["--epochs", "4", "--lr", "0.05"]
        if claim.args.tree:
            bar, options = 0.5, ["--epochs", "8", "--train-origin", "cifar"]
            options += ["--test-origin", "cifar-test"]
        options += ["--model", "tiny", "--channels-last", "--workers", "1"]
        options += ["--checkpoint-seconds", "0.1"]
        shards = claim.pack("shards", "--encoding", "raw")
        name = "tiny-train-cifar-seed0" if claim.args.tree else "tiny-train-seed0"
        alone, killed = claim.scratch / "alone" / name, claim.scratch / "killed" / name
        begun = time.perf_counter()
        process = start(shards, alone.parent, options)
        try:
            resumed_at = killed_run(shards, killed.parent, killed, options)
            failed = process.wait()
        finally:
            process.kill()
        seconds = time.perf_counter() - begun
        rows, killed_rows = log(alone), log(killed)
        losses = [float(row["loss"]) for row in rows]
        accuracy = float(rows[-1]["test_accuracy"])
        states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (alone, killed)]
        is_same = same_state(*({k: s[k] for k in ("model", "optimizer", "rng")} for s in states))
        is_same_log = [[row[name] for name in EXACT] for row in rows] == [
            [row[name] for name in EXACT] for row in killed_rows
        ]
        claim.report(
            figure={
                "test accuracy": round(accuracy, 4),
                "losses": [round(loss, 3) for loss in losses],
                "killed run's weights and log": "the same" if is_same and is_same_log else "others",
            },
            bar=f"accuracy above {bar:.0%}, a loss that falls, weights and log the same to the bit",
            holds=not failed
            and accuracy > bar
            and losses[-1] < losses[0]
            and is_same
            and is_same_log
            and any(resumed_at)
            and (killed / "curves.png").exists(),
            killed_and_resumed_at_step=resumed_at,
            images_per_second=[round(float(row["images_per_second"])) for row in rows],
            waiting_share=[round(float(row["waiting_share"]), 3) for row in rows],
            seconds=round(seconds),
        )


if __name__ == "__main__":
    main()
