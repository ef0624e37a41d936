"""The wheel includes type information; a user's script passes mypy --strict with it."""

import re
import subprocess
import sys
import sysconfig
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


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*command, *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_contains_every_file_of_the_package(wheel: Path) -> None:
    command = ["git", "-C", ROOT, "ls-files", "cinic_shards"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        pytest.skip("NOT RUN: not a git checkout")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == set(done.stdout.splitlines())
    assert "cinic_shards/py.typed" in names


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
