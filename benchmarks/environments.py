"""The contenders' environments: those that do not install beside this package get one of their own.

    make bench-env

Each has torch as ``constraints.txt`` pins it. What cannot be installed is said, and left out.
"""

import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".bench-envs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What to install."""

    packages: tuple[str, ...]
    """By pip, beside torch and what ``worker.py`` needs."""
    pkg_config: tuple[str, ...] = ()
    """Libraries of the system that it is compiled against."""
    how: str = ""
    """Where those come from."""


ENVIRONMENTS = {
    "ffcv": Environment(
        packages=("ffcv", "torchvision"),
        pkg_config=("opencv4", "libturbojpeg"),
        how="Debian and Ubuntu: apt-get install libopencv-dev libturbojpeg0-dev pkg-config",
    ),
    "streaming": Environment(packages=("mosaicml-streaming", "litdata", "torchvision")),
    "grain": Environment(packages=("grain", "array-record")),
}
"""By name; "project" is this package's own."""


def python_of(environment: str) -> Path:
    """Its interpreter, which may not exist."""
    if environment == "project":
        return Path(sys.executable)
    return FOLDER / environment / "bin" / "python"


def missing_libraries(environment: Environment) -> list[str]:
    """Of the system."""
    if environment.pkg_config and shutil.which("pkg-config") is None:
        return ["pkg-config", *environment.pkg_config]
    return [
        name
        for name in environment.pkg_config
        if subprocess.run(["pkg-config", "--exists", name], check=False).returncode
    ]


def install(name: str) -> bool:
    """Make an environment; say why where it cannot be made."""
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
    """Make all that are not there."""
    for name in ENVIRONMENTS:
        if python_of(name).exists():
            print(f"{name}: there")
        else:
            install(name)


if __name__ == "__main__":
    main()
