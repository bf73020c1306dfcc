"""`./fleet config`: every value in force and where it comes from, of a stack that need not be there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from commands.__main__ import app
from settings import Settings
from settings.effective import MASK, values
from tests.certificates import Authority
from tests.unit.stack_blocks import ROOT

HELLO = {"source": "hello", "module": "hello:app"}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a project with the source of one application; the engine may not be asked."""
    (tmp_path / "stacks").mkdir()
    (tmp_path / "hello").mkdir()
    (tmp_path / "hello" / "requirements.txt").touch()
    monkeypatch.setattr("commands.config.PROJECT", tmp_path)
    monkeypatch.setattr("commands.target.pulumi", None)
    return tmp_path


def write(project: Path, **blocks: Any) -> None:
    """Write stack `mine`: the blocks of the smallest stack, changed."""
    given = {"platform": "lxd", "apps": {"hello": HELLO}} | blocks
    document = {"config": {f"wsgi-fleet:{key}": value for key, value in given.items()} | {"other:key": 1}}
    (project / "stacks" / "Pulumi.mine.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def fleet(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["config", "--stack", "mine", *arguments])


def told(*arguments: str) -> dict[str, dict[str, Any]]:
    result = fleet("--json", *arguments)
    assert result.exit_code == 0, result.output
    return {each.pop("name"): each for each in json.loads(result.output)}


def test_a_value_says_whether_it_stands_in_the_stack_file_or_is_a_default(project: Path) -> None:
    write(project, apps={"hello": HELLO | {"gateway": {"threads": 4}, "environment": {"A": "x"}}})
    found = told()
    assert found["apps.hello.gateway.threads"] == {"value": 4, "from": "stack file", "of": [], "how": ""}
    assert found["apps.hello.gateway.max_requests"] == {"value": 10_000, "from": "default", "of": [], "how": ""}
    assert found["apps.hello.environment.A"]["value"] == "x"


def test_what_is_computed_says_from_what(project: Path) -> None:
    app_ = HELLO | {
        "hosts": ["shop.example.org"],
        "path": "/s",
        "fleet": {"servers": 5, "size": {"cpus": 3, "memory_mib": 4096}},
        "gateway": {"request_timeout_s": 30},
    }
    write(project, apps={"hello": app_}, balancer={"hostnames": ["shop.example.org"]})
    found = {name: (each["value"], each["of"]) for name, each in told().items() if each["from"] == "computed"}
    hello = "apps.hello."
    assert found == {
        f"{hello}gateway.processes": (6, [f"{hello}fleet.size.cpus"]),
        f"{hello}rollout.drain_timeout_s": (45, [f"{hello}gateway.request_timeout_s"]),
        f"{hello}routes": (["shop.example.org/s"], [f"{hello}hosts", f"{hello}path"]),
        f"{hello}script_name": ("/s", [f"{hello}path", f"{hello}strip_path"]),
        f"{hello}public_health_path": ("/s/healthz", [f"{hello}health_path", f"{hello}path", f"{hello}strip_path"]),
        f"{hello}nginx_read_timeout_s": (35, [f"{hello}gateway.request_timeout_s"]),
        f"{hello}servers_at_a_time": (3, [f"{hello}rollout.batch_size", f"{hello}fleet.servers"]),
        f"{hello}memory_at_most_mib": (6144, [f"{hello}gateway.processes", f"{hello}gateway.reload_on_rss_mib"]),
        "security_updates.randomized_delay_minutes": (110, ["security_updates.window_minutes"]),
    }


def test_what_is_given_is_not_computed(project: Path) -> None:
    app_ = HELLO | {"gateway": {"processes": 2}, "rollout": {"drain_timeout_s": 99}}
    write(project, apps={"hello": app_})
    found = told()
    assert (found["apps.hello.gateway.processes"]["value"], found["apps.hello.gateway.processes"]["from"]) == (
        2,
        "stack file",
    )
    assert found["apps.hello.rollout.drain_timeout_s"]["from"] == "stack file"


def test_hosts_of_applications_are_among_the_names_of_the_site(project: Path) -> None:
    write(project, apps={"hello": HELLO | {"hosts": ["shop.example.org"]}})
    assert told()["balancer.hostnames"] == {
        "value": ["shop.example.org"],
        "from": "computed",
        "of": ["apps.hello.hosts"],
        "how": "the balancer's own come first",
    }


def test_secrets_are_masked_and_need_no_passphrase(project: Path) -> None:
    signed = Authority().sign(["shop.example.org"])
    tls = {"certificate": signed.certificate, "private_key": {"secure": "v1:abc"}}
    secrets = {"PASSWORD": {"secure": "v1:def"}}
    proxy = {"basic_auth": {"users": {"ann": {"secure": "v1:ghi"}}}}
    write(project, apps={"hello": HELLO | {"secrets": secrets}}, balancer={"tls": tls, "proxy": proxy})
    found = told()
    given = ("apps.hello.secrets.PASSWORD", "balancer.tls.private_key", "balancer.proxy.basic_auth.users.ann")
    assert [found[name]["value"] for name in given] == [MASK] * 3
    assert [word for word in ("v1:", "\\u0000") if word in fleet("--json").output] == []


def test_a_certificate_is_looked_at_although_its_key_is_encrypted(project: Path) -> None:
    signed = Authority().sign(["other.example"])
    tls = {"certificate": signed.certificate, "private_key": {"secure": "v1:abc"}}
    write(project, balancer={"tls": tls, "hostnames": ["shop.example.org"]})
    result = fleet()
    assert "tls.certificate: does not cover shop.example.org" in result.output
    assert "private_key" not in result.output


def test_a_secret_in_plain_is_refused_and_not_told(project: Path) -> None:
    write(project, apps={"hello": HELLO | {"secrets": {"PASSWORD": "hunter2"}}})
    result = fleet()
    assert (result.exit_code, "hunter2" in result.output) == (1, False)
    assert "apps.hello.secrets.PASSWORD: (secret): is stored in plain text" in result.output


def test_every_mistake_of_the_file_is_told(project: Path) -> None:
    write(project, platform="lxc", apps={"hello": HELLO | {"modul": "x"}})
    result = fleet()
    assert (result.exit_code, result.output.splitlines()[0]) == (
        1,
        "error: stacks/Pulumi.mine.yaml has 2 problems; nothing was changed:",
    )


def test_a_stack_without_a_file_is_told_with_those_that_have_one(project: Path) -> None:
    write(project)
    result = CliRunner().invoke(app, ["config", "--stack", "mint"])
    assert (result.output, result.exit_code) == ("error: there is no stacks/Pulumi.mint.yaml; did you mean mine?\n", 2)


def test_what_is_no_yaml_is_told(project: Path) -> None:
    (project / "stacks" / "Pulumi.mine.yaml").write_text("config: [")
    result = fleet()
    assert result.exit_code == 1
    assert "error: stacks/Pulumi.mine.yaml has a problem" in result.output


def test_one_application_is_shown_alone_and_another_is_refused(project: Path) -> None:
    write(project, apps={"hello": HELLO, "shop": HELLO | {"path": "/shop"}})
    assert {name.split(".")[1] for name in told("--app", "shop")} == {"shop"}
    assert {name.split(".")[1] for name in told() if name.startswith("apps.")} == {"hello", "shop"}
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
    assert list(dict.fromkeys(blocks)) == ["platform", "apps.z", "apps.a", "balancer", "security_updates", "lxd"]


@pytest.mark.parametrize("platform", ["lxd", "aws"])
def test_every_setting_that_the_platform_uses_is_there_once(platform: str) -> None:
    blocks: dict[str, Any] = yaml.safe_load((ROOT / "stacks" / "Pulumi.example.yaml").read_text())["config"]
    given: dict[str, Any] = {key.removeprefix("wsgi-fleet:"): value for key, value in blocks.items()} | {
        "platform": platform
    }
    aws = {"ami": "ami-0123456789abcdef0", "admin_cidrs": ["192.0.2.0/24"]}
    settings = Settings.model_validate_json(json.dumps(given | {"aws": given["aws"] | aws}))
    names = [each.name for each in values(settings)]
    assert len(names) == len(set(names))
    assert {name.partition(".")[0] for name in names} & {"lxd", "aws"} == {platform}
    assert ("apps.hello.fleet.size.instance_type" in names) == (platform == "aws")
    assert ("balancer.size.cpus" in names) == (platform == "lxd")
    assert f"{platform}.{'vpc.cidr' if platform == 'aws' else 'port'}" in names
