"""A dataset -> the same samples in another encoding, shard by shard, without the tree."""

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
from cinic_shards.read.open import read_manifest
from cinic_shards.store import Store, StoreLike, open_store
from cinic_shards.tree.listing import Listing
from cinic_shards.write.dataset import (
    Recipe,
    check_output,
    refuse_itself,
    write_dataset,
)
from cinic_shards.write.pack import PackOptions
from cinic_shards.write.samples.base import ShardInput
from cinic_shards.write.samples.packed import PackedInput
from cinic_shards.write.shard import ShardLayout


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
    """Write the dataset at ``path`` anew in another encoding, to ``out``.

    Samples, order, ids and fingerprint stay; every image is checked on the way. The bytes are those
    that packing the tree would give, but for PNGs made from blocks: these are encoded anew.

    Args:
        path: where the dataset lies; a folder, a URL or an open store.
        out: a folder, a URL or an open store; empty, or not there yet.
        encoding: see ``PackOptions``.
        block_size: samples a block; by default as it is.
        sidecars: see ``PackOptions``.
        workers: processes; by default the cores that this process may use.
        executor: where to convert instead; see ``pack``.
        overwrite: replace the dataset that ``out`` holds.
        progress: see ``jobs.Progress``.
        warn: called with each thing that a user should know.

    Raises:
        OptionError: an option cannot be, or the encoding holds one image size and there are more.
        StoreError, FormatError, TreeError: the dataset cannot be read, or is damaged.
        OutputError: ``out`` cannot be written, or holds other files.
    """
    store, target = open_store(path), open_store(out)
    refuse_itself(store, target)
    manifest = read_manifest(store)
    if not manifest.splits:
        raise OptionError(f"{path}: holds no sample")
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
            f"{path}: its images have several sizes, a block of the encoding {encoding} holds one"
        )
    if not has_blocks and ENCODINGS[manifest.encoding].has_blocks:
        warn("the PNGs are encoded anew: their pixels are the same, their bytes are not those of "
             "the files that were packed")  # fmt: skip
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
                samples = make_input(split.name, shards, np.zeros_like(rows), rows, False)
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
    """The shards as if they were files of a tree; a digest stands for a date."""
    listing: Listing = {}
    for split in manifest.splits:
        paths = "\n".join(shard.name for shard in split.shards)
        digests = b"".join(bytes.fromhex(shard.sha256)[:8] for shard in split.shards)
        listing[f"{split.name}:paths"] = np.frombuffer(paths.encode(), np.uint8)
        listing[f"{split.name}:sizes"] = np.array([shard.size for shard in split.shards])
        listing[f"{split.name}:modified"] = np.frombuffer(digests, "<i8")
    return listing
