"""The commands for CINIC-10 itself: fetch it, build it, take it apart, give CIFAR-10 back."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cinic_shards.cli.console import (
    Overwrite,
    Quiet,
    Shards,
    Threads,
    Workers,
    app,
    err_console,
    interruptible,
    out_console,
    print_written,
    printable,
    warn,
    warn_unless,
)
from cinic_shards.cli.write import parse_sidecars
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
def fetch(
    out: Annotated[
        Path, typer.Argument(help="File to write, or a folder for it; default: this folder.")
    ] = Path("."),
    url: Annotated[
        str | None, typer.Option(help="Where the archive is; default: its publisher.")
    ] = None,
    accept_hash: Annotated[
        str | None,
        typer.Option(
            help="MD5 or SHA-256 that the file must have; default: the MD5 that other loaders "
            "record (the publisher states none).",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Download CINIC-10.tar.gz from its publisher, and check it.

    Where it was cut off or stopped, the same command goes on. `pack` takes the archive as it is.

    **Examples**

    `cinic-shard fetch && cinic-shard pack CINIC-10.tar.gz ./shards`

    `cinic-shard fetch /data --url https://mirror.example/CINIC-10.tar.gz`
    """
    from cinic_shards.cinic.fetch import URL
    from cinic_shards.cinic.fetch import fetch as fetch_archive

    stopped = "fetching did not finish; the same command goes on"
    with (
        interruptible(stopped),
        ProgressReport(err_console, quiet=quiet, unit="bytes") as report,
    ):
        done = fetch_archive(
            out,
            url=url or URL,
            accept_hash=accept_hash,
            progress=report.update,
            warn=warn_unless(quiet),
        )
    if not quiet:
        what = "fetched" if done.num_received else "was whole already"
        out_console.print(
            printable(
                f"{done.path}: {what}, {done.size:,} bytes, {done.digest}\n"
                f"next: cinic-shard pack {done.path} ./shards"
            )
        )


@app.command()
def build(
    out: Annotated[
        str, typer.Argument(help="Folder or URL for the shards, or with `--tree` for the tree.")
    ],
    cifar: Annotated[
        Path, typer.Option(help="CIFAR-10's Python version: `cifar-10-python.tar.gz`.")
    ],
    imagenet: Annotated[
        Path, typer.Option(help="Folder of ImageNet's synset tars: `n########.tar`.")
    ],
    per_class: Annotated[
        int | None,
        typer.Option(
            help="Images of a class in a split; default: 9000, CINIC-10's own. Two ninths of them "
            "are CIFAR-10's, the others photos."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the draw; default: 0.")] = None,
    contributors: Annotated[
        Path | None,
        typer.Option(
            help="`imagenet-contributors.csv` of a published CINIC-10: take its photos, each to "
            "its split and class, and draw none."
        ),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Go on with what there is where photos, tars or contributors are missing.",
        ),
    ] = False,
    tree: Annotated[
        bool, typer.Option("--tree", help="Write PNGs, `<split>/<class>/*.png`, and no shards.")
    ] = False,
    encoding: Annotated[
        str | None, typer.Option(help="`png` (default), `zstd` or `raw`: see `pack`.")
    ] = None,
    shard_size: Annotated[int | None, typer.Option(help="Samples a shard: see `pack`.")] = None,
    block_size: Annotated[int | None, typer.Option(help="Samples a block: see `pack`.")] = None,
    packing_seed: Annotated[
        int | None, typer.Option(help="Seed of the packing order: `pack`'s `--seed`.")
    ] = None,
    sidecars: Annotated[
        str | None, typer.Option(help="`cls` (default), `cls,json`, `json`, `none`: see `pack`.")
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a temporary file of all PNGs that shards are packed from, 0.9 GB; "
            "default: beside OUT."
        ),
    ] = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all counts, and all that was left out, as JSON.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Build CINIC-10 from CIFAR-10 and ImageNet, by its authors' construction.

    Of each class, 21,000 photos are drawn by seed, box-filtered to 32x32 and dealt to the splits;
    CIFAR-10's test set goes to the new test set, its train set to all three. The same sources and
    options give the same bytes, with any number of workers. The draw is not the published one,
    unless `--contributors` gives that. What is left out is told: empty tars, photos that cannot be
    decoded.

    **Examples**

    `cinic-shard build ./shards --cifar cifar-10-python.tar.gz --imagenet ./synsets`

    `cinic-shard build ./cinic --cifar cifar-10-python.tar.gz --imagenet ./synsets --tree`

    `cinic-shard build ./small --cifar cifar-10-python.tar.gz --imagenet ./synsets --per-class 900`

    `cinic-shard build ./shards --cifar cifar-10-python.tar.gz --imagenet ./synsets --contributors
    imagenet-contributors.csv`
    """
    from cinic_shards.cinic.build import build_shards, build_tree
    from cinic_shards.cinic.build_options import BuildOptions
    from cinic_shards.write.pack import PackOptions

    chosen = _given(
        per_class=per_class, seed=seed, contributors=contributors, allow_missing=allow_missing
    )
    options = BuildOptions(**chosen)
    packing = _given(
        encoding=encoding,
        shard_size=shard_size,
        block_size=block_size,
        seed=packing_seed,
        sidecars=parse_sidecars(sidecars),
    )
    if tree and (packing or scratch or overwrite):
        raise OptionError("--tree writes no shards: leave out the options of packing")

    start = time.perf_counter()
    left_nothing = "nothing was built"
    told: list[str] = []
    with interruptible(left_nothing), ProgressReport(err_console, quiet=quiet) as report:
        shared: dict[str, Any] = {
            "workers": workers,
            "progress": report.update,
            "warn": told.append,
        }
        if tree:
            built = build_tree(cifar, imagenet, out, options, **shared)
        else:
            built = build_shards(
                cifar,
                imagenet,
                out,
                options,
                PackOptions(**packing),
                scratch=scratch,
                overwrite=overwrite,
                **shared,
            )
    seconds = time.perf_counter() - start
    if not quiet:
        for text in told:
            warn(text)
    if as_json:
        print(json.dumps(built.as_json(), indent=1))
    elif not quiet and built.manifest:
        print_written(built.manifest, seconds, out)
    elif not quiet:
        out_console.print(printable(f"{built.num_images:,} images, {seconds:.1f} s: {out}"))


def _given(**options: Any) -> dict[str, Any]:
    """Those that were given: each default is the library's."""
    return {name: value for name, value in options.items() if value is not None}
