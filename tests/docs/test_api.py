"""Every public name has an example in its docstring, and all examples of the package run."""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cinic_shards
from cinic_shards import options
from cinic_shards.write.pack import pack
from tests.support import ROOT

PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
DOCUMENTED = re.findall(
    r"^\.\. auto(?:class|function|data):: ([\w.]+)(?:\(\))?$", PAGE, re.MULTILINE
)
"""Full names of everything on the page but errors, which share the example of their module."""


def modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(cinic_shards.__path__, "cinic_shards.")
    names = ["cinic_shards", *(one.name for one in found if not one.name.endswith("__main__"))]
    return [importlib.import_module(name) for name in names]


def documented(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield the names and objects that a module defines, and the module itself."""
    yield module.__name__, module
    for name, value in vars(module).items():
        is_code = inspect.isclass(value) or inspect.isroutine(value)
        if is_code and value.__module__ == module.__name__:
            yield f"{module.__name__}.{name}", value


def examples_of(name: str, value: Any) -> list[doctest.DocTest]:
    """Return the examples of an object and of its methods."""
    finder = doctest.DocTestFinder(exclude_empty=True, recurse=not inspect.ismodule(value))
    found = finder.find(value, name, module=False, globs={})
    return [test for test in found if test.examples]


EXAMPLES = {
    test.name: test
    for module in modules()
    for name, value in documented(module)
    for test in examples_of(name, value)
}


@pytest.fixture(scope="module")
def data(demo_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tree ``cinic`` and its dataset ``shards``; read only."""
    root = tmp_path_factory.mktemp("examples")
    (root / "cinic").symlink_to(demo_tree)
    pack(demo_tree, root / "shards", workers=1)
    return root


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    shutil.copytree(data, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(options, "usable_cores", lambda: 1)  # quicker than starting processes
    test = EXAMPLES[name]
    test.globs = {one: getattr(cinic_shards, one) for one in cinic_shards.__all__} | {"os": os}
    output: list[str] = []
    failed = doctest.DocTestRunner().run(test, out=output.append).failed
    assert not failed, "".join(output)


def test_every_public_name_has_an_example() -> None:
    """Counted in the docstring itself; ``__version__`` has the one of the package."""
    missing = []
    for full in DOCUMENTED:
        module, _, name = full.rpartition(".")
        value = getattr(importlib.import_module(module), name)
        docstring = cinic_shards.__doc__ if name == "__version__" else value.__doc__
        if ">>> " not in (docstring or ""):
            missing.append(full)
    assert not missing, f"{len(missing)} of {len(DOCUMENTED)} names have no example: {missing}"


def test_every_public_name_is_on_the_page() -> None:
    public = {f"cinic_shards.{name}" for name in cinic_shards.__all__}
    assert public - {*DOCUMENTED} == set()
    assert len(DOCUMENTED) == len({*DOCUMENTED})


def test_every_error_is_on_the_page() -> None:
    from cinic_shards import errors

    raised = [
        name
        for name, value in documented(errors)
        if inspect.isclass(value) and issubclass(value, Exception)
    ]
    listed = re.search(r"automodule:: cinic_shards.errors\n +:members: (.+)$", PAGE, re.MULTILINE)
    assert listed is not None
    assert [name.rpartition(".")[2] for name in raised] == listed[1].split(", ")


def test_all_examples_are_found() -> None:
    """An example in a docstring that is not found would never run."""
    written = sum(
        len(re.findall(r"^\s*>>> ", text, re.MULTILINE))
        for path in (ROOT / "cinic_shards").rglob("*.py")
        for text in [path.read_text(encoding="utf-8")]
    )
    assert written == sum(len(test.examples) for test in EXAMPLES.values())
