"""The questions of the suite: each yields a row for each answer, and documents its method.

``pack`` builds every contender's dataset, and ``workers`` finds the best settings: in the questions
after it, each library takes part with its fastest format and number of workers, and this package
with every encoding. When contenders are compared, each runs in its own process.
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
    "clients": ours.clients,
}
"""Questions by name, in the order in which they are asked."""

_NEED_NO_SETTINGS = {"pack", "s3", "stream", "verify", "kernels", "decode", "augment", "clients"}


def with_needed(names: set[str]) -> list[str]:
    """Return these questions and those that they need, in the order in which they are asked."""
    needed = {"pack"} | ({"workers"} if names - _NEED_NO_SETTINGS else set())
    return [name for name in QUESTIONS if name in names | needed]
