"""Trees and archives as people have them: what is left out, and what an error proposes."""

import errno
import gzip
import os
import shutil
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from cinic_shards.check.verify import verify
from cinic_shards.errors import OptionError, OutputError, TreeError, grouped
from cinic_shards.tree import find_source
from cinic_shards.tree.folder import FolderSource, scan_tree
from cinic_shards.write.pack import PackOptions, pack
from tests.support import ROOT
from tests.support.command import Run
from tests.support.files import PNG, files_of, write
from tests.support.odd_pngs import chunk
from tests.tree.test_archive import (
    ARCHIVES,
    SIZE,
    dos_info,
    kill_packing,
    leaves_nothing,
    make_tar,
    make_zip,
)

FORMS: dict[str, Callable[[Path, Path], object]] = {
    "folder": lambda path, tree: os.rename(tree, path),
    "tar": make_tar,
    "zip": make_zip,
}


def problems_of(root: Path, **options: str) -> tuple[str, ...]:
    """Pack a folder or archive that has problems, and return them."""
    with pytest.raises(TreeError) as caught:
        pack(root, root.parent / "out", workers=1, **options)  # type: ignore[arg-type]
    assert leaves_nothing(root.parent / "out")
    return caught.value.problems


def pack_with_warnings(root: Path, out: Path, **options: str) -> list[str]:
    said: list[str] = []
    pack(root, out, workers=1, warn=said.append, **options)  # type: ignore[arg-type]
    return [text for text in said if "origin is 'unknown'" not in text]


# What is left out

SYSTEM_FILES = (
    "__MACOSX/train/a/._x.png", "lost+found/x", "__pycache__/x.pyc", "@eaDir/x.png/THUMB.png",
    "$RECYCLE.BIN/x.png", "System Volume Information/x", ".ipynb_checkpoints/x.png", ".DS_Store",
    "Thumbs.db", "desktop.ini", "train/@eaDir/a/x.png", "train/.DS_Store",
    "train/__pycache__/x.pyc", "train/a/@eaDir/x.png/THUMB.png",
    "train/a/.ipynb_checkpoints/x-checkpoint.png",
    "train/a/__pycache__/x.pyc", "train/a/Thumbs.db", "train/a/desktop.ini", "train/a/._x.png",
)  # fmt: skip

NOT_IMAGES = (
    "my docs/notes.txt", "__private/x.txt", "-scripts/sub/x.py", "train/a\tb/x.txt",
    f"train/{'c' * 95}/x.txt", "train/a/notes/x.txt", "train/a/notes/more/y.txt",
)  # fmt: skip
"""Files in folders whose names images must not have."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("files", "start", "names"),
    [
        (
            SYSTEM_FILES,
            "left out, not images (19): $RECYCLE.BIN/, .DS_Store, ",
            {"@eaDir/", "lost+found/", "train/a/._x.png"},
        ),
        (NOT_IMAGES, "left out, not images (6): ", {"my docs/"}),
    ],
    ids=["system files", "names that images must not have"],
)
def test_files_that_are_not_images_are_left_out(
    tree: Path, expected: dict[str, bytes], tmp_path: Path, form: str,
    files: tuple[str, ...], start: str, names: set[str],
) -> None:  # fmt: skip
    write(tree, *files)
    FORMS[form](tmp_path / "input", tree)
    (said,) = pack_with_warnings(tmp_path / "input", tmp_path / "out")
    assert files_of(tmp_path / "out") == expected
    assert said.startswith(start) and names <= set(said.split(": ")[1].split(", "))


@pytest.mark.parametrize("form", FORMS)
def test_images_in_folders_with_such_names_are_problems(
    tree: Path, tmp_path: Path, form: str
) -> None:
    """An image of any format counts, at any depth."""
    write(tree, *(f"{Path(name).parent}/deep/x.JPG" for name in NOT_IMAGES[:-1]))
    FORMS[form](tmp_path / "input", tree)
    problems = problems_of(tmp_path / "input")
    assert len(problems) == 6
    assert sum("a split's name may contain only" in problem for problem in problems) == 3
    assert "train/a/notes/: a folder inside a class" in "\n".join(problems)


def test_a_loop_of_links_holds_no_image(tree: Path) -> None:
    (tree / "my docs").mkdir()
    for name in "one", "two":
        (tree / "my docs" / name).symlink_to(tree / "my docs")
    assert scan_tree(tree).warnings == ("left out, not images: my docs/",)
    (tree / "my docs" / "three").symlink_to(tree)
    (problem,) = problems_of(tree)
    assert problem.startswith("my docs/: a split's name")


def test_lost_and_found_is_not_listed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root may list it."""
    (tree / "lost+found").mkdir()
    scandir = os.scandir

    def scan(path: str) -> object:
        if "lost+found" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert scan_tree(tree).warnings == ("left out, not images: lost+found/",)
    (tree / "lost+found").rename(tree / "my lost+found")
    (problem,) = problems_of(tree)
    assert problem == "my lost+found/: cannot be listed: Permission denied"


