"""Files that tools and hosts read: versions agree, and actions are pinned."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
HOSTED = sorted((ROOT / ".github").rglob("*.yml"))
WORKFLOWS = sorted((ROOT / ".github/workflows").iterdir())


def test_pre_commit_has_the_versions_of_make_lint() -> None:
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M))
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    found = {hook["id"].partition("-")[0]: repo for repo in repos for hook in repo["hooks"]}
    assert found.pop("mypy")["repo"] == "local"  # its version is that of the environment
    assert {name: repo["rev"] for name, repo in found.items()} == {
        name: f"v{pinned[name]}" for name in ("ruff", "codespell", "zizmor")
    }


@pytest.mark.parametrize("path", HOSTED, ids=lambda path: path.name)
def test_files_for_the_host_are_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_permissions_are_given_to_each_job(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text("utf-8"))
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert "write" not in job.get("permissions", {}).values() or job["environment"] == "release"
        for uses in (step["uses"] for step in job["steps"] if "uses" in step):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", uses)


def test_ci_tests_every_python_that_the_metadata_names() -> None:
    (matrix,) = (
        job["strategy"]["matrix"]
        for job in yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    )
    named = [re.fullmatch(r".* :: (3\.\d+)", one) for one in PROJECT["classifiers"]]
    assert matrix["python"] == [match[1] for match in named if match]
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"


def test_the_extra_all_has_every_extra_of_users() -> None:
    first, *_ = EXTRAS["all"]
    listed = re.fullmatch(r"cinic-shards\[(.*)\]", first)
    assert listed is not None
    assert {*listed[1].split(",")} == EXTRAS.keys() - {"all", "dev", "docs"}
