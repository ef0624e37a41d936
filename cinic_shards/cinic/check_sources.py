"""List what the sources hold, and check that it is enough for a build."""

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import cinic_shards.format as fmt
from cinic_shards.cinic.build_options import BuildOptions, Built
from cinic_shards.cinic.cifar10 import CLASSES
from cinic_shards.cinic.contributors import Contributor
from cinic_shards.cinic.draw import SPLITS, PhotoDraw, Pick, Shares
from cinic_shards.cinic.photos import SynsetTar, list_photos
from cinic_shards.cinic.synsets import synsets_by_class
from cinic_shards.errors import SourcesError, reason_of, some
from cinic_shards.jobs import Progress, Tally, run_jobs

_HINT = "give a folder of ImageNet's synset tars, n########.tar"


def list_tars(
    imagenet: Path,
    rows: Sequence[Contributor] | None,
    built: Built,
    executor: Executor,
    progress: Progress,
) -> dict[str, SynsetTar]:
    """List the photos in the tars of all synsets that the build uses.

    Args:
        imagenet: folder of the tars.
        rows: the contributors to replay; None for all synsets of CINIC-10.
        built: gets missing, empty and unusable tars and the members that were left out.
        executor: runs one job a tar.
        progress: called with ``list`` and the number of photos found.

    Returns:
        Synset -> its tar, for each tar that holds a photo.

    Raises:
        SourcesError: the folder cannot be read, or holds none of the tars.
    """
    if rows is None:
        wanted = sorted({synset for names in synsets_by_class().values() for synset in names})
    else:
        wanted = sorted({row.synset for row in rows})
    try:
        names = set(os.listdir(imagenet))
    except OSError as error:
        raise SourcesError(str(imagenet), [reason_of(error)], _HINT) from error
    built.missing_tars = [synset for synset in wanted if f"{synset}.tar" not in names]
    if len(built.missing_tars) == len(wanted):
        problem = f"holds none of the {len(wanted):,} synset tars needed, such as {wanted[0]}.tar"
        raise SourcesError(str(imagenet), [problem], _HINT)
    tally = Tally(progress, "list")
    paths = [str(imagenet.absolute() / f"{name}.tar") for name in wanted if f"{name}.tar" in names]
    tars = run_jobs(executor, list_photos, paths, done=lambda tar: tally.add(len(tar)))
    built.empty_tars = [f"{tar.synset}.tar" for tar in tars if tar.is_empty]
    built.unusable_tars = [f"{tar.synset}.tar: {tar.problem}" for tar in tars if tar.problem]
    built.left_out_members = [f"{tar.synset}.tar: {one}" for tar in tars for one in tar.left_out]
    return {tar.synset: tar for tar in tars if len(tar)}


def check_enough(
    draws: Sequence[PhotoDraw],
    shares: Shares,
    imagenet: Path,
    options: BuildOptions,
    built: Built,
) -> None:
    """Check, before anything is decoded, that no class is short of photos and no tar is damaged.

    Raises:
        SourcesError: lists all such classes and tars; never with ``options.allow_missing``.
    """
    needed = len(SPLITS) * shares.photos
    missing = {*built.missing_tars, *(name.removesuffix(".tar") for name in built.empty_tars)}
    short = []
    for draw in draws:
        if len(draw) < needed:
            text = f"{draw.name}: {len(draw):,} of {needed:,} photos"
            absent = [name for name in synsets_by_class()[draw.name] if name in missing]
            short.append(text + (f"; tars missing or empty: {' '.join(absent)}" if absent else ""))
    problems = [*built.unusable_tars, *short]
    if options.allow_missing or not problems:
        return
    hints = ["download the damaged tars again"] if built.unusable_tars else []
    if short:
        least = min(len(draw) for draw in draws)
        fits = [n for n in range(1, options.per_class) if len(SPLITS) * Shares(n).photos <= least]
        hints.append(f"use --per-class {fits[-1]}" if fits else "more photos are needed")
    hints.append("or use --allow-missing to build with what there is")
    raise SourcesError(str(imagenet), problems, "; ".join(hints))


def find_contributors(
    rows: Sequence[Contributor], tars: dict[str, SynsetTar], options: BuildOptions, built: Built
) -> list[Pick]:
    """Find the photos of a list of contributors; those in no tar go to ``built.missing_rows``.

    Raises:
        SourcesError: some are in no tar and ``options.allow_missing`` is not set; or a split or
            class is not CINIC-10's.
    """
    _check_names(rows, options)
    picks = []
    for row in rows:
        tar = tars.get(row.synset)
        at = None if tar is None else tar.row_of(row.number)
        if tar is not None and at is not None:
            picks.append(Pick(tar, at, f"{row.split}/{row.class_name}/{row.synset}_{row.number}"))
        else:
            built.missing_rows.append(f"{row.synset}_{row.number}")
    if built.missing_rows and not options.allow_missing:
        raise _no_source(options, built, len(rows))
    return picks


def _check_names(rows: Sequence[Contributor], options: BuildOptions) -> None:
    problems = []
    for row in rows:
        columns = ("cinic_set", row.split, SPLITS), ("class", row.class_name, CLASSES)
        for column, found, known in columns:
            if found not in known:
                stem = f"{row.synset}_{row.number}"
                expected = f"expected one of {', '.join(known)}"
                problems.append(f"{stem}: {column} is {fmt.shown(found)}, {expected}")
    if problems:
        raise SourcesError(str(options.contributors), problems, "give a list of CINIC-10's photos")


def _no_source(options: BuildOptions, built: Built, num_rows: int) -> SourcesError:
    found = some(built.missing_rows)
    problem = (
        f"{len(built.missing_rows):,} of {num_rows:,} rows have no photo in any source: {found}"
    )
    tars = [
        *built.unusable_tars,
        *(f"{name}: 0 bytes" for name in built.empty_tars),
        *(f"{synset}.tar: missing" for synset in built.missing_tars),
    ]
    unusable = f" ({some(tars)})" if tars else ""
    hint = (
        f"download the tars that should hold them{unusable}; or use --allow-missing to leave these "
        "photos out"
    )
    return SourcesError(str(options.contributors), [problem], hint)
