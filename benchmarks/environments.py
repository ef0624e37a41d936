"""Make virtual environments for the contenders that conflict with this package.

    make bench-env

Each has the version of torch that ``constraints.txt`` pins. An environment that fails to install is
reported and skipped.
"""

import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
FOLDER = ROOT / ".bench-envs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Packages of an environment."""

    packages: tuple[str, ...]
    """Packages that pip installs, in addition to torch and the requirements of ``worker.py``."""
    pkg_config: tuple[str, ...] = ()
    """System libraries that the packages are compiled against."""
    how: str = ""
    """Instructions for installing these libraries."""


ENVIRONMENTS = {
    "ffcv": Environment(
        packages=("ffcv", "torchvision"),
        pkg_config=("opencv4", "libturbojpeg"),
        how="Debian and Ubuntu: apt-get install libopencv-dev libturbojpeg0-dev pkg-config",
    ),
    "streaming": Environment(packages=("mosaicml-streaming", "litdata", "torchvision")),
    "lance": Environment(packages=("lancedb", "pylance", "torchvision")),
    # The package index's torchcodec loads only with its torch, which has CUDA: "===" excludes a
    # CPU build.
    "torchcodec": Environment(packages=("torch===2.13.0", "torchcodec", "torchvision")),
    "grain": Environment(packages=("grain", "array-record")),
}
"""Environments by name, without "project", which is this package's own."""


def python_of(environment: str) -> Path:
    """Return the path of the environment's interpreter, which may not exist."""
    if environment == "project":
        return Path(sys.executable)
    return FOLDER / environment / "bin" / "python"


def missing_libraries(environment: Environment) -> list[str]:
    """Return the names of required system libraries that are not installed."""
    if environment.pkg_config and shutil.which("pkg-config") is None:
        return ["pkg-config", *environment.pkg_config]
    return [
        name
        for name in environment.pkg_config
        if subprocess.run(["pkg-config", "--exists", name], check=False).returncode
    ]


def install(name: str) -> bool:
    """Make an environment; return False, and print why, if it cannot be made."""
    environment = ENVIRONMENTS[name]
    if missing := missing_libraries(environment):
        print(f"{name}: left out, {', '.join(missing)} not found. {environment.how}")
        return False
    print(f"{name}: {', '.join(environment.packages)}", flush=True)
    venv.create(FOLDER / name, with_pip=True, clear=True)
    command = [
        *(str(python_of(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("-c", str(ROOT / "constraints.txt"), "torch", "numpy", "pillow", "psutil"),
    ]
    if subprocess.run([*command, *environment.packages], check=False).returncode:
        print(f"{name}: left out, pip could not install it")
        shutil.rmtree(FOLDER / name)
        return False
    return True


def main() -> None:
    """Make all environments that do not exist."""
    for name in ENVIRONMENTS:
        if python_of(name).exists():
            print(f"{name}: exists")
        else:
            install(name)


if __name__ == "__main__":
    main()
