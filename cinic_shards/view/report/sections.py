"""The sections of a report: what does not apply to a dataset is left out, and a line says why."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cinic_shards.view.report import pictures
from cinic_shards.view.report import texts as tables
from cinic_shards.view.report.content import Content, cells
from cinic_shards.view.report.html import size_text


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
        Section("dataset", "The dataset", tables.dataset(content)),
        Section("counts", "Counts", tables.counts(content, splits, of_all)),
        Section("samples", "Samples", pictures.samples(content)),
        Section("intensities", "Intensities", pictures.intensities(content, splits)),
        Section("duplicates", "Duplicates", pictures.duplicates(content, splits)),
        Section("integrity", "Integrity", tables.integrity(content)),
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
        (f"{shape[0]} {tables.TIMES} {shape[1]}", "pixels") if shape else ("several", "sizes"),
        (size_text(size), f"as {manifest.encoding}"),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for value, name in figures)
    state, text = tables.verdict(content)
    return (
        f'<dl class="figures">{items}</dl><p class="verdict {state}"><a href="#integrity">{text}'
        "</a></p>"
    )
