"""Convert a dataset to a different encoding, without the tree."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from cinic_shards.codec import ENCODINGS, find_encoding
from cinic_shards.errors import OptionError
from cinic_shards.format import Manifest
from cinic_shards.jobs import Progress
from cinic_shards.options import checked
from cinic_shards.read.open import read_manifest
from cinic_shards.store import Store, StoreLike, open_store
from cinic_shards.tree.listing import Listing
from cinic_shards.write.cut import cut_into_shards, keeps_shards, stated_shard_size
from cinic_shards.write.dataset import (
    Recipe,
    check_output,
    reject_itself,
    write_dataset,
)
from cinic_shards.write.pack import PackOptions
from cinic_shards.write.samples.base import ShardInput
from cinic_shards.write.samples.packed import PackedInput
from cinic_shards.write.shard import ShardLayout


@checked
def convert(
    path: StoreLike,
    out: StoreLike,
    *,
    encoding: str,
    shard_size: int | None = None,
    shards: int | None = None,
    block_size: int | None = None,
    sidecars: tuple[str, ...] | None = None,
    workers: int | None = None,
    executor: Executor | str | None = None,
    overwrite: bool = False,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Manifest:
    """Write the dataset at ``path`` to ``out`` in a different encoding.

    Samples, order, ids and fingerprint stay the same, and every image is checked. The output is
    identical to packing the tree, except that PNGs made from blocks are re-encoded.

    Args:
        path: the dataset's folder, URL or open store.
        out: a folder, a URL or an open store; empty, or not existing yet.
        encoding: see ``PackOptions``.
        shard_size: see ``PackOptions``; by default the shards keep their samples, unless
            ``block_size`` is given.
        shards: see ``PackOptions``.
        block_size: samples per block; by default that of the dataset.
        sidecars: see ``PackOptions``.
        workers: number of processes; by default the cores that this process may use.
        executor: runs the jobs instead; see ``pack``.
        overwrite: replace the dataset in ``out``.
        progress: see ``jobs.Progress``.
        warn: called with each warning, as a text.

    Returns:
        The new manifest, as written.

    Raises:
        OptionError: an option is invalid, or the encoding has blocks and images have several sizes.
        StoreError, FormatError, TreeError: the dataset cannot be read, or is damaged.
        OutputError: ``out`` cannot be written, or holds other files.

    Example:
        >>> manifest = convert("shards", "small", encoding="zstd")
        >>> manifest.fingerprint == Dataset("shards").manifest.fingerprint
        True
    """
    store, target = open_store(path), open_store(out)
    reject_itself(store, target)
    manifest = read_manifest(store)
    if not manifest.splits:
        raise OptionError(f"{store}: the dataset holds no samples, expected at least one")
    options = PackOptions(
        encoding=encoding,
        shard_size=shard_size,
        shards=shards,
        block_size=manifest.block_size if block_size is None else block_size,
        sidecars=sidecars,
    )
    has_blocks = find_encoding(encoding).has_blocks
    if has_blocks and manifest.image_shape is None:
        raise OptionError(
            f"{store}: its images have several sizes, blocks of the encoding {encoding} hold one; "
            "choose --encoding png"
        )
    if not has_blocks and ENCODINGS[manifest.encoding].has_blocks:
        warn("the PNGs are re-encoded: their pixels are the same, but their bytes differ from "
             "those of the packed files")  # fmt: skip
    sizes = None
    if not options.has_default_cut or block_size is not None:
        sizes = options.shard_sizes({split.name: split.num_samples for split in manifest.splits})
    recipe = _recipe(store, manifest, options, sizes)
    check_output(target, overwrite)
    if not store.is_local and not all(
        keeps_shards(split, sizes[split.name]) for split in manifest.splits if sizes
    ):
        warn(
            f"{target}: shards of new sizes are made, for which those of {store} may be fetched "
            "several times; copying the dataset to a disk first may be faster"
        )
    return write_dataset(
        target,
        lambda folder, pool: nullcontext(recipe),
        overwrite=overwrite,
        executor=executor,
        workers=workers,
        doing="convert",
        progress=progress,
        warn=warn,
    )


def _recipe(
    store: Store, manifest: Manifest, options: PackOptions, sizes: Mapping[str, int] | None
) -> Recipe:
    shards = [shard for split in manifest.splits for shard in split.shards]
    shard_size = max(shard.num_samples for shard in shards)
    changed: dict[str, Any] = {"sidecars": list(options.sidecars or ())}
    if sizes is not None:
        num_samples = {split.name: split.num_samples for split in manifest.splits}
        shard_size = changed["shard_size"] = stated_shard_size(num_samples, sizes)
    layout = options.layout(manifest.image_shape, shard_size)
    layout = replace(layout, classes=manifest.stated_classes)
    return Recipe(
        source=str(store),
        listing=list_shards(manifest),
        classes=manifest.classes,
        options=manifest.options | changed,
        layout=layout,
        shards=lambda: _inputs(store, manifest, layout, sizes),
        num_samples=manifest.num_samples,
        needed_bytes=sum(shard.size for shard in shards) // 4,
        input_options={} if sizes is None else {"shard_sizes": dict(sizes)},
    )


def _inputs(
    store: Store, manifest: Manifest, layout: ShardLayout, sizes: Mapping[str, int] | None
) -> Iterator[tuple[str, str, ShardInput]]:
    make_input = partial(PackedInput, store, manifest.classes, layout.image_shape)
    for split in manifest.splits:
        if sizes is None or keeps_shards(split, sizes[split.name]):
            for shard in split.shards:
                rows = np.arange(shard.num_samples)
                samples = make_input(
                    split.name, ((split.name, shard),), np.zeros_like(rows), rows,
                    len(shard.classes), False,
                )  # fmt: skip
                yield split.name, shard.name, samples
            continue
        counts = np.array([shard.num_samples for shard in split.shards])
        stops = np.cumsum(counts)
        for name, cut in cut_into_shards(split.name, split.num_samples, sizes[split.name]):
            rows = np.arange(cut.start, cut.stop)
            number = np.searchsorted(stops, rows, side="right")
            used, position = np.unique(number, return_inverse=True)
            shards = tuple((split.name, split.shards[old]) for old in used.tolist())
            # The shard has at least one class; only the indexes show which.
            samples = make_input(
                split.name, shards, position, rows - (stops - counts)[number], 1, False
            )
            yield split.name, name, samples


def list_shards(manifest: Manifest) -> Listing:
    """List shards as if they were files of a tree; part of the SHA-256 takes the date's place."""
    listing: Listing = {}
    for split in manifest.splits:
        paths = "\n".join(shard.name for shard in split.shards)
        digests = b"".join(bytes.fromhex(shard.sha256)[:8] for shard in split.shards)
        listing[f"{split.name}:paths"] = np.frombuffer(paths.encode(), np.uint8)
        listing[f"{split.name}:sizes"] = np.array([shard.size for shard in split.shards])
        listing[f"{split.name}:modified"] = np.frombuffer(digests, "<i8")
    return listing
