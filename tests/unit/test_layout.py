"""Who may import whom. What must run without Pulumi, and what runs on machines, stays free of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def modules(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def imported(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def reaches(path: Path, *packages: str) -> set[str]:
    return {name for name in imported(path) if any(name == each or name.startswith(f"{each}.") for each in packages)}


# Where a file may use Pulumi although its folder does not.
THIN = (
    *("platforms/lxd/platform.py", "platforms/lxd/provider.py", "platforms/lxd/resources.py"),
    *("releases/resource.py", "releases/secret.py"),
)
PLAIN = modules(
    "commands/*.py",
    "settings/*.py",
    "stack_file.py",
    "rendering.py",
    "app_server.py",
    "user_data.py",
    "literals.py",
    "releases/*.py",
    "platforms/lxd/*.py",
    "machine/*.py",
)


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: str(path.relative_to(ROOT)))
def test_work_is_done_without_pulumi(path: Path) -> None:
    if str(path.relative_to(ROOT)) not in THIN:
        assert reaches(path, "pulumi", "pulumi_aws", "pulumi_command") == set()


@pytest.mark.parametrize("path", modules("components/*.py"), ids=lambda path: path.name)
def test_components_know_no_platform_and_read_no_configuration(path: Path) -> None:
    assert reaches(path, "platforms.lxd", "platforms.aws", "pulumi_aws", "pulumi_command", "os", "time") == set()
    assert "Config(" not in path.read_text()


@pytest.mark.parametrize("path", modules("machine/*.py"), ids=lambda path: path.name)
def test_what_runs_on_machines_needs_only_what_lies_beside_it(path: Path) -> None:
    ours = reaches(path, "components", "platforms", "releases", "rendering", "settings", "yaml", "jinja2", "pydantic")
    assert ours == set()


def test_only_rendering_uses_jinja2() -> None:
    users = [path.name for path in modules("*.py", "*/*.py", "platforms/*/*.py") if reaches(path, "jinja2")]
    assert users == ["rendering.py"]


def test_local_needs_no_library_of_aws() -> None:
    for path in modules("*.py", "components/*.py", "releases/*.py", "platforms/*.py", "platforms/lxd/*.py"):
        assert reaches(path, "pulumi_aws", "pulumi_command", "boto3", "paramiko", "asyncssh") == set(), path


@pytest.mark.parametrize("path", modules("*.py", "*/*.py", "*/*/*.py"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_longer_than_a_person_reads_at_once(path: Path) -> None:
    if ".venv" not in path.parts and "tests" not in path.parts:
        assert len(path.read_text().splitlines()) <= 310
