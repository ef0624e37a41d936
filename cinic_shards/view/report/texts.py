"""The sections of a report that are told in words and tables."""

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape

from cinic_shards.view.report.content import Content
from cinic_shards.view.report.html import cross_table, folded, note, size_text, table

ORIGIN_TITLES = {
    "cifar10-train": "CIFAR-10 train",
    "cifar10-test": "CIFAR-10 test",
    "imagenet": "ImageNet",
    "unknown": "unknown",
}
TIMES = "\N{MULTIPLICATION SIGN}"
_MAX_OPEN_ROWS = 40
"""Longer tables are folded."""
_MAX_FAULTS_SHOWN = 50
_MAX_SIZES = 10

Cells = Counter[tuple[str, int, str, str]]
"""See ``content.cells``."""


def dataset(content: Content) -> str:
    """What it is, and how it was packed."""
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
    small = ""
    if not manifest.licence:
        small = note(
            "No licence and no citation: not every file is named as CINIC-10 names its images."
        )
    return f'<dl class="facts">{rows}</dl>{small}'


def place_shown(content: Content) -> str:
    """A URL, or the name of a folder: where in somebody's home it lies is not for the page."""
    place = content.place
    return place if "://" in place else place.rstrip("/").rpartition("/")[2] or place


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _option(value: object) -> str:
    return "+".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def counts(content: Content, splits: Sequence[str], of_all: Cells) -> str:
    """By split, origin, class and synset; sizes of files, and of images where there are several."""
    manifest = content.manifest
    infos = [info for name in splits if (info := manifest.split(name)) is not None]
    by_split = []
    for info in infos:
        size = sum(shard.size for shard in info.shards)
        by_split.append([
            info.name, f"{info.num_samples:,}", len(info.shards), size_text(size),
            f"{size / info.num_samples:,.0f}",
        ])  # fmt: skip
    if len(infos) > 1:
        size = sum(shard.size for info in infos for shard in info.shards)
        by_split.append([
            "all", f"{manifest.num_samples:,}", sum(len(info.shards) for info in infos),
            size_text(size), f"{size / manifest.num_samples:,.0f}",
        ])  # fmt: skip
    header = ["Split", "images", "shards", "size", "bytes an image"]
    parts = []
    tables = [table(header, by_split, caption="By split")]

    def cross(title: str, name_of: Callable[[tuple[str, int, str, str]], str]) -> str:
        found: dict[str, Counter[str]] = {}
        for key, count in of_all.items():
            if name := name_of(key):
                found.setdefault(name, Counter())[key[0]] += count
        return cross_table(title, found, splits)

    origins = {origin for _, _, origin, _ in of_all}
    if origins == {"unknown"}:
        parts.append(note("By origin: the file names tell none."))
    else:
        tables.append(cross("Origin", lambda key: ORIGIN_TITLES[key[2]]))
    classes = cross("Class", lambda key: manifest.classes[key[1]])
    if len(manifest.classes) > _MAX_OPEN_ROWS:
        classes = folded(f"{len(manifest.classes):,} classes", classes)
    else:
        tables.append(classes)
        classes = ""
    parts = [f'<div class="tables">{"".join(tables)}</div>', *parts, classes]
    if synsets := {synset for _, _, _, synset in of_all if synset}:
        parts.append(folded(_counted(len(synsets), "synset"), _synsets(content, splits, of_all)))
    elif origins != {"unknown"}:
        parts.append(note("By synset: no image is ImageNet's."))
    if manifest.image_shape is None:
        sizes: Counter[tuple[int, int]] = Counter()
        for info in infos:
            sizes.update(info.image_sizes)
        rows = [
            [f"{h} {TIMES} {w}", f"{count:,}"] for (h, w), count in sizes.most_common(_MAX_SIZES)
        ]
        title = f"By image size, height {TIMES} width"
        if len(rows) < len(sizes):
            title += f": the {len(rows)} most common of {len(sizes):,}"
        parts.append(table(["Size", "images"], rows, caption=title))
    return "".join(parts)


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
    return table(header, rows, caption="By synset of ImageNet", num_texts=2)


def verdict(content: Content) -> tuple[str, str]:
    """Class and text of the result of checking."""
    found = content.verification
    num_faults = len(found.faults) + found.num_more_faults
    if not found.is_whole:
        return "bad", f"Damaged: {num_faults:,} fault{'s' if num_faults != 1 else ''}"
    return "good", "Whole: digests checked" if content.is_quick else "Whole: every byte checked"


def integrity(content: Content) -> str:
    """What ``verify`` found, and the shards."""
    found = content.verification
    state, text = verdict(content)
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
        parts.append(note(f"Not part of the dataset: {shown}."))
    rows = [
        [shard.name, f"{shard.num_samples:,}", f"{shard.size:,}", shard.sha256]
        for split in content.manifest.splits
        for shard in split.shards
    ]
    header = ["Shard", "images", "bytes", "SHA-256"]
    shards = table(header, rows, caption="Shards and their SHA-256")
    return "".join(parts) + folded(_counted(len(rows), "shard"), shards)
