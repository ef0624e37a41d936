"""Convert a dataset to a different encoding, shard by shard, without the tree."""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np

from cinic_shards.codec import ENCODINGS, find_encoding
from cinic_shards.errors import OptionError
from cinic_shards.format import Manifest
from cinic_shards.jobs import Progress
from cinic_shards.options import checked
from cinic_shards.read.open import read_manifest
from cinic_shards.store import Store, StoreLike, open_store
from cinic_shards.tree.listing import Listing
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
    """
    store, target = open_store(path), open_store(out)
    reject_itself(store, target)
    manifest = read_manifest(store)
    if not manifest.splits:
        raise OptionError(f"{store}: the dataset holds no samples, expected at least one")
    largest = max(shard.num_samples for split in manifest.splits for shard in split.shards)
    options = PackOptions(
        encoding=encoding,
        shard_size=largest,
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
    layout = replace(options.layout(manifest.image_shape), classes=manifest.stated_classes)
    recipe = _recipe(store, manifest, layout)
    check_output(target, overwrite)
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


def _recipe(store: Store, manifest: Manifest, layout: ShardLayout) -> Recipe:
    make_input = partial(PackedInput, store, manifest.classes, layout.image_shape)

    def inputs() -> Iterator[tuple[str, str, ShardInput]]:
        for split in manifest.splits:
            for shard in split.shards:
                rows = np.arange(shard.num_samples)
                shards = ((split.name, shard),)
                samples = make_input(
                    split.name, shards, np.zeros_like(rows), rows, len(shard.classes), False
                )
                yield split.name, shard.name, samples

    shards = [shard for split in manifest.splits for shard in split.shards]
    return Recipe(
        source=str(store),
        listing=list_shards(manifest),
        classes=manifest.classes,
        options=manifest.options | {"sidecars": list(layout.sidecars)},
        layout=layout,
        shards=inputs,
        num_samples=manifest.num_samples,
        needed_bytes=sum(shard.size for shard in shards) // 4,
    )


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
