"""What the questions share: the run, its processes, and turns that contenders take."""

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contenders import OURS
from contenders.base import Contender, samples_of
from environments import python_of
from processes import ContenderError, Process

Row = dict[str, Any]
Ask = Callable[[Process], Row]


@dataclass(kw_only=True)
class Suite:
    """One run: what is measured, where, and what is known so far."""

    split: Path
    num_images: int
    scratch: Path
    repeats: int
    seconds: float
    """Of a glance, its beginning too; a third of it is the least that epochs are timed for."""
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
        return self.scratch / "logs" / f"{slug(name)}.log"

    def folder(self, contender: Contender) -> Path:
        """What ``build`` wrote."""
        return self.scratch / slug(contender.name)

    def small(self, contender: Contender) -> Path:
        """The same for the small dataset."""
        return self.scratch / f"{slug(contender.name)}-small"

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


def slug(name: str) -> str:
    """For the name of a folder."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def open_loader(process: Process, contender: Contender, folder: Path, **reading: Any) -> None:
    """Open one folder by one contender."""
    process.ask("open", contender=contender.name, out=str(folder), reading=reading)


def rate(answer: Row) -> Row:
    """Of an answer of ``epochs``."""
    return {
        "images_per_second": round(answer["images"] / answer["seconds"], 1),
        "cpu_seconds_per_million": round(1e6 * answer["cpu_seconds"] / answer["images"], 3),
    }


def files(folder: Path) -> Iterator[Path]:
    """Below a folder, links to folders too."""
    for place, _, names in os.walk(folder, followlinks=True):
        for name in names:
            yield Path(place, name)


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


def glance(suite: Suite, process: Process, contender: Contender, **reading: Any) -> Row:
    """A rate over a few seconds."""
    open_loader(process, contender, suite.folder(contender), **reading)
    return rate(process.ask("glance", seconds=suite.seconds))


def in_turn(
    suite: Suite, settings: dict[Contender, int], *, augmented: bool, ask: Ask
) -> Iterator[tuple[Contender, int, Row]]:
    """Answers of open loaders, contender by contender in each repeat; the others are stopped."""
    with ExitStack() as stack:
        opened: dict[Contender, Process] = {}
        checked: dict[Contender, Row] = {}
        for contender, count in settings.items():
            warm(suite.folder(contender))
            process = stack.enter_context(suite.start(contender))
            suite.say(f"{contender.name}: the epoch that does not count")
            try:
                open_loader(
                    process, contender, suite.folder(contender), workers=count, augmented=augmented
                )
                least = suite.seconds / 3
                if not augmented:
                    checked[contender] = process.ask("check")
                if augmented or checked[contender].pop("seconds") < least:
                    # On a small tree, an epoch is too short to compile or to start everything.
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


def medians(suite: Suite, answers: Iterator[tuple[Contender, int, Row]]) -> Iterator[Row]:
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
