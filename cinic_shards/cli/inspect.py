"""The commands that look into a dataset: its statistics, a montage, and a page about it."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cinic_shards.cli.console import (
    Classes,
    Origins,
    Quiet,
    Shards,
    Threads,
    app,
    err_console,
    interruptible,
    out_console,
    print_table,
    printable,
    warn,
)
from cinic_shards.progress import ProgressReport

if TYPE_CHECKING:
    from cinic_shards.view.stats import Counts, Stats

Split = Annotated[
    str | None, typer.Option(help="Only this split, or several as `train+valid`; default: all.")
]


@app.command()
def stats(
    shards: Shards,
    split: Split = None,
    class_name: Classes = None,
    origin: Origins = None,
    histograms: Annotated[
        bool,
        typer.Option("--histograms", help="Count the pixels' values, by origin and channel."),
    ] = False,
    workers: Threads = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; with synsets and histograms.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Channel means and deviations, exactly; counts by split, class and origin; duplicates.

    Of whole splits they are in the manifest; a part by class or origin is decoded.

    **Examples**

    `cinic-shard stats ./shards --split train+valid`

    `cinic-shard stats ./shards --origin cifar-train`

    `cinic-shard stats ./shards --histograms --json`
    """
    from cinic_shards.view.stats import measure

    with (
        interruptible("nothing was measured"),
        ProgressReport(err_console, quiet=quiet or as_json) as report,
    ):
        found = measure(
            shards,
            split=split,
            classes=class_name,
            origins=origin,
            histograms=histograms,
            workers=workers,
            progress=report.update,
        )
    if as_json:
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    else:
        _print_stats(found)


def _print_stats(found: "Stats") -> None:
    from cinic_shards.view.stats import pixel_sums

    images = "image" if found.num_samples == 1 else "images"
    out_console.print(f"{found.num_samples:,} {images}")
    rows = [["all", *map(_exact, (found.mean, found.std))]]
    for origin, counts in (found.histograms or {}).items():
        sums = pixel_sums(counts)
        rows.append([origin, *map(_exact, (sums.mean, sums.std))])
    print_table(["", "mean of red, green, blue", "standard deviation"], rows)
    splits = list(found.splits)
    table = [_count_row("images", found.splits, splits)]
    for label, counts_of in (("origin", found.origins), ("class", found.classes)):
        table += _count_rows(label, counts_of, splits)
    print_table(["", *splits, *(["all"] if len(splits) > 1 else [])], table)
    if found.synsets:
        out_console.print(f"{len(found.synsets):,} synsets: --json lists them")
    out_console.print(f"{len(found.duplicates.groups):,} images are there more than once")


def _exact(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.8f}" for value in values)


def _count_rows(label: str, counts_of: "Counts", splits: list[str]) -> list[list[str]]:
    return [_count_row(f"{label}: {name}", by, splits) for name, by in counts_of.items()]


def _count_row(label: str, counts: dict[str, int], splits: list[str]) -> list[str]:
    cells = [f"{counts.get(split, 0):,}" for split in splits]
    return [label, *cells, *([f"{sum(counts.values()):,}"] if len(splits) > 1 else [])]


@app.command()
def show(
    shards: Shards,
    out: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")],
    split: Split = None,
    class_name: Classes = None,
    origin: Origins = None,
    per_class: Annotated[int, typer.Option(min=1, help="Samples a class.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice.")] = 0,
    workers: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Write a montage: a PNG with a row of samples, chosen by chance, for each class.

    **Examples**

    `cinic-shard show ./shards -o montage.png`

    `cinic-shard show ./shards -o cats.png --class cat --origin cifar --per-class 100`
    """
    from cinic_shards.view.montage import show as write_montage

    with interruptible("nothing was written"), ProgressReport(err_console, quiet=quiet) as report:
        num_shown = write_montage(
            shards,
            out,
            split=split,
            classes=class_name,
            origins=origin,
            per_class=per_class,
            seed=seed,
            workers=workers,
            progress=report.update,
        )
    if not quiet:
        out_console.print(printable(f"{num_shown:,} images: {out}"))


@app.command()
def report(
    shards: Shards,
    out: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")],
    sample: Annotated[
        int, typer.Option(min=1, help="About so many images can be browsed on the page.")
    ] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice.")] = 0,
    title: Annotated[
        str | None, typer.Option(help="The dataset's name; default: CINIC-10, or the folder's.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="For its integrity, check digests and indexes alone: see `verify`."
        ),
    ] = False,
    workers: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Write one page about a dataset: counts, samples, statistics, duplicates, images to browse.

    An HTML file that needs no other and no network. It says what `verify` finds, too; a dataset
    with faults gets its page, and exit status 0.

    **Examples**

    `cinic-shard report ./shards -o report.html`

    `cinic-shard report s3://bucket/cinic -o report.html --sample 1000`
    """
    from cinic_shards.view.report import write_report

    start = time.perf_counter()
    with (
        interruptible("no report was written"),
        ProgressReport(err_console, quiet=quiet) as progress,
    ):
        content = write_report(
            shards,
            out,
            sample=sample,
            seed=seed,
            title=title,
            quick=quick,
            workers=workers,
            progress=progress.update,
        )
    found = content.verification
    if not found.is_whole:
        num_faults = len(found.faults) + found.num_more_faults
        warn(f"{shards}: {num_faults:,} faults; the report lists them")
    if not quiet:
        size = out.stat().st_size / 1e6
        seconds = time.perf_counter() - start
        out_console.print(printable(f"{size:.1f} MB, {seconds:.1f} s: {out}"))
