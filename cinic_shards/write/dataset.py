"""Write the shards and the manifest of a dataset.

They are written to a separate folder and moved once all of them are complete, the manifest last. So
an older dataset stays until the new one is complete. A journal in that folder lets the same command
resume after this process is killed.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import cinic_shards.format as fmt
from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import (
    INPUT_ERRORS,
    OptionError,
    OutputError,
    TreeError,
    few,
    reason_of,
    with_notes,
)
from cinic_shards.format import Manifest
from cinic_shards.jobs import Progress, Tally, can_stop, open_executor, run_jobs
from cinic_shards.read.open import is_packing
from cinic_shards.store import Store
from cinic_shards.tree.listing import Listing
from cinic_shards.write.facts import (
    ShardFacts,
    check_manifest_size,
    libraries,
    make_manifest,
    write_manifest,
)
from cinic_shards.write.journal import FinishedShard, Journal, reopen_shard
from cinic_shards.write.samples.base import ShardInput
from cinic_shards.write.shard import PackedShard, ShardJob, ShardLayout, write_shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The input of a dataset, and how to write it."""

    source: str
    """The input's location, for messages."""
    listing: Listing
    """The input's files, sizes and dates."""
    classes: tuple[str, ...]
    """Class names, in the order of their labels."""
    options: dict[str, Any]
    """The options that the manifest states."""
    layout: ShardLayout
    shards: Callable[[], Iterator[tuple[str, str, ShardInput]]]
    """Yields split, name and samples of each shard, in dataset order."""
    num_samples: int
    needed_bytes: int
    """Low estimate of the size of all shards, to check the free disk space in advance."""
    changes: Callable[[], Sequence[str]] = lambda: ()
    """Returns the changes to the input since it was listed, one text per change."""
    input_options: dict[str, Any] = field(default_factory=dict)
    """Options that only the journal states: how the input is read, the shard size of each split."""


OpenRecipe = Callable[[Store, Executor], AbstractContextManager[Recipe]]
"""Opens a recipe; gets the journal's folder, locked by this process, and the workers."""


def old_files(store: Store, overwrite: bool) -> list[str]:
    """Return the shards of the dataset that will be replaced; empty if the output is empty.

    Raises:
        OutputError: the output holds other files, or a dataset and ``overwrite`` is False.
        FormatError: the old manifest is damaged.
    """
    names = [name for name in store.names() if name != fmt.PACKING_FOLDER]
    if not names:
        return []
    if fmt.MANIFEST_NAME not in names:
        raise OutputError(
            f"{store}: holds {names[0]} and {len(names) - 1} more, but no dataset; "
            "give an empty folder, or remove them"
        )
    if not overwrite:
        raise OutputError(f"{store}: already holds a dataset; --overwrite replaces it")
    manifest = Manifest.from_bytes(
        store.read(fmt.MANIFEST_NAME), location=f"{store}/{fmt.MANIFEST_NAME}", encodings=ENCODINGS
    )
    old = [shard.name for split in manifest.splits for shard in split.shards]
    if others := sorted(set(names) - set(old) - {fmt.MANIFEST_NAME}):
        raise OutputError(
            f"{store}: holds {others[0]}, which its manifest does not name; "
            "give an empty folder, or remove it"
        )
    for name in old:
        if store.is_folder(name):
            raise OutputError(f"{store}: {name} is a folder, expected a shard; remove it")
    return old


def reject_itself(source: Store, out: Store) -> None:
    """Raise OptionError if a dataset would be written over the one that it is made from."""
    if source.identity == out.identity:
        raise OptionError(f"{out}: is the input dataset; write the shards elsewhere")


def check_output(store: Store, overwrite: bool) -> None:
    """Check that a dataset can be written to a store, before any input is read.

    Raises:
        OptionError: the store is a web server, which is read-only.
        OutputError, FormatError: as ``old_files``.
    """
    if not store.can_list:
        raise OptionError(f"{store}: a web server cannot be written; give a folder or a bucket")
    if not is_packing(store, store.names()):
        old_files(store, overwrite)


