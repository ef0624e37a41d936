"""The plan equals docs/order.md's definition, written here again in plain Python integers."""

import hashlib
import itertools
from collections.abc import Callable
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinic_shards.loader.plan import PLAN_VERSIONS, EpochPlan, Tail

WORD = 2**64

Permutation = Callable[[int, int, int], int]
"""Called with a number, a size and a tweak."""


def f(v: int) -> int:
    return (v * 0x9E3779B97F4A7C15 % WORD) >> 32


def mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB % WORD
    return x ^ x >> 31


def permutation(purpose: str, seed: int, epoch: int) -> Permutation:
    text = f"cinic-shards plan 1 {purpose} seed {seed} epoch {epoch}"
    digest = hashlib.blake2b(text.encode()).digest()
    k = [int.from_bytes(digest[i : i + 8], "little") for i in range(0, 64, 8)]

    def permute(x: int, n: int, tweak: int) -> int:
        m = (n - 1).bit_length()
        low_size, high_size = 2 ** (m // 2), 2 ** (m - m // 2)
        while True:
            high, low = divmod(x, low_size)
            for i in (0, 2, 4, 6):
                high ^= f(low ^ k[i] ^ tweak) % high_size
                low ^= f(high ^ k[i + 1] ^ tweak) % low_size
            x = high * low_size + low
            if x < n:
                return x

    return permute


def sequence(starts: list[int], seed: int, epoch: int) -> list[int]:
    blocks, rows = permutation("blocks", seed, epoch), permutation("window", seed, epoch)
    found = []
    for k in range(len(starts) - 1):
        b = blocks(k, len(starts) - 1, 0)
        n = starts[b + 1] - starts[b]
        found += [starts[b] + rows(i, n, mix((b + 0x9E3779B97F4A7C15) % WORD)) for i in range(n)]
    return found


def lanes_between(sequence: list[int], bounds: list[int]) -> list[list[int]]:
    lanes = [sequence[first:stop] for first, stop in pairwise(bounds)]
    return [lane[::-1] if number % 2 else lane for number, lane in enumerate(lanes)]


def steps_of_version_1(sequence: list[int], num_blocks: int, batch: int) -> list[list[int]]:
    size, count = len(sequence), min(num_blocks, batch, max(64, batch // 8))
    sizes = [size // count + (1 if lane < size % count else 0) for lane in range(count)]
    lanes = lanes_between(sequence, [0, *accumulate(sizes)])
    return [
        [
            lanes[p % count][p // count]
            for p in sorted(range(s, min(s + batch, size)), key=lambda p: (p % count, p))
        ]
        for s in range(0, size, batch)
    ]


def steps_of_version_2(sequence: list[int], num_blocks: int, batch: int) -> list[list[int]]:
    full, rest = divmod(len(sequence), batch)
    count = 64
    while 8 * count < batch:
        count *= 2
    while count > batch:
        count //= 2
    starts = [full * (j * batch // count) + j * rest // count for j in range(count + 1)]
    steps: list[list[int]] = [[] for _ in range(full + (rest > 0))]
    for number, lane in enumerate(lanes_between(sequence, starts)):
        c = (number + 1) * batch // count - number * batch // count
        for s in range(full):
            steps[s] += lane[s * c : (s + 1) * c]
        if rest:
            steps[full] += lane[full * c :]
    return steps


STEPS = {1: steps_of_version_1, 2: steps_of_version_2}


def part(n: int, rank: int, world: int, batch: int, *, is_padded: bool) -> tuple[int, int]:
    """Return start and stop of a rank's part of a step of n rows."""
    if is_padded:
        return batch * rank // world * n // batch, batch * (rank + 1) // world * n // batch
    return n * rank // world, n * (rank + 1) // world


def assert_equal(sizes: list[int], batch: int, seed: int, epoch: int) -> None:
    starts = [0, *accumulate(sizes)]
    for version in PLAN_VERSIONS:
        plan = EpochPlan(
            num_samples=starts[-1], global_batch_size=batch, order="window", tail="short",
            seed=seed, epoch=epoch, block_starts=np.array(starts), version=version,
        )  # fmt: skip
        expected = STEPS[version](sequence(starts, seed, epoch), len(sizes), batch)
        assert [plan.rows(step).tolist() for step in range(len(plan))] == expected


@pytest.mark.parametrize(
    ("num_samples", "batch"),
    [
        (1, 1),
        (2, 1),
        (10, 4),
        (67, 67),  # one full step, and lanes of one or two rows
        (100, 1009),  # the batch is larger than the dataset
        (1999, 97),  # a prime batch
        (2000, 250),  # no tail
        (2001, 250),  # a tail of one row
        (2000, 513),  # more lanes than an eighth of the batch
        (3000, 1536),
    ],
)
def test_the_order_window_is_as_defined(num_samples: int, batch: int) -> None:
    for block_size in (1, 7, 64):
        full, rest = divmod(num_samples, block_size)
        assert_equal([block_size] * full + [rest] * (rest > 0), batch, seed=3, epoch=1)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    batch=st.integers(1, 700),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**64 - 1),
)
def test_uneven_blocks(sizes: list[int], batch: int, seed: int, epoch: int) -> None:
    assert_equal(sizes, batch, seed, epoch)


@pytest.mark.parametrize("version", PLAN_VERSIONS)
@pytest.mark.parametrize("tail", ["short", "pad"])
def test_the_parts_of_ranks_are_as_defined(tail: Tail, version: int) -> None:
    for batch, world, rest in itertools.product(range(1, 19), range(1, 10), range(1, 19)):
        if not world <= batch > rest:
            continue
        is_padded = tail == "pad" and version > 1
        for rank in range(world):
            first, stop = part(rest, rank, world, batch, is_padded=is_padded)
            valid = list(range(batch + first, batch + stop))
            padding = itertools.cycle(valid or [batch])
            usual = batch * (rank + 1) // world - batch * rank // world
            num_padding = max(0, usual - len(valid)) if tail == "pad" else 0
            plan = EpochPlan(
                num_samples=batch + rest, global_batch_size=batch, shuffle=False, tail=tail,
                rank=rank, world_size=world, version=version,
            )  # fmt: skip
            assert len(plan) == 2
            assert plan.num_valid(1) == (len(valid), rest)
            assert plan.rows(1).tolist() == [*valid, *itertools.islice(padding, num_padding)]


@pytest.mark.parametrize("version", PLAN_VERSIONS)
def test_the_order_full_is_as_defined_in_all_versions(version: int) -> None:
    permute = permutation("full", seed=5, epoch=2)
    for num_samples in (1, 2, 9, 100, 1000):
        plan = EpochPlan(
            num_samples=num_samples, global_batch_size=num_samples, seed=5, epoch=2, version=version
        )
        assert plan.rows(0).tolist() == [permute(p, num_samples, 0) for p in range(num_samples)]
