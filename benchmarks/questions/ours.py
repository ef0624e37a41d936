"""Questions about this package's kernels and loaders, answered by processes of its own."""

import statistics
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.processes import ContenderError, Process
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


def clients(suite: Suite) -> Iterator[Row]:
    """How long does a round over many clients of one dataset take, and how much memory?

    1,000 Dirichlet parts of the split (one for each 90 images of a smaller one), each with a loader
    of its own in one process, batches of 32, uint8; a round reads each loader once. Beside them
    ImageFolder with torch's ``Subset``. Memory is compared with that after an epoch of one loader
    of the split; mapped files count while they are in memory. In turn, medians of the rounds.
    ``zstd`` is left out: each client would decode nearly all blocks for its few images.
    """
    found = {e: one for e, one in suite.ours().items() if e != "zstd"}
    if not found:
        yield {"reason": "needs the contenders cinic-shards, png or raw"}
        return
    count = min(1000, max(2, suite.num_images // 90))
    with ExitStack() as stack:
        opened: dict[str, tuple[Process, Row]] = {}
        any_encoding = next(iter(found))
        kinds = {"ImageFolder": any_encoding} | {f"cinic-shards, {one}": one for one in found}
        for name, encoding in kinds.items():
            shards = str(suite.folder(found[encoding]) / "shards")
            suite.say(f"{name}: {count:,} loaders")
            process = stack.enter_context(suite.start_here("benchmarks.clients"))
            answer = process.ask(
                "open", kind=name.partition(",")[0], split=str(suite.split), shards=shards,
                count=count,
            )  # fmt: skip
            opened[name] = process, answer
            process.pause()
        rounds: dict[str, list[Row]] = {name: [] for name in opened}
        for _ in range(max(3, suite.repeats)):
            for name, (process, _) in opened.items():
                process.resume()
                rounds[name].append(process.ask("round"))
                process.pause()
        for name, (_, answer) in opened.items():
            last = rounds[name][-1]
            yield {
                "contender": name,
                "clients": count,
                "images": last["images"],
                **answer,
                "seconds": round(statistics.median(one["seconds"] for one in rounds[name]), 3),
                "rounds": [round(one["seconds"], 3) for one in rounds[name]],
                "more_mb": round(max(one["mb"] for one in rounds[name]) - answer["one_loader_mb"]),
                "peak_mb": round(last["peak_mb"]),
                "threads": max(one["threads"] for one in rounds[name]),
            }


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
