"""The package's shape: imports go one way, each concern has its file, public names are told."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cinic_shards

PACKAGE = Path(cinic_shards.__file__).parent

# Reading order: a file imports only from files before it.
ORDER = """
    errors options provenance workers executors
    format.fields format.tar format.blocks format.index format.manifest format
    heads records tree
    kernels.memory kernels.intrinsics kernels.base kernels.png kernels.blocks kernels.images
    kernels codec
    store.address store.base store.local store.clients store.remote store.download store
    spool tar_bytes members archive columns facts
    shard_source picked_source shard_writer listing journal dataset_writer pack convert
    faults shard_checker verify unpack duplicates interop
    cinic cinic.pickles cinic.cifar10 cinic.contributors cinic.fetch
    cinic.synsets cinic.photos cinic.draw cinic.built cinic.sources cinic.tree_writer
    cinic.image_writer cinic.build
    plan reader selection new_splits select select_tree images cinic.restore stats montage
    report.sheets report.charts report.content report.elements report.tables report.pictures
    report.sections report.page report
    cache source augment device buffers batches progress epoch world loader
    datasets warmup bench cli.console cli.shards cli.cinic cli.sources cli.views cli __main__
""".split()

FIRST_WITH_TORCH = "augment"

MAY_IMPORT = {
    "msgpack": {"format.index"},
    "struct": {
        "format.tar",
        "format.blocks",
        "format.index",
        "codec",
        "members",
        "cinic.pickles",
        "cinic.photos",
    },
    "torch": set(ORDER[ORDER.index(FIRST_WITH_TORCH) :]),
    "torchvision": {"bench"},
    "typer": {"cli.console", "cli.shards", "cli.cinic", "cli.sources", "cli.views"},
    "rich": {"cli.console", "progress"},
    "numba": {"kernels.base", "kernels.intrinsics"},
    "llvmlite": {"kernels.intrinsics"},
    "zstandard": {"codec", "facts", "interop"},
    "mmap": {"store.local", "store.remote"},
    "obstore": {"store.clients", "store.remote", "store.download"},
    "boto3": {"store.clients"},
    "distributed": {"executors"},
    "tarfile": {"members", "tar_bytes", "cinic.cifar10", "cinic.photos"},
    "zipfile": {"members"},
    "pickle": set(),
    "pickletools": {"cinic.pickles"},
}
"""Who alone may import a library, where it is a concern of its own."""


def module_name(path: Path) -> str:
    """``format.tar`` for format/tar.py, ``format`` for format/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
ROOT = TREES.pop("")


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules that a file imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full.removeprefix("cinic_shards.") in TREES else node.module


def own_imports(name: str) -> set[str]:
    """The package's own modules that one of them imports."""
    found = {full for full in imported(TREES[name]) if full.partition(".")[0] == "cinic_shards"}
    return {full.removeprefix("cinic_shards").removeprefix(".") for full in found} - {""}


def test_the_order_names_every_file() -> None:
    assert sorted(ORDER) == sorted(TREES)


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_from_files_before_it(name: str) -> None:
    assert own_imports(name) <= set(ORDER[: ORDER.index(name)])


def test_nothing_imports_the_command_line() -> None:
    others = [name for name in TREES if name.partition(".")[0] != "cli"]
    found = {name: {one for one in own_imports(name) if one.startswith("cli")} for name in others}
    assert {name: one for name, one in found.items() if one} == {"__main__": {"cli"}}


def test_a_file_outside_the_format_imports_it_as_a_whole() -> None:
    """The format's files are its own affair."""
    for name in TREES:
        if not name.startswith("format"):
            assert not [one for one in own_imports(name) if one.startswith("format.")]


@pytest.mark.parametrize("library", MAY_IMPORT)
def test_who_imports_a_library(library: str) -> None:
    found = {
        name
        for name, tree in TREES.items()
        if any(full.partition(".")[0] == library for full in imported(tree))
    }
    assert found <= MAY_IMPORT[library]


@pytest.mark.parametrize("name", ["codec", "cinic.photos"])
def test_a_decoder_knows_struct_only_for_pillows_errors(name: str) -> None:
    used = {
        node.attr
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "struct"
    }
    assert used == {"error"}


def test_the_package_imports_nothing_of_itself_at_once() -> None:
    """``ShardLoader`` comes with torch: only when it is asked for."""
    at_once = [node for node in ROOT.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {full for node in at_once for full in imported(node)} == {"importlib", "typing"}
    assert set(cinic_shards._PLACES) == {*cinic_shards.__all__} - {"__version__"}


def test_public_names() -> None:
    assert cinic_shards.__all__ == [
        "CINIC10", "Augment", "Batch", "ShardIterable", "ShardLoader", "__version__",
    ]  # fmt: skip
    assert all(getattr(cinic_shards, name) for name in cinic_shards.__all__)
    with pytest.raises(AttributeError, match="module 'cinic_shards' has no attribute 'Loader'"):
        cinic_shards.Loader  # noqa: B018


@pytest.mark.parametrize("name", ["", *ORDER])
def test_public_names_have_docstrings(name: str) -> None:
    tree = TREES[name] if name else ROOT
    assert ast.get_docstring(tree)
    missing = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert missing == []


@pytest.mark.parametrize("name", ["", *ORDER])
def test_nothing_reads_the_environment_when_imported(name: str) -> None:
    """An option must not depend on when a module was first imported."""
    tree = TREES[name] if name else ROOT
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            attributes = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            assert not attributes & {"environ", "getenv"}
