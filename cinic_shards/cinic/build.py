"""Build CINIC-10 from CIFAR-10 and ImageNet's synset tars, by its authors' published rules.

The rules are at https://github.com/BayesWatch/cinic-10#construction. The authors drew photos at
random, and their draw cannot be repeated: this one is different, unless it replays their list of
contributors.
"""

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from cinic_shards.cinic.build_options import BuildOptions, Built, libraries
from cinic_shards.cinic.check_sources import check_enough, find_contributors, list_tars
from cinic_shards.cinic.cifar10 import CLASSES, read_cifar10
from cinic_shards.cinic.contributors import read_contributors
from cinic_shards.cinic.draw import SPLITS, PhotoDraw, Shares
from cinic_shards.cinic.photos import SynsetTar
from cinic_shards.cinic.render import PhotoWriter, draw_photos, replay_photos, write_cifar10
from cinic_shards.cinic.sink import (
    FILE_BYTES,
    ImageSink,
    check_space,
    open_build,
)
from cinic_shards.errors import OutputError
from cinic_shards.format import PACKING_FOLDER
from cinic_shards.format.provenance import parse_stem
from cinic_shards.jobs import Progress
from cinic_shards.options import checked, temporary_folder
from cinic_shards.store import StoreLike, local_path, open_store, sync_disk, sync_folder
from cinic_shards.write.dataset import check_output
from cinic_shards.write.pack import PackOptions, pack

_PathLike = str | os.PathLike[str]


