"""Questions about datasets as files: packing them, their size, verifying them."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.contenders.base import Contender, samples_of
from benchmarks.processes import ContenderError
from benchmarks.runs import Row, Suite, files, medians, one_by_one, warm

_SMALL = 64
"""Images per class of the small dataset."""


def pack(suite: Suite) -> Iterator[Row]:
    """How long does packing the split take, and how many bytes does an image take?

    One run with the PNGs in the page cache, in a process that has packed a small dataset before, so
    libraries are imported and kernels compiled. Bytes are the files' sizes, also as a share of the
    PNGs' sizes, and the space on the disk. ``largest_process_mb``: peak resident memory of the
    largest process.
    """
    small = suite.scratch / "small"
    for path, label in samples_of(suite.split):
        folder = small / f"{label:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        if len(os.listdir(folder)) < _SMALL:
            shutil.copy(path, folder)
    pngs = sum(path.stat().st_size for path in files(suite.split))

    def ask(contender: Contender, count: int) -> Row:
        warm(suite.split)
        with suite.start(contender) as process:
            for split, out in (
                (small, suite.small(contender)),
                (suite.split, suite.folder(contender)),
            ):
                row = process.ask("build", contender=contender.name, split=str(split), out=str(out))
        sizes = [path.stat() for path in files(suite.folder(contender))]
        total = sum(one.st_size for one in sizes)
        disk = sum(one.st_blocks for one in sizes) * 512
        return {
            "seconds": round(row["seconds"], 3),
            "cpu_seconds": round(row["cpu_seconds"], 2),
            "largest_process_mb": round(row["largest_process_mb"], 1),
            "bytes_per_image": round(total / suite.num_images, 1),
            "bytes_of_pngs": round(total / pngs, 3),
            "disk_bytes_per_image": round(disk / suite.num_images, 1),
        }

    for contender, _, row in one_by_one(suite, dict.fromkeys(suite.contenders, 0), ask):
        if "error" in row:
            suite.contenders.remove(contender)
        yield {"contender": contender.name} | row


def verify(suite: Suite) -> Iterator[Row]:
    """How long does ``cinic-shard verify`` take, compared with ``sha256sum`` and a loader's epoch?

    The times of ``verify`` and ``sha256sum`` are those of entire processes; the epoch's includes
    opening the loader. All warm, in turn, medians. ``share`` is verify's time over the sum of the
    other two.
    """

    def ask(contender: Contender, count: int) -> Row:
        shards = suite.folder(contender) / "shards"
        command = [sys.executable, "-m", "cinic_shards", "verify", shards, "--quiet"]
        verify = seconds_of(command)
        sha256sum = seconds_of(["sha256sum", *sorted(shards.glob("*.tar"))])
        with suite.start(contender) as process:
            suite.load_libraries(process, contender, count)
            parts = [suite.open(process, contender, workers=count), process.ask("epochs")]
        epoch = sum(part["seconds"] for part in parts)
        return {
            "seconds": round(verify, 3),
            "sha256sum_seconds": round(sha256sum, 3),
            "epoch_seconds": round(epoch, 3),
            "share": round(verify / (sha256sum + epoch), 3),
        }

    settings = dict.fromkeys(suite.ours().values(), len(os.sched_getaffinity(0)))
    if not settings:
        yield {"reason": "needs a contender of this package"}
    for contender in settings:
        warm(suite.folder(contender))
    yield from medians(suite, one_by_one(suite, settings, ask, repeats=suite.repeats))


def seconds_of(command: list[Any]) -> float:
    """Run a command; return the seconds from its start to its end.

    Raises:
        ContenderError: the command failed.
    """
    start = time.perf_counter()
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise ContenderError(f"{command[:4]} ended with {done.returncode}: {done.stderr[-200:]}")
    return time.perf_counter() - start
