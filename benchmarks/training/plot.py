"""Draw the logs of ``train.py``: loss and error of each epoch.

python -m benchmarks.training.plot runs/*/log.csv curves.png
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from benchmarks import argument_parser

_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")


def plot_curves(logs: Sequence[Path], picture: Path) -> None:
    """Draw training loss, training error and test error of one or several runs.

    Args:
        logs: ``log.csv`` of each run, in a folder named after the run.
        picture: the PNG to write.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for number, log in enumerate(logs):
        with log.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        epochs = [int(row["epoch"]) for row in rows]
        style = {"color": _COLOURS[number % len(_COLOURS)], "marker": "." if len(rows) < 20 else ""}
        left.plot(epochs, [float(row["loss"]) for row in rows], label=log.parent.name, **style)
        for part, line in (("train", "--"), ("test", "-")):
            errors = [100 * (1 - float(row[f"{part}_accuracy"])) for row in rows]
            label = part if number == 0 else None
            right.plot(epochs, errors, linestyle=line, label=label, **style)
    left.set_title("training loss", fontsize=10)
    right.set_title("error, %", fontsize=10)
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.set_xlabel("epoch", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
    figure.savefig(picture, dpi=150)
    plt.close(figure)


def plot_shift(errors: Mapping[str, Mapping[str, float]], picture: Path) -> None:
    """Draw test error by origin, a group of bars for each training set.

    Args:
        errors: training set -> test set -> error, 0 to 1.
        picture: the PNG to write.
    """
    tested = list(dict.fromkeys(name for row in errors.values() for name in row))
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    width = 0.8 / len(tested)
    for number, name in enumerate(tested):
        shift = (number - (len(tested) - 1) / 2) * width
        positions = [position + shift for position in range(len(errors))]
        heights = [100 * row[name] for row in errors.values()]
        bars = axis.bar(positions, heights, 0.92 * width, label=name, color=_COLOURS[number])
        axis.bar_label(bars, [f"{height:.1f}" for height in heights], padding=2, fontsize=8)
    axis.set_xticks(range(len(errors)), list(errors))
    axis.set_xlabel("trained on", fontsize=9)
    axis.set_ylabel("test error, %", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.12)
    axis.legend(title="tested on", fontsize=8, title_fontsize=8, frameon=False, ncols=len(tested),
                loc="lower center", bbox_to_anchor=(0.5, 1.0))  # fmt: skip
    figure.savefig(picture, dpi=150)
    plt.close(figure)


def main() -> None:
    """Read the logs and write the picture."""
    parser = argument_parser(__doc__)
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    plot_curves(args.logs, args.picture)


if __name__ == "__main__":
    main()
