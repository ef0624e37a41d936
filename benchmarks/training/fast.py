r"""Train a small network in seconds on one GPU; print accuracy and time of n runs.

    python -m benchmarks.training.fast shards --runs 5 --compile
    python -m benchmarks.training.fast shards --device cpu --runs 2 --epochs 1 --width 8 \
        --fraction 0.05

Result: none yet. It has never run on a GPU; tests run a much smaller version on a CPU. Network and
recipe are close to those of David Page's "How to Train Your ResNet", which were tuned for CIFAR-10.
``Fast`` is the recipe, and each field is an option.

The pixels are on the device (``cache="device"``), where batches are gathered, cropped, flipped and
cut out; during an epoch, only row numbers, labels and random numbers are sent there. A run's time
includes opening the shards, copying the training split to the device, and training. It does not
include testing, or the ten steps of warm-up before the first run, in which ``--compile`` compiles.
"""

import dataclasses
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import argument_parser
from benchmarks.training.evaluation import Evaluation, error_of
from benchmarks.training.models import Residual, conv_norm_relu
from benchmarks.training.train import ended, say
from cinic_shards import Augment, Batch, ShardLoader, Subset
from cinic_shards.loader.world import find_device


@dataclass(frozen=True, slots=True, kw_only=True)
class Fast:
    """The recipe."""

    epochs: int = 16
    batch_size: int = 512
    width: int = 64
    """Channels of the first convolution; the other stages have 2, 4 and 8 times as many."""
    score_scale: float = 0.125
    """Factor of the last layer's scores."""
    peak_lr: float = 0.4
    """Peak of the learning rate, which rises linearly to it and then falls linearly to zero."""
    peak_at: float = 0.25
    """Position of the peak, as a fraction of all steps."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    crop_padding: int = 4
    cutout: int = 8
    """Side of the square in pixels; 0 for none."""
    fraction: float = 1.0
    """Share of the training split."""
    train_split: str = "train"
    test_split: str = "test"


class FastNet(nn.Module):
    """Nine layers: four stages of a convolution, the second and the last with a residual pair."""

    def __init__(self, recipe: Fast, num_classes: int) -> None:
        super().__init__()
        width = recipe.width

        def pair(channels: int) -> Residual:
            both = nn.Sequential(
                conv_norm_relu(channels, channels), conv_norm_relu(channels, channels)
            )
            return Residual(both, nn.Identity())

        def halved(channels_in: int, channels_out: int) -> nn.Sequential:
            convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
            # Pool first, so that norm and ReLU process a quarter of the pixels.
            return nn.Sequential(
                convolution, nn.MaxPool2d(2), nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)
            )

        self.body = nn.Sequential(
            conv_norm_relu(3, width),
            halved(width, 2 * width),
            pair(2 * width),
            halved(2 * width, 4 * width),
            halved(4 * width, 8 * width),
            pair(8 * width),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(8 * width, num_classes, bias=False),
        )
        self.score_scale = recipe.score_scale

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, num_classes)."""
        scores: Tensor = self.body(images) * self.score_scale
        return scores


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one run."""

    accuracy: float
    """Accuracy on the test split, 0 to 1."""
    seconds: float
    """Time of opening, copying and training."""
    loss: float
    """Loss of the last batch, with smoothed labels."""


class Bench:
    """A network that is compiled once, and trained from new weights in each run.

    Args:
        shards: folder or URL of the dataset.
        recipe: options of the network and its training.
        device: the device to train on.
        by_compiler: use ``torch.compile``.
    """

    def __init__(
        self, shards: str, recipe: Fast, device: torch.device, *, by_compiler: bool
    ) -> None:
        self.shards, self.recipe, self.device = shards, recipe, device
        test = ShardLoader(
            shards,
            split=recipe.test_split,
            shuffle=False,
            tail="pad",
            augment=Augment(crop_padding=0, flip=False, normalize="cinic10", dtype="bfloat16"),
            memory_format=torch.channels_last,
            cache="device",
            device=device,
        )
        self._evaluation = Evaluation(test, amp=True)
        model = FastNet(recipe, len(test.classes)).to(device)
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if by_compiler:
            self.model = torch.compile(self.model)

    def run(self, seed: int, *, most_steps: int | None = None) -> Outcome:
        """Train from new weights, then test.

        Args:
            seed: seed of weights, order and augmentation.
            most_steps: stop training after this many steps, for a warm-up; None for all steps.
        """
        recipe = self.recipe
        torch.manual_seed(seed)
        for module in self.model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        start = time.perf_counter()
        loader = ShardLoader(
            self.shards,
            split=recipe.train_split,
            subset=Subset(fraction=recipe.fraction),
            batch_size=recipe.batch_size,
            seed=seed,
            order="full",
            augment=Augment(
                crop_padding=recipe.crop_padding,
                cutout=recipe.cutout,
                normalize="cinic10",
                dtype="bfloat16",
            ),
            memory_format=torch.channels_last,
            cache="device",
            device=self.device,
        )
        optimizer = torch.optim.SGD(
            self.model.parameters(),
            recipe.peak_lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=True,
        )
        num_steps = recipe.epochs * len(loader)
        peak = recipe.peak_at * num_steps

        def rate(step: int) -> float:
            return min((step + 1) / (peak + 1), (num_steps - step) / (num_steps - peak))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        self.model.train()
        steps = 0
        loss = torch.zeros(())
        for _ in range(recipe.epochs):
            for batch in loader:
                loss = self._step(batch, optimizer)
                scheduler.step()
                steps += 1
                if steps == most_steps:
                    break
            if steps == most_steps:
                break
        last_loss = loss.item()  # waits for the device
        seconds = time.perf_counter() - start
        accuracy = 1 - error_of(self._evaluation(self.model, self.device))
        return Outcome(accuracy, seconds, last_loss)

    def _step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            scores = self.model(batch.images)
            loss = nn.functional.cross_entropy(
                scores, batch.labels, label_smoothing=self.recipe.label_smoothing
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()


def summary(values: list[float], digits: int) -> str:
    """Format the mean and, if there are several values, the deviation."""
    deviation = f" +/- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{deviation}"


def main() -> None:
    """Run n times; print each run, then mean and deviation."""
    parser = argument_parser(__doc__)
    parser.add_argument("shards", help="folder or URL that cinic-shard pack wrote to")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    names = [one.name for one in dataclasses.fields(Fast)]
    for name in names:
        default: Any = getattr(Fast(), name)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, help=f"default: {default}")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error(f"--runs {args.runs}: expected at least 1")
    recipe = Fast(**{name: getattr(args, name) for name in names})

    def work() -> None:
        torch.backends.cudnn.benchmark = True
        bench = Bench(args.shards, recipe, find_device(args.device), by_compiler=args.compile)
        bench.run(args.seed, most_steps=10)
        outcomes = []
        for number in range(args.runs):
            outcomes.append(outcome := bench.run(args.seed + number))
            say(
                f"run {number + 1} of {args.runs}: {outcome.accuracy:.2%} in "
                f"{outcome.seconds:.2f} s, last loss {outcome.loss:.3f}"
            )
        accuracy = summary([100 * outcome.accuracy for outcome in outcomes], 2)
        seconds = summary([outcome.seconds for outcome in outcomes], 2)
        print(f"accuracy {accuracy} %, {seconds} s, {len(outcomes)} runs on {args.device}")

    sys.exit(ended(work))


if __name__ == "__main__":
    main()
