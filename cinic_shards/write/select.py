"""Part of a dataset, or splits of it joined, as a dataset of its own.

The new shards are those that packing the same part of the tree would give, with the labels of the
whole: of ``png`` and ``raw`` to the byte, of ``zstd`` with the same libzstd.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import cinic_shards.format as fmt
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import OutputError, few
from cinic_shards.format import Manifest
from cinic_shards.jobs import Progress
from cinic_shards.options import number_of_workers
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.subset import Subset
from cinic_shards.store import StoreLike, open_store
from cinic_shards.tree.rules import PNG_SUFFIXES
from cinic_shards.write.convert import list_shards
from cinic_shards.write.dataset import (
    Recipe,
    check_output,
    refuse_itself,
    write_dataset,
)
from cinic_shards.write.pack import PackOptions, cut_into_shards, packing_order
from cinic_shards.write.samples.base import ShardInput
from cinic_shards.write.samples.packed import PackedInput
from cinic_shards.write.splits import Chosen, choose
from cinic_shards.write.unpack import Unpacked, UnpackJob, make_folder, unpack_jobs


def select(
    path: StoreLike,
    out: StoreLike,
    *,
    splits: Sequence[str] = (),
    subset: Subset | None = None,
    workers: int | None = None,
    executor: Executor | str | None = None,
    overwrite: bool = False,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Manifest:
    """Write part of the dataset at ``path``, to ``out``, as a dataset of the same encoding.

    Labels stay what they are, also where a class is left without a sample. PNGs are copied, and
    blocks where they are whole. A split that is joined or renamed has the packing order of its new
    keys; the others keep theirs.

    Args:
        path: where the dataset lies; a folder, a URL or an open store.
        out: a folder, a URL or an open store; empty, or not there yet.
        splits: which, see ``splits.parse_splits``; by default all, each as it is.
        subset: which samples of each. ``exclude_duplicates_of`` leaves new splits alone that are
            made of the splits it names.
        workers: processes; by default the cores that this process may use.
        executor: where to work instead; see ``pack``.
        overwrite: replace the dataset that ``out`` holds.
        progress: see ``jobs.Progress``.
        warn: called with each thing that a user should know.

    Raises:
        OptionError: an option cannot be, or no sample is left.
        StoreError, FormatError, TreeError: the dataset cannot be read, or is damaged.
        OutputError: ``out`` cannot be written, or holds other files.
    """
    dataset, target = Dataset(path), open_store(out)
    refuse_itself(dataset.store, target)
    check_output(target, overwrite)
    wanted = subset or Subset()
    chosen = choose(dataset, splits, wanted, warn)
    if not dataset.store.is_local and (
        joined := [one.name for one in chosen if {one.name} != {split for split, _ in one.shards}]
    ):
        warn(
            f"{target}: the samples of a shard of {', '.join(joined)} come from many shards, "
            "each fetched for it as a whole; copying the dataset to a disk first may be faster"
        )
    recipe = _recipe(dataset, chosen, _options(dataset.manifest), _parent(dataset, chosen, wanted))
    return write_dataset(
        target,
        lambda folder, pool: nullcontext(recipe),
        overwrite=overwrite,
        executor=executor,
        workers=workers,
        doing="select",
        progress=progress,
        warn=warn,
    )


def _options(manifest: Manifest) -> PackOptions:
    """Those that the dataset was packed with, as far as it tells."""
    stated = manifest.options
    largest = max(shard.num_samples for split in manifest.splits for shard in split.shards)
    size, seed, sidecars = (stated.get(name) for name in ("shard_size", "seed", "sidecars"))
    return PackOptions(
        encoding=manifest.encoding,
        shard_size=size if type(size) is int and size > 0 else largest,
        block_size=manifest.block_size,
        seed=seed if type(seed) is int and 0 <= seed <= fmt.MAX_INTEGER else 0,
        sidecars=tuple(map(str, sidecars)) if isinstance(sidecars, list) else None,
    )


def _parent(dataset: Dataset, chosen: Sequence[Chosen], subset: Subset) -> dict[str, Any]:
    """What the manifest says of where it comes from: another choice is another job, too."""
    selection: dict[str, Any] = {
        "splits": {one.name: sorted({split for split, _ in one.shards}) for one in chosen}
    }
    for name in ("classes", "origin", "exclude_duplicates_of", "fraction", "fraction_seed"):
        value = getattr(subset, name)
        if value != getattr(Subset(), name):
            selection[name] = list(value) if isinstance(value, tuple) else value
    digest = hashlib.blake2b(digest_size=32)
    for one in chosen:
        digest.update(one.name.encode() + b"\0" + one.ids.astype("<i8").tobytes())
    return {
        "fingerprint": dataset.manifest.fingerprint,
        "selection": selection,
        "samples": f"blake2b:{digest.hexdigest()}",
    }


def _recipe(
    dataset: Dataset, chosen: Sequence[Chosen], options: PackOptions, parent: dict[str, Any]
) -> Recipe:
    manifest = dataset.manifest
    layout = options.layout(manifest.image_shape)
    present = np.unique(np.concatenate([one.labels for one in chosen]))
    if len(present) < len(manifest.classes):
        layout = replace(layout, classes=manifest.classes)
    num_samples = sum(len(one.keys) for one in chosen)
    size = sum(shard.size for split in manifest.splits for shard in split.shards)
    return Recipe(
        source=str(dataset.store),
        listing=list_shards(manifest),
        classes=manifest.classes,
        options=options.as_json() | {"parent": parent},
        layout=layout,
        shards=lambda: _shards(dataset, chosen, options),
        num_samples=num_samples,
        needed_bytes=size * num_samples // manifest.num_samples // 4,
    )


def _shards(
    dataset: Dataset, chosen: Sequence[Chosen], options: PackOptions
) -> Iterator[tuple[str, str, ShardInput]]:
    shape = dataset.manifest.image_shape if ENCODINGS[options.encoding].has_blocks else None
    make_input = partial(PackedInput, dataset.store, dataset.manifest.classes, shape)
    for one in chosen:
        order = packing_order(one.keys, options.seed)
        for name, rows in cut_into_shards(one.name, order, options.samples_a_shard):
            used, position = np.unique(one.shard[rows], return_inverse=True)
            shards = tuple(one.shards[number] for number in used.tolist())
            yield one.name, name, make_input(one.name, shards, position, one.row[rows], True)


def select_tree(
    path: StoreLike,
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
        path: where the dataset lies.
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
    workers = number_of_workers(workers)
    dataset, out = Dataset(path), Path(out)
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
