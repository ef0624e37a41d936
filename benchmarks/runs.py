"""One run of the suite, and what its questions share: processes, turns, medians."""

import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contenders import OURS
from benchmarks.contenders.base import Contender, samples_of
from benchmarks.environments import python_of
from benchmarks.processes import ContenderError, Process

Row = dict[str, Any]
Settings = dict[Contender, int]
"""Contender -> number of workers."""
Answer = tuple[Contender, int, Row]


@dataclass(kw_only=True)
class Suite:
    """A run: what is measured, where, and what is known so far."""

    split: Path
    num_images: int
    scratch: Path
    repeats: int
    seconds: float
    """Duration of a glance, including its start; epochs are measured for at least a third of it."""
    latency_seconds: float
    bytes_a_second: float
    say: Callable[[str], None]
    contenders: list[Contender] = field(default_factory=list)
    """The contenders that are installed and have not failed to pack."""
    versions: dict[str, Row] = field(default_factory=dict)
    rates: dict[Contender, dict[int, float]] = field(default_factory=dict)
    """Images per second by number of workers, uint8, warm."""

    def log(self, name: str) -> Path:
        """Return the path of a process's log."""
        return self.scratch / "logs" / f"{slug(name)}.log"

    def folder(self, contender: Contender) -> Path:
        """Return the folder of the contender's dataset."""
        return self.scratch / slug(contender.name)

    def small(self, contender: Contender) -> Path:
        """Return the folder of the contender's small dataset, which serves to load libraries."""
        return self.scratch / f"{slug(contender.name)}-small"

    def ours(self) -> dict[str, Contender]:
        """Return this package's contenders by encoding."""
        return {
            contender.name.rpartition(", ")[2]: contender
            for contender in self.contenders
            if contender.library == OURS
        }

    def start(self, contender: Contender, **environment: str) -> Process:
        """Start the contender's process."""
        python = python_of(contender.environment)
        return Process(python, self.log(contender.name), environment=environment)

    def start_here(self, module: str) -> Process:
        """Start a process in this package's own environment."""
        return Process(python_of("project"), self.log(module), module=module)

    def open(self, process: Process, contender: Contender, **reading: Any) -> Row:
        """Open the contender's loader."""
        out = str(self.folder(contender))
        return process.ask("open", contender=contender.name, out=out, reading=reading)

    def load_libraries(self, process: Process, contender: Contender, workers: int) -> None:
        """Read the small dataset, so that libraries are imported and kernels compiled."""
        out, reading = str(self.small(contender)), {"workers": workers}
        process.ask("open", contender=contender.name, out=out, reading=reading)
        process.ask("check")

    def glance(self, process: Process, contender: Contender, **reading: Any) -> Row:
        """Measure a rate within ``seconds``; see ``Worker.glance``."""
        self.open(process, contender, **reading)
        return rate(process.ask("glance", seconds=self.seconds))

    def chosen(self) -> Settings:
        """Return the best settings by ``rates``."""
        return best_settings(self.rates)

    def fail(self, contender: Contender, error: ContenderError) -> Row:
        """Report an error; return it as a row."""
        self.say(f"{contender.name}: failed: {error}")
        return {"contender": contender.name, "error": str(error)}


def best_settings(rates: Mapping[Contender, Mapping[int, float]]) -> Settings:
    """Return the fastest contender of each library, and all of ours, with their best settings."""
    best: dict[str, tuple[float, Contender, int]] = {}
    for contender, by_workers in rates.items():
        for workers, value in by_workers.items():
            key = contender.name if contender.library == OURS else contender.library
            if key not in best or value > best[key][0]:
                best[key] = value, contender, workers
    return {contender: workers for _, contender, workers in best.values()}


