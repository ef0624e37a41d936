"""Train with Lightning: ``lightning_fit.py SHARDS FOLDER WITH SITUATION [resume]``.

WITH is ``loader``, or ``datamodule``: a DataModule that keeps the loader's state, which
``estimated_stepping_batches`` needs, because Lightning then forgets the state of loaders.

SITUATION says how the run stops and what the checkpoint is: ``epoch`` ends after two epochs with
Lightning's default checkpoint, ``steps`` fails in the middle of the second one with a checkpoint
every few steps, ``max_steps`` ends there and saves, ``batches`` ends at the last batch of an epoch.
"""

import contextlib
import sys
import warnings
from typing import Any

from seen import loss_of, make_loader, make_model, note, say

from cinic_shards import Batch, ShardLoader
from cinic_shards.loader.bench import import_torchvision

import_torchvision()  # lightning's own import fails with a CPU build of torch
warnings.simplefilter("ignore")

import lightning  # noqa: E402
import torch  # noqa: E402
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402

EPOCHS, STEPS_BETWEEN_CHECKPOINTS = 4, 5


class Linear(lightning.LightningModule):
    """Notes each batch; fails at a given step."""

    def __init__(self, fail_at: int, estimates: bool) -> None:
        super().__init__()
        self.model = make_model()
        self.fail_at = fail_at
        self.estimates = estimates

    def training_step(self, batch: Batch, number: int) -> torch.Tensor:
        """Note a batch, and return its loss."""
        if self.global_step == self.fail_at:
            raise KeyboardInterrupt
        note(batch)
        return loss_of(self.model, batch)

    def validation_step(self, batch: Batch, number: int) -> torch.Tensor:
        """Return the loss of a batch."""
        return loss_of(self.model, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD; say how many steps Lightning expects if it is asked."""
        if self.estimates:
            say("estimated", int(self.trainer.estimated_stepping_batches))
        return torch.optim.SGD(self.parameters(), 0.01)


class Data(lightning.LightningDataModule):
    """A loader and its state."""

    def __init__(self, loader: ShardLoader, validation: ShardLoader) -> None:
        super().__init__()
        self.loader, self.validation = loader, validation

    def train_dataloader(self) -> ShardLoader:
        """Return the loader."""
        return self.loader

    def val_dataloader(self) -> ShardLoader:
        """Return the loader for validation."""
        return self.validation

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's state, for a checkpoint."""
        return self.loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load it."""
        self.loader.load_state_dict(state_dict)


def main() -> None:
    """Train, or resume from what the run before has saved."""
    shards, folder, having, situation, *resume = sys.argv[1:]
    loader = make_loader(shards)
    steps = len(loader)
    stop: dict[str, Any] = {
        "epoch": {"max_epochs": 2},
        "steps": {"max_epochs": EPOCHS},
        "max_steps": {"max_steps": steps + steps // 2},
        "batches": {"max_steps": 2 * steps},
    }[situation]
    whole = {"max_steps": EPOCHS * steps} if "max_steps" in stop else {"max_epochs": EPOCHS}
    every = STEPS_BETWEEN_CHECKPOINTS if situation == "steps" else None
    checkpoint = ModelCheckpoint(folder, filename="last", every_n_train_steps=every)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[checkpoint], **(whole if resume else stop),
    )  # fmt: skip
    fails = situation == "steps" and not resume
    has_data = having == "datamodule"
    module = Linear(steps + steps // 2 if fails else -1, estimates=has_data)
    path = f"{folder}/last.ckpt" if resume else None
    validation = ShardLoader(shards, "test", batch_size=256, shuffle=False, normalize=True)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        data = (
            {"datamodule": Data(loader, validation)}
            if has_data
            else {
                "train_dataloaders": loader,
                "val_dataloaders": validation,
            }
        )
        trainer.fit(module, **data, ckpt_path=path, weights_only=False)
    if situation in ("max_steps", "batches") and not resume:
        trainer.save_checkpoint(f"{folder}/last.ckpt")
    say("steps", trainer.global_step)


if __name__ == "__main__":
    main()