def test_folders_without_images_are_one_line(tree: Path) -> None:
    for number in range(30):
        (tree / f"split{number}" / f"class{number}").mkdir(parents=True)
    one, two = scan_tree(tree).warnings
    assert one.startswith("30 splits have no image and are left out: split0, ")
    assert two.startswith("30 classes have no image in any split and get no label: class0, ")
    write(tree, *(f"train/class{number}/x.png" for number in range(30)))
    assert any(text.endswith(" and 10 more") for text in scan_tree(tree).warnings)


# A tree without folders of splits


@pytest.mark.parametrize("form", FORMS)
def test_a_tree_without_splits(
    tree: Path, expected: dict[str, bytes], tmp_path: Path, form: str
) -> None:
    pack(tree, tmp_path / "all", workers=1, warn=lambda text: None)
    (tree / "test").rename(tmp_path / "test")
    pack(tree, tmp_path / "train alone", workers=1, warn=lambda text: None)
    write(tree, "train/notes.txt", "train/a/sub/notes.txt")
    FORMS[form](tmp_path / "input", tree / "train")
    (problem,) = problems_of(tmp_path / "input")
    assert problem == (
        f"{tmp_path / 'input'}: 6 images are in folders of classes (a, b), not in "
        "<split>/<class>/; name their split: --split-name train, in Python split_name='train'"
    )
    said = pack_with_warnings(tmp_path / "input", tmp_path / "out", split_name="train")
    assert said == ["left out, not images (2): notes.txt, a/sub/"]
    assert files_of(tmp_path / "out") == files_of(tmp_path / "train alone")
    against = tmp_path / "input"
    assert verify(tmp_path / "out", against=against, split_name="train", workers=1).is_whole
    found = verify(tmp_path / "all", against=against, split_name="train", workers=1)
    assert len(found.faults) == 6 and "/test_" in str(found.faults[0])


def test_problems_of_a_tree_without_splits_name_its_files(tree: Path) -> None:
    write(tree, "train/a/x.png", data=b"")
    write(tree, "train/a/sub/y.png", "train/z.png", "train/c d/.hidden/x.png", "train/e\tf/x.png")
    assert problems_of(tree / "train", split_name="my-split") == (
        "a/sub/: a folder inside a class; images must be in <class>/",
        "a/x.png: an empty file",
        "e\tf/: a control character or backslash in the name; rename it",
        "z.png: an image outside any <class>/ folder; move it",
    )


def test_a_split_name_for_a_tree_with_splits(tree: Path) -> None:
    (problem,) = problems_of(tree, split_name="train")
    assert problem == (
        f"{tree}: the images are deeper than <class>/: test/a/test_a0.png; leave out --split-name "
        f"if these are folders of splits, or pack {tree}/test"
    )


@pytest.mark.parametrize("name", ["", "my split", "-train", "__x", "a/b", ".", "é"])
def test_split_names_that_are_rejected(tree: Path, name: str) -> None:
    with pytest.raises(OptionError, match=r"split name '.*': expected letters"):
        pack(tree, tree.parent / "out", split_name=name)