def write_dataset(
    store: Store,
    open_recipe: OpenRecipe,
    *,
    overwrite: bool,
    executor: Executor | str | None,
    workers: int | None,
    doing: str,
    progress: Progress,
    warn: Callable[[str], None],
) -> Manifest:
    """Write a dataset, or resume one that an earlier process began.

    Args:
        store: the output.
        open_recipe: opens the input, and closes it at the end.
        overwrite: replace the dataset in ``store``.
        executor: makes the shards; see ``jobs.open_executor``.
        workers: see ``jobs.open_executor``.
        doing: name of this operation in ``progress``.
        progress: see ``jobs.Progress``.
        warn: called with each warning, as a text.

    Returns:
        The manifest, as written.

    Raises:
        OptionError: as ``jobs.open_executor``.
        TreeError: the input cannot be used, or has changed.
        OutputError: the output cannot be written; or a worker died, and the same command resumes.
    """
    is_written = False
    try:
        with open_executor(executor, workers) as pool:
            with store.undone_on_error(), Journal(store) as journal:
                manifest = _write(
                    store, open_recipe, journal, overwrite, pool, doing, progress, warn
                )
            is_written = True
        return manifest
    except BrokenExecutor as error:
        raise with_notes(_worker_died(store), error) from error
    except OSError as error:
        location = error.filename or store
        raise with_notes(OutputError(f"{location}: {reason_of(error)}"), error) from error
    except BaseException as error:
        if is_written and not isinstance(error, Exception):
            error.add_note(f"{store} is complete")
        raise


def _write(
    store: Store,
    open_recipe: OpenRecipe,
    journal: Journal,
    overwrite: bool,
    executor: Executor,
    doing: str,
    progress: Progress,
    warn: Callable[[str], None],
) -> Manifest:
    """Write a dataset with a journal, which is kept only if it holds something to resume from."""
    is_earlier_job = journal.start is not None
    try:
        if journal.old_files is None:  # no earlier process has begun to move files
            old_files(store, overwrite)
        with open_recipe(journal.folder, executor) as recipe:
            options = {
                **recipe.input_options,
                **recipe.options,
                "encoding": recipe.layout.encoding.name,
                "block_size": recipe.layout.block_size,
            }
            journal.begin(recipe.source, recipe.listing, options)
            is_earlier_job = False
            manifest = _make_files(store, recipe, journal, executor, doing, progress, warn)
            _move_files(store, journal, manifest, overwrite)
        if left := journal.remove():
            warn(f"{journal}: holds {few(left)}, which packing did not make; they are left there")
        return manifest
    except BaseException as error:
        if is_earlier_job:
            raise
        if journal.old_files is not None:
            error.add_note("run the same command again to resume")
        elif _can_resume(store, journal, executor, error):
            error.add_note(
                f"finished shards are kept ({journal.num_finished:,}); run the same command again "
                f"to resume, or remove {journal} to start over"
            )
        else:
            journal.remove()
        raise


def _can_resume(store: Store, journal: Journal, executor: Executor, error: BaseException) -> bool:
    """Return True if the same command can resume after this error, and has reason to."""
    if isinstance(error, INPUT_ERRORS):
        return False
    # A request that was sent, or a cluster's job, may still write a file: later, the journal shows
    # whose it is. Nor is the server asked to delete any: it may be what has failed.
    may_write = not (isinstance(error, Exception) or can_stop(executor))
    has_begun = journal.start is not None
    return not store.is_local or (has_begun and (journal.num_finished > 0 or may_write))


def _worker_died(store: Store) -> OutputError:
    """Make the error for a worker process that has died."""
    return OutputError(
        f"{store}: packing did not finish, a worker process died: it was killed (run the same "
        "command again to resume), or memory ran out (try fewer workers), or the program calls "
        "pack() outside 'if __name__ == \"__main__\":'"
    )


