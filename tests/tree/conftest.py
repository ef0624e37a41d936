"""A tree, and the dataset that each archive of it must give."""

from pathlib import Path

import pytest

from cinic_shards.write.pack import pack
from tests.support.files import files_of
from tests.tree.test_tree import grow


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of 12 images without a fault."""
    grow(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def expected(tree: Path, tmp_path: Path) -> dict[str, bytes]:
    """The files of its dataset."""
    pack(tree, tmp_path / "expected", workers=1, warn=lambda text: None)
    return files_of(tmp_path / "expected")
