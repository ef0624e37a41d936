"""The commands for CINIC-10 itself: take it apart, and give CIFAR-10 back."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from cinic_shards.cli.console import (
    Quiet,
    app,
    err_console,
    interruptible,
    out_console,
    printable,
    warn,
)
from cinic_shards.progress import ProgressReport


@app.command("restore-cifar10")
def restore_cifar10(
    shards: Annotated[str, typer.Argument(help="Folder or URL of a dataset with all of CIFAR-10.")],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="Folder to make `cifar-10-batches-py` in, or a file `.npz`; leave it out to "
            "`--check` alone."
        ),
    ] = None,
    format: Annotated[  # noqa: A002
        str | None,
        typer.Option(help="`batches` or `npz`; default: `npz` where OUT ends with it."),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="ARCHIVE",
            help="`cifar-10-python.tar.gz`: compare every image and label with it.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads; default: the cores this process may use.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Give CIFAR-10 back: its 60,000 images in their original order, as its authors publish it.

    They may be in any splits, in any encoding. Where one is missing, it is named and nothing is
    written. The archive is read without executing anything that it holds.

    **Examples**

    `cinic-shard restore-cifar10 ./shards ./data --check cifar-10-python.tar.gz`

    `cinic-shard restore-cifar10 ./shards ./cifar10.npz`
    """
    from cinic_shards.cinic.restore import restore_cifar10 as restore

    start = time.perf_counter()
    with interruptible("nothing was written"), ProgressReport(err_console, quiet=quiet) as report:
        done = restore(
            shards,
            out,
            format=format,
            check=check,
            workers=workers,
            progress=report.update,
            warn=(lambda text: None) if quiet else warn,
        )
    if not quiet:
        same = f", each the same as in {check}" if done.is_checked else ""
        where = f": {done.written}" if done.written else ""
        seconds = time.perf_counter() - start
        out_console.print(printable(f"{done.num_images:,} images{same}, {seconds:.1f} s{where}"))


@app.command()
def contributors(
    shards: Annotated[str, typer.Argument(help="Folder or URL that `pack` wrote to.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; default: standard output.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """List the ImageNet images that a dataset has: `synset, image_num, cinic_set, class`.

    In the form of the authors' imagenet-contributors.csv; sorted by set (train, valid, test),
    class, synset and number. Only indexes are read.

    **Examples**

    `cinic-shard contributors ./shards -o imagenet-contributors.csv`

    `cinic-shard contributors ./shards | grep n02691156`
    """
    from cinic_shards.cinic import contributors as lists

    found = lists.list_contributors(shards)
    if out is None:
        lists.write_contributors(found, sys.stdout)
        return
    lists.save_contributors(found, out)
    if not quiet:
        out_console.print(printable(f"{len(found):,} ImageNet images: {out}"))
