"""The order: a permutation for every size, the same on every machine, divided among ranks."""

import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.studies.order import Case, reads
from cinic_shards.codec.kernels.permutation import choose
from cinic_shards.errors import OptionError
from cinic_shards.loader.plan import PLAN_VERSIONS, EpochPlan

GOLDEN_10 = [0, 6, 7, 9, 4, 5, 8, 1, 2, 3]
GOLDEN_10_SEED_1 = [0, 4, 5, 6, 3, 2, 8, 7, 1, 9]
GOLDEN_10_EPOCH_1 = [2, 4, 8, 1, 6, 9, 0, 3, 7, 5]
GOLDEN_90000 = [86184, 48450, 50610, 36539]
GOLDEN_WINDOW = {  # version of the plan -> rows
    1: [[3, 0, 8, 9], [4, 1, 7, 6], [5, 2]],
    2: [[3, 1, 0, 9], [4, 2, 8, 6], [5, 7]],
}
GOLDEN_WINDOW_90000 = {
    1: [79209, 79357, 79576, 79456, 79569, 78916],
    2: [79209, 79357, 79576, 79456, 79569, 78916],
}
GOLDEN_WINDOW_AWKWARD = {  # N = 90,000 in steps of 1,000: 88 and 128 lanes
    1: [57737, 57957, 57518, 57510, 57590, 58266],
    2: [8828, 8831, 8863, 8400, 8312, 8491],
}
GOLDEN_10_BILLION = [4951053360, 2520127976, 6692724208, 6935875731]


def plan(num_samples: int, batch: int, **options: object) -> EpochPlan:
    return EpochPlan(num_samples=num_samples, global_batch_size=batch, **options)  # type: ignore[arg-type]


def epoch_rows(*args: int, **options: object) -> NDArray[np.int64]:
    one = plan(*args, **options)
    return np.concatenate([one.rows(step) for step in range(len(one))])


def test_golden_vectors() -> None:
    """These numbers pin the permutation: a checkpoint's order must never change."""
    assert epoch_rows(10, 10).tolist() == GOLDEN_10
    assert epoch_rows(10, 10, seed=1).tolist() == GOLDEN_10_SEED_1
    assert epoch_rows(10, 10, epoch=1).tolist() == GOLDEN_10_EPOCH_1
    assert plan(90_000, 4).rows(0).tolist() == GOLDEN_90000
    assert plan(10**10, 4).rows(10**9).tolist() == GOLDEN_10_BILLION


@pytest.mark.parametrize("num_samples", [*range(1, 70), 127, 128, 129, 1000, 65_536, 90_000])
def test_every_row_exactly_once(num_samples: int) -> None:
    rows = epoch_rows(num_samples, 7, tail="short", seed=3)
    np.testing.assert_array_equal(np.sort(rows), np.arange(num_samples))


