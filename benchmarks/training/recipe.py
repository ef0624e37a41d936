"""Options of a training run: the recipe, which the result depends on, and the setting."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.training import models
from cinic_shards.errors import OptionError
from cinic_shards.loader.cache import CacheKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that a run's result depends on.

    The defaults are those of https://github.com/BayesWatch/cinic-10: 300 epochs of SGD, with a
    learning rate that is annealed to zero along a cosine (here step by step). Images are cropped
    and flipped as in https://github.com/kuangliu/pytorch-cifar, the source of that page's models.

    Raises:
        OptionError: the model is unknown, or ``epochs`` or ``lr`` is not above 0.
    """

    model: str = "resnet18"
    train_split: str = "train"
    """``train+valid`` for the page's other configuration."""
    test_split: str = "test"
    train_origin: str = "all"
    """``all``, or an origin as in ``Subset``: ``cifar``, ``imagenet``, ..."""
    test_origin: str = "all"
    train_fraction: float = 1.0
    """Share of each class's training images."""
    seed: int = 0
    """Seed of the weights, the order and the augmentation."""
    epochs: int = 300
    batch_size: int = 64
    """Samples per batch over all ranks."""
    lr: float = 0.1
    """Learning rate at the start."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    amp: bool = False
    """bfloat16 where torch's autocast uses it."""

    def __post_init__(self) -> None:
        if self.model not in models.NAMES:
            raise OptionError(f"model {self.model!r}: expected one of {', '.join(models.NAMES)}")
        if self.epochs < 1 or not self.lr > 0:
            raise OptionError(f"{self.epochs} epochs at a rate of {self.lr}: expected more than 0")

    @property
    def name(self) -> str:
        """Name of the run's folder, different for each run of an experiment."""
        parts = [self.model, self.train_split]
        parts += [self.train_origin] * (self.train_origin != "all")
        parts += [f"of-{self.train_fraction:.3g}"] * (self.train_fraction != 1)
        return "-".join([*parts, f"seed{self.seed}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Device, workers and the like: nothing here changes the result, except by rounding."""

    device: torch.device
    channels_last: bool = False
    """Weights and images in channels-last memory order; else both are contiguous."""
    compile: bool = False
    """Use ``torch.compile``."""
    workers: int | None = None
    """Decoding threads; None is the loader's default."""
    cache: CacheKind = "none"
    """The loader's cache."""
    checkpoint_seconds: float = 600.0
    """Seconds between two checkpoints within an epoch; one is always written at its end."""
    resume: bool = False
    """Continue from the folder's checkpoint."""
    quiet: bool = False
    """Do not report progress."""
    is_asked_to_stop: Callable[[], bool] = field(default=lambda: False)
    """Called in each step; True to write a checkpoint and stop."""

    @property
    def loader_options(self) -> dict[str, Any]:
        """Options of a ``ShardLoader``: workers, cache, device, memory format."""
        return {
            "device": None if self.device.type == "cpu" else self.device,
            "workers": self.workers,
            "cache": self.cache,
            "memory_format": torch.channels_last if self.channels_last else None,
        }
