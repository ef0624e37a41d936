"""Questions about this package's kernels, answered by a process of ``benchmarks.kernels``."""

from collections.abc import Iterator

from benchmarks.processes import ContenderError
from benchmarks.runs import Row, Suite


def kernels(suite: Suite) -> Iterator[Row]:
    """What share of the bare kernels' speed does the loader reach?

    Shuffled batches of 512, with one thread per core, warm. The bare kernels run on all images in
    memory: ``torch.index_select`` of random rows into new batches (and into reused ones), decoding
    ``zstd`` blocks and batches of PNGs, and the augmentation's kernel. In turn, medians.
    """
    yield from ask(suite, "kernels", "png", "zstd", "raw")


def decode(suite: Suite) -> Iterator[Row]:
    """How fast is each encoding decoded, compared with other decoders of the same PNGs?

    Ours decode a batch of PNGs or a ``zstd`` block at a time, or copy a ``raw`` block. Pillow, and
    OpenCV and imagecodecs if they are installed, decode one image at a time, as a loader would call
    them. 1,024 images in memory at a time; one thread, then one per core. In turn, medians.
    """
    yield from ask(suite, "decode", "png")


def augment(suite: Suite) -> Iterator[Row]:
    """How many images per second can be cropped, flipped and normalised to float32?

    A batch of 512 random images in memory, one thread. Ours: one pass on the CPU, and the batched
    torch operations for devices. torchvision's v2 transforms: on each image, as a Dataset calls
    them; and once for the batch, which crops and flips all images in the same way, so it is not the
    same augmentation. In turn, medians.
    """
    yield from ask(suite, "augment")


def ask(suite: Suite, question: str, *encodings: str) -> Iterator[Row]:
    """Ask about our datasets in these encodings."""
    found = suite.ours()
    if missing := [encoding for encoding in encodings if encoding not in found]:
        yield {"reason": f"needs the contenders {', '.join(f'*, {name}' for name in missing)}"}
        return
    shards = {name: str(suite.folder(found[name]) / "shards") for name in encodings}
    try:
        with suite.start_here("benchmarks.kernels") as process:
            rounds = {"rounds": suite.repeats, "seconds": suite.seconds}
            yield from process.ask(question, shards=shards, **rounds)["rows"]
    except ContenderError as error:
        yield {"error": str(error)}
