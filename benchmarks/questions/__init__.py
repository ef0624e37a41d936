"""The questions of the suite: each yields a row for each answer, and says how it is measured.

``pack`` builds every contender's dataset, and ``workers`` finds its best settings: of each library
the fastest way to store and number of workers, of ours each encoding, take part in the questions
that follow. Where contenders are compared, each runs in a process of its own.
"""

from collections.abc import Callable, Iterator

from benchmarks.questions import epochs, network, ours, storage
from benchmarks.runs import Row, Suite

QUESTIONS: dict[str, Callable[[Suite], Iterator[Row]]] = {
    "pack": storage.pack,
    "workers": epochs.workers,
    "uint8": epochs.uint8,
    "float32": epochs.float32,
    "cold": epochs.cold,
    "first batch": epochs.first_batch,
    "memory": epochs.memory,
    "s3": network.s3,
    "stream": network.stream,
    "train": epochs.train,
    "verify": storage.verify,
    "kernels": ours.kernels,
    "decode": ours.decode,
    "augment": ours.augment,
}
"""By name, in their order."""

_NEED_NO_SETTINGS = {"pack", "s3", "stream", "verify", "kernels", "decode", "augment"}


def with_needed(names: set[str]) -> list[str]:
    """The questions to ask for these to be answered, in their order."""
    needed = {"pack"} | ({"workers"} if names - _NEED_NO_SETTINGS else set())
    return [name for name in QUESTIONS if name in names | needed]
