"""A contender's process: the suite starts it in the contender's environment.

It answers JSON lines with JSON lines. At first it needs psutil alone; then torch, numpy and what
the contender needs.
"""

import gc
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.base import Batches, Reading

LIBRARIES = (
    "array-record", "cinic-shards", "datasets", "ffcv", "grain", "litdata", "mosaicml-streaming",
    "numba", "numpy", "pillow", "torch", "torchvision", "webdataset",
)  # fmt: skip


def cpu_seconds() -> float:
    """User and system time of this process, its descendants, and those that have ended."""
    total = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def largest_process_mb() -> float:
    """The most resident memory that this process or one of its ended descendants has had, in MB."""
    both = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return max(resource.getrusage(who).ru_maxrss for who in both) * 1024 / 1e6  # Linux: KiB


class Worker:
    """A contender's open loader, and what can be asked of it."""

    def __init__(self) -> None:
        self.batches: Batches = ()

    def describe(self, contenders: list[str]) -> dict[str, Any]:
        """Versions, and why each of these contenders cannot run here."""
        found = {}
        for name in LIBRARIES:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
        missing = {name: CONTENDERS[name].missing() for name in contenders}
        return {"versions": found, "missing": missing}

    def load(self, contender: str) -> dict[str, Any]:
        """Import the contender's libraries."""
        return {"missing": CONTENDERS[contender].missing()}

    def build(self, contender: str, split: str, out: str) -> dict[str, Any]:
        """Write a split's folder to a new folder."""
        Path(out).mkdir(parents=True)
        before, start = cpu_seconds(), time.perf_counter()
        CONTENDERS[contender].build(Path(split), Path(out))
        return {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": cpu_seconds() - before,
            "largest_process_mb": largest_process_mb(),
        }

    def open(self, contender: str, out: str, reading: dict[str, Any]) -> dict[str, Any]:
        """Open the loader that the next requests read."""
        self.batches = ()
        gc.collect()  # the loader before, its processes too
        start = time.perf_counter()
        signed = tuple(reading.pop("signed", ()))
        self.batches = CONTENDERS[contender].epochs(Path(out), Reading(signed=signed, **reading))
        return {"seconds": time.perf_counter() - start}

    def first(self) -> dict[str, Any]:
        """Read the first batch of an epoch; the rest is left."""
        _, labels = next(iter(self.batches))
        return {"images": len(labels)}

    def epochs(self, least_seconds: float = 0.0, most_seconds: float = 1e9) -> dict[str, Any]:
        """Read epochs until the least time has passed; stop within one at the most."""
        images = 0
        before, start = cpu_seconds(), time.perf_counter()
        while True:
            for _, labels in self.batches:
                images += len(labels)
                if (seconds := time.perf_counter() - start) >= most_seconds:
                    break
            seconds = time.perf_counter() - start
            if seconds >= least_seconds:
                return {
                    "images": images,
                    "seconds": seconds,
                    "cpu_seconds": cpu_seconds() - before,
                }

    def glance(self, seconds: float) -> dict[str, Any]:
        """Time the last two thirds of the given seconds, from one batch to another.

        The start of an epoch and of its processes is in the first third; buffers are as full at
        the end as at the beginning.
        """
        images, begun, before = 0, 0.0, 0.0
        start = time.perf_counter()
        while True:
            for _, labels in self.batches:
                now = time.perf_counter()
                if begun:
                    images += len(labels)
                    if now - begun >= seconds * 2 / 3:
                        spent = cpu_seconds() - before
                        return {"images": images, "seconds": now - begun, "cpu_seconds": spent}
                elif now - start >= seconds / 3:
                    begun, before = now, cpu_seconds()

    def check(self) -> dict[str, Any]:
        """Read an epoch: count labels, name dtype and shape, take mean and deviation of values."""
        import torch

        start = time.perf_counter()
        counts = torch.zeros(0, dtype=torch.int64)
        values, total, squares, kind = 0, 0.0, 0.0, ""
        for batch in self.batches:
            images, labels = (torch.as_tensor(part) for part in batch)
            found = torch.bincount(labels, minlength=len(counts))
            counts = torch.nn.functional.pad(counts, (0, len(found) - len(counts))) + found
            kind = f"{images.dtype} {sorted(images.shape[1:])}".removeprefix("torch.")
            values += images.numel()
            total += float(images.sum(dtype=torch.float64))
            squares += float(images.double().square().sum())
        mean = total / values
        return {
            "seconds": time.perf_counter() - start,
            "labels": counts.tolist(),
            "kind": kind,
            "mean": mean,
            "deviation": (squares / values - mean**2) ** 0.5,
        }

    def train(self, least_seconds: float, in_place: bool) -> dict[str, Any]:
        """Train a linear model: on the loader's batches, or always on the same one."""
        import torch

        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(10))
        images, labels = (torch.as_tensor(part) for part in next(iter(self.batches)))
        model(images)
        time.sleep(1)  # until the loader's processes have nothing to do
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

        def step(images: Any, labels: Any) -> int:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return len(labels)

        done = 0
        before, start = cpu_seconds(), time.perf_counter()
        while (seconds := time.perf_counter() - start) < least_seconds:
            if in_place:
                done += step(images, labels)
                continue
            for batch in self.batches:
                done += step(*(torch.as_tensor(part) for part in batch))
        return {"images": done, "seconds": seconds, "cpu_seconds": cpu_seconds() - before}


def answer(worker: object) -> None:
    """Answer requests, each the name of a method and its arguments, until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        request = json.loads(line)
        method: Callable[..., dict[str, Any]] = getattr(worker, request.pop("do"))
        try:
            found = method(**request)
        except Exception as error:  # of any library: a contender that fails is a line of its own
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(found), file=answers, flush=True)
    # Some libraries' threads and processes do not end by themselves: the caller ends them.
    os._exit(0)


if __name__ == "__main__":
    answer(Worker())
