"""The world as launchers describe it: rank, size, and the processes that share a node's cores."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from cinic_shards.errors import OptionError
from cinic_shards.loader import world
from cinic_shards.loader.loader import ShardLoader
from cinic_shards.loader.world import default_threads, detect_world, find_world

LAUNCHERS = "RANK WORLD_SIZE LOCAL_ OMPI_ MV2_ PMI_ MPI_ SLURM_".split()


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as if no launcher had started the tests."""
    for name in os.environ:
        if name.startswith(tuple(LAUNCHERS)):
            monkeypatch.delenv(name)


def variables(text: str) -> dict[str, str]:
    """Variables from words such as ``RANK=0``."""
    return dict(word.split("=") for word in text.split())


def set_variables(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name, value in variables(text).items():
        monkeypatch.setenv(name, value)


SBATCH = """
    SLURM_JOB_ID=7 SLURM_JOB_NAME=train SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
    SLURM_NTASKS=4 SLURM_NTASKS_PER_NODE=2 SLURM_TASKS_PER_NODE=2(x2) SLURM_CPUS_ON_NODE=16
"""
"""A batch script of ``sbatch --nodes 2 --ntasks-per-node 2``, which srun did not start."""
SALLOC = """
    SLURM_JOB_NAME=interactive SLURM_PROCID=0 SLURM_NODEID=0 SLURM_NTASKS=4
    SLURM_TASKS_PER_NODE=2(x2) SLURM_STEP_ID=4294967290 SLURM_STEP_NUM_TASKS=1
    SLURM_STEP_TASKS_PER_NODE=1 SLURM_PTY_PORT=4242
"""
"""A shell that salloc opened on the first node, with LaunchParameters=use_interactive_step."""


def srun(rank: int) -> str:
    """Variables of a task of ``srun`` in this batch script: 2 nodes of 2 tasks."""
    return f"""{SBATCH} SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=4 SLURM_STEP_TASKS_PER_NODE=2(x2)
        SLURM_PROCID={rank} SLURM_NODEID={rank // 2} SLURM_LOCALID={rank % 2}"""


def torchrun(rank: int) -> str:
    return f"RANK={rank} WORLD_SIZE=4 LOCAL_RANK={rank % 2} LOCAL_WORLD_SIZE=2"


def open_mpi(rank: int) -> str:
    return f"""OMPI_COMM_WORLD_RANK={rank} OMPI_COMM_WORLD_SIZE=4
        OMPI_COMM_WORLD_LOCAL_RANK={rank % 2} OMPI_COMM_WORLD_LOCAL_SIZE=2"""


def open_mpi_in_slurm(rank: int) -> str:
    """Open MPI's ``mpirun`` starts a daemon on the second node with srun: a step of one task."""
    step = "SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=1 SLURM_STEP_TASKS_PER_NODE=1"
    return f"{SBATCH} {step if rank // 2 else ''} {open_mpi(rank)}"


def intel_mpi(rank: int) -> str:
    return f"PMI_RANK={rank} PMI_SIZE=4 MPI_LOCALRANKID={rank % 2} MPI_LOCALNRANKS=2"


def intel_mpi_in_slurm(rank: int) -> str:
    """Its ``mpirun`` starts a proxy on each node with srun: a step of two tasks."""
    step = "SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=1(x2)"
    return f"{SBATCH} {step} SLURM_PROCID={rank // 2} {intel_mpi(rank)}"


def mvapich(rank: int) -> str:
    return f"""MV2_COMM_WORLD_RANK={rank} MV2_COMM_WORLD_SIZE=4
        MV2_COMM_WORLD_LOCAL_RANK={rank % 2} MV2_COMM_WORLD_LOCAL_SIZE=2"""


def torchrun_in_slurm(rank: int) -> str:
    """A torchrun on each node: srun has two tasks, torchrun four."""
    step = "SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=1(x2)"
    return f"{SBATCH} {step} SLURM_PROCID={rank // 2} {torchrun(rank)}"


TWO_NODES = {
    "srun": (srun, "srun's SLURM_PROCID and SLURM_STEP_NUM_TASKS"),
    "torchrun": (torchrun, "torchrun's RANK and WORLD_SIZE"),
    "torchrun in SLURM": (torchrun_in_slurm, "torchrun's RANK and WORLD_SIZE"),
    "Open MPI": (open_mpi, "Open MPI's OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE"),
    "Open MPI in SLURM": (
        open_mpi_in_slurm, "Open MPI's OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE",
    ),
    "Intel MPI": (intel_mpi, "mpiexec's PMI_RANK and PMI_SIZE"),
    "Intel MPI in SLURM": (intel_mpi_in_slurm, "mpiexec's PMI_RANK and PMI_SIZE"),
    "MVAPICH": (mvapich, "MVAPICH's MV2_COMM_WORLD_RANK and MV2_COMM_WORLD_SIZE"),
}  # fmt: skip


@pytest.mark.parametrize("launcher", TWO_NODES)
def test_two_nodes_of_two_processes_share_the_samples(
    launcher: str, packed: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_rank, found_in = TWO_NODES[launcher]
    seen: list[int] = []
    for rank in range(4):
        with monkeypatch.context() as context:
            set_variables(context, of_rank(rank))
            assert find_world(None, None) == (rank, 4)
            assert detect_world(None, None) == (rank, 4, found_in)
            loader = ShardLoader(packed["zstd"], batch_size=5, workers=1, tail="short")
            seen += [one for batch in loader for one in batch.indices.tolist()]
    alone = ShardLoader(packed["zstd"], batch_size=90, workers=1, rank=0, world_size=1)
    assert sorted(seen) == sorted(one for batch in alone for one in batch.indices.tolist())


@pytest.mark.parametrize(
    "text",
    ["", SBATCH, SALLOC, "SLURM_NTASKS=4", "LOCAL_WORLD_SIZE=2", "PMIX_RANK=1",
     f"{SBATCH} SLURM_STEP_ID= SLURM_STEP_NUM_TASKS=4", f"{SBATCH} SLURM_STEP_ID=4294967291"],
)  # fmt: skip
def test_a_process_that_no_launcher_started_is_alone(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, text)
    assert detect_world(None, None) == (0, 1, "no launcher")


def test_the_innermost_launcher_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, f"{srun(3)} PMI_RANK=3 PMI_SIZE=4")  # --mpi=pmi2
    assert detect_world(None, None).found_in == TWO_NODES["srun"][1]
    set_variables(monkeypatch, "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=8")
    assert find_world(None, None) == (1, 8)
    set_variables(monkeypatch, "RANK=0 WORLD_SIZE=1")
    assert find_world(None, None) == (0, 1)
    assert detect_world(2, 3) == (2, 3, "the options rank and world_size")


def test_without_a_job_step_size_the_number_of_tasks_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SLURM_NTASKS alone may be the job's, so the step's is preferred."""
    set_variables(monkeypatch, "SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_NTASKS=4")
    assert detect_world(None, None) == (1, 4, "srun's SLURM_PROCID and SLURM_NTASKS")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert find_world(None, None) == (1, 2)


def test_pmi_of_others_than_mpiexec(monkeypatch: pytest.MonkeyPatch) -> None:
    """HPE Cray PALS sets only these two."""
    set_variables(monkeypatch, "PMI_RANK=1 PMI_SIZE=2")
    assert find_world(None, None) == (1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RANK=0", r"\$RANK is '0' and \$WORLD_SIZE is not set: .*torchrun sets .*init_process"),
        ("WORLD_SIZE=2", r"\$WORLD_SIZE is '2' and \$RANK is not set: .*torchrun sets .*both"),
        ("RANK=1 WORLD_SIZE=", r"\$RANK is '1' and \$WORLD_SIZE is not set"),
        ("RANK=2 WORLD_SIZE=2", r"\$RANK is 2 and \$WORLD_SIZE is 2: expected a lower rank"),
        ("RANK=x WORLD_SIZE=2", r"\$RANK is 'x', expected an integer, as torchrun sets it"),
        ("RANK=0 WORLD_SIZE=2.0", r"\$WORLD_SIZE is '2.0', expected an integer, as torchrun"),
        ("OMPI_COMM_WORLD_RANK=0", r"\$OMPI_COMM_WORLD_SIZE is not set: .*Open MPI sets"),
        ("MV2_COMM_WORLD_SIZE=2", r"\$MV2_COMM_WORLD_RANK is not set: .*MVAPICH sets"),
        ("PMI_RANK=0 MPI_LOCALNRANKS=1", r"\$PMI_SIZE is not set: .*mpiexec sets"),
        ("PMI_SIZE=2", r"\$PMI_RANK is not set: .*mpiexec sets"),
        ("SLURM_STEP_ID=0 SLURM_PROCID=0", r"\$SLURM_NTASKS is not set: .*srun sets"),
        ("SLURM_STEP_ID=0 SLURM_NTASKS=2", r"\$SLURM_PROCID is not set: .*srun sets"),
        ("SLURM_STEP_ID=x SLURM_NTASKS=2", r"\$SLURM_STEP_ID is 'x', expected an integer"),
        ("SLURM_STEP_ID=0 SLURM_PROCID=4 SLURM_NTASKS=4", r"\$SLURM_NTASKS is 4: expected a low"),
        ("SLURM_PROCID=1 SLURM_NTASKS=2", r"\$SLURM_PROCID is 1 and \$SLURM_STEP_ID is not set"),
    ],
)
def test_half_a_world_is_an_error(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, text)
    with pytest.raises(OptionError, match=message):
        find_world(None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="a terminal in /proc")
@pytest.mark.parametrize("more", ["", "PMI_RANK=0 PMI_SIZE=4"])
def test_a_shell_that_srun_opened_on_a_terminal(more: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``srun --ntasks 4 --pty bash`` does. Python in this shell is one process, not task 0."""
    controller, terminal = os.openpty()
    shell = subprocess.Popen(["sleep", "60"], stdin=terminal)
    try:
        set_variables(monkeypatch, f"{srun(0)} {more} SLURM_TASK_PID={shell.pid}")
        with pytest.raises(OptionError, match=r"4 tasks, .* a terminal.*srun python.*RANK=0"):
            find_world(None, None)
        set_variables(monkeypatch, "SLURM_STEP_NUM_TASKS=1 PMI_SIZE=1")
        assert find_world(None, None) == (0, 1)
        set_variables(monkeypatch, f"SLURM_STEP_NUM_TASKS=4 {intel_mpi(0)}")  # mpirun by hand
        assert find_world(None, None) == (0, 4)
        set_variables(monkeypatch, "RANK=0 WORLD_SIZE=1")
        assert find_world(None, None) == (0, 1)
    finally:
        shell.kill()
        shell.wait()
        os.close(controller)
        os.close(terminal)


def test_a_task_of_srun_is_no_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``srun python``, ``srun --pty python`` and ``srun bash train.sh``."""
    for task in (os.getpid(), os.getppid(), 2**22 + 1):
        monkeypatch.setattr(os, "readlink", lambda path: "/dev/null")
        set_variables(monkeypatch, f"{srun(1)} SLURM_TASK_PID={task}")
        assert find_world(None, None) == (1, 4)
    monkeypatch.setattr(os, "readlink", lambda path: "/dev/pts/0")
    set_variables(monkeypatch, f"SLURM_TASK_PID={os.getpid()}")
    assert find_world(None, None) == (1, 4)


# --- Threads ---------------------------------------------------------------------------------

THREADS = [
    # (variables, cores of this process, cores of the process that started it, threads)
    ("", 16, 64, 16),
    ("", 16, 1, 16),
    ("LOCAL_WORLD_SIZE=4", 16, 16, 4),
    ("LOCAL_WORLD_SIZE=3", 16, 16, 5),
    ("LOCAL_WORLD_SIZE=32", 16, 16, 1),
    ("LOCAL_WORLD_SIZE=4", 4, 16, 4),  # each has cores of its own, as with --numa-binding
    (open_mpi(0), 1, 16, 1),  # bound to a core
    ("OMPI_COMM_WORLD_LOCAL_SIZE=8", 32, 64, 8),  # bound to one of two sockets
    (intel_mpi(0), 8, 16, 8),
    (mvapich(0), 16, 16, 8),
    (srun(0), 16, 16, 8),  # tasks share the step's cores
    (srun(0), 8, 8, 8),  # srun binds each task to its own; the parent is bash, in the same task
    (srun(0), 1, 64, 1),
    (SBATCH, 16, 16, 16),  # one process in a batch script, whatever srun would start
    (SALLOC, 16, 16, 16),
    (torchrun_in_slurm(0), 16, 16, 8),
    (open_mpi_in_slurm(3), 16, 16, 8),
    ("SLURM_STEP_ID=0 SLURM_STEP_TASKS_PER_NODE=2(x3),1 SLURM_NODEID=2", 16, 16, 8),
    ("SLURM_STEP_ID=0 SLURM_STEP_TASKS_PER_NODE=2(x3),1 SLURM_NODEID=3", 16, 16, 16),
    ("SLURM_STEP_ID=0 SLURM_STEP_TASKS_PER_NODE=4,2(x3),1 SLURM_NODEID=0", 16, 16, 4),
    ("SLURM_STEP_ID=0 SLURM_STEP_TASKS_PER_NODE=8(x999999999) SLURM_NODEID=9999", 16, 16, 2),
    ("SLURM_STEP_ID=0 SLURM_STEP_TASKS_PER_NODE=4", 16, 16, 4),
    ("SLURM_STEP_ID=0 SLURM_NTASKS_PER_NODE=8 SLURM_NODEID=3", 16, 16, 2),
    ("SLURM_STEP_ID=0", 16, 16, 16),
]


@pytest.mark.parametrize(("text", "own", "starters", "threads"), THREADS)
def test_processes_of_a_node_share_its_cores(
    text: str, own: int, starters: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, text)
    monkeypatch.setattr(world, "usable_cores", lambda process=0: starters if process else own)
    assert default_threads() == threads


@pytest.mark.parametrize(("gpus", "threads"), [(0, 4), (2, 6), (8, 4)])
def test_ranks_of_mp_spawn_share_the_cores(
    gpus: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable says how many are here: all, or one for each GPU if there are fewer of these."""
    monkeypatch.setattr(world, "usable_cores", lambda process=0: 12)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    for name, value in {"is_initialized": True, "get_rank": 1, "get_world_size": 3}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert detect_world(None, None) == (1, 3, "torch.distributed") and default_threads() == threads
    one_task = "SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=1 SLURM_STEP_TASKS_PER_NODE=1"
    set_variables(monkeypatch, one_task)
    assert default_threads() == threads
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert default_threads() == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("LOCAL_WORLD_SIZE=x", r"\$LOCAL_WORLD_SIZE is 'x', expected an integer"),
        ("LOCAL_WORLD_SIZE=0", r"\$LOCAL_WORLD_SIZE is '0', expected an integer, at least 1"),
        ("SLURM_STEP_ID=0 SLURM_STEP_TASKS_PER_NODE=two", r"_PER_NODE is 'two', expected .*2\(x3"),
        ("SLURM_STEP_ID=0 SLURM_STEP_TASKS_PER_NODE=2(x", r"\$SLURM_STEP_TASKS_PER_NODE is '2\(x'"),
        ("SLURM_STEP_ID=0 SLURM_STEP_TASKS_PER_NODE=0", r"\$SLURM_STEP_TASKS_PER_NODE is '0'"),
    ],
)
def test_an_invalid_number_of_processes(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, text)
    with pytest.raises(OptionError, match=message):
        default_threads()


# --- Real processes --------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("launcher", ["srun", "Open MPI in SLURM"])
def test_processes_of_two_nodes(launcher: str, packed: dict[str, Path]) -> None:
    """Each process knows only its variables."""
    code = f"""
        from cinic_shards import ShardLoader
        loader = ShardLoader({str(packed["zstd"])!r}, batch_size=5, tail="short")
        print(*[one for batch in loader for one in batch.indices.tolist()])
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(tuple(LAUNCHERS))}
    inherited["PYTHONPATH"] = os.pathsep.join(sys.path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True,
            env=inherited | variables(TWO_NODES[launcher][0](rank)),
        )
        for rank in range(4)
    ]  # fmt: skip
    seen = [[*map(int, process.communicate(timeout=120)[0].split())] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len({one for ids in seen for one in ids}) == sum(map(len, seen)) == 90
