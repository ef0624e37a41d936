"""The commands for CINIC-10 itself: fetch it, build it, restore CIFAR-10, list its photos."""

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cinic_shards.cli.console import (
    command,
    given,
    next_step,
    out_console,
    parse_sidecars,
    print_json,
    print_written,
    printable,
    warn_unless,
    working,
)
from cinic_shards.cli.options import (
    BlockSize,
    Encoding,
    FormatName,
    NumShards,
    Overwrite,
    Quiet,
    QuietReport,
    Shards,
    ShardSize,
    Sidecars,
    Threads,
    Workers,
    choice,
    json_option,
)
from cinic_shards.errors import OptionError

Cifar = Annotated[
    Path,
    typer.Option(metavar="FILE", help="CIFAR-10's Python version, `cifar-10-python.tar.gz`."),
]
ImageNet = Annotated[
    Path,
    typer.Option(metavar="FOLDER", help="Folder of ImageNet's tars by synset, `n########.tar`."),
]
PerClass = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Images of each class in each split, two ninths of them from CIFAR-10 and the rest "
        "photos; default: 9000, as in CINIC-10.",
    ),
]
Contributors = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="`imagenet-contributors.csv` of a published CINIC-10: use its photos, in its splits "
        "and classes; default: draw photos by `--seed`.",
    ),
]
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing",
        help="Build with what there is if photos, tars or contributors are missing; default: fail.",
    ),
]
Scratch = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder for a temporary file of all PNGs, 0.9 GB; default: the folder that holds OUT, "
        "or TMPDIR if OUT is a URL.",
    ),
]

BuildOut = Annotated[
    str,
    typer.Argument(metavar="OUT", help="Folder or URL for the shards, or folder for the `--tree`."),
]
DrawSeed = Annotated[int | None, typer.Option(metavar="N", help="Seed of the draw; default: 0.")]


