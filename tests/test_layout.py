"""The package's layout: a folder imports only from those to its left, libraries have an owner."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cinic_shards

PACKAGE = Path(cinic_shards.__file__).parent

LEFT_TO_RIGHT = """
    errors limits options _version progress jobs
    store format codec tree read write check view cinic loader exports cli
""".split()
"""All modules and folders at the top of the package, in the order of allowed imports."""

ALONE = {
    "torch": {"loader", "exports"},
    "pyarrow": {"exports", "tree"},
    "torchvision": {"loader"},
    # Network access; a dask cluster is an Executor.
    "obstore": {"store"},
    "boto3": {"store"},
    "socket": {"store"},
    "http": {"store"},
    "urllib.request": {"store"},
    "distributed": {"jobs"},
    # Byte layouts: this format, and archives and pickles from outside.
    "msgpack": {"format"},
    "struct": {"format", "tree", "cinic"},
    "tarfile": {"tree", "cinic"},
    "zipfile": {"tree"},
    "zstandard": {"codec", "tree"},
    "numba": {"codec"},
    "llvmlite": {"codec"},
    "jinja2": {"view"},
    "typer": {"cli"},
    "rich": {"cli", "progress"},
}
"""Library -> the only modules or folders that may import it."""

MAX_LINES = 400
MAX_FUNCTION_LINES = 60


def module_name(path: Path) -> str:
    """``format.tar`` for format/tar.py, ``format`` for format/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
ROOT = TREES.pop("")
MODULES = [name for name in TREES if name != "__main__"]


def folder_of(name: str) -> str:
    """The folder that a module is in, or the module itself if it is at the top."""
    return name.partition(".")[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules that a file imports, also inside functions and for types."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full.removeprefix("cinic_shards.") in TREES else node.module


IMPORTED = {name: {*imported(tree)} for name, tree in TREES.items()}
"""Module -> full names of all modules that it imports."""


def own_imports(name: str) -> set[str]:
    """Modules of this package that one of its modules imports."""
    found = {full for full in IMPORTED[name] if full.partition(".")[0] == "cinic_shards"}
    return {full.removeprefix("cinic_shards").removeprefix(".") for full in found}


def test_the_top_of_the_package() -> None:
    assert {folder_of(name) for name in MODULES} == set(LEFT_TO_RIGHT)
    assert len(LEFT_TO_RIGHT) <= 18


@pytest.mark.parametrize("name", MODULES)
def test_a_folder_imports_only_from_its_left(name: str) -> None:
    allowed = {*LEFT_TO_RIGHT[: LEFT_TO_RIGHT.index(folder_of(name)) + 1]}
    assert {folder_of(one) for one in own_imports(name)} <= allowed


def test_there_are_no_import_cycles() -> None:
    # Importing a file of a package is a dependency on this file, not on the package's __init__.
    left = {name: own_imports(name) - {name} for name in TREES}
    while free := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert left == {}


def test_only_main_imports_the_command_line() -> None:
    others = [name for name in TREES if folder_of(name) != "cli"]
    assert [name for name in others if "cli" in map(folder_of, own_imports(name))] == ["__main__"]


@pytest.mark.parametrize("library", ALONE)
def test_libraries_are_imported_only_by_their_owners(library: str) -> None:
    found = {
        folder_of(name)
        for name, tree in TREES.items()
        if any(f"{full}.".startswith(f"{library}.") for full in IMPORTED[name])
        and not (library == "struct" and only_names_its_error(tree))
    }
    assert found <= ALONE[library]


def only_names_its_error(tree: ast.AST) -> bool:
    """True if a file uses ``struct`` only to catch the error that Pillow raises."""
    parts = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "struct"
    ]
    return set(parts) == {"error"}


def test_code_does_not_compare_names_of_encodings() -> None:
    """Only ``codec``, and the help of the command line, know an encoding by name."""
    names = {"png", "zstd", "raw"}
    found = {
        (name, node.lineno, isinstance(parent, ast.Compare | ast.MatchValue))
        for name, tree in TREES.items()
        if folder_of(name) not in ("codec", "cli")
        for parent in ast.walk(tree)
        for node in ast.iter_child_nodes(parent)
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert len({(name, line) for name, line, _ in found}) <= 5
    assert not [one for one in found if one[2]]


PUBLIC = """
    ShardLoader Augment Batch CINIC10 ShardIterable Dataset Subset Partition partition
    pack convert select export unpack verify reindex stats open_store __version__
""".split()


def test_public_names() -> None:
    assert cinic_shards.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(cinic_shards))
    for name in set(PUBLIC) - {"__version__"}:
        assert getattr(cinic_shards, name).__name__ == name  # not a module of this name
    with pytest.raises(AttributeError, match="module 'cinic_shards' has no attribute 'Loader'"):
        cinic_shards.Loader  # noqa: B018


def test_the_root_imports_only_its_version() -> None:
    """``ShardLoader`` imports torch, so it is imported on first use."""
    at_once = [node for node in ROOT.body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = {full for node in at_once for full in imported(node)}
    assert found == {"importlib", "typing", "cinic_shards._version"}


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import cinic_shards; dir(cinic_shards)", "torch numpy numba PIL"),
        ("from cinic_shards import pack, verify, Dataset, stats, open_store", "torch numba"),
    ],
)
def test_importing_does_not_load_large_libraries(code: str, unwanted: str) -> None:
    code += f"; import sys; print(sys.modules.keys() & {set(unwanted.split())})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", ["", *TREES])
def test_files_and_functions_are_short(name: str) -> None:
    lines = FILES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES
    tree = TREES[name] if name else ROOT
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    long = {one.name: size for one in functions if (size := size_of(one)) > MAX_FUNCTION_LINES}
    assert long == {}


def size_of(function: ast.FunctionDef) -> int:
    """A function's lines, without its docstring."""
    assert function.end_lineno is not None
    size = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) and first.end_lineno is not None:
        size -= first.end_lineno - first.lineno + 1
    return size


@pytest.mark.parametrize("name", ["", *TREES])
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


@pytest.mark.parametrize("name", ["", *TREES])
def test_nothing_reads_the_environment_when_imported(name: str) -> None:
    """An option must not depend on when a module was first imported."""
    tree = TREES[name] if name else ROOT
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            attributes = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            assert not attributes & {"environ", "getenv"}
