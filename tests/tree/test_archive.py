"""An archive is packed like the tree in it; a hostile archive gives one clear error."""

import gzip
import io
import os
import re
import shutil
import signal
import stat
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zstandard

from cinic_shards.check.verify import verify
from cinic_shards.errors import OutputError, TreeError
from cinic_shards.jobs import make_executor
from cinic_shards.tree import archive as archive_module
from cinic_shards.tree import spool
from cinic_shards.tree.archive import ArchiveSource
from cinic_shards.tree.listing import changes, list_tree
from cinic_shards.tree.members import MAX_GROWTH
from cinic_shards.write.pack import PackOptions, pack
from tests.support.files import PNG, files_of, write
from tests.support.processes import run_forked
from tests.tree.test_tree import FAULTS, make_faults

SIZE = PackOptions(shard_size=40)


def entries(tree: Path) -> list[Path]:
    return sorted(tree.rglob("*"))


def make_tar(path: Path, tree: Path, top: str = "", mode: str = "w", **options: object) -> None:
    options.setdefault("format", tarfile.USTAR_FORMAT)
    with tarfile.open(path, mode, **options) as archive:  # type: ignore[call-overload]
        for entry in entries(tree):
            archive.add(entry, top + str(entry.relative_to(tree)), recursive=False)


