"""What a report says -> one HTML file that needs no other, and that may load none."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from cinic_shards._version import __version__
from cinic_shards.format.provenance import CINIC10_CITATION
from cinic_shards.view.report import pictures, texts
from cinic_shards.view.report.content import Content, cells
from cinic_shards.view.report.html import size_text
from cinic_shards.view.report.sprites import COLUMNS, TILES
from cinic_shards.view.report.texts import ORIGIN_TITLES

_SIDES = {"strip": 32, "grid": 64, "dialog": 256}
"""How large a tile is drawn where, in pixels, or as a smaller whole multiple of its side."""
_SPLIT_ORDER = ("train", "valid", "test")


def make_page(content: Content, *, title: str | None = None) -> str:
    """The page's HTML."""
    splits = sorted((split.name for split in content.manifest.splits), key=_place_of_split)
    title = title or _title(content)
    style, script = _asset("style.css"), _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found = all_sections(content, splits)
    return Template(_asset("template.html")).substitute(
        script_digest=digest,
        title=escape(title),
        style=style,
        sheets=_sheet_rules(content),
        lead=lead(content, splits),
        contents="".join(f'<a href="#{one.anchor}">{escape(one.title)}</a>' for one in found),
        sections="".join(one.html for one in found),
        version=__version__,
        data=_for_script(_data(content, splits)),
        script=script,
    )


def _place_of_split(name: str) -> tuple[int, str]:
    return (_SPLIT_ORDER.index(name) if name in _SPLIT_ORDER else len(_SPLIT_ORDER)), name


def _title(content: Content) -> str:
    if content.manifest.citation == CINIC10_CITATION:
        return "CINIC-10"
    return content.place.partition("?")[0].rstrip("/").rpartition("/")[2] or content.place


def _asset(name: str) -> str:
    return files("cinic_shards.view.report").joinpath(name).read_text(encoding="utf-8")


def _sheet_rules(content: Content) -> str:
    sheets = content.sheets
    zooms = "".join(
        f";--{name}-zoom:{max(1, side // sheets.side)}" for name, side in _SIDES.items()
    )
    rules = [f":root{{--cell:{sheets.side};--columns:{COLUMNS}{zooms}}}"]
    for number, (uri, num_rows) in enumerate(zip(sheets.uris, sheets.num_rows, strict=True)):
        rules.append(f".sheet-{number}{{--rows:{num_rows};background-image:url({uri})}}")
    return "".join(rules)


def _for_script(data: dict[str, Any]) -> str:
    """JSON that ends no element and begins none, whatever its texts hold."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _data(content: Content, splits: Sequence[str]) -> dict[str, Any]:
    """What the browser of images works on; names are told once, and numbered."""
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
        Section("dataset", "The dataset", texts.dataset(content)),
        Section("counts", "Counts", texts.counts(content, splits, of_all)),
        Section("samples", "Samples", pictures.samples(content)),
        Section("intensities", "Intensities", pictures.intensities(content, splits)),
        Section("duplicates", "Duplicates", pictures.duplicates(content, splits)),
        Section("integrity", "Integrity", texts.integrity(content)),
        Section("browser", "Browse", pictures.browser(content, splits)),
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
        (f"{shape[0]} {texts.TIMES} {shape[1]}", "pixels") if shape else ("several", "sizes"),
        (size_text(size), f"as {manifest.encoding}"),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for value, name in figures)
    state, text = texts.verdict(content)
    return (
        f'<dl class="figures">{items}</dl><p class="verdict {state}"><a href="#integrity">{text}'
        "</a></p>"
    )
