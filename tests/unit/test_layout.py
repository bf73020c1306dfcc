"""The layout: who imports whom, what is free of Pulumi, and how long a module may be."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import group_member
import pytest
import requirement_files
import virtualenv

from releases import requirement_lines, wheels
from rendering import server_site

ROOT = Path(__file__).resolve().parents[2]
# Each package may import those before it and no other.
ORDER = (
    "gateways",
    "settings",
    "rendering",
    "platforms",
    "releases",
    "components",
    "__main__.py",
    "commands",
    "harness",
    "policies",
    "benchmarks",
)
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()}
PLATFORMS = sorted(path.parent.name for path in ROOT.glob("platforms/*/__init__.py"))
# Where a module may use Pulumi although its package is used without it.
WITHOUT_PULUMI = ("gateways/", "settings/", "rendering/", "releases/", "platforms/lxd/", "commands/")
WITH_PULUMI = (
    *("platforms/lxd/platform.py", "platforms/lxd/provider.py", "platforms/lxd/resources.py"),
    *("releases/resource.py", "releases/secret.py"),
)
# Only platforms/aws/ uses these, so that no other platform needs them.
LIBRARIES_OF_AWS = {"pulumi_aws", "pulumi_command", "boto3", "botocore", "asyncssh"}
# Scripts of machine/ need no library but the gateway that starts them.
LIBRARIES_OF_GATEWAYS = {"gevent", "gunicorn", "pyuwsgi", "tornado", "uwsgi"}
# A script imports what lies beside it on a machine: its own folder, machine/common, and these.
ALSO_ON_ITS_MACHINE = {
    "machine/cloudwatch": ("machine/balancer",),
    "machine/group": ("machine/app_server", "machine/balancer"),
    "machine/monitoring": ("machine/app_server", "machine/balancer"),
}
# They find a module of the project by a name that is a setting.
LOADERS = ("commands/__main__.py", "gateways/__init__.py", "platforms/operator.py", "platforms/registry.py")


def modules(*folders: str) -> list[Path]:
    return sorted(
        path for each in folders for path in ([ROOT / each] if each.endswith(".py") else (ROOT / each).rglob("*.py"))
    )


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def list_packages(root: Path) -> set[str]:
    return {path.name for path in root.glob("[!.]*/") if next(path.rglob("*.py"), None)}


def list_run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below a node that run. Those for types alone do not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            yield from list_run_nodes(ast.Module(node.orelse, []))
        else:
            yield node
            yield from list_run_nodes(node)


def list_imports(source: str) -> set[str]:
    """Return the full names that statements import, wherever in a source text. Relative ones begin with a dot."""
    result: set[str] = set()
    for node in list_run_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            result |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return result


def list_dynamic_imports(source: str) -> set[str]:
    """Return the names that a source text imports by a call, as far as they are literals."""
    return {
        next((str(each.value) for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)), "")
        for node in list_run_nodes(ast.parse(source))
        if isinstance(node, ast.Call) and node.args
        if ast.unparse(node.func).rpartition(".")[2] in {"import_module", "__import__"}
    }


def find_forbidden(path: str, source: str) -> set[str]:
    """Return what a module imports and may not import. path: from the folder of the project."""
    package, by_call = path.partition("/")[0], list_dynamic_imports(source)
    found = list_imports(source) | by_call - {""}
    if package == "machine":
        folder = path.rpartition("/")[0]
        beside = modules(folder, "machine/common", *ALSO_ON_ITS_MACHINE.get(folder, ()))
        allowed = sys.stdlib_module_names | {each.stem for each in beside}
        if path.startswith("machine/gateway/"):
            allowed |= LIBRARIES_OF_GATEWAYS
        return {name for name in found if name.partition(".")[0] not in allowed}
    # "": whatever begins with a dot.
    no = FOLDERS - {*ORDER[: ORDER.index(package) + 1]} | {""}
    if path.startswith(WITHOUT_PULUMI) and path not in WITH_PULUMI:
        no |= {"pulumi"}
    if package == "components":
        no |= {"os", "time"}
    if path != "rendering/templates.py":
        no |= {"jinja2"}
    if not path.startswith("platforms/aws/"):
        no |= LIBRARIES_OF_AWS
    if package not in {"harness", "benchmarks"}:
        no |= {f"platforms.{each}" for each in PLATFORMS if not path.startswith(f"platforms/{each}/")}
    result = {name for name in found if any(f"{name}.".startswith(f"{each}.") for each in no)}
    return result | {name for name in by_call if name.partition(".")[0] in FOLDERS and path not in LOADERS}


def test_the_folder_of_the_project_contains_one_module() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == ["__main__.py"]
    assert len((ROOT / "__main__.py").read_text().splitlines()) <= 40


def test_every_folder_with_modules_has_its_place_in_the_order(tmp_path: Path) -> None:
    assert list_packages(ROOT) == {*ORDER, "machine", "tests", "examples"} - {"__main__.py"}
    (tmp_path / "tools/deep").mkdir(parents=True)
    (tmp_path / "tools/deep/new.py").touch()
    (tmp_path / "docs").mkdir()
    assert list_packages(tmp_path) == {"tools"}


@pytest.mark.parametrize("path", modules(*ORDER, "machine"), ids=names)
def test_a_module_imports_only_what_its_package_may(path: Path) -> None:
    assert find_forbidden(names(path), path.read_text()) == set()


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("__main__.py", "import tests.combinations", "tests.combinations"),
        ("__main__.py", "from harness import site", "harness.site"),
        ("__main__.py", "import jinja2", "jinja2"),
        ("settings/new.py", "from rendering import nginx", "rendering.nginx"),
        ("__main__.py", "from commands import status", "commands.status"),
        ("commands/new.py", "import harness.site", "harness.site"),
        ("commands/new.py", "def f():\n    import tools.new", "tools.new"),
        ("releases/new.py", "from examples import app", "examples.app"),
        ("commands/new.py", "from machine.common import fetch", "machine.common.fetch"),
        ("machine/common/new.py", "import requests", "requests"),
        ("machine/common/new.py", "import slot", "slot"),
        ("machine/balancer/new.py", "import slot", "slot"),
        ("machine/gateway/new.py", "from proxy_site import main", "proxy_site.main"),
        ("machine/balancer/new.py", "import tornado.web", "tornado.web"),
        ("machine/common/new.py", "from settings import model", "settings.model"),
        ("releases/new.py", "from .lock import acquire", ".lock.acquire"),
        ("releases/new.py", "from . import lock", "..lock"),
        ("machine/common/new.py", "from . import fetch", "..fetch"),
        ("platforms/lxd/new.py", "from platforms.aws import ssh", "platforms.aws.ssh"),
        ("platforms/aws/new.py", "from platforms import lxd", "platforms.lxd"),
        ("platforms/new.py", "import platforms.lxd.client", "platforms.lxd.client"),
        ("commands/new.py", "from platforms.lxd.client import Client", "platforms.lxd.client.Client"),
        ("components/new.py", "if not TYPE_CHECKING:\n    import pulumi_aws", "pulumi_aws"),
        ("components/new.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import os", "os"),
        ("commands/new.py", "import importlib\nimportlib.import_module('releases.lock')", "releases.lock"),
        ("commands/new.py", "import_module(f'platforms.{name}.operator')", "platforms."),
        ("settings/new.py", "__import__('commands.' + name)", "commands."),
        ("platforms/registry.py", "importlib.import_module('platforms.aws.ssh')", "platforms.aws.ssh"),
        ("machine/common/new.py", "importlib.import_module('yaml')", "yaml"),
        ("platforms/lxd/new.py", "import pulumi", "pulumi"),
    ],
)
def test_an_import_that_is_forbidden_is_found(path: str, source: str, found: str) -> None:
    assert find_forbidden(path, source) == {found}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("settings/new.py", "if TYPE_CHECKING:\n    from rendering import nginx"),
        ("machine/gateway/new.py", "import tornado.web, gateway_http, json"),
        ("gateways/__init__.py", "importlib.import_module(f'gateways.{name}')"),
        ("platforms/aws/new.py", "import boto3, pulumi, platforms.aws.ssh"),
        ("commands/new.py", "importlib.import_module(name)"),
    ],
)
def test_an_import_that_is_allowed_is_not_found(path: str, source: str) -> None:
    assert find_forbidden(path, source) == set()


def test_no_module_imports_itself_by_way_of_others() -> None:
    # Scripts of machine/ import one another by their last name.
    files = {module_of(path): path for path in modules(*ORDER)} | {path.stem: path for path in modules("machine")}
    graph = {
        name: {file_of(each, files) for each in list_imports(path.read_text())} - {name, ""}
        for name, path in files.items()
    }
    TopologicalSorter(graph).prepare()


def module_of(path: Path) -> str:
    return names(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def file_of(name: str, files: dict[str, Path]) -> str:
    """Return the module that an imported name is in, "" where it is not of this project."""
    return next((each for each in (name, name.rpartition(".")[0]) if each in files), "")


@pytest.mark.parametrize("path", modules("components"), ids=names)
def test_components_read_no_configuration(path: Path) -> None:
    assert "Config(" not in path.read_text()


@pytest.mark.parametrize("path", modules(*ORDER, "machine"), ids=names)
def test_no_module_is_longer_than_a_person_reads_at_once(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 310


@pytest.mark.parametrize(
    ("on_a_machine", "here"),
    [
        (virtualenv.READY, wheels.READY),
        (requirement_files.COMMENT, requirement_lines._COMMENT),  # pyright: ignore[reportPrivateUsage]
        (requirement_files.INCLUDE, requirement_lines._INCLUDE),  # pyright: ignore[reportPrivateUsage]
        (group_member.HEALTH_PATH, server_site.TARGET_HEALTH_PATH),
    ],
)
def test_what_scripts_of_machines_repeat_is_equal(on_a_machine: object, here: object) -> None:
    """Check it, as scripts cannot import the program."""
    assert on_a_machine == here