def _make_files(
    store: Store,
    recipe: Recipe,
    journal: Journal,
    executor: Executor,
    doing: str,
    progress: Progress,
    warn: Callable[[str], None],
) -> Manifest:
    """Write every shard and the manifest to the journal's folder."""
    by_name = _reopen(store, journal, executor)
    done = sum(facts.info.num_samples for facts in by_name.values())
    _check_space(store, recipe, done)
    tally = Tally(progress, doing, recipe.num_samples, done)
    names: list[str] = []

    def jobs() -> Iterator[ShardJob]:
        made_with = libraries(recipe.layout.encoding)
        least_bytes = 0
        for split, name, samples in recipe.shards():
            names.append(name)
            least_bytes += fmt.least_entry_bytes(name, samples.count_classes(), recipe.classes)
            check_manifest_size(store, least_bytes)
            if name not in by_name:
                yield ShardJob(journal.folder, split, name, recipe.layout, samples, made_with)

    def shard_done(shard: PackedShard) -> None:
        if not shard.problems:
            journal.shard_done(shard.facts)
        tally.add(shard.facts.info.num_samples)

    made = run_jobs(executor, write_shard, jobs(), done=shard_done)
    by_name |= {shard.facts.info.name: shard.facts for shard in made}
    shards = [by_name[name] for name in names]
    problems = sorted(problem for shard in made for problem in shard.problems)
    problems = problems or list(recipe.changes())
    if recipe.layout.encoding.has_blocks:
        problems += _size_problems(shards, recipe.layout.image_shape)
    if problems:
        raise TreeError(recipe.source, problems)
    manifest = make_manifest(
        shards,
        recipe.classes,
        recipe.options,
        encoding=recipe.layout.encoding,
        block_size=recipe.layout.block_size,
    )
    if unknown := sum(shard.info.origins.get("unknown", 0) for shard in shards):
        warn(f"{unknown:,} images do not have names as in CINIC-10; their origin is 'unknown'")
    write_manifest(journal.folder, manifest, store)
    return manifest


def _size_problems(
    shards: Sequence[ShardFacts], image_shape: tuple[int, int, int] | None
) -> Iterator[str]:
    """Yield a problem if images differ in size from the one that blocks were made for."""
    counts: dict[tuple[int, int], int] = {}
    for shard in shards:
        for size, count in shard.image_sizes.items():
            counts[size] = counts.get(size, 0) + count
    if len(counts) > 1:
        by_count = sorted(counts.items(), key=lambda item: -item[1])
        listed = few([f"{height}x{width} ({count:,})" for (height, width), count in by_count])
        yield (
            f"images of {len(counts)} sizes (height x width): {listed}; blocks hold one size: "
            "resize them, or choose --encoding png"
        )
    elif [(*size, 3) for size in counts] != [image_shape]:
        yield f"images of {[*counts]} (height, width), expected {image_shape} for all"


def _reopen(store: Store, journal: Journal, executor: Executor) -> dict[str, ShardFacts]:
    """Return the shards that an earlier process finished and that still match their SHA-256."""
    moved = () if journal.old_files is None else (store,)
    jobs = [FinishedShard((journal.folder, *moved), noted) for noted in journal.shards]
    found = run_jobs(executor, reopen_shard, jobs)
    return {facts.info.name: facts for facts in found if facts is not None}


def _move_files(store: Store, journal: Journal, manifest: Manifest, overwrite: bool) -> None:
    """Replace the old dataset with the new one. This can be repeated after an interruption."""
    names = [shard.name for split in manifest.splits for shard in split.shards]
    old = journal.old_files
    if old is None:
        # Once more: files may have appeared since the job began.
        old = old_files(store, overwrite)
        journal.moving(old)
    # Synced, so that no manifest is beside files of a different dataset, even after a power cut.
    store.delete(fmt.MANIFEST_NAME)
    store.sync()
    kept = set(names)
    for name in old:
        if name not in kept:
            store.delete(name)
    for name in names:
        store.take(journal.folder, name)  # does nothing if the file was moved before
    store.sync()
    store.take(journal.folder, fmt.MANIFEST_NAME)
    store.sync()


def _check_space(store: Store, recipe: Recipe, num_done: int) -> None:
    """Raise OutputError if the remaining shards do not fit on the disk."""
    needed = recipe.needed_bytes * (recipe.num_samples - num_done) // recipe.num_samples
    free = store.free_bytes()
    if free is not None and free < needed:
        raise OutputError(
            f"{store}: {free / 1e6:,.1f} MB free, the shards need about {needed / 1e6:,.1f} MB; "
            "free some space or write elsewhere"
        )
