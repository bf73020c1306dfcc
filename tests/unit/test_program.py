"""The program itself, run for every file of stacks/ as Pulumi runs it."""

from __future__ import annotations

import base64
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pulumi
import pytest

from commands.stack import DESCRIPTION
from commands.target import resolve_target
from harness.mock_engine import Build, Secret, build
from harness.mock_lxd import MACHINE, ROLLOUT
from harness.program import plan, stack_file
from harness.program import run as main
from platforms import operator
from releases.fleet import Server
from releases.python_requirement import describe
from settings.application import App
from settings.operating_system import DEFAULT_OS
from tests.unit.fake_fleet import MemoryStore
from tests.unit.fake_stack import Machines

ROOT = Path(__file__).resolve().parents[2]
STACKS = sorted(path.name.split(".")[1] for path in (ROOT / "stacks").glob("Pulumi.*.yaml"))
INSTANCE = "aws:ec2/instance:Instance"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder with the applications of this project, in which the program runs and writes."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@pytest.fixture(autouse=True)
def project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("stack", "value", "keeps"), [("local", "", False), ("local", "    secure: v1:x\n", True), ("dev", "", True)]
)
def test_the_salt_that_pulumi_writes_into_the_committed_stack_file_goes_again(
    project: Path, stack: str, value: str, *, keeps: bool
) -> None:
    file = project / "stacks" / f"Pulumi.{stack}.yaml"
    file.parent.mkdir(exist_ok=True)
    before = f"# Ours.\nconfig:\n{value}"
    file.write_text(f"{before}encryptionsalt: v1:x=\n")
    run.__wrapped__(stack)
    assert (file.read_text() != before) == keeps
    file.unlink()


@cache
def run(stack: str, *, preview: bool = False, **changes: str) -> Build:
    """Run the program with the blocks of a stack file, some of them changed (JSON)."""
    return plan(stack, preview=preview, **changes)


def servers(stack: str) -> list[str]:
    fleet = App.model_validate_json(json.dumps(stack_file(stack)["apps"]["hello"])).fleet
    return [f"hello-{number + 1}" for number in range(fleet.servers)]


@pytest.mark.parametrize("stack", STACKS)
def test_every_stack_exports_where_it_is_what_serves_and_on_which_servers(stack: str) -> None:
    made, blocks = run(stack), stack_file(stack)
    on_lxd = blocks["platform"] == "lxd"
    url = {"example": "https://127.0.0.1:8443"}.get(stack, "http://127.0.0.1:8080" if on_lxd else "http://203.0.113.7")
    release = made.one(ROLLOUT).inputs["release"]
    assert len(release) == 12
    # What ./fleet works with: the reach holds a private key.
    exports = dict(made.exports)
    fleet = exports.pop("fleet")
    assert isinstance(fleet, Secret)
    # After a first release that failed, only this one is there.
    assert made.one(DESCRIPTION).outputs == {"fleet": fleet}
    places = {what: f"{what}-log-0e0e0e0" for what in ("balancer", "hello")}
    assert exports.pop("logs", None) == (places if not on_lxd and blocks["aws"].get("logs") else None)
    assert exports == {
        "url": url,
        "address": "127.0.0.1" if "127.0.0.1" in url else "203.0.113.7",
        "releases": {"hello": release},
        "servers": {role: f"test-{role}-3fa9c2" if on_lxd else f"{role}-id" for role in servers(stack)},
    }


@pytest.mark.parametrize(("tls", "scheme"), [("null", "http"), ('{"self_signed": true}', "https")])
def test_the_gate_and_the_balancer_ask_for_health_as_clients_do(tls: str, scheme: str) -> None:
    balancer = f'{{"hostnames": ["shop.example.org"], "tls": {tls}}}'
    made = run("local", balancer=balancer)
    manifest: Any = made.one(ROLLOUT).inputs["manifest"]
    found = json.loads(manifest.value if isinstance(manifest, Secret) else manifest)
    headers = {"Host": "shop.example.org", "X-Forwarded-Host": "shop.example.org", "X-Forwarded-Proto": scheme}
    assert found["health_headers"] == headers | {"User-Agent": "wsgi-fleet"}


@pytest.mark.parametrize("stack", STACKS)
def test_every_stack_can_be_previewed_before_anything_is_there(stack: str) -> None:
    planned = run(stack, preview=True)
    machines = planned.of(MACHINE) + planned.of(INSTANCE)
    assert [each.name for each in machines] == ["balancer", *servers(stack)]


