"""Train the published models from shards, with the published recipe or a different one.

    python -m benchmarks.training.train shards                         # ResNet-18, 300 epochs
    python -m benchmarks.training.train shards --model vgg16 mobilenet --amp --channels-last
    python -m benchmarks.training.train shards --train-split train+valid --seeds 5
    torchrun --nproc-per-node=8 -m benchmarks.training.train shards    # the same batches on 8 GPUs
    python -m benchmarks.training.train shards --resume                # after an interruption
    python -m benchmarks.training.train shards --model tiny --epochs 5 --train-origin cifar  # a CPU

Each run has a folder in ``--out``, with ``log.csv`` (a row for each epoch), ``curves.png``,
``result.json`` and ``checkpoint.pt``. A checkpoint is written after each epoch, every
``--checkpoint-seconds`` within an epoch, and on Ctrl-C or SIGTERM. ``table.py`` prints all results
beside the published ones.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import torch
import torch.distributed as dist

from benchmarks import argument_parser
from benchmarks.training import models
from benchmarks.training.recipe import Recipe, Setting
from benchmarks.training.trainer import DivergedError, Run, StoppedError
from cinic_shards.errors import CinicShardsError, OptionError
from cinic_shards.loader.cache import CacheKind
from cinic_shards.loader.world import find_device

ORIGINS = ("all", "cifar", "cifar-train", "cifar-test", "imagenet")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for ``recipe_of`` and ``setting_of``, without seed, model and origins."""
    default = Recipe()
    parser.add_argument("shards", help="folder or URL that cinic-shard pack wrote to")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="default: runs")
    recipe = parser.add_argument_group("recipe (default: that of CINIC-10's page)")
    recipe.add_argument("--train-split", default=default.train_split, help="or train+valid")
    recipe.add_argument("--test-split", default=default.test_split)
    recipe.add_argument(
        "--train-fraction", type=float, default=1.0, help="share of each class's images"
    )
    recipe.add_argument("--epochs", type=int, default=default.epochs)
    recipe.add_argument("--batch-size", type=int, default=default.batch_size, help="over all ranks")
    recipe.add_argument("--lr", type=float, default=default.lr, help="at the start; falls to 0")
    recipe.add_argument("--momentum", type=float, default=default.momentum)
    recipe.add_argument("--weight-decay", type=float, default=default.weight_decay)
    recipe.add_argument("--amp", action="store_true", help="mixed precision, with bfloat16")
    setting = parser.add_argument_group("setting")
    setting.add_argument("--device", help="default: cuda if there is one, else cpu")
    setting.add_argument(
        "--channels-last", action="store_true", help="memory order of weights and images"
    )
    setting.add_argument("--compile", action="store_true", help="use torch.compile")
    setting.add_argument("--workers", type=int, help="decoding threads; default: the cores")
    setting.add_argument(
        "--cache", default="none", choices=get_args(CacheKind), help="of the loader"
    )
    setting.add_argument("--checkpoint-seconds", type=float, default=600, metavar="S")
    setting.add_argument("--resume", action="store_true", help="from the checkpoints in --out")
    setting.add_argument("--quiet", action="store_true", help="print only results and errors")


def recipe_of(args: argparse.Namespace, **given: Any) -> Recipe:
    """Return the recipe from the arguments; ``given`` fields override them."""
    read = {one.name: getattr(args, one.name) for one in fields(Recipe) if hasattr(args, one.name)}
    return Recipe(**read | given)


def setting_of(args: argparse.Namespace) -> Setting:
    """Return the setting from the arguments; under torchrun, join the other ranks.

    After this, Ctrl-C and SIGTERM ask the run to stop. A second Ctrl-C ends the process at once,
    except under torchrun.
    """
    device = find_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # all batches have one shape
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        if not dist.is_initialized():  # torchrun passes on a signal that its ranks already have
            signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return Setting(
        device=device,
        channels_last=args.channels_last,
        compile=args.compile,
        workers=args.workers,
        cache=args.cache,
        checkpoint_seconds=args.checkpoint_seconds,
        resume=args.resume,
        quiet=args.quiet,
        is_asked_to_stop=lambda: bool(asked),
    )


def run_all(
    shards: str, out: Path, recipes: Sequence[Recipe], setting: Setting
) -> list[dict[str, Any]]:
    """Train with each recipe in turn; finished runs are not repeated.

    Args:
        shards: folder or URL of the dataset.
        out: folder of the runs' folders.
        recipes: the recipes.
        setting: device, workers and the like.

    Returns:
        The content of each run's ``result.json``.

    Raises:
        StoppedError, DivergedError: as ``Run.train``; the message names the run's folder.
        CinicShardsError: as ``Run``.
    """
    results = []
    for recipe in recipes:
        run = Run(shards, out / recipe.name, recipe, setting)
        try:
            results.append(run.train(silent if setting.quiet or not run.is_first else say))
        except (StoppedError, DivergedError) as error:
            raise type(error)(f"{run.folder}: {error}") from None
        if run.is_first:
            _draw(run.folder)
    return results


def say(text: str) -> None:
    """Print progress or an error."""
    print(text, file=sys.stderr, flush=True)


def silent(text: str) -> None:
    """Print nothing."""


def _draw(folder: Path) -> None:
    with suppress(ImportError):  # matplotlib is optional
        from benchmarks.training.plot import plot_curves

        plot_curves([folder / "log.csv"], folder / "curves.png")


def ended(work: Callable[[], None]) -> int:
    """Do the work of a command and return the exit status; if it fails, print one message."""
    status = 0
    try:
        work()
    except StoppedError as error:  # on all ranks at the same step
        status = 130
        if is_first():
            say(f"{error}; run the same command with --resume to continue")
    except (CinicShardsError, DivergedError) as error:
        if is_first() or not isinstance(error, OptionError):
            say(f"error: {error}")
        # Perhaps only on this rank: torchrun ends the others, which wait for it.
        return 2 if isinstance(error, OptionError) else 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    if dist.is_initialized():
        dist.barrier()  # torch may abort a process that leaves while others still communicate
        dist.destroy_process_group()
    return status


def is_first() -> bool:
    """True on rank 0, and if there are no other ranks."""
    return not dist.is_initialized() or dist.get_rank() == 0


def main() -> None:
    """Train, and print mean and deviation of each model's test error."""
    parser = argument_parser(__doc__)
    add_options(parser)
    parser.add_argument("--model", nargs="+", default=["resnet18"], choices=models.NAMES)
    parser.add_argument("--train-origin", default="all", choices=ORIGINS)
    parser.add_argument("--test-origin", default="all", choices=ORIGINS)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; default: 0")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each model; default: 1")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: expected at least 1")

    def work() -> None:
        setting = setting_of(args)
        for name in args.model:
            recipes = [
                recipe_of(args, model=name, seed=args.seed + number) for number in range(args.seeds)
            ]
            results = run_all(args.shards, args.out, recipes, setting)
            errors = torch.tensor([result["test_error"] for result in results]) * 100
            deviation = f" +/- {errors.std():.2f}" if len(errors) > 1 else ""
            if is_first():
                runs = f"{len(errors)} run{'s' * (len(errors) > 1)}"
                print(f"{name}: test error {errors.mean():.2f}{deviation} % ({runs})", flush=True)

    sys.exit(ended(work))


if __name__ == "__main__":
    main()
