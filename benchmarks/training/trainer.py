"""A training run on shards, which can be killed at any moment and resumes exactly."""

import csv
import io
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.training import models
from benchmarks.training.evaluation import Evaluation, Scores, error_of
from benchmarks.training.recipe import Recipe, Setting
from cinic_shards import Augment, Batch, ShardLoader, Subset, __version__
from cinic_shards.errors import OptionError

COLUMNS = (
    "epoch", "loss", "train_accuracy", "test_accuracy", "lr", "seconds", "images_per_second",
    "waiting_share",
)  # fmt: skip
"""Columns of ``log.csv``. ``lr`` is the last one of the epoch. ``seconds`` includes training and
testing; ``images_per_second`` and the loader's ``waiting_share`` are for training only."""

_TEST_BATCH = 500
_AGREE_STEPS = 10
"""Number of steps after which the ranks agree on whether to stop or write a checkpoint."""
_CHECKPOINT_VERSION = 1


class DivergedError(Exception):
    """The loss is not finite."""


class StoppedError(Exception):
    """The run was asked to stop, and has written a checkpoint."""


@dataclass(slots=True)
class Sums:
    """Sums over the current epoch's steps so far."""

    counts: Tensor
    """Loss, correct answers and images of this rank: float64, shape (3,), on the device."""
    training_seconds: float = 0.0
    waiting_seconds: float = 0.0


