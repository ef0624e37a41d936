"""Count a model's correct answers on a split, by the origin of the images."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cinic_shards import ShardLoader
from cinic_shards.format.provenance import origins_named

GROUPS = ("cifar", "imagenet", "unknown")
"""Groups of origins that errors are counted for."""

Scores = Mapping[str, tuple[int, int]]
"""Group -> correct answers and images; only groups that have images."""


class Evaluation:
    """A split to test models on.

    Args:
        loader: reads the split on all ranks, without shuffle, with ``tail="pad"``.
        amp: see ``Recipe``.
    """

    def __init__(self, loader: ShardLoader, *, amp: bool) -> None:
        self.loader = loader
        self._amp = amp
        origin = loader.dataset.columns.origin
        groups = np.zeros(len(origin), np.int64)
        for number, name in enumerate(GROUPS):
            groups[np.isin(origin, list(origins_named(name)))] = number
        self._group_of = torch.from_numpy(groups)

    @torch.no_grad()
    def __call__(self, model: nn.Module, device: torch.device) -> Scores:
        """Count the model's correct answers, summed over all ranks.

        The model is left in evaluation mode. Its buffers (the statistics of batch norm) are set to
        those of rank 0, as in a checkpoint.
        """
        if dist.is_initialized():
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)
        model.eval()
        counts = torch.zeros((len(GROUPS), 2), dtype=torch.int64, device=device)
        for batch in self.loader:
            with torch.autocast(device.type, torch.bfloat16, enabled=self._amp):
                scores = model(batch.images)
            is_right = (scores.argmax(1) == batch.labels) & batch.valid
            groups: Tensor = self._group_of[batch.indices].to(device)
            counts.index_add_(0, groups, torch.stack([is_right, batch.valid], 1).to(torch.int64))
        if dist.is_initialized():
            dist.all_reduce(counts)
        rows = zip(GROUPS, counts.tolist(), strict=True)
        return {name: (right, count) for name, (right, count) in rows if count}


def error_of(scores: Scores) -> float:
    """Return the share of wrong answers over all groups, 0 to 1."""
    right = sum(right for right, _ in scores.values())
    return 1 - right / sum(count for _, count in scores.values())
