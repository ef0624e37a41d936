"""Write PNGs as files of a tree or members of one tar, in a work folder.

A tree gets its final name when it is complete.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.cinic.build_folder import BuildFolder
from cinic_shards.cinic.cifar10 import CLASSES
from cinic_shards.cinic.draw import SPLITS
from cinic_shards.cinic.photos import read_photos, shrink_photo
from cinic_shards.codec import encode_png
from cinic_shards.errors import INPUT_ERRORS, OutputError, reason_of, with_notes
from cinic_shards.jobs import open_executor, run_jobs
from cinic_shards.jobs.stop import check_stop
from cinic_shards.store import LocalStore

FILE_BYTES = 4096
"""Space of a 32x32 PNG on most disks: a block. In a tar it takes less."""


@dataclass(frozen=True, slots=True)
class PixelsJob:
    """Images to be written as they are."""

    root: str | None
    """The folder of the tree; None to make members of a tar."""
    images: NDArray[np.uint8]
    """uint8, shape (N, 32, 32, 3)."""
    rows: tuple[int, ...]
    """Positions of the images to write."""
    keys: tuple[str, ...]
    """Their keys, ``split/class/stem``."""


@dataclass(frozen=True, slots=True)
class PhotosJob:
    """Photos of one synset's tar, to be decoded, shrunk and written."""

    root: str | None
    """The folder of the tree; None to make members of a tar."""
    path: str
    """The synset's tar."""
    offsets: NDArray[np.int64]
    """Each photo's byte offset in the tar, shape (N,)."""
    sizes: NDArray[np.int64]
    """Each photo's size in bytes, shape (N,)."""
    keys: tuple[str, ...]
    """Each photo's key, ``split/class/stem``."""


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a job."""

    keys: tuple[str, ...]
    """The job's keys."""
    failed: dict[str, str] = field(default_factory=dict)
    """Key -> why the image could not be written; all others were written."""
    notes: dict[str, str] = field(default_factory=dict)
    """Key -> a remark on a written image, such as its photo's format."""
    members: list[bytes] = field(default_factory=list)
    """Members for the tar; cleared when they are written, or all would stay in memory."""

    def put(self, root: str | None, key: str, pixels: NDArray[np.uint8]) -> None:
        """Write one image: a file of the tree, or a member of the tar.

        Args:
            root: the folder of the tree, or None.
            key: ``split/class/stem``.
            pixels: uint8, shape (32, 32, 3).
        """
        png = encode_png(pixels)
        if root is None:
            self.members.append(fmt.one_member(f"{key}.png", png))
            return
        # Buffered: a plain write may write only a part of the bytes, without an error.
        with open(f"{root}/{key}.png", "wb") as file:
            file.write(png)


J = TypeVar("J", PixelsJob, PhotosJob)


def write_pixels(job: PixelsJob) -> Written:
    """Write images. Runs in any process."""
    written = Written(job.keys)
    for row, key in zip(job.rows, job.keys, strict=True):
        check_stop()
        written.put(job.root, key, job.images[row])
    return written


def write_photos(job: PhotosJob) -> Written:
    """Decode, shrink and write photos. Runs in any process.

    Raises:
        StoreError: the tar cannot be read.
    """
    written = Written(job.keys)
    for key, data in zip(job.keys, read_photos(job.path, job.offsets, job.sizes), strict=True):
        check_stop()
        pixels, note = shrink_photo(data)
        if pixels is None:
            written.failed[key] = note
            continue
        written.put(job.root, key, pixels)
        if note:
            written.notes[key] = note
    return written


