"""Every option of every public function: wrong types and impossible values give OptionError."""

import inspect
import math
import typing
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cinic_shards
from cinic_shards.check.reindex import reindex
from cinic_shards.check.verify import verify
from cinic_shards.cinic.build_options import BuildOptions
from cinic_shards.cinic.restore import restore_cifar10
from cinic_shards.errors import CinicShardsError, OptionError
from cinic_shards.exports import export
from cinic_shards.loader.augment import Augment
from cinic_shards.loader.cache import Cache
from cinic_shards.loader.cinic10 import CINIC10
from cinic_shards.loader.loader import ShardLoader
from cinic_shards.loader.torch_datasets import ShardIterable
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.schemes import partition
from cinic_shards.read.subset import Subset
from cinic_shards.store import open_store
from cinic_shards.view.montage import show
from cinic_shards.view.report import write_report
from cinic_shards.view.stats import stats
from cinic_shards.write.convert import convert
from cinic_shards.write.pack import PackOptions, pack
from cinic_shards.write.select import select
from cinic_shards.write.unpack import unpack

VALUES: dict[str, Any] = {
    "True": True,
    "0": 0,
    "-1": -1,
    "2**80": 2**80,
    "1.5": 1.5,
    "NaN": math.nan,
    "inf": math.inf,
    "float32 NaN": np.float32("nan"),
    "empty string": "",
    "'no'": "no",
    "'8'": "8",
    "bytes": b"train",
    "empty list": [],
    "list of a number": [1],
    "list of None": [None],
    "list of a list": [["cat"]],
    "tuple of NaN": ((math.nan,) * 3, (1.0,) * 3),
    "zero deviation": ((0.5,) * 3, (0.0,) * 3),
    "tuple of two": (0.5, 0.5),
    "dict": {"cat": 1},
    "array": np.arange(3),
    "tensor": torch.ones(2),
    "object": object(),
    "class": Augment,
}
"""By the name in the test's id."""


def takes(hint: Any, value: Any) -> bool:
    """True if a value is of an annotation's type: the tests' own, strict reading of it."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return isinstance(value, str) and value in parts
    if origin is typing.Union or str(origin) == "<class 'types.UnionType'>":
        return any(takes(part, value) for part in parts)
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int | np.integer) and not isinstance(value, bool)
    if hint is float:
        is_number = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
        return is_number and math.isfinite(value)
    if origin is tuple and parts[-1] is not ...:
        is_pair = isinstance(value, tuple) and len(value) == len(parts)
        return is_pair and all(map(takes, parts, value))
    if origin is tuple or str(origin) == "<class 'collections.abc.Sequence'>":
        if not isinstance(value, list | tuple | np.ndarray | torch.Tensor):
            return False
        return all(takes(parts[0], item) for item in value)
    if origin is Callable or str(origin) == "<class 'collections.abc.Callable'>":
        return callable(value)
    return isinstance(value, origin or hint)


class Call(typing.NamedTuple):
    """A public function, and arguments with which a call of it succeeds."""

    function: Callable[..., Any]
    arguments: dict[str, Any] = {}  # noqa: RUF012 - read only
    then: Callable[[Any], Any] = lambda result: result


def first_batch(loader: Any) -> Any:
    """Return the first batch: some options are used only then."""
    return next(iter(loader))


LOADER: dict[str, Any] = {"path": "DATASET", "batch_size": 8, "workers": 1}
CALLS = {
    "Augment": Call(Augment),
    "Subset": Call(Subset),
    "Cache": Call(Cache, {"kind": "ram"}),
    "export": Call(export, {"path": "DATASET", "out": "OUT", "format": "npz"}),
    "partition": Call(partition, {"path": "DATASET", "scheme": "iid", "parts": 2}),
    "PackOptions": Call(PackOptions),
    "BuildOptions": Call(BuildOptions),
    "ShardLoader": Call(ShardLoader, LOADER, first_batch),
    "ShardIterable": Call(ShardIterable, LOADER, first_batch),
    "CINIC10": Call(CINIC10, {"root": "DATASET"}, lambda dataset: dataset[0]),
    "Dataset": Call(Dataset, {"path": "DATASET"}),
    "open_store": Call(open_store, {"path": "DATASET"}),
    "pack": Call(pack, {"root": "TREE", "out": "OUT", "workers": 1}),
    "convert": Call(convert, {"path": "DATASET", "out": "OUT", "encoding": "raw", "workers": 1}),
    "select": Call(select, {"path": "DATASET", "out": "OUT", "workers": 1}),
    "unpack": Call(unpack, {"path": "DATASET", "out": "OUT", "workers": 1}),
    "verify": Call(verify, {"path": "DATASET", "workers": 1}),
    "reindex": Call(reindex, {"path": "DATASET", "workers": 1}),
    "stats": Call(stats, {"path": "DATASET", "workers": 1}),
    "show": Call(show, {"path": "DATASET", "out": "OUT.png"}),
    "write_report": Call(write_report, {"path": "DATASET", "out": "OUT.html", "workers": 1}),
    "restore_cifar10": Call(restore_cifar10, {"path": "DATASET", "out": "OUT"}),
}


def parameters() -> list[Any]:
    """List every option of every function in ``CALLS``, but paths and functions."""
    found = []
    for name, call in CALLS.items():
        hints = typing.get_type_hints(
            call.function if not isinstance(call.function, type) else hinted(call.function)
        )
        for option in inspect.signature(call.function).parameters.values():
            hint = hints[option.name]
            is_function = "Callable" in str(hint) and option.name != "where"
            if option.name not in ("path", "root", "out", "self") and not is_function:
                found.append(pytest.param(call, option, hint, id=f"{name}-{option.name}"))
    return found


def hinted(class_: type) -> Any:
    """Return what holds a class's annotations: a dataclass itself, else its ``__init__``."""
    return class_ if hasattr(class_, "__dataclass_fields__") else class_.__init__  # type: ignore[misc]


