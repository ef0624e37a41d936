"""Interfaces for existing scripts: a map-style Dataset, DataLoader workers, checkpoints."""

import copy
import inspect
import io
import pickle
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_demo_tree import make_tree
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Subset as TorchSubset

from cinic_shards import CINIC10, Augment, Batch, ShardIterable, ShardLoader, Subset
from cinic_shards.errors import DecodeError, FormatError, OptionError
from cinic_shards.loader.bench import import_torchvision
from cinic_shards.loader.cache import Cache
from cinic_shards.write.pack import PackOptions, pack

# Torch warns about more workers than cores, and Python about a fork in a process with threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
]


def to_array(image: Any) -> Any:
    return torch.from_numpy(np.array(image))


# --- CINIC10 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
@pytest.mark.parametrize("split", ["test", "train+valid"])
def test_it_replaces_imagefolder(
    encoded_tree: Path, encoded: dict[str, Path], encoding: str, split: str
) -> None:
    import_torchvision()
    from torchvision.datasets import ImageFolder

    folders = [ImageFolder(str(encoded_tree / name)) for name in split.split("+")]
    ours = CINIC10(encoded[encoding], split)
    assert ours.classes == folders[0].classes
    assert ours.class_to_idx == folders[0].class_to_idx
    assert len(ours) == len(ours.targets) == sum(map(len, folders))
    theirs = {
        (split_name, Path(path).stem): (np.asarray(image), label)
        for split_name, folder in zip(split.split("+"), folders, strict=True)
        for (path, _), (image, label) in zip(folder.samples, folder, strict=True)
    }
    columns = ShardLoader(encoded[encoding], split=split, tail="short").dataset.columns
    for position in range(len(ours)):
        image, label = ours[position]
        split_name, _, stem = columns.keys[ours.ids[position]].split("/")
        pixels, expected = theirs.pop((split_name, stem))
        assert isinstance(image, Image.Image) and image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert type(label) is int and label == expected == ours.targets[position]
    assert theirs == {}


def test_transforms_and_indices(encoded: dict[str, Path]) -> None:
    plain = CINIC10(encoded["zstd"], "valid")
    pets = Subset(classes=["cat", "dog"])
    ours = CINIC10(encoded["zstd"], "valid", to_array, lambda label: -label, subset=pets)
    assert len(ours) == 36 and set(ours.targets) == {3, 5}
    image, label = ours[35]
    assert image.shape == (32, 32, 3) and label == -ours.targets[35]
    assert torch.equal(image, ours[-1][0]) and torch.equal(image, ours[np.int64(35)][0])
    position = plain.ids.tolist().index(ours.ids[35])
    assert torch.equal(image, to_array(plain[position][0]))
    for index in (36, -37):
        with pytest.raises(IndexError):
            ours[index]
    assert [label for _, label in ours.__getitems__([3, 3, 0])] == [ours[i][1] for i in (3, 3, 0)]


@pytest.mark.parametrize(
    ("context", "encoding"),
    [
        ("fork", "png"),
        ("fork", "raw"),
        ("fork", "zstd"),
        pytest.param("spawn", "zstd", marks=pytest.mark.real),
        pytest.param("forkserver", "zstd", marks=pytest.mark.real),
    ],
)
def test_dataloader_workers(encoded: dict[str, Path], context: str, encoding: str) -> None:
    subset = Subset(where=lambda c: c.number % 3 > 0)
    data = CINIC10(encoded[encoding], transform=to_array, subset=subset)
    data[0]  # opens the files here before the workers start
    loader = DataLoader(
        TorchSubset(data, range(5, len(data))), 16, num_workers=2, multiprocessing_context=context
    )
    position = 5
    for images, labels in loader:
        for image, label in zip(images, labels, strict=True):
            assert torch.equal(image, data[position][0]) and label == data.targets[position]
            position += 1
    assert position == len(data)


def test_workers_share_the_cache_on_disk(encoded: dict[str, Path], tmp_path: Path) -> None:
    cache = Cache("disk", folder=tmp_path)
    data = CINIC10(encoded["zstd"], transform=to_array, cache=cache)
    expected = [to_array(image) for image, _ in CINIC10(encoded["zstd"])]
    loader = DataLoader(data, 16, num_workers=2, multiprocessing_context="fork")
    assert all(map(torch.equal, torch.cat([images for images, _ in loader]), expected))
    assert list(tmp_path.glob("*/train/pixels"))


def test_it_pickles_without_open_files(encoded: dict[str, Path]) -> None:
    data = CINIC10(encoded["zstd"], subset=Subset(where=lambda columns: columns.number > 100))
    size = len(pickle.dumps(data))
    data[0]
    assert len(pickle.dumps(data)) == size
    again = pickle.loads(pickle.dumps(data))
    assert again.targets == data.targets
    np.testing.assert_array_equal(again[7][0], data[7][0])


def test_a_dataset_that_was_replaced(encoded_tree: Path, tmp_path: Path) -> None:
    pack(encoded_tree, tmp_path / "shards", workers=1)
    data = CINIC10(tmp_path / "shards")
    make_tree(tmp_path / "tree", per_class=18, seed=9)
    pack(tmp_path / "tree", tmp_path / "shards", workers=1, overwrite=True)
    with pytest.raises(FormatError, match="the dataset has changed since the CINIC10 was made"):
        data[0]