class ImageSink:
    """The output for images: files of a tree, or members of one tar."""

    def __init__(self, work: BuildFolder, executor: Executor, *, is_tree: bool) -> None:
        self._work = work
        self._executor = executor
        self.root = str(work.tree) if is_tree else None
        """The folder of the tree; None for a tar."""

    def begin(self, build: dict[str, Any]) -> None:
        """Start a build, or resume it; see ``BuildFolder.begin``."""
        self._work.begin(build | {"is_tree": self.root is not None})
        if self.root is not None:
            for split in SPLITS:
                for name in CLASSES:
                    (self._work.tree / split / name).mkdir(parents=True, exist_ok=True)
            return
        self._work.tar.parent.mkdir(exist_ok=True)
        with open(self._work.tar, "ab") as file:
            file.truncate(max((line["size"] for line in self._work.finished.values()), default=0))

    def run(
        self, function: Callable[[J], Written], jobs: Sequence[J], done: Callable[[Written], None]
    ) -> list[Written]:
        """Run jobs that write images, but those that an earlier process finished.

        Args:
            function: ``write_pixels`` or ``write_photos``.
            jobs: its jobs.
            done: called with each result.

        Returns:
            The results, in the order of the jobs.
        """
        results: dict[str, Written] = {}
        left: list[J] = []
        for job in jobs:
            line = self._work.finished.get(_job_id(job.keys))
            if line is None or not self._holds(set(job.keys).difference(line["failed"])):
                left.append(job)
                continue
            results[line["id"]] = Written(job.keys, line["failed"], line["notes"])
            done(results[line["id"]])
        if self.root is not None:
            self._work.note_names(key for job in left for key in job.keys)

        def written(result: Written) -> None:
            size = 0
            if self.root is None:
                with open(self._work.tar, "ab") as file:
                    file.writelines(result.members)
                    size = file.tell()
                    file.flush()
                    os.fsync(file.fileno())  # a power cut leaves no note of images that are lost
                result.members.clear()
            number = _job_id(result.keys)
            self._work.note_finished(
                {"id": number, "failed": result.failed, "notes": result.notes, "size": size}
            )
            results[number] = result
            done(result)

        run_jobs(self._executor, function, left, done=written)
        return [results[_job_id(job.keys)] for job in jobs]

    def _holds(self, keys: Iterable[str]) -> bool:
        """Return True if the tree has these images: after a power cut, files are missing or empty.

        Syncing each file would take longer than building it. The tar is synced.
        """
        if self.root is None:
            return True
        paths = (f"{self.root}/{key}.png" for key in keys)
        return all(os.path.exists(path) and os.path.getsize(path) for path in paths)

    def finish(self) -> None:
        """Write the end of the tar.

        The file's modification time is always 1970: packing keeps the shards of an interrupted run
        only if the tar has the same size and time.
        """
        if self.root is None:
            with open(self._work.tar, "ab") as file:
                file.write(fmt.TAR_END)
            os.utime(self._work.tar, (0, 0))
        self._work.is_built = True


def _job_id(keys: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]


@contextmanager
def open_build(
    work: Path, workers: int | None, out: str, more: str = ""
) -> Iterator[tuple[BuildFolder, Executor]]:
    """Open a work folder and start worker processes; both end with the context.

    The folder is kept if an error ends the context and the same build can resume.

    Args:
        work: the folder.
        workers: see ``jobs.open_executor``.
        out: the output's location, for messages.
        more: what else to remove to start over, for the message.

    Raises:
        OutputError: the folder cannot be made or written, another process is using it, it holds
            other files, or a worker process died.
    """
    is_complete = False
    try:
        with (
            open_executor(None, workers) as executor,
            LocalStore(work).undone_on_error(),
            BuildFolder(work) as folder,
        ):
            try:
                yield folder, executor
            except BaseException as error:
                is_complete = folder.is_complete
                _keep_or_remove(folder, error, f"{work}{more}")
                raise
            is_complete = True
            folder.remove()
    except BrokenExecutor as error:
        raise with_notes(
            OutputError(
                f"{work}: building did not finish because a worker process died: it was killed, or "
                "memory ran out (try fewer workers), or your program calls this outside "
                "'if __name__ == \"__main__\":'"
            ),
            error,
        ) from error
    except OSError as error:
        hint = "; free some space or build elsewhere" if error.errno == errno.ENOSPC else ""
        raise with_notes(
            OutputError(f"{error.filename or work}: {reason_of(error)}{hint}"), error
        ) from error
    except BaseException as error:
        if is_complete and not isinstance(error, Exception):
            left = f"; remove {work}, which is not needed any more" if work.exists() else ""
            error.add_note(f"{out} is complete{left}")
        raise


def _keep_or_remove(folder: BuildFolder, error: BaseException, names: str) -> None:
    """Remove the folder of a build that failed, unless something can resume from it."""
    is_input = isinstance(error, INPUT_ERRORS)
    if folder.is_complete or (folder.has_earlier and not folder.has_begun):
        return  # or nothing has changed
    if folder.is_built and is_input:
        error.add_note(
            "the images are kept; run the command again with different packing options, or remove "
            f"{names} to start over"
        )
    elif is_input or not folder.finished:
        folder.remove()
    else:
        error.add_note(
            "building did not finish; run the same command again to resume, or remove "
            f"{names} to start over"
        )


def check_space(folder: Path, needed: int) -> None:
    """Check, before anything is written, that the disk has enough space.

    Args:
        folder: the output's folder; it need not exist yet.
        needed: about how many bytes the output takes.

    Raises:
        OutputError: less than that is free.
    """
    existing = next(one for one in (folder, *folder.parents) if one.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OutputError(
            f"{existing}: {free / 1e6:,.0f} MB free, about {needed / 1e6:,.0f} MB needed; free "
            "some space or build elsewhere"
        )