@pytest.fixture
def filled(
    tmp_path: Path, demo_tree: Path, shards: Path
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that puts real paths into a call's arguments."""
    numbers = count()

    def fill(arguments: dict[str, Any]) -> dict[str, Any]:
        out = str(tmp_path / f"out{next(numbers)}")
        real = {"DATASET": str(shards), "TREE": str(demo_tree)}
        return {
            name: real.get(value, value.replace("OUT", out)) if isinstance(value, str) else value
            for name, value in arguments.items()
        }

    return fill


def outcome(call: Call, arguments: dict[str, Any]) -> Exception | None:
    """Return the project's error; any other exception fails the test."""
    try:
        call.then(call.function(**arguments))
    except CinicShardsError as error:
        return error
    return None


@pytest.mark.parametrize(("call", "option", "hint"), parameters())
def test_an_option_of_the_wrong_type_is_an_option_error(
    call: Call, option: inspect.Parameter, hint: Any, filled: Any
) -> None:
    for name, value in VALUES.items():
        error = outcome(call, filled(call.arguments | {option.name: value}))
        if not takes(hint, value):
            assert isinstance(error, OptionError), f"{option.name}={value!r} ({name}): {error!r}"


@pytest.mark.parametrize("name", CALLS)
def test_none_means_the_default(name: str, filled: Any) -> None:
    call = CALLS[name]
    options = inspect.signature(call.function).parameters.values()
    left_out = [one.name for one in options if one.name not in call.arguments]
    expected = outcome(call, filled(call.arguments))
    found = outcome(call, filled(call.arguments | dict.fromkeys(left_out)))
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("make", "given", "expected"),
    [
        (Augment, {"crop_padding": np.int64(2)}, 2),
        (Augment, {"flip": np.bool_(False)}, False),
        (Augment, {"normalize": ([0.5] * 3, np.full(3, 0.25))}, ((0.5,) * 3, (0.25,) * 3)),
        (Subset, {"classes": ["cat"]}, ("cat",)),
        (Subset, {"classes": (name for name in ["cat"])}, ("cat",)),
        (Subset, {"origin": "cifar"}, "cifar"),
        (Subset, {"fraction": 1}, 1.0),
        (Subset, {"fraction": np.float32(0.5)}, 0.5),
        (PackOptions, {"shard_size": np.int32(7)}, 7),
    ],
)
def test_values_are_converted(make: Any, given: dict[str, Any], expected: Any) -> None:
    (name,) = given
    value = getattr(make(**given), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (Augment, {"flip": "no"}, "flip='no': expected True or False"),
        (Augment, {"normalize": 1}, "normalize=1: expected True or False, one of cinic10, (a list"),
        (Subset, {"classes": "cat"}, "classes='cat': expected a list of strings or None"),
        (Subset, {"where": 3}, "where=3: expected a function or None"),
        (Subset, {"fraction": "x" * 99}, f"fraction='{'x' * 59}...: expected a finite number"),
        (ShardLoader, {"path": ".", "augment": True}, "augment=True: expected an Augment or None"),
        (ShardLoader, {"path": 3}, "path=3: expected a string, a path or a Store"),
    ],
)
def test_messages_name_the_option_and_what_is_expected(
    make: Any, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError) as error:
        make(**given)
    assert str(error.value).startswith(message)


def test_every_public_function_is_covered() -> None:
    tested = {name.partition(".")[0] for name in CALLS}
    assert set(cinic_shards.__all__) - {"__version__", "Batch", "Partition"} <= tested
