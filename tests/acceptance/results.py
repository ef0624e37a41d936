"""Results of a run as JSON lines, for ``--results FILE``: each is written when it is known."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import cinic_shards
from benchmarks.suite import machine

LIBRARIES = ("numpy", "numba", "pillow", "torch", "torchvision", "webdataset")
_MAX_REASON = 2000
"""Letters of a failure's text: its end names what differs."""


class Results:
    """The file, and a table at the end of the run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        versions = {name: version(name) for name in LIBRARIES}
        with open(path, "w") as file:
            ours = {"python": platform.python_version(), "cinic-shards": cinic_shards.__version__}
            head = {"versions": ours | versions}
            print(json.dumps(head | {"machine": machine()}), file=file)

    def add(self, item: pytest.Function, report: pytest.TestReport, seconds: float) -> None:
        """Write one test's line."""
        row: dict[str, Any] = {
            "test": f"{item.path.stem}::{item.name}",
            "question": (item.obj.__doc__ or "").partition("\n")[0],
            "outcome": report.outcome,
            "seconds": round(seconds, 1),
        }
        if report.skipped and isinstance(report.longrepr, tuple):
            row["reason"] = report.longrepr[2]
        elif report.failed:
            row["reason"] = report.longreprtext[-_MAX_REASON:]
        for name in ("tree", "small_tree"):
            if tree := item.funcargs.get(name):
                row |= {"tree": tree.origin, "images": len(tree.keys)}
        row["figures"] = dict(item.user_properties)
        self.rows.append(row)
        with open(self.path, "a") as file:
            print(json.dumps(row, default=str), file=file)

    def table(self) -> list[str]:
        """Test, outcome and seconds, a line each."""
        width = max((len(row["test"]) for row in self.rows), default=0)
        return [f"{r['test']:{width}}  {r['outcome']:7}  {r['seconds']:7.1f} s" for r in self.rows]
