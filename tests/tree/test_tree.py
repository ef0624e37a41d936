"""Scanning a tree: all faults are reported at once; the same tree gives the same records."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cinic_shards.errors import TreeError, grouped
from cinic_shards.jobs import make_executor
from cinic_shards.tree.folder import scan_tree
from cinic_shards.tree.records import Tree
from cinic_shards.write.pack import pack
from tests.support.files import PNG, write
from tests.support.odd_pngs import RGB, SIGNATURE, chunk, encode_png


def declaring(width: int, height: int) -> bytes:
    """A PNG whose header declares this size, without pixels."""
    body = struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", body) + chunk(b"IEND", b"")


def grow(root: Path) -> None:
    """A tree without a fault."""
    write(
        root, *(f"{s}/{c}/{s}_{c}{i}.png" for s in ("train", "test") for c in "ab" for i in "012")
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree without a fault."""
    grow(tmp_path / "tree")
    return tmp_path / "tree"


def problems_of(root: Path) -> tuple[str, ...]:
    """Pack a tree and return the problems; files are only opened while shards are written."""
    with pytest.raises(TreeError) as caught:
        pack(root, root.parent / "shards", workers=1)
    assert caught.value.root == str(root)
    assert str(caught.value).startswith(f"{root}: {len(caught.value.problems)} problem")
    assert all(line in str(caught.value) for line in grouped(caught.value.problems))
    return caught.value.problems


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


