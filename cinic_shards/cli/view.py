"""The commands that draw a dataset: show and report."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cinic_shards.cli.console import next_step, out_console, print_json, warn, working
from cinic_shards.cli.inspect import num_faults
from cinic_shards.cli.options import (
    Classes,
    Origins,
    Quiet,
    Seed,
    Shards,
    Split,
    Threads,
    json_option,
)


def show(
    shards: Shards,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="PNG", help="PNG to write.")],
    split: Split = None,
    class_name: Classes = None,
    origin: Origins = None,
    per_class: Annotated[int, typer.Option(min=1, metavar="N", help="Images of each class.")] = 16,
    seed: Seed = 0,
    workers: Threads = None,
    as_json: Annotated[bool, json_option("`path`, `num_images`, `seconds`")] = False,
    quiet: Quiet = False,
) -> None:
    """Draw random images of each class in one PNG.

    Each class has a row.

    Examples:
        cinic-shard show ./shards -o montage.png
        cinic-shard show ./shards -o cats.png --class cat --per-class 100
    """
    from cinic_shards.view import montage

    with working("nothing was written", quiet=quiet or as_json) as work:
        num_shown = montage.show(
            shards,
            out,
            split=split,
            classes=class_name,
            origins=origin,
            per_class=per_class,
            seed=seed,
            workers=workers,
            progress=work.update,
        )
    if as_json:
        print_json({"path": str(out), "num_images": num_shown, "seconds": work.seconds})
    elif not quiet:
        out_console.print(f"{num_shown:,} images: {out}")


def report(
    shards: Shards,
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="HTML", help="HTML file to write.")
    ],
    sample: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Approximate number of images to browse."),
    ] = 4000,
    seed: Seed = 0,
    title: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Name of the dataset; default: CINIC-10, or the folder's name."
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Decode no image to verify, as `verify --quick`."),
    ] = False,
    workers: Threads = None,
    as_json: Annotated[
        bool, json_option("`path`, `bytes`, `is_whole`, `num_faults`, `seconds`")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write a web page on a dataset, with images to browse.

    It shows counts, statistics, duplicates, and the result of `verify`; the exit status is 0 even
    if there are faults. The page is one HTML file that needs no other file and no network.

    Examples:
        cinic-shard report ./shards -o report.html
        cinic-shard report s3://bucket/cinic -o report.html --sample 1000
    """
    from cinic_shards.view.report import write_report

    with working("no report was written", quiet=quiet or as_json) as work:
        content = write_report(
            shards,
            out,
            sample=sample,
            seed=seed,
            title=title,
            quick=quick,
            workers=workers,
            progress=work.update,
        )
    found, size = content.verification, out.stat().st_size
    if not found.is_whole:
        warn(f"{num_faults(shards, found)}; the report lists them")
    if as_json:
        print_json(
            {
                "path": str(out),
                "bytes": size,
                "is_whole": found.is_whole,
                "num_faults": len(found.faults) + found.num_more_faults,
                "seconds": work.seconds,
            }
        )
    elif not quiet:
        out_console.print(f"{size / 1e6:.1f} MB, {work.seconds:.1f} s: {out}")
        next_step(f"open {shlex.quote(str(out))} in a browser")
