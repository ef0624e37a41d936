"""Interfaces for existing scripts: DataLoader workers, checkpoints."""

import copy
import inspect
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.utils.data import DataLoader

from cinic_shards import CINIC10, Augment, Batch, ShardIterable, ShardLoader, Subset
from cinic_shards.errors import OptionError
from cinic_shards.loader.cache import Cache
from cinic_shards.write.pack import pack

# Torch warns about more workers than cores, and Python about a fork in a process with threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
]


def facts(batches: Any) -> list[tuple[list[int], bytes]]:
    return [(b.indices.tolist(), b.images.contiguous().numpy().tobytes()) for b in batches]


@pytest.mark.parametrize(
    "num_workers", [0, *(pytest.param(n, marks=pytest.mark.real) for n in (1, 2)), 3]
)
@pytest.mark.parametrize("encoding", ["png", "zstd"])
def test_any_number_of_workers_makes_the_loaders_batches(
    encoded: dict[str, Path], num_workers: int, encoding: str
) -> None:
    options: dict[str, Any] = {"batch_size": 20, "tail": "pad", "augment": Augment(), "seed": 3}
    loader = ShardLoader(encoded[encoding], **options)
    iterable = ShardIterable(encoded[encoding], **options)
    batches = DataLoader(iterable, batch_size=None, num_workers=num_workers)
    assert len(batches) == len(iterable) == 9
    for _ in range(2):
        assert facts(batches) == facts(loader)
    iterable.set_epoch(7)
    loader.set_epoch(7)
    for batch, expected in zip(batches, loader, strict=True):
        assert isinstance(batch, Batch) and torch.equal(batch.valid, expected.valid)
        assert batch.loss_scale == expected.loss_scale
        images, labels = batch
        assert torch.equal(labels, expected.labels) and images.stride() == expected.images.stride()


@pytest.mark.real
def test_persistent_and_spawned_workers(encoded: dict[str, Path]) -> None:
    loader = ShardLoader(encoded["zstd"], batch_size=20)
    iterable = ShardIterable(encoded["zstd"], batch_size=20)
    len(iterable)  # opens the files here, too
    for context, persistent in (("fork", True), ("spawn", True)):
        batches = DataLoader(
            iterable,
            batch_size=None,
            num_workers=2,
            persistent_workers=persistent,
            multiprocessing_context=context,
        )
        for epoch in (0, 1, 5, 6):
            if epoch in (0, 5):
                iterable.set_epoch(epoch)
            loader.set_epoch(epoch)
            assert facts(batches) == facts(loader)
        del batches


@pytest.mark.real
def test_workers_agree_on_the_epoch_whatever_came_before(encoded: dict[str, Path]) -> None:
    loader = ShardLoader(encoded["raw"], batch_size=20)
    epochs = [facts(loader) for _ in range(12)]
    iterable = ShardIterable(encoded["raw"], batch_size=20)

    def batches(num_workers: int) -> DataLoader[Batch]:
        return DataLoader(iterable, batch_size=None, num_workers=num_workers)

    next(iter(iterable))  # epoch 0
    assert facts(batches(2)) == epochs[1]
    assert facts(batches(1)) == epochs[2]
    assert facts(batches(3)) == epochs[3]
    for _ in range(4):  # abandoned at once: some workers have made no batch
        next(iter(batches(4)))
    assert facts(batches(3)) == epochs[8]
    again = pickle.loads(pickle.dumps(copy.deepcopy(iterable)))
    for epoch in (9, 10):
        found = facts(DataLoader(again, batch_size=None, num_workers=2))
        assert found == epochs[epoch]
    assert facts(batches(2)) == epochs[9]  # the copies have their own epochs


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_ranks_are_found_when_the_workers_start(
    encoded: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, context: str
) -> None:
    """A process group of this process is not one of spawned workers."""
    expected = facts(ShardLoader(encoded["raw"], batch_size=20, rank=0, world_size=1))
    iterable = ShardIterable(encoded["raw"], batch_size=20)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/g", rank=0, world_size=1)
    try:
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "3")
        loader = DataLoader(
            iterable, batch_size=None, num_workers=1, multiprocessing_context=context
        )
        assert facts(loader) == expected
    finally:
        distributed.destroy_process_group()


