"""Record what reaches the disk, and in which order: syncs, renames and deletions."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cinic_shards.store import system as store_system


def record_disk(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[str]:
    """Record calls about files in ``root``, with paths below it, as ``sync a`` and ``rename a b``.

    A temporary file is named after the file that it becomes, with ``.partial``, and a file of a
    work folder without its token. A sync of the entire disk is ``sync disk``.
    """
    calls: list[str] = []

    def path_of(path: Any) -> str:
        path = Path(os.path.abspath(path))
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else "elsewhere"
        name = re.sub(r"\b[0-9a-f]{32}-", "", name)
        return re.sub(r"\.[0-9a-f]{8,12}\.partial$", ".partial", name)

    def path_of_descriptor(descriptor: int) -> str:
        wanted = os.fstat(descriptor)
        for path in (root, *root.rglob("*")):
            if path.exists() and os.path.samestat(wanted, path.stat()):
                return path_of(path)
        return "elsewhere"

    def noted(call: str, function: Callable[..., Any], name: Callable[..., str]) -> Any:
        def called(*args: Any, **options: Any) -> Any:
            calls.append(f"{call} {name(*args)}")
            return function(*args, **options)

        return called

    monkeypatch.setattr(os, "fsync", noted("sync", os.fsync, path_of_descriptor))
    monkeypatch.setattr(store_system, "_syncfs", noted("sync", lambda fd: None, lambda fd: "disk"))
    monkeypatch.setattr(os, "sync", noted("sync", lambda: None, lambda: "disk"), raising=False)
    for name in ("replace", "rename"):
        renamed = noted("rename", getattr(os, name), lambda a, b: f"{path_of(a)} {path_of(b)}")
        monkeypatch.setattr(os, name, renamed)
    monkeypatch.setattr(os, "unlink", noted("delete", os.unlink, lambda path, **_: path_of(path)))
    return calls
