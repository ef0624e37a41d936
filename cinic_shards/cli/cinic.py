"""The commands for CINIC-10 itself: fetch it, build it, give CIFAR-10 back, list its photos."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cinic_shards.cli.console import (
    BlockSize,
    Encoding,
    Overwrite,
    Quiet,
    Shards,
    ShardSize,
    Sidecars,
    Threads,
    Workers,
    given,
    out_console,
    parse_sidecars,
    print_written,
    printable,
    warn_unless,
    working,
)
from cinic_shards.errors import OptionError

if TYPE_CHECKING:
    from cinic_shards.cinic.build_options import Built

Cifar = Annotated[Path, typer.Option(help="CIFAR-10's Python version: `cifar-10-python.tar.gz`.")]
ImageNet = Annotated[Path, typer.Option(help="Folder of ImageNet's synset tars: `n########.tar`.")]
PerClass = Annotated[
    int | None,
    typer.Option(
        help="Images of a class in a split; default: 9000, CINIC-10's own. Two ninths of them are "
        "CIFAR-10's, the others photos."
    ),
]
Contributors = Annotated[
    Path | None,
    typer.Option(
        help="`imagenet-contributors.csv` of a published CINIC-10: take its photos, each to its "
        "split and class, and draw none."
    ),
]
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing",
        help="Go on with what there is where photos, tars or contributors are missing.",
    ),
]
Scratch = Annotated[
    Path | None,
    typer.Option(
        help="Folder for a temporary file of all PNGs that shards are packed from, 0.9 GB; "
        "default: beside OUT."
    ),
]


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

    If it was cut off or interrupted, run the same command again to resume. `pack` takes the archive
    as it is.

    **Examples**

    `cinic-shard fetch && cinic-shard pack CINIC-10.tar.gz ./shards`

    `cinic-shard fetch /data --url https://mirror.example/CINIC-10.tar.gz`
    """
    from cinic_shards.cinic import fetch as fetcher

    stopped = "fetching did not finish; the same command goes on"
    with working(stopped, quiet=quiet, unit="bytes") as work:
        done = fetcher.fetch(
            out,
            url=url or fetcher.URL,
            accept_hash=accept_hash,
            progress=work.update,
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


def build(
    out: Annotated[
        str, typer.Argument(help="Folder or URL for the shards, or with `--tree` for the tree.")
    ],
    cifar: Cifar,
    imagenet: ImageNet,
    per_class: PerClass = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the draw; default: 0.")] = None,
    contributors: Contributors = None,
    allow_missing: AllowMissing = False,
    tree: Annotated[
        bool, typer.Option("--tree", help="Write PNGs, `<split>/<class>/*.png`, and no shards.")
    ] = False,
    encoding: Encoding = None,
    shard_size: ShardSize = None,
    block_size: BlockSize = None,
    packing_seed: Annotated[
        int | None, typer.Option(help="Seed of the packing order: `pack`'s `--seed`.")
    ] = None,
    sidecars: Sidecars = None,
    scratch: Scratch = None,
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
    unless `--contributors` gives that. What is left out is reported: empty tars, photos that cannot
    be decoded.

    **Examples**

    `cinic-shard build ./shards --cifar cifar-10-python.tar.gz --imagenet ./synsets`

    `cinic-shard build ./cinic --cifar cifar-10-python.tar.gz --imagenet ./synsets --tree`

    `cinic-shard build ./small --cifar cifar-10-python.tar.gz --imagenet ./synsets --per-class 900`

    `cinic-shard build ./shards --cifar cifar-10-python.tar.gz --imagenet ./synsets --contributors
    imagenet-contributors.csv`
    """
    from cinic_shards.cinic import build as builder
    from cinic_shards.cinic.build_options import BuildOptions
    from cinic_shards.write.pack import PackOptions

    chosen = given(per_class=per_class, seed=seed, contributors=contributors)
    options = BuildOptions(**chosen, allow_missing=allow_missing)
    packing = given(
        encoding=encoding,
        shard_size=shard_size,
        block_size=block_size,
        seed=packing_seed,
        sidecars=parse_sidecars(sidecars),
    )
    if tree and (packing or scratch or overwrite):
        raise OptionError("--tree writes no shards: leave out the options of packing")
    warnings: list[str] = []
    with working("nothing was built", quiet=quiet) as work:
        how: dict[str, Any] = {"workers": workers, "progress": work.update, "warn": warnings.append}
        if tree:
            built = builder.build_tree(cifar, imagenet, out, options, **how)
        else:
            how |= {"scratch": scratch, "overwrite": overwrite}
            pack_options = PackOptions(**packing)
            built = builder.build_shards(cifar, imagenet, out, options, pack_options, **how)
    for text in warnings:
        warn_unless(quiet)(text)
    if as_json:
        print(json.dumps(built.as_json(), indent=1))
    elif not quiet:
        _print_built(built, work.seconds, out)


def _print_built(built: "Built", seconds: float, out: str) -> None:
    if built.manifest:
        print_written(built.manifest, seconds, out)
    else:
        out_console.print(printable(f"{built.num_images:,} images, {seconds:.1f} s: {out}"))


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
        Literal["batches", "npz"] | None,
        typer.Option(help="Default: `npz` where OUT ends with it, else `batches`."),
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
    from cinic_shards.cinic import restore

    with working("nothing was written", quiet=quiet) as work:
        done = restore.restore_cifar10(
            shards,
            out,
            format=format,
            check=check,
            workers=workers,
            progress=work.update,
            warn=warn_unless(quiet),
        )
    if not quiet:
        same = f", each the same as in {check}" if done.is_checked else ""
        where = f": {done.written}" if done.written else ""
        out_console.print(
            printable(f"{done.num_images:,} images{same}, {work.seconds:.1f} s{where}")
        )


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
