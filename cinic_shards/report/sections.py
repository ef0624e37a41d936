"""The sections of a report: what does not apply to a dataset is left out, and a line says why."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from cinic_shards.report.charts import Series, highest_share, histogram
from cinic_shards.report.content import (
    MAX_MONTAGE_CLASSES,
    MAX_OF_A_GROUP,
    Content,
    cells,
    montage_rows,
)
from cinic_shards.report.sheets import COLUMNS, TILES
from cinic_shards.stats import CHANNELS

CIFAR10 = ("cifar10-train", "cifar10-test")
ORIGIN_TITLES = {
    "cifar10-train": "CIFAR-10 train",
    "cifar10-test": "CIFAR-10 test",
    "imagenet": "ImageNet",
    "unknown": "unknown",
}
TIMES = "\N{MULTIPLICATION SIGN}"
_MAX_OPEN_ROWS = 40
_MAX_FAULTS_SHOWN = 50

Cells = Counter[tuple[str, int, str, str]]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page."""

    anchor: str
    title: str
    body: str
    """HTML."""

    @property
    def html(self) -> str:
        """The element."""
        return (
            f'<section id="{self.anchor}" aria-labelledby="{self.anchor}-title">'
            f'<h2 id="{self.anchor}-title">{escape(self.title)}</h2>{self.body}</section>'
        )


def all_sections(content: Content, splits: Sequence[str]) -> list[Section]:
    """Every section, in the page's order."""
    of_all = cells(content.columns)
    return [
        Section("dataset", "The dataset", _dataset(content)),
        Section("counts", "Counts", _counts(content, splits, of_all)),
        Section("samples", "Samples", _samples(content)),
        Section("intensities", "Intensities", _intensities(content, splits)),
        Section("duplicates", "Duplicates", _duplicates(content, splits)),
        Section("integrity", "Integrity", _integrity(content)),
        Section("browser", "Browse", _browser(content, splits)),
    ]


def lead(content: Content, splits: Sequence[str]) -> str:
    """The figures under the title."""
    manifest = content.manifest
    size = sum(shard.size for split in manifest.splits for shard in split.shards)
    shape = manifest.image_shape
    figures = [
        (f"{manifest.num_samples:,}", "images"),
        (f"{len(manifest.classes):,}", "classes" if len(manifest.classes) != 1 else "class"),
        (f"{len(splits):,}", "splits" if len(splits) != 1 else "split"),
        (f"{shape[0]} {TIMES} {shape[1]}" if shape else "several", "pixels" if shape else "sizes"),
        (_bytes(size), f"as {manifest.encoding}"),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for value, name in figures)
    state, text = _verdict(content)
    return (
        f'<dl class="figures">{items}</dl><p class="verdict {state}"><a href="#integrity">{text}'
        "</a></p>"
    )


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.{2 if size < 100 * factor else 0}f} {unit}"
    return f"{size} B"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str, num_texts: int = 1
) -> str:
    """A table; the first ``num_texts`` columns hold names, the others numbers."""

    def cell(tag: str, column: int, text: object, extra: str = "") -> str:
        kind = "" if column < num_texts else ' class="number"'
        return f"<{tag}{kind}{extra}>{escape(str(text))}</{tag}>"

    head = "".join(cell("th", i, text, ' scope="col"') for i, text in enumerate(header))
    body = "".join(
        ('<tr class="total">' if str(row[0]).lower() == "all" else "<tr>")
        + cell("th", 0, row[0], ' scope="row"')
        + "".join(cell("td", i, text) for i, text in enumerate(row[1:], 1))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _dataset(content: Content) -> str:
    manifest, summary = content.manifest, content.summary
    texts = [
        ("Place", place_shown(content)),
        ("Licence", manifest.licence),
        ("Citation", manifest.citation),
        ("Encoding", f"{manifest.encoding}, blocks of {manifest.block_size:,} images; format "
                     f"{summary['format_version']}"),
        ("Packed with", ", ".join(f"{name} {version}" for name, version in
                                  manifest.libraries.items())),
        ("Options", ", ".join(f"{name}: {_option(value)}" for name, value in
                              manifest.options.items())),
    ]  # fmt: skip
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in texts if text
    )
    print_ = escape(manifest.fingerprint)
    rows += f'<div><dt>Fingerprint</dt><dd><code class="digest">{print_}</code></dd></div>'
    note = ""
    if not manifest.licence:
        note = _note(
            "No licence and no citation: not every file is named as CINIC-10 names its images."
        )
    return f'<dl class="facts">{rows}</dl>{note}'


def place_shown(content: Content) -> str:
    """A URL, or the name of a folder: where in somebody's home it lies is not for the page."""
    place = content.place
    return place if "://" in place else place.rstrip("/").rpartition("/")[2] or place