def test_samples_for_spawned_workers_may_be_chosen_by_a_lambda(encoded: dict[str, Path]) -> None:
    subset = Subset(where=lambda columns: columns.labels % 2 == 0, fraction=0.5)
    options: dict[str, Any] = {"batch_size": 20, "subset": subset}
    iterable = ShardIterable(encoded["raw"], **options)
    workers = DataLoader(iterable, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert facts(workers) == facts(ShardLoader(encoded["raw"], **options))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_dataloader_must_not_join_batches(
    encoded: dict[str, Path], num_workers: int, batch_size: int
) -> None:
    iterable = ShardIterable(encoded["raw"], batch_size=20)
    with pytest.raises(OptionError, match=r"give it batch_size=None"):
        next(iter(DataLoader(iterable, batch_size=batch_size, num_workers=num_workers)))


def test_an_error_in_a_worker_names_the_sample(encoded_tree: Path, tmp_path: Path) -> None:
    pack(encoded_tree, tmp_path / "shards", workers=1)
    reader = CINIC10(tmp_path / "shards")._open()[0]
    with open(tmp_path / "shards" / reader.shards[0].name, "r+b") as file:
        file.seek(int(reader._indexes[0].offset[7]) + 60)
        file.write(b"damage")
    batches = DataLoader(
        ShardIterable(tmp_path / "shards", batch_size=20), batch_size=None, num_workers=2
    )
    with pytest.raises(Exception, match=r"sample 7 .*CRC-32 is"):
        list(batches)


@pytest.mark.parametrize("option", ["device", "progress", "bath_size"])
def test_options_that_are_not_for_workers(encoded: dict[str, Path], option: str) -> None:
    with pytest.raises(TypeError, match=option):
        ShardIterable(encoded["raw"], **{option: "cpu"})
    for cache in ("device", Cache("device")):
        with pytest.raises(OptionError, match="cache='device': expected one of none, ram, disk"):
            ShardIterable(encoded["raw"], cache=cache)  # type: ignore[arg-type]


def test_the_options_are_the_loaders() -> None:
    def options(of: type) -> dict[str, Any]:
        parameters = inspect.signature(of).parameters.values()
        return {one.name: (one.kind, one.default) for one in parameters}

    loaders = options(ShardLoader)
    assert len(loaders) <= 21
    del loaders["device"], loaders["progress"]
    assert options(ShardIterable) == loaders


def test_every_option_reaches_the_loader(encoded: dict[str, Path], tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "split": "train+valid", "global_batch_size": 30, "shuffle": False, "seed": 4, "workers": 1,
        "normalize": "cinic10", "batch_transform": lambda images, labels: (images, labels),
        "subset": Subset(origin="imagenet"), "order": "full", "tail": "pad", "check": "always",
        "cache": Cache("disk", max_bytes=10**6, folder=tmp_path), "on_error": "skip", "rank": 1,
        "world_size": 3, "memory_format": torch.channels_last,
    }  # fmt: skip
    assert given.keys() | {"path", "batch_size", "augment"} == {
        *inspect.signature(ShardIterable).parameters
    }
    for options in (given, {"batch_size": 7, "augment": Augment(cutout=3)}):
        loader = ShardLoader(encoded["zstd"], **options)
        ours = ShardIterable(encoded["zstd"], **options)._own_loader()
        for name in (
            "workers", "rank", "batch_size", "batch_transform", "cache", "world_size",
            "memory_format",
        ):  # fmt: skip
            if name in options or name == "batch_size":
                assert getattr(ours, name) == getattr(loader, name)
        assert ours.state_dict() == loader.state_dict()
        assert ours.dataset.reader._checks_always == loader.dataset.reader._checks_always
        assert ours._batch_maker()._skips_damaged == loader._batch_maker()._skips_damaged


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.real)])
@pytest.mark.parametrize(
    ("done", "version"), [(0, 2), (1, 2), (4, 2), (8, 2), (9, 2), ("all", 2), (4, 1), ("all", 1)]
)
def test_torchdatas_stateful_dataloader(
    encoded: dict[str, Path], num_workers: int, done: int | str, version: int
) -> None:
    """The epochs after a resumed one have new processes; with a state of 0.1.0 they keep plan 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchdata.stateful_dataloader import StatefulDataLoader

    def make(plan_version: int = 2) -> Any:
        iterable = ShardIterable(encoded["zstd"], batch_size=20, augment=Augment())
        iterable._epochs.plan_version.fill_(plan_version)
        return StatefulDataLoader(iterable, batch_size=None, num_workers=num_workers)

    loader = ShardLoader(encoded["zstd"], batch_size=20, augment=Augment())
    loader.plan_version = version
    first, second, third, fourth = (facts(loader) for _ in range(4))
    batches = make(version)
    assert facts(batches) == first
    iterator = iter(batches)
    if done == "all":
        assert facts(iterator) == second
    else:
        assert facts(next(iterator) for _ in range(int(done))) == second[: int(done)]
    state = batches.state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    again = make()
    again.load_state_dict(torch.load(file))
    if done != "all":
        assert facts(again) == second[int(done) :]
    assert facts(again) == third
    assert facts(again) == fourth
