"""Make a tree of what was found in its folders: records and warnings, or an error."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.meter import chunks
from cinic_shards.codec.png_head import check_heads
from cinic_shards.errors import TreeError, few, some
from cinic_shards.tree.names import is_archive, look_alikes
from cinic_shards.tree.records import Records
from cinic_shards.tree.rules import ClassFolder, Findings

MakeRecords = Callable[
    [list[str], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]], Records
]
"""Makes records from columns: files, labels, sizes in bytes, modification times in nanoseconds."""


def raise_problems(
    root: Path,
    split_name: str | None,
    in_folders: list[ClassFolder],
    found: Findings,
    make_records: MakeRecords,
    run: Callable[[Callable[[Records], list[str]], list[Records]], Iterable[list[str]]] = map,
) -> None:
    """Raise an error if there is any problem; in this case, check every file's head as well.

    Args:
        root: the tree.
        split_name: the split of a tree that has no folders of splits, else None.
        in_folders: the folders of its classes.
        found: everything else that was noted; the folders' notes are added to it.
        make_records: see ``MakeRecords``.
        run: maps a function over records, in any process.

    Raises:
        TreeError: there is a problem, or no image; lists every problem.
    """
    for folder in in_folders:
        found.add(folder)
    with_files = [folder for folder in in_folders if folder.files]
    problems = found.problems + list(
        _level_problems(root, split_name, found, has_images=bool(with_files))
    )
    if not with_files and not problems:
        problems.append(_nothing_found(root, split_name, found))
    if problems:
        records = [_join([("", folder)], ("",), make_records) for folder in with_files]
        for more in run(head_problems, records):
            problems += more
        raise TreeError(str(root), sorted(problems))


def _level_problems(
    root: Path, split_name: str | None, found: Findings, *, has_images: bool
) -> Iterator[str]:
    """Yield problems with images above and below the folders of classes."""
    expected = _expected(split_name)
    outside, deeper = found.outside, found.deeper
    in_classes = [file for file in outside if "/" in file]
    if in_classes and not (has_images or deeper or split_name):
        classes = sorted({file.partition("/")[0] for file in in_classes})
        yield (
            f"{root}: {len(in_classes):,} images are in folders of classes ({few(classes)}), not "
            "in <split>/<class>/; name their split: --split-name train, in Python "
            "split_name='train'"
        )
        outside = [file for file in outside if "/" not in file]
    elif deeper and not (has_images or outside):
        top = "/".join(deeper[0].split("/")[: -3 if split_name is None else -2])
        cure = f"pack {root / top}" if os.path.isdir(root) else f"unpack it and pack {top}/"
        if split_name is not None:
            cure = f"leave out --split-name if these are folders of splits, or {cure}"
        yield f"{root}: the images are deeper than {expected}: {deeper[0]}; {cure}"
        deeper = []
    for file in outside:
        yield f"{file}: an image outside any {expected} folder; move it"
    for file in deeper:
        folder = "/".join(file.split("/")[: 3 if split_name is None else 2])
        yield f"{folder}/: a folder inside a class; images must be in {expected}"


def _expected(split_name: str | None) -> str:
    return "<split>/<class>/" if split_name is None else "<class>/"


def _nothing_found(root: Path, split_name: str | None, found: Findings) -> str:
    problem = f"{root}: no .png file in any {_expected(split_name)} folder"
    archives = [path for path in found.strays if is_archive(path)]
    if not archives:
        return problem
    is_folder = os.path.isdir(root)
    cure = f"pack {root / archives[0]}" if is_folder else f"unpack it and pack {archives[0]}"
    if len(archives) == 1:
        return f"{problem}, but an archive; {cure}"
    return f"{problem}, but {len(archives):,} archives ({few(archives)}); {cure}, or another one"


def head_problems(records: Records) -> list[str]:
    """Check the heads of files; return a problem for each invalid one. Runs in any process."""
    found = []
    for start, stop in chunks(records.sizes):
        sizes = records.sizes[start:stop]
        starts = np.cumsum(sizes) - sizes
        buffer = np.zeros(int(sizes.sum()), np.uint8)
        unread = records.read(start, stop, buffer, starts)
        problems = check_heads(buffer, starts, sizes)[1] | unread
        found += [f"{records.files[start + row]}: {text}" for row, text in problems.items()]
    return found


def assemble(
    split_names: list[str],
    folders: list[tuple[str, str]],
    in_folders: list[ClassFolder],
    strays: list[str],
    make_records: MakeRecords,
) -> tuple[tuple[str, ...], dict[str, Records], tuple[str, ...]]:
    """Put together the classes, splits and warnings of a tree without problems."""
    found_by_split: dict[str, list[tuple[str, ClassFolder]]] = {}
    for (split, name), folder in zip(folders, in_folders, strict=True):
        if folder.files:
            found_by_split.setdefault(split, []).append((name, folder))
    classes = tuple(sorted({name for named in found_by_split.values() for name, _ in named}))
    splits = {
        split: _join(named, classes, make_records)
        for split, named in sorted(found_by_split.items())
    }
    warnings = _warnings(split_names, folders, found_by_split, classes, strays)
    return classes, splits, tuple(warnings)


def _join(
    named: list[tuple[str, ClassFolder]], classes: tuple[str, ...], make_records: MakeRecords
) -> Records:
    """Join a split's folders as records, sorted by path."""
    folders = [folder for _, folder in named]
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.repeat(
        np.array([label_of[name] for name, _ in named], np.int32),
        [len(folder.files) for folder in folders],
    )
    return make_records(
        [file for folder in folders for file in folder.files],
        labels,
        np.array([size for folder in folders for size in folder.sizes], np.int64),
        np.array([modified for folder in folders for modified in folder.modified], np.int64),
    )


def _warnings(
    split_names: list[str],
    folders: list[tuple[str, str]],
    found: dict[str, list[tuple[str, ClassFolder]]],
    classes: tuple[str, ...],
    strays: list[str],
) -> Iterator[str]:
    files = [file for named in found.values() for _, folder in named for file in folder.files]
    empty = sorted(set(split_names) - set(found))
    if len(empty) == 1:
        yield f"split {empty[0]} has no image and is left out"
    elif empty:
        yield f"{len(empty):,} splits have no image and are left out: {some(empty)}"
    empty = sorted({name for _, name in folders} - set(classes))
    if len(empty) == 1:
        yield f"class {empty[0]} has no image in any split and gets no label"
    elif empty:
        yield f"{len(empty):,} classes have no image in any split and get no label: {some(empty)}"
    for split, named in sorted(found.items()):
        present = {name for name, _ in named}
        if missing := [name for name in classes if name not in present]:
            yield f"split {split} has no image of {some(missing)}"
    for what, names in ("splits", list(found)), ("classes", list(classes)), ("files", files):
        if alike := look_alikes(names):
            yield (
                f"{what} whose names macOS and Windows may confuse with others (case, accents, "
                f"dots or spaces at the end){_count(alike)}: {some(alike)}"
            )
    if upper := [file for file in files if not file.endswith(".png")]:
        yield f"stored with the suffix .png in lower case{_count(upper)}: {some(upper)}"
    if strays:
        yield f"left out, not images{_count(strays)}: {some(strays)}"


def _count(items: list[str]) -> str:
    return f" ({len(items):,})" if len(items) > 1 else ""