# A path in the tree, a function that creates it, and the expected message.
FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "zero bytes": ("train/a/x.png", content(b""), "an empty file"),
    "dangling link": (
        "train/a/x.png",
        lambda path: path.symlink_to("nowhere"),
        "cannot be read: No such file",
    ),
    "link to itself": (
        "train/a/x.png",
        lambda path: path.symlink_to("x.png"),
        "cannot be read: Too many levels",
    ),
    "folder named .png": ("train/a/x.png", lambda path: path.mkdir(), "not an ordinary file"),
    "text": ("train/a/x.png", content(b"not a picture, really"), "not a PNG: it has only 21 bytes"),
    "JPEG named .png": ("train/a/x.png", content(b"\xff\xd8\xff\xe0\0\x10JFIF"), "not a PNG"),
    "GIF named .png": ("train/a/x.png", content(b"GIF89a" + bytes(60)), "not a PNG"),
    "signature alone": ("train/a/x.png", content(SIGNATURE), "not a PNG"),
    "half a header": ("train/a/x.png", content(PNG[:20]), "it has only 20 bytes"),
    "line ends converted": ("train/a/x.png", content(PNG.replace(b"\r\n", b"\n")), "not a PNG"),
    "no IHDR first": ("train/a/x.png", content(SIGNATURE + PNG[33:] + bytes(30)), "not a PNG"),
    "no width": ("train/a/x.png", content(declaring(0, 2)), "declares 2x0 pixels"),
    "no height": ("train/a/x.png", content(declaring(2, 0)), "declares 0x2 pixels"),
    "a bomb": ("train/a/x.png", content(declaring(2**14, 2**14)), "declares 16384x16384 pixels"),
    "the largest header": ("train/a/x.png", content(declaring(2**32 - 1, 2**32 - 1)), "declares"),
    "area beyond 63 bits": ("train/a/x.png", content(declaring(2**32 - 1, 2**31)), "declares"),
    "same key twice": ("train/a/train_a0.PNG", content(PNG), "duplicate key"),
    "dot in a stem": ("train/a/x.y.png", content(PNG), "a dot in the name before .png"),
    "two suffixes": ("train/a/x.png.png", content(PNG), "a dot in the name before .png"),
    "JPEG": ("train/a/x.jpg", content(b"\xff\xd8"), "an image, but not a PNG; convert it"),
    "WebP, capitals": ("train/a/x.WEBP", content(b"RIFF"), "an image, but not a PNG; convert it"),
    "nested folder": ("train/a/sub/x.png", content(PNG), "a folder inside a class"),
    "image beside the classes": ("train/x.png", content(PNG), "outside any <split>/<class>/"),
    "image beside the splits": ("x.PNG", content(PNG), "outside any <split>/<class>/"),
    "tab in a stem": ("train/a/x\ty.png", content(PNG), "a control character or backslash"),
    "newline in a stem": ("train/a/x\n.png", content(PNG), "a control character or backslash"),
    "DEL in a stem": ("train/a/\x7f.png", content(PNG), "a control character or backslash"),
    "backslash in a stem": ("train/a/x\\y.png", content(PNG), "a control character or backslash"),
    "stem not UTF-8": ("train/a/x\udcff.png", content(PNG), "a name that is not UTF-8"),
    "96 bytes in a stem": (f"train/a/{'x' * 96}.png", content(PNG), "a name of 96 bytes"),
    "96 bytes, fewer characters": (f"train/a/{'é' * 48}.png", content(PNG), "a name of 96 bytes"),
    "escape in a class": ("train/\x1b[31m/x.png", content(PNG), "a control character or back"),
    "class not UTF-8": ("train/\udce9/x.png", content(PNG), "a name that is not UTF-8"),
    "96 bytes in split/class": (f"train/{'c' * 90}/x.png", content(PNG), "a name of 96 bytes"),
    "space in a split": ("my train/a/x.png", content(PNG), "a split's name may contain only"),
    "dash before a split": ("-train/a/x.png", content(PNG), "a split's name may contain only"),
    "dunder split": ("__train/a/x.png", content(PNG), "a split's name may contain only"),
    "split not ASCII": ("prüfung/a/x.png", content(PNG), "a split's name may contain only"),
    "split not UTF-8": ("\udcff/a/x.png", content(PNG), "a split's name may contain only"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_with_its_path(root: Path, fault: str) -> None:
    path, make, said = FAULTS[fault]
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    make(root / path)
    (problem,) = problems_of(root)
    assert said in problem
    named = problem.partition(": ")[0].rstrip("/")
    if fault == "same key twice":  # either file may be named
        assert named.lower() == path.lower()
    elif path.isprintable():
        assert f"{path}/".startswith(f"{named}/")


def make_faults(root: Path, names: Iterable[str]) -> None:
    """Put faults in a tree, each in its own folder, so that they do not mix."""
    for number, fault in enumerate(names):
        path, make, _ = FAULTS[fault]
        parts = path.split("/")
        if len(parts) == 3 and parts[:2] == ["train", "a"]:
            parts[1] = f"class{number}"
        target = root.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        if fault == "same key twice":
            write(target.parent, "train_a0.png")
        make(target)


def test_all_faults_are_reported_at_once(root: Path) -> None:
    make_faults(root, FAULTS)
    phrases = {phrase for _, _, phrase in FAULTS.values()}
    problems = problems_of(root)
    assert len(problems) == len(FAULTS)
    assert list(problems) == sorted(problems)
    assert {phrase for phrase in phrases if phrase not in "\n".join(problems)} == set()


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda root: None, "no such folder; give a folder of <split>/<class>/*.png"),
        (lambda root: root.write_bytes(PNG), "not a folder; give a folder of <split>"),
        (lambda root: root.symlink_to("nowhere"), "no such folder"),
        (lambda root: root.mkdir(), "no .png file in any <split>/<class>/ folder"),
        (lambda root: (root / "train").mkdir(parents=True), "no .png file in any"),
        (lambda root: (root / "train" / "a").mkdir(parents=True), "no .png file in any"),
        (lambda root: write(root, "train/a/notes.txt"), "no .png file in any"),
        (lambda root: write(root, "train/a/.hidden.png"), "no .png file in any"),
    ],
    ids="missing,file,dangling link,empty,no class,no image,text alone,hidden alone".split(","),
)
def test_paths_that_are_not_trees(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    make(tmp_path / "tree")
    (problem,) = problems_of(tmp_path / "tree")
    assert problem.startswith(f"{tmp_path / 'tree'}: {said}")


def test_a_name_that_is_too_long() -> None:
    """The system does not look up such a name; the error is a TreeError like any other."""
    with pytest.raises(TreeError):
        scan_tree("x" * 300)


@pytest.mark.parametrize("path", ["loop", "train/loop"])
def test_a_link_to_itself_instead_of_a_folder(root: Path, path: str) -> None:
    """It is neither an image nor a folder: a warning or a problem, never an OSError."""
    (root / path).symlink_to("loop")
    try:
        told = " ".join(scan_tree(root).warnings)
    except TreeError as error:
        told = str(error)
    assert path in told


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
def test_a_socket_is_not_an_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "train" / "a")  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x.png")
        (problem,) = problems_of(root)
    assert problem.startswith("train/a/x.png: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_not_an_image(root: Path) -> None:
    """Opening it for reading would block until a writer opens it."""
    os.mkfifo(root / "train" / "a" / "x.png")
    script = f"""
        from cinic_shards.errors import TreeError, grouped
        from cinic_shards.tree.folder import scan_tree
        try:
            scan_tree({str(root)!r})
        except TreeError as error:
            print(error.problems)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert "train/a/x.png: " in result.stdout


def test_a_file_too_large_for_a_tar_member(root: Path) -> None:
    """The file is sparse, so that it takes no space."""
    write(root, "train/a/x.png")
    os.truncate(root / "train/a/x.png", 2**33)
    (problem,) = problems_of(root)
    assert problem.startswith("train/a/x.png: ")


def test_records(root: Path) -> None:
    tall = encode_png(np.zeros((40, 7, 3), np.int64), RGB, 8)
    write(root, "test/b/x.png", data=tall)
    os.utime(root / "test/b/x.png", ns=(1, 10**18 + 7))
    tree = scan_tree(root)
    assert tree.root == root and len(tree) == 13 and tree.warnings == ()
    assert tree.classes == ("a", "b")
    assert list(tree.splits) == ["test", "train"]
    test = tree.splits["test"]
    assert len(test) == 7
    assert test.files == [
        *(f"test/{c}/test_{c}{i}.png" for c in "ab" for i in "012"),
        "test/b/x.png",
    ]
    assert test.keys == [file.removesuffix(".png") for file in test.files]
    assert test.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    row = 6
    assert (test.sizes[row], test.modified[row]) == (len(tall), 10**18 + 7)
    assert test.sizes[0] == len(PNG)
    taken = test.take(np.array([row, 0]))
    assert taken.files == ["test/b/x.png", "test/a/test_a0.png"]
    assert taken.sizes.tolist() == [len(tall), len(PNG)] and taken.labels.tolist() == [1, 0]


def equal(one: Tree, other: Tree) -> bool:
    return (
        (one.classes, one.warnings, list(one.splits))
        == (other.classes, other.warnings, list(other.splits))
        and all(one.splits[name].files == other.splits[name].files for name in one.splits)
        and all(
            np.array_equal(getattr(one.splits[name], column), getattr(other.splits[name], column))
            for name in one.splits
            for column in ("labels", "sizes")
        )
    )


NAMES = [
    *(
        f"{s}/{c}/{s[0]}{c}{i}.png"
        for s in ("train", "dev")
        for c in ("z", "a", "B")
        for i in "210"
    ),
    *(
        "train/a b/x.png",
        "train/a/ab.PNG",
        "train/é/ü.png",
        "z.txt",
        "a.txt",
        "dev/notes",
        ".git/x",
    ),
]
"""A tree with every warning, unsorted."""

WARNINGS = (
    "split dev has no image of a b, é",
    "stored with the suffix .png in lower case: train/a/ab.PNG",
    "left out, not images (4): .git/, a.txt, z.txt, dev/notes",
)


def test_the_order_of_listing_does_not_matter(tmp_path: Path, listing_order: str) -> None:
    write(tmp_path, *NAMES)
    tree = scan_tree(tmp_path)
    assert tree.classes == ("B", "a", "a b", "z", "é")
    assert tree.splits["dev"].files == [f"dev/{c}/d{c}{i}.png" for c in "Baz" for i in "012"]
    assert tree.warnings == WARNINGS
    write(tmp_path, "train/a/x.jpg", "train/a/b.c.png", "train/a/ab.png")
    assert [problem.partition(": ")[0] for problem in problems_of(tmp_path)] == [
        "train/a/ab.PNG",
        "train/a/b.c.png",
        "train/a/x.jpg",
    ]


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder on a tmpfs, which lists names in the order of their creation."""
    base = Path("/dev/shm")
    if not base.is_dir():
        pytest.skip("NOT RUN: no tmpfs at /dev/shm")
    folder = base / f"cinic-shards-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_the_order_of_creation_does_not_matter(memory_folder: Path) -> None:
    write(memory_folder / "one", *NAMES)
    write(memory_folder / "two", *reversed(NAMES))
    folders = [str(memory_folder / name / "train" / "z") for name in ("one", "two")]
    assert os.listdir(folders[0]) == os.listdir(folders[1])[::-1]
    assert equal(scan_tree(memory_folder / "one"), scan_tree(memory_folder / "two"))


def test_any_executor_gives_the_same_tree(root: Path) -> None:
    with make_executor(2) as executor:
        assert equal(scan_tree(root, executor=executor), scan_tree(root))


@pytest.mark.parametrize(
    "make, warnings",
    [
        (lambda root: None, ()),
        (
            lambda root: shutil.rmtree(root / "test" / "b"),
            ("split test has no image of b",),
        ),
        (
            lambda root: [path.unlink() for path in (root / "test" / "b").iterdir()],
            ("split test has no image of b",),
        ),
        (
            lambda root: write(root, "test/c/x.png", "test/d/x.png"),
            ("split train has no image of c, d",),
        ),
        (
            lambda root: (root / "valid" / "a").mkdir(parents=True),
            ("split valid has no image and is left out",),
        ),
        (
            lambda root: (root / "valid").mkdir(),
            ("split valid has no image and is left out",),
        ),
        (
            lambda root: write(root, "README.md", "train/notes.txt", "train/a/Thumbs.db"),
            ("left out, not images (3): README.md, train/notes.txt, train/a/Thumbs.db",),
        ),
        (
            lambda root: write(root, ".git/config", "train/.DS_Store", "train/a/._x.png"),
            ("left out, not images (3): .git/, train/.DS_Store, train/a/._x.png",),
        ),
        (
            lambda root: write(root, "train/a/x.PNG", "train/a/y.Png"),
            ("stored with the suffix .png in lower case (2): train/a/x.PNG, train/a/y.Png",),
        ),
    ],
    ids=[
        "none",
        "class missing",
        "class empty",
        "two classes missing",
        "split of empty classes",
        "split without classes",
        "strays",
        "hidden",
        "suffix in capitals",
    ],
)
def test_warnings(root: Path, make: Callable[[Path], object], warnings: tuple[str, ...]) -> None:
    make(root)
    assert scan_tree(root).warnings == warnings


def test_a_class_that_is_empty_in_every_split_is_reported(root: Path) -> None:
    """It gets no label, so the labels of the classes after it differ from ImageFolder's."""
    for split in ("train", "test"):
        (root / split / "aa").mkdir()
    tree = scan_tree(root)
    assert tree.classes == ("a", "b")
    assert any("aa" in warning for warning in tree.warnings)


def test_a_warning_lists_only_the_first_of_many(root: Path) -> None:
    write(root, *(f"train/a/{i:04}.txt" for i in range(1021)))
    (warning,) = scan_tree(root).warnings
    assert warning.startswith("left out, not images (1,021): train/a/0000.txt, train/a/0001.txt, ")
    assert warning.endswith("train/a/0019.txt and 1,001 more")


def test_classes_are_those_of_imagefolder(root: Path) -> None:
    """Classes of all splits are sorted by code points; case and accents are kept."""
    write(
        root, *(f"{s}/{c}/x.png" for s in ("train", "test") for c in "A B Z a1 _ é Ω 10 9".split())
    )
    tree = scan_tree(root)
    imagefolder = sorted(entry.name for entry in os.scandir(root / "train") if entry.is_dir())
    assert list(tree.classes) == imagefolder
    assert list(tree.classes) == ["10", "9", "A", "B", "Z", "_", "a", "a1", "b", "é", "Ω"]
    for records in tree.splits.values():
        for file, label in zip(records.files, records.labels.tolist(), strict=True):
            assert file.split("/")[1] == tree.classes[label]


@pytest.mark.parametrize(
    "path",
    [
        f"train/{'c' * 89}/{'s' * 95}.png",
        f"{'S' * 47}/{'c' * 47}/x.png",
        "train/a/with space, 'quotes' and ünïcödé.png",
        "train/__init__/__key__.png",
        "v1.0-b_2/a/x.png",
        "_/a/x.png",
        "train/a/-x.png",
        "train/a.b c/x.png",
    ],
)
def test_names_that_are_allowed(tmp_path: Path, path: str) -> None:
    write(tmp_path, path)
    (records,) = scan_tree(tmp_path).splits.values()
    assert records.files == [path]


def test_links_are_followed(root: Path, tmp_path: Path) -> None:
    """A tree may consist of links to files, classes and splits."""
    write(tmp_path / "elsewhere", "a/x.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "c").symlink_to(tmp_path / "elsewhere" / "a")
    (root / "train" / "a" / "y.png").symlink_to(tmp_path / "elsewhere" / "a" / "x.png")
    tree = scan_tree(root)
    assert tree.splits["linked"].files == ["linked/a/x.png"]
    assert {"train/c/x.png", "train/a/y.png"} <= set(tree.splits["train"].files)
    row = tree.splits["train"].files.index("train/a/y.png")
    assert tree.splits["train"].sizes[row] == len(PNG)


def test_progress_counts_the_images(root: Path) -> None:
    counts: list[int] = []
    scan_tree(root, progress=counts.append)
    assert sum(counts) == 12


def test_nothing_is_written(root: Path) -> None:
    before = sorted(root.rglob("*"))
    scan_tree(root)
    assert sorted(root.rglob("*")) == before
