"""Part of a dataset, or splits of it joined, as a tree of PNGs or of links to them."""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from cinic_shards.errors import OptionError, OutputError, few
from cinic_shards.jobs import Progress, usable_cores
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.subset import Subset
from cinic_shards.store import Place
from cinic_shards.tree.records import PNG_SUFFIXES
from cinic_shards.write.splits import Chosen, choose
from cinic_shards.write.unpack import Unpacked, UnpackJob, make_folder, unpack_jobs


def select_tree(
    place: Place,
    out: str | os.PathLike[str],
    *,
    splits: Sequence[str] = (),
    subset: Subset | None = None,
    symlink_to: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Unpacked:
    """Write part of a dataset as ``out/<split>/<class>/<stem>.png``; see ``select`` and ``unpack``.

    Args:
        place: where the dataset lies.
        out: where the tree goes; what is there already is kept where it is the same.
        splits: as of ``select``.
        subset: as of ``select``.
        symlink_to: the dataset's whole tree: make links to its files instead of files. What these
            hold is not looked at.
        workers: processes; by default the cores that this process may use.
        progress: see ``jobs.Progress``.
        warn: called with each thing that a user should know.

    Raises:
        OptionError, StoreError, FormatError: as ``select``.
        OutputError: a file cannot be written, or another one is there; or what is to be linked to
            is not there.
    """
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise OptionError(f"{workers} workers: expected at least 1")
    dataset, out = Dataset(place), Path(out)
    chosen = choose(dataset, splits, subset or Subset(), warn)
    if symlink_to is not None:
        return _link(Path(symlink_to), out, chosen, progress)
    jobs = [
        UnpackJob(
            store=dataset.store,
            out=out,
            split=split,
            info=shard,
            num_classes=len(dataset.manifest.classes),
            rows=one.row[one.shard == number],
            new_split=one.name,
        )
        for one in chosen
        for number, (split, shard) in enumerate(one.shards)
    ]
    return unpack_jobs(dataset.store, out, jobs, workers=workers, progress=progress)


def _link(tree: Path, out: Path, chosen: Sequence[Chosen], progress: Progress) -> Unpacked:
    root = os.path.realpath(tree)
    targets = {
        new: next((f"{root}/{old}{end}" for end in PNG_SUFFIXES
                   if os.path.isfile(f"{root}/{old}{end}")), old)
        for one in chosen
        for new, old in zip(one.keys, one.old_keys, strict=True)
    }  # fmt: skip
    if missing := [old for old in targets.values() if not os.path.isabs(old)]:
        raise _problems(f"{tree}: has no file for", missing, "unpack the dataset there first")
    num_made = num_kept = 0
    others = []
    folders: set[str] = set()
    for key, target in targets.items():
        folder = key.rpartition("/")[0]
        link = f"{out}/{key}.png"
        try:
            if folder not in folders:
                out.mkdir(parents=True, exist_ok=True)
                make_folder(out, folder)
                folders.add(folder)
            os.symlink(target, link)
            num_made += 1
        except FileExistsError:
            if os.path.islink(link) and os.readlink(link) == target:
                num_kept += 1
            else:
                others.append(f"{key}.png")
        except OSError as error:
            raise OutputError(f"{link}: {error.strerror}") from error
        if (num_made + num_kept) % 1000 == 0:
            progress("link", num_made + num_kept, len(targets))
    if others:
        raise _problems(f"{out}: holds other files for", others, "move them away")
    return Unpacked(num_made, num_kept)


def _problems(what: str, names: list[str], hint: str) -> OutputError:
    return OutputError(f"{what} {len(names):,} images: {few(names)}; {hint}")