@checked
def build_tree(
    cifar: _PathLike,
    imagenet: _PathLike,
    out: _PathLike,
    options: BuildOptions | None = None,
    *,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Built:
    """Build CINIC-10 as a tree of 32x32 RGB PNGs, ``out/<split>/<class>/*.png``.

    The same sources and options give the same bytes, for any number of ``workers``.

    Args:
        cifar: CIFAR-10, ``cifar-10-python.tar.gz``.
        imagenet: a folder of ImageNet's synset tars, ``n########.tar``.
        out: a folder that is empty or does not exist.
        options: see ``BuildOptions``.
        workers: number of processes; by default the number of cores that this process may use.
        progress: see ``jobs.Progress``.
        warn: called with one text for each category of things left out.

    Returns:
        What was built, and what was left out.

    Raises:
        OptionError: ``workers`` is invalid.
        SourcesError, FormatError, StoreError: the sources are insufficient or cannot be read; lists
            every problem. Nothing is left behind.
        OutputError: ``out`` cannot be written, or is not empty.
    """
    options = options or BuildOptions()
    target = Path(os.path.realpath(local_path(out)))
    is_folder = target.is_dir()
    # An existing folder may be a mount point: nothing could be renamed into it from outside.
    work = target / _BUILDING if is_folder else target.with_name(target.name + _BUILDING)
    others = {*os.listdir(target)} - {_BUILDING} if is_folder else {target.name}
    is_moving = is_folder and others <= {*SPLITS} and work.exists()
    if os.path.lexists(target) and others and not is_moving:
        raise OutputError(f"{out}: already exists; give an empty or a new folder")
    if not work.exists():
        check_space(work.parent, _num_images(options) * FILE_BYTES)
    with open_build(work, workers, str(out)) as (folder, executor):
        if is_folder:
            folder.take_back(target)
            if others := set(os.listdir(target)) - {_BUILDING}:
                raise OutputError(f"{out}: already exists; give an empty or a new folder")
        sink = ImageSink(folder, executor, is_tree=True)
        built = _build(
            local_path(cifar), local_path(imagenet), sink, options, executor, progress, warn
        )
        sync_disk(folder.tree)
        if is_folder:
            folder.move_splits(target)
        else:
            os.rename(folder.tree, target)
        folder.is_complete = True
        sync_folder(target if is_folder else target.parent)
    return built


_BUILDING = ".building"
"""The work folder: a suffix of the output's name, or a folder inside the output."""


@checked
def build_shards(
    cifar: _PathLike,
    imagenet: _PathLike,
    out: StoreLike,
    options: BuildOptions | None = None,
    pack_options: PackOptions | None = None,
    *,
    scratch: _PathLike | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Built:
    """Build CINIC-10 as shards: the same files as ``pack`` makes from ``build_tree``'s tree.

    Args:
        cifar: see ``build_tree``.
        imagenet: see ``build_tree``.
        out: a folder, a URL or an open store; empty or new, unless ``overwrite``.
        options: see ``BuildOptions``.
        pack_options: see ``PackOptions``.
        scratch: a folder for one temporary file of all PNGs; by default the folder that holds
            ``out``, or the system's temporary folder if ``out`` is on a server.
        workers: number of processes; by default the number of cores that this process may use.
        overwrite: replace the dataset that ``out`` holds (the files that its manifest names).
        progress: see ``jobs.Progress``.
        warn: called with one text for each category of things left out.

    Returns:
        What was built, and what was left out; with the shards' manifest.

    Raises:
        OptionError, SourcesError, FormatError, StoreError, OutputError: see ``build_tree``.
    """
    options = options or BuildOptions()
    store = open_store(out)
    check_output(store, overwrite)
    target = Path(os.path.realpath(str(store))) if store.is_local else None
    if scratch is None and target is None:
        scratch = temporary_folder()
    name = target.name if target else str(store).rpartition("/")[2]
    beside = (target.parent if target else Path()) if scratch is None else local_path(scratch)
    num_images = _num_images(options)
    work = beside.absolute() / (name + _BUILDING)
    if not work.exists():
        # On the same disk, the shards take about as much space as the PNGs.
        check_space(beside, (2 if scratch is None else 1) * num_images * FILE_BYTES)
    more = f" and {store}/{PACKING_FOLDER}"
    with open_build(work, workers, str(store), more) as (folder, executor):
        sink = ImageSink(folder, executor, is_tree=False)
        built = _build(
            local_path(cifar), local_path(imagenet), sink, options, executor, progress, warn
        )
        built.manifest = pack(
            folder.tar,
            store,
            pack_options,
            executor=executor,
            overwrite=overwrite,
            progress=progress,
            warn=warn,
        )
        folder.is_complete = True
    return built


def _num_images(options: BuildOptions) -> int:
    return len(SPLITS) * len(CLASSES) * options.per_class


def _build(
    cifar: Path,
    imagenet: Path,
    sink: ImageSink,
    options: BuildOptions,
    executor: Executor,
    progress: Progress,
    warn: Callable[[str], None],
) -> Built:
    """Write every image to the sink."""
    built = Built()
    shares = Shares(options.per_class)
    source = read_cifar10(cifar)  # first: reading it is quick, so its errors come early
    rows = None if options.contributors is None else read_contributors(options.contributors)
    tars = list_tars(imagenet, rows, built, executor, progress)
    if rows is None:
        draws = [PhotoDraw(name, tars, options.seed) for name in CLASSES]
        check_enough(draws, shares, imagenet, options, built)
    else:
        picks = find_contributors(rows, tars, options, built)
    sink.begin(_description(options, cifar, tars))
    keys = write_cifar10(source, sink, shares, options.seed, progress)
    writer = PhotoWriter(sink, built, progress)
    if rows is None:
        keys += draw_photos(draws, shares, writer, options)
    else:
        keys += replay_photos(picks, writer, options)
    sink.finish()
    _count(keys, built)
    for warning in built.warnings():
        warn(warning)
    return built


def _description(options: BuildOptions, cifar: Path, tars: dict[str, SynsetTar]) -> dict[str, Any]:
    """Describe a build, as JSON; only the same one is resumed."""
    paths = [os.fspath(cifar), *(tar.path for tar in tars.values())]
    if options.contributors is not None:
        paths.append(os.fspath(options.contributors))
    states = [os.stat(path) for path in paths]
    return {
        "libraries": libraries(),
        "options": [options.per_class, options.seed, options.allow_missing],
        "sources": [
            [os.path.basename(path), state.st_size, state.st_mtime_ns]
            for path, state in zip(paths, states, strict=True)
        ],
    }


def _count(keys: Sequence[str], built: Built) -> None:
    """Count images by split, class and origin, and find the photos that are in two classes."""
    classes: dict[str, set[str]] = defaultdict(set)
    counts: Counter[tuple[str, str, str]] = Counter()
    for key in keys:
        split, class_name, stem = key.split("/")
        origin = parse_stem(stem).origin
        counts[split, class_name, origin] += 1
        if origin == "imagenet":
            classes[stem].add(class_name)
    built.num_images = len(keys)
    for (split, class_name, origin), count in sorted(counts.items()):
        built.counts.setdefault(split, {}).setdefault(class_name, {})[origin] = count
    built.in_two_classes = sorted(
        f"{stem} ({' and '.join(sorted(names))})"
        for stem, names in classes.items()
        if len(names) > 1
    )
