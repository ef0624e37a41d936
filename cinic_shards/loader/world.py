"""The world: rank of this process, number of processes, its share of the cores, and its device.

A launcher describes it in environment variables. Launchers may be nested: a torchrun on each node
of SLURM's, or Open MPI's daemons, which srun starts. So the innermost one counts, which started
the process itself: torchrun, then mpirun and mpiexec, then srun.

The variables: https://docs.pytorch.org/docs/stable/elastic/run.html (torchrun),
https://slurm.schedmd.com/srun.html and sbatch.html (SLURM),
https://docs.open-mpi.org/en/main/tuning-apps/environment-var.html (Open MPI).
"""

import os
import re
from typing import NamedTuple

import torch

from cinic_shards.errors import OptionError
from cinic_shards.options import integer, usable_cores, variable

_TORCHRUN = "torchrun", "RANK", "WORLD_SIZE"
_OPEN_MPI = "Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"
_MVAPICH = "MVAPICH", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"
_MPIEXEC = "mpiexec", "PMI_RANK", "PMI_SIZE"
"""A launcher, and its variables of the rank and the world size. ``mpiexec`` is that of MPICH and
Intel MPI, and of others that set PMI's variables."""

_LOCAL_SIZES = (
    ("torchrun", "LOCAL_WORLD_SIZE"),
    ("Open MPI", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MVAPICH", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("mpiexec", "MPI_LOCALNRANKS"),
)
"""A launcher, and its variable of the number of processes on this node."""

_LEAST_SPECIAL_STEP = 0xFFFF_FFF0
"""SLURM's step ids from here on are batch scripts, and the shells that salloc opens."""


class World(NamedTuple):
    """The processes that share the samples."""

    rank: int
    size: int
    found_in: str
    """How rank and size were found, for messages, such as "torchrun's RANK and WORLD_SIZE"."""


def find_world(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and world size; see ``detect_world``."""
    return detect_world(rank, world_size)[:2]


def detect_world(rank: int | None, world_size: int | None) -> World:
    """Find rank and world size.

    They are those given, else those of torch.distributed if it is initialised, else of the
    launcher's variables, else 0 and 1. A process that SLURM runs as a batch script, or in a shell
    of salloc, is alone; only srun starts a process for each task.

    Raises:
        OptionError: only one is given or set, the rank is not below the size, a variable is not an
            integer, or this may be a shell's process rather than a task of srun.
    """
    if (rank is None) != (world_size is None):
        raise OptionError("give both rank and world_size, or neither")
    if rank is not None and world_size is not None:
        world_size = integer("world_size", world_size, 1)
        if (rank := integer("rank", rank)) >= world_size:
            raise OptionError(f"rank={rank}: expected less than the world size of {world_size}")
        return World(rank, world_size, "the options rank and world_size")
    if _has_group():
        found = torch.distributed.get_rank(), torch.distributed.get_world_size()
        return World(*found, "torch.distributed")
    return (
        _from_variables(*_TORCHRUN)
        or _from_variables(*_OPEN_MPI)
        or _from_variables(*_MVAPICH)
        # srun sets PMI's variables as well, but not this one.
        or (_from_variables(*_MPIEXEC) if variable("MPI_LOCALNRANKS") else None)
        or _from_srun()
        or _from_variables(*_MPIEXEC)
        or World(0, 1, "no launcher")
    )


def _has_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _from_variables(launcher: str, rank_name: str, size_name: str) -> World | None:
    """Return the world of a launcher's variables; None if neither is set."""
    rank, size = _from_environment(launcher, rank_name), _from_environment(launcher, size_name)
    if rank is None and size is None:
        return None
    if rank is None or size is None:
        is_set, missing = (size_name, rank_name) if rank is None else (rank_name, size_name)
        raise OptionError(
            f"${is_set} is {variable(is_set)!r} and ${missing} is not set: {launcher} sets both; "
            "set both or none, or call torch.distributed.init_process_group first"
        )
    if not 0 <= rank < size:
        raise OptionError(
            f"${rank_name} is {rank} and ${size_name} is {size}: expected a lower rank"
        )
    return World(rank, size, f"{launcher}'s {rank_name} and {size_name}")


def _from_environment(launcher: str, name: str) -> int | None:
    """Read an integer that a launcher sets; None if it is not set."""
    text = variable(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise OptionError(
            f"${name} is {text!r}, expected an integer, as {launcher} sets it"
        ) from error


def _is_in_step() -> bool:
    """True if srun started this process, or one that it was started by."""
    step = _from_environment("srun", "SLURM_STEP_ID")
    return step is not None and step < _LEAST_SPECIAL_STEP


def _from_srun() -> World | None:
    """Return the world of a step of SLURM; None outside of one."""
    if not _is_in_step():
        if rank := _from_environment("srun", "SLURM_PROCID"):
            raise OptionError(
                f"$SLURM_PROCID is {rank} and $SLURM_STEP_ID is not set: srun sets both; pass all "
                "variables of SLURM to this process, or give rank and world_size"
            )
        return None
    size_name = "SLURM_STEP_NUM_TASKS" if variable("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
    found = _from_variables("srun", "SLURM_PROCID", size_name)
    if found is not None and found.size > 1 and _is_in_terminal():
        raise OptionError(
            f"srun started {found.size:,} tasks, and this process runs in the shell of one, on "
            "a terminal: start it with srun python, or set RANK=0 and WORLD_SIZE=1 to use one "
            "process"
        )
    return found


def _is_in_terminal() -> bool:
    """True if srun connected a terminal to a task that is not this process, such as a shell.

    Python in a shell of ``srun --pty bash`` has all variables of a task.
    """
    task = _from_environment("srun", "SLURM_TASK_PID")
    if task is None or task == os.getpid():
        return False
    try:
        return os.readlink(f"/proc/{task}/fd/0").startswith("/dev/pts/")
    except OSError:
        return False


def default_threads() -> int:
    """Return this process's share of the node's cores, at most those that it may use itself.

    The node's cores are those of srun's step, or those that the parent of this process, such as
    torchrun or mpirun, may use; they are divided by the number of processes that it started on
    this node. So a process that is bound to cores of its own uses all of them. Ranks of a process
    group that no launcher started, as by ``mp.spawn``, are taken to be all on this node, or one
    for each of its GPUs if these are fewer.

    Raises:
        OptionError: a launcher's number of processes is not an integer of at least 1.
    """
    cores = usable_cores()
    for launcher, name in _LOCAL_SIZES:
        if (processes := _from_environment(launcher, name)) is not None:
            return _share(cores, None, name, processes)
    ranks = torch.distributed.get_world_size() if _has_group() else 1
    # With more ranks than tasks, each task has spawned several.
    if _is_in_step() and ranks <= (_from_environment("srun", "SLURM_STEP_NUM_TASKS") or ranks):
        on_node = _from_environment("srun", "SLURM_CPUS_ON_NODE") or cores
        return _share(cores, on_node, *_tasks_on_node())
    processes = ranks if ranks == 1 else min(ranks, torch.cuda.device_count() or ranks)
    return _share(cores, None, "the world size", processes)


def _share(own: int, on_node: int | None, name: str, processes: int) -> int:
    """Return this process's share of the node's cores, by default those of its parent."""
    if processes < 1:
        raise OptionError(f"${name} is {variable(name)!r}, expected an integer, at least 1")
    if processes == 1:
        return own
    return max(1, min(own, (on_node or usable_cores(os.getppid())) // processes))


def _tasks_on_node() -> tuple[str, int]:
    """Return the number of srun's tasks on this node, and the variable that has it."""
    name = "SLURM_STEP_TASKS_PER_NODE"
    text = variable(name)
    if text is None:
        name = "SLURM_NTASKS_PER_NODE"
        return name, _from_environment("srun", name) or 1
    last = max(0, _from_environment("srun", "SLURM_NODEID") or 0)
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,9})\))?", part, re.ASCII)
        if match is None:
            raise OptionError(f"${name} is {text!r}, expected numbers of tasks, such as 2(x3),1")
        nodes = int(match[2] or 1)  # only as many as are needed
        counts += [int(match[1])] * min(nodes, last + 1 - len(counts))
    return name, counts[-1]


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
