"""The answers of ``suite.py`` as Markdown: what ``plot.py`` writes into docs/benchmarks.md."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from contenders import OURS

Row = dict[str, Any]


class Answers:
    """A run's rows, by question."""

    def __init__(self, path: Path) -> None:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        self.rows: dict[str, list[Row]] = {}
        for row in rows:
            self.rows.setdefault(row["question"], []).append(row)
        self.run = self.rows["run"][0]
        self.names = list(dict.fromkeys(row["contender"] for row in self.of("pack")))

    def of(self, question: str) -> list[Row]:
        """Those that are answers; failures are elsewhere."""
        return [row for row in self.rows.get(question, []) if "error" not in row]

    def by_name(self, question: str, figure: str) -> dict[str, Any]:
        """Contender -> figure."""
        return {row["contender"]: row[figure] for row in self.of(question)}

    def failures(self) -> list[Row]:
        """What went wrong, and what was left out."""
        return [
            row for rows in self.rows.values() for row in rows if "error" in row or "reason" in row
        ]


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return ""
    if value >= 100:
        digits = len(str(round(value)))
        return f"{round(value, 3 - digits):,.0f}"
    return f"{value:.3g}"


def with_spread(row: Row, figure: str) -> str:
    """The median, and how far the others lie from it."""
    values = row.get(f"{figure}_all", [])
    text = number(row[figure])
    if len(values) > 1 and row[figure]:
        spread = (max(values) - min(values)) / 2 / row[figure]
        text += f" ± {100 * spread:.0f} %"
    return text


def table(heads: list[str], rows: Iterator[list[str]]) -> list[str]:
    """Markdown; the first column to the left."""
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def speed_table(answers: Answers) -> list[str]:
    """Warm and cold epochs, and what they cost."""
    cold = answers.by_name("cold", "images_per_second")
    first = answers.by_name("first batch", "seconds")
    floats = {row["contender"]: row for row in answers.of("float32")}

    def rows() -> Iterator[list[str]]:
        for row in answers.of("uint8"):
            name = row["contender"]
            augmented = floats.get(name)
            yield [
                name,
                with_spread(row, "images_per_second"),
                with_spread(augmented, "images_per_second") if augmented else "",
                number(augmented["cpu_seconds_per_million"]) if augmented else "",
                number(cold.get(name)),
                number(first.get(name)),
            ]

    heads = [
        "", "uint8, images/s", "augmented float32, images/s", "CPU seconds a million of these",
        "cold, uint8, images/s", "first batch, s",
    ]  # fmt: skip
    return table(heads, rows())


def storage_table(answers: Answers) -> list[str]:
    """Packing, bytes and memory."""
    memory = {row["contender"]: row for row in answers.of("memory")}

    def rows() -> Iterator[list[str]]:
        for row in answers.of("pack"):
            found = memory.get(row["contender"], {})
            yield [
                row["contender"],
                number(row["seconds"]) if row["seconds"] >= 0.01 else "none",
                f"{row['bytes_per_image']:,.0f}",
                f"{row['disk_bytes_per_image']:,.0f}",
                number(found.get("pss_mb")),
                number(found.get("own_mb")),
            ]

    heads = [
        "", "packing, s", "bytes an image", "of the disk", "memory, MB", "without mapped files, MB",
    ]  # fmt: skip
    return table(heads, rows())


def workers_table(answers: Answers) -> list[str]:
    """Images a second by number of workers."""
    rates: dict[str, dict[int, float]] = {}
    for row in answers.of("workers"):
        rates.setdefault(row["contender"], {})[row["workers"]] = row["images_per_second"]

    def rows() -> Iterator[list[str]]:
        for name, found in rates.items():
            yield [name, *(number(found.get(count)) for count in (0, 1, 2, 4))]

    return table(["", "0 workers", "1", "2", "4"], rows())


def s3_table(answers: Answers) -> list[str]:
    """From object storage."""

    def rows() -> Iterator[list[str]]:
        for row in answers.of("s3"):
            yield [
                row["contender"],
                number(row["images_per_second"]),
                number(row["cpu_seconds_per_million"]),
                f"{row['requests']:,}",
            ]

    return table(["", "images/s", "CPU seconds a million", "requests"], rows())


