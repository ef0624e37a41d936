"""How well does a model trained on one origin do on the other? Test error by origin.

    python -m benchmarks.training.shift shards --amp --channels-last            # hours on one GPU
    python -m benchmarks.training.shift shards --model tiny --epochs 5 --equal  # minutes on a CPU

CINIC-10 joins images of CIFAR-10 and of ImageNet under one set of classes, to study what its
authors call distribution shift. This script trains a model on all images of a split, one on CIFAR's
part and one on ImageNet's part, and tests each on both parts of the test split. CIFAR's part of
``train`` has 20,000 of its 90,000 images: ``--equal`` trains on the same number of each, so that
only the origin makes a difference. Runs are those of ``train.py``, saved and resumed as there. The
table is printed and written to ``shift.md``, the plot to ``shift.png``.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import argument_parser
from benchmarks.training import models
from benchmarks.training.recipe import Recipe
from benchmarks.training.table import mean_and_deviation
from benchmarks.training.train import (
    add_options,
    ended,
    is_first,
    recipe_of,
    run_all,
    say,
    setting_of,
)
from cinic_shards.errors import OptionError
from cinic_shards.format.provenance import origins_named
from cinic_shards.read.dataset import Dataset

TRAINED_ON = ("all", "cifar", "imagenet")
TESTED_ON = ("all", "cifar", "imagenet")


def fractions(shards: str, split: str, *, equal: bool) -> dict[str, float]:
    """Return the fraction of the images of each origin to train on.

    Args:
        shards: folder or URL of the dataset.
        split: the training split.
        equal: take the same number of each, that of the smallest part.

    Raises:
        OptionError: the split has no images of one of the origins.
    """
    origin = Dataset(shards).columns_of(split).origin
    sizes = {"all": len(origin)}
    for name in TRAINED_ON[1:]:
        sizes[name] = sum(int((origin == one).sum()) for one in origins_named(name))
        if not sizes[name]:
            raise OptionError(f"{shards}: {split} has no image of {name}: nothing to compare")
    smallest = min(sizes.values())
    return {name: smallest / size if equal else 1.0 for name, size in sizes.items()}


def errors_by_origin(
    results: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, dict[str, list[float]]]:
    """Return training set -> test set -> error of each seed, 0 to 1."""
    found = {}
    for trained, runs in results.items():
        by_group = [{"all": run["test_error"], **run["errors"]} for run in runs]
        found[trained] = {tested: [run[tested] for run in by_group] for tested in TESTED_ON}
    return found


def table(
    errors: Mapping[str, Mapping[str, Sequence[float]]],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """Return a Markdown table: a row for each training set, a column for each test set."""
    lines = [
        "| trained on | images | " + " | ".join(f"error on {name}, %" for name in TESTED_ON) + " |",
        "| --- | ---: |" + " ---: |" * len(TESTED_ON),
    ]
    for trained, row in errors.items():
        images = f"{results[trained][0]['train_images']:,}"
        cells = [mean_and_deviation(row[tested]) for tested in TESTED_ON]
        lines.append(f"| {trained} | {images} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train on the three sets with each seed; print the table and draw the plot."""
    parser = argument_parser(__doc__)
    add_options(parser)
    parser.set_defaults(out=Path("runs-shift"))
    parser.add_argument("--model", default="resnet18", choices=models.NAMES)
    parser.add_argument("--equal", action="store_true", help="train on the same number of each")
    parser.add_argument("--seed", type=int, default=0, help="of the first run; default: 0")
    parser.add_argument("--seeds", type=int, default=1, help="number of runs of each; default: 1")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: expected at least 1")

    def recipes(origin: str, fraction: float) -> list[Recipe]:
        seeds = range(args.seed, args.seed + args.seeds)
        given = {"train_origin": origin, "train_fraction": fraction}
        return [recipe_of(args, seed=seed, **given) for seed in seeds]

    def work() -> None:
        if args.equal and args.train_fraction != 1:
            raise OptionError("--equal chooses the fractions: leave --train-fraction out")
        parts = fractions(args.shards, args.train_split, equal=args.equal)
        setting = setting_of(args)
        results = {
            origin: run_all(
                args.shards,
                args.out,
                recipes(origin, fraction if args.equal else args.train_fraction),
                setting,
            )
            for origin, fraction in parts.items()
        }
        if not is_first():
            return
        errors = errors_by_origin(results)
        text = table(errors, results)
        (args.out / "shift.md").write_text(text, encoding="utf-8")
        sys.stdout.write(text)
        _draw(errors, args.out / "shift.png")

    sys.exit(ended(work))


def _draw(errors: Mapping[str, Mapping[str, Sequence[float]]], picture: Path) -> None:
    try:
        from benchmarks.training.plot import plot_shift
    except ImportError:
        say(f"no {picture}: matplotlib is not installed")
        return
    plot_shift(
        {
            trained: {tested: sum(values) / len(values) for tested, values in row.items()}
            for trained, row in errors.items()
        },
        picture,
    )


if __name__ == "__main__":
    main()
