"""Render a report as one HTML file, which loads no other file."""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from cinic_shards._version import __version__
from cinic_shards.format.provenance import CINIC10_CITATION
from cinic_shards.view.report import pictures, texts
from cinic_shards.view.report.content import Content, cells
from cinic_shards.view.report.sprites import COLUMNS, TILES
from cinic_shards.view.report.texts import ORIGIN_TITLES

_SIDES = {"strip": 32, "grid": 64, "dialog": 256}
"""Largest side of a drawn tile in pixels, by where it is; drawn at an integer multiple."""
_SPLIT_ORDER = ("train", "valid", "test")
_SECTIONS = {
    "samples": "Samples",
    "counts": "Counts",
    "intensities": "Pixel values",
    "duplicates": "Duplicates",
    "integrity": "Integrity",
    "dataset": "About the dataset",
    "browser": "Browse",
}
"""Template -> title of each section, in the page's order; integrity is first if there are faults.
"""
_MAX_OPEN_ROWS = 20
"""Longer tables and lists are folded."""

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("cinic_shards.view.report", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""All inserted text is escaped: names and keys are untrusted."""
TEMPLATES.globals |= {
    "tiles_per_sheet": TILES,
    "tiles_per_row": COLUMNS,
    "max_open_rows": _MAX_OPEN_ROWS,
}
TEMPLATES.filters["thousands"] = "{:,}".format
TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":")}


def make_page(content: Content, *, title: str | None = None) -> str:
    """Return the page's HTML."""
    splits = sorted((split.name for split in content.manifest.splits), key=_split_rank)
    script = _asset("script.js")
    first = () if content.verification.is_whole else ("integrity",)
    return TEMPLATES.get_template("page.html").render(
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=_title(content) if title is None else title,
        style=_asset("style.css"),
        script=script,
        zooms={name: max(1, side // content.sheets.side) for name, side in _SIDES.items()},
        version=__version__,
        data=_data(content, splits),
        sections={name: _SECTIONS[name] for name in (*first, *_SECTIONS)},
        content=content,
        figures=texts.lead(content, splits),
        verdict=texts.verdict(content),
        dataset=texts.dataset(content),
        counts=texts.counts(content, splits, cells(content.columns)),
        samples=pictures.samples(content),
        intensities=pictures.intensities(content, splits),
        duplicates=pictures.duplicates(content, splits),
        integrity=texts.integrity(content),
        browser=pictures.browser(content, splits),
    )


def _split_rank(name: str) -> tuple[int, str]:
    return (_SPLIT_ORDER.index(name) if name in _SPLIT_ORDER else len(_SPLIT_ORDER)), name


def _title(content: Content) -> str:
    if content.manifest.citation == CINIC10_CITATION:
        return "CINIC-10"
    return content.location.partition("?")[0].rstrip("/").rpartition("/")[2] or content.location


def _asset(name: str) -> str:
    return files("cinic_shards.view.report").joinpath(name).read_text(encoding="utf-8")


def _data(content: Content, splits: Sequence[str]) -> dict[str, Any]:
    """Return the data for the image browser; names are listed once, and referred to by number."""
    columns, rows = content.columns, content.order
    of_all: Counter[tuple[str, int, str, str]] = cells(columns)
    origins = _in_order(origin for _, _, origin, _ in of_all)
    synsets = _in_order(synset for _, _, _, synset in of_all)
    split_codes, origin_codes, synset_codes = (
        {name: code for code, name in enumerate(names)} for names in (splits, origins, synsets)
    )

    unreadable = {error.position for error in content.unreadable}

    def stem(key: str) -> str:
        return key.rpartition("/")[2]

    return {
        "splits": list(splits),
        "classes": list(content.manifest.classes),
        "origins": origins,
        "originTitles": [ORIGIN_TITLES[name] for name in origins],
        "synsets": synsets,
        "cells": [
            [split_codes[split], label, origin_codes[origin], synset_codes[synset], count]
            for (split, label, origin, synset), count in sorted(of_all.items())
        ],
        "images": {
            "split": [split_codes[name] for name in columns.split[rows].tolist()],
            "class": columns.labels[rows].tolist(),
            "origin": [origin_codes[name] for name in columns.origin[rows].tolist()],
            "synset": [synset_codes[name] for name in columns.synset[rows].tolist()],
            "number": columns.number[rows].tolist(),
            "id": rows.tolist(),
            "isUnreadable": [row in unreadable for row in rows.tolist()],
            "stem": [stem(key) for key in columns.keys[rows].tolist()],
        },
        "tilesPerSheet": TILES,
        "tilesPerRow": COLUMNS,
        "isExact": content.sheets.is_exact,
    }


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(set(names))
