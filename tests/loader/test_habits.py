"""A loader where people's code puts it: ranks found late, pickled, peeked into, in trainers."""

import copy
import inspect
import multiprocessing
import os
import pickle
import pydoc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import cinic_shards
from cinic_shards import Augment, ShardLoader, Subset
from cinic_shards.errors import FormatError, OptionError
from cinic_shards.write.pack import PackOptions, pack
from tests.loader.test_state import facts

TWO_RANKS = {"RANK": "1", "WORLD_SIZE": "2"}


@pytest.fixture
def as_rank_1(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes this process rank 1 of 2, as a launcher would before it starts."""

    def change() -> None:
        for name, value in TWO_RANKS.items():
            monkeypatch.setenv(name, value)

    return change


# --- Ranks ------------------------------------------------------------------------------------


def test_the_rank_is_found_at_the_first_batch(encoded: dict[str, Path], as_rank_1: Any) -> None:
    loader = ShardLoader(encoded["zstd"], batch_size=10)
    repr(loader), loader.rank, loader.dataset, loader.workers  # these fix nothing
    expected = facts(ShardLoader(encoded["zstd"], batch_size=10, rank=1, world_size=2))
    as_rank_1()
    assert facts(loader) == expected
    assert (loader.rank, loader.world_size, loader.global_batch_size) == (1, 2, 20)


@pytest.mark.parametrize(
    "use", [len, ShardLoader.state_dict, ShardLoader.peek, lambda loader: next(iter(loader))]
)
def test_what_was_taken_for_fewer_ranks_is_an_error(
    encoded: dict[str, Path], as_rank_1: Any, use: Any
) -> None:
    loader = ShardLoader(encoded["raw"], batch_size=10)
    fixed = ShardLoader(encoded["raw"], global_batch_size=20)
    use(loader), use(fixed)
    as_rank_1()
    with pytest.raises(OptionError, match=r"10 samples in a batch .* 2 ranks, .* init_process_gr"):
        next(iter(loader))
    next(iter(fixed))  # its length and state are the same for any number of ranks


def test_more_ranks_than_samples_are_found_at_the_first_batch(
    encoded: dict[str, Path], as_rank_1: Any
) -> None:
    loader = ShardLoader(encoded["raw"], batch_size=100)
    as_rank_1()
    with pytest.raises(OptionError, match="180 samples, fewer than the 200 of a batch on all"):
        len(loader)


def test_a_rank_that_is_lost_is_an_error(encoded: dict[str, Path], as_rank_1: Any) -> None:
    """One that was given stays."""
    given = ShardLoader(encoded["raw"], batch_size=10, rank=0, world_size=1)
    first = given.peek().indices.tolist()
    as_rank_1()
    assert given.peek().indices.tolist() == first


# --- Copies and other processes ---------------------------------------------------------------

OPTIONS: dict[str, Any] = {
    "batch_size": 20,
    "augment": Augment(cutout=4),
    "subset": Subset(where=lambda columns: columns.labels < 7, fraction=0.7),
    "seed": 3,
    "workers": 1,
}


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
@pytest.mark.parametrize("num_done", [0, 1, 2, "all"])
def test_a_copy_continues(encoded: dict[str, Path], how: str, num_done: Any) -> None:
    """Its samples were chosen by a lambda, which cannot be pickled: their numbers travel."""
    loader = ShardLoader(encoded["zstd"], "train", **OPTIONS)
    list(loader)
    iterator = iter(loader)
    for _ in range(len(loader) if num_done == "all" else num_done):
        next(iterator)
    if num_done == "all":
        assert next(iterator, None) is None
    again = pickle.loads(pickle.dumps(loader)) if how == "pickle" else copy.deepcopy(loader)
    assert again.state_dict() == loader.state_dict()
    assert facts(again) == (facts(iterator) or facts(loader))


def put_facts(loader: ShardLoader, queue: Any) -> None:
    queue.put(facts(loader))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_loader_travels_to_a_process(encoded: dict[str, Path], method: str) -> None:
    context = multiprocessing.get_context(method)
    loader = ShardLoader(encoded["raw"], "train", **OPTIONS)
    queue = context.Queue()
    process = context.Process(target=put_facts, args=(loader, queue))
    process.start()
    assert queue.get(timeout=100) == facts(loader)
    process.join()


def test_a_dataset_that_changed_before_it_was_opened_again(
    encoded: dict[str, Path], encoded_tree: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    pack(encoded_tree, folder, PackOptions(encoding="raw"), workers=1)
    sent = pickle.dumps(ShardLoader(folder, batch_size=20))
    pack(encoded_tree, folder, PackOptions(encoding="raw", seed=1), workers=1, overwrite=True)
    with pytest.raises(FormatError, match="the dataset has changed since it was opened"):
        pickle.loads(sent)


@pytest.mark.real
def test_200_forks_beside_a_loaders_threads(encoded: dict[str, Path]) -> None:
    """Each child reads an epoch of its own."""
    expected = facts(ShardLoader(encoded["zstd"], batch_size=20))
    busy = ShardLoader(encoded["zstd"], batch_size=20, workers=2)
    for _ in range(200):
        for number, _batch in enumerate(busy):
            if number == 3:
                child = os.fork()
                if not child:
                    is_same = False
                    try:
                        is_same = facts(ShardLoader(encoded["zstd"], batch_size=20)) == expected
                    finally:
                        os._exit(0 if is_same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- Small habits -----------------------------------------------------------------------------


def test_peek_uses_up_nothing(encoded: dict[str, Path]) -> None:
    loader = ShardLoader(encoded["raw"], batch_size=20)
    expected = [facts(ShardLoader(encoded["raw"], batch_size=20)), facts(loader)]
    assert expected[0] == expected[1]
    loader.set_epoch(0)
    assert facts([loader.peek(), loader.peek()]) == [expected[0][0]] * 2
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    loader.peek()
    assert loader.state_dict() == state
    assert facts(iterator) == expected[0][1:]


def test_the_samplers_epoch(encoded: dict[str, Path]) -> None:
    """It is the loader's; after a state was loaded, a trainer's numbers are relative to it."""

    def epochs(loader: ShardLoader, *numbers: int) -> list[tuple[int, int]]:
        found = []
        for number in numbers:
            loader.sampler.set_epoch(number)
            state = loader.state_dict()
            found.append((state["epoch"], state["step"]))
            list(loader)
        return found

    loader = ShardLoader(encoded["raw"], batch_size=20)
    assert epochs(loader, 0, 1, 5, 0) == [(0, 0), (1, 0), (5, 0), (0, 0)]
    state = loader.state_dict() | {"epoch": 3, "step": 4}
    for numbers in ((3, 4), (0, 1), (7, 8)):
        loader.load_state_dict(state)
        assert epochs(loader, *numbers) == [(3, 4), (4, 0)]
    loader.load_state_dict(state | {"step": len(loader)})
    loader.sampler.set_epoch(3)  # Lightning, for an epoch that it does not run
    assert epochs(loader, 4, 5) == [(4, 0), (5, 0)]
    loader.set_epoch(1)
    assert epochs(loader, 2) == [(2, 0)]


def test_the_dataset_of_a_loader(encoded: dict[str, Path]) -> None:
    subset = Subset(origin="imagenet")
    loader = ShardLoader(encoded["png"], "valid", batch_size=20, subset=subset, tail="short")
    dataset = loader.dataset
    pairs = {
        i: label for b in loader for i, label in zip(*map(list, facts([b])[0][:2]), strict=True)
    }
    assert len(dataset) == loader.num_samples == len(pairs)
    assert dict(zip(dataset.ids.tolist(), dataset.targets, strict=True)) == pairs
    assert dataset.class_to_idx == {name: i for i, name in enumerate(loader.classes)}
    assert dataset.classes == list(loader.classes)


def test_a_dataloader_around_a_loader_says_what_to_use(encoded: dict[str, Path]) -> None:
    loader = ShardLoader(encoded["png"], batch_size=20)
    for shuffle in (False, True):
        with pytest.raises(OptionError, match=r"iterate over it, .*as_dataloader\(\)"):
            next(iter(DataLoader(loader, shuffle=shuffle)))  # type: ignore[arg-type]


def test_a_dataloader_of_a_loader(encoded: dict[str, Path]) -> None:
    loader = ShardLoader(encoded["png"], batch_size=20)
    wrapped = loader.as_dataloader()
    assert isinstance(wrapped, DataLoader)
    assert (len(wrapped), len(wrapped.dataset)) == (len(loader), 180)  # type: ignore[arg-type]
    expected = facts(ShardLoader(encoded["png"], batch_size=20))
    assert facts(wrapped) == expected
    wrapped.set_epoch(0)
    iterator = iter(wrapped)
    next(iterator), next(iterator)
    again = ShardLoader(encoded["png"], batch_size=20).as_dataloader()
    again.load_state_dict(wrapped.state_dict())
    assert facts(pickle.loads(pickle.dumps(again))) == expected[2:]
    assert facts(DataLoader(again.dataset, batch_size=None)) == expected  # from the epoch's start


def test_a_repr_is_one_useful_line(
    encoded: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = ShardLoader(encoded["png"], batch_size=20)
    start = f"ShardLoader({str(encoded['png'])!r}, 'train': 180 samples, epoch=0, "
    assert repr(loader) == f"{start}global_batch_size=20, rank 0 of 1)"
    assert repr(loader.as_dataloader()) == f"TrainerLoader({loader!r})"
    monkeypatch.setenv("WORLD_SIZE", "2")  # without RANK
    assert repr(loader) == f"{start}ranks unknown)"


def test_help_and_tab_completion_show_the_public_names() -> None:
    text = pydoc.plain(pydoc.render_doc(cinic_shards))
    for name in cinic_shards.__all__:
        assert name in dir(cinic_shards)
        assert name in text or name == "__version__"
    assert "Batches of one or several splits" in text  # ShardLoader's docstring


def test_the_split_may_be_the_second_argument(encoded: dict[str, Path]) -> None:
    assert ShardLoader(encoded["png"], "test", batch_size=20).dataset.reader.name == "test"
    assert list(inspect.signature(ShardLoader).parameters)[:2] == ["path", "split"]


def test_lenet_takes_a_batch(encoded: dict[str, Path]) -> None:
    """Models flatten with ``view``, which needs contiguous memory."""
    loader = ShardLoader(encoded["zstd"], batch_size=20, augment=Augment())
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 5), torch.nn.MaxPool2d(2), torch.nn.Conv2d(6, 16, 5),
        torch.nn.MaxPool2d(2),
    )  # fmt: skip
    for batch in loader:
        assert model(batch[0]).view(-1, 400).shape == (20, 400)
        assert batch[0].view(20, -1).shape == (20, 3072)
