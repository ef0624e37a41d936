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
_MAX_FAULTS_SHOWN = 1000
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
        ("images" if manifest.num_samples != 1 else "image", f"{manifest.num_samples:,}"),
        ("classes" if len(manifest.classes) != 1 else "class", f"{len(manifest.classes):,}"),
        ("splits" if len(splits) != 1 else "split", f"{len(splits):,}"),
        ("pixels", f"{shape[0]:,} {TIMES} {shape[1]:,}") if shape else ("image sizes", "several"),
        (f"encoded as {manifest.encoding}", size_text(size)),
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
        "Options": ", ".join(f"{name}: {_option(name, value)}" for name, value in
                             manifest.options.items()),
    }  # fmt: skip
    return {"facts": {name: text for name, text in facts.items() if text}}


def shown_location(content: Content) -> str:
    """Return a URL, or a folder's name without its path, which would reveal private names."""
    location = content.location
    return location if "://" in location else location.rstrip("/").rpartition("/")[2] or location


def _option(name: str, value: object) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value)) or "none"
    is_number = isinstance(value, int) and not isinstance(value, bool) and name != "seed"
    return f"{value:,}" if is_number else str(value)


def counts(content: Content, splits: Sequence[str], of_all: Cells) -> dict[str, Any]:
    """Return tables by split, origin, class and synset, and by image size if there are several."""
    classes = content.manifest.classes
    has_origins = {origin for _, _, origin, _ in of_all} != {"unknown"}
    tables = [_by_split(content, splits)]
    if has_origins:
        tables.append(_cross("Origin", of_all, splits, lambda key: ORIGIN_TITLES[key[2]]))
    tables.append(_cross("Class", of_all, splits, lambda key: classes[key[1]]))
    return {
        "tables": tables,
        "has_origins": has_origins,
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
    return Table("By split", ["Split", "Images", "Shards", "Size", "Bytes per image"], rows)


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
    return Table("By ImageNet synset", ["Synset", "Class", *splits, "all"], rows, num_names=2)


def _by_image_size(content: Content) -> Table:
    sizes: Counter[tuple[int, int]] = Counter()
    for info in content.manifest.splits:
        sizes.update(info.image_sizes)
    rows = [[f"{h:,} {TIMES} {w:,}", count] for (h, w), count in sizes.most_common(_MAX_SIZES)]
    caption = "By image size"
    if len(rows) < len(sizes):
        caption += f": the {len(rows)} most common of {len(sizes):,}"
    return Table(caption, [f"Height {TIMES} width", "Images"], rows)


def verdict(content: Content) -> dict[str, Any]:
    """Return the result of the check as a text, and its class in ``style.css``."""
    found = content.verification
    if found.is_whole:
        extent = "digests checked" if content.is_quick else "every byte checked"
        return {"state": "good", "text": f"Intact: {extent}"}
    files = {fault.location.file for fault in found.faults}
    text = f"Damaged: {_counted(len(found.faults) + found.num_more_faults, 'fault')}"
    text += f" in {_counted(len(files), 'file')}"
    if content.unreadable:
        text += f"; {_counted(len(content.unreadable), 'image')} cannot be read"
    return {"state": "bad", "text": text}


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def integrity(content: Content) -> dict[str, Any]:
    """Return the faults and the table of shards; the other results are in ``content``."""
    found = content.verification
    by_file = Counter(fault.location.file for fault in found.faults)
    caption = "Faults by file" + (", only of those listed" if found.num_more_faults else "")
    rows = [
        [shard.name, shard.num_samples, shard.size, shard.sha256]
        for split in content.manifest.splits
        for shard in split.shards
    ]
    header = ["Shard", "Images", "Bytes", "SHA-256"]
    return {
        "faults": found.faults[:_MAX_FAULTS_SHOWN],
        "num_hidden": max(0, len(found.faults) - _MAX_FAULTS_SHOWN) + found.num_more_faults,
        "faults_by_file": Table(caption, ["File", "Faults"], list(by_file.items())),
        "shards": Table("Shards and their SHA-256", header, rows),
    }
