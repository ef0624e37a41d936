"""The figures and the plot of the README, from the JSON lines of the suite.

``python -m benchmarks.plot docs/plots/benchmarks.jsonl --docs docs --readme README.md`` fills the
blocks that it finds: ``<!-- plot -->``, ``<!-- figures -->`` and ``<!-- encodings -->``, each up to
the next ``<!-- end -->``.
"""

import re
from collections.abc import Mapping
from html import escape

from benchmarks.contenders import OURS
from benchmarks.tables import Answers, machine_of, number, table, versions_of

_BASELINES = ("ImageFolder", "webdataset")
_BY_HAND = "tensor in memory"
"""A loader that holds everything in memory: no library, so it never counts as the best one."""
_COLUMNS = (
    ("warm, as stored (uint8)", "uint8"),
    ("warm, augmented float32", "float32"),
    ("cold disk, uint8", "cold"),
)
PLOTTED = "float32"
"""The question of the plot: what a training loop gets."""

THEMES = {
    "light": {"text": "#1f2328", "muted": "#59636e", "ours": "#0969da", "theirs": "#8c959f"},
    "dark": {"text": "#f0f6fc", "muted": "#9198a1", "ours": "#4493f8", "theirs": "#7d8590"},
}
"""Colours by theme, which are those of GitHub's pages."""


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """Replace the content of these blocks, ``<!-- name --> ... <!-- end -->``.

    Raises:
        ValueError: the text lacks a block, has it twice, or does not end it.
    """
    for name, made in blocks.items():
        begin = f"<!-- {name} -->"
        if text.count(begin) != 1 or "<!-- end -->" not in text.split(begin)[1]:
            raise ValueError(f"expected one line {begin} and <!-- end --> after it")
        before, rest = text.split(begin)
        after = rest.partition("<!-- end -->")[2]
        text = f"{before}{begin}\n\n{made}\n\n<!-- end -->{after}"
    return text


def blocks(runs: list[Answers]) -> dict[str, str]:
    """Return the content of the README's blocks by name."""
    return {"plot": picture(runs), "figures": figures(runs), "encodings": encodings(runs[0])}


def written(text: str, runs: list[Answers]) -> str:
    """Fill the blocks that a README has.

    Raises:
        ValueError: it has none of them, or one twice, or one without an end.
    """
    found = {name: made for name, made in blocks(runs).items() if f"<!-- {name} -->" in text}
    if not found:
        raise ValueError("the README has no line <!-- figures --> or <!-- plot -->")
    return filled(text, found)


def best_library(runs: list[Answers], question: str) -> str:
    """Return the fastest other library in a question of the first run.

    Raises:
        ValueError: a library of a later run is faster, so the runs have to be made again as one.
    """
    rates = [
        {name: rate for name, rate in others(answers, question).items() if name != _BY_HAND}
        for answers in runs
    ]
    best = max(rates[0], key=lambda name: rates[0][name], default="")
    for later in rates[1:]:
        for name, rate in later.items():
            if name not in rates[0] and rate > rates[0].get(best, 0):
                raise ValueError(f"{question}: {name} is faster than {best}: run all in one run")
    return best


def others(answers: Answers, question: str) -> dict[str, float]:
    """Return contender -> images per second, without this package."""
    found = answers.by_name(question, "images_per_second")
    return {name: rate for name, rate in found.items() if not name.startswith(OURS)}


def shown(runs: list[Answers], questions: tuple[str, ...]) -> list[str]:
    """Return the contenders to show: ImageFolder, webdataset, the fastest others, and ours."""
    best = {best_library(runs, question) for question in questions}
    return [
        name
        for name in runs[0].by_name(questions[0], "images_per_second")
        if name.partition(",")[0] in (*_BASELINES, _BY_HAND, OURS) or name in best
    ]


