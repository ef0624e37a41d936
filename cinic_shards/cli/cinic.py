"""The commands for CINIC-10 itself: take it apart, and give CIFAR-10 back."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cinic_shards.cli.console import (
    Classes,
    Origins,
    Overwrite,
    Quiet,
    Shards,
    Threads,
    WhereToRun,
    Workers,
    app,
    err_console,
    interruptible,
    out_console,
    print_written,
    printable,
    warn_unless,
)
from cinic_shards.errors import OptionError
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
    workers: Threads = None,
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
            warn=warn_unless(quiet),
        )
    if not quiet:
        same = f", each the same as in {check}" if done.is_checked else ""
        where = f": {done.written}" if done.written else ""
        seconds = time.perf_counter() - start
        out_console.print(printable(f"{done.num_images:,} images{same}, {seconds:.1f} s{where}"))


@app.command()
def contributors(
    shards: Shards,
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


@app.command()
def select(
    shards: Shards,
    out: Annotated[str, typer.Argument(help="Folder or URL for the shards, or folder of a tree.")],
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="`train`: as it is; `train+valid`: joined, as `train-valid`; `all=train+valid`: "
            "joined, as `all`. Repeatable, or with commas; default: every split."
        ),
    ] = None,
    class_name: Classes = None,
    origin: Origins = None,
    exclude_duplicates_of: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT", help="Of other splits, no image that has the pixels of one of its."
        ),
    ] = None,
    fraction: Annotated[
        float, typer.Option(help="So much of each class of each split; above 0, at most 1.")
    ] = 1.0,
    fraction_seed: Annotated[int, typer.Option(help="Of that choice.")] = 0,
    tree: Annotated[
        bool, typer.Option("--tree", help="Write PNG files instead of shards.")
    ] = False,
    symlink_to: Annotated[
        Path | None,
        typer.Option(metavar="TREE", help="Make links into the whole tree instead of shards."),
    ] = None,
    workers: Workers = None,
    executor: WhereToRun = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write part of a dataset, or splits of it joined, as a dataset of its own or as a tree.

    The encoding stays, and the labels, also where a class is left without an image. Where it was
    killed, the same command goes on.

    **Examples**

    `cinic-shard select ./shards ./large --split train=train+valid,test`

    `cinic-shard select ./shards ./cifar-part --origin cifar`

    `cinic-shard select ./shards ./imagenet-part --origin imagenet --tree`

    `cinic-shard select ./shards ./tenth --fraction 0.1 --exclude-duplicates-of test`

    `cinic-shard select ./shards ./links --class cat --class dog --symlink-to ./cinic`
    """
    from cinic_shards.read.subset import Subset
    from cinic_shards.write.select import select as select_shards
    from cinic_shards.write.select_tree import select_tree

    is_tree = tree or symlink_to is not None
    if is_tree and (executor is not None or overwrite):
        raise OptionError("--executor and --overwrite are for shards; leave them out for a tree")
    chosen: dict[str, Any] = {
        "splits": split or (),
        "subset": Subset(
            classes=class_name,
            origin=origin,
            exclude_duplicates_of=exclude_duplicates_of,
            fraction=fraction,
            fraction_seed=fraction_seed,
        ),
        "workers": workers,
        "warn": warn_unless(quiet),
    }
    start = time.perf_counter()
    stopped = "the same command goes on" if is_tree else "nothing was written"
    with interruptible(stopped), ProgressReport(err_console, quiet=quiet) as report:
        if not is_tree:
            manifest = select_shards(
                shards, out, **chosen, executor=executor, overwrite=overwrite,
                progress=report.update,
            )  # fmt: skip
        else:
            done = select_tree(shards, out, **chosen, symlink_to=symlink_to, progress=report.update)
    seconds = time.perf_counter() - start
    if quiet:
        return
    if not is_tree:
        print_written(manifest, seconds, out)
        return
    kept = f", {done.num_kept:,} were there already" if done.num_kept else ""
    what = "files" if symlink_to is None else "links"
    out_console.print(printable(f"{done.num_written:,} {what}{kept}, {seconds:.1f} s: {out}"))
