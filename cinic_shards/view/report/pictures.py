"""The sections of a report that show images and charts."""

from collections.abc import Sequence
from html import escape

import numpy as np

from cinic_shards.view.report.charts import Series, highest_share, histogram
from cinic_shards.view.report.content import (
    MAX_MONTAGE_CLASSES,
    MAX_OF_A_GROUP,
    Content,
    montage_rows,
)
from cinic_shards.view.report.html import note, table, tile
from cinic_shards.view.stats import CHANNELS

CIFAR10 = ("cifar10-train", "cifar10-test")


def samples(content: Content) -> str:
    """Montages: CIFAR-10's images alone, and all."""
    parts = []
    origins = set(content.columns.origin.tolist())
    if origins & set(CIFAR10) and origins - set(CIFAR10):
        parts.append(_montage(content, "CIFAR-10's images alone", CIFAR10))
        parts.append(_montage(content, "The whole dataset", None))
    else:
        parts.append(_montage(content, "Of each class, by chance", None))
        if origins.isdisjoint(CIFAR10):
            parts.append(note("CIFAR-10's images alone: there are none."))
        else:
            parts.append(note("CIFAR-10's images alone: they are the whole dataset."))
    num_classes = len(content.manifest.classes)
    if num_classes > MAX_MONTAGE_CLASSES:
        parts.append(note(f"The first {MAX_MONTAGE_CLASSES} of {num_classes:,} classes."))
    return "".join(parts)


def _montage(content: Content, title: str, origins: tuple[str, ...] | None) -> str:
    rows = []
    for name, of in montage_rows(content, origins).items():
        tiles = "".join(tile(content.tile_of[row]) for row in of)
        text = escape(name)
        rows.append(
            f'<div class="montage-row"><span class="name" title="{text}">{text}</span>'
            f'<span class="strip" role="img" aria-label="Samples of {text}">{tiles}</span></div>'
        )
    return f'<figure class="montage"><figcaption>{title}</figcaption>{"".join(rows)}</figure>'


def _series(content: Content) -> list[Series]:
    """CIFAR-10's part and ImageNet's as the paper has them; else whatever there is."""
    found = content.histograms
    groups = {
        "CIFAR-10": [found[origin] for origin in CIFAR10 if origin in found],
        "ImageNet": [found[origin] for origin in ("imagenet",) if origin in found],
        "Unknown origin": [found[origin] for origin in ("unknown",) if origin in found],
    }
    there = [(name, sum(counts[1:], counts[0])) for name, counts in groups.items() if counts]
    if len(there) == 1 and there[0][0] == "Unknown origin":
        there = [("All images", there[0][1])]
    return [Series(name, counts) for name, counts in there]


def intensities(content: Content, splits: Sequence[str]) -> str:
    """Histograms, and the means and deviations in figures."""
    series = _series(content)
    if not series:
        return note("No image could be read.")
    top = highest_share(series)
    charts = "".join(
        f'<figure class="chart"><figcaption>{name.capitalize()}</figcaption>'
        f"{histogram(series, channel, name, top)}</figure>"
        for channel, name in enumerate(CHANNELS)
    )
    keys = "".join(
        f'<li><span class="key s{number}"></span>{escape(one.name)}</li>'
        for number, one in enumerate(series)
    )
    rows = [[one.name, *(f"{value:.6f}" for value in (*one.mean, *one.std))] for one in series]
    for name in splits:
        if (info := content.manifest.split(name)) is not None:
            pixels = info.pixels
            rows.append([f"Split {name}", *(f"{v:.6f}" for v in (*pixels.mean, *pixels.std))])
    pixels = content.manifest.pixels
    rows.append(["All", *(f"{value:.6f}" for value in (*pixels.mean, *pixels.std))])
    header = ["", *(f"mean {c}" for c in CHANNELS), *(f"deviation {c}" for c in CHANNELS)]
    parts = [
        '<p>How many pixels have each value from 0 to 255, as a share of each origin&#8217;s; '
        "dashed, the means.</p>",
        f'<ul class="legend">{keys}</ul><div class="charts">{charts}</div>',
    ]  # fmt: skip
    if cut := _cut_bins(series, top):
        parts.append(note(f"Cut at the top: {cut}."))
    caption = "Means and standard deviations, on the scale 0 to 1"
    parts.append(table(header, rows, caption=caption))
    if num_bad := len(content.unreadable):
        images = "1 image is" if num_bad == 1 else f"{num_bad:,} images are"
        parts.append(note(f"{images} damaged, and in none of the histograms."))
    return "".join(parts)