def test_a_split_name_needs_a_path(tree: Path) -> None:
    with pytest.raises(OptionError, match="not for a source"):
        find_source(FolderSource(tree), "train")
    with pytest.raises(OptionError, match="split_name is that of a tree to compare with"):
        verify(tree, split_name="train")


class Stop(BaseException):
    """An interruption that leaves the journal, like a worker that dies."""


def test_an_interrupted_job_is_resumed_with_the_same_split_name(
    demo_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cinic_shards.write import dataset

    classes, out = demo_tree / "train", tmp_path / "out"
    options = PackOptions(shard_size=40)

    def stop(doing: str, done: int, total: int) -> None:
        if doing == "pack" and done >= 40:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_can_resume", lambda *_: True)
        with pytest.raises(Stop):
            pack(classes, out, options, split_name="train", workers=1, progress=stop)
    with pytest.raises(OutputError, match=r"'split_name': 'test'.*use the same options to resume"):
        pack(classes, out, options, split_name="test", workers=1)
    made: list[int] = []
    pack(
        classes,
        out,
        options,
        split_name="train",
        workers=1,
        progress=lambda doing, done, total: made.append(done) if doing == "pack" else None,
    )
    assert made[0] >= 40
    assert verify(out, against=classes, split_name="train", workers=1).is_whole


def test_a_change_of_a_tree_without_splits_is_noticed(tree: Path) -> None:
    def touch(doing: str, done: int, total: int) -> None:
        if doing == "pack" and done:
            write(tree, "train/a/new.png")

    with pytest.raises(TreeError, match=r"\n  a/new\.png: new since packing began"):
        pack(tree / "train", tree.parent / "out", split_name="train", workers=1, progress=touch)


def test_the_command_takes_a_split_name(run: Run, tree: Path, tmp_path: Path) -> None:
    failed = run("pack", tree / "train", tmp_path / "out")
    assert failed.status == 1 and "--split-name train" in failed.err
    assert len(failed.err.splitlines()) == 2
    done = run("pack", tree / "train", tmp_path / "out", "--split-name", "train", "-q")
    assert (done.status, done.out, done.err) == (0, "", "")
    compared = run("verify", tmp_path / "out", "--against", tree / "train", "--split-name", "train")
    assert compared.status == 0 and compared.out.startswith("intact")
    wrong = run("pack", tree / "train", tmp_path / "2", "--split-name", "my split")
    assert wrong.status == 2


# Folders and archives above and within the tree


def test_a_folder_above_the_tree(tree: Path, tmp_path: Path) -> None:
    write(tree, "README", "train/c/._x.png")
    for depth in 1, 2:
        tree.rename(tmp_path / "moved")
        tree.mkdir()
        (tmp_path / "moved").rename(tree / f"level{depth}")
        (problem,) = problems_of(tree)
        top = f"{tree}/level{depth}" + ("/level1" if depth == 2 else "")
        assert problem == (
            f"{tree}: the images are deeper than <split>/<class>/: "
            f"{top.removeprefix(f'{tree}/')}/test/a/test_a0.png; pack {top}"
        )


def test_an_archive_of_two_trees(tree: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tree, "v1/CINIC-10")
        archive.add(tree, "v2/CINIC-10")
    (problem,) = problems_of(tmp_path / "x.tar")
    assert problem.endswith(
        "deeper than <split>/<class>/: v1/CINIC-10/test/a/test_a0.png; unpack it and pack "
        "v1/CINIC-10/"
    )


@pytest.mark.parametrize("names", [["CINIC-10.tar.gz"], ["a.zip", "b.TAR.ZST", "c.tgz"]])
@pytest.mark.parametrize("form", [*FORMS, "zip in zip"])
def test_archives_instead_of_a_tree(tmp_path: Path, names: list[str], form: str) -> None:
    """A zip of one archive is read, but that archive may hold no further one."""
    root = tmp_path / "input"
    write(tmp_path / "made", *names, "license.txt", ".hidden.zip")
    if form == "zip in zip":
        (tmp_path / "below").mkdir()
        make_zip(tmp_path / "below/inner.zip", tmp_path / "made")
        make_zip(root, tmp_path / "below")
    else:
        FORMS[form](root, tmp_path / "made")
    (problem,) = problems_of(root)
    if form == "zip" and len(names) == 1:  # it is read, and is no archive
        assert problem.startswith(f"{root}: CINIC-10.tar.gz: not a folder; give a folder")
        return
    cure = f"pack {root / names[0]}" if form == "folder" else f"unpack it and pack {names[0]}"
    found = "an archive; " if len(names) == 1 else "3 archives (a.zip, b.TAR.ZST, c.tgz); "
    more = ", or another one" if len(names) > 1 else ""
    assert problem == (
        f"{root}: no .png file in any <split>/<class>/ folder, but {found}{cure}{more}"
    )


def test_an_encrypted_archive_in_a_zip(tree: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", tree)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "x.tar", "x.tar")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.rindex(b"PK\1\2") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(data)
    (problem,) = problems_of(tmp_path / "x.zip")
    assert problem.startswith(f"{tmp_path / 'x.zip'}: x.tar: encrypted")


@pytest.mark.parametrize("inner", ["truncated.tar", "truncated.tar.gz", "bomb.tar.gz"])
def test_a_bad_archive_in_a_zip(
    tree: Path, tmp_path: Path, inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit on size is that of the archive that the user named."""
    monkeypatch.setattr("cinic_shards.tree.members._MAX_SLACK_BYTES", 2**20)
    made = tmp_path / inner
    if inner == "bomb.tar.gz":
        info = tarfile.TarInfo("train/a/x.png")
        info.size = 2**26
        made.write_bytes(gzip.compress(info.tobuf() + bytes(info.size)))
    else:
        make_tar(made, tree, mode="w:gz" if inner.endswith("gz") else "w")
        made.write_bytes(made.read_bytes()[: made.stat().st_size // 2])
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(made, inner)
    (problem,) = problems_of(tmp_path / "x.zip")
    assert problem.startswith(f"{tmp_path / 'x.zip'}: {inner}: ")
    assert ("too many for its size" if inner == "bomb.tar.gz" else "fetch it again") in problem


def test_the_size_of_an_archive_in_a_zip_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cinic_shards.tree.members._MAX_SLACK_BYTES", 2**20)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.tar", bytes(2**26))
    (problem,) = problems_of(tmp_path / "x.zip")
    assert "too many for its size" in problem


# Hard links, and members that are no files


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_hard_links(tree: Path, tmp_path: Path, mode: str) -> None:
    """A tree whose duplicates are hard links, as rdfind makes them, to and from any class."""
    for link in "train/a/link.png", "train/b/x.png", "valid/b/x.png":
        (tree / link).parent.mkdir(parents=True, exist_ok=True)
        os.link(tree / "test/a/test_a0.png", tree / link)
    write(tree, "notes.txt", "train/b/white.png", data=(ROOT / "docs/format.md").read_bytes())
    os.unlink(tree / "train/b/white.png")
    os.link(tree / "notes.txt", tree / "valid/notes.txt")
    archive = tmp_path / "x.tar"
    make_tar(archive, tree, "./CINIC-10/", mode)
    with tarfile.open(archive) as made:
        assert sum(member.islnk() for member in made) == 4
    for source in tree, archive:
        pack(source, tmp_path / f"{source.name}-out", workers=1, warn=lambda text: None)
    assert files_of(tmp_path / "tree-out") == files_of(tmp_path / "x.tar-out")
    assert verify(tmp_path / "tree-out", against=archive, workers=1).is_whole


@pytest.mark.real
@pytest.mark.parametrize("form", ["download.zip", "frames.tzst", "hard links.tgz"])
def test_a_killed_process_is_resumed_from_any_form(
    demo_tree: Path, tmp_path: Path, form: str
) -> None:
    tree, archive, out = tmp_path / "tree", tmp_path / form, tmp_path / "out"
    shutil.copytree(demo_tree, tree)
    os.link(next((tree / "train/cat").iterdir()), tree / "train/dog/link.png")
    if form in ARCHIVES:
        ARCHIVES[form](archive, tree)
    else:
        make_tar(archive, tree, mode="w:gz")
    kill_packing(archive, out, when="pack")
    made: list[int] = []
    pack(
        archive,
        out,
        SIZE,
        workers=1,
        progress=lambda doing, done, total: made.append(done) if doing == "pack" else None,
        warn=lambda text: None,
    )
    assert made[0] == 40
    pack(tree, tmp_path / "expected", SIZE, workers=1, warn=lambda text: None)
    assert files_of(out) == files_of(tmp_path / "expected")


def test_members_that_are_not_images_may_be_anything(
    tree: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """Links are an exception: one may stand for a folder."""
    archive = tmp_path / "x.tar"
    make_tar(archive, tree)
    with tarfile.open(archive, "a", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, headers in (
            ("train/a/device", tarfile.CHRTYPE, {}),
            ("pipe", tarfile.FIFOTYPE, {}),
            ("sparse.bin", tarfile.REGTYPE, {"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}),
            ("README", tarfile.REGTYPE, {}),
            ("README", tarfile.REGTYPE, {}),
            (".link", tarfile.SYMTYPE, {}),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.pax_headers = kind, headers
            tar.addfile(info)
    (said,) = pack_with_warnings(archive, tmp_path / "out")
    assert said == "left out, not images (5): .link, README, pipe, sparse.bin, train/a/device"
    assert files_of(tmp_path / "out") == expected


def test_many_names_outside_are_one_line(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for number in range(3000):
            archive.addfile(tarfile.TarInfo(f"/train/a/{number}.png"))
    assert len(problems_of(tmp_path / "x.tar")) == 3000
    with pytest.raises(TreeError) as caught:
        pack(tmp_path / "x.tar", tmp_path / "out")
    assert str(caught.value).splitlines()[1:] == [
        "  /train/a/0.png: an absolute name, or a name with '..'; create the archive again (2,999 "
        "more like it: /train/a/1.png, /train/a/10.png, /train/a/100.png, ...)"
    ]


# Compressed files


def test_compressed_files_that_are_not_tars(tree: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", tree)
    data = (tmp_path / "x.tar").read_bytes()
    for content, said in (
        (
            gzip.compress(gzip.compress(data)),
            r"decompressed, it is not a tar: it starts with b'\x1f",
        ),
        (gzip.compress(b"text" * 1000), "decompressed, it is not a tar: it starts with b'text"),
        (gzip.compress(b""), "decompressed, it is not a tar: it starts with b''"),
        (zstandard.compress(PNG * 20), r"decompressed, it is not a tar: it starts with b'\x89PNG"),
    ):
        (tmp_path / "x.tar.gz").write_bytes(content)
        (problem,) = problems_of(tmp_path / "x.tar.gz")
        assert said in problem and "fetch it again" not in problem


def test_a_zst_that_needs_much_memory_is_rejected(tree: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", tree)
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = compressor.compress((tmp_path / "x.tar").read_bytes()) + compressor.flush()
    (tmp_path / "x.tar.zst").write_bytes(packed)
    (problem,) = problems_of(tmp_path / "x.tar.zst")
    assert "a window of 268,435,456 bytes (zstd --long or --ultra)" in problem


def test_a_bomb_in_a_zst_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cinic_shards.tree.members._MAX_SLACK_BYTES", 2**20)
    info = tarfile.TarInfo("train/a/x.png")
    info.size = 2**26
    packed = zstandard.ZstdCompressor().compress(info.tobuf() + bytes(info.size))
    (tmp_path / "x.tar.zst").write_bytes(packed)
    (problem,) = problems_of(tmp_path / "x.tar.zst")
    assert "too many for its size" in problem


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_crc_of_a_zip_is_compared(tmp_path: Path, method: int) -> None:
    """Text in a PNG is not decoded, so only the zip's CRC-32 shows that it changed."""
    png = PNG[:-12] + chunk(b"tEXt", b"Comment\0" + bytes(range(256))) + PNG[-12:]
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method, compresslevel=0) as archive:
        archive.writestr("train/a/x.png", png)
    data = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(data.replace(b"XYZ", b"XyZ"))
    (problem,) = problems_of(tmp_path / "x.zip")
    assert "train/a/x.png: Bad CRC-32" in problem and problem.endswith("fetch it again")


# Names in a zip


def make_named_zip(path: Path, raw: bytes, *, is_utf8: bool = False, extra: bytes = b"") -> None:
    """Make a zip of one image whose name has these bytes."""
    info = zipfile.ZipInfo("train/" + "x" * (len(raw) - 10) + ".png")
    info.extra = extra
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, PNG)
        archive.writestr("readme.txt", "text")
    data = path.read_bytes().replace(info.filename.encode(), raw)
    assert data.count(raw) == 2
    if is_utf8:
        data = bytearray(data)  # type: ignore[assignment]
        for head, at in (b"PK\3\4", 6), (b"PK\1\2", 8):
            struct.pack_into("<H", data, data.index(head) + at, 0x800)
    path.write_bytes(data)


def test_names_in_a_zip(tmp_path: Path) -> None:
    """UTF-8 is read with or without its mark; other encodings look alike."""
    path, name = tmp_path / "x.zip", "train/Dackel größer/x.png"

    def packed() -> tuple[list[str], list[str]]:
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        said = pack_with_warnings(path, out)
        with tarfile.open(out / "train-00000-of-00001.tar") as tar:
            return [one for one in tar.getnames() if one.endswith(".png")], said

    left_out = "left out, not images: readme.txt"
    make_named_zip(path, name.encode(), is_utf8=True)
    assert packed() == ([name], [left_out])
    make_named_zip(path, name.encode())
    unmarked = "names of images without the zip's mark for UTF-8 are read as UTF-8: 1"
    assert packed() == ([name], [unmarked, left_out])
    raw = name.encode("cp437")
    field = struct.pack("<BI", 1, zlib.crc32(raw)) + name.encode()
    make_named_zip(path, raw, extra=struct.pack("<HH", 0x7075, len(field)) + field)
    assert packed() == ([name], [left_out])
    for raw in name.encode("cp437"), "train/犬/x.png".encode("shift-jis"):
        make_named_zip(path, raw)
        (problem,) = problems_of(path)
        assert problem.endswith(
            ": the archive does not say how this name is encoded; create it again with UTF-8 "
            "names, or unpack it and pack its folder"
        )


def test_a_name_in_an_unknown_encoding_may_be_that_of_other_files(
    tree: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    make_zip(tmp_path / "x.zip", tree)
    with zipfile.ZipFile(tmp_path / "x.zip", "a") as archive:
        archive.writestr("readme-xx.txt", "text")
    data = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(data.replace(b"readme-xx", "readme-犬".encode("shift-jis")))
    (said,) = pack_with_warnings(tmp_path / "x.zip", tmp_path / "out")
    assert said.startswith("left out, not images: readme-")
    assert files_of(tmp_path / "out") == expected


def test_a_backslash_is_a_character_where_systems_allow_it(tree: Path, tmp_path: Path) -> None:
    for system, said in (3, "train\\a\\x.png: an image outside"), (0, "/x.png: an absolute name"):
        make_zip(tmp_path / "x.zip", tree)
        info = dos_info("train\\a\\x.png" if system else "\\x.png")
        info.create_system = system
        with zipfile.ZipFile(tmp_path / "x.zip", "a") as archive:
            archive.writestr(info, PNG)
        (problem,) = problems_of(tmp_path / "x.zip")
        assert problem.startswith(said)


# Names that other systems do not distinguish


@pytest.mark.parametrize(
    "path, what",
    [
        ("Train/a/x.png", "splits"),
        ("test/A/x.png", "classes"),
        ("test/a./x.png", "classes"),
        ("test/b /x.png", "classes"),
        ("train/a/TRAIN_a0.png", "files"),
    ],
)
def test_names_that_other_systems_confuse(tree: Path, path: str, what: str) -> None:
    write(tree, path)
    said = scan_tree(tree).warnings
    assert len([text for text in said if text.startswith(f"{what} whose names")]) == 1


def test_accents_that_are_composed_differently(tree: Path) -> None:
    one, two = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    write(tree, f"train/{one}/x.png", f"test/{two}/x.png")
    said = scan_tree(tree).warnings
    assert any(text.startswith("classes whose names macOS and Windows") for text in said)
    assert "files whose" not in " ".join(said)


# Messages


def test_problems_are_grouped() -> None:
    many = [
        f"train/a/{number}.png: a name of {number} bytes; shorten it" for number in range(96, 100)
    ]
    others = ["x: an empty file", "root: two: parts", "no location", "none either"]
    assert grouped([*many, *others]) == [
        f"{many[0]} (3 more like it: train/a/97.png, train/a/98.png, train/a/99.png)",
        *others,
    ]
    assert grouped([many[0], "x: an empty file", *many[1:3]]) == [
        many[0],
        "x: an empty file",
        *many[1:3],
    ]
    faults = [f"a.tar, offset {n}, sample {n} (k{n}): CRC-32 is {n:08x}" for n in range(6)]
    assert grouped(faults) == [
        f"{faults[0]} (5 more like it: a.tar, offset 1, sample 1 (k1); a.tar, offset 2, sample 2 "
        "(k2); a.tar, offset 3, sample 3 (k3); ...)"
    ]
    kinds = [f"x: {'y' * number}" for number in range(1, 132)]
    assert grouped(kinds) == [*kinds[:100], "and 31 more problems"]


def test_a_fault_of_many_files_is_a_line(run: Run, demo_tree: Path, tmp_path: Path) -> None:
    """Every command that finds it prints one line, with a count and the first names."""
    tree, shards = tmp_path / "tree", tmp_path / "shards"
    run("pack", demo_tree, shards)
    run("unpack", shards, tree)

    def lines(status: int, *arguments: object) -> list[str]:
        done = run(*arguments, "-q")
        assert done.status == status
        return (done.out + done.err).splitlines()

    for path in (tree / "train").rglob("*.png"):
        path.write_bytes(PNG)
    found = lines(1, "verify", shards, "--against", tree)
    assert len(found) <= 4 and "(89 more like it: " in found[0]
    found = lines(1, "unpack", shards, tree)
    assert len(found) <= 3 and "90 samples could not be unpacked" in found[0]
    for path in (tree / "train").rglob("*.png"):
        path.write_bytes(PNG[:45])
    assert len(lines(1, "pack", tree, tmp_path / "2")) == 2
    (tmp_path / "2").mkdir()
    for path in shards.glob("train*"):
        data = bytearray(path.read_bytes())
        for at in range(0, len(data) - 600, 512):
            if data[at : at + 4] == b"\x89PNG":
                data[at + 60] ^= 1
        path.write_bytes(data)
    for command in ("verify", shards), ("reindex", shards), ("unpack", shards, tmp_path / "3"):
        assert len(lines(1, *command)) <= 5, command
    convert = ("convert", shards, tmp_path / "4", "--encoding", "raw")
    assert len(lines(1, *convert)) <= 5


# Real archives


@pytest.mark.parametrize("name", ["DS_10283_3192.zip", "finder.zip", "back.zip", "hl.tar"])
def test_published_archives(tmp_path: Path, name: str) -> None:
    """Small archives that the publisher's site and common programs made of one tree."""
    folder = ROOT.parent / "shared" / "data" / "archives"
    if not folder.is_dir():
        pytest.skip("NOT RUN: no ../shared/data/archives")
    reference = folder / "s.tar.zst"
    if name == "hl.tar":
        reference = tmp_path / "tree"
        with tarfile.open(folder / name) as archive:
            archive.extractall(reference, filter="data")
    for source, out in (reference, "expected"), (folder / name, "out"):
        pack(source, tmp_path / out, workers=1, warn=lambda text: None)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "expected")
    assert verify(tmp_path / "out", against=folder / name, workers=1).is_whole
