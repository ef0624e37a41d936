"""Pack a tree of PNGs, or an archive of one, into a dataset of shards."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec import DEFAULT_ENCODING, ENCODINGS, find_encoding
from cinic_shards.errors import FormatError, OptionError
from cinic_shards.format import Manifest
from cinic_shards.jobs import Progress, Tally
from cinic_shards.options import checked, temporary_folder
from cinic_shards.store import Store, StoreLike, open_store
from cinic_shards.tree import Source, find_source
from cinic_shards.tree.listing import list_tree
from cinic_shards.tree.records import Tree, read_image_shape
from cinic_shards.write.cut import choose_shard_sizes, cut_into_shards, stated_shard_size
from cinic_shards.write.dataset import Recipe, check_output, write_dataset
from cinic_shards.write.facts import packing_digests
from cinic_shards.write.samples.base import ShardInput
from cinic_shards.write.samples.files import FileInput
from cinic_shards.write.shard import ShardLayout

SIDECARS = ("cls", "json")


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """The options that, with the tree, determine the bytes of a packed dataset.

    Raises:
        OptionError: a value is invalid, or the encoding cannot have these sidecars.

    Example:
        >>> from cinic_shards.write.pack import PackOptions
        >>> manifest = pack("cinic", "fast", PackOptions(encoding="raw", shards=2))
        >>> [shard.name for shard in manifest.split("train").shards]
        ['train-00000-of-00002.tar', 'train-00001-of-00002.tar']
    """

    encoding: str = DEFAULT_ENCODING
    """``png``: the unchanged files; ``zstd``: compressed blocks of pixels, the smallest; ``raw``:
    blocks of plain pixels, the fastest."""
    shard_size: int | None = None
    """Samples per shard; the last shard of a split may have fewer. By default, a shard has up to 10
    blocks, and a split at least 8 shards (one for each block if it has fewer)."""
    shards: int | None = None
    """Number of shards in each split, of equal size, instead of ``shard_size``."""
    block_size: int = fmt.BLOCK_SIZE
    """Samples per block: samples that are decoded together. A shuffled batch mixes many blocks."""
    seed: int = 0
    """Seed of the packing order, 0 to 2**53 - 1."""
    sidecars: tuple[str, ...] | None = None
    """Members beside each PNG: ``cls`` (the label; the default), ``json`` (label and provenance),
    both or none. Blocks have none: their labels are a separate member."""

    def __post_init__(self) -> None:
        encoding = find_encoding(self.encoding)
        if not 1 <= self.block_size <= fmt.MAX_BLOCK_SIZE:
            raise OptionError(
                f"block size {self.block_size}: expected 1 to {fmt.MAX_BLOCK_SIZE:,} samples"
            )
        if self.shard_size is not None and self.shards is not None:
            raise OptionError(
                f"shard size {self.shard_size} and shards {self.shards}: give one of them"
            )
        if self.shard_size is not None and not 1 <= self.shard_size <= fmt.MAX_INTEGER:
            raise OptionError(
                f"shard size {self.shard_size}: expected at least 1 sample, at most 2**53 - 1"
            )
        if self.shards is not None and self.shards < 1:
            raise OptionError(f"shards {self.shards}: expected at least 1")
        if not 0 <= self.seed <= fmt.MAX_INTEGER:
            raise OptionError(f"seed {self.seed}: expected a number from 0 to 2**53 - 1")
        sidecars = encoding.default_sidecars if self.sidecars is None else self.sidecars
        if unknown := set(sidecars) - set(SIDECARS):
            raise OptionError(
                f"sidecars {', '.join(sorted(unknown))}: expected any of {', '.join(SIDECARS)}"
            )
        if impossible := [name for name in sidecars if name not in encoding.sidecars]:
            able = [encoding.name for encoding in ENCODINGS.values() if encoding.sidecars]
            raise OptionError(
                f"sidecars {', '.join(impossible)}: only the encoding {', '.join(able)} has a "
                "member for each sample; leave them out"
            )
        # In a fixed order, so that the order in the option does not change the bytes.
        in_order = tuple(name for name in SIDECARS if name in sidecars)
        object.__setattr__(self, "sidecars", in_order)

    @property
    def has_default_cut(self) -> bool:
        """True if neither ``shard_size`` nor ``shards`` is given."""
        return self.shard_size is None and self.shards is None

    def shard_sizes(self, num_samples: Mapping[str, int]) -> dict[str, int]:
        """Return the number of samples in each shard of every split; the last may have fewer.

        Args:
            num_samples: samples in each split.

        Raises:
            OptionError: a split cannot be cut into that many shards.
        """
        return choose_shard_sizes(
            num_samples, self.block_size, shard_size=self.shard_size, shards=self.shards
        )

    def as_json(self, shard_size: int) -> dict[str, Any]:
        """Return the options as the manifest states them; see ``cut.stated_shard_size``."""
        return {
            "seed": self.seed,
            "shard_size": shard_size,
            "sidecars": list(self.sidecars or ()),
        }

    def layout(self, image_shape: tuple[int, int, int] | None, shard_size: int) -> ShardLayout:
        """Return the layout of the shards.

        Args:
            image_shape: (H, W, 3) of every image; may be None if the encoding has no blocks.
            shard_size: samples in the largest shard.

        Raises:
            OptionError: a block would be too large.
        """
        encoding = ENCODINGS[self.encoding]
        if encoding.has_blocks and image_shape is not None:
            try:
                fmt.check_block_bytes(min(self.block_size, shard_size), image_shape, "block size")
            except FormatError as error:
                raise OptionError(f"{error}; choose a smaller --block-size") from error
        return ShardLayout(
            encoding=encoding,
            block_size=self.block_size,
            image_shape=image_shape if encoding.has_blocks else None,
            sidecars=self.sidecars or (),
        )


@checked
def pack(
    root: str | os.PathLike[str] | Source,
    out: StoreLike,
    options: PackOptions | None = None,
    *,
    split_name: str | None = None,
    workers: int | None = None,
    executor: Executor | str | None = None,
    overwrite: bool = False,
    progress: Progress = lambda doing, done, total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Manifest:
    """Pack the PNG tree at ``root`` into shards and a manifest in ``out``.

    The same tree and options give the same bytes for any number of workers; so does an archive of
    the tree.

    Args:
        root: a folder with ``<split>/<class>/*.png``; or a zip or a tar of one (plain, gzip, xz,
            bzip2 or zstd), or a zip of only such an archive; or any ``tree.Source``. An archive is
            not unpacked to files: if its images are compressed, they are written to one temporary
            file, in ``out`` or, if that is not a folder, in ``TMPDIR``. Hidden files, folders that
            systems make, such as ``__MACOSX``, and files that are not images are left out, with a
            warning.
        out: a folder, a URL or an open store; empty, or not existing yet.
        options: see ``PackOptions``.
        split_name: the split of all images if ``root`` holds ``<class>/*.png``, without folders of
            splits. The dataset is the same as that of a folder ``<split_name>/<class>/*.png``.
        workers: number of processes; by default the cores that this process may use. With more
            than one, call under ``if __name__ == "__main__":``, as for any spawned process.
        executor: runs the jobs instead; see ``jobs.open_executor``. Workers on other machines need
            ``root``, ``out`` and the temporary file of a compressed archive under the same paths,
            and the same releases of the libraries.
        overwrite: replace the dataset in ``out`` (the files that its manifest names).
        progress: see ``jobs.Progress``.
        warn: called with each warning, as a text.

    Returns:
        The manifest, as written.

    Raises:
        OptionError: an option is invalid.
        TreeError: the tree cannot be packed; lists every problem. Nothing is left in ``out``.
        OutputError: ``out`` cannot be written, or holds other files.

    Example:
        >>> manifest = pack("cinic", "new-shards")
        >>> manifest.num_samples, [split.name for split in manifest.splits]
        (270, ['test', 'train', 'valid'])
    """
    options = options or PackOptions()
    source, store = find_source(root, split_name), open_store(out)
    inside = os.path.realpath(source.root)
    if store.is_local and Path(os.path.realpath(str(store))).is_relative_to(inside):
        raise OptionError(f"{store}: is inside the tree {source.root}; write the shards elsewhere")
    check_output(store, overwrite)

    @contextmanager
    def open_recipe(folder: Store, pool: Executor) -> Iterator[Recipe]:
        # Next to the shards: their disk has room for files of this size, and workers on other
        # machines can read it.
        spool_folder = str(folder) if folder.is_local else temporary_folder()
        with source.open(
            executor=pool, spool_folder=Path(spool_folder), progress=Tally(progress, "scan").add
        ) as tree:
            for warning in tree.warnings:
                warn(warning)
            yield _recipe(tree, options, split_name)

    return write_dataset(
        store,
        open_recipe,
        overwrite=overwrite,
        executor=executor,
        workers=workers,
        doing="pack",
        progress=progress,
        warn=warn,
    )


def _recipe(tree: Tree, options: PackOptions, split_name: str | None) -> Recipe:
    has_blocks = ENCODINGS[options.encoding].has_blocks
    num_samples = {split: len(records) for split, records in tree.splits.items()}
    sizes = options.shard_sizes(num_samples)
    shard_size = stated_shard_size(num_samples, sizes)
    layout = options.layout(read_image_shape(tree) if has_blocks else None, shard_size)
    input_options: dict[str, Any] = {"shard_sizes": sizes}
    if split_name is not None:
        input_options["split_name"] = split_name
    return Recipe(
        source=str(tree.root),
        listing=list_tree(tree),
        classes=tree.classes,
        options=options.as_json(shard_size),
        layout=layout,
        shards=lambda: _shards(tree, options.seed, sizes),
        num_samples=len(tree),
        needed_bytes=_needed_bytes(tree, layout),
        changes=tree.changes,
        input_options=input_options,
    )


def _shards(
    tree: Tree, seed: int, sizes: Mapping[str, int]
) -> Iterator[tuple[str, str, ShardInput]]:
    for split, records in tree.splits.items():
        order = packing_order(records.keys, seed)
        for name, rows in cut_into_shards(split, len(order), sizes[split]):
            yield split, name, FileInput(records.take(order[rows]))


def packing_order(keys: list[str], seed: int) -> NDArray[np.int64]:
    """Return the rows of these keys sorted by their ``packing_digests``, int64 (N,)."""
    digests = packing_digests(keys, seed)
    halves = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2)
    return np.lexsort((halves[:, 1], halves[:, 0]))


def _needed_bytes(tree: Tree, layout: ShardLayout) -> int:
    """Estimate the size of the shards, never too high."""
    index = 128 * len(tree)
    if layout.encoding.has_blocks:
        return index + len(tree) * layout.encoding.least_bytes(layout.image_shape or ())
    blocks = sum(
        int((-(-records.sizes // fmt.TAR_BLOCK)).sum()) + len(records)
        for records in tree.splits.values()
    )
    return index + (blocks + 2 * len(layout.sidecars) * len(tree)) * fmt.TAR_BLOCK
