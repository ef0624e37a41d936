"""A batch is the tuple (images, labels), and what moves or rebuilds it keeps its attributes."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, default_convert

from cinic_shards import Augment, Batch, ShardIterable, ShardLoader
from cinic_shards.errors import OptionError

N = 5
FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture
def batch() -> Batch:
    valid = torch.tensor([True] * (N - 1) + [False])
    images = torch.arange(N * 3 * 4 * 4).reshape(N, 3, 4, 4).to(torch.uint8)
    return Batch(images, torch.arange(N), torch.arange(N) + 70, valid, 0.75)


def extras_of(batch: Any) -> tuple[list[int], list[bool], float]:
    assert type(batch) is Batch
    return batch.indices.tolist(), batch.valid.tolist(), batch.loss_scale


EXTRAS = [70, 71, 72, 73, 74], [True, True, True, True, False], 0.75


def test_a_batch_is_a_tuple_of_images_and_labels(batch: Batch) -> None:
    images, labels = batch
    assert isinstance(batch, tuple) and len(batch) == 2
    assert images is batch[0] is batch.images and labels is batch[-1] is batch.labels
    assert [*batch][1] is labels and (lambda x, y: x)(*batch) is images
    assert batch.num_samples == N and extras_of(batch) == EXTRAS
    assert repr(batch) == "Batch(5 images (3, 4, 4) uint8, labels int64)"
    assert repr(batch.to("meta")) == "Batch(5 images (3, 4, 4) uint8 on meta, labels int64)"
    with pytest.raises(AttributeError):
        batch.images = images  # type: ignore[misc]


def lightning_converts(batch: Batch) -> Any:
    """Precision "64-true": images become new tensors, labels do not. Its moves call ``to``."""
    functions = pytest.importorskip("lightning_utilities.core.apply_func")

    def to_double(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    batch = Batch(batch.images.float(), batch.labels)
    found = functions.apply_to_collection(batch, torch.Tensor, to_double)
    assert found.images.dtype == torch.float64
    return found


def accelerate_rebuilds(batch: Batch) -> Any:
    """Accelerate's honor_type: it knows a namedtuple by these two names."""
    assert hasattr(batch, "_asdict") and hasattr(batch, "_fields")
    assert batch._asdict() == {"images": batch.images, "labels": batch.labels}
    return type(batch)(*[tensor.to("cpu") for tensor in batch])


