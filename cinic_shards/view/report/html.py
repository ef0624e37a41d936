"""Pieces of HTML; all texts that come in are escaped."""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from cinic_shards.view.report.sprites import COLUMNS, TILES


def size_text(size: int) -> str:
    """Bytes, for people to read."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.{2 if size < 100 * factor else 0}f} {unit}"
    return f"{size} B"


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{escape(text)}</p>'


def table(
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


def cross_table(title: str, found: dict[str, Counter[str]], splits: Sequence[str]) -> str:
    """A table of names by splits; ``found`` is name -> split -> images."""
    several = len(splits) > 1
    rows = [
        [name, *(f"{counts[split]:,}" for split in splits)]
        + ([f"{counts.total():,}"] if several else [])
        for name, counts in sorted(found.items())
    ]
    header = [title, *splits, *(["all"] if several else [])]
    return table(header, rows, caption=f"By {title.lower()}")


def folded(summary: str, body: str) -> str:
    """What is shown when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def tile(number: int) -> str:
    """The element that shows a tile."""
    sheet, place = divmod(number, TILES)
    x, y = place % COLUMNS, place // COLUMNS
    return f'<span class="tile sheet-{sheet}" style="--x:{x};--y:{y}"></span>'