def figures(runs: list[Answers]) -> str:
    """Return the table of images per second, and how it was measured."""
    answers = runs[0]
    rates = [answers.by_name(question, "images_per_second") for _, question in _COLUMNS]
    rows = [
        [
            f"**{name}**" if name.startswith(OURS) else name,
            *(number(one.get(name)) for one in rates),
        ]
        for name in shown(runs, tuple(question for _, question in _COLUMNS))
    ]
    lines = table(["images a second", *(head for head, _ in _COLUMNS)], iter(rows))
    run = answers.run
    versions = versions_of(run)
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "torchvision", "webdataset"))
    return "\n".join(lines) + (
        f"\n\n{run['images']:,} images, batches of 512, shuffled; {machine_of(run)}; {named}; "
        f"{run['date']}. Each library has its fastest format and number of workers. `{_BY_HAND}` "
        "is a loader written by hand that first loads everything. `make bench TREE=./cinic` "
        "measures all contenders."
    )


def encodings(answers: Answers) -> str:
    """Return the table of bytes per image and rates, a row for each encoding."""
    size = answers.by_name("pack", "bytes_per_image")
    rates = answers.by_name(PLOTTED, "images_per_second")
    uses = {
        "png": "exchange, archives, any stock tool: the files themselves",
        "zstd": "object storage, and the smallest copy",
        "raw": "training from a local disk",
    }
    rows = (
        [f"`{name}`", f"{size[f'{OURS}, {name}']:,.0f}", number(rates[f"{OURS}, {name}"]), use]
        for name, use in uses.items()
    )
    lines = table(["encoding", "bytes an image", "images a second", "use it for"], rows)
    lines[1] = "| --- | ---: | ---: | --- |"
    return "\n".join(lines)


def picture(runs: list[Answers]) -> str:
    """Return the plot as HTML that follows the reader's theme, with the figures as its text."""
    rates = runs[0].by_name(PLOTTED, "images_per_second")
    values = "; ".join(f"{name} {number(rates[name])}" for name in shown(runs, (PLOTTED,)))
    alt = f"Images a second, augmented float32: {values}."
    return (
        "<picture>\n"
        '<source media="(prefers-color-scheme: dark)" srcset="docs/plots/readme-dark.svg">\n'
        f'<img src="docs/plots/readme-light.svg" width="640" alt="{escape(alt)}">\n'
        "</picture>"
    )


def plot(runs: list[Answers], theme: str) -> str:
    """Draw the bars as SVG: one linear scale from zero, so that lengths have the rates' ratios.

    The text is large enough to be read when a phone shows the plot 350 pixels wide.
    """
    colours, answers = THEMES[theme], runs[0]
    rates = answers.by_name(PLOTTED, "images_per_second")
    names = shown(runs, (PLOTTED,))
    most, left, full, step, top = max(rates[name] for name in names), 152, 216, 25, 48
    parts = []
    for at, name in enumerate(names):
        ours = name.startswith(OURS)
        y, width = top + at * step, max(1.0, full * rates[name] / most)
        weight = ' font-weight="600"' if ours else ""
        parts.append(
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end"{weight}>{escape(name)}</text>\n'
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="19" rx="2" '
            f'fill="{colours["ours" if ours else "theirs"]}"/>\n'
            f'<text x="{left + width + 6:.1f}" y="{y + 14}"{weight}>{number(rates[name])}</text>'
        )
    run = answers.run
    machine, height = run["machine"], top + len(names) * step + 46
    about = (
        f"Batches of 512, shuffled, warm page cache; {run['images']:,} images of 32x32.",
        f"{machine['cores']} cores of {machine['processor']}, {run['date']}, "
        f"torch {re.sub('[+].*', '', versions_of(run)['torch'])}; linear scale.",
    )
    for at, line in enumerate(about):
        y = height - 26 + 17 * at
        parts.append(f'<text x="8" y="{y}" fill="{colours["muted"]}" font-size="12">{line}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 460 {height}" role="img" '
        f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" '
        f'font-size="13" fill="{colours["text"]}">\n'
        "<title>Images a second, augmented float32</title>\n"
        '<text x="8" y="26" font-size="15" font-weight="600">'
        "Images a second for training (augmented float32)</text>\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )
