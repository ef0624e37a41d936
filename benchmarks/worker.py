"""A contender's process: the suite starts it in the contender's environment.

Requests and answers are JSON lines. Importing this module needs only psutil; requests need torch,
numpy and the contender's libraries.
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
    "array-record", "cinic-shards", "datasets", "ffcv", "grain", "lancedb", "litdata",
    "mosaicml-streaming", "numba", "numpy", "pillow", "pylance", "torch", "torchcodec",
    "torchvision", "webdataset",
)  # fmt: skip


def cpu_seconds() -> float:
    """User and system time of this process and its descendants, including those that have ended."""
    total = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def largest_process_mb() -> float:
    """Peak resident memory in MB: the larger of this process's and any ended descendant's."""
    both = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return max(resource.getrusage(who).ru_maxrss for who in both) * 1024 / 1e6  # Linux: KiB


class Worker:
    """A contender's open loader; each method answers a request."""

    def __init__(self) -> None:
        self.batches: Batches = ()

    def describe(self, contenders: list[str]) -> dict[str, Any]:
        """Return library versions, and why each of these contenders cannot run here, if so."""
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
        """Build the contender's dataset from a split's folder, in a new folder."""
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
        gc.collect()  # frees the previous loader and its processes
        start = time.perf_counter()
        signed = tuple(reading.pop("signed", ()))
        self.batches = CONTENDERS[contender].epochs(Path(out), Reading(signed=signed, **reading))
        return {"seconds": time.perf_counter() - start}

    def first(self) -> dict[str, Any]:
        """Read only the first batch of an epoch."""
        _, labels = next(iter(self.batches))
        return {"images": len(labels)}

    def epochs(self, least_seconds: float = 0.0, most_seconds: float = 1e9) -> dict[str, Any]:
        """Read epochs until the least time has passed; stop within an epoch after the most."""
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
        """Measure during the last two thirds of the given seconds, from one batch to another.

        The epoch and its processes start in the first third; buffers are as full at the end of the
        measurement as at its beginning.
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
        """Read an epoch; return its label counts, dtype and shape, and mean and deviation."""
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
        """Train a linear model on the loader's batches or, if ``in_place``, always on one batch."""
        import torch

        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(10))
        images, labels = (torch.as_tensor(part) for part in next(iter(self.batches)))
        model(images)
        time.sleep(1)  # until the loader's processes are idle
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
    os.dup2(2, 1)  # keep the libraries' output out of the answers
    for line in sys.stdin:
        request = json.loads(line)
        method: Callable[..., dict[str, Any]] = getattr(worker, request.pop("do"))
        try:
            found = method(**request)
        except Exception as error:  # from any library: the failure is the answer
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(found), file=answers, flush=True)
    # Some libraries' threads and processes do not end by themselves: the caller ends them.
    os._exit(0)


if __name__ == "__main__":
    answer(Worker())
