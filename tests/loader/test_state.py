"""A loader's state: exact resume, equal steps, valid samples, statistics, abandoned iterators."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_demo_tree import make_tree

from cinic_shards import Augment, Batch, ShardLoader, Subset
from cinic_shards.errors import OptionError
from cinic_shards.loader.cache import Cache
from cinic_shards.loader.pixel_source import MappedSource
from cinic_shards.loader.plan import EpochPlan
from cinic_shards.write.pack import PackOptions, pack


def facts(batches: Any) -> list[tuple[list[int], list[int], bytes]]:
    """Content of batches, for comparisons."""
    return [
        (batch.indices.tolist(), batch.labels.tolist(), batch.images.contiguous().numpy().tobytes())
        for batch in batches
    ]


IMAGENET = Subset(origin="imagenet")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "png window augmented": ("png", {"augment": Augment(cutout=6)}),
    "zstd window": ("zstd", {}),
    "raw full": ("raw", {"order": "full"}),
    "zstd full from ram, subset": ("zstd", {"order": "full", "cache": "ram", "subset": IMAGENET}),
    "as stored, padded": ("png", {"shuffle": False, "tail": "pad"}),
    "device": ("zstd", {"device": "cpu", "augment": Augment()}),
}


@pytest.mark.parametrize("case", CASES)
def test_resuming_at_every_step_gives_the_rest_of_the_epoch(
    encoded: dict[str, Path], case: str
) -> None:
    encoding, options = CASES[case]

    def make() -> ShardLoader:
        return ShardLoader(encoded[encoding], batch_size=20, seed=5, **options)

    loader = make()
    loader.set_epoch(3)
    states = [loader.state_dict()]
    batches = []
    for batch in loader:
        batches += facts([batch])
        states.append(loader.state_dict())
    following = facts(loader)
    assert len(batches) == len(loader) >= 6
    assert [state["step"] for state in states] == [*range(len(batches)), 0]
    assert states[-1] == states[0] | {"epoch": 4}
    for step, state in enumerate(states[:-1]):
        again = make()
        again.load_state_dict(json.loads(json.dumps(state)))
        assert again.state_dict() == state
        assert facts(again) == batches[step:]
        assert again.state_dict() == states[0] | {"epoch": 4}
        assert facts(again) == following


def test_a_state_resumes_with_any_number_of_ranks_and_threads(encoded: dict[str, Path]) -> None:
    options: dict[str, Any] = {"global_batch_size": 24, "seed": 1, "augment": Augment()}
    alone = ShardLoader(encoded["zstd"], **options)
    iterator = iter(alone)
    for _ in range(3):
        next(iterator)
    state = alone.state_dict()
    rest = facts(iterator)
    for world_size in (1, 2, 3, 5, 7):
        parts = []
        for rank in range(world_size):
            loader = ShardLoader(
                encoded["png"], rank=rank, world_size=world_size, workers=1 + rank % 3, **options
            )
            loader.load_state_dict(state)
            parts.append(list(loader))
        joined = [
            ([i for part in step for i in part[0]], b"".join(part[2] for part in step))
            for step in zip(*map(facts, parts), strict=True)
        ]
        assert joined == [(ids, pixels) for ids, _, pixels in rest]


def test_the_state_of_ended_and_abandoned_iterations(encoded: dict[str, Path]) -> None:
    loader = ShardLoader(encoded["raw"], batch_size=20)
    position = lambda: (loader.state_dict()["epoch"], loader.state_dict()["step"])  # noqa: E731
    assert position() == (0, 0)
    for _, _ in zip(range(2), loader, strict=False):
        pass
    assert position() == (0, 2)
    loader.set_epoch(7)
    assert position() == (7, 0)
    iterator = iter(loader)
    assert position() == (7, 0)
    next(iterator)
    loader.set_epoch(1)  # for the next iteration; this one continues
    assert position() == (7, 1)
    assert len(list(iterator)) == 8
    assert position() == (1, 0)
    inner = iter(loader)
    next(inner)
    assert position() == (1, 1)  # the state is that of the latest iteration


def test_set_epoch_keeps_the_step_of_a_state_of_that_epoch(encoded: dict[str, Path]) -> None:
    """A loop that calls set_epoch for each epoch also works after a resume."""
    loader = ShardLoader(encoded["raw"], batch_size=20)
    state = loader.state_dict() | {"epoch": 2, "step": 4}
    loader.load_state_dict(state)
    loader.set_epoch(2)
    assert len(list(loader)) == 5
    loader.load_state_dict(state)
    loader.set_epoch(3)
    assert len(list(loader)) == 9


def test_an_iterator_that_is_never_used_is_not_an_epoch(encoded: dict[str, Path]) -> None:
    """Lightning makes an iterator that it does not use."""
    loader = ShardLoader(encoded["raw"], batch_size=20)
    iter(loader)
    first, second = iter(loader), iter(loader)
    assert (loader.epoch, next(first).indices.tolist()) == (0, facts(loader_at(encoded, 0))[0][0])
    assert next(second).indices.tolist() == facts(loader_at(encoded, 1))[0][0]


def loader_at(encoded: dict[str, Path], epoch: int) -> ShardLoader:
    loader = ShardLoader(encoded["raw"], batch_size=20)
    loader.set_epoch(epoch)
    return loader


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed is 0 in the state and 1 here"),
        ({"global_batch_size": 21}, "global_batch_size is 20 in the state and 21 here"),
        ({"order": "full"}, "order is 'window' in the state and 'full' here"),
        ({"shuffle": False, "tail": "drop"}, "order is 'window' in the state and 'as stored' here"),
        ({"tail": "short"}, "tail is 'drop' in the state and 'short' here"),
        ({"split": "valid"}, "split is 'train' in the state and 'valid' here; samples is"),
        ({"subset": IMAGENET}, "samples is '[0-9a-f]+' in the state and"),
        (
            {"augment": Augment(cutout=3)},
            "augment is '.*cutout 0, .*' in the state and '.*cutout 3",
        ),
        ({"normalize": "cinic10"}, "augment is '.* uint8' in the state and '.*float32"),
    ],
)
def test_the_state_of_a_different_loader_is_rejected(
    encoded: dict[str, Path], change: dict[str, Any], said: str
) -> None:
    options = {"global_batch_size": 20}
    if "augment" in change:
        state = ShardLoader(encoded["raw"], **options, augment=Augment()).state_dict()  # type: ignore[arg-type]
    else:
        state = ShardLoader(encoded["raw"], **options).state_dict()  # type: ignore[arg-type]
    loader = ShardLoader(encoded["raw"], **(options | change))  # type: ignore[arg-type]
    before = loader.state_dict()
    with pytest.raises(OptionError, match=said):
        loader.load_state_dict(state | {"step": 2})
    assert loader.state_dict() == before


def test_the_state_of_a_different_dataset_is_rejected(
    encoded: dict[str, Path], tmp_path: Path
) -> None:
    state = ShardLoader(encoded["raw"], batch_size=20).state_dict()
    make_tree(tmp_path / "tree", per_class=18, seed=7)
    pack(tmp_path / "tree", tmp_path / "other", PackOptions(encoding="raw"), workers=1)
    with pytest.raises(OptionError, match="fingerprint is"):
        ShardLoader(tmp_path / "other", batch_size=20).load_state_dict(state)
    # The same samples in different blocks have a different order "window", but the same "full".
    pack(
        encoded["raw"].parent / "tree", tmp_path / "blocks", PackOptions(encoding="raw"), workers=1
    )
    with pytest.raises(OptionError, match=r"^the state is from a different loader: blocks is"):
        ShardLoader(tmp_path / "blocks", batch_size=20).load_state_dict(state)
    full = ShardLoader(encoded["raw"], batch_size=20, order="full").state_dict()
    ShardLoader(tmp_path / "blocks", batch_size=20, order="full").load_state_dict(full)


def test_a_state_of_the_first_version_resumes_with_its_plan(encoded: dict[str, Path]) -> None:
    """All later epochs keep the version, as those of the run that was interrupted would have."""

    def make() -> ShardLoader:
        return ShardLoader(encoded["zstd"], batch_size=20, seed=5)

    before = make()
    before.plan_version = 1  # as release 0.1.0
    epochs = [facts(before) for _ in range(3)]
    new = make()
    assert new.state_dict()["plan_version"] == 2
    assert facts(new) != epochs[0]
    new.load_state_dict(new.state_dict() | {"plan_version": 1, "epoch": 0, "step": 4})
    assert new.state_dict()["plan_version"] == 1
    assert facts(new) == epochs[0][4:]
    assert [facts(new), facts(new)] == epochs[1:]
    again = make()
    again.load_state_dict(new.state_dict() | {"epoch": 2})
    assert facts(again) == epochs[2]
    with pytest.raises(OptionError, match="plan_version is 3 in the state and 1 here"):
        again.load_state_dict(again.state_dict() | {"plan_version": 3})
    again.load_state_dict(make().state_dict())
    assert facts(again) == facts(make())


@pytest.mark.parametrize("options", [{"order": "full"}, {"shuffle": False, "tail": "drop"}])
def test_other_orders_are_the_same_in_both_versions(
    encoded: dict[str, Path], options: dict[str, Any]
) -> None:
    loaders = [ShardLoader(encoded["raw"], batch_size=20, **options) for _ in range(2)]
    loaders[1].load_state_dict(loaders[0].state_dict() | {"plan_version": 1})
    assert facts(loaders[0]) == facts(loaders[1])


def test_a_padded_step_of_the_first_version_has_its_parts(encoded: dict[str, Path]) -> None:
    """The sizes are those that release 0.1.0 gives; a part may be larger than in a full step."""
    sizes = []
    for rank in range(8):
        loader = ShardLoader(
            encoded["raw"], global_batch_size=13, tail="pad", rank=rank, world_size=8
        )
        loader.load_state_dict(loader.state_dict() | {"plan_version": 1, "step": 12})
        full, last = loader
        sizes.append((full.num_samples, last.num_samples, int(last.valid.sum())))
    assert sizes == [
        (1, 1, 1), (2, 2, 1), (1, 2, 2), (2, 2, 1), (2, 2, 1), (1, 2, 2), (2, 2, 1), (2, 2, 2)
    ]  # fmt: skip


@pytest.mark.parametrize("state", [{}, {"epoch": 1, "step": 2}, {"model": 1}])
def test_a_dictionary_that_is_not_a_state(encoded: dict[str, Path], state: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="not a loader's state: 'version' is missing"):
        ShardLoader(encoded["raw"], batch_size=20).load_state_dict(state)


@pytest.mark.parametrize(
    ("position", "said"),
    [
        ({"step": 10}, "step=10: an epoch has 9 steps"),
        ({"step": -1}, "step=-1: expected an integer, at least 0"),
        ({"step": 1.5}, "step=1.5: expected an integer"),
        ({"epoch": None}, "epoch=None: expected an integer"),
    ],
)
def test_an_invalid_position(encoded: dict[str, Path], position: dict[str, Any], said: str) -> None:
    loader = ShardLoader(encoded["raw"], batch_size=20)
    with pytest.raises(OptionError, match=said):
        loader.load_state_dict(loader.state_dict() | position)


def test_numpy_integers_give_the_same_state_as_pythons(encoded: dict[str, Path]) -> None:
    ours = ShardLoader(encoded["raw"], batch_size=20, seed=3)
    theirs = ShardLoader(encoded["raw"], batch_size=np.int64(20), seed=np.uint8(3))
    ours.set_epoch(2)
    theirs.set_epoch(np.int32(2))  # type: ignore[arg-type]
    assert json.dumps(ours.state_dict()) == json.dumps(theirs.state_dict())
    assert facts(ours) == facts(theirs)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1.0},
        {"seed": -1},
        {"seed": "1"},
        {"batch_size": 20.0},
        {"batch_size": "20"},
        {"workers": 1.5},
        {"workers": 0},
        {"rank": -1, "world_size": 2},
        {"rank": 2, "world_size": 2},
        {"rank": 0, "world_size": 0},
    ],
)
def test_options_that_are_not_integers(encoded: dict[str, Path], options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="expected"):
        ShardLoader(encoded["raw"], **options)
    with pytest.raises(OptionError, match="epoch='1': expected"):
        ShardLoader(encoded["raw"], batch_size=20).set_epoch("1")  # type: ignore[arg-type]


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
def test_the_rows_of_a_step_are_computed_once_and_shortly_before_their_use(
    encoded: dict[str, Path], encoding: str, device: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    rows = EpochPlan.rows

    def counted(plan: EpochPlan, step: int) -> Any:
        steps.append(step)
        return rows(plan, step)

    monkeypatch.setattr(EpochPlan, "rows", counted)
    monkeypatch.setattr(MappedSource, "few_images", 0)  # as in an epoch that is not tiny
    loader = ShardLoader(encoded[encoding], batch_size=2, workers=1, device=device)
    batches = iter(loader)
    next(batches)
    assert len(steps) < 30  # of 90
    list(batches)
    assert sorted(steps) == list(range(90))


# --- Equal steps, and valid samples -----------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
def test_pad_and_valid(encoded: dict[str, Path], encoding: str, world_size: int) -> None:
    ranks = [
        ShardLoader(
            encoded[encoding],
            split="test",
            global_batch_size=50,
            tail="pad",
            shuffle=False,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    assert {len(loader) for loader in ranks} == {4}
    counted: list[int] = []
    for step in zip(*ranks, strict=True):
        assert sum(batch.loss_scale for batch in step) == pytest.approx(world_size)
        for batch in step:
            assert batch.num_samples == len(batch.valid) == len(batch.images) > 0
            counted += batch.indices[batch.valid].tolist()
            assert batch.loss_scale == pytest.approx(
                int(batch.valid.sum()) * world_size / sum(int(b.valid.sum()) for b in step)
            )
    assert sorted(counted) == list(range(180))


def test_a_scaled_mean_over_ranks_is_the_mean_over_the_global_batch(
    encoded: dict[str, Path],
) -> None:
    """DDP averages gradients over ranks; here with parts of 7, 7 and 8 of 22 samples."""
    options: dict[str, Any] = {"global_batch_size": 22, "tail": "short", "normalize": True}
    alone = ShardLoader(encoded["raw"], **options)
    ranks = [ShardLoader(encoded["raw"], rank=r, world_size=3, **options) for r in range(3)]
    for batch, *parts in zip(alone, *ranks, strict=True):
        value = sum(part.images.mean() * part.loss_scale for part in parts) / 3
        torch.testing.assert_close(value, batch.images.mean(), rtol=0, atol=1e-5)
        assert batch.loss_scale == 1 and bool(batch.valid.all())


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, (1024, 512)),
        ({"batch_size": 8}, (16, 8)),
        ({"global_batch_size": 9}, (9, 5)),
    ],
)
def test_batch_sizes(
    encoded: dict[str, Path], sizes: dict[str, int], expected: tuple[int, int]
) -> None:
    loader = ShardLoader(encoded["raw"], rank=1, world_size=2, tail="short", **sizes)
    assert (loader.global_batch_size, loader.batch_size) == expected


@pytest.mark.parametrize(
    "sizes",
    [
        {"batch_size": 8, "global_batch_size": 16},
        {"batch_size": 0},
        {"batch_size": -1},
        {"global_batch_size": 1},
    ],
)
def test_invalid_batch_sizes(encoded: dict[str, Path], sizes: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="batch_size"):
        ShardLoader(encoded["raw"], rank=0, world_size=2, **sizes)


@pytest.mark.parametrize("tail", ["drop", "short", "pad"])
def test_one_sample_and_a_batch_larger_than_the_set(encoded: dict[str, Path], tail: str) -> None:
    options: dict[str, Any] = {
        "subset": Subset(where=lambda c: c.keys == c.keys[17]),
        "tail": tail,
        "batch_size": 5,
    }
    if tail == "drop":
        with pytest.raises(OptionError, match="1 samples, fewer than the 5 of a batch"):
            ShardLoader(encoded["zstd"], **options)
        options["batch_size"] = 1
    loader = ShardLoader(encoded["zstd"], **options)
    (batch,) = loader
    assert (
        int(batch.valid.sum()) == 1 and batch.num_samples == {"drop": 1, "short": 1, "pad": 5}[tail]
    )
    assert len(set(batch.indices.tolist())) == 1


def test_skipped_samples_do_not_count_and_steps_stay_equal(
    encoded: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(encoded["png"], tmp_path / "copy")
    reader = ShardLoader(copy, batch_size=8).dataset.reader
    index, broken = reader._indexes[2], []
    with open(copy / reader.shards[2].name, "r+b") as file:
        for row in (3, 4, 20):
            file.seek(int(index.offset[row]) + 60)
            file.write(b"damage")
            broken.append(180 + 100 + row)
    ranks = [
        ShardLoader(
            copy, global_batch_size=25, tail="pad", on_error="skip", rank=rank, world_size=3
        )
        for rank in range(3)
    ]
    counted: list[int] = []
    with pytest.warns(UserWarning, match="damaged samples skipped"):
        for step in zip(*ranks, strict=True):
            for batch in step:
                assert len(batch.images) == len(batch.labels) == len(batch.valid)
                counted += batch.indices[batch.valid].tolist()
        full = next(iter(ranks[0]))
        assert full.loss_scale == full.num_samples * 3 / 25
    assert sorted([*counted, *broken]) == list(range(180, 360))
    assert sorted(key for loader in ranks for key in loader.skipped) == broken


# --- Statistics, and iterators that are abandoned ---------------------------------------------


def test_stats(encoded: dict[str, Path]) -> None:
    loader = ShardLoader(encoded["zstd"], batch_size=20, cache="ram")
    assert loader.stats().images == 0 and loader.stats().images_per_second == 0
    size = sum(int(index.length.sum()) for index in loader.dataset.reader._indexes)
    for epoch in range(2):
        for step, _ in enumerate(loader):
            stats = loader.stats()
            assert (stats.epoch, stats.step, stats.images) == (epoch, step + 1, 20 * (step + 1))
            assert 0 <= stats.waiting_seconds <= stats.seconds
            assert stats.batches_ready >= 0
        stats = loader.stats()
        assert stats.images_per_second == stats.images / stats.seconds > 0
        assert 0 <= stats.waiting_share <= 1
        expected = (14, 0, size) if epoch == 0 else (0, 14, 0)
        assert (stats.blocks_decoded, stats.blocks_from_cache, stats.bytes_read) == expected


def test_stats_show_the_share_of_waiting(encoded: dict[str, Path]) -> None:
    loader = ShardLoader(encoded["png"], batch_size=20)
    list(loader)  # compile
    for _ in loader:
        threading.Event().wait(0.02)
    assert loader.stats().waiting_share < 0.3
    slow = ShardLoader(
        encoded["png"],
        batch_size=20,
        batch_transform=lambda x, y: (threading.Event().wait(0.02), x, y)[1:],  # type: ignore[return-value]
    )
    list(slow)
    assert slow.stats().waiting_share > 0.7


@pytest.mark.parametrize(
    ("encoding", "options", "times"),
    [
        ("zstd", {}, 1.0),
        ("zstd", {"cache": "ram"}, None),  # there is room for all
        ("zstd", {"cache": Cache("ram", max_bytes=2**16)}, 1.0),
        ("zstd", {"shuffle": False}, None),
        ("png", {}, None),
        ("raw", {}, None),
    ],
)
def test_reading(
    encoded: dict[str, Path], encoding: str, options: dict[str, Any], times: float | None
) -> None:
    loader = ShardLoader(encoded[encoding], batch_size=20, **options)
    found = loader.reading
    assert (found and found.times_read_by_all) == times
    if found:
        assert (found.times_read, found.blocks_held) == (1.0, 14)
        assert found.bytes_held == 14 * 16 * 32 * 32 * 3


def test_reading_is_what_ranks_read(encoded: dict[str, Path]) -> None:
    ranks = [
        ShardLoader(encoded["zstd"], global_batch_size=20, rank=rank, world_size=2)
        for rank in range(2)
    ]
    for loader in ranks:
        list(loader)
        assert loader.reading is not None
        assert loader.reading.times_read == pytest.approx(
            loader.stats().blocks_decoded * 2 / 14, abs=0.1
        )


def test_a_warning_if_ranks_read_the_dataset_several_times(encoded: dict[str, Path]) -> None:
    options: dict[str, Any] = {"global_batch_size": 20, "world_size": 14}
    said = r"^14 ranks together will read the dataset \d\.\d times .* 16 lanes and 14 blocks"
    loader = ShardLoader(encoded["zstd"], rank=0, **options)
    with pytest.warns(UserWarning, match=said) as caught:
        for _ in loader:
            break
    assert [warning.filename for warning in caught] == [__file__]
    list(loader)  # once only: a warning is an error here
    ShardLoader(encoded["zstd"], rank=1, **options).peek()
    ShardLoader(encoded["zstd"], rank=0, cache="ram", **options).peek()
    ShardLoader(encoded["zstd"], rank=0, shuffle=False, **options).peek()
    ShardLoader(encoded["png"], rank=0, **options).peek()
    ShardLoader(encoded["zstd"], rank=0, global_batch_size=20, world_size=2).peek()


def test_progress_says_what_is_read(
    encoded: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in range(2):
        ShardLoader(encoded["zstd"], batch_size=20, progress=True, rank=rank, world_size=2).peek()
    assert capsys.readouterr().err == (
        "rank 0 of 2: reads 1.09 times its share of the samples (all ranks together 1.09 times "
        "the dataset), and holds about 7 blocks (0.3 MB)\n"
    )


def test_progress(encoded: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    loader = ShardLoader(encoded["raw"], batch_size=20, progress=True)
    assert len(list(loader)) == 9
    for _ in loader:
        break
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_abandoned_iterators_leave_nothing(encoded: dict[str, Path]) -> None:
    loaders = [ShardLoader(path, batch_size=5) for path in encoded.values()]
    for loader in loaders:
        next(iter(loader))
    counts = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for number in range(60):
        iterator = iter(loaders[number % 3])
        for _ in range(number % 7):
            next(iterator)
        del iterator
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == counts


@pytest.mark.real
def test_iterators_that_the_garbage_collector_closes(encoded: dict[str, Path]) -> None:
    """The collector runs in any thread, which must not wait for another, or for itself."""
    script = f"""
        import gc, threading
        from cinic_shards import ShardLoader

        loader = ShardLoader({str(encoded["png"])!r}, batch_size=5, workers=2)
        gc.set_threshold(40)
        for number in range(150):
            iterator = iter(loader)
            next(iterator)
            cycle = [iterator]
            cycle.append(cycle)
            del iterator, cycle
        gc.collect()
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join(20)
        print(threading.active_count(), len(list(loader)))
        kept = iter(loader)
        next(kept)  # alive when the interpreter ends
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 36\n", "")


