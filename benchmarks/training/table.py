"""Print the results of ``train.py`` beside CINIC-10's published ones.

    python -m benchmarks.training.table runs

The published errors are from https://github.com/BayesWatch/cinic-10 (and arXiv:1810.03505), on the
test split: after training on ``train`` once, and on ``train+valid`` with five seeds. Ours are the
mean and, for several seeds, the sample standard deviation. Each row lists the fields in which its
recipe differs from the published one.
"""

import json
import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import argument_parser
from benchmarks.training import models
from benchmarks.training.recipe import Recipe

PUBLISHED: Mapping[str, Mapping[str, str]] = {
    "train": {
        "vgg16": "15.25",
        "resnet18": "12.42",
        "preact_resnet18": "12.84",
        "googlenet": "11.54",
        "resnext29_2x64d": "11.66",
        "mobilenet": "19.55",
    },
    "train+valid": {
        "vgg16": "12.23 +/- 0.16",
        "resnet18": "9.73 +/- 0.05",
        "preact_resnet18": "10.10 +/- 0.08",
        "googlenet": "8.83 +/- 0.12",
        "resnext29_2x64d": "8.55 +/- 0.15",
        "densenet121": "8.74 +/- 0.16",
        "mobilenet": "18.00 +/- 0.16",
    },
}
"""Training split -> model -> test error in percent. The page does not list DenseNet-121 trained on
``train`` alone."""

_OWN_COLUMN = ("model", "train_split", "seed")
"""Fields of a recipe that a row always shows."""


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Read every ``result.json`` below a folder, in the order of their paths."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.rglob("result.json"))]


def mean_and_deviation(errors: Iterable[float]) -> str:
    """Format errors from 0 to 1 as mean and, if there are several, deviation, in percent."""
    percent = [100 * error for error in errors]
    deviation = f" +/- {statistics.stdev(percent):.2f}" if len(percent) > 1 else ""
    return f"{statistics.fmean(percent):.2f}{deviation}"


def difference(recipe: Mapping[str, Any]) -> str:
    """List the fields in which a recipe differs from the published one, with their values."""
    published = asdict(Recipe())
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in recipe.items()
        if name not in _OWN_COLUMN and value != published[name]
    )


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table for each training split, with a row for each recipe."""
    runs: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for result in results:
        recipe = result["recipe"]
        key = recipe["train_split"], recipe["model"]
        runs.setdefault(key, {}).setdefault(difference(recipe), []).append(result)
    splits = dict.fromkeys([*PUBLISHED, *(split for split, _ in runs)])
    lines = []
    for split in splits:
        lines += [
            f"Trained on {split}:\n",
            "| model | parameters | published error, % | error, % | runs | not as published in |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
        ]
        for name in models.NAMES:
            published = PUBLISHED.get(split, {}).get(name, "")
            count = f"{models.num_parameters(models.build(name)) / 1e6:.2f} M"
            of_recipes = runs.get((split, name), {})
            for what, group in sorted(of_recipes.items(), key=lambda item: item[0]):
                ours = mean_and_deviation(result["test_error"] for result in group)
                lines.append(f"| {name} | {count} | {published} | {ours} | {len(group)} | {what} |")
            if not of_recipes and published:
                lines.append(f"| {name} | {count} | {published} | | 0 | |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Read the results and print the table."""
    parser = argument_parser(__doc__)
    parser.add_argument("runs", type=Path, help="the folder given to train.py as --out")
    args = parser.parse_args()
    results = read_results(args.runs)
    if not results:
        parser.error(f"{args.runs}: no result.json in it; train.py writes one at a run's end")
    sys.stdout.write(table(results))


if __name__ == "__main__":
    main()