def test_what_the_command_works_with_is_one_secret_and_what_the_command_reads(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hello = {"source": "examples/flask-hello", "module": "hello.wsgi:app"}
    app = hello | {"fleet": {"servers": 2}, "rollout": {"start_timeout_s": 33}}
    exported: Any = run("local", apps=json.dumps({"hello": app})).exports["fleet"]
    assert isinstance(exported, Secret)
    found: Any = exported.value
    assert found["reach"].pop("owner").startswith("local-")
    names = ("hello-1", "hello-2")
    described = [
        {"name": name, "target": f"test-{name}-3fa9c2", "address": f"10.0.0.{number}"}
        for number, name in enumerate(names, 1)
    ]
    limits = {"health_path": "/healthz", "start_timeout_s": 33, "drain_timeout_s": 75, "routes": ["/ of every host"]}
    assert found == {
        "store": {"platform": "lxd", "path": str(project / ".state" / "local" / "store")},
        "reach": {"platform": "lxd"},
        "balancer": {"name": "balancer", "target": "test-balancer-3fa9c2"},
        "apps": {"hello": {"servers": described, **limits}},
    }
    store, asked = MemoryStore(), list[Any]()
    monkeypatch.setattr(operator, "transport", lambda spec: asked.append(spec) or Machines())  # pyright: ignore
    monkeypatch.setattr(operator, "store", lambda _: store)  # pyright: ignore
    described[1]["address"] = "10.0.0.11"
    changed = {"apps": {"hello": {"servers": described, **limits}}, "url": "http://127.0.0.1:8080"}
    target = resolve_target("test", found | changed, None, patience_s=7)
    assert (target.app, target.start_timeout_s, target.drain_timeout_s) == ("hello", 33, 75)
    assert list(target.servers) == [Server(name, f"test-{name}-3fa9c2") for name in names]
    # An address may begin or end another.
    assert target.with_server_names("10.0.0.11, 10.0.0.1, 110.0.0.1") == "hello-2, hello-1, 110.0.0.1"
    target.store.write("pointer", b"x")
    assert store.files == {"hello/pointer": b"x"}
    assert asked == [{"platform": "lxd", "deadline_s": 7}]


@pytest.mark.parametrize("preview", [True, False])
def test_the_program_writes_nothing_into_the_project(project: Path, preview: bool) -> None:
    def written() -> dict[Path, int]:
        return {path: path.lstat().st_mtime_ns for path in [project, *project.rglob("*")]}

    before = written()
    for stack in STACKS:
        assert run(stack, preview=preview).resources
    assert written() == before


@pytest.fixture
def logged_errors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the errors that the program logs from now on."""
    errors: list[str] = []
    monkeypatch.setattr(pulumi.log, "error", errors.append)
    return errors


def assert_program_rejects() -> None:
    """Run the program, and see that it ends as pulumi-language-python-exec does where it has shown a message."""
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 32


def test_what_cannot_be_released_ends_the_program_before_anything_is_registered(
    project: Path, logged_errors: list[str]
) -> None:
    for name in ("a", "b"):
        (project / name).mkdir()
        (project / name / "requirements.txt").touch()
        (project / name / ".env").touch()
        (project / name / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.99"')
    hosts = {name: {"source": name, "module": "x:app", "hosts": [f"{name}.test"]} for name in ("a", "b")}
    config = {"wsgi-fleet:platform": "lxd", "wsgi-fleet:apps": json.dumps(hosts)}
    made = build(assert_program_rejects, config=config, stack="local", preview=True)
    (lines,) = [each.splitlines() for each in logged_errors]
    message = f"pyproject.toml: {describe('it', '>=3.99', DEFAULT_OS.python)}"
    assert [line for line in lines if not line.startswith("  ")] == [
        line for name in ("a", "b") for line in (f"apps.{name}: {message}", f"{project / name} cannot be released:")
    ]
    assert [line.split(";")[0] for line in lines if line.startswith("  ")] == ["  .env: may contain secrets"] * 2
    assert (made.resources, made.exports) == ([], {})


@pytest.mark.parametrize("security_updates", [{}, {"enabled": False}, {"window": "Sun 04:30", "reboot": True}])
def test_machines_boot_the_same_document_on_a_laptop_and_on_ec2(security_updates: dict[str, Any]) -> None:
    changes = {"apps": json.dumps(stack_file("local")["apps"]), "security_updates": json.dumps(security_updates)}
    local, dev = (run(stack, **changes) for stack in ("local", "dev"))
    here = {each.name: each.inputs["user_data"].encode() for each in local.of(MACHINE)}
    packed = {each.name: base64.b64decode(each.inputs["userDataBase64"]) for each in dev.of(INSTANCE)}
    same = {name: gzip.decompress(document) == here[name] for name, document in packed.items()}
    assert same == dict.fromkeys(here, True)
    assert len(set(here.values())) == 2


def test_servers_of_production_stand_in_three_zones() -> None:
    subnets = {each.name: each.inputs["subnetId"].removesuffix("-id") for each in run("prod").of(INSTANCE)}
    zones = {"hello-1": "private-a", "hello-2": "private-b", "hello-3": "private-c"}
    assert subnets == {"balancer": "public-a"} | zones


def test_a_broken_stack_file_ends_the_program_with_every_problem_and_registers_nothing(
    logged_errors: list[str],
) -> None:
    apps = {"hello": {"source": "nowhere", "module": "hello.wsgi:app", "fleet": {"servers": 0}}}
    broken = {"wsgi-fleet:platform": "lxc", "wsgi-fleet:apps": json.dumps(apps), "wsgi-fleet:balancr": "{}"}
    made = build(assert_program_rejects, config=broken, stack="local")
    first, *problems = logged_errors[0].splitlines()
    assert first == "stacks/Pulumi.local.yaml has 4 problems; nothing was changed:"
    places = ["platform", "apps.hello.fleet.servers", "balancr", "apps.hello.source"]
    keys = [line.split(": ")[0] for line in problems if not line.startswith("    ")]
    assert keys == [f"  wsgi-fleet:{place}" for place in places]
    assert (len(logged_errors), made.resources, made.exports) == (1, [], {})


def test_a_key_that_stands_twice_ends_the_program_in_words_and_shows_no_value(
    project: Path, logged_errors: list[str]
) -> None:
    file = project / "stacks" / "Pulumi.local.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text("config:\n  a: hunter2\n  a: hunter2\n")
    with pytest.raises(SystemExit):
        run.__wrapped__("local")
    file.unlink()
    line = 'line 3, column 3: " a: …": has the key a a second time, after line 2; keep one of both'
    assert [" ".join(each.split()) for each in logged_errors] == [
        f"stacks/Pulumi.local.yaml has a problem; nothing was changed: {line}"
    ]
