"""Values for the templates of the report's sections with words and tables."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cinic_shards.view.report.content import Content

ORIGIN_TITLES = {
    "cifar10-train": "CIFAR-10 train",
    "cifar10-test": "CIFAR-10 test",
    "imagenet": "ImageNet",
    "unknown": "unknown",
}
TIMES = "\N{MULTIPLICATION SIGN}"
_MAX_OPEN_ROWS = 40
"""Tables with more rows are folded."""
_MAX_FAULTS_SHOWN = 50
_MAX_SIZES = 10

Cells = Counter[tuple[str, int, str, str]]
"""The result of ``content.cells``."""


class Table(NamedTuple):
    """A table; the template formats the numbers among its cells."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    num_names: int = 1
    """Number of first columns that hold names; the others hold numbers."""


def size_text(size: int) -> str:
    """Return a size in bytes as text with a unit."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.{2 if size < 100 * factor else 0}f} {unit}"
    return f"{size} B"


def lead(content: Content, splits: Sequence[str]) -> list[tuple[str, str]]:
    """Return the figures under the title, each after its name."""
    manifest = content.manifest
    size = sum(shard.size for split in manifest.splits for shard in split.shards)
    shape = manifest.image_shape
    return [
        ("images", f"{manifest.num_samples:,}"),
        ("classes" if len(manifest.classes) != 1 else "class", f"{len(manifest.classes):,}"),
        ("splits" if len(splits) != 1 else "split", f"{len(splits):,}"),
        ("pixels", f"{shape[0]} {TIMES} {shape[1]}") if shape else ("sizes", "several"),
        (f"as {manifest.encoding}", size_text(size)),
    ]


def dataset(content: Content) -> dict[str, Any]:
    """Return facts about the dataset and how it was packed."""
    manifest = content.manifest
    facts = {
        "Location": shown_location(content),
        "Licence": manifest.licence,
        "Citation": manifest.citation,
        "Encoding": f"{manifest.encoding}, blocks of {manifest.block_size:,} images; format "
                    f"{content.summary['format_version']}",
        "Packed with": ", ".join(map(" ".join, manifest.libraries.items())),
        "Options": ", ".join(f"{name}: {_option(value)}" for name, value in
                             manifest.options.items()),
    }  # fmt: skip
    return {"facts": {name: text for name, text in facts.items() if text}}


def shown_location(content: Content) -> str:
    """Return a URL, or a folder's name without its path, which would reveal private names."""
    location = content.location
    return location if "://" in location else location.rstrip("/").rpartition("/")[2] or location


def _option(value: object) -> str:
    return "+".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def counts(content: Content, splits: Sequence[str], of_all: Cells) -> dict[str, Any]:
    """Return tables by split, origin, class and synset, and by image size if there are several."""
    classes = content.manifest.classes
    has_origins = {origin for _, _, origin, _ in of_all} != {"unknown"}
    tables = [_by_split(content, splits)]
    if has_origins:
        tables.append(_cross("Origin", of_all, splits, lambda key: ORIGIN_TITLES[key[2]]))
    by_class = _cross("Class", of_all, splits, lambda key: classes[key[1]])
    is_folded = len(classes) > _MAX_OPEN_ROWS
    return {
        "tables": [*tables, *([] if is_folded else [by_class])],
        "has_origins": has_origins,
        "folded_classes": by_class if is_folded else None,
        "synsets": _by_synset(content, splits, of_all),
        "sizes": None if content.manifest.image_shape else _by_image_size(content),
    }


def _by_split(content: Content, splits: Sequence[str]) -> Table:
    infos = sorted(content.manifest.splits, key=lambda info: splits.index(info.name))
    parts = [(info.name, [info]) for info in infos]
    if len(infos) > 1:
        parts.append(("all", infos))
    rows = []
    for name, of in parts:
        shards = [shard for info in of for shard in info.shards]
        size, num_samples = sum(shard.size for shard in shards), sum(one.num_samples for one in of)
        each = f"{size / num_samples:,.0f}"
        rows.append([name, num_samples, len(shards), size_text(size), each])
    return Table("By split", ["Split", "images", "shards", "size", "bytes per image"], rows)


def _cross(
    title: str,
    of_all: Cells,
    splits: Sequence[str],
    name_of: Callable[[tuple[str, int, str, str]], str],
) -> Table:
    """Make a table with a row for each name and a column for each split."""
    found: dict[str, Counter[str]] = {}
    for key, count in of_all.items():
        found.setdefault(name_of(key), Counter())[key[0]] += count
    several = len(splits) > 1
    rows = [
        [name, *(of[split] for split in splits), *([of.total()] if several else [])]
        for name, of in sorted(found.items())
    ]
    header = [title, *splits, *(["all"] if several else [])]
    return Table(f"By {title.lower()}", header, rows)


def _by_synset(content: Content, splits: Sequence[str], of_all: Cells) -> Table:
    found: dict[str, Counter[str]] = {}
    classes: dict[str, set[str]] = {}
    for (split, label, _, synset), count in of_all.items():
        if synset:
            found.setdefault(synset, Counter())[split] += count
            classes.setdefault(synset, set()).add(content.manifest.classes[label])
    rows = [
        [synset, ", ".join(sorted(classes[synset])), *(of[split] for split in splits), of.total()]
        for synset, of in sorted(found.items())
    ]
    return Table("By ImageNet synset", ["Synset", "class", *splits, "all"], rows, num_names=2)


def _by_image_size(content: Content) -> Table:
    sizes: Counter[tuple[int, int]] = Counter()
    for info in content.manifest.splits:
        sizes.update(info.image_sizes)
    rows = [[f"{h} {TIMES} {w}", count] for (h, w), count in sizes.most_common(_MAX_SIZES)]
    caption = f"By image size, height {TIMES} width"
    if len(rows) < len(sizes):
        caption += f": the {len(rows)} most common of {len(sizes):,}"
    return Table(caption, ["Size", "images"], rows)


def verdict(content: Content) -> dict[str, Any]:
    """Return the result of the check as a text, and its class in ``style.css``."""
    found = content.verification
    if found.is_whole:
        extent = "digests checked" if content.is_quick else "every byte checked"
        return {"state": "good", "text": f"Intact: {extent}", "num_faults": 0}
    number = len(found.faults) + found.num_more_faults
    text = f"Damaged: {number:,} fault{'s' if number != 1 else ''}"
    return {"state": "bad", "text": text, "num_faults": number}


def integrity(content: Content) -> dict[str, Any]:
    """Return the table of shards; the result of ``verify`` is in ``content``."""
    rows = [
        [shard.name, shard.num_samples, shard.size, shard.sha256]
        for split in content.manifest.splits
        for shard in split.shards
    ]
    header = ["Shard", "images", "bytes", "SHA-256"]
    return {
        "max_faults": _MAX_FAULTS_SHOWN,
        "shards": Table("Shards and their SHA-256", header, rows),
    }