def _cut_bins(series: Sequence[Series], top: float) -> str:
    """The shares of black and white, where they are higher than the scale."""
    found = []
    for value in (0, 255):
        shares = np.array([one.shares[:, value] for one in series])
        if (shares > top).any():
            each = "; ".join(
                f"{one.name} {', '.join(f'{share:.1%}' for share in of.tolist())}"
                for one, of in zip(series, shares, strict=True)
            )
            found.append(f"value {value} (red, green, blue: {each})")
    return "; ".join(found)


def duplicates(content: Content, splits: Sequence[str]) -> str:
    """How many there are and where; some of them, side by side."""
    found = content.duplicates
    if not found.groups:
        return "<p>No two images have the same pixels.</p>"
    counts = found.counts
    several = counts.pop("other class", {})
    there = {place for row in counts.values() for place in row}
    where = [*(name for name in splits if name in there), *sorted(there.difference(splits))]
    total = {place: sum(row.get(place, 0) for row in counts.values()) for place in where}
    named = [*counts.items(), ("all", total)]
    if several:
        named.append(("of them in several classes", several))
    rows = [[name, *(f"{row.get(place, 0):,}" for place in where)] for name, row in named]
    num_groups, num_shown = len(found.groups), len(content.shown_duplicates)
    across = sum(len({key.partition("/")[0] for key in group}) > 1 for group in found.groups)
    text = (
        f"{num_groups:,} image{'s are' if num_groups != 1 else ' is'} there more than once, with "
        f"the same pixels; {across:,} of them in several splits."
    )
    items = []
    for group in content.shown_duplicates:
        keys = content.columns.keys[list(group)].tolist()
        pictures = "".join(
            f'<li><span class="picture" role="img" aria-label="{escape(key)}">'
            f"{tile(content.tile_of[row])}</span><code>{_breakable(key)}</code></li>"
            for row, key in zip(group, keys, strict=True)
        )
        num_all = next(len(one) for one in found.groups if one[0] == keys[0])
        more = f"<li>and {num_all - MAX_OF_A_GROUP} more</li>" if num_all > len(group) else ""
        items.append(f"<li><ul>{pictures}{more}</ul></li>")
    rest = num_groups - num_shown
    after = note(f"{rest:,} more are not shown; cinic-shard info --duplicates --json lists all.")
    title = "Images that are there more than once, by the class of the first, and where"
    return (
        f"<p>{text}</p>{table(['Class', *where], rows, caption=title)}"
        f'<ul class="twins">{"".join(items)}</ul>{after if rest else ""}'
    )


def _breakable(key: str) -> str:
    """A key that may be broken into lines behind a slash or underscore."""
    return escape(key).replace("/", "/<wbr>").replace("_", "_<wbr>")


def browser(content: Content, splits: Sequence[str]) -> str:
    """What ``script.js`` fills: filters, the grid."""
    origins = set(content.columns.origin.tolist())
    has_synsets = bool((content.columns.synset != "").any())
    wanted = [
        ("split", "Split", len(splits) > 1),
        ("class", "Class", len(content.manifest.classes) > 1),
        ("origin", "Origin", len(origins) > 1),
        ("synset", "Synset", has_synsets),
    ]
    filters = "".join(
        f'<label>{title}<select id="filter-{name}" data-facet="{name}"></select></label>'
        for name, title, is_wanted in wanted
        if is_wanted
    )
    missing = [title.lower() for _, title, is_wanted in wanted if not is_wanted]
    small = ""
    if missing:
        small = note(f"No filter by {' or '.join(missing)}: all images have the same, or none.")
    num_images = len(content.sample.rows)
    is_all = num_images == content.manifest.num_samples
    what = (
        "All of the dataset&#8217;s images."
        if is_all
        else f"A sample of {num_images:,} of the dataset&#8217;s "
        f"{content.manifest.num_samples:,} images, drawn with seed {content.seed}: of each class "
        "in each split and origin the same share."
    )
    size = "" if content.sheets.is_exact else " Images are shown smaller than they are."
    numbers = " The numbers beside the options count the whole dataset." if filters else ""
    return (
        f"<p>{what}{numbers}{size}</p>{small}"
        f'<form class="filters" aria-label="Filters">{filters}'
        '<button type="reset">Clear</button></form>'
        '<p id="status" role="status"></p>'
        '<ul id="grid" aria-label="Images; arrow keys move, Enter opens"></ul>'
        '<p class="more"><button type="button" id="more">Show more</button></p>'
    )
