"""The commands that write a dataset or a tree: pack, convert, unpack, select."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cinic_shards.cli.console import (
    command,
    given,
    parse_sidecars,
    print_unpacked,
    print_written,
    warn_unless,
    working,
)
from cinic_shards.cli.options import (
    BlockSize,
    Classes,
    Deduplicate,
    Encoding,
    EncodingName,
    ExcludeDuplicatesOf,
    Fraction,
    Imbalance,
    Indices,
    Keys,
    NewLabels,
    NewShardSize,
    NewSplits,
    NumShards,
    Origins,
    Overwrite,
    Part,
    PartsFile,
    PerClass,
    Quiet,
    Shards,
    ShardSize,
    Sidecars,
    SubsetSeed,
    WhereToRun,
    Workers,
    WrittenJson,
    choice,
    json_option,
)
from cinic_shards.errors import OptionError

Out = Annotated[
    str, typer.Argument(metavar="OUT", help="Folder or URL for the shards; empty or new.")
]
Seed = Annotated[
    int | None, typer.Option(metavar="N", help="Seed of the packing order; default: 0.")
]
UnpackedJson = Annotated[
    bool, json_option("`path`, `num_written`, `num_kept` (existed already), `seconds`")
]

SymlinkTo = Annotated[
    Path | None,
    typer.Option(
        metavar="TREE",
        help="Write symbolic links to the files of this complete tree, instead of shards.",
    ),
]


def pack(
    tree: Annotated[
        Path,
        typer.Argument(
            metavar="TREE",
            help="Folder of `<split>/<class>/*.png`, or a `.tar`, `.tar.gz`, `.tar.xz`, "
            "`.tar.bz2`, `.tar.zst` or `.zip` of such a folder, or a `.zip` of such an archive.",
        ),
    ],
    out: Out,
    encoding: Encoding = None,
    shard_size: ShardSize = None,
    num_shards: NumShards = None,
    block_size: BlockSize = None,
    seed: Seed = None,
    sidecars: Sidecars = None,
    split_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Split of all images, if TREE holds `<class>/*.png` without folders of splits; "
            "default: the folders above the classes are splits.",
        ),
    ] = None,
    workers: Workers = None,
    executor: WhereToRun = None,
    overwrite: Overwrite = False,
    as_json: WrittenJson = False,
    quiet: Quiet = False,
) -> None:
    """Pack a folder or an archive of PNGs into tar shards.

    With `png`, names and bytes of all files are kept; with `zstd` and `raw`, names and pixels. The
    same tree and options give the same bytes, with any number of workers. If it was interrupted,
    run the same command again to resume.

    An archive is read as it is. A compressed one needs a temporary file for its content, beside the
    shards (or in TMPDIR if OUT is a URL). Hidden files, system folders such as `__MACOSX`, and
    files that are not images are left out and counted.

    Examples:
        cinic-shard pack ./cinic ./shards
        cinic-shard pack CINIC-10.tar.gz ./shards
        cinic-shard pack ./animals ./shards --split-name train
        cinic-shard pack ./cinic ./shards --encoding raw
        cinic-shard pack ./cinic s3://bucket/cinic --encoding zstd
        cinic-shard pack ./cinic s3://bucket/cinic --executor dask://host:8786
        cinic-shard pack ./cinic ./shards --sidecars cls,json --shards 16
    """
    from cinic_shards.write import pack as writer

    chosen = given(
        encoding=encoding,
        shard_size=shard_size,
        shards=num_shards,
        block_size=block_size,
        seed=seed,
        sidecars=parse_sidecars(sidecars),
    )
    with working("nothing was packed", quiet=quiet or as_json) as work:
        manifest = writer.pack(
            tree,
            out,
            writer.PackOptions(**chosen),
            split_name=split_name,
            workers=workers,
            executor=executor,
            overwrite=overwrite,
            progress=work.update,
            warn=warn_unless(quiet),
        )
    split_names = () if split_name is None else ("--split-name", split_name)
    after = command("verify", out, "--against", tree, *split_names)
    print_written(manifest, work.seconds, out, as_json=as_json, quiet=quiet, after=after)


def convert(
    shards: Shards,
    out: Out,
    encoding: Annotated[
        EncodingName, choice(EncodingName, help="New encoding; see `pack --help`.")
    ],
    shard_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Images in a shard; default: shards are kept, or as `pack` with `--block-size`.",
        ),
    ] = None,
    num_shards: NumShards = None,
    block_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images in a block; default: as in the dataset.")
    ] = None,
    sidecars: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Files stored with each PNG, for `png` only: `cls`, `json`, `cls,json` or `none`; "
            "default: `cls`.",
        ),
    ] = None,
    workers: Workers = None,
    executor: WhereToRun = None,
    overwrite: Overwrite = False,
    as_json: WrittenJson = False,
    quiet: Quiet = False,
) -> None:
    """Convert a dataset to a different encoding.

    The images and their order stay the same. From `png`, the shards are the same as packed from the
    tree. From blocks to `png`, the files are re-encoded, with the same pixels. If it was
    interrupted, run the same command again to resume.

    Examples:
        cinic-shard convert ./shards ./shards-raw --encoding raw
        cinic-shard convert ./shards s3://bucket/cinic --encoding zstd
    """
    from cinic_shards.write import convert as writer

    with working("nothing was converted", quiet=quiet or as_json) as work:
        manifest = writer.convert(
            shards,
            out,
            encoding=encoding,
            shard_size=shard_size,
            shards=num_shards,
            block_size=block_size,
            sidecars=parse_sidecars(sidecars),
            workers=workers,
            executor=executor,
            overwrite=overwrite,
            progress=work.update,
            warn=warn_unless(quiet),
        )
    after = command("verify", out)
    print_written(manifest, work.seconds, out, as_json=as_json, quiet=quiet, after=after)


def unpack(
    shards: Shards,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the PNGs.")],
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Only this split, or several, as `train+valid`; default: all."
        ),
    ] = None,
    class_name: Classes = None,
    origin: Origins = None,
    workers: Workers = None,
    as_json: UnpackedJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a dataset's images back as PNG files.

    From `png` the files are the same byte for byte; from blocks they are re-encoded, with the same
    pixels. If it was interrupted, run the same command again to resume. All files are on the disk
    when the command ends; after a power cut before that, remove the tree and start again.

    Examples:
        cinic-shard unpack ./shards ./cinic
        cinic-shard unpack ./shards ./cifar-part --origin cifar --split train
    """
    from cinic_shards.write import unpack as writer

    stopped = f"the files so far are in {out}; run the same command again to resume"
    with working(stopped, quiet=quiet or as_json) as work:
        done = writer.unpack(
            shards,
            out,
            splits=split,
            classes=class_name,
            origins=origin,
            workers=workers,
            progress=work.update,
        )
    print_unpacked(done, "files written", work.seconds, out, as_json=as_json, quiet=quiet)


