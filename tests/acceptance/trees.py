"""The trees that acceptance tests run on, and what is made from one once and then only read."""

import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cinic_shards.read.split import SplitReader
from tests.support import ROOT
from tests.support.command import COMMAND
from tests.support.files import digests

Record = Callable[[str, object], None]
"""The fixture ``record_property``: a figure's name and value, for the line of ``--results``."""
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "cinic-mini.tar"
PROGRAMS = ROOT / "tests" / "acceptance" / "programs"
"""Scripts that run in processes of their own."""
_LARGE, _CINIC10 = 20_000, 200_000
"""Images. On a larger tree tests repeat less, and their figures say how often."""


@dataclass
class Tree:
    """A folder of ``<split>/<class>/*.png``."""

    folder: Path
    origin: str
    """``given``, ``drawn`` or ``photographs``."""
    scratch: Path
    """Folder for shards and archives made from the tree."""
    options: tuple[str, ...] = ()
    """Options for packing: a small tree has small shards and blocks, so that there are many."""
    _packed: dict[str, Path] = field(default_factory=dict)

    @cached_property
    def keys(self) -> list[str]:
        """Key of every image, sorted."""
        paths = self.folder.glob("*/*/*.png")
        return sorted(path.relative_to(self.folder).as_posix()[:-4] for path in paths)

    @property
    def is_large(self) -> bool:
        """True for trees like all of CINIC-10."""
        return len(self.keys) > _LARGE

    @property
    def has_bars(self) -> bool:
        """True for a given tree of CINIC-10's size: figures that a machine decides have bars."""
        return self.origin == "given" and len(self.keys) >= _CINIC10

    def path(self, key: str) -> Path:
        """An image's file."""
        return self.folder / f"{key}.png"

    def packed(self, encoding: str = "png") -> Path:
        """Shards of the tree, packed by the command with two workers; read only."""
        if encoding not in self._packed:
            out = self.scratch / encoding
            options = ("--encoding", encoding, "--workers", "2", *self.options)
            cinic_shard("pack", self.folder, out, "--quiet", *options)
            self._packed[encoding] = out
        return self._packed[encoding]

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of every file."""
        return digests(self.folder)

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """Pixels decoded by Pillow: uint8, shape (N, H, W, 3), in the order of ``keys``."""
        return np.stack([decode(self.path(key)) for key in self.keys])

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.keys)}

    def rows(self, reader: SplitReader) -> NDArray[np.int64]:
        """Row in ``pixels`` of each sample of a split, in its order."""
        return np.array([self._row_of[reader.key(row)] for row in range(len(reader))])

    def archive(self, name: str) -> Path:
        """The tree as an archive of the format that a name ends with; made once, read only."""
        path = self.scratch / name
        if path.exists():
            return path
        part = path.with_name(f"part-{name}")
        if name.endswith(".zip"):  # compressed: it cannot be read in place
            options: Any = {"strict_timestamps": False}  # a file's time may be before 1980
            with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, **options) as archive:
                for key in self.keys:
                    archive.write(self.path(key), f"{key}.png")
        else:  # as CINIC-10 is published
            options = {"compresslevel": 6} if name.endswith(".gz") else {}
            mode: Any = "w:gz" if options else "w"
            with tarfile.open(part, mode, format=tarfile.GNU_FORMAT, **options) as archive:
                archive.add(self.folder, "CINIC-10")
        return part.rename(path)


def decode(path: Path) -> NDArray[np.uint8]:
    """An image's pixels by Pillow."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def cinic_shard(*arguments: object, env: Mapping[str, str] | None = None) -> str:
    """Run the command, which must succeed; return what it prints."""
    words = [str(COMMAND), *map(str, arguments)]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout


def python(program: str, *arguments: object, env: Mapping[str, str] | None = None) -> str:
    """Run one of ``programs``, which must succeed; return what it prints."""
    words = [sys.executable, str(PROGRAMS / program), *map(str, arguments)]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout


def torchrun(program: str, *arguments: object, options: tuple[str, ...]) -> list[str]:
    """The words that start one of ``programs`` under torchrun."""
    return [
        str(Path(sys.executable).with_name("torchrun")), *options,
        str(PROGRAMS / program), *map(str, arguments),
    ]  # fmt: skip


@contextmanager
def started(words: list[str], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a command; its processes are ended with this, whatever happens."""
    process = subprocess.Popen(words, start_new_session=True, **options)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """The first names whose content differs, or that only one of both has."""
    names = sorted(found.keys() | expected.keys())
    return [name for name in names if found.get(name) != expected.get(name)][:10]