def slug(name: str) -> str:
    """Turn a name into that of a folder or file."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def rate(answer: Row) -> Row:
    """Compute rate and cost from an answer with images, seconds and CPU seconds."""
    return {
        "images_per_second": round(answer["images"] / answer["seconds"], 1),
        "cpu_seconds_per_million": round(1e6 * answer["cpu_seconds"] / answer["images"], 3),
    }


def files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder; links to folders are followed."""
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            yield Path(parent, name)


def warm(folder: Path) -> None:
    """Read all files, so that the page cache holds them."""
    for path in files(folder):
        path.read_bytes()


def cool(folder: Path) -> None:
    """Drop all files from the page cache."""
    os.sync()
    for path in files(folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def one_by_one(
    suite: Suite, settings: Settings, ask: Callable[[Contender, int], Row], *, repeats: int = 1
) -> Iterator[Answer]:
    """Ask contender by contender in each repeat; ``ask`` starts a new process each time."""
    for repeat in range(repeats):
        for contender, count in settings.items():
            suite.say(f"{contender.name}, {repeat + 1} of {repeats}")
            try:
                row = ask(contender, count)
            except ContenderError as error:
                row = suite.fail(contender, error)
            yield contender, count, row


def in_turn(
    suite: Suite,
    settings: Settings,
    ask: Callable[[Process], Row],
    *,
    start: Callable[[Contender], Process] | None = None,
    reading: Callable[[Contender], Row] = lambda contender: {},
) -> Iterator[Answer]:
    """Ask open loaders, contender by contender in each repeat; all others are suspended meanwhile.

    An unmeasured epoch comes first; without augmentation its content is checked.

    Args:
        suite: the run.
        settings: the contenders that take part, with their numbers of workers.
        ask: measures a process whose loader is open.
        start: starts a contender's process; default: ``suite.start``.
        reading: options of ``Reading`` other than the number of workers.
    """
    with ExitStack() as stack:
        opened: dict[Contender, Process] = {}
        checked: dict[Contender, Row] = {}
        for contender, count in settings.items():
            warm(suite.folder(contender))
            process = stack.enter_context((start or suite.start)(contender))
            suite.say(f"{contender.name}: unmeasured epoch")
            options = reading(contender)
            least = suite.seconds / 3
            try:
                suite.open(process, contender, workers=count, **options)
                if not options.get("augmented"):
                    checked[contender] = process.ask("check")
                if contender not in checked or checked[contender].pop("seconds") < least:
                    # On a small tree, one epoch is too short to compile and start everything.
                    process.ask("epochs", least_seconds=least, most_seconds=suite.seconds)
                opened[contender] = process
                process.pause()
            except ContenderError as error:
                yield contender, count, suite.fail(contender, error)
        for repeat in range(suite.repeats):
            for contender, process in [*opened.items()]:
                warm(suite.folder(contender))
                suite.say(f"{contender.name}, {repeat + 1} of {suite.repeats}")
                process.resume()
                try:
                    row = checked.get(contender, {}) | ask(process)
                except ContenderError as error:
                    row = suite.fail(contender, error)
                    del opened[contender]
                process.pause()
                yield contender, settings[contender], row


def medians(suite: Suite, answers: Iterable[Answer]) -> Iterator[Row]:
    """Yield a row for each setting: the median of each measured figure, and all its values."""
    rows: dict[tuple[Contender, int], list[Row]] = {}
    for contender, count, row in answers:
        if "error" in row:
            yield row | {"workers": count}
            rows.pop((contender, count), None)
        else:
            rows.setdefault((contender, count), []).append(row)
    for (contender, count), found in rows.items():
        row = {"contender": contender.name, "workers": count}
        if labels := found[0].get("labels"):
            expected = [0] * len(labels)
            for _, label in samples_of(suite.split):
                expected[label] += 1
            row |= {"kind": found[0]["kind"], "every_image_once": labels == expected}
        for name in found[0]:
            if name not in ("labels", "kind", "mean", "deviation"):
                values = [one[name] for one in found]
                row[name] = statistics.median(values)
                row |= {f"{name}_all": values} if len(values) > 1 else {}
        yield row
