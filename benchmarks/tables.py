"""The answers of the suite as Markdown: ``plot.py`` writes it into docs/benchmarks.md."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.contenders import OURS

Row = dict[str, Any]


class Answers:
    """The rows of a run, by question."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows: dict[str, list[Row]] = {}
        for row in rows:
            self.rows.setdefault(row["question"], []).append(row)
        self.run = self.rows["run"][0]

    def of(self, question: str) -> list[Row]:
        """Return a question's answers, without failures."""
        return [row for row in self.rows.get(question, []) if not failed(row)]

    def by_name(self, question: str, figure: str) -> dict[str, Any]:
        """Return contender -> value of a figure."""
        return {row["contender"]: row[figure] for row in self.of(question)}

    def rates_by_workers(self) -> dict[str, dict[int, float]]:
        """Return contender -> number of workers -> images per second."""
        rates: dict[str, dict[int, float]] = {}
        for row in self.of("workers"):
            rates.setdefault(row["contender"], {})[row["workers"]] = row["images_per_second"]
        return rates

    def failures(self) -> list[Row]:
        """Return the rows of failures, and of contenders and questions that were left out."""
        return [row for rows in self.rows.values() for row in rows if failed(row)]


def runs_of(*paths: Path) -> list[Answers]:
    """Read the runs of one or more files; a line with the question "run" begins each run.

    The first run compares all contenders. Later ones add some, beside contenders of the first.

    Raises:
        ValueError: a file does not begin with such a line.
    """
    runs: list[list[Row]] = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["question"] == "run":
                runs.append([])
            if not runs:
                raise ValueError(f"{path}: expected the question 'run' in the first line")
            runs[-1].append(row)
    return [Answers(rows) for rows in runs]


def failed(row: Row) -> bool:
    """True if a row is an error, or a reason why something was left out."""
    return "error" in row or "reason" in row


def number(value: float | None) -> str:
    """Format a number with three significant digits; an empty string for None."""
    if value is None:
        return ""
    if value >= 100:
        digits = len(str(round(value)))
        return f"{round(value, 3 - digits):,.0f}"
    return f"{value:.3g}"


Cell = Callable[[Row, str], str]
"""Formats a figure of a row, given by its name."""


def plain(row: Row, figure: str) -> str:
    """Format with three significant digits."""
    return number(row.get(figure))


def with_spread(row: Row, figure: str) -> str:
    """Format the median, and half the range of the values in percent of it."""
    values = row.get(f"{figure}_all", [])
    text = number(row[figure])
    if len(values) > 1 and row[figure]:
        spread = (max(values) - min(values)) / 2 / row[figure]
        text += f" ± {100 * spread:.0f} %"
    return text


def integer(row: Row, figure: str) -> str:
    """Format as an integer, with all digits."""
    return f"{row[figure]:,.0f}"


def seconds_or_none(row: Row, figure: str) -> str:
    """Format seconds; "none" if there was nothing to do."""
    return number(row[figure]) if row[figure] >= 0.01 else "none"


def percent(row: Row, figure: str) -> str:
    """Format a share in percent."""
    return f"{100 * row[figure]:.{0 if row[figure] >= 0.1 else 1}f} %"


def text(row: Row, figure: str) -> str:
    """Return the figure as it is; an empty string if the row does not have it."""
    return str(row.get(figure, ""))


Column = tuple[str, str, str, Cell]
"""Heading, question, figure, and its format."""

