"""Parts that the programs share: a loader, a model, and a line for each batch."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from cinic_shards import Augment, Batch, ShardLoader

BATCH_SIZE = 64


def make_loader(shards: str, **options: Any) -> ShardLoader:
    """The loader of every program."""
    return ShardLoader(shards, "valid", batch_size=BATCH_SIZE, augment=Augment(), **options)


def make_model() -> torch.nn.Module:
    """A small model with the same weights each time."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))


def loss_of(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Mean loss of a batch."""
    images, labels = batch
    return torch.nn.functional.cross_entropy(model(images), labels)


def train(
    model: torch.nn.Module, loader: ShardLoader, folder: str, rank: int, stop: int, resume: bool
) -> None:
    """Train one rank for two epochs, noting each batch.

    Without ``resume`` it ends after ``stop`` steps, and rank 0 saves the loader's state.
    """
    path = Path(folder, "state.json")
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    step = 0
    if resume:
        loader.load_state_dict(json.loads(path.read_text()))
        step = stop
    while step < 2 * len(loader) and (resume or step < stop):
        for batch in loader:
            note(batch, rank)
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
            step += 1
            if step == stop:
                break
    if rank == 0 and not resume:
        path.write_text(json.dumps(loader.state_dict()))


def note(batch: Batch, rank: int = 0) -> None:
    """Print the rank, the ids, and a hash of the images and labels."""
    digest = hashlib.sha256()
    for tensor in (batch.images, batch.labels):
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    _print(["batch", rank, batch.indices.tolist(), digest.hexdigest()])


def say(name: str, value: Any) -> None:
    """Print a fact for the test."""
    _print([name, value])


def _print(line: list[Any]) -> None:
    sys.stdout.write(f"{json.dumps(line)}\n")  # in one write: several ranks share a pipe
    sys.stdout.flush()
