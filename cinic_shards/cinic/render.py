"""Write both parts of CINIC-10, CIFAR-10's images and ImageNet's photos, as PNGs by workers."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from cinic_shards.cinic.build_options import BuildOptions, Built
from cinic_shards.cinic.cifar10 import Cifar10
from cinic_shards.cinic.draw import SPLITS, PhotoDraw, Pick, Shares, draw_cifar10, split_of_slot
from cinic_shards.cinic.sink import (
    ImageSink,
    PhotosJob,
    PixelsJob,
    Written,
    write_photos,
    write_pixels,
)
from cinic_shards.errors import SourcesError, some
from cinic_shards.jobs import Progress, Tally

_PHOTOS_A_JOB = 64
"""About a third of a second: a killed build loses no more of each worker."""
_PIXELS_A_JOB = 500


def write_cifar10(
    source: Cifar10,
    sink: ImageSink,
    shares: Shares,
    seed: int,
    progress: Progress,
) -> list[str]:
    """Write CIFAR-10's part; return its keys.

    Raises:
        SourcesError: a class has too few images.
    """
    drawn = draw_cifar10(source, shares, seed)
    keys = {(image.cifar_set, image.index): image.key for image in drawn}
    jobs = []
    for cifar_set, one in source.sets.items():
        for start in range(0, len(one), _PIXELS_A_JOB):
            part = one.images[start : start + _PIXELS_A_JOB]
            rows = [row for row in range(len(part)) if (cifar_set, start + row) in keys]
            names = [keys[cifar_set, start + row] for row in rows]
            jobs.append(PixelsJob(sink.root, part, tuple(rows), tuple(names)))
    tally = Tally(progress, "cifar", len(keys))

    def written(result: Written) -> None:
        tally.add(len(result.keys))

    sink.run(write_pixels, [job for job in jobs if job.rows], written)
    return list(keys.values())


class PhotoWriter:
    """Writes photos, and records in ``built`` what was wrong with them."""

    def __init__(self, sink: ImageSink, built: Built, progress: Progress) -> None:
        self.built = built
        self._sink = sink
        self._progress = progress
        self._num_written = 0

    def write(self, picks: Sequence[Pick], total: int) -> set[str]:
        """Write photos; return the keys of those that fail to decode.

        Args:
            picks: the photos.
            total: number of photos of the build, for ``progress``.

        Raises:
            StoreError: a tar cannot be read.
        """
        of_tar: dict[str, list[Pick]] = defaultdict(list)
        for pick in picks:
            of_tar[pick.tar.path].append(pick)
        jobs = []
        for group in of_tar.values():
            group.sort(key=lambda pick: pick.tar.offsets[pick.row])
            starts = range(0, len(group), _PHOTOS_A_JOB)
            jobs += [self._job(group[start : start + _PHOTOS_A_JOB]) for start in starts]

        def written(result: Written) -> None:
            self._num_written += len(result.keys) - len(result.failed)
            self._progress("photos", self._num_written, total)

        results = self._sink.run(write_photos, jobs, written)
        failed = {key: why for result in results for key, why in result.failed.items()}
        notes = {key: why for result in results for key, why in result.notes.items()}
        for kept, found in (
            (self.built.failed_photos, failed),
            (self.built.other_formats, notes),
        ):
            lines = {f"{key.rpartition('/')[2]}.JPEG: {why}" for key, why in found.items()}
            kept[:] = sorted({*kept, *lines})
        return set(failed)

    def _job(self, picks: Sequence[Pick]) -> PhotosJob:
        tar = picks[0].tar
        rows = np.array([pick.row for pick in picks])
        keys = tuple(pick.key for pick in picks)
        return PhotosJob(self._sink.root, tar.path, tar.offsets[rows], tar.sizes[rows], keys)


def draw_photos(
    draws: Sequence[PhotoDraw], shares: Shares, writer: PhotoWriter, options: BuildOptions
) -> list[str]:
    """Draw and write ImageNet's part; return its keys.

    A class's slots are dealt to the splits in turn and filled in the order of the draw. Once all
    slots have been tried, those whose photo cannot be decoded get the next photos of the draw: the
    result does not depend on which worker was first.

    Raises:
        SourcesError: a class has too few photos that can be decoded; never with
            ``options.allow_missing``.
        StoreError: a tar cannot be read.
    """
    needed = len(SPLITS) * shares.photos
    total = sum(min(needed, len(draw)) for draw in draws)
    open_slots = [(draw, slot) for draw in draws for slot in range(min(needed, len(draw)))]
    keys: list[str] = []
    while open_slots:
        picks = {}
        for draw, slot in open_slots:
            if pick := draw.next(split_of_slot(slot)):
                picks[pick.key] = pick, (draw, slot)
        failed = writer.write([pick for pick, _ in picks.values()], total)
        keys += [key for key in picks if key not in failed]
        open_slots = [slot for key, (_, slot) in picks.items() if key in failed]
    found = Counter(key.split("/")[1] for key in keys)
    short = [
        f"{draw.name}: {found[draw.name]:,} of {needed:,} photos"
        for draw in draws
        if found[draw.name] < needed
    ]
    if short and not options.allow_missing:
        all_failed = writer.built.failed_photos
        short.append(f"{len(all_failed):,} photos cannot be decoded: {some(all_failed)}")
        hint = "use a smaller --per-class, or --allow-missing to build with what there is"
        raise SourcesError("ImageNet", short, hint)
    writer.built.short_classes = short
    return keys


def replay_photos(picks: Sequence[Pick], writer: PhotoWriter, options: BuildOptions) -> list[str]:
    """Write the photos of a list; return their keys.

    Raises:
        SourcesError: some cannot be decoded; never with ``options.allow_missing``.
        StoreError: a tar cannot be read.
    """
    failed = writer.write(picks, len(picks))
    if failed and not options.allow_missing:
        photos = f"{len(failed):,} of its photos cannot be decoded"
        problem = f"{photos}: {some(writer.built.failed_photos)}"
        hint = "download the tars again, or use --allow-missing to leave these photos out"
        raise SourcesError(str(options.contributors), [problem], hint)
    return [pick.key for pick in picks if pick.key not in failed]
