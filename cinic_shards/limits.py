"""Limits that Linux's control groups (cgroups) set for this process: CPU time and memory.

Containers, Kubernetes, SLURM and systemd limit processes in this way. All processes of a group and
of the groups inside it share its limit, so those of a process are its own group's and every
parent's. A limit that cannot be read or parsed is ignored.

The format of the files: https://docs.kernel.org/admin-guide/cgroup-v2.html (v2),
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html and
https://docs.kernel.org/scheduler/sched-bwc.html (v1), cgroups(7) and proc_pid_mountinfo(5).
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_UNLIMITED = 2**62
"""v1 shows no limit as a multiple of the page size just below 2**63."""


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return the CPU time that this process may use, in cores, such as 0.5; None if unlimited.

    Args:
        root: the folder that has ``proc`` and the groups' mounts.
    """
    return min(filter(None, map(_quota, _groups("cpu", root))), default=None)


def free_memory(root: Path = _ROOT) -> int | None:
    """Return the bytes that this process may still take from its groups; None if unlimited.

    The page cache counts as free: the kernel drops it before it kills a process.

    Args:
        root: the folder that has ``proc`` and the groups' mounts.
    """
    found = map(_free_memory, _groups("memory", root))
    return min((free for free in found if free is not None), default=None)


def usable_memory(root: Path = _ROOT) -> tuple[int, str] | None:
    """Return the bytes of memory that this process may take, and where they are, for messages.

    They are the machine's memory, or less if a group has less left; None if neither is known.

    Args:
        root: the folder that has ``proc`` and the groups' mounts.
    """
    found = []
    if (free := free_memory(root)) is not None:
        found.append((free, "free in this process's cgroup"))
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append((os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "in this machine"))
    return min(found, default=None)


def _quota(group: Path) -> float | None:
    words = _read(group / "cpu.max").split() or [
        _read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")
    ]
    if len(words) != 2:
        return None
    quota, period = map(_number, words)
    return quota / period if quota and period else None


def _free_memory(group: Path) -> int | None:
    limits = [
        _number(_read(group / name))
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes")
    ]
    limit = min((one for one in limits if one is not None), default=_UNLIMITED)
    if limit >= _UNLIMITED:
        return None
    used = _number(_read(group / "memory.current") or _read(group / "memory.usage_in_bytes")) or 0
    stat = dict(re.findall(r"^(\w+) (\d{1,20})$", _read(group / "memory.stat"), re.ASCII | re.M))
    # v1 also counts a group alone there; its totals are those of the limit.
    prefix = "total_" if "total_inactive_file" in stat else ""
    cached = sum(int(stat.get(f"{prefix}{name}_file", 0)) for name in ("active", "inactive"))
    return max(0, limit - max(0, used - cached))


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups, each before its parents."""
    paths: dict[str, str] = {}
    """Controller of v1, or "" for v2 -> the group's path."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        names, _, path = line.partition(":")[2].partition(":")
        paths |= dict.fromkeys(names.split(","), path)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        _, _, _, top, folder, *_ = [*map(_unescaped, mount.split(" ")), *[""] * 5]
        kind, _, options, *_ = [*system.split(" "), "", "", ""]
        if kind == "cgroup2":
            path = paths.get("", "")
        elif kind == "cgroup" and controller in options.split(","):
            path = paths.get(controller, "")
        else:
            continue
        if PurePosixPath(path).is_relative_to(top) and path.startswith("/"):
            parts = PurePosixPath(path).relative_to(top).parts
            if ".." not in parts:  # else the group is outside of this process's namespace
                for number in range(len(parts), -1, -1):
                    yield root.joinpath(folder.lstrip("/"), *parts[:number])


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _read(path: Path) -> str:
    """Return the text of a small file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, ValueError):  # ValueError: NUL in the path
        return ""


def _number(text: str) -> int | None:
    """Return a number of bytes or microseconds; None if it is not one, as ``max`` and ``-1``."""
    return int(text) if re.fullmatch(r"\s*\d{1,20}\s*", text, re.ASCII) else None
