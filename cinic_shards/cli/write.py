"""The commands that write a dataset or a tree: pack, convert, unpack, select."""

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


@app.command()
def pack(
    tree: Annotated[
        Path,
        typer.Argument(
            help="Folder of `<split>/<class>/*.png`, or a `.tar`, `.tar.gz`, `.tar.xz`, `.tar.bz2` "
            "or `.zip` of one."
        ),
    ],
    out: Annotated[str, typer.Argument(help="Folder or URL for the shards; empty or new.")],
    encoding: Annotated[
        str | None,
        typer.Option(
            help="`png` (default): the files as they are; `zstd`: blocks of pixels, the smallest, "
            "for object storage; `raw`: blocks as they lie in memory, the fastest from a disk."
        ),
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(help="Samples a shard; default: 10 blocks, 10240.")
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(help="Samples that are decoded and mixed together; default: 1024.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the packing order; default: 0.")] = None,
    sidecars: Annotated[
        str | None,
        typer.Option(help="Members beside each PNG: `cls` (default), `cls,json`, `json`, `none`."),
    ] = None,
    workers: Workers = None,
    executor: WhereToRun = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Pack a tree of PNGs into tar shards: every byte and name kept, or every pixel and name.

    The same tree and options give the same bytes, with any number of workers. Where the process
    was killed, the same command goes on with what was finished.

    An archive is not unpacked: what is compressed in it takes one temporary file while it is
    packed, beside the shards (or in TMPDIR, where they go to a URL).

    **Examples**

    `cinic-shard pack ./cinic ./shards`

    `cinic-shard pack CINIC-10.tar.gz ./shards`

    `cinic-shard pack ./cinic ./shards --encoding raw`

    `cinic-shard pack ./cinic s3://bucket/cinic --encoding zstd`

    `cinic-shard pack ./cinic s3://bucket/cinic --executor dask://scheduler:8786`

    `cinic-shard pack ./cinic ./shards --sidecars cls,json --shard-size 5000`
    """
    from cinic_shards.write.pack import PackOptions
    from cinic_shards.write.pack import pack as pack_tree

    chosen: dict[str, Any] = {
        "encoding": encoding,
        "shard_size": shard_size,
        "block_size": block_size,
        "seed": seed,
        "sidecars": parse_sidecars(sidecars),
    }
    options = PackOptions(**{name: value for name, value in chosen.items() if value is not None})

    start = time.perf_counter()
    with interruptible("nothing was packed"), ProgressReport(err_console, quiet=quiet) as report:
        manifest = pack_tree(
            tree,
            out,
            options,
            workers=workers,
            executor=executor,
            overwrite=overwrite,
            progress=report.update,
            warn=warn_unless(quiet),
        )
    if not quiet:
        print_written(manifest, time.perf_counter() - start, out)


def parse_sidecars(text: str | None) -> tuple[str, ...] | None:
    """The option ``--sidecars``."""
    if text is None:
        return None
    return () if text == "none" else tuple(text.split(","))


@app.command()
def convert(
    shards: Shards,
    out: Annotated[str, typer.Argument(help="Folder or URL for the new shards.")],
    encoding: Annotated[str, typer.Option(help="`png`, `zstd` or `raw`: see `pack`.")],
    block_size: Annotated[
        int | None, typer.Option(help="Samples a block; default: as it is.")
    ] = None,
    sidecars: Annotated[
        str | None, typer.Option(help="Of `png`: `cls` (default), `cls,json`, `json`, `none`.")
    ] = None,
    workers: Workers = None,
    executor: WhereToRun = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a dataset anew in another encoding, without the tree: the same samples and order.

    From `png` the shards are those that packing the tree would give. To `png` from blocks the files
    are encoded anew, with the same pixels. Where it was killed, the same command goes on.

    **Example:** `cinic-shard convert ./shards ./shards-raw --encoding raw`
    """
    from cinic_shards.write.convert import convert as convert_dataset

    start = time.perf_counter()
    with interruptible("nothing was converted"), ProgressReport(err_console, quiet=quiet) as report:
        manifest = convert_dataset(
            shards,
            out,
            encoding=encoding,
            block_size=block_size,
            sidecars=parse_sidecars(sidecars),
            workers=workers,
            executor=executor,
            overwrite=overwrite,
            progress=report.update,
            warn=warn_unless(quiet),
        )
    if not quiet:
        print_written(manifest, time.perf_counter() - start, out)


@app.command()
def unpack(
    shards: Shards,
    out: Annotated[Path, typer.Argument(help="Folder for the tree of PNGs.")],
    split: Annotated[list[str] | None, typer.Option(help="Only this split; repeatable.")] = None,
    class_name: Classes = None,
    origin: Origins = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Write the PNGs back: byte for byte, or from blocks encoded anew with the same pixels.

    Where it was stopped, the same command goes on.

    **Examples**

    `cinic-shard unpack ./shards ./cinic`

    `cinic-shard unpack ./shards ./cifar-part --origin cifar --split train`
    """
    from cinic_shards.write.unpack import unpack as unpack_dataset

    start = time.perf_counter()
    stopped = "unpacking did not finish; the same command goes on"
    with interruptible(stopped), ProgressReport(err_console, quiet=quiet) as report:
        done = unpack_dataset(
            shards,
            out,
            splits=split,
            classes=class_name,
            origins=origin,
            workers=workers,
            progress=report.update,
        )
    if not quiet:
        kept = f", {done.num_kept:,} were there already" if done.num_kept else ""
        seconds = time.perf_counter() - start
        out_console.print(
            printable(f"{done.num_written:,} files written{kept}, {seconds:.1f} s: {out}")
        )


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
    from cinic_shards.write.select import select_tree

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