_SPEED: list[Column] = [
    ("uint8, images/s", "uint8", "images_per_second", with_spread),
    ("augmented float32, images/s", "float32", "images_per_second", with_spread),
    ("CPU seconds per million of these", "float32", "cpu_seconds_per_million", plain),
    ("cold, uint8, images/s", "cold", "images_per_second", plain),
    ("first batch, s", "first batch", "seconds", plain),
]
_STORAGE: list[Column] = [
    ("packing, s", "pack", "seconds", seconds_or_none),
    ("bytes per image", "pack", "bytes_per_image", integer),
    ("on the disk", "pack", "disk_bytes_per_image", integer),
    ("memory, MB", "memory", "pss_mb", plain),
    ("without mapped files, MB", "memory", "own_mb", plain),
]
_S3: list[Column] = [
    ("images/s", "s3", "images_per_second", plain),
    ("CPU seconds per million", "s3", "cpu_seconds_per_million", plain),
    ("requests", "s3", "requests", integer),
]
_STREAM: list[Column] = [
    ("images/s", "stream", "images_per_second", with_spread),
    ("bytes per image", "stream", "bytes_per_image", integer),
]
_TRAIN: list[Column] = [
    ("training, images/s", "train", "images_per_second", with_spread),
    ("on one batch in memory", "train", "in_place", plain),
    ("efficiency", "train", "efficiency", percent),
]
_VERIFY: list[Column] = [
    ("verify, s", "verify", "seconds", with_spread),
    ("sha256sum, s", "verify", "sha256sum_seconds", plain),
    ("an epoch, s", "verify", "epoch_seconds", plain),
    ("of both", "verify", "share", plain),
]
_KERNELS: list[Column] = [
    ("images/s", "kernels", "images_per_second", plain),
    ("of", "kernels", "of", text),
    ("share", "kernels", "share", plain),
]
_CLIENTS: list[Column] = [
    ("a round, s", "clients", "seconds", plain),
    ("opening all, s", "clients", "open_seconds", plain),
    ("memory more than one loader, MB", "clients", "more_mb", plain),
    ("threads after it", "clients", "threads", integer),
]
_AUGMENT: list[Column] = [("images/s", "augment", "images_per_second", plain)]


def table(heads: list[str], rows: Iterator[list[str]]) -> list[str]:
    """Return the lines of a Markdown table; only the first column is left-aligned."""
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def table_of(answers: Answers, columns: list[Column]) -> list[str]:
    """Return a table with a row for each contender that answered the first column's question."""
    found = {
        question: {row["contender"]: row for row in answers.of(question)}
        for _, question, _, _ in columns
    }

    def rows() -> Iterator[list[str]]:
        for name in found[columns[0][1]]:
            yield [name] + [
                write(found[question][name], figure) if name in found[question] else ""
                for _, question, figure, write in columns
            ]

    return table(["", *(head for head, _, _, _ in columns)], rows())


def by_count(rates: dict[str, dict[int, float]], heads: dict[int, str]) -> list[str]:
    """Return a table of images per second, a column for each number of workers or threads."""
    rows = ([name, *(number(found.get(count)) for count in heads)] for name, found in rates.items())
    return table(["", *heads.values()], rows)


def workers_table(answers: Answers) -> list[str]:
    """Return the table of images per second by number of workers."""
    return by_count(answers.rates_by_workers(), {0: "0 workers", 1: "1", 2: "2", 4: "4"})


def decode_table(answers: Answers) -> list[str]:
    """Return the table of images per second by number of threads."""
    rates: dict[str, dict[int, float]] = {}
    counts = {}
    for row in answers.of("decode"):
        rates.setdefault(row["contender"], {})[row["threads"]] = row["images_per_second"]
        counts[row["threads"]] = f"images/s, threads: {row['threads']}"
    return by_count(rates, counts)


def cpu_line(answers: Answers) -> list[str]:
    """Compare our CPU seconds with those of the best other library, in a sentence."""
    seconds = answers.by_name("float32", "cpu_seconds_per_million")
    ours = {name: value for name, value in seconds.items() if name.startswith(OURS)}
    theirs = {name: value for name, value in seconds.items() if name not in ours}
    if not ours or not theirs:
        return []
    our_best, best = (min(part, key=lambda name: part[name]) for part in (ours, theirs))
    share = ours[our_best] / theirs[best]
    return [
        f"CPU seconds per million augmented float32 images: {number(ours[our_best])} for "
        f"{our_best}; {number(theirs[best])} for {best}, the best of the others: "
        f"{1 / share:.1f} times as many."
    ]


