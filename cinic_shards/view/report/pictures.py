"""Values for the templates of the report's sections with images and charts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cinic_shards.view.report.charts import Chart, Series, highest_share
from cinic_shards.view.report.content import (
    MAX_OF_A_GROUP,
    Content,
    montage_rows,
)
from cinic_shards.view.report.texts import Table
from cinic_shards.view.stats import CHANNELS

CIFAR10 = ("cifar10-train", "cifar10-test")


def samples(content: Content) -> dict[str, Any]:
    """Return the montages: one of CIFAR-10's images only, if there are others, and one of all."""
    origins = set(content.columns.origin.tolist())
    has_cifar10 = not origins.isdisjoint(CIFAR10)
    is_mixed = has_cifar10 and not origins <= set(CIFAR10)
    montages: dict[str, tuple[str, ...] | None] = {"Random images of each class": None}
    if is_mixed:
        montages = {"Only images from CIFAR-10": CIFAR10, "All images": None}
    return {
        "montages": {
            title: [
                (name, [content.tile_of[row] for row in rows])
                for name, rows in montage_rows(content, of).items()
            ]
            for title, of in montages.items()
        },
        "note": "All images are from CIFAR-10." if has_cifar10 and not is_mixed else "",
    }


def _series(content: Content) -> list[Series]:
    """Return histograms of CIFAR-10's and ImageNet's images, as in the paper, and of the rest."""
    found = content.histograms
    groups = {"CIFAR-10": CIFAR10, "ImageNet": ("imagenet",), "Unknown origin": ("unknown",)}
    if set(found) == {"unknown"}:
        groups = {"All images": ("unknown",)}
    return [
        Series(name, sum(counts[1:], counts[0]))
        for name, origins in groups.items()
        if (counts := [found[origin] for origin in origins if origin in found])
    ]


def intensities(content: Content, splits: Sequence[str]) -> dict[str, Any]:
    """Return the histograms, and a table of means and standard deviations."""
    series = _series(content)
    if not series:
        return {"charts": []}
    highest = highest_share(series)
    manifest = content.manifest
    of_all = [(one.name, one.mean, one.std) for one in series]
    infos = sorted(manifest.splits, key=lambda info: splits.index(info.name))
    of_all += [(f"Split {info.name}", info.pixels.mean, info.pixels.std) for info in infos]
    of_all.append(("All", manifest.pixels.mean, manifest.pixels.std))
    return {
        "names": [one.name for one in series],
        "charts": [Chart(series, channel, name, highest) for channel, name in enumerate(CHANNELS)],
        "cut": _cut_bins(series, highest),
        "table": Table(
            "Means and standard deviations, on the scale 0 to 1",
            ["Images", *(f"mean {c}" for c in CHANNELS), *(f"deviation {c}" for c in CHANNELS)],
            [[name, *(f"{v:.6f}" for v in (*mean, *std))] for name, mean, std in of_all],
        ),
    }


def _cut_bins(series: Sequence[Series], highest: float) -> str:
    """Describe the shares of black and white if they exceed the scale; else empty."""
    found = []
    for value in (0, 255):
        shares = np.array([one.shares[:, value] for one in series])
        if (shares > highest).any():
            each = "; ".join(
                f"{one.name}, "
                + ", ".join(
                    f"{name} {share:.1%}" for name, share in zip(CHANNELS, of.tolist(), strict=True)
                )
                for one, of in zip(series, shares, strict=True)
            )
            found.append(f"value {value} ({each})")
    return "; ".join(found)


def duplicates(content: Content, splits: Sequence[str]) -> dict[str, Any]:
    """Return the number of duplicates by class and split, and some groups to show."""
    groups = content.duplicates.groups
    counts = content.duplicates.counts
    several = counts.pop("other class", {})
    found = {name for row in counts.values() for name in row}
    header = [*(name for name in splits if name in found), *sorted(found.difference(splits))]
    named = [
        *counts.items(),
        ("all", {name: sum(row.get(name, 0) for row in counts.values()) for name in header}),
        *([("of these, in several classes", several)] if several else []),
    ]
    sizes = {group[0]: len(group) for group in groups}
    shown = []
    for rows in content.shown_duplicates:
        keys = content.columns.keys[list(rows)].tolist()
        shown.append({
            "tiles": {key: content.tile_of[row] for key, row in zip(keys, rows, strict=True)},
            "num_more": max(0, sizes[keys[0]] - MAX_OF_A_GROUP),
        })  # fmt: skip
    return {
        "num_groups": len(groups),
        "num_across": sum(len({key.partition("/")[0] for key in group}) > 1 for group in groups),
        "table": Table(
            "Duplicate images, by the class of the first one and by split",
            ["Class", *header],
            [[name, *(row.get(column, 0) for column in header)] for name, row in named],
        ),
        "shown": shown,
    }


def browser(content: Content, splits: Sequence[str]) -> dict[str, Any]:
    """Return the filters of the image browser, without those that would not filter."""
    is_wanted = {
        "split": len(splits) > 1,
        "class": len(content.manifest.classes) > 1,
        "origin": len(set(content.columns.origin.tolist())) > 1,
        "synset": bool((content.columns.synset != "").any()),
    }
    return {"filters": [name for name, wanted in is_wanted.items() if wanted]}