def select(
    shards: Shards,
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="Folder or URL for the shards, or a tree's folder.")
    ],
    split: NewSplits = None,
    class_name: Classes = None,
    origin: Origins = None,
    indices: Indices = None,
    keys: Keys = None,
    parts: PartsFile = None,
    part: Part = None,
    deduplicate: Deduplicate = False,
    exclude_duplicates_of: ExcludeDuplicatesOf = None,
    per_class: PerClass = None,
    imbalance: Imbalance = None,
    fraction: Fraction = 1.0,
    labels: NewLabels = None,
    seed: SubsetSeed = 0,
    tree: Annotated[
        bool, typer.Option("--tree", help="Write PNG files instead of shards.")
    ] = False,
    symlink_to: SymlinkTo = None,
    shard_size: NewShardSize = None,
    num_shards: NumShards = None,
    workers: Workers = None,
    executor: WhereToRun = None,
    overwrite: Overwrite = False,
    as_json: Annotated[
        bool,
        json_option("the keys of `pack`; for a tree, `path`, `num_written`, `num_kept`, `seconds`"),
    ] = False,
    quiet: Quiet = False,
) -> None:
    r"""Write part of a dataset, or joined splits, as a new one.

    The result is a dataset or, with `--tree` or `--symlink-to`, a folder of PNGs. Encoding and
    labels stay the same, even if a class has no image left. If it was interrupted, run the same
    command again to resume.

    Examples:
        cinic-shard select ./shards ./large --split train=train+valid --split test
        cinic-shard select ./shards ./cifar-part --origin cifar
        cinic-shard select ./shards ./imagenet-part --origin imagenet --tree
        cinic-shard select ./shards ./tenth --fraction 0.1 \
            --exclude-duplicates-of test
        cinic-shard select ./shards ./client7 --partition parts.json --part 7
        cinic-shard select ./shards ./links --class cat --class dog \
            --symlink-to ./cinic
    """
    from cinic_shards.read.subset import Subset

    subset = Subset(
        classes=class_name, origin=origin, indices=indices, keys=keys, partition=parts, part=part,
        deduplicate=deduplicate, exclude_duplicates_of=exclude_duplicates_of, per_class=per_class,
        imbalance=imbalance, fraction=fraction, labels=labels, seed=seed,
    )  # fmt: skip
    if tree and symlink_to is not None:
        raise OptionError("--tree writes files, --symlink-to writes links; give one of them")
    chosen = {"splits": split or (), "subset": subset, "workers": workers}
    cut = given(shard_size=shard_size, shards=num_shards)
    if not tree and symlink_to is None:
        how = {"executor": executor, "overwrite": overwrite}
        _select_shards(shards, out, chosen | cut | how, as_json, quiet)
    elif executor is not None or overwrite or cut:
        names = "--shard-size, --shards, --executor and --overwrite"
        raise OptionError(f"{names} are for shards; leave them out for a tree")
    else:
        _select_tree(shards, out, chosen, symlink_to, as_json, quiet)


def _select_shards(
    shards: str, out: str, chosen: dict[str, Any], as_json: bool, quiet: bool
) -> None:
    from cinic_shards.write import select as writer

    with working("nothing was written", quiet=quiet or as_json) as work:
        manifest = writer.select(
            shards, out, **chosen, progress=work.update, warn=warn_unless(quiet)
        )
    after = command("info", out)
    print_written(manifest, work.seconds, out, as_json=as_json, quiet=quiet, after=after)


def _select_tree(
    shards: str,
    out: str,
    chosen: dict[str, Any],
    symlink_to: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    from cinic_shards.write import select as writer

    stopped = f"the files so far are in {out}; run the same command again to resume"
    with working(stopped, quiet=quiet or as_json) as work:
        done = writer.select_tree(
            shards,
            out,
            **chosen,
            symlink_to=symlink_to,
            progress=work.update,
            warn=warn_unless(quiet),
        )
    what = "files" if symlink_to is None else "links"
    print_unpacked(done, what, work.seconds, out, as_json=as_json, quiet=quiet)