def _option(value: object) -> str:
    return "+".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def _counts(content: Content, splits: Sequence[str], of_all: Cells) -> str:
    manifest = content.manifest
    infos = [info for name in splits if (info := manifest.split(name)) is not None]
    by_split = []
    for info in infos:
        size = sum(shard.size for shard in info.shards)
        by_split.append([
            info.name, f"{info.num_samples:,}", len(info.shards), _bytes(size),
            f"{size / info.num_samples:,.0f}",
        ])  # fmt: skip
    if len(infos) > 1:
        size = sum(shard.size for info in infos for shard in info.shards)
        by_split.append([
            "all", f"{manifest.num_samples:,}", sum(len(info.shards) for info in infos),
            _bytes(size), f"{size / manifest.num_samples:,.0f}",
        ])  # fmt: skip
    header = ["Split", "images", "shards", "size", "bytes an image"]
    parts = []
    tables = [_table(header, by_split, caption="By split")]

    def cross(title: str, name_of: Callable[[tuple[str, int, str, str]], str]) -> str:
        found: dict[str, Counter[str]] = {}
        for key, count in of_all.items():
            if name := name_of(key):
                found.setdefault(name, Counter())[key[0]] += count
        return _cross_table(title, found, splits)

    origins = {origin for _, _, origin, _ in of_all}
    if origins == {"unknown"}:
        parts.append(_note("By origin: the file names tell none."))
    else:
        tables.append(cross("Origin", lambda key: ORIGIN_TITLES[key[2]]))
    classes = cross("Class", lambda key: manifest.classes[key[1]])
    if len(manifest.classes) > _MAX_OPEN_ROWS:
        classes = _folded(f"{len(manifest.classes):,} classes", classes)
    else:
        tables.append(classes)
        classes = ""
    parts = [f'<div class="tables">{"".join(tables)}</div>', *parts, classes]
    if synsets := {synset for _, _, _, synset in of_all if synset}:
        parts.append(_folded(f"{len(synsets):,} synsets", _synsets(content, splits, of_all)))
    elif origins != {"unknown"}:
        parts.append(_note("By synset: no image is ImageNet's."))
    if manifest.image_shape is None:
        sizes: Counter[tuple[int, int]] = Counter()
        for info in infos:
            sizes.update(info.image_sizes)
        rows = [[f"{h} {TIMES} {w}", f"{count:,}"] for (h, w), count in sizes.most_common(20)]
        title = f"The {len(rows)} most common of {len(sizes):,} image sizes, height {TIMES} width"
        parts.append(_table(["Size", "images"], rows, caption=title))
    return "".join(parts)


def _cross_table(title: str, found: dict[str, Counter[str]], splits: Sequence[str]) -> str:
    several = len(splits) > 1
    rows = [
        [name, *(f"{counts[split]:,}" for split in splits)]
        + ([f"{counts.total():,}"] if several else [])
        for name, counts in sorted(found.items())
    ]
    header = [title, *splits, *(["all"] if several else [])]
    return _table(header, rows, caption=f"By {title.lower()}")


def _synsets(content: Content, splits: Sequence[str], of_all: Cells) -> str:
    found: dict[str, Counter[str]] = {}
    classes: dict[str, set[str]] = {}
    for (split, label, _, synset), count in of_all.items():
        if synset:
            found.setdefault(synset, Counter())[split] += count
            classes.setdefault(synset, set()).add(content.manifest.classes[label])
    rows = [
        [synset, ", ".join(sorted(classes[synset])), *(f"{counts[split]:,}" for split in splits),
         f"{counts.total():,}"]
        for synset, counts in sorted(found.items())
    ]  # fmt: skip
    header = ["Synset", "class", *splits, "all"]
    return _table(header, rows, caption="By synset of ImageNet", num_texts=2)


def _tile(number: int) -> str:
    sheet, place = divmod(number, TILES)
    x, y = place % COLUMNS, place // COLUMNS
    return f'<span class="tile sheet-{sheet}" style="--x:{x};--y:{y}"></span>'


def _samples(content: Content) -> str:
    parts = []
    origins = set(content.columns.origin.tolist())
    if origins & set(CIFAR10) and origins - set(CIFAR10):
        parts.append(_montage(content, "CIFAR-10's images alone", CIFAR10))
        parts.append(_montage(content, "The whole dataset", None))
    else:
        parts.append(_montage(content, "Of each class, by chance", None))
        if origins.isdisjoint(CIFAR10):
            parts.append(_note("CIFAR-10's images alone: there are none."))
        else:
            parts.append(_note("CIFAR-10's images alone: they are the whole dataset."))
    num_classes = len(content.manifest.classes)
    if num_classes > MAX_MONTAGE_CLASSES:
        parts.append(_note(f"The first {MAX_MONTAGE_CLASSES} of {num_classes:,} classes."))
    return "".join(parts)