@pytest.mark.real
def test_an_iterator_closed_while_its_thread_compiles(encoded: dict[str, Path]) -> None:
    """The collector must not wait here either: the iterator's threads may wait for the compiler."""
    script = f"""
        import gc, threading
        from numba.core.compiler_lock import global_compiler_lock
        from cinic_shards import ShardLoader
        from cinic_shards.codec import kernels

        decode, waiting, calls = kernels.decode_png_batch, threading.Event(), []

        def compile_second_time(*args):
            calls.append(args)
            if len(calls) == 2:
                waiting.set()
                with global_compiler_lock:
                    pass
            decode(*args)

        loader = ShardLoader({str(encoded["png"])!r}, batch_size=5, workers=1)
        list(loader)  # compiles the kernels
        kernels.decode_png_batch = compile_second_time
        iterator = iter(loader)
        cycle = [iterator]
        cycle.append(cycle)
        with global_compiler_lock:
            next(iterator)
            waiting.wait()
            del iterator, cycle
            gc.collect()
        print(len(list(loader)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "36\n", "")


def test_an_iterator_that_outlives_the_modules(encoded: dict[str, Path]) -> None:
    script = f"""
        import cinic_shards.loader.epoch as module  # named here, it is cleared early
        from cinic_shards import ShardLoader

        loader = ShardLoader({str(encoded["png"])!r}, batch_size=5, workers=1)
        make, seen = loader._batch_maker().on_cpu, []

        def make_and_note(*args):
            seen.append(args)
            return make(*args)

        loader._batch_maker().on_cpu = make_and_note
        kept = iter(loader)
        next(kept), next(kept)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_kept_exception_keeps_no_thread_alive(encoded: dict[str, Path]) -> None:
    def fail(images: torch.Tensor, labels: torch.Tensor) -> Any:
        raise RuntimeError("mine")

    before = threading.active_count()
    loader = ShardLoader(encoded["raw"], batch_size=20, batch_transform=fail, device="cpu")
    with pytest.raises(RuntimeError, match="mine") as kept:
        list(loader)
    assert threading.active_count() == before and kept.value.__traceback__ is not None


def test_a_batch_moves_to_a_device(encoded: dict[str, Path]) -> None:
    batch: Batch = next(iter(ShardLoader(encoded["raw"], batch_size=4)))
    moved = batch.to("meta", non_blocking=True)
    assert {t.device.type for t in (moved.images, moved.labels, moved.valid)} == {"meta"}
    assert moved.indices is batch.indices and moved.loss_scale == 1
