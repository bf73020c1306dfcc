"""The layout: who imports whom, what is free of Pulumi, and how long a module may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each package may import those before it and no other. The scripts of machine/ import only one another.
ORDER = (
    "gateways",
    "settings",
    "rendering",
    "platforms",
    "releases",
    "components",
    "commands",
    "harness",
    "policies",
    "benchmarks",
)
OURS = (*ORDER, "machine", "tests")
PULUMI = ("pulumi", "pulumi_aws", "pulumi_command")
# Where a module may use Pulumi although its package is used without it.
WITH_PULUMI = (
    *("platforms/lxd/platform.py", "platforms/lxd/provider.py", "platforms/lxd/resources.py"),
    *("releases/resource.py", "releases/secret.py"),
)


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports below a node that run. Those for types alone do not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield from statements(node)


def imported(path: Path) -> set[str]:
    """Return the full names that a file imports, wherever in it."""
    tree = ast.parse(path.read_text())
    result: set[str] = set()
    for node in statements(tree):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        else:
            result |= {f"{node.module}.{alias.name}" for alias in node.names}
    return result


def reaches(path: Path, *packages: str) -> set[str]:
    return {name for name in imported(path) if any(name == each or name.startswith(f"{each}.") for each in packages)}


def test_the_folder_of_the_project_contains_one_module() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == ["__main__.py"]
    assert len((ROOT / "__main__.py").read_text().splitlines()) <= 40


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_those_before_it(package: str) -> None:
    above = set(OURS) - {"machine", *ORDER[: ORDER.index(package) + 1]}
    assert {names(path): found for path in modules(package) if (found := reaches(path, *above, "machine"))} == {}


def test_no_module_imports_itself_by_way_of_others() -> None:
    files = {module_of(path): path for path in modules(*ORDER)}
    graph = {name: {file_of(each, files) for each in imported(path)} - {name, ""} for name, path in files.items()}
    TopologicalSorter(graph).prepare()


def module_of(path: Path) -> str:
    return names(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def file_of(name: str, files: dict[str, Path]) -> str:
    """Return the module that an imported name is in, "" where it is not of this project."""
    return next((each for each in (name, name.rpartition(".")[0]) if each in files), "")


@pytest.mark.parametrize(
    "path", modules("commands", "settings", "rendering", "releases", "platforms/lxd", "machine"), ids=names
)
def test_work_is_done_without_pulumi(path: Path) -> None:
    if names(path) not in WITH_PULUMI:
        assert reaches(path, *PULUMI) == set()


@pytest.mark.parametrize("path", modules("components"), ids=names)
def test_components_know_no_platform_and_read_no_configuration(path: Path) -> None:
    assert reaches(path, "platforms.lxd", "platforms.aws", "pulumi_aws", "pulumi_command", "os", "time") == set()
    assert "Config(" not in path.read_text()


@pytest.mark.parametrize("path", modules("machine"), ids=names)
def test_what_runs_on_machines_needs_only_what_lies_beside_it(path: Path) -> None:
    assert reaches(path, *ORDER, "tests", "yaml", "jinja2", "pydantic") == set()


def test_only_rendering_uses_jinja2() -> None:
    assert [names(path) for path in modules(*ORDER, "machine") if reaches(path, "jinja2")] == ["rendering/templates.py"]


def test_local_needs_no_library_of_aws() -> None:
    libraries = ("pulumi_aws", "pulumi_command", "boto3", "asyncssh")
    for path in [
        ROOT / "__main__.py",
        *(ROOT / "platforms").glob("*.py"),
        *modules("components", "releases", "platforms/lxd"),
    ]:
        assert reaches(path, *libraries, "platforms.aws") == set(), path


@pytest.mark.parametrize("path", [ROOT / "__main__.py", *modules(*ORDER, "machine")], ids=names)
def test_no_module_is_longer_than_a_person_reads_at_once(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 310
