"""A user's first minute: install the wheel into an empty environment, pack, verify, train."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.real

SCRIPT = """
from pathlib import Path

import numpy as np
from PIL import Image

generator = np.random.default_rng(0)
for split in "train", "test":
    for name in "cat", "dog":
        folder = Path("tree", split, name)
        folder.mkdir(parents=True)
        for number in range(40):
            pixels = generator.integers(256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")

from cinic_shards import Augment, ShardLoader, pack, verify

pack("tree", "shards", workers=1)
assert not verify("shards", against="tree", workers=1).faults
loader = ShardLoader("shards", split="train", batch_size=32, augment=Augment())
sizes = [(tuple(images.shape), len(labels)) for images, labels in loader]
assert sizes == [((32, 3, 32, 32), 32)] * 2, sizes
import cinic_shards
print(cinic_shards.__file__)
"""


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scripts folder of an environment with the wheel, and with nothing of this one but torch.

    torch is linked, not installed: unpacking it took longer than all the rest, and many indexes
    have only its CUDA builds, gigabytes of them. pip finds it, and installs what it requires.
    """
    import torch

    if torch.version.cuda:
        pytest.skip("NOT RUN: needs a CPU build of torch; this one requires gigabytes of CUDA")
    folder = tmp_path_factory.mktemp("fresh") / "env"
    builder = venv.EnvBuilder()
    builder.create(folder)
    context = builder.ensure_directories(folder)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    for path in Path(torch.__file__).parents[1].iterdir():
        if path.name in ("torch", "torchgen", "functorch") or path.match("torch-*.dist-info"):
            (packages / path.name).symlink_to(path)
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"),
        *("--python", context.env_exe, "install", "-c", ROOT / "constraints.txt", wheel),
    ]
    subprocess.run(command, check=True)
    return Path(context.bin_path)


def run(environment: Path, folder: Path, *command: str) -> str:
    """Run a program of the environment in ``folder``, without this one's Python path."""
    variables = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
    done = subprocess.run(
        [environment / command[0], *command[1:]],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_quickstart_runs(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "quickstart.py").write_text(SCRIPT)
    out = run(environment, tmp_path, "python", "quickstart.py")
    assert Path(out.splitlines()[-1]).is_relative_to(environment.parent)
    assert "pack" in run(environment, tmp_path, "cinic-shard", "--help")
    assert "class: cat" in run(environment, tmp_path, "cinic-shard", "info", "shards")
    run(environment, tmp_path, "cinic-shard", "verify", "shards", "--against", "tree")
