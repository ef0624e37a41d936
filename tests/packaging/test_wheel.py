"""The wheel and the sdist contain what they should; a user's script passes mypy --strict."""

import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

SCRIPT = """
from cinic_shards import Augment, ShardLoader, pack

manifest = pack("cinic", "shards")
for images, labels in ShardLoader("shards", batch_size=512, augment=Augment(cutout=8)):
    reveal_type((manifest.num_samples, images, labels))
"""

pytestmark = pytest.mark.real


def tracked(*paths: str) -> set[str]:
    """Files of the repository below ``paths``."""
    command = ["git", "-C", ROOT, "ls-files", *paths]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        pytest.skip("NOT RUN: not a git checkout")
    return set(done.stdout.splitlines())


def test_the_wheel_contains_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == tracked("cinic_shards")
    assert "cinic_shards/py.typed" in names


NOT_IN_THE_SDIST = {".ci/run", ".gitattributes"}
"""Files of the repository that testing it and building its pages do not need."""


def test_the_sdist_contains_the_repository(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    assert names - {"PKG-INFO"} == tracked() - NOT_IN_THE_SDIST


def test_an_index_accepts_them(built: Path) -> None:
    files = sorted(built.iterdir())
    for command in (["twine", "check", "--strict", *files], ["check_wheel_contents", files[0]]):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout


def test_the_description_has_no_link_into_the_repository(wheel: Path) -> None:
    """A package index shows the README without the files beside it."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        text = archive.read(name).decode().partition("\n\n")[2]
    assert "# cinic-shards" in text
    assert re.findall(r"```.*?```", text, re.DOTALL) == re.findall(
        r"```.*?```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL
    )
    assert not re.findall(r"\]\((?![a-z]+:|#)[^)]*\)|(?:src|srcset|href)=\"(?!https?:)[^\"]*", text)


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*command, *map(str, arguments)], check=True)


def test_a_script_passes_mypy_strict(wheel: Path, tmp_path: Path) -> None:
    """The package is installed: in a checkout, mypy would use its types without ``py.typed``."""
    builder, folder = venv.EnvBuilder(), tmp_path / "env"
    builder.create(folder)
    python = builder.ensure_directories(folder).env_exe
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    pip("install", "--no-deps", "--target", packages, wheel)
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # torch and others
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache"),
            *("--python-executable", python, "script.py"),
        ],
        cwd=tmp_path,  # so that this package's mypy options do not apply
        env={},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    (revealed,) = re.findall('Revealed type is "(.*)"', done.stdout)
    assert revealed == "tuple[int, torch._tensor.Tensor, torch._tensor.Tensor]"