def fetch(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="File to write, or a folder for it; default: the working folder."
        ),
    ] = Path("."),
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="URL of the archive; default: its publisher's two hosts."),
    ] = None,
    accept_hash: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            help="Expected MD5 or SHA-256 of the file; default: the MD5 that other projects record "
            "(the publisher states none).",
        ),
    ] = None,
    as_json: Annotated[
        bool, json_option("`path`, `bytes`, `digest`, `bytes_received`, `seconds`")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Download CINIC-10.tar.gz and check its hash.

    It comes from its publisher, the University of Edinburgh. If it was interrupted, run the same
    command again to resume. `pack` reads the archive as it is.

    Examples:
        cinic-shard fetch && cinic-shard pack CINIC-10.tar.gz ./shards
        cinic-shard fetch /data --url https://mirror.example/CINIC-10.tar.gz
    """
    from cinic_shards.cinic import fetch as fetcher

    with working("nothing was downloaded", quiet=quiet or as_json, unit="bytes") as work:
        done = fetcher.fetch(
            out,
            url=url,
            accept_hash=accept_hash,
            progress=work.update,
            warn=warn_unless(quiet),
        )
    if as_json:
        print_json(
            {
                "path": str(done.path),
                "bytes": done.size,
                "digest": done.digest,
                "bytes_received": done.num_received,
                "seconds": work.seconds,
            }
        )
    elif not quiet:
        what = "downloaded" if done.num_received else "already complete"
        out_console.print(f"{done.path}: {what}, {done.size:,} bytes, {done.digest}")
        next_step(command("pack", done.path, "./shards"))


def build(
    out: BuildOut,
    cifar: Cifar,
    imagenet: ImageNet,
    per_class: PerClass = None,
    seed: DrawSeed = None,
    contributors: Contributors = None,
    allow_missing: AllowMissing = False,
    tree: Annotated[
        bool, typer.Option("--tree", help="Write PNGs, `<split>/<class>/*.png`, instead of shards.")
    ] = False,
    encoding: Encoding = None,
    shard_size: ShardSize = None,
    num_shards: NumShards = None,
    block_size: BlockSize = None,
    packing_seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of the packing order; default: 0.")
    ] = None,
    sidecars: Sidecars = None,
    scratch: Scratch = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, json_option("all counts, and lists of what was left out")] = False,
    quiet: Quiet = False,
) -> None:
    r"""Build CINIC-10 from CIFAR-10 and ImageNet.

    It follows the rules of CINIC-10's authors. For each class, 21,000 photos are drawn by seed,
    box-filtered to 32x32 and divided among the splits. CIFAR-10's test set goes to the test split,
    its train set to all three splits. The draw is not the published one; use `--contributors` to
    repeat that.

    The same sources and options give the same bytes, with any number of workers. Everything left
    out is reported, such as empty tars and damaged photos.

    Examples:
        cinic-shard build ./shards --cifar cifar-10-python.tar.gz \
            --imagenet ./synsets
        cinic-shard build ./cinic --cifar cifar-10-python.tar.gz \
            --imagenet ./synsets --tree
        cinic-shard build ./small --cifar cifar-10-python.tar.gz \
            --imagenet ./synsets --per-class 900
        cinic-shard build ./shards --cifar cifar-10-python.tar.gz \
            --imagenet ./synsets --contributors imagenet-contributors.csv
    """
    from cinic_shards.cinic import build as builder
    from cinic_shards.cinic.build_options import BuildOptions
    from cinic_shards.write.pack import PackOptions

    chosen = given(per_class=per_class, seed=seed, contributors=contributors)
    options = BuildOptions(**chosen, allow_missing=allow_missing)
    packing = given(
        encoding=encoding,
        shard_size=shard_size,
        shards=num_shards,
        block_size=block_size,
        seed=packing_seed,
        sidecars=parse_sidecars(sidecars),
    )
    if tree and (packing or scratch or overwrite):
        raise OptionError("--tree writes no shards; leave out the packing options")
    warnings: list[str] = []
    with working("nothing was built", quiet=quiet or as_json) as work:
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
        print_json(built.as_json())
    elif built.manifest:
        after = command("verify", out)
        print_written(built.manifest, work.seconds, out, as_json=False, quiet=quiet, after=after)
    elif not quiet:
        out_console.print(f"{built.num_images:,} images, {work.seconds:.1f} s: {out}")
        next_step(command("pack", out, "./shards"))


def restore_cifar10(
    shards: Annotated[
        str,
        typer.Argument(metavar="SHARDS", help="Folder or URL of a dataset with all of CIFAR-10."),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT",
            help="Folder to write `cifar-10-batches-py` in, or an `.npz` file; leave it out to "
            "`--check` only.",
        ),
    ] = None,
    format: Annotated[  # noqa: A002
        FormatName | None,
        choice(
            FormatName,
            help="`batches`: the published pickles; `npz`: one file of arrays; default: `npz` if "
            "OUT ends with `.npz`, else `batches`.",
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="ARCHIVE",
            help="`cifar-10-python.tar.gz` to compare every image and label with; default: none.",
        ),
    ] = None,
    workers: Threads = None,
    as_json: Annotated[bool, json_option("`path`, `num_images`, `is_checked`, `seconds`")] = False,
    quiet: Quiet = False,
) -> None:
    """Restore CIFAR-10, with its images in original order.

    The 60,000 images are written as CIFAR-10's authors publish them. They may be in any splits and
    any encoding. If any is missing, it is named and nothing is written. The archive is read without
    executing its pickles.

    Examples:
        cinic-shard restore-cifar10 ./shards ./data --check cifar-10-python.tar.gz
        cinic-shard restore-cifar10 ./shards ./cifar10.npz
    """
    from cinic_shards.cinic import restore

    with working("nothing was written", quiet=quiet or as_json) as work:
        done = restore.restore_cifar10(
            shards,
            out,
            format=format,
            check=check,
            workers=workers,
            progress=work.update,
            warn=warn_unless(quiet),
        )
    if as_json:
        print_json(
            {
                "path": str(done.written) if done.written else None,
                "num_images": done.num_images,
                "is_checked": done.is_checked,
                "seconds": work.seconds,
            }
        )
    elif not quiet:
        same = f", each the same as in {check}" if done.is_checked else ""
        where = f": {done.written}" if done.written else ""
        out_console.print(f"{done.num_images:,} images{same}, {work.seconds:.1f} s{where}")


def contributors(
    shards: Shards,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="CSV", help="File to write; default: standard output."),
    ] = None,
    as_json: Annotated[
        bool,
        json_option(
            "a list of `synset`, `image_num`, `cinic_set`, `class`; with `--out`, the file's "
            "`path` and `num_images`"
        ),
    ] = False,
    quiet: QuietReport = False,
) -> None:
    """List the ImageNet images of a dataset, as CSV.

    The columns are `synset, image_num, cinic_set, class`. The format is that of the authors'
    imagenet-contributors.csv, sorted by set (train, valid, test), class, synset and number. Only
    indexes are read.

    Examples:
        cinic-shard contributors ./shards -o imagenet-contributors.csv
        cinic-shard contributors ./shards | grep n02691156
    """
    from cinic_shards.cinic import contributors as lists

    with working("nothing was listed", quiet=quiet):
        found = lists.list_contributors(shards)
    if out is None and as_json:
        print_json([dict(zip(lists.HEADER, one, strict=True)) for one in found])
    elif out is None:
        # In UTF-8, as in a file; a terminal gets no control characters.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
        text = io.StringIO()
        lists.write_contributors(found, text)
        sys.stdout.write(printable(text.getvalue()) if sys.stdout.isatty() else text.getvalue())
    else:
        lists.save_contributors(found, out)
        if as_json:
            print_json({"path": str(out), "num_images": len(found)})
        elif not quiet:
            out_console.print(f"{len(found):,} ImageNet images: {out}")