def _montage(content: Content, title: str, origins: tuple[str, ...] | None) -> str:
    rows = []
    for name, of in montage_rows(content, origins).items():
        tiles = "".join(_tile(content.tile_of[row]) for row in of)
        label = escape(f"Samples of {name}")
        rows.append(
            f'<div class="montage-row"><span class="name">{escape(name)}</span>'
            f'<span class="strip" role="img" aria-label="{label}">{tiles}</span></div>'
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


def _intensities(content: Content, splits: Sequence[str]) -> str:
    series = _series(content)
    if not series:
        return _note("No image could be read.")
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
        parts.append(_note(f"Cut at the top: {cut}."))
    caption = "Means and standard deviations, on the scale 0 to 1"
    parts.append(_table(header, rows, caption=caption))
    if num_bad := len(content.unreadable):
        images = "1 image is" if num_bad == 1 else f"{num_bad:,} images are"
        parts.append(_note(f"{images} damaged, and in none of the histograms."))
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


def _duplicates(content: Content, splits: Sequence[str]) -> str:
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
            f"{_tile(content.tile_of[row])}</span><code>{_breakable(key)}</code></li>"
            for row, key in zip(group, keys, strict=True)
        )
        num_all = next(len(one) for one in found.groups if one[0] == keys[0])
        more = f"<li>and {num_all - MAX_OF_A_GROUP} more</li>" if num_all > len(group) else ""
        items.append(f"<li><ul>{pictures}{more}</ul></li>")
    rest = num_groups - num_shown
    after = _note(f"{rest:,} more are not shown; cinic-shard info --duplicates --json lists all.")
    title = "Images that are there more than once, by the class of the first, and where"
    return (
        f"<p>{text}</p>{_table(['Class', *where], rows, caption=title)}"
        f'<ul class="twins">{"".join(items)}</ul>{after if rest else ""}'
    )


def _breakable(key: str) -> str:
    """A key that may be broken into lines behind a slash or underscore."""
    return escape(key).replace("/", "/<wbr>").replace("_", "_<wbr>")


def _verdict(content: Content) -> tuple[str, str]:
    """Class and text of the result of checking."""
    found = content.verification
    num_faults = len(found.faults) + found.num_more_faults
    if not found.is_whole:
        return "bad", f"Damaged: {num_faults:,} fault{'s' if num_faults != 1 else ''}"
    return "good", "Whole: digests checked" if content.is_quick else "Whole: every byte checked"


def _integrity(content: Content) -> str:
    found = content.verification
    state, text = _verdict(content)
    checked = (
        "every shard&#8217;s size and SHA-256, and its index; no image was decoded for it"
        if content.is_quick
        else "every shard&#8217;s SHA-256, the structure of the tar files, their indexes, each "
        "payload&#8217;s CRC-32, every image&#8217;s pixels and their hash, every count and sum of "
        "the manifest, and the fingerprint"
    )
    parts = [
        f'<p class="verdict {state}">{text}</p><p>Checked when this page was made, in '
        f"{found.num_shards:,} shards and {found.num_samples:,} samples: {checked}.</p>"
    ]
    if found.faults:
        faults = "".join(f"<li>{escape(str(f))}</li>" for f in found.faults[:_MAX_FAULTS_SHOWN])
        num_more = len(found.faults) + found.num_more_faults - _MAX_FAULTS_SHOWN
        more = f"<li>and {num_more:,} more</li>" if num_more > 0 else ""
        parts.append(f'<ul class="faults">{faults}{more}</ul>')
    if found.strays:
        shown = ", ".join(found.strays[:5]) + (", ..." if len(found.strays) > 5 else "")
        parts.append(_note(f"Not part of the dataset: {shown}."))
    rows = [
        [shard.name, f"{shard.num_samples:,}", f"{shard.size:,}", shard.sha256]
        for split in content.manifest.splits
        for shard in split.shards
    ]
    header = ["Shard", "images", "bytes", "SHA-256"]
    table = _table(header, rows, caption="Shards and their SHA-256")
    return "".join(parts) + _folded(f"{len(rows):,} shards", table)


def _browser(content: Content, splits: Sequence[str]) -> str:
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
    note = ""
    if missing:
        note = _note(f"No filter by {' or '.join(missing)}: all images have the same, or none.")
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
        f"<p>{what}{numbers}{size}</p>{note}"
        f'<form class="filters" aria-label="Filters">{filters}'
        '<button type="reset">Clear</button></form>'
        '<p id="status" role="status"></p>'
        '<ul id="grid" aria-label="Images; arrow keys move, Enter opens"></ul>'
        '<p class="more"><button type="button" id="more">Show more</button></p>'
    )
