"""What the sections of a report show that hold images and charts; their templates say how."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cinic_shards.view.report.charts import Chart, Series, highest_share
from cinic_shards.view.report.content import (
    MAX_MONTAGE_CLASSES,
    MAX_OF_A_GROUP,
    Content,
    montage_rows,
)
from cinic_shards.view.report.texts import Table
from cinic_shards.view.stats import CHANNELS

CIFAR10 = ("cifar10-train", "cifar10-test")


def samples(content: Content) -> dict[str, Any]:
    """Montages: CIFAR-10's images alone, and all."""
    origins = set(content.columns.origin.tolist())
    is_mixed = bool(origins & set(CIFAR10) and origins - set(CIFAR10))
    montages: dict[str, tuple[str, ...] | None] = {"Of each class, by chance": None}
    if is_mixed:
        montages = {"CIFAR-10's images alone": CIFAR10, "The whole dataset": None}
    return {
        "montages": {
            title: {
                name: [content.tile_of[row] for row in rows]
                for name, rows in montage_rows(content, of).items()
            }
            for title, of in montages.items()
        },
        "is_mixed": is_mixed,
        "has_cifar10": not origins.isdisjoint(CIFAR10),
        "max_classes": MAX_MONTAGE_CLASSES,
    }


def _series(content: Content) -> list[Series]:
    """CIFAR-10's part and ImageNet's as the paper has them; else whatever there is."""
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
    """Histograms, and the means and deviations in figures."""
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
            ["", *(f"mean {c}" for c in CHANNELS), *(f"deviation {c}" for c in CHANNELS)],
            [[name, *(f"{v:.6f}" for v in (*mean, *std))] for name, mean, std in of_all],
        ),
    }


def _cut_bins(series: Sequence[Series], highest: float) -> str:
    """The shares of black and white, where they are higher than the scale."""
    found = []
    for value in (0, 255):
        shares = np.array([one.shares[:, value] for one in series])
        if (shares > highest).any():
            each = "; ".join(
                f"{one.name} {', '.join(f'{share:.1%}' for share in of.tolist())}"
                for one, of in zip(series, shares, strict=True)
            )
            found.append(f"value {value} (red, green, blue: {each})")
    return "; ".join(found)


def duplicates(content: Content, splits: Sequence[str]) -> dict[str, Any]:
    """How many there are and where; some of them, side by side."""
    groups = content.duplicates.groups
    counts = content.duplicates.counts
    several = counts.pop("other class", {})
    there = {place for row in counts.values() for place in row}
    where = [*(name for name in splits if name in there), *sorted(there.difference(splits))]
    named = [
        *counts.items(),
        ("all", {place: sum(row.get(place, 0) for row in counts.values()) for place in where}),
        *([("of them in several classes", several)] if several else []),
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
            "Images that are there more than once, by the class of the first, and where",
            ["Class", *where],
            [[name, *(row.get(place, 0) for place in where)] for name, row in named],
        ),
        "shown": shown,
    }


def browser(content: Content, splits: Sequence[str]) -> dict[str, Any]:
    """The filters that the browser of images has, and those that would not filter."""
    is_wanted = {
        "split": len(splits) > 1,
        "class": len(content.manifest.classes) > 1,
        "origin": len(set(content.columns.origin.tolist())) > 1,
        "synset": bool((content.columns.synset != "").any()),
    }
    return {
        "filters": [name for name, wanted in is_wanted.items() if wanted],
        "missing": [name for name, wanted in is_wanted.items() if not wanted],
    }