def saved_and_loaded(batch: Batch) -> Any:
    file = io.BytesIO()
    torch.save(batch, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


KEEPERS: dict[str, Callable[[Batch], Any]] = {
    "to": lambda batch: batch.to("cpu", non_blocking=True),
    "default_convert": default_convert,
    "pickle": lambda batch: pickle.loads(pickle.dumps(batch)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "torch.save": saved_and_loaded,
    "pytree": lambda batch: pytree.tree_map(torch.clone, batch),
    "pytree with paths": lambda batch: pytree.tree_map_with_path(lambda _, t: t + 0, batch),
    "nested": lambda batch: pytree.tree_map(torch.clone, {"a": [batch]})["a"][0],
    "Lightning's precision": lightning_converts,
    "Accelerate's copy": accelerate_rebuilds,
}


@pytest.mark.parametrize("name", KEEPERS)
def test_the_attributes_are_kept(batch: Batch, name: str) -> None:
    found = KEEPERS[name](batch)
    assert extras_of(found) == EXTRAS
    assert torch.equal(found.images, batch.images.to(found.images.dtype))
    assert torch.equal(found.labels, batch.labels)


def test_pinned_memory_keeps_the_attributes(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self.clone()
    )
    found = torch.utils.data._utils.pin_memory.pin_memory(batch)
    assert extras_of(found) == EXTRAS
    assert pinned == [batch.images, batch.labels, batch.valid]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_dataloader_with_default_options_keeps_the_attributes(
    encoded: dict[str, Path], num_workers: int
) -> None:
    options: dict[str, Any] = {"batch_size": 50, "tail": "pad"}
    found = DataLoader(
        ShardIterable(encoded["raw"], **options), batch_size=None, num_workers=num_workers
    )
    for one, other in zip(found, ShardLoader(encoded["raw"], **options), strict=True):
        assert extras_of(one) == extras_of(other)


def test_pytrees_have_two_leaves(batch: Batch) -> None:
    leaves, spec = pytree.tree_flatten(batch)
    assert leaves[0] is batch.images and leaves[1] is batch.labels and len(leaves) == 2
    other = Batch(batch.images, batch.labels.clone(), batch.indices + 1, batch.valid, 0.5)
    assert spec == pytree.tree_structure(other) and spec != pytree.tree_structure((1, 2))
    assert hash(spec) == hash(pytree.tree_structure(other))
    added = pytree.tree_map(lambda one, two: one + two, batch, other)
    assert torch.equal(added.labels, 2 * batch.labels) and extras_of(added) == EXTRAS
    assert pytree.tree_map(lambda tensor: tensor.dtype, batch) == (torch.uint8, torch.int64)


LOSERS: dict[str, Callable[[Batch], Any]] = {
    "made by hand": lambda batch: Batch(batch.images[:2], batch.labels[:2]),
    "a slice by pytree": lambda batch: pytree.tree_map(lambda tensor: tensor[:2], batch),
    "default_convert of arrays": lambda batch: default_convert(
        Batch(*map(torch.Tensor.numpy, batch))
    ),
}


@pytest.mark.parametrize("name", LOSERS)
def test_attributes_that_cannot_be_kept_are_errors(batch: Batch, name: str) -> None:
    found = LOSERS[name](batch)
    assert type(found) is Batch and len(found) == 2
    for attribute in ("indices", "valid", "loss_scale"):
        with pytest.raises(AttributeError, match=f"this batch has no {attribute}: "):
            getattr(found, attribute)
    assert type(found.to("cpu")) is type(copy.deepcopy(found)) is Batch
    assert repr(found).startswith("Batch(")


def test_attributes_come_together(batch: Batch) -> None:
    with pytest.raises(TypeError, match="all of indices, valid and loss_scale, or none"):
        Batch(*batch, indices=batch.indices)


def test_labels_are_saved_without_this_package(batch: Batch) -> None:
    """They carry a plain tuple of tensors, which any program can load."""
    file = io.BytesIO()
    torch.save(batch.labels, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), batch.labels)
    assert b"cinic_shards.loader" not in file.getvalue()


@pytest.mark.real  # torch.compile is loaded for ten seconds
def test_compiled_functions_take_a_batch(batch: Batch) -> None:
    def total(batch: Batch) -> torch.Tensor:
        images, labels = batch
        return images.sum() + labels.sum() + batch[1].sum()

    expected = total(batch)
    assert torch.equal(torch.compile(total, backend="eager")(batch), expected)


# --- Memory format ----------------------------------------------------------------------------


class LeNet(nn.Module):
    """LeNet-5 of PyTorch's tutorials, which flattens with ``view``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.last = nn.Linear(400, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.second):
            x = nn.functional.max_pool2d(layer(x).relu(), 2)
        return self.last(x.view(-1, 400))


def test_images_can_be_flattened_with_view(encoded: dict[str, Path]) -> None:
    batch = next(iter(ShardLoader(encoded["zstd"], batch_size=20, augment=Augment())))
    images, labels = batch
    assert images.view(len(images), -1).shape == (20, 3072)
    nn.functional.cross_entropy(LeNet()(batch[0]), labels).backward()


OPTIONS: dict[str, dict[str, Any]] = {
    "uint8": {},
    "float32": {"augment": Augment(cutout=8)},
    "normalised": {"normalize": True},
    "bfloat16": {"augment": Augment(dtype="bfloat16")},
}
CACHES: dict[str, dict[str, Any]] = {
    "ram": {"cache": "ram"},
    "none, device": {"device": "cpu"},
    "device": {"cache": "device", "device": "cpu"},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    ("encoding", "cache"),
    [("png", "none"), ("zstd", "none"), ("raw", "none"), *(("zstd", name) for name in CACHES)],
)
def test_both_memory_formats_have_the_same_values(
    encoded: dict[str, Path], encoding: str, name: str, cache: str
) -> None:
    options: dict[str, Any] = (
        {"batch_size": 7, "tail": "short"} | OPTIONS[name] | CACHES.get(cache, {})
    )
    one, other = (ShardLoader(encoded[encoding], memory_format=m, **options) for m in FORMATS)
    assert one.state_dict() == other.state_dict()
    for planar, last in zip(one, other, strict=True):
        assert planar.images.is_contiguous() and not last.images.is_contiguous()
        assert last.images.is_contiguous(memory_format=torch.channels_last)
        assert planar.images.dtype == last.images.dtype
        assert torch.equal(planar.images, last.images)
        assert planar.images.untyped_storage().nbytes() == planar.images.nbytes
    default = next(iter(ShardLoader(encoded[encoding], **options)))
    assert default.images.is_contiguous()


def test_workers_make_the_memory_format(encoded: dict[str, Path]) -> None:
    iterable = ShardIterable(encoded["raw"], batch_size=20, memory_format=torch.channels_last)
    for batch in DataLoader(iterable, batch_size=None, num_workers=1):
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("value", [torch.preserve_format, torch.channels_last_3d, "channels_last"])
def test_other_memory_formats_are_rejected(encoded: dict[str, Path], value: Any) -> None:
    with pytest.raises(OptionError, match=r"memory_format=.*: expected "):
        ShardLoader(encoded["raw"], memory_format=value)