def train_table(answers: Answers) -> list[str]:
    """A linear model's efficiency."""

    def rows() -> Iterator[list[str]]:
        for row in answers.of("train"):
            yield [
                row["contender"],
                with_spread(row, "images_per_second"),
                number(row["in_place"]),
                f"{100 * row['efficiency']:.{0 if row['efficiency'] >= 0.1 else 1}f} %",
            ]

    return table(["", "training, images/s", "on one batch in place", "efficiency"], rows())


def cpu_line(answers: Answers) -> list[str]:
    """Ours beside the best peer's."""
    seconds = answers.by_name("float32", "cpu_seconds_per_million")
    ours = {name: value for name, value in seconds.items() if name.startswith(OURS)}
    theirs = {name: value for name, value in seconds.items() if name not in ours}
    if not ours or not theirs:
        return []
    our_best, best = (min(part, key=lambda name: part[name]) for part in (ours, theirs))
    share = ours[our_best] / theirs[best]
    return [
        f"CPU seconds a million augmented float32 images: {our_best} {number(ours[our_best])}, "
        f"the best other, {best}, {number(theirs[best])}: 1/{1 / share:.1f} of it."
    ]


def losses(answers: Answers) -> list[str]:
    """Every figure in which another library is ahead of our best encoding."""
    lines = []
    for question, figure, more_is_better, what in (
        ("uint8", "images_per_second", True, "warm uint8 epochs"),
        ("float32", "images_per_second", True, "augmented float32 epochs"),
        ("float32", "cpu_seconds_per_million", False, "CPU seconds of augmented float32"),
        ("cold", "images_per_second", True, "cold epochs"),
        ("first batch", "seconds", False, "first batch"),
        ("pack", "seconds", False, "packing"),
        ("pack", "bytes_per_image", False, "bytes an image"),
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


def sections(answers: Answers) -> Iterator[str]:
    """The generated part of the page."""
    run = answers.run
    machine = run["machine"]
    versions: dict[str, str] = {}
    for found in run["versions"].values():
        versions = found | versions  # of torch and the like, those beside this package
    yield (
        f"Run of {run['date']}: {run['images']:,} images, {run['repeats']} repeats; "
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB, "
        f"{machine['system']}."
    )
    yield ", ".join(f"{name} {value}" for name, value in sorted(versions.items())) + "."
    checked = answers.of("uint8")
    if wrong := [row["contender"] for row in checked if not row["every_image_once"]]:
        yield f"Not every image exactly once in the epoch that was checked: {', '.join(wrong)}."
    elif checked:
        yield "Each delivered every image exactly once in the epoch that was checked."
    network = (
        f"{1000 * run['latency_seconds']:g} ms a request, "
        f"{run['bytes_a_second'] / 1e6:g} MB/s a connection"
    )
    parts: list[tuple[str, list[str], Callable[[Answers], list[str]]]] = [
        ("Speed", ["speed", "cold"], speed_table),
        ("Storage and memory", ["storage"], storage_table),
        ("Workers", ["workers"], workers_table),
        (f"From S3: {network}", ["s3"], s3_table),
        ("Training a linear model", ["train"], train_table),
    ]
    for title, pictures, make in parts:
        lines = make(answers)
        if len(lines) > 2:
            yield f"### {title}"
            yield "\n".join(lines)
            yield "\n".join(f"![{title}](plots/{picture}.svg)" for picture in pictures)
    yield from cpu_line(answers)
    yield "### Where another is ahead of our best encoding"
    yield "\n".join(losses(answers))
    if failures := answers.failures():
        yield "### Left out, or failed"
        yield "\n".join(
            f"- {row.get('contender', row['question'])}"
            + (f", {row['workers']} workers" if "workers" in row else "")
            + f": {(row.get('error') or row.get('reason', '')).partition('; see ')[0]}"
            for row in failures
        )
