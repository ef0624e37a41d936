"""CIFAR-10 and ImageNet's synset tars -> CINIC-10, by the construction that its authors publish.

Their text is https://github.com/BayesWatch/cinic-10#construction. Which photos they drew is chance
of theirs: the draw here is another one, unless the list of their contributors is replayed.
"""

import os
import shutil
import tempfile
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
    open_workshop,
)
from cinic_shards.errors import OutputError
from cinic_shards.format.provenance import parse_stem
from cinic_shards.jobs import Progress, open_executor
from cinic_shards.store import LocalStore, StoreLike, open_store
from cinic_shards.write.dataset import check_output
from cinic_shards.write.pack import PackOptions, pack

_PathLike = str | os.PathLike[str]


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
    """Build CINIC-10 as a tree ``out/<split>/<class>/*.png``.

    The same sources and options give the same bytes, whatever ``workers`` is.

    Args:
        cifar: CIFAR-10, ``cifar-10-python.tar.gz``.
        imagenet: a folder of ImageNet's synset tars, ``n########.tar``.
        out: a folder that is empty or does not exist.
        options: see ``BuildOptions``.
        workers: processes; by default the cores that this process may use.
        progress: see ``jobs.Progress``.
        warn: called with each kind of thing that was left out.

    Raises:
        OptionError: an option cannot be.
        SourcesError, FormatError, StoreError: the sources fall short or cannot be read; lists every
            problem. Nothing is left behind.
        OutputError: ``out`` cannot be written, or holds files.
    """
    options = options or BuildOptions()
    place = Path(os.path.realpath(out))
    is_there = place.is_dir()
    if os.path.lexists(place) and not (is_there and set(os.listdir(place)) <= {_WORKSHOP}):
        raise OutputError(f"{out}: is there already; give an empty or a new folder")
    # A folder that is there may be a disk of its own.
    workshop = place / _WORKSHOP if is_there else place.with_name(place.name + _WORKSHOP)
    check_space(workshop.parent, _num_images(options) * FILE_BYTES)
    with _open_workshop(workshop, workers) as executor:
        tree = workshop / TREE
        for split in SPLITS:
            for name in CLASSES:
                (tree / split / name).mkdir(parents=True)
        sink = ImageSink(str(tree), None)
        built = _build(Path(cifar), Path(imagenet), sink, options, executor, progress, warn)
        if is_there:
            _move_splits(tree, place)
        else:
            os.replace(tree, place)
    return built


_WORKSHOP = ".building"
"""After the name of what is built, or in it."""


def _move_splits(tree: Path, place: Path) -> None:
    try:
        for split in SPLITS:
            os.replace(tree / split, place / split)
    except BaseException:
        for split in SPLITS:
            shutil.rmtree(place / split, ignore_errors=True)
        raise


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
    """Build CINIC-10 as shards: those that ``pack`` makes of ``build_tree``'s tree.

    Args:
        cifar: see ``build_tree``.
        imagenet: see ``build_tree``.
        out: a folder, a URL or an open store; empty, or not there yet.
        options: see ``BuildOptions``.
        pack_options: see ``PackOptions``.
        scratch: a folder for one temporary file of all PNGs; by default it lies beside ``out``, or
            with the system's temporary files where ``out`` is on a server.
        workers: processes; by default the cores that this process may use.
        overwrite: replace the dataset that ``out`` holds (the files that its manifest names).
        progress: see ``jobs.Progress``.
        warn: called with each kind of thing that was left out.

    Raises:
        OptionError, SourcesError, FormatError, StoreError, OutputError: see ``build_tree``.
    """
    options = options or BuildOptions()
    store = open_store(out)
    check_output(store, overwrite)
    place = Path(os.path.realpath(str(store))) if store.is_local else None
    if scratch is None and place is None:
        scratch = tempfile.gettempdir()
    name = place.name if place else str(store).rpartition("/")[2]
    beside = (place.parent if place else Path()) if scratch is None else Path(scratch)
    num_images = _num_images(options)
    # The shards take about as much again, where they go to the same disk.
    check_space(beside, (2 if scratch is None else 1) * num_images * FILE_BYTES)
    workshop = beside.absolute() / (name + _WORKSHOP)
    with _open_workshop(workshop, workers) as executor:
        tar = workshop / TAR
        with open_tar(tar) as sink:
            built = _build(Path(cifar), Path(imagenet), sink, options, executor, progress, warn)
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
def _open_workshop(workshop: Path, workers: int | None) -> Iterator[Executor]:
    """Make a folder to build in, and processes to work in it; both end with the context."""
    try:
        with (
            LocalStore(workshop).undone_on_error(),
            open_workshop(workshop),
            open_executor(None, workers) as executor,
        ):
            yield executor
    except BrokenExecutor as error:
        raise OutputError(
            f"{workshop}: building did not finish, a worker process died: it was killed, or memory "
            "ran out (try fewer workers), or the program that calls this does so outside "
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
    """Write every image."""
    built = Built()
    shares = Shares(options.per_class)
    source = read_cifar10(cifar)  # first: what is wrong with it is soon told
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
    """Note how many images of what kind there are, and which photos are in two classes."""
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
