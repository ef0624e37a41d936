"""Train LeNet with Lightning in each precision, and from a CombinedLoader: ``... SHARDS``.

LeNet flattens with ``view``, which needs contiguous images. Prints the images' dtype in the steps.
"""

import sys
import warnings
from typing import Any

from seen import say

from cinic_shards import Augment, ShardLoader
from cinic_shards.loader.bench import import_torchvision

import_torchvision()  # lightning's own import fails with a CPU build of torch
warnings.simplefilter("ignore")

import lightning  # noqa: E402
import torch  # noqa: E402
from lightning.pytorch.utilities import CombinedLoader  # noqa: E402


class LeNet(lightning.LightningModule):
    """The network of many tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 6, 5), torch.nn.Conv2d(6, 16, 5)
        self.last = torch.nn.Linear(400, 10)
        self.dtypes: set[str] = set()
        self.ids: list[list[int]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, 32, 32) -> (N, 10)."""
        for layer in (self.first, self.second):
            images = torch.nn.functional.max_pool2d(torch.relu(layer(images)), 2)
        scores: torch.Tensor = self.last(images.view(-1, 400))
        return scores

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        """Return the loss of a batch, or of two."""
        batches = batch if isinstance(batch, list) else [batch]
        losses = []
        for one in batches:
            images, labels = one
            assert (images is one[0], labels is one.labels, len(one)) == (True, True, 2)
            self.dtypes.add(str(images.dtype))
            self.ids.append(one.indices.tolist())
            losses.append(torch.nn.functional.cross_entropy(self(images).float(), labels))
        return torch.stack(losses).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD."""
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(loader: Any, precision: Any) -> LeNet:
    """Train an epoch."""
    model = LeNet()
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, precision=precision,
    )  # fmt: skip
    trainer.fit(model, loader)
    return model


def main() -> None:
    """Train in each precision, then from two splits at once."""

    def open_split(split: str) -> ShardLoader:
        return ShardLoader(sys.argv[1], split, batch_size=100, augment=Augment())

    for precision in ("32-true", "bf16-true", "64-true", "bf16-mixed"):
        model = fit(open_split("valid"), precision)
        say(precision, [sorted(model.dtypes), model.ids])
    combined = CombinedLoader([open_split("train"), open_split("valid")], "max_size_cycle")
    say("combined", fit(combined, "32-true").ids)


if __name__ == "__main__":
    main()
