"""Users' files in the folders that jobs write to: never deleted, never replaced."""

import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from make_demo_sources import make_sources

from cinic_shards.check.reindex import reindex
from cinic_shards.cinic import cifar10
from cinic_shards.cinic.build import build_shards, build_tree
from cinic_shards.cinic.build_options import BuildOptions
from cinic_shards.cinic.cifar10 import CLASSES, FOLDER, Cifar10, CifarSet, write_batches, write_npz
from cinic_shards.cinic.contributors import save_contributors
from cinic_shards.errors import OutputError
from cinic_shards.store import LocalStore, open_store
from cinic_shards.tree.spool import open_spool
from cinic_shards.write.convert import convert
from cinic_shards.write.pack import PackOptions, pack
from cinic_shards.write.unpack import unpack
from tests.support.files import files_of, flip
from tests.support.processes import start_forked, wait_for

OPTIONS = PackOptions(shard_size=40)


class Inputs:
    """The input of jobs, and the folder that they write to."""

    def __init__(self, tree: Path, shards: Path, sources: Path, folder: Path) -> None:
        self.tree = tree
        self.shards = shards
        self.sources = sources
        self.out = folder / "out"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "sources"
    make_sources(out, photos=12, batch_size=10)
    return out


@pytest.fixture
def inputs(
    demo_tree: Path,
    demo_shards: Path,
    sources: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Inputs:
    monkeypatch.setattr(cifar10, "BATCH_SIZE", 10)
    return Inputs(demo_tree, demo_shards, sources, tmp_path)


def _pack(inputs: Inputs) -> None:
    pack(inputs.tree, inputs.out, OPTIONS, workers=1, warn=lambda text: None)


def _pack_fails(inputs: Inputs) -> None:
    bad = inputs.out.parent / "bad"
    shutil.copytree(inputs.tree, bad)
    flip(next(bad.glob("train/*/*.png")), -20)
    try:
        pack(bad, inputs.out, OPTIONS, workers=1)
    finally:
        shutil.rmtree(bad)


def _convert(inputs: Inputs) -> None:
    convert(inputs.shards, inputs.out, encoding="raw", workers=1)


def _unpack(inputs: Inputs) -> None:
    unpack(inputs.shards, inputs.out, workers=1)


def _reindex(inputs: Inputs) -> None:
    for path in inputs.shards.glob("*.tar"):
        inputs.out.mkdir(exist_ok=True)
        shutil.copy(path, inputs.out)
    reindex(inputs.out, workers=1)


def _build(inputs: Inputs, builder: Callable[..., object]) -> None:
    builder(
        inputs.sources / "cifar-10-python.tar.gz", inputs.sources / "synsets", inputs.out,
        BuildOptions(per_class=1), workers=1, warn=lambda text: None,
    )  # fmt: skip


def _build_tree(inputs: Inputs) -> None:
    _build(inputs, build_tree)


def _build_shards(inputs: Inputs) -> None:
    _build(inputs, build_shards)


def _cifar() -> Cifar10:
    one = CifarSet(*map(__import__("numpy").zeros, ((50, 32, 32, 3), 50), ("u1", "i8")))
    two = CifarSet(*map(__import__("numpy").zeros, ((10, 32, 32, 3), 10), ("u1", "i8")))
    return Cifar10(one, two, CLASSES)


def _restore_batches(inputs: Inputs) -> None:
    write_batches(_cifar(), inputs.out / FOLDER)


def _restore_npz(inputs: Inputs) -> None:
    write_npz(_cifar(), inputs.out / "cifar10.npz")


def _contributors(inputs: Inputs) -> None:
    save_contributors([], inputs.out / "list.csv")


def _spool(inputs: Inputs) -> None:
    with open_spool(inputs.out) as spool:
        spool.begin(1)
        spool.write(b"abc")


CASES = [
    # job, the user's files beside or in OUT, what the message names, or "" if the job succeeds
    (_pack, ["out/_packing/notes.txt"], "_packing: .*notes.txt"),
    (_pack, ["out/_packing/lock"], "_packing: .*holds lock"),
    (_pack, ["out/_packing/begin.json"], "_packing: .*begin.json"),
    (_pack, ["out/_packing"], "_packing"),
    (_pack_fails, ["out/_packing/notes.txt"], "_packing: .*notes.txt"),
    (_convert, ["out/_packing/train-00000-of-00003.tar.partial"], "_packing: "),
    (_unpack, ["out/_unpacking/x", "out/_unpacking/lock", "out/x.partial"], ""),
    (_unpack, ["out/.unpacking/x", "out/x.partial"], "unpacking: .*holds x"),
    (_unpack, ["out/.unpacking/lock"], "unpacking: .*holds lock"),
    (_unpack, ["out/train.partial", "out/notes.txt"], ""),
    (_reindex, ["out/manifest.json.partial", "out/train-00000-of-00003.tar.partial"], ""),
    (_build_tree, ["out.building/lock", "out.building/tree/mine.png"], "building"),
    (_build_tree, ["out.building/lock"], "building"),
    (_build_tree, ["out/.building/lock", "out/.building/images.tar"], "building"),
    (_build_shards, ["out.building/lock", "out.building/images.tar"], "building"),
    (_build_shards, ["out.partial", "images.tar"], ""),
    (_restore_batches, [f"out/{FOLDER}.partial/data_batch_1"], "partial: .*holds data_batch_1"),
    (_restore_batches, [f"out/{FOLDER}.partial"], "partial"),
    (_restore_npz, ["out/cifar10.npz.partial"], ""),
    (_contributors, ["out/list.csv.partial"], ""),
    (_spool, ["out/cinic-shards-notes.spool", f"out/cinic-shards-{'0' * 32}.spool"], ""),
]


@pytest.mark.parametrize(
    ("job", "mine", "refusal"),
    CASES,
    ids=[f"{job.__name__[1:]}-{'+'.join(mine)}" for job, mine, _ in CASES],
)
@pytest.mark.parametrize("content", [b"mine", b""], ids=["text", "empty"])
def test_users_files_stay(
    inputs: Inputs,
    job: Callable[[Inputs], None],
    mine: list[str],
    refusal: str,
    content: bytes,
) -> None:
    folder = inputs.out.parent
    for name in mine:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if refusal:
        with pytest.raises(OutputError, match=refusal):
            job(inputs)
        assert files_of(folder) == dict.fromkeys(sorted(mine), content)
    else:
        job(inputs)
        after = files_of(folder)
        assert {name: after.get(name) for name in mine} == dict.fromkeys(mine, content)


def test_users_files_in_an_object_store_stay(demo_tree: Path) -> None:
    out = f"memory://{uuid4()}/cinic"
    below = open_store(out).folder("_packing")
    with below.create("notes.txt") as file:
        file.write(b"mine")
    with pytest.raises(OutputError, match=r"_packing: .*notes\.txt"):
        pack(demo_tree, out, OPTIONS, workers=1)
    assert below.names() == ["notes.txt"] and below.read("notes.txt") == b"mine"


class Stop(BaseException):
    """The end of a process."""


def stop_when(activity: str, number: int) -> Callable[[str, int, int], None]:
    def progress(doing: str, done: int, total: int) -> None:
        if doing == activity and done >= number:
            raise Stop

    return progress


@pytest.mark.parametrize("place", ["folder", "object store"])
def test_files_put_into_the_folder_of_an_unfinished_job_stay(
    demo_tree: Path, demo_shards: Path, tmp_path: Path, place: str
) -> None:
    out = tmp_path / "out" if place == "folder" else f"memory://{uuid4()}/cinic"
    with pytest.raises(Stop):
        pack(demo_tree, out, OPTIONS, workers=1, progress=stop_when("pack", 80))
    below = open_store(out).folder("_packing")
    mine = ["notes.txt", "train-00000-of-00099.tar", "x.partial", "train-00000-of-00003.tar.json"]
    for name in mine:
        with below.create(name) as file:
            file.write(b"mine")
    first: list[int] = []
    warnings: list[str] = []
    pack(
        demo_tree, out, OPTIONS, workers=1, warn=warnings.append,
        progress=lambda doing, done, total: first.append(done) if doing == "pack" else None,
    )  # fmt: skip
    assert first[0] >= 40  # resumed
    assert below.names() == sorted(mine)
    assert {below.read(name) for name in mine} == {b"mine"}
    store = open_store(out)
    found = {n: bytes(store.map(n, store.size(n)).data) for n in store.names() if n != "_packing"}
    assert found == files_of(demo_shards)


def test_a_file_that_appears_in_the_output_meanwhile_stays(demo_tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mine = out / "valid-00000-of-00003.tar"

    def appear(doing: str, done: int, total: int) -> None:
        if doing == "pack" and done:
            mine.write_bytes(b"mine")

    with pytest.raises(OutputError, match=r"holds valid-00000-of-00003\.tar"):
        pack(demo_tree, out, OPTIONS, workers=1, progress=appear)
    assert mine.read_bytes() == b"mine"


def test_an_empty_folder_of_the_user_stays(demo_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert unpack(demo_shards, out, classes=[], workers=1).num_written == 0
    assert out.is_dir()


def test_two_files_of_one_name_at_once(tmp_path: Path) -> None:
    """Two processes write the same file, such as two ``reindex`` the manifest."""
    store = LocalStore(tmp_path)
    with store.create("x") as one, store.create("x") as two:
        one.write(b"first")
        two.write(b"second")
    assert store.names() == ["x"] and store.read("x") == b"first"


@pytest.mark.real
def test_many_pairs_of_unpacking_processes(
    demo_shards: Path, demo_tree: Path, tmp_path: Path
) -> None:
    """One must not delete the unfinished files of the other, nor fail otherwise."""

    def work() -> None:
        for _ in range(60):
            try:
                unpack(demo_shards, tmp_path, splits=["train"], classes=["cat"], workers=1)
            except OutputError as error:
                assert "another process is unpacking there" in str(error)
            for path in tmp_path.glob("train/cat/*.png"):
                path.unlink(missing_ok=True)

    children = [start_forked(work) for _ in range(2)]
    assert [wait_for(child) for child in children] == [0, 0]
    unpack(demo_shards, tmp_path, splits=["train"], classes=["cat"], workers=1)
    assert files_of(tmp_path / "train/cat") == files_of(demo_tree / "train/cat")