@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
def test_damage_is_named(encoded_tree: Path, tmp_path: Path, encoding: str) -> None:
    options = PackOptions(encoding=encoding, block_size=16)
    pack(encoded_tree, tmp_path / "shards", options, workers=1)
    data = CINIC10(tmp_path / "shards")
    reader = data._open()[0]
    row = 40
    index = reader._indexes[0]
    payload = row if encoding == "png" else row // 16
    with open(tmp_path / "shards" / reader.shards[0].name, "r+b") as file:
        skip = 128 + (row % 16) * 3072 if encoding == "raw" else 60
        file.seek(int(index.offset[payload]) + skip)
        file.write(b"damage")
    sample = rf"sample 40 \({index.keys[40]}\)"
    with pytest.raises(DecodeError, match=f"train-00000-of-00002.tar: {sample}"):
        CINIC10(tmp_path / "shards")[row]


def test_invalid_options_of_the_dataset(encoded: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="cache='device'"):
        CINIC10(encoded["raw"], cache="device")
    with pytest.raises(OptionError, match="no split 'dev'"):
        CINIC10(encoded["raw"], "dev")
    with pytest.raises(TypeError, match="colour"):
        CINIC10(encoded["raw"], colour="red")


# --- ShardIterable ----------------------------------------------------------------------------


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


def test_ranks_are_determined_when_it_is_made(
    encoded: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = facts(ShardLoader(encoded["raw"], batch_size=20, rank=1, world_size=3))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    iterable = ShardIterable(encoded["raw"], batch_size=20)
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert facts(DataLoader(iterable, batch_size=None, num_workers=2)) == expected


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
    assert len(loaders) <= 20
    del loaders["device"], loaders["progress"]
    assert options(ShardIterable) == loaders


def test_every_option_reaches_the_loader(encoded: dict[str, Path], tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "split": "train+valid", "global_batch_size": 30, "shuffle": False, "seed": 4, "workers": 1,
        "normalize": "cinic10", "batch_transform": lambda images, labels: (images, labels),
        "subset": Subset(origin="imagenet"), "order": "full", "tail": "pad", "check": "always",
        "cache": Cache("disk", max_bytes=10**6, folder=tmp_path), "on_error": "skip", "rank": 1,
        "world_size": 3,
    }  # fmt: skip
    assert given.keys() | {"path", "batch_size", "augment"} == {
        *inspect.signature(ShardIterable).parameters
    }
    for options in (given, {"batch_size": 7, "augment": Augment(cutout=3)}):
        loader = ShardLoader(encoded["zstd"], **options)
        ours = ShardIterable(encoded["zstd"], **options)._own_loader()
        for name in ("workers", "rank", "batch_size", "batch_transform", "cache", "world_size"):
            if name in options or name == "batch_size":
                assert getattr(ours, name) == getattr(loader, name)
        assert ours.state_dict() == loader.state_dict()
        assert ours._reader._checks_always == loader._reader._checks_always
        assert ours._maker._skips_damaged == loader._maker._skips_damaged


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


# --- In other people's loops ------------------------------------------------------------------

LIGHTNING = """
    import sys, warnings
    warnings.simplefilter("ignore")
    from cinic_shards import Augment, ShardLoader
    from cinic_shards.loader.bench import import_torchvision
    from cinic_shards.loader.cache import Cache
    import_torchvision()  # lightning's own import fails with a CPU build of torch
    import lightning, torch

    encoded, folder, mode = sys.argv[1:]

    class Linear(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
            self.seen = []

        def training_step(self, batch, number):
            images, labels = batch
            self.seen += batch.indices.tolist()
            if mode == "stop" and self.global_step == 13:
                self.trainer.save_checkpoint(folder + "/stopped.ckpt")
                raise KeyboardInterrupt
            return torch.nn.functional.cross_entropy(self.model(images), labels)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    loader = ShardLoader(encoded, batch_size=20, augment=Augment())
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False,
    )
    module = Linear()
    path = folder + "/stopped.ckpt" if mode == "resume" else None
    try:
        trainer.fit(module, loader, ckpt_path=path, weights_only=False)
    except (KeyboardInterrupt, SystemExit):
        pass
    print(" ".join(map(str, module.seen)))
"""


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return done.stdout


@pytest.fixture(scope="module")
def lightning_epochs(encoded: dict[str, Path], tmp_path_factory: Any) -> Iterator[list[int]]:
    if find_spec("lightning") is None:
        pytest.skip("NOT RUN: lightning is not installed")
    folder = tmp_path_factory.mktemp("lightning")
    yield [int(i) for i in run(LIGHTNING, encoded["raw"], folder, "whole").split()]


@pytest.mark.real
def test_lightning_trains(encoded: dict[str, Path], lightning_epochs: list[int]) -> None:
    loader = ShardLoader(encoded["raw"], batch_size=20)
    assert lightning_epochs == [i for _ in range(3) for b in loader for i in b.indices.tolist()]


@pytest.mark.real
def test_lightning_resumes_in_the_middle_of_an_epoch(
    encoded: dict[str, Path], lightning_epochs: list[int], tmp_path: Path
) -> None:
    stopped = [int(i) for i in run(LIGHTNING, encoded["raw"], tmp_path, "stop").split()]
    resumed = [int(i) for i in run(LIGHTNING, encoded["raw"], tmp_path, "resume").split()]
    # The interrupted step had its batch already: the state is after that batch.
    assert stopped + resumed == lightning_epochs