class Run:
    """A model, its optimizer and data, and the folder with the run's files.

    Args:
        shards: folder or URL of the dataset.
        folder: the run's folder, for ``checkpoint.pt``, ``log.csv`` and ``result.json``.
        recipe: the options that the result depends on.
        setting: device, workers and the like.

    Raises:
        OptionError: the folder has a checkpoint and ``resume`` is False, the checkpoint's recipe is
            different, or the dataset has no such split or origin.
    """

    def __init__(self, shards: str, folder: Path, recipe: Recipe, setting: Setting) -> None:
        self.recipe, self.setting, self.folder = recipe, setting, folder
        self.device = setting.device
        self.is_first = not dist.is_initialized() or dist.get_rank() == 0
        self.checkpoint = folder / "checkpoint.pt"
        if self.checkpoint.exists() and not setting.resume:
            raise OptionError(f"{folder}: has a checkpoint; give --resume, or remove the folder")
        self.loader = ShardLoader(
            shards,
            split=recipe.train_split,
            subset=_subset(recipe.train_origin, recipe.train_fraction),
            global_batch_size=recipe.batch_size,
            seed=recipe.seed,
            augment=Augment(normalize="cinic10"),
            progress=not setting.quiet,
            **setting.loader_options,
        )
        test_loader = ShardLoader(
            shards,
            split=recipe.test_split,
            subset=_subset(recipe.test_origin),
            global_batch_size=_TEST_BATCH,
            shuffle=False,
            tail="pad",
            normalize="cinic10",
            **setting.loader_options,
        )
        self._evaluation = Evaluation(test_loader, amp=recipe.amp)
        torch.manual_seed(recipe.seed)
        self.model = models.build(recipe.model, len(self.loader.classes)).to(self.device)
        if setting.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, recipe.epochs * len(self.loader)
        )
        self.history: list[dict[str, float]] = []
        """A row of ``log.csv`` for each finished epoch."""
        self.sums = self._no_sums()
        self._saved_at = time.monotonic()
        self._steps = 0  # since this process started
        if self.checkpoint.exists():
            self._load()
        self._forward: nn.Module = self.model
        if dist.is_initialized():
            ids = [self.device.index] if self.device.type == "cuda" else None
            self._forward = DistributedDataParallel(self.model, device_ids=ids)
        if setting.compile:  # the function, because the method does not change an nn.Sequential
            self._forward = cast(nn.Module, torch.compile(self._forward))

    def train(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Train the remaining epochs; write log and checkpoint after each, and finally the result.

        Args:
            say: called with a line of text after each epoch.

        Returns:
            The content of ``result.json``.

        Raises:
            StoppedError: the run was asked to stop, and has written a checkpoint.
            DivergedError: the loss is not finite.
            CinicShardsError: the data cannot be read.
        """
        scores: Scores = {}
        while len(self.history) < self.recipe.epochs:
            self._train_epoch()
            total = self._total()
            if not np.isfinite(total[0]):
                raise DivergedError(
                    f"epoch {len(self.history) + 1}: the loss is {total[0]}; choose a smaller "
                    f"learning rate than {self.recipe.lr}"
                )
            start = time.perf_counter()
            scores = self._test()
            testing_seconds = time.perf_counter() - start
            row = self._row(total, scores, testing_seconds)
            self.history.append(row)
            self.sums = self._no_sums()
            self._save()
            say(
                f"{self.recipe.name}: epoch {row['epoch']}/{self.recipe.epochs}: "
                f"loss {row['loss']:.3f}, train {row['train_accuracy']:.2%}, "
                f"test {row['test_accuracy']:.2%}, lr {row['lr']:.4f}, {row['seconds']:.1f} s, "
                f"{row['images_per_second']:,.0f} images/s, waiting {row['waiting_share']:.1%}"
            )
        if not scores:  # it was killed after its last checkpoint
            scores = self._test()
        result = self._result(scores)
        if self.is_first:
            text = (json.dumps(result, indent=1) + "\n").encode()
            _replace(self.folder / "result.json", lambda file: file.write(text))
        return result

    def _train_epoch(self) -> None:
        if self.loader.epoch > len(self.history):  # it was stopped after the epoch's last step
            return
        sums = self.sums
        seconds_before, waited_before = sums.training_seconds, sums.waiting_seconds

        def count_time() -> None:
            stats = self.loader.stats()
            sums.training_seconds = seconds_before + stats.seconds
            sums.waiting_seconds = waited_before + stats.waiting_seconds

        self._forward.train()
        for batch in self.loader:
            self._train_step(batch)
            stop, save = self._wishes()
            if stop or save:
                count_time()
                self._save()
            if stop:
                raise StoppedError(f"stopped in epoch {len(self.history) + 1}")
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        count_time()

    def _train_step(self, batch: Batch) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp):
            scores = self._forward(batch.images)
            loss = nn.functional.cross_entropy(scores, batch.labels)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * batch.loss_scale).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.scheduler.step()
        count = batch.num_samples
        right = (scores.detach().argmax(1) == batch.labels).sum()
        self.sums.counts[0] += loss.detach() * count  # on the device, without waiting for it
        self.sums.counts[1] += right
        self.sums.counts[2] += count

    def _test(self) -> Scores:
        # DDP would synchronise with the other ranks in each batch.
        return self._evaluation(self.model if dist.is_initialized() else self._forward, self.device)

    def _wishes(self) -> tuple[bool, bool]:
        """Return whether to stop and whether to write a checkpoint, the same on all ranks."""
        stop = self.setting.is_asked_to_stop()
        save = time.monotonic() - self._saved_at >= self.setting.checkpoint_seconds
        if not dist.is_initialized():
            return stop, save
        self._steps += 1
        if self._steps % _AGREE_STEPS:
            return False, False
        wishes = torch.tensor([stop, save], dtype=torch.int32, device=self.device)
        dist.all_reduce(wishes, dist.ReduceOp.MAX)
        agreed = wishes.tolist()
        return bool(agreed[0]), bool(agreed[1])

    def _no_sums(self) -> Sums:
        return Sums(torch.zeros(3, dtype=torch.float64, device=self.device))

    def _total(self) -> list[float]:
        """Return loss, correct answers and images, each summed over all ranks."""
        total = self.sums.counts.clone()
        if dist.is_initialized():
            dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def _save(self) -> None:
        """Write the checkpoint, then the log that goes with it."""
        total = self._total()
        self._saved_at = time.monotonic()
        if not self.is_first:
            return
        state = {
            "version": _CHECKPOINT_VERSION,
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "loader": self.loader.state_dict(),
            # All ranks start with the same seed and draw the same numbers: one state fits all.
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            "sums": [total, self.sums.training_seconds, self.sums.waiting_seconds],
            "history": self.history,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(self.checkpoint, lambda file: torch.save(state, file))
        self._write_log()

    def _load(self) -> None:
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        if state.get("version") != _CHECKPOINT_VERSION:
            raise OptionError(f"{self.checkpoint}: not a checkpoint of this version")
        different = [
            f"{name} is {state['recipe'].get(name)!r} in the checkpoint and {value!r} here"
            for name, value in asdict(self.recipe).items()
            if state["recipe"].get(name) != value
        ]
        if different:
            raise OptionError(
                f"{self.checkpoint}: a different recipe: {'; '.join(different)}. Give the same "
                "options, or a different --out"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.loader.load_state_dict(state["loader"])
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda" and state["device_rng"] is not None:
            torch.cuda.set_rng_state(state["device_rng"])
        total, training_seconds, waiting_seconds = state["sums"]
        self.sums = Sums(self.sums.counts, training_seconds, waiting_seconds)
        if self.is_first:
            self.sums.counts += torch.tensor(total, dtype=torch.float64, device=self.device)
        self.history = state["history"]
        if self.is_first:
            self._write_log()

    def _row(
        self, total: Sequence[float], scores: Scores, testing_seconds: float
    ) -> dict[str, float]:
        loss, right, count = total
        seconds, waited = self.sums.training_seconds, self.sums.waiting_seconds
        values = (
            len(self.history) + 1, loss / count, right / count, 1 - error_of(scores),
            float(self.scheduler.get_last_lr()[0]), seconds + testing_seconds, count / seconds,
            waited / seconds,
        )  # fmt: skip
        return dict(zip(COLUMNS, values, strict=True))

    def _write_log(self) -> None:
        lines = [COLUMNS, *([row[name] for name in COLUMNS] for row in self.history)]
        text = io.StringIO(newline="")
        csv.writer(text).writerows(lines)
        _replace(self.folder / "log.csv", lambda file: file.write(text.getvalue().encode()))

    def _result(self, scores: Scores) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        return {
            "recipe": asdict(self.recipe),
            "parameters": models.num_parameters(self.model),
            "train_images": self.loader.num_samples,
            "test_error": error_of(scores),
            "errors": {name: 1 - right / count for name, (right, count) in scores.items()},
            "test_images": {name: count for name, (_, count) in scores.items()},
            "loss": self.history[-1]["loss"],
            "seconds": sum(row["seconds"] for row in self.history),
            "device": torch.cuda.get_device_name(self.device) if cuda else platform.machine(),
            "ranks": dist.get_world_size() if dist.is_initialized() else 1,
            "versions": {"torch": str(torch.__version__), "cinic-shards": __version__},
        }


def _subset(origin: str, fraction: float = 1.0) -> Subset:
    return Subset(origin=None if origin == "all" else origin, fraction=fraction)


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file in one step: readers see either its old or its new content."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:  # a full disk, or the second Ctrl-C
        partial.unlink(missing_ok=True)
        raise
