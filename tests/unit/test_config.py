"""`./fleet config`: every value in force and where it comes from, of a stack that need not be there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner, Result

from commands.__main__ import app
from commands.config import as_json
from harness.mock_aws import fill_placeholders
from settings.effective import MASK, values
from settings.operating_system import DEFAULT_OS
from settings.stack import Settings
from tests.certificates import Authority
from tests.unit.stack_blocks import app as app_block
from tests.unit.stack_blocks import shipped, smallest
from tests.unit.test_alb_settings import SERVERS, stack
from tests.unit.test_capacity_settings import group

HELLO = {"source": "hello", "module": "hello:app"}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a project with the source of one application; the engine may not be asked."""
    (tmp_path / "stacks").mkdir()
    (tmp_path / "hello").mkdir()
    (tmp_path / "hello" / "requirements.txt").touch()
    monkeypatch.setattr("commands.config.PROJECT", tmp_path)
    monkeypatch.setattr("commands.stack.pulumi", None)
    return tmp_path


def write(project: Path, **blocks: Any) -> None:
    """Write stack `mine`: the blocks of the smallest stack, changed."""
    given = smallest({"apps": {"hello": HELLO}} | blocks)
    document = {"config": {f"wsgi-fleet:{key}": value for key, value in given.items()} | {"other:key": 1}}
    (project / "stacks" / "Pulumi.mine.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def fleet(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["config", "--stack", "mine", *arguments])


def read_settings(*arguments: str) -> dict[str, dict[str, Any]]:
    result = fleet("--json", *arguments)
    assert result.exit_code == 0, result.output
    return {each.pop("name"): each for each in json.loads(result.output)}


def test_a_value_says_whether_it_stands_in_the_stack_file_or_is_a_default(project: Path) -> None:
    hello = HELLO | {"gateway": {"processes": 2}, "environment": {"A": "x"}, "rollout": {"drain_timeout_s": 99}}
    write(project, apps={"hello": hello})
    found = {
        name: (each["value"], each["from"], each["derived_from"], each["explanation"])
        for name, each in read_settings().items()
    }
    assert found["apps.hello.gateway.processes"] == (2, "stack file", [], "")
    assert found["apps.hello.gateway.max_requests"] == (10_000, "default", [], "")
    assert found["apps.hello.environment.A"][:2] == ("x", "stack file")
    assert found["apps.hello.rollout.drain_timeout_s"][:2] == (99, "stack file")


def test_what_is_computed_says_from_what(project: Path) -> None:
    fleet_ = {"servers": 5, "size": {"cpus": 3, "memory_mib": 4096}}
    app_ = HELLO | {"hosts": ["shop.example.org"], "path": "/s", "fleet": fleet_, "gateway": {"request_timeout_s": 30}}
    write(project, apps={"hello": app_})
    found = {
        name: (each["value"], each["derived_from"])
        for name, each in read_settings().items()
        if each["from"] == "computed"
    }
    hello = "apps.hello."
    assert found == {
        f"{hello}gateway.processes": (6, [f"{hello}fleet.size.cpus"]),
        f"{hello}gateway.threads": (8, [f"{hello}gateway.processes"]),
        f"{hello}requests_at_a_time": (48, [f"{hello}gateway.processes", f"{hello}gateway.threads"]),
        f"{hello}rollout.drain_timeout_s": (45, [f"{hello}gateway.request_timeout_s"]),
        f"{hello}routes": (["shop.example.org/s"], [f"{hello}hosts", f"{hello}path"]),
        f"{hello}script_name": ("/s", [f"{hello}path", f"{hello}strip_path"]),
        f"{hello}public_health_path": ("/s/healthz", [f"{hello}health_path", f"{hello}path", f"{hello}strip_path"]),
        f"{hello}nginx_read_timeout_s": (35, [f"{hello}gateway.request_timeout_s"]),
        f"{hello}servers_at_a_time": (3, [f"{hello}rollout.batch_size", f"{hello}fleet.servers"]),
        f"{hello}memory_at_most_mib": (6144, [f"{hello}gateway.processes", f"{hello}gateway.reload_on_rss_mib"]),
        "os.python": (DEFAULT_OS.python, ["os"]),
        "balancer.hostnames": (["shop.example.org"], ["apps.hello.hosts"]),
        "security_updates.randomized_delay_minutes": (110, ["security_updates.window_minutes"]),
    }


def test_no_most_memory_is_shown_of_a_gateway_that_does_not_limit_it(project: Path) -> None:
    write(project, apps={"hello": HELLO | {"gateway": {"kind": "gunicorn"}}})
    assert "apps.hello.memory_at_most_mib" not in read_settings()


def test_secrets_are_masked_and_need_no_passphrase(project: Path) -> None:
    encrypted = {"secure": "v1:abc"}
    tls = {"certificate": Authority().sign(["shop.example.org"]).certificate, "private_key": encrypted}
    balancer = {"tls": tls, "proxy": {"basic_auth": {"users": {"ann": encrypted}}}}
    write(project, apps={"hello": HELLO | {"secrets": {"PASSWORD": encrypted}}}, balancer=balancer)
    found = read_settings()
    given = ("apps.hello.secrets.PASSWORD", "balancer.tls.private_key", "balancer.proxy.basic_auth.users.ann")
    assert [found[name]["value"] for name in given] == [MASK] * 3
    assert [word for word in ("v1:", "\\u0000") if word in fleet("--json").output] == []
    # The certificate is looked at all the same.
    write(project, balancer={"tls": tls, "hostnames": ["other.example"]})
    assert "balancer.tls.certificate: does not cover other.example" in fleet().output


def test_a_mapping_that_only_looks_encrypted_is_shown(project: Path) -> None:
    file = {"variable": "FILE", "values": {"COOKIE": {"secure": True}, "ALL": [{"secure": 1}]}}
    write(project, apps={"hello": HELLO | {"settings_file": file}})
    found = read_settings()
    values = "apps.hello.settings_file.values"
    assert (found[f"{values}.COOKIE.secure"]["value"], found[f"{values}.ALL"]["value"]) == (True, [{"secure": 1}])


def test_every_mistake_of_the_file_is_told_and_no_secret_in_it(project: Path) -> None:
    file = {"variable": "FILE", "values": {"A": [{"secure": "v1:abc"}]}}
    write(project, platform="lxc", apps={"hello": HELLO | {"secrets": {"PASSWORD": "hunter2"}, "settings_file": file}})
    result = fleet()
    assert (result.exit_code, "hunter2" in result.output) == (1, False)
    assert result.output.startswith("error: stacks/Pulumi.mine.yaml has 3 problems; nothing was changed:\n")
    assert "apps.hello.secrets.PASSWORD: (secret): is stored in plain text" in result.output
    assert "apps.hello.settings_file.values.A.0: (secret): is encrypted," in result.output


def test_a_file_that_is_larger_than_pulumi_can_pass_on_is_refused(project: Path) -> None:
    large = {f"A{number}": "x" * 32_000 for number in range(4)}
    write(project, apps={"hello": HELLO | {"environment": large}})
    assert fleet().exit_code == 0
    write(project, apps={"hello": HELLO | {"environment": large | {"B": "x" * 4000}}})
    assert "config: has 129 KiB, and Pulumi can pass on 127" in " ".join(fleet().output.split())
    # Ciphertext is longer than what it stands for.
    secrets = {name: {"secure": "x" * 42_000} for name in large}
    write(project, apps={"hello": HELLO | {"secrets": secrets}})
    assert fleet().exit_code == 0


def test_a_stack_without_a_file_is_told_with_those_that_have_one(project: Path) -> None:
    write(project)
    result = CliRunner().invoke(app, ["config", "--stack", "mint"])
    assert (result.output, result.exit_code) == ("error: there is no stacks/Pulumi.mint.yaml; did you mean mine?\n", 2)


def test_one_application_is_shown_alone_and_another_is_refused(project: Path) -> None:
    write(project, apps={"hello": HELLO, "shop": HELLO | {"path": "/shop"}})
    assert {name.split(".")[1] for name in read_settings("--app", "shop")} == {"shop"}
    assert {name.split(".")[1] for name in read_settings() if name.startswith("apps.")} == {"hello", "shop"}
    result = fleet("--app", "shp")
    assert (result.output, result.exit_code) == ("error: there is no application shp; did you mean shop?\n", 2)


def test_the_table_has_a_line_for_each_value_in_the_order_of_the_stack_file(project: Path) -> None:
    write(project, apps={"z": HELLO, "a": HELLO | {"path": "/a", "environment": {"X": ""}}})
    lines = [line.strip().split(maxsplit=2) for line in fleet().output.splitlines()]
    assert lines[:2] == [["setting", "value", "from"], ["platform", "lxd", "stack file"]]
    assert ["apps.a.environment.X", '""', "stack file"] in lines
    assert ["apps.z.rollout.drain_timeout_s", "75", "computed of gateway.request_timeout_s: 15 s more"] in lines
    names = [line[0] for line in lines[1:]]
    blocks = [".".join(name.split(".")[: 2 if name.startswith("apps") else 1]) for name in names]
    shared = ["balancer", "security_updates", "monitoring", "lxd"]
    assert list(dict.fromkeys(blocks)) == ["platform", "os", "apps.z", "apps.a", *shared]


def test_a_name_of_a_setting_stays_in_one_piece_in_a_narrow_terminal(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "A_VARIABLE_WITH_A_LONG_NAME"
    write(project, apps={"hello": HELLO | {"environment": {variable: "x" * 99}}})
    monkeypatch.setattr("commands.config.console", lambda: Console(width=80, highlight=False))
    output = fleet().output
    assert f"apps.hello.environment.{variable} " in output
    assert "apps.hello.rollout.drain_timeout_s " in output
    assert max(map(len, output.splitlines())) <= 80


@pytest.mark.parametrize("platform", ["lxd", "aws"])
def test_every_setting_that_the_platform_uses_is_there_once(platform: str) -> None:
    blocks = fill_placeholders(shipped("example")) | {"platform": platform}
    output = values(Settings.model_validate_json(json.dumps(blocks)))
    json.dumps([as_json(each) for each in output])
    names = [each.name for each in output]
    assert {f"balancer.proxy.{rules}.0.path" for rules in ("redirects", "rewrites")} < set(names)
    assert len(names) == len(set(names))
    assert {name.partition(".")[0] for name in names} & {"lxd", "aws"} == {platform}
    assert ("apps.hello.fleet.size.instance_type" in names) == (platform == "aws")
    assert ("balancer.size.cpus" in names) == (platform == "lxd")
    assert f"{platform}.{'vpc.cidr' if platform == 'aws' else 'port'}" in names


def test_of_a_group_behind_a_load_balancer_only_what_counts_is_shown() -> None:
    blocks = stack(apps={"hello": group(), "docs": app_block(**SERVERS, path="/docs")})
    names = [each.name for each in values(Settings.model_validate_json(json.dumps(blocks)))]
    counts = [name for name in names if name.endswith((".servers", ".capacity", ".capacity.min", ".capacity.max"))]
    assert counts == [
        "apps.hello.fleet.capacity.min", "apps.hello.fleet.capacity.max", "apps.docs.fleet.servers",
        "apps.docs.fleet.capacity",
    ]  # fmt: skip
    assert "balancer.alb.ssl_policy" in names
    assert not [name for name in names if name.startswith(("balancer.size", "balancer.burst", "balancer.proxy.cache"))]