def make_zip(path: Path, tree: Path, top: str = "", method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for entry in entries(tree):
            archive.write(entry, top + str(entry.relative_to(tree)))


def make_zst(path: Path, tree: Path, frame_bytes: int = 2**30) -> None:
    """Compress a tar with a frame for each ``frame_bytes``, and a frame without data between."""
    make_tar(path, tree)
    data = path.read_bytes()
    parts = [data[at : at + frame_bytes] for at in range(0, len(data), frame_bytes)]
    empty = b"\x5a\x2a\x4d\x18\3\0\0\0abc"
    path.write_bytes(empty.join(zstandard.ZstdCompressor().compress(part) for part in parts))


def make_finder_zip(path: Path, tree: Path, top: str = "") -> None:
    """Make a zip as Finder does: an AppleDouble file in __MACOSX for every file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries(tree):
            name = top + str(entry.relative_to(tree))
            archive.write(entry, name)
            if entry.is_file():
                folder, _, stem = name.rpartition("/")
                archive.writestr(f"__MACOSX/{folder}/._{stem}", b"\0\5\x16\7" + bytes(116))


def dos_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name  # on Windows, zipfile would replace backslashes
    info.create_system = 0
    return info


def make_backslash_zip(path: Path, tree: Path) -> None:
    """Make a zip as some programs for Windows do, with its folders as members or without."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(dos_info("train\\"), b"")
        for file in filter(Path.is_file, entries(tree)):
            name = str(file.relative_to(tree)).replace("/", "\\")
            archive.writestr(dos_info(name), file.read_bytes())


def make_zip_of(
    path: Path, tree: Path, name: str, method: int = zipfile.ZIP_STORED, beside: str = ""
) -> None:
    """Make a zip that holds an archive of the tree."""
    inner = path.parent / name
    ARCHIVES[name](inner, tree)
    with zipfile.ZipFile(path, "w", method) as archive:
        if beside:
            archive.writestr(beside, "text")
        archive.write(inner, f"data/{name}")
    inner.unlink()


def make_zip_of_dotted(path: Path, tree: Path) -> None:
    """Make a zip that holds an archive, all names of which begin with ``./``."""
    make_zip_of(path, tree, "tree.tar")
    data = path.read_bytes()
    assert data.count(b"data/tree.tar") == 2
    path.write_bytes(data.replace(b"data/tree.tar", b"./a//tree.tar"))


def make_zip64(path: Path, tree: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in filter(Path.is_file, entries(tree)):
            with archive.open(str(file.relative_to(tree)), "w", force_zip64=True) as out:
                out.write(file.read_bytes())


def make_prefixed_zip(path: Path, tree: Path, method: int) -> None:
    """Make a zip that a program precedes, which unpacks it."""
    make_zip(path, tree, method=method)
    path.write_bytes(b"#!/bin/sh\nexit\n" + path.read_bytes())


ARCHIVES: dict[str, Callable[[Path, Path], object]] = {
    "tree.tar": make_tar,
    "pax.tar": lambda path, tree: make_tar(path, tree, format=tarfile.PAX_FORMAT),
    "gnu.tar": lambda path, tree: make_tar(path, tree, "./", format=tarfile.GNU_FORMAT),
    "tree.tar.gz": lambda path, tree: make_tar(path, tree, "CINIC-10/", "w:gz"),
    "tree.tgz": lambda path, tree: make_tar(path, tree, "./a/b/", "w:gz"),
    "tree.tar.xz": lambda path, tree: make_tar(path, tree, mode="w:xz", preset=0),
    "tree.tar.bz2": lambda path, tree: make_tar(path, tree, mode="w:bz2"),
    "named otherwise": lambda path, tree: make_tar(path, tree, mode="w:gz"),
    "tree.zip": make_zip,
    "below.zip": lambda path, tree: make_zip(path, tree, "CINIC-10/"),
    "stored.zip": lambda path, tree: make_zip(path, tree, method=zipfile.ZIP_STORED),
    "tree.tar.zst": make_zst,
    "frames.tzst": lambda path, tree: make_zst(path, tree, 20_000),
    "a zip.tar": make_zip,
    "gzip.tar": lambda path, tree: make_tar(path, tree, mode="w:gz"),
    "finder.zip": make_finder_zip,
    "finder below.zip": lambda path, tree: make_finder_zip(path, tree, "CINIC-10/"),
    "backslashes.zip": make_backslash_zip,
    "zip64.zip": make_zip64,
    "program.zip": lambda path, tree: make_prefixed_zip(path, tree, zipfile.ZIP_DEFLATED),
    "stored program.zip": lambda path, tree: make_prefixed_zip(path, tree, zipfile.ZIP_STORED),
    "download.zip": lambda path, tree: make_zip_of(path, tree, "tree.tar.gz", beside="licence.txt"),
    "deflated.zip": lambda path, tree: make_zip_of(path, tree, "tree.tar", zipfile.ZIP_DEFLATED),
    "zip of zst.zip": lambda path, tree: make_zip_of(path, tree, "tree.tar.zst"),
    "zip of zip.zip": lambda path, tree: make_zip_of(path, tree, "tree.zip"),
    "zip of stored.zip": lambda path, tree: make_zip_of(path, tree, "stored.zip"),
    "zip of dotted.zip": make_zip_of_dotted,
}

TOPS = {
    "tree.tar.gz": "CINIC-10",
    "below.zip": "CINIC-10",
    "tree.tgz": "a/b",
    "finder below.zip": "CINIC-10",
    "download.zip": "CINIC-10",
}
"""The folder above the splits in some of the archives."""

INNER = {
    "download.zip": "data/tree.tar.gz",
    "deflated.zip": "data/tree.tar",
    "zip of zst.zip": "data/tree.tar.zst",
    "zip of zip.zip": "data/tree.zip",
    "zip of stored.zip": "data/stored.zip",
    "zip of dotted.zip": "a/tree.tar",
}
"""The archive in some of the archives."""

LEFT_OUT = {
    "finder.zip": "__MACOSX/",
    "finder below.zip": "__MACOSX/",
    "download.zip": "licence.txt",
}
"""The files and folders left out of some of the archives."""


@pytest.mark.parametrize("name", ["tree", "tree.tar", "tree.tar.gz", "tree.zip"])
def test_short_reads(
    tree: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:  # fmt: skip
    """Some FUSE file systems return fewer bytes than there are."""
    if name != "tree":
        ARCHIVES[name](tmp_path / name, tree)
    os_read = os.read

    class ShortReads(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            return super().readinto(memoryview(buffer)[:10])

    monkeypatch.setattr(os, "read", lambda descriptor, size: os_read(descriptor, min(size, 10)))
    monkeypatch.setattr(
        archive_module, "open", lambda path, *_, **__: ShortReads(path), raising=False
    )
    pack(tmp_path / name, tmp_path / "out", workers=1, warn=lambda text: None)
    assert files_of(tmp_path / "out") == expected


def leaves_nothing(out: Path) -> bool:
    return not out.exists() and not list(out.parent.rglob(f"*{spool.SPOOL_SUFFIX}"))


@pytest.mark.parametrize("kind", ARCHIVES)
def test_the_same_bytes_as_from_the_tree(
    demo_tree: Path, demo_shards: Path, tmp_path: Path, kind: str
) -> None:
    archive, out = tmp_path / kind, tmp_path / "out"
    ARCHIVES[kind](archive, demo_tree)
    told: list[str] = []
    pack(archive, out, SIZE, workers=1, warn=told.append)
    assert files_of(out) == files_of(demo_shards)
    expected = []
    if kind in INNER:
        expected.append(f"the images are in {INNER[kind]}, which is in {kind}")
    if kind in TOPS:
        expected.append(f"all images are in {TOPS[kind]}/, which is not part of their names")
    if kind in LEFT_OUT:
        expected.append(f"left out, not images: {LEFT_OUT[kind]}")
    assert told == expected
    assert not list(tmp_path.rglob(f"*{spool.SPOOL_SUFFIX}"))


def test_blocks_and_workers(tree: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "tree.tgz", tree, mode="w:gz")
    options = PackOptions(encoding="raw", shard_size=4)
    for source, out, workers in (("tree", "one", 1), ("tree.tgz", "two", 2)):
        pack(tmp_path / source, tmp_path / out, options, workers=workers, warn=lambda text: None)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_files_beside_the_splits_are_reported(tree: Path, tmp_path: Path) -> None:
    for name in ("README", "imagenet-contributors.csv", "synsets-to-cifar-10-classes.txt"):
        (tree / name).write_text("text")
    write(tree, "train/a/._x.png", ".DS_Store")
    (tree / "extra").mkdir()
    warnings: dict[str, list[str]] = {"tree": [], "tree.tgz": []}
    make_tar(tmp_path / "tree.tgz", tree, mode="w:gz")
    for source, told in warnings.items():
        pack(tmp_path / source, tmp_path / f"{source}-out", workers=1, warn=told.append)
    assert warnings["tree"] == warnings["tree.tgz"]
    assert "README" in str(warnings)
    assert files_of(tmp_path / "tree-out") == files_of(tmp_path / "tree.tgz-out")


def test_files_beside_the_top_folder_are_reported(tree: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tree.tar", "w") as archive:
        archive.add(tree, "CINIC-10")
        archive.addfile(tarfile.TarInfo("notes.txt"))
        archive.addfile(tarfile.TarInfo("__MACOSX/CINIC-10/train/a/._x.png"))
    told: list[str] = []
    pack(tmp_path / "tree.tar", tmp_path / "out", workers=1, warn=told.append)
    assert "left out, not images (2): notes.txt, __MACOSX/" in told


@pytest.mark.parametrize("make", [make_tar, make_zip], ids=["tar", "zip"])
def test_faults_are_reported_as_for_a_tree(tree: Path, tmp_path: Path, make: Callable) -> None:  # type: ignore[type-arg]
    """All faults at once that an archive can have as well."""
    not_here = ("link", "not UTF-8") if make is make_zip else ("link",)
    make_faults(tree, [fault for fault in FAULTS if not any(one in fault for one in not_here)])
    make(tmp_path / "archive", tree)
    problems = []
    for source in (tree, tmp_path / "archive"):
        with pytest.raises(TreeError) as caught:
            pack(source, tmp_path / "out", workers=1)
        problems.append(caught.value.problems)
        assert caught.value.root == str(source)
        assert leaves_nothing(tmp_path / "out")
    assert problems[0] == problems[1]
    assert len(problems[0]) > 30


def test_damaged_images_are_reported(tree: Path, tmp_path: Path) -> None:
    (tree / "train/a/train_a0.png").write_bytes(PNG[:45])
    make_tar(tmp_path / "tree.tgz", tree, mode="w:gz")
    with pytest.raises(TreeError, match=r"train/a/train_a0\.png: "):
        pack(tmp_path / "tree.tgz", tmp_path / "out", workers=1)
    assert leaves_nothing(tmp_path / "out")


# Hostile tars: the members to add, and the expected message.


def member(name: str, **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    info.size = len(PNG) if info.isreg() else 0
    return info, PNG if info.isreg() else b""


DEEP = "a/...: in more than 100 folders; create the archive again without it"

TARS: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "absolute": ([member("/etc/passwd.png")], "/etc/passwd.png: an absolute name"),
    "dots": ([member("train/../../x.png")], "train/../../x.png: an absolute name, or a name with"),
    "dots, a folder": ([member("..", type=tarfile.DIRTYPE)], "..: an absolute name"),
    "link": ([member("train/a/x.png", type=tarfile.SYMTYPE, linkname="/")], "x.png: a link"),
    "link to a folder": ([member("valid", type=tarfile.SYMTYPE, linkname="..")], "valid: a link"),
    "hard link to a later file": (
        [
            member("train/a/x.png", type=tarfile.LNKTYPE, linkname="train/a/y.png"),
            member("train/a/y.png"),
        ],
        "train/a/x.png: a hard link to train/a/y.png, which is not an image earlier in the archive",
    ),
    "hard link to the outside": (
        [member("train/a/x.png", type=tarfile.LNKTYPE, linkname="train/../../x.png")],
        "train/a/x.png: a hard link to train/../../x.png, which is not",
    ),
    "hard link to a file that is not an image": (
        [member("notes"), member("train/a/x.png", type=tarfile.LNKTYPE, linkname="notes")],
        "train/a/x.png: a hard link to notes, which is not an image",
    ),
    "hard link over a file": (
        [member("train/a/train_a1.png", type=tarfile.LNKTYPE, linkname="train/a/train_a0.png")],
        "train/a/train_a1.png: twice in the archive",
    ),
    "device": ([member("train/a/x.png", type=tarfile.CHRTYPE)], "train/a/x.png: a device"),
    "pipe": ([member("train/a/x.png", type=tarfile.FIFOTYPE)], "train/a/x.png: a named pipe"),
    "unknown": ([member("train/a/x.png", type=b"Z")], "train/a/x.png: not an ordinary file"),
    "sparse": (
        [member("train/a/x.png", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"})],
        "train/a/x.png: a sparse file",
    ),
    "twice": ([member("train/a/train_a0.png")], "train/a/train_a0.png: twice in the archive"),
    "twice, otherwise": ([member("./train//a/train_a0.png")], "train_a0.png: twice in the archive"),
    "deep, an image": ([member("train/" + "a/" * 2000 + "x.png")], DEEP),
    "deep, not an image": ([member("a/" * 2000 + "x.txt")], DEEP),
    "deep, hidden": ([member(".a/" * 2000 + "x.png")], DEEP),
    "deep, a folder": ([member("a/" * 2000, type=tarfile.DIRTYPE)], DEEP),
    "deep, a link": ([member("a/" * 2000, type=tarfile.SYMTYPE, linkname="x")], DEEP),
    "deep, a hard link": (
        [member("a/" * 2000, type=tarfile.LNKTYPE, linkname="train/a/train_a0.png")],
        DEEP,
    ),
    "hard link to a deep path": (
        [member("train/a/x.png", type=tarfile.LNKTYPE, linkname="a/" * 2000 + "x.png")],
        "which is not an image earlier in the archive",
    ),
    "a file with children": (
        [member("train/c"), member("train/c/x.png")],
        "train/c: both a file and a folder",
    ),
}


def hostile_tar(path: Path, tree: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    make_tar(path, tree)
    with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("fault", TARS)
def test_members_that_a_tar_must_not_have(tree: Path, tmp_path: Path, fault: str) -> None:
    members, said = TARS[fault]
    hostile_tar(tmp_path / "x.tar", tree, members)
    with pytest.raises(TreeError) as caught:
        pack(tmp_path / "x.tar", tmp_path / "out", workers=1)
    assert said in caught.value.problems[0] and len(caught.value.problems) == 1
    assert str(caught.value).startswith(str(tmp_path / "x.tar"))
    assert leaves_nothing(tmp_path / "out")


def test_all_faults_of_a_tar_at_once(tree: Path, tmp_path: Path) -> None:
    told = ("absolute", "dots", "link to a folder", "twice", "a file with children")
    hostile_tar(tmp_path / "x.tar", tree, [one for name in told for one in TARS[name][0]])
    with pytest.raises(TreeError) as caught:
        pack(tmp_path / "x.tar", tmp_path / "out", workers=1)
    assert all(TARS[name][1] in "\n".join(caught.value.problems) for name in told)
    assert len(caught.value.problems) == len(told)


def test_a_long_name_is_read(tree: Path, tmp_path: Path) -> None:
    """Both GNU's and POSIX's long names are read; a stem may have 95 bytes."""
    path = f"train/{'c' * 60}/{'x' * 28}.png"
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        with tarfile.open(tmp_path / "x.tar", "w", format=kind) as archive:
            info, data = member(f"{'top' * 50}/{path}")
            archive.addfile(info, io.BytesIO(data))
        manifest = pack(tmp_path / "x.tar", tmp_path / "out", workers=1, warn=lambda text: None)
        assert manifest.classes == ("c" * 60,)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def with_bytes(path: Path, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def header(**fields: object) -> bytes:
    info = tarfile.TarInfo("x")
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def with_tail(path: Path, data: bytes) -> None:
    """Replace what follows the last member."""
    with tarfile.open(path) as archive:
        end = max(info.offset_data + -(-info.size // 512) * 512 for info in archive)
    path.write_bytes(path.read_bytes()[:end] + data)


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut in an image": (lambda path: cut(path, 5000), "unexpected end of data"),
    "cut in a header": (lambda path: cut(path, 512 * 7 + 100), "unexpected end of data"),
    "no end": (lambda path: with_tail(path, b""), "unexpected end of data"),
    "half an end": (lambda path: with_tail(path, bytes(100)), "unexpected end of data"),
    "a header overwritten": (lambda path: with_bytes(path, 512, b"\xff" * 512), "invalid header"),
    "a second archive after it": (
        lambda path: path.write_bytes(path.read_bytes() + path.read_bytes()),
        "more data after the end of the archive",
    ),
    "a size that lies": (lambda path: with_tail(path, header(size=2**40)), "unexpected end"),
    "a size below zero": (lambda path: with_tail(path, header(size=-1024)), "invalid size"),
    "a name of a gigabyte": (
        lambda path: with_tail(path, header(size=2**30, type=tarfile.GNUTYPE_LONGNAME)),
        "headers of more than",
    ),
    "names upon names": (
        lambda path: with_tail(
            path, (header(size=1, type=tarfile.GNUTYPE_LONGNAME) + bytes(512)) * 2000
        ),
        "headers of more than|recursion",
    ),
    "a sparse map without end": (
        lambda path: with_tail(
            path,
            header(type=tarfile.GNUTYPE_SPARSE, size=2**20)[:482]
            + b"\1"
            + bytes(29)
            + b"\1" * 2**20,
        ),
        "bad checksum|invalid header|headers of more than",
    ),
}


@pytest.mark.parametrize("packed", [False, True], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_tar(tree: Path, tmp_path: Path, damage: str, packed: bool) -> None:
    make, said = DAMAGED[damage]
    path = tmp_path / "x.tar"
    make_tar(path, tree)
    make(path)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(TreeError, match=said) as caught:
        pack(path, tmp_path / "out", workers=1)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: ") and problem.endswith("truncated, fetch it again")
    assert leaves_nothing(tmp_path / "out")


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2", "zst"])
@pytest.mark.parametrize("at", ["middle", "last byte", "changed"])
def test_a_damaged_stream(tree: Path, tmp_path: Path, mode: str, at: str) -> None:
    path = tmp_path / "x.tar.gz"
    if mode == "zst":
        make_zst(path, tree)
    else:
        make_tar(path, tree, mode=mode)
    size = path.stat().st_size
    if at == "changed":
        with_bytes(path, size // 2, bytes(20))
    else:
        cut(path, size // 2 if at == "middle" else size - 1)
    with pytest.raises(TreeError, match="damaged or truncated, fetch it again"):
        pack(path, tmp_path / "out", workers=1)
    assert leaves_nothing(tmp_path / "out")


def test_a_gzip_of_several_parts_is_read_to_its_end(
    tree: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    make_tar(tmp_path / "x.tar", tree)
    data = (tmp_path / "x.tar").read_bytes()
    packed = gzip.compress(data[:5000]) + gzip.compress(data[5000:])
    (tmp_path / "x.tar.gz").write_bytes(packed)
    pack(tmp_path / "x.tar.gz", tmp_path / "out", workers=1, warn=lambda text: None)
    assert files_of(tmp_path / "out") == expected


def test_a_bomb_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that unpacks to more than any archive of PNGs is not written to the disk."""
    monkeypatch.setattr("cinic_shards.tree.members._MAX_SLACK_BYTES", 2**20)
    info = tarfile.TarInfo("train/a/x.png")
    info.size = 2**26
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=9) as file:
        file.write(info.tobuf())
        file.write(bytes(info.size))
    assert info.size > MAX_GROWTH * (tmp_path / "x.tar.gz").stat().st_size + 2**20
    with pytest.raises(TreeError, match="too many for its size"):
        pack(tmp_path / "x.tar.gz", tmp_path / "out", workers=1)
    assert leaves_nothing(tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/a/x.png", bytes(2**26))
    with pytest.raises(TreeError, match="too many for its size"):
        pack(tmp_path / "x.zip", tmp_path / "out", workers=1)


def linked(path: Path, archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("train/a/x.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "/etc/passwd")


class UnnamedInfo(zipfile.ZipInfo):
    """A member whose name is in an unknown encoding."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 - Python's name
        return self.filename.encode("latin-1"), 0


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "add, said",
    [
        (lambda path, archive: archive.writestr("/x.png", PNG), "/x.png: an absolute name"),
        (lambda path, archive: archive.writestr("a/../../x.png", PNG), "x.png: an absolute name"),
        (linked, "train/a/x.png: a link"),
        (lambda path, archive: archive.writestr("train/a/train_a0.png", PNG), "_a0.png: twice in"),
        (lambda path, archive: archive.writestr("a/" * 2000 + "x.png", PNG), re.escape(DEEP)),
        (
            lambda path, archive: archive.writestr(UnnamedInfo("a/" * 2000 + "é.txt"), "text"),
            re.escape(DEEP),
        ),
    ],
    ids="absolute,dots,link,twice,deep,deep and unnamed".split(","),
)
def test_members_that_a_zip_must_not_have(
    tree: Path, tmp_path: Path, add: Callable[[Path, zipfile.ZipFile], object], said: str
) -> None:
    path = tmp_path / "x.zip"
    make_zip(path, tree)
    with zipfile.ZipFile(path, "a") as archive:
        add(path, archive)
    with pytest.raises(TreeError, match=said):
        pack(path, tmp_path / "out", workers=1)
    assert leaves_nothing(tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["tree.tar", "./tree.tar"])
def test_an_archive_that_is_twice_in_a_zip(tree: Path, tmp_path: Path, second: str) -> None:
    make_tar(tmp_path / "tree.tar", tree)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "tree.tar", "tree.tar")
        archive.writestr(second, (tmp_path / "tree.tar").read_bytes())
    with pytest.raises(TreeError, match=r"tree\.tar: twice in the archive; create the archive"):
        pack(tmp_path / "x.zip", tmp_path / "out", workers=1)
    assert leaves_nothing(tmp_path / "out")


def central(data: bytearray) -> int:
    """Find the first image's entry in a zip's central directory."""
    return data.index(b"PK\1\2", data.index(b".png", data.index(b"PK\1\2")) - 150)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
@pytest.mark.parametrize(
    "damage", ["cut", "encrypted", "method", "version", "size", "smaller size", "offset", "changed"]
)
def test_a_damaged_zip(tree: Path, tmp_path: Path, damage: str, method: int) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(tree.rglob("*.png")):
            archive.write(file, str(file.relative_to(tree)))
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    size = struct.unpack_from("<I", data, at + 24)[0]
    said = "damaged or truncated, fetch it again"
    if damage == "cut":
        del data[-30:]
    elif damage == "encrypted":
        data[at + 8] |= 1
        said = "test_a0.png: encrypted, and 0 more"
    elif damage == "method":
        struct.pack_into("<H", data, at + 10, 77)
        said = r"cannot be read here \(.*\); unpack it and pack its folder"
    elif damage == "version":
        struct.pack_into("<H", data, at + 6, 99)
        said = r"cannot be read here \(zip file version 9.9\); unpack it"
    elif damage == "size":
        struct.pack_into("<I", data, at + 24, size + 100)
    elif damage == "smaller size":
        struct.pack_into("<I", data, at + 24, size - 10)
    elif damage == "offset":
        struct.pack_into("<I", data, at + 42, 3)
    else:
        data[60:80] = bytes(20)
        said = "test/a/test_a0.png: .*damaged or truncated, fetch it again"
    path.write_bytes(data)
    with pytest.raises(TreeError, match=said):
        pack(path, tmp_path / "out", workers=1)
    assert leaves_nothing(tmp_path / "out")


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html>", b"", b"PK", bytes(10240), PNG, b"\x1f\x8b"]
)
def test_files_that_are_not_archives(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "CINIC-10.tar.gz"
    path.write_bytes(content)
    with pytest.raises(TreeError) as caught:
        pack(path, tmp_path / "out", workers=1)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: ")
    assert leaves_nothing(tmp_path / "out")


def test_an_archive_without_an_image(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("README"))
    with pytest.raises(TreeError, match=r"no \.png file in any <split>/<class>/ folder"):
        pack(tmp_path / "x.tar", tmp_path / "out", workers=1)


# The spool


def test_a_spool_is_beside_the_shards_while_it_is_needed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    make_tar(tmp_path / "tree.tgz", tree, mode="w:gz")
    out = tmp_path / "out"

    def look(doing: str, done: int, total: int) -> None:
        seen.extend(out.rglob(f"*{spool.SPOOL_SUFFIX}"))

    pack(tmp_path / "tree.tgz", out, workers=1, progress=look, warn=lambda text: None)
    assert seen and {path.parent for path in seen} == {out / "_packing"}
    assert not list(tmp_path.rglob(f"*{spool.SPOOL_SUFFIX}"))
    seen.clear()
    make_tar(tmp_path / "tree.tar", tree)
    pack(tmp_path / "tree.tar", tmp_path / "2", workers=1, progress=look, warn=lambda text: None)
    assert not seen  # a tar is read in place


def test_for_an_object_store_the_spool_is_in_tmpdir(
    tree: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    run_forked(lambda: (spool.Spool(temporary).begin(1), os._exit(0)))  # killed
    old, note = sorted(temporary.iterdir())
    other = temporary / "others.spool"
    other.write_bytes(b"not ours")
    make_tar(tmp_path / "tree.tgz", tree, mode="w:gz")
    seen: list[Path] = []
    manifest = pack(
        tmp_path / "tree.tgz",
        "memory://archive/out",
        workers=1,
        progress=lambda *_: seen.extend(temporary.glob("cinic-shards-*")),
        warn=lambda text: None,
    )
    assert seen and not {old, note} & {*seen}
    assert list(temporary.iterdir()) == [other]
    assert manifest.to_bytes() == expected["manifest.json"]


def test_the_spool_of_a_running_process_stays(tmp_path: Path) -> None:
    with spool.open_spool(tmp_path) as one, spool.open_spool(tmp_path) as two:
        one.begin(1)
        spool.remove_old_spools(tmp_path)
        two.begin(1)
        assert one.path.exists() and two.path.exists() and one.path != two.path
    assert not list(tmp_path.iterdir())


def test_no_space_for_the_spool_is_reported_first(
    tree: Path, tmp_path: Path, mount_disk: Callable[[int], Path]
) -> None:
    disk = mount_disk(32_000)
    make_tar(tmp_path / "tree.tgz", tree, mode="w:gz")
    with open(tmp_path / "tree.tgz", "ab") as file:
        file.write(os.urandom(10**6))
    with pytest.raises(OutputError, match=r"MB free, the archive's images need about 1.0 MB"):
        pack(tmp_path / "tree.tgz", disk / "out", workers=1)
    assert not list(disk.iterdir())


def test_a_disk_that_fills_up_under_the_spool(
    demo_tree: Path, tmp_path: Path, mount_disk: Callable[[int], Path]
) -> None:
    disk = mount_disk(160_000)
    make_tar(tmp_path / "tree.tgz", demo_tree, mode="w:gz")
    (disk / "other").write_bytes(bytes(20_000))
    cut_size = (tmp_path / "tree.tgz").stat().st_size
    assert cut_size > 120_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 2**40))  # type: ignore[attr-defined]
        with pytest.raises(OutputError, match="No space left on device; free some space"):
            pack(tmp_path / "tree.tgz", disk / "out", workers=1)
    assert [path.name for path in disk.iterdir()] == ["other"]


class Stop(BaseException):
    """An interruption like Ctrl-C."""


@pytest.mark.parametrize("when", ["scan", "pack"])
def test_an_interruption_leaves_nothing(
    demo_tree: Path, tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tar(tmp_path / "tree.tgz", demo_tree, mode="w:gz")

    def stop(doing: str, done: int, total: int) -> None:
        if doing == when:
            raise Stop

    with pytest.raises(Stop):
        pack(tmp_path / "tree.tgz", tmp_path / "out", SIZE, workers=1, progress=stop)
    assert leaves_nothing(tmp_path / "out")


def kill_packing(archive: Path, out: Path, *, when: str) -> None:
    """Kill a process at the first progress report of an activity."""

    def progress(doing: str, done: int, total: int) -> None:
        if doing == when and done:
            os.kill(os.getpid(), signal.SIGKILL)

    work = partial(
        pack, archive, out, PackOptions(shard_size=40), workers=1, progress=progress,
        warn=lambda text: None,
    )  # fmt: skip
    assert run_forked(work) == -signal.SIGKILL
    assert list(out.rglob(f"*{spool.SPOOL_SUFFIX}"))


@pytest.mark.parametrize("when", ["scan", "pack"])
def test_a_killed_process_is_resumed(
    demo_tree: Path, demo_shards: Path, tmp_path: Path, when: str
) -> None:
    archive, out = tmp_path / "tree.tgz", tmp_path / "out"
    make_tar(archive, demo_tree, mode="w:gz")
    kill_packing(archive, out, when=when)
    made: list[int] = []

    def progress(doing: str, done: int, total: int) -> None:
        if doing == "pack":
            made.append(done)

    pack(archive, out, SIZE, workers=1, progress=progress)
    assert made[0] == (40 if when == "pack" else 0)
    assert files_of(out) == files_of(demo_shards)


@pytest.mark.parametrize("name", [b"caf\xe9.tar", b"a\nb.tar"])
def test_a_file_name_of_an_archive_may_be_any(
    tree: Path, expected: dict[str, bytes], tmp_path: Path, name: bytes
) -> None:
    archive = tmp_path / os.fsdecode(name)
    try:
        make_tar(archive, tree)
    except OSError:
        pytest.skip("NOT RUN: this file system does not store such a name")
    pack(archive, tmp_path / "out", workers=1, warn=lambda text: None)
    assert files_of(tmp_path / "out") == expected
    assert verify(tmp_path / "out", against=archive, workers=1).is_whole
    with ArchiveSource(archive).open(
        executor=make_executor(1), spool_folder=tmp_path, progress=lambda num_images: None
    ) as scanned:
        before = list_tree(scanned)
    now = before | {":sizes": before[":sizes"] + 1}
    (change,) = changes(before, now)
    assert change.endswith(".tar: changed since packing began")


def test_an_archive_that_changed_meanwhile_is_rejected(demo_tree: Path, tmp_path: Path) -> None:
    archive, out = tmp_path / "tree.tgz", tmp_path / "out"
    make_tar(archive, demo_tree, mode="w:gz")
    kill_packing(archive, out, when="pack")
    os.utime(archive, (1, 1))
    with pytest.raises(TreeError, match=r"tree.tgz: changed since packing began\n"):
        pack(archive, out, SIZE, workers=1)
    assert not list(out.rglob(f"*{spool.SPOOL_SUFFIX}"))  # the killed process's spool is gone too
    assert list(out.rglob("*.tar"))  # but the shards that it can resume from are not


def test_any_later_command_deletes_the_spool_of_a_killed_process(
    demo_tree: Path, demo_shards: Path, tmp_path: Path
) -> None:
    archive, out = tmp_path / "tree.tgz", tmp_path / "out"
    make_tar(archive, demo_tree, mode="w:gz")
    kill_packing(archive, out, when="scan")
    pack(demo_tree, out, SIZE, workers=1)
    assert files_of(out) == files_of(demo_shards)


def test_an_archive_that_changes_while_it_is_packed(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "tree.tar"
    make_tar(archive, tree)

    def touch(doing: str, done: int, total: int) -> None:
        if doing == "pack" and not done:
            time.sleep(0.01)
            os.truncate(archive, 9000)

    with pytest.raises(TreeError, match="changed while it was packed"):
        pack(archive, tmp_path / "out", workers=1, progress=touch)
    make_tar(archive, tree)
    with pytest.raises(TreeError, match=r"tree\.tar: changed since packing began"):
        pack(
            archive,
            tmp_path / "out",
            workers=1,
            progress=lambda doing, done, total: os.utime(archive, (1, done + 1)),
            warn=lambda text: None,
        )
    assert leaves_nothing(tmp_path / "out")


@pytest.mark.parametrize("kind", ["tree.tar", "tree.tgz"])
def test_verify_compares_with_an_archive(
    demo_tree: Path, demo_shards: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ARCHIVES[kind](tmp_path / kind, demo_tree)
    assert verify(demo_shards, against=tmp_path / kind, workers=1).is_whole
    tree = tmp_path / "tree"
    shutil.copytree(demo_tree, tree)
    gone, changed, *_ = sorted(tree.glob("train/cat/*.png"))
    gone.unlink()
    changed.write_bytes(PNG)
    write(tree, "train/cat/new.png")
    shutil.rmtree(tree / "valid")
    ARCHIVES[kind](tmp_path / kind, tree)
    raw = tmp_path / "raw"
    pack(demo_tree, raw, PackOptions(encoding="raw"), workers=1)
    for shards in (demo_shards, raw):
        found = verify(shards, against=tmp_path / kind, workers=1)
        told = "\n".join(map(str, found.faults))
        assert f"{tmp_path / kind}/train/cat/{gone.name}: No such file" in told
        assert f"{tmp_path / kind}/train/cat/{changed.name}" in told
        assert f"train/cat/new.png: in {tmp_path / kind}, not in the dataset" in told
        assert len(found.faults) == 3 + 90
    assert not list(tmp_path.glob("*.spool"))
