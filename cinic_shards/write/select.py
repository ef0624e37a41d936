"""Write part of a dataset, or some of its splits joined, as a new dataset or as a tree.

The new shards are identical to packing that part of the tree, with the labels of the full dataset;
for ``zstd`` this requires the same version of libzstd.
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
from cinic_shards.errors import OptionError, OutputError, few, reason_of
from cinic_shards.format import Manifest
from cinic_shards.jobs import Progress
from cinic_shards.options import checked, number_of_workers
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.subset import Subset, given_options
from cinic_shards.store import StoreLike, local_path, open_store, sync_disk
from cinic_shards.tree.rules import PNG_SUFFIXES
from cinic_shards.write.convert import list_shards
from cinic_shards.write.cut import cut_into_shards, largest_shard, stated_shard_size
from cinic_shards.write.dataset import (
    Recipe,
    check_output,
    reject_itself,
    write_dataset,
)
from cinic_shards.write.pack import PackOptions, packing_order
from cinic_shards.write.samples.base import ShardInput
from cinic_shards.write.samples.packed import PackedInput
from cinic_shards.write.splits import Chosen, choose
from cinic_shards.write.unpack import Unpacked, UnpackJob, make_folder, unpack_jobs


@checked
def select(
    path: StoreLike,
    out: StoreLike,
    *,
    splits: str | Sequence[str] = (),
    subset: Subset | None = None,
    shard_size: int | None = None,
    shards: int | None = None,
    workers: int | None = None,
    executor: Executor | str | None = None,
    overwrite: bool = False,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Manifest:
    """Write part of the dataset at ``path`` to ``out``, as a dataset with the same encoding.

    Labels do not change, even if a class has no samples left, unless the subset has
    ``labels="contiguous"``. PNGs are copied, and so are blocks
    that keep all their samples. A joined or renamed split has the packing order of its new keys;
    other splits keep their order.

    Args:
        path: the dataset's folder, URL or open store.
        out: a folder, a URL or an open store; empty, or not existing yet.
        splits: the new splits, one or a list of them: ``train`` keeps a split, ``train+valid``
            joins two as ``train-valid``, ``all=train+valid`` joins and names them; by default all,
            unchanged.
        subset: the samples to keep of each split. ``exclude_duplicates_of`` does not apply to new
            splits made from a split that it names.
        shard_size: see ``PackOptions``; by default a split that keeps all its samples keeps its
            shards, and the shards of others have the default size, but are no larger than those
            that they are made from.
        shards: see ``PackOptions``.
        workers: number of processes; by default the cores that this process may use.
        executor: runs the jobs instead; see ``pack``.
        overwrite: replace the dataset in ``out``.
        progress: see ``jobs.Progress``.
        warn: called with each warning, as a text.

    Returns:
        The new manifest, as written.

    Raises:
        OptionError: an option is invalid, or no sample is left.
        StoreError, FormatError, TreeError: the dataset cannot be read, or is damaged.
        OutputError: ``out`` cannot be written, or holds other files.

    Example:
        >>> photos = Subset(origin="imagenet")
        >>> manifest = select("shards", "photos", splits=["all=train+valid", "test"], subset=photos)
        >>> {split.name: split.num_samples for split in manifest.splits}
        {'all': 140, 'test': 70}
    """
    dataset, target = Dataset(path), open_store(out)
    reject_itself(dataset.store, target)
    check_output(target, overwrite)
    wanted = subset or Subset()
    _check_labels(wanted)
    chosen = choose(dataset, splits, wanted, warn)
    options = _options(dataset.manifest, shard_size, shards)
    sizes = _shard_sizes(dataset.manifest, chosen, options)
    if not dataset.store.is_local and (
        joined := [new.name for new in chosen if {new.name} != {split for split, _ in new.shards}]
    ):
        warn(
            f"{target}: each shard of {', '.join(joined)} takes samples from many shards, and "
            "fetches all of these entirely; copying the dataset to a disk first may be faster"
        )
    recipe = _recipe(dataset, chosen, options, sizes, wanted)
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


def _check_labels(subset: Subset) -> None:
    if subset.labels not in (None, "contiguous") or subset.label_noise:
        raise OptionError(
            "labels and label_noise: a dataset has the labels of its classes, only 'contiguous' "
            "can be written; give the others to a loader or to export"
        )


def _options(manifest: Manifest, shard_size: int | None, shards: int | None) -> PackOptions:
    """Return the options that the dataset was packed with, as far as its manifest states them."""
    stated = manifest.options
    seed, sidecars = stated.get("seed"), stated.get("sidecars")
    return PackOptions(
        encoding=manifest.encoding,
        shard_size=shard_size,
        shards=shards,
        block_size=manifest.block_size,
        seed=seed if type(seed) is int and 0 <= seed <= fmt.MAX_INTEGER else 0,
        sidecars=tuple(map(str, sidecars)) if isinstance(sidecars, list) else None,
    )


def _shard_sizes(
    manifest: Manifest, chosen: Sequence[Chosen], options: PackOptions
) -> dict[str, int]:
    """Return the number of samples in each shard of every new split."""
    sizes = options.shard_sizes({new.name: len(new.keys) for new in chosen})
    if options.has_default_cut:
        for new in chosen:
            names = {split for split, _ in new.shards}
            parts = [split for split in manifest.splits if split.name in names]
            largest = max(map(largest_shard, parts))
            keeps_all = len(parts) == 1 and len(new.keys) == parts[0].num_samples
            sizes[new.name] = largest if keeps_all else min(largest, sizes[new.name])
    return sizes


def _parent(dataset: Dataset, chosen: Sequence[Chosen], subset: Subset) -> dict[str, Any]:
    """Describe the selection for the manifest. Only a job with the same selection is resumed."""
    selection: dict[str, Any] = {
        "splits": {new.name: sorted({split for split, _ in new.shards}) for new in chosen}
    }
    for name, value in given_options(subset).items():
        if name == "exclude_duplicates_of":
            selection[name] = "+".join(split.name for split in dataset.splits(value))
        elif name in ("classes", "origin"):
            selection[name] = value if isinstance(value, str) else list(value)
        elif isinstance(value, bool | int | float) or name == "labels":
            selection[name] = value
    digest = hashlib.blake2b(digest_size=32)
    for new in chosen:
        digest.update(new.name.encode() + b"\0" + new.ids.astype("<i8").tobytes())
    return {
        "fingerprint": dataset.manifest.fingerprint,
        "selection": selection,
        "samples": f"blake2b:{digest.hexdigest()}",
    }


def _recipe(
    dataset: Dataset,
    chosen: Sequence[Chosen],
    options: PackOptions,
    sizes: dict[str, int],
    subset: Subset,
) -> Recipe:
    manifest = dataset.manifest
    shard_size = stated_shard_size({new.name: len(new.keys) for new in chosen}, sizes)
    layout = options.layout(manifest.image_shape, shard_size)
    present = np.unique(np.concatenate([new.labels for new in chosen]))
    classes = manifest.classes
    if subset.labels == "contiguous":
        classes = tuple(classes[label] for label in present.tolist())
    elif len(present) < len(classes):
        layout = replace(layout, classes=classes)
    num_samples = sum(len(new.keys) for new in chosen)
    size = sum(shard.size for split in manifest.splits for shard in split.shards)
    return Recipe(
        source=str(dataset.store),
        listing=list_shards(manifest),
        classes=classes,
        options=options.as_json(shard_size) | {"parent": _parent(dataset, chosen, subset)},
        layout=layout,
        shards=lambda: _shards(dataset, chosen, options, sizes),
        num_samples=num_samples,
        needed_bytes=size * num_samples // manifest.num_samples // 4,
        input_options={"shard_sizes": sizes},
    )


def _shards(
    dataset: Dataset, chosen: Sequence[Chosen], options: PackOptions, sizes: dict[str, int]
) -> Iterator[tuple[str, str, ShardInput]]:
    shape = dataset.manifest.image_shape if ENCODINGS[options.encoding].has_blocks else None
    make_input = partial(PackedInput, dataset.store, dataset.manifest.classes, shape)
    for new in chosen:
        order = packing_order(new.keys, options.seed)
        for name, cut in cut_into_shards(new.name, len(order), sizes[new.name]):
            rows = order[cut]
            used, position = np.unique(new.shard[rows], return_inverse=True)
            shards = tuple(new.shards[number] for number in used.tolist())
            num_classes = len(np.unique(new.labels[rows]))
            yield (
                new.name,
                name,
                make_input(new.name, shards, position, new.row[rows], num_classes, True),
            )


@checked
def select_tree(
    path: StoreLike,
    out: str | os.PathLike[str],
    *,
    splits: str | Sequence[str] = (),
    subset: Subset | None = None,
    symlink_to: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Unpacked:
    """Write part of a dataset as ``out/<split>/<class>/<stem>.png``; see ``select`` and ``unpack``.

    Args:
        path: the dataset's folder, URL or open store.
        out: folder of the tree. Existing files are kept if they are the same.
        splits: as in ``select``.
        subset: as in ``select``.
        symlink_to: folder of the dataset's complete tree. Instead of files, make symbolic links to
            the files of that tree; their content is not read.
        workers: number of processes; by default the cores that this process may use.
        progress: see ``jobs.Progress``.
        warn: called with each warning, as a text.

    Returns:
        The numbers of files or links that were made and kept.

    Raises:
        OptionError, StoreError, FormatError: as ``select``.
        OutputError: a file cannot be written, or exists with different content; or a file to link
            to is missing.

    Example:
        >>> from cinic_shards.write.select import select_tree
        >>> select_tree("shards", "cats", splits="train", subset=Subset(classes=["cat"]))
        Unpacked(num_written=9, num_kept=0)
    """
    workers = number_of_workers(workers)
    dataset, out = Dataset(path), local_path(out)
    chosen = choose(dataset, splits, subset or Subset(), warn)
    if symlink_to is not None:
        return _link(local_path(symlink_to), out, chosen, progress)
    jobs = [
        UnpackJob(
            store=dataset.store,
            out=out,
            split=split,
            info=shard,
            num_classes=len(dataset.manifest.classes),
            rows=new.row[new.shard == number],
            new_split=new.name,
        )
        for new in chosen
        for number, (split, shard) in enumerate(new.shards)
    ]
    return unpack_jobs(dataset.store, out, jobs, workers=workers, progress=progress)


def _link(tree: Path, out: Path, chosen: Sequence[Chosen], progress: Progress) -> Unpacked:
    root = os.path.realpath(tree)
    targets = {
        key: next((f"{root}/{old}{suffix}" for suffix in PNG_SUFFIXES
                   if os.path.isfile(f"{root}/{old}{suffix}")), old)
        for new in chosen
        for key, old in zip(new.keys, new.old_keys, strict=True)
    }  # fmt: skip
    if missing := [old for old in targets.values() if not os.path.isabs(old)]:
        raise _problems(f"{tree}: has no file for", missing, "unpack the dataset there first")
    num_made = num_kept = 0
    different = []
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
                different.append(f"{key}.png")
        except OSError as error:
            raise OutputError(f"{link}: {reason_of(error)}") from error
        if (num_made + num_kept) % 1000 == 0:
            progress("link", num_made + num_kept, len(targets))
    if different:
        raise _problems(f"{out}: holds different files for", different, "move them")
    try:
        sync_disk(out)
    except OSError as error:
        raise OutputError(f"{out}: {reason_of(error)}") from error
    return Unpacked(num_made, num_kept)


def _problems(problem: str, names: list[str], hint: str) -> OutputError:
    return OutputError(f"{problem} {len(names):,} images: {few(names)}; {hint}")
