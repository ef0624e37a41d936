r"""Turn the JSON lines of the suite into plots, and into the tables of docs/benchmarks.md.

    python -m benchmarks.plot suite.jsonl --docs docs
    python -m benchmarks.plot docs/plots/benchmarks.jsonl more.jsonl --docs docs   # add a run
    python -m benchmarks.plot docs/plots/benchmarks.jsonl --docs docs --readme README.md

Writes ``docs/plots/*.svg``, a copy of the lines, and the part of ``docs/benchmarks.md`` between two
markers; the rest of the page does not change. ``--readme`` also fills the marked blocks of a
README; see ``benchmarks/readme.py``.
"""

import itertools
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from benchmarks import argument_parser, readme
from benchmarks.contenders import OURS
from benchmarks.tables import Answers, number, page, runs_of

NAME = "by benchmarks/plot.py: begin"
"""Name of the block of docs/benchmarks.md."""
_OUR_COLOUR, _THEIR_COLOUR = "#4477aa", "#bbbbbb"


def bars(axis: Any, title: str, values: dict[str, float]) -> None:
    """Draw a bar for each contender, labelled with its value, on a logarithmic scale."""
    names = list(values)
    colours = [_OUR_COLOUR if name.startswith(OURS) else _THEIR_COLOUR for name in names]
    drawn = axis.barh(names, list(values.values()), color=colours)
    axis.bar_label(drawn, [number(value) for value in values.values()], padding=3, fontsize=8)
    axis.set_xscale("log")
    axis.set_xlim(0.5 * min(values.values()), 6 * max(values.values()))
    axis.set_title(title, fontsize=10)
    axis.tick_params(labelsize=8)
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Any, path: Path) -> None:
    """Write a figure without a date, so that the same lines give the same file."""
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def draw(answers: Answers, folder: Path) -> None:
    """Draw all plots."""
    mpl.rcParams["svg.hashsalt"] = "benchmarks"
    mpl.rcParams["svg.fonttype"] = "none"  # text, not outlines: smaller
    folder.mkdir(exist_ok=True)

    def panels(name: str, *parts: tuple[str, str, str]) -> None:
        found = [(title, answers.by_name(question, figure)) for question, figure, title in parts]
        found = [(title, {n: v for n, v in one.items() if v}) for title, one in found]
        found = [(title, one) for title, one in found if one]
        if not found:
            return
        height = 0.6 + 0.26 * max(len(one) for _, one in found)
        figure, axes = plt.subplots(
            1, len(found), figsize=(4.6 * len(found), height), squeeze=False, layout="constrained"
        )
        for axis, (title, one) in zip(axes[0], found, strict=True):
            bars(axis, title, one)
        save(figure, folder / name)

    panels(
        "speed.svg",
        ("uint8", "images_per_second", "warm, uint8, images/s"),
        ("float32", "images_per_second", "augmented float32, images/s"),
        ("float32", "cpu_seconds_per_million", "CPU seconds per million of these"),
    )
    panels(
        "storage.svg",
        ("pack", "bytes_per_image", "bytes per image"),
        ("pack", "seconds", "packing, s"),
        ("memory", "pss_mb", "memory, MB"),
    )
    panels(
        "cold.svg",
        ("cold", "images_per_second", "cold page cache, uint8, images/s"),
        ("first batch", "seconds", "first batch, s"),
    )
    panels("s3.svg", ("s3", "images_per_second", "from S3, uint8, images/s"))
    panels(
        "train.svg",
        ("train", "images_per_second", "training a linear model, images/s"),
        ("train", "efficiency", "share of the rate on one batch in memory"),
    )
    draw_workers(answers, folder / "workers.svg")


def draw_workers(answers: Answers, path: Path) -> None:
    """Draw rate by number of workers, a line for each contender."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    colours = [mpl.colormaps["tab20"](at) for at in range(20)]
    for (name, found), colour in zip(
        answers.rates_by_workers().items(), itertools.cycle(colours), strict=False
    ):
        ours = name.startswith(OURS)
        axis.plot(
            list(found), list(found.values()), marker="o", markersize=3, label=name, color=colour,
            linewidth=2 if ours else 1, linestyle="-" if ours else "--",
        )  # fmt: skip
    axis.set_yscale("log")
    axis.set_xticks([0, 1, 2, 4])
    axis.set_xlabel("workers")
    axis.set_ylabel("images/s, uint8, warm")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def write_page(lines: list[Path], docs: Path) -> None:
    """Draw the plots of the first run, and rewrite the generated part of ``docs/benchmarks.md``.

    Raises:
        ValueError: the page does not have the two markers.
    """
    runs = runs_of(*lines)
    text = "".join(path.read_text(encoding="utf-8") for path in lines)
    made = readme.filled((docs / "benchmarks.md").read_text(encoding="utf-8"), {NAME: page(runs)})
    draw(runs[0], docs / "plots")
    for theme in readme.THEMES if runs[0].of(readme.PLOTTED) else ():
        (docs / "plots" / f"readme-{theme}.svg").write_text(readme.plot(runs, theme))
    (docs / "plots" / "benchmarks.jsonl").write_text(text, encoding="utf-8")
    (docs / "benchmarks.md").write_text(made, encoding="utf-8")


def main() -> None:
    """Draw the plots and update the pages."""
    parser = argument_parser(__doc__)
    parser.add_argument("lines", type=Path, nargs="+", help="JSON lines of the suite")
    parser.add_argument("--docs", type=Path, required=True, help="folder of benchmarks.md")
    parser.add_argument("--readme", type=Path, help="README to fill")
    args = parser.parse_args()
    try:
        write_page(args.lines, args.docs)
        if args.readme:
            text = args.readme.read_text(encoding="utf-8")
            runs = runs_of(args.docs / "plots" / "benchmarks.jsonl")
            args.readme.write_text(readme.written(text, runs), encoding="utf-8")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
