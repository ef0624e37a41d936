"""Build CINIC-10 from CIFAR-10 and ImageNet's synset tars, by its authors' published rules.

The rules are at https://github.com/BayesWatch/cinic-10#construction. The authors drew photos at
random, and their draw cannot be repeated: this one is different, unless it replays their list of
contributors.
"""

import os
import shutil
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager
from pathlib import Path

from cinic_shards.cinic.build_options import BuildOptions, Built
from cinic_shards.cinic.check_sources import check_enough, find_contributors, list_tars
from cinic_shards.cinic.cifar10 import CLASSES, read_cifar10
from cinic_shards.cinic.contributors import read_contributors
from cinic_shards.cinic.draw import SPLITS, PhotoDraw, Shares
from cinic_shards.cinic.render import PhotoWriter, draw_photos, replay_photos, write_cifar10
from cinic_shards.cinic.sink import (
    FILE_BYTES,
    TAR,
    TREE,
    ImageSink,
    check_space,
    open_tar,
    open_work_folder,
)
from cinic_shards.errors import OutputError
from cinic_shards.format.provenance import parse_stem
from cinic_shards.jobs import Progress, open_executor
from cinic_shards.options import checked, temporary_folder
from cinic_shards.store import LocalStore, StoreLike, local_path, open_store, sync_disk, sync_folder
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
    if os.path.lexists(target) and not (is_folder and set(os.listdir(target)) <= {_BUILDING}):
        raise OutputError(f"{out}: already exists; give an empty or a new folder")
    # An existing folder may be a mount point: nothing could be renamed into it from outside.
    work = target / _BUILDING if is_folder else target.with_name(target.name + _BUILDING)
    check_space(work.parent, _num_images(options) * FILE_BYTES)
    with _open_work_folder(work, workers) as executor:
        tree = work / TREE
        for split in SPLITS:
            for name in CLASSES:
                (tree / split / name).mkdir(parents=True)
        sink = ImageSink(str(tree), None)
        built = _build(
            local_path(cifar), local_path(imagenet), sink, options, executor, progress, warn
        )
        sync_disk(tree)
        if is_folder:
            _move_splits(tree, target)
        else:
            os.replace(tree, target)
        sync_folder(target if is_folder else target.parent)
    return built


_BUILDING = ".building"
"""The work folder: a suffix of the output's name, or a folder inside the output."""


def _move_splits(tree: Path, target: Path) -> None:
    try:
        for split in SPLITS:
            os.replace(tree / split, target / split)
    except BaseException:
        for split in SPLITS:
            shutil.rmtree(target / split, ignore_errors=True)
        raise


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
    # On the same disk, the shards take about as much space as the PNGs.
    check_space(beside, (2 if scratch is None else 1) * num_images * FILE_BYTES)
    work = beside.absolute() / (name + _BUILDING)
    with _open_work_folder(work, workers) as executor:
        tar = work / TAR
        with open_tar(tar) as sink:
            built = _build(
                local_path(cifar), local_path(imagenet), sink, options, executor, progress, warn
            )
        built.manifest = pack(
            tar,
            store,
            pack_options,
            executor=executor,
            overwrite=overwrite,
            progress=progress,
            warn=warn,
        )
    return built


@contextmanager
def _open_work_folder(work: Path, workers: int | None) -> Iterator[Executor]:
    """Make a folder to build in and start worker processes; both end with the context."""
    try:
        with (
            LocalStore(work).undone_on_error(),
            open_work_folder(work),
            open_executor(None, workers) as executor,
        ):
            yield executor
    except BrokenExecutor as error:
        raise OutputError(
            f"{work}: building did not finish because a worker process died: it was killed, or "
            "memory ran out (try fewer workers), or your program calls this outside "
            "'if __name__ == \"__main__\":'"
        ) from error


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
    keys = write_cifar10(source, sink, shares, options.seed, executor, progress)
    writer = PhotoWriter(sink, built, executor, progress)
    if rows is None:
        keys += draw_photos(draws, shares, writer, options)
    else:
        keys += replay_photos(picks, writer, options)
    _count(keys, built)
    for warning in built.warnings():
        warn(warning)
    return built


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
