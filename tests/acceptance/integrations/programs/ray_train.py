"""Train with Ray Train, two workers: ``ray_train.py SHARDS FOLDER STOP [resume]``."""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")

import ray
import ray.train.torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def work(config: dict[str, Any]) -> None:
    """Train one worker; its batches are noted in a file, since Ray prints in its own way."""
    sys.path.insert(0, config["programs"])
    from contextlib import redirect_stdout

    from seen import make_loader, make_model, train

    loader = make_loader(config["shards"], workers=1)
    model = ray.train.torch.prepare_model(make_model())
    rank = ray.train.get_context().get_world_rank()
    path = Path(config["folder"], f"seen-{rank}-{config['resume']}")
    with path.open("w") as file, redirect_stdout(file):
        train(model, loader, config["folder"], rank, config["stop"], config["resume"])


def main() -> None:
    """Run the trainer on a cluster of this process's own; print what its workers noted."""
    shards, folder, stop, *resume = sys.argv[1:]
    config = {
        "shards": shards, "folder": folder, "stop": int(stop), "resume": bool(resume),
        "programs": str(Path(__file__).parent),
    }  # fmt: skip
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    trainer = TorchTrainer(
        work,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=2, use_gpu=False),
        run_config=RunConfig(storage_path=f"{folder}/ray"),
    )
    trainer.fit()
    ray.shutdown()
    for rank in range(2):
        print((Path(folder) / f"seen-{rank}-{bool(resume)}").read_text(), end="")


if __name__ == "__main__":
    main()