def losses(answers: Answers) -> list[str]:
    """List every figure in which another library is ahead of our best encoding."""
    lines = []
    for question, figure, more_is_better, what in (
        ("uint8", "images_per_second", True, "warm uint8 epochs"),
        ("float32", "images_per_second", True, "augmented float32 epochs"),
        ("float32", "cpu_seconds_per_million", False, "CPU seconds of augmented float32"),
        ("cold", "images_per_second", True, "cold epochs"),
        ("first batch", "seconds", False, "first batch"),
        ("pack", "seconds", False, "packing"),
        ("pack", "bytes_per_image", False, "bytes per image"),
        ("memory", "pss_mb", False, "memory"),
        ("s3", "images_per_second", True, "S3"),
        ("train", "efficiency", True, "training efficiency"),
    ):
        found = {name: value for name, value in answers.by_name(question, figure).items() if value}
        ours = [value for name, value in found.items() if name.startswith(OURS)]
        if not ours:
            continue
        best = max(ours) if more_is_better else min(ours)
        ahead = {
            name: value
            for name, value in found.items()
            if not name.startswith(OURS) and (value > best if more_is_better else value < best)
        }
        if ahead:
            names = ", ".join(f"{name} {number(value)}" for name, value in ahead.items())
            lines.append(f"- {what}: {names}; our best {number(best)}")
    return lines or ["- in none of these figures"]


def machine_of(run: Row) -> str:
    """Describe the machine of a run."""
    machine = run["machine"]
    return (
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB, "
        f"{machine['system']}"
    )


def versions_of(run: Row) -> dict[str, str]:
    """Return library -> version, sorted; this package's own environment takes precedence."""
    versions: dict[str, str] = {}
    for found in run["versions"].values():
        versions = found | versions
    return dict(sorted(versions.items()))


def page(runs: list[Answers]) -> str:
    """Return the generated part of the page: the first run, then those that add contenders."""
    parts = [*sections(runs[0], pictures=True)]
    for answers in runs[1:]:
        parts.append(f"## Added on {answers.run['date']}")
        parts.append(
            "A run of its own, beside some contenders of the run above. Compare figures within it: "
            "the same contender differs from run to run."
        )
        parts += sections(answers, pictures=False)
    return "\n\n".join(parts)


def sections(answers: Answers, *, pictures: bool) -> Iterator[str]:
    """Yield the paragraphs about a run."""
    run = answers.run
    yield (
        f"Run of {run['date']}: {run['images']:,} images, {run['repeats']} repeats; "
        f"{machine_of(run)}."
    )
    yield ", ".join(f"{name} {value}" for name, value in versions_of(run).items()) + "."
    checked = answers.of("uint8")
    if wrong := [row["contender"] for row in checked if not row["every_image_once"]]:
        yield f"Not every image exactly once in the epoch that was checked: {', '.join(wrong)}."
    elif checked:
        yield "Each contender delivered every image exactly once in the epoch that was checked."
    network = (
        f"{1000 * run['latency_seconds']:g} ms per request, "
        f"{run['bytes_a_second'] / 1e6:g} MB/s per connection"
    )
    parts: list[tuple[str, list[str], list[str]]] = [
        ("Speed", ["speed", "cold"], table_of(answers, _SPEED)),
        ("Storage and memory", ["storage"], table_of(answers, _STORAGE)),
        ("Workers", ["workers"], workers_table(answers)),
        (f"From S3: {network}", ["s3"], table_of(answers, _S3)),
        ("From S3 without delay", [], table_of(answers, _STREAM)),
        ("Training a linear model", ["train"], table_of(answers, _TRAIN)),
        ("Verifying", [], table_of(answers, _VERIFY)),
        ("The loader compared with its bare kernels", [], table_of(answers, _KERNELS)),
        ("Decoding", [], decode_table(answers)),
        ("Augmenting, one thread", [], table_of(answers, _AUGMENT)),
        ("Many clients in one process", [], table_of(answers, _CLIENTS)),
    ]
    for title, plots, lines in parts:
        if len(lines) > 2:
            yield f"### {title}"
            yield "\n".join(lines)
            if plots and pictures:
                yield "\n".join(f"![{title}](plots/{plot}.svg)" for plot in plots)
    yield from cpu_line(answers)
    yield "### Where another library is ahead of our best encoding"
    yield "\n".join(losses(answers))
    if failures := answers.failures():
        yield "### Left out, or failed"
        yield "\n".join(
            f"- {row.get('contender', row['question'])}"
            + (f", {row['workers']} workers" if "workers" in row else "")
            + f": {(row.get('error') or row.get('reason', '')).partition('; see ')[0]}"
            for row in failures
        )