@settings(max_examples=100, deadline=None)
@given(
    num_samples=st.integers(1, 5000),
    batch=st.integers(1, 600),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**64 - 1),
    world_size=st.integers(1, 9),
)
def test_all_ranks_together_visit_every_row_once(
    num_samples: int, batch: int, seed: int, epoch: int, world_size: int
) -> None:
    rows = [
        epoch_rows(
            num_samples,
            batch,
            seed=seed,
            epoch=epoch,
            tail="short",
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(num_samples))


def test_seeds_and_epochs_give_different_orders() -> None:
    orders = {
        tuple(epoch_rows(100, 100, seed=seed, epoch=epoch))
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


def test_every_order_of_few_rows_is_about_as_frequent() -> None:
    """4 rows, 24 orders, 4,800 epochs: chi-square with 23 degrees of freedom, p about 0.0001."""
    counts: dict[tuple[int, ...], int] = {}
    for epoch in range(4800):
        order = tuple(epoch_rows(4, 4, epoch=epoch).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 55


def test_neighbours_are_separated_as_by_a_true_permutation() -> None:
    rows = epoch_rows(90_000, 90_000, seed=5)
    true = np.random.default_rng(0).permutation(90_000)
    distance, true_distance = (np.abs(np.diff(order)).mean() for order in (rows, true))
    assert distance == pytest.approx(true_distance, rel=0.02)
    moved, true_moved = (np.abs(order - np.arange(90_000)).mean() for order in (rows, true))
    assert moved == pytest.approx(true_moved, rel=0.02)


@pytest.mark.parametrize("num_samples", [64, 100, 101])
@pytest.mark.parametrize("tail", ["drop", "short"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_ranks_share_each_global_batch(num_samples: int, tail: str, world_size: int) -> None:
    alone = plan(num_samples, 16, tail=tail)
    ranks = [
        plan(num_samples, 16, tail=tail, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert {len(one) for one in ranks} == {len(alone)}
    for step in range(len(alone)):
        parts = [one.rows(step) for one in ranks]
        np.testing.assert_array_equal(np.concatenate(parts), alone.rows(step))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("num_samples", "batch", "tail", "steps", "last"),
    [
        (10, 5, "drop", 2, 5),
        (10, 5, "short", 2, 5),
        (11, 5, "drop", 2, 5),
        (11, 5, "short", 3, 1),
        (3, 5, "short", 1, 3),
        (3, 5, "drop", 0, None),
    ],
)
def test_tail(num_samples: int, batch: int, tail: str, steps: int, last: int | None) -> None:
    one = plan(num_samples, batch, tail=tail)
    assert len(one) == steps
    if last is not None:
        assert len(one.rows(steps - 1)) == last


@settings(max_examples=150, deadline=None)
@given(
    num_samples=st.integers(1, 300),
    batch=st.integers(1, 60),
    world_size=st.integers(1, 60),
    order=st.sampled_from(["window", "full", "as stored"]),
)
def test_pad_gives_every_rank_equal_steps_and_counts_every_row_once(
    num_samples: int, batch: int, world_size: int, order: str
) -> None:
    batch = max(batch, world_size)
    shuffle = order != "as stored"
    starts = np.append(np.arange(0, num_samples, 7), num_samples)
    options = {"order": order if shuffle else "full", "shuffle": shuffle, "block_starts": starts}
    short = plan(num_samples, batch, tail="short", **options)
    ranks = [
        plan(num_samples, batch, tail="pad", rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    assert {len(one) for one in ranks} == {len(short)}
    for step in range(len(short)):
        expected = short.rows(step)
        counted = []
        for rank, one in enumerate(ranks):
            rows, (num_valid, of_all) = one.rows(step), one.num_valid(step)
            assert of_all == len(expected)
            assert len(rows) >= batch * (rank + 1) // world_size - batch * rank // world_size > 0
            assert set(rows[num_valid:]) <= set(rows[:num_valid] if num_valid else expected[:1])
            counted.append(rows[:num_valid])
        np.testing.assert_array_equal(np.concatenate(counted), expected)


@pytest.mark.parametrize("size", [1, 2, 9, 1000])
def test_a_smaller_choice_is_the_start_of_a_larger_one(size: int) -> None:
    every = choose(size, size, "test", 3)
    assert sorted(every) == list(range(size))
    for count in {0, 1, size // 2, size}:
        np.testing.assert_array_equal(choose(count, size, "test", 3), every[:count])
    if size == 1000:
        assert choose(9, size, "test", 4).tolist() != every[:9].tolist()
        assert choose(9, size, "another", 3).tolist() != every[:9].tolist()


def test_without_shuffle_rows_are_in_stored_order() -> None:
    np.testing.assert_array_equal(
        epoch_rows(11, 5, shuffle=False, tail="short", epoch=9), np.arange(11)
    )


@pytest.mark.parametrize("step", [-1, 2, 100])
def test_a_step_beyond_the_epoch(step: int) -> None:
    with pytest.raises(IndexError):
        plan(10, 5).rows(step)


@pytest.mark.parametrize(
    "options",
    [
        {"order": "other"},
        {"tail": "other"},
        {"rank": 2, "world_size": 2},
        {"rank": -1},
        {"world_size": 0},
        {"seed": -1},
        {"epoch": 2**64},
    ],
)
def test_invalid_options(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        plan(10, 5, **options)
    with pytest.raises(OptionError):
        plan(10, 0)


# --- The order "window" -----------------------------------------------------------------------


def window(num_samples: int, batch: int, block_size: int, **options: object) -> EpochPlan:
    starts = np.append(np.arange(0, num_samples, block_size), num_samples)
    return plan(num_samples, batch, order="window", block_starts=starts, **options)


def rows_of(one: EpochPlan) -> NDArray[np.int64]:
    return np.concatenate([one.rows(step) for step in range(len(one))])


@pytest.mark.parametrize("version", PLAN_VERSIONS)
def test_golden_vectors_of_window(version: int) -> None:
    """A state names its version, and gets these rows in all later releases."""
    one = window(10, 4, 3, tail="short", version=version)
    assert [one.rows(step).tolist() for step in range(3)] == GOLDEN_WINDOW[version]
    one = window(90_000, 512, 1024, version=version)
    assert one.num_lanes == 64
    assert one.rows(7)[:6].tolist() == GOLDEN_WINDOW_90000[version]
    one = window(90_000, 1000, 1024, version=version)
    assert one.rows(50)[500:506].tolist() == GOLDEN_WINDOW_AWKWARD[version]


def test_new_plans_have_the_last_version() -> None:
    assert window(10, 4, 3).version == PLAN_VERSIONS[-1] == 2
    with pytest.raises(OptionError, match="version=3: expected"):
        window(10, 4, 3, version=3)


@pytest.mark.parametrize(
    ("batch", "num_lanes"),
    [(1, 1), (3, 2), (63, 32), (64, 64), (512, 64), (513, 128), (8192, 1024), (128 * 96, 2048)],
)
def test_lanes_are_a_power_of_two(batch: int, num_lanes: int) -> None:
    assert window(10_000, batch, 16).num_lanes == num_lanes


@pytest.mark.parametrize("version", PLAN_VERSIONS)
def test_window_is_a_bijection_for_every_size_up_to_64(version: int) -> None:
    """Every number of samples and batch size, with blocks of 1, 3 and 64 samples."""
    for block_size in (1, 3, 64):
        for num_samples in range(1, 65):
            for batch in range(1, 65):
                one = window(num_samples, batch, block_size, tail="short", version=version)
                assert np.bincount(rows_of(one)).tolist() == [1] * num_samples


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    batch=st.integers(1, 700),
    world_size=st.integers(1, 9),
    epoch=st.integers(0, 5),
    version=st.sampled_from(PLAN_VERSIONS),
)
def test_window_on_uneven_blocks(
    sizes: list[int], batch: int, world_size: int, epoch: int, version: int
) -> None:
    """Ranks and steps cover each row once; a block's last step is that of its last row."""
    starts = np.cumsum([0, *sizes])
    num_samples = int(starts[-1])
    options = {"order": "window", "block_starts": starts, "tail": "short", "epoch": epoch}
    options["version"] = version
    alone = plan(num_samples, batch, **options)
    ranks = [
        plan(num_samples, batch, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    last = np.full(len(sizes), -1)
    for step in range(len(alone)):
        rows = alone.rows(step)
        np.testing.assert_array_equal(np.concatenate([one.rows(step) for one in ranks]), rows)
        last[np.searchsorted(starts, rows, side="right") - 1] = step
    assert np.bincount(rows_of(alone)).tolist() == [1] * num_samples
    np.testing.assert_array_equal(alone.last_steps(), last)


def test_window_does_not_depend_on_the_world_and_changes_each_epoch() -> None:
    assert len({tuple(rows_of(window(100, 8, 7, epoch=epoch))) for epoch in range(20)}) == 20
    assert len({tuple(rows_of(window(100, 8, 7, seed=seed))) for seed in range(20)}) == 20


@pytest.mark.parametrize("num_blocks", [100, 264])
def test_a_reader_holds_about_one_block_a_lane(num_blocks: int) -> None:
    one = window(1024 * num_blocks, 512, 1024)
    assert one.num_lanes == 64
    first = np.full(num_blocks, -1)
    for step in range(len(one)):
        blocks = np.unique(one.rows(step) // 1024)
        assert len(blocks) <= 64
        first[blocks[first[blocks] < 0]] = step
    last = one.last_steps()
    in_use = [int(((first <= step) & (step <= last)).sum()) for step in range(len(one))]
    assert max(in_use) <= 66  # L lanes, and lanes that pass from one block to the next
    assert in_use[0] <= 42  # in most of these blocks two lanes begin


def test_the_first_and_the_last_step_share_blocks_between_lanes() -> None:
    """Half as many blocks as lanes, except lanes that begin within 8 samples of a block's end."""
    one = window(200_001, 512, 1024)
    assert len(np.unique(one.rows(0) // 1024)) <= 34
    assert len(np.unique(one.rows(len(one) - 1) // 1024)) <= 40


def test_a_window_batch_mixes_as_many_blocks_as_lanes() -> None:
    one = window(90_000, 512, 1024)
    counts = [len(np.unique(one.rows(step) // 1024)) for step in range(20, 140)]
    assert np.median(counts) >= 60


@pytest.mark.parametrize(
    ("num_samples", "world_size", "batch", "version_1", "least"),
    [
        (1_000_000, 128, 96, 3.66, 1.13),
        (1_000_000, 100, 100, 2.86, 1.10),
        (300_000, 60, 70, 1.98, 1.20),
        (270_000, 16, 300, 1.23, 1.06),
        (90_000, 8, 500, 1.18, 1.08),
        (90_000, 7, 33, 1.61, 1.07),
    ],
)
def test_awkward_batches_are_read_hardly_more_often(
    num_samples: int, world_size: int, batch: int, version_1: float, least: float
) -> None:
    """The global batch is not a multiple of version 1's lanes: its ranks change their lanes.

    ``least`` is (B + W - 1) / B. If W is not a power of two, ranks share up to W lanes more.
    """
    case = Case(num_samples, world_size * batch, ())
    assert reads(replace(case, version=1), world_size)[0] == pytest.approx(version_1, abs=0.005)
    read, held = reads(case, world_size)
    one = replace(case.plan(), world_size=world_size, rank=1)
    is_power = world_size.bit_count() == 1
    assert read <= least + 0.005 + (0 if is_power else world_size / one.num_lanes)
    found = one.reading(1024 * 3072)
    assert found is not None
    assert found.times_read_by_all == pytest.approx(read, abs=0.003)
    assert found.times_read == pytest.approx(read, abs=0.15)
    assert held - 2 <= found.blocks_held <= held
    assert found.bytes_held == found.blocks_held * 1024 * 3072


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    batch=st.integers(9, 300),
    world_size=st.integers(1, 9),
)
def test_reading_counts_the_blocks_of_full_steps(
    sizes: list[int], batch: int, world_size: int
) -> None:
    """A rank that has only some rows of a lane may skip blocks that are counted."""
    starts = np.cumsum([0, *sizes])
    num_samples = int(starts[-1])
    one = plan(num_samples, batch, order="window", block_starts=starts)
    if len(one) == 0:
        return
    of_all = 0.0
    for rank in range(world_size):
        one = replace(one, rank=rank, world_size=world_size)
        used = np.unique(np.searchsorted(starts, rows_of(one), side="right") - 1)
        least = np.diff(starts)[used].sum() * world_size / num_samples
        found = one.reading(1)
        assert found is not None
        assert least <= found.times_read + 1e-9
        if min(sizes) > 40:  # more than a lane has in a step: only the first and last are skipped
            assert found.times_read <= least + 2 * max(sizes) * world_size / num_samples
        of_all += found.times_read / world_size
    assert found.times_read_by_all == pytest.approx(of_all)


def test_reading_is_known_for_window_only() -> None:
    assert plan(100, 10).reading(1) is None
    assert plan(100, 10, shuffle=False).reading(1) is None
    assert window(100, 10, 5, version=1).reading(1) is None


def test_more_ranks_than_samples_of_a_batch_read_something() -> None:
    found = window(3, 1, 1, world_size=2, rank=0).reading(1)
    assert found is not None and (found.times_read, found.times_read_by_all) == (0, 1)


@pytest.mark.parametrize("num_samples", [90_000, 10**6, 10**7])
@pytest.mark.parametrize("world_size", [2, 16, 128, 1024])
def test_powers_of_two_ranks_read_the_least_possible(num_samples: int, world_size: int) -> None:
    """At most (B + W - 1) / B, whatever the batch size: each boundary of ranks is in one block."""
    num_blocks = -(-num_samples // 1024)
    for batch in (9, 12, 33, 48, 96, 100, 127, 250, 500, 513):
        if world_size * batch <= num_samples:
            found = window(num_samples, world_size * batch, 1024, world_size=world_size).reading(1)
            assert found is not None
            assert found.times_read_by_all <= (num_blocks + world_size) / num_blocks


@pytest.mark.parametrize("starts", [None, [], [0, 5], [1, 10], [0, 5, 5, 10], [0, 10, 5]])
def test_invalid_block_starts(starts: list[int] | None) -> None:
    with pytest.raises(OptionError, match="block_starts"):
        plan(10, 5, order="window", block_starts=None if starts is None else np.array(starts))


def test_ten_billion_samples_on_ten_thousand_ranks() -> None:
    """No array is as long as the epoch; a ``window`` plan holds 24 bytes a block."""
    begin = time.process_time()
    starts = np.append(np.arange(0, 10**10, 2**14), 10**10)
    for order, limit in (("full", 100_000), ("window", 6 * starts.nbytes)):
        options = {"order": order, "block_starts": starts, "world_size": 10_000}
        for rank in (0, 4321, 9999):
            one = plan(10**10, 512 * 10_000, rank=rank, **options)
            assert one.num_lanes == (2**20 if order == "window" else 0)
            rows = [one.rows(step) for step in (0, 1234, len(one) - 1)]
            assert {len(part) for part in rows} == {512}
            assert len(np.unique(np.concatenate(rows))) == 3 * 512
        tracemalloc.start()
        plan(10**10, 512 * 10_000, rank=77, **options).rows(1000)
        assert tracemalloc.get_traced_memory()[1] < limit
        tracemalloc.stop()
    assert time.process_time() - begin < 5


def test_a_padded_step_has_a_ranks_usual_size() -> None:
    for world_size in range(1, 8):
        for batch in range(world_size, 30):
            usual = [len(plan(batch, batch, rank=r, world_size=world_size).rows(0))
                     for r in range(world_size)]  # fmt: skip
            for rest in range(1, batch):
                ranks = [
                    plan(rest, batch, shuffle=False, tail="pad", rank=r, world_size=world_size)
                    for r in range(world_size)
                ]
                assert [len(one.rows(0)) for one in ranks] == usual
                valid = [one.rows(0)[: one.num_valid(0)[0]].tolist() for one in ranks]
                assert [row for rows in valid for row in rows] == list(range(rest))
