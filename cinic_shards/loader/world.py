"""The world: rank of this process, number of processes, its share of the cores, and its device."""

import torch

from cinic_shards.errors import OptionError
from cinic_shards.options import integer, usable_cores, variable


def default_threads() -> int:
    """Return this process's share of the usable cores: their number divided by LOCAL_WORLD_SIZE.

    Raises:
        OptionError: LOCAL_WORLD_SIZE is not an integer.
    """
    return max(1, usable_cores() // max(1, _from_environment("LOCAL_WORLD_SIZE", 1)))


def _from_environment(name: str, default: int) -> int:
    """Read an integer that torchrun sets."""
    text = variable(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError as error:
        raise OptionError(
            f"${name} is {text!r}, expected an integer, as torchrun sets it"
        ) from error


def find_world(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and world size: as given, from torch.distributed, from torchrun, or (0, 1).

    Raises:
        OptionError: only one is given, ``rank`` is not below ``world_size``, or torchrun's
            variables are not integers.
    """
    if (rank is None) != (world_size is None):
        raise OptionError("give both rank and world_size, or neither")
    if rank is not None and world_size is not None:
        world_size = integer("world_size", world_size, 1)
        if (rank := integer("rank", rank)) >= world_size:
            raise OptionError(f"rank={rank}: expected less than the world size of {world_size}")
        return rank, world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    rank, world_size = _from_environment("RANK", 0), _from_environment("WORLD_SIZE", 1)
    if not 0 <= rank < world_size:
        raise OptionError(f"$RANK is {rank} and $WORLD_SIZE is {world_size}: expected a lower rank")
    return rank, world_size


def find_device(device: str | torch.device) -> torch.device:
    """Return a device as torch's, and check that it can be used.

    Raises:
        OptionError: there is no such device, or it holds no data.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise OptionError(
            f"device={device!r}: unknown; expected a name such as cpu, cuda, cuda:0 or mps"
        ) from error
    problem = _device_problem(found)
    if problem:
        raise OptionError(
            f"device={str(found)!r}: {problem}, or give no device: batches then stay on the CPU"
        )
    return found


def _device_problem(device: torch.device) -> str:
    """Return why a device cannot be used, and what to do; empty if it can."""
    if device.type == "meta":
        return "tensors on it have no data; choose a different device"
    if device.type == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            return "this torch was built without CUDA; install a build with CUDA (pytorch.org)"
        if not torch.cuda.is_available():
            return "torch finds no GPU; check that nvidia-smi lists one"
        count = torch.cuda.device_count()
        if device.index is not None and device.index >= count:
            return f"expected at most cuda:{count - 1}; choose one of the {count:,} GPUs"
    try:
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # each backend has its own
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        return f"cannot be used here ({type(error).__name__}: {reason}); choose a different device"
    return ""
