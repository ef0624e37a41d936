"""Questions about reading a local dataset: speed, processor time, memory."""

import os
import time
from collections.abc import Callable, Iterator

from benchmarks.contenders import OURS
from benchmarks.contenders.base import Contender
from benchmarks.processes import ContenderError, Process
from benchmarks.runs import (
    Row,
    Settings,
    Suite,
    cool,
    in_turn,
    medians,
    one_by_one,
    rate,
    warm,
)

_TRAINED = ("ImageFolder", "webdataset", "FFCV", OURS)


def workers(suite: Suite) -> Iterator[Row]:
    """How many images per second does each number of workers deliver?

    0 or 1, 2 and 4 workers, uint8, warm. Each is measured in a glance of ``--seconds``, of which
    the first third does not count.
    """
    for contender in suite.contenders:
        warm(suite.folder(contender))
        suite.say(contender.name)
        with suite.start(contender) as process:
            for count in contender.workers:
                try:
                    row = suite.glance(process, contender, workers=count)
                except ContenderError as error:
                    yield suite.fail(contender, error) | {"workers": count}
                    continue
                suite.rates.setdefault(contender, {})[count] = row["images_per_second"]
                yield {"contender": contender.name, "workers": count, **row}


def epochs_of(suite: Suite) -> Callable[[Process], Row]:
    """Measure rate and cost of complete epochs."""
    return lambda process: rate(process.ask("epochs", least_seconds=suite.seconds / 3))


def augmented(contender: Contender) -> Row:
    """Return the options of ``Reading`` for augmented images."""
    return {"augmented": True}


def uint8(suite: Suite) -> Iterator[Row]:
    """How many images per second does a warm epoch deliver, as stored?

    Complete epochs of an open loader. An earlier epoch is checked to hold every image once. Also
    CPU seconds of the process tree. Contenders in turn, medians.
    """
    yield from medians(suite, in_turn(suite, suite.chosen(), epochs_of(suite)))


def float32(suite: Suite) -> Iterator[Row]:
    """How many augmented images per second does a warm epoch deliver, and at how many CPU seconds?

    Like ``uint8``; images are cropped with a padding of 4, flipped and normalised to float32. CPU
    seconds are user and system time of the process tree, per million images.
    """
    answers = in_turn(suite, augmented_settings(suite), epochs_of(suite), reading=augmented)
    yield from medians(suite, answers)


def augmented_settings(suite: Suite) -> Settings:
    """Return the faster of two numbers of workers: the best one for uint8, and that of the cores.

    Augmentation takes processor time even if reading uint8 does not.
    """
    settings = suite.chosen()
    cores = len(os.sched_getaffinity(0))
    for contender, best in settings.items():
        if best == cores or cores not in suite.rates[contender]:
            continue
        rates = {}
        with suite.start(contender) as process:
            for count in (best, cores):
                try:
                    row = suite.glance(process, contender, workers=count, augmented=True)
                    rates[count] = row["images_per_second"]
                except ContenderError as error:
                    suite.fail(contender, error)
        settings[contender] = max(rates, key=lambda count: rates[count], default=best)
    return settings


def cold(suite: Suite) -> Iterator[Row]:
    """How many images per second does an epoch from the disk deliver?

    One uint8 epoch, including opening the loader, with the dataset's files dropped from the page
    cache (the system still knows their names). The libraries have read a small dataset before.
    """

    def ask(contender: Contender, count: int) -> Row:
        with suite.start(contender) as process:
            suite.load_libraries(process, contender, count)
            cool(suite.folder(contender))
            opening = suite.open(process, contender, workers=count)
            answer = process.ask("epochs")
        answer["seconds"] += opening["seconds"]
        return rate(answer)

    yield from medians(suite, one_by_one(suite, suite.chosen(), ask))


def first_batch(suite: Suite) -> Iterator[Row]:
    """How long after the start of the process does the first batch arrive?

    A shuffled uint8 batch. Imports count; the page cache is warm and kernels are compiled. Medians,
    with the chosen number of workers or the smallest, whichever is faster.
    """

    def ask(contender: Contender, count: int) -> Row:
        warm(suite.folder(contender))
        with suite.start(contender) as process:
            suite.open(process, contender, workers=count)
            process.ask("first")
            return {"seconds": round(time.perf_counter() - process.started, 3)}

    found: dict[str, list[Row]] = {}
    chosen = suite.chosen()
    smallest = {one: least for one in chosen if (least := min(one.workers)) != chosen[one]}
    for settings in (chosen, smallest):
        for row in medians(suite, one_by_one(suite, settings, ask, repeats=suite.repeats)):
            if "error" in row:
                yield row
            else:
                found.setdefault(row["contender"], []).append(row)
    for rows in found.values():
        yield min(rows, key=lambda row: row["seconds"])


def memory(suite: Suite) -> Iterator[Row]:
    """How much memory does reading take?

    Peak memory of the process tree during two glances' time of augmented epochs: ``pss_mb``, the
    proportional set size, and ``own_mb``, the part of it that is not backed by files.
    ``libraries_mb`` is ``own_mb`` after importing the libraries.
    """

    def ask(contender: Contender, count: int) -> Row:
        with suite.start(contender) as process:
            process.ask("load", contender=contender.name)
            libraries = process.memory_mb()["own_mb"]
            with process.watched() as most:
                suite.open(process, contender, workers=count, augmented=True)
                process.ask(
                    "epochs", least_seconds=suite.seconds / 3, most_seconds=2 * suite.seconds
                )
        found = most | {"libraries_mb": libraries}
        return {name: round(value, 1) for name, value in found.items()}

    yield from medians(suite, one_by_one(suite, suite.chosen(), ask))


def train(suite: Suite) -> Iterator[Row]:
    """How many images per second does a linear model train on, and how many without a loader?

    The model is on the CPU and gets augmented batches, or the same batch in memory again and again
    (``in_place``); ``efficiency`` is the first rate over the second. Contenders in turn, medians.
    """

    def ask(process: Process) -> Row:
        in_place = process.ask("train", least_seconds=suite.seconds / 2, in_place=True)
        loaded = process.ask("train", least_seconds=suite.seconds / 2, in_place=False)
        found, most = (rate(answer)["images_per_second"] for answer in (loaded, in_place))
        return {"images_per_second": found, "in_place": most, "efficiency": round(found / most, 4)}

    settings = {
        contender: count
        for contender, count in augmented_settings(suite).items()
        if contender.library in _TRAINED
    }
    yield from medians(suite, in_turn(suite, settings, ask, reading=augmented))
