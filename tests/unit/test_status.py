"""What the scripts on machines print is what releases/status.py says, both ways."""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import app_status
import balancer_status
import certificate
import host_status
import pytest
import site_state
from pydantic import BaseModel

from releases import status
from releases.status import BalancerStatus, ReleaseStatus, ServerStatus, parse_status
from tests.certificates import Authority
from tests.unit.app_server import lay_out
from tests.unit.test_balancer_status import ONE, line

ROOT = Path(__file__).resolve().parents[2]
KINDS = [kind for kind in vars(status).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]


@pytest.fixture(autouse=True)
def systemctl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace systemd's answers about the machine."""
    run: Callable[..., Any] = subprocess.run

    def answer(command: list[str], **options: Any) -> Any:
        text = "cron.service loaded failed" if "list-units" in command else "running"
        return subprocess.CompletedProcess(command, 0, text) if command[0] == "systemctl" else run(command, **options)

    monkeypatch.setattr(host_status.subprocess, "run", answer)


def test_a_server_prints_the_keys_that_are_typed_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = lay_out(tmp_path, monkeypatch)
    server.place("r1")
    server.serves("r1")
    monkeypatch.setattr(app_status, "count_restarts", Mock(return_value={"app@blue.service": 1}))
    numbers = app_status.count_workers({"workers": []})
    monkeypatch.setattr(app_status, "gateway_status", {"blue": numbers}.get)
    seen = ServerStatus.model_validate_json(json.dumps(app_status.app_status()), extra="forbid")
    assert (seen.live, seen.slots["blue"].state, seen.machine.failed_units) == ("r1", "active", ["cron.service"])
    assert seen.health is not None
    assert (seen.health.status, seen.gateway["blue"].workers_busy) == (200, 0)


def test_a_server_prints_what_a_rollout_reads_by_one_question_to_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = lay_out(tmp_path, monkeypatch)
    server.place("r1")
    server.serves("r1")
    asked: list[str] = []

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        asked.append(command[0])
        return server.run(*command)

    monkeypatch.setattr(app_status, "run", run)
    seen = ReleaseStatus.model_validate_json(json.dumps(app_status.release_status()), extra="forbid")
    assert (seen.live, seen.slots["blue"].state, seen.slots["green"].state) == ("r1", "active", "inactive")
    assert (seen.socket, asked) == ("active", ["systemctl"])


def test_a_balancer_prints_the_keys_that_are_typed_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signed = Authority().sign(["shop.example.org"])
    (tmp_path / "site.pem").write_text(signed.certificate)
    monkeypatch.setattr(certificate, "FILE", tmp_path / "site.pem")
    health = {"healthy": False, "why": "silent", "since": 1, "excluded": True}
    (tmp_path / "health").write_text(json.dumps({"at": 1.5, "servers": {ONE: health}}))
    monkeypatch.setattr(balancer_status, "HEALTH", tmp_path / "health")
    monkeypatch.setattr(balancer_status, "PAGE", tmp_path / "page")
    monkeypatch.setattr(site_state, "STATE", tmp_path / "site.json")
    site_state.State({"parts": [], "upstreams": {}, "https": True}, [], []).write()
    monkeypatch.setattr(balancer_status, "read_recent", lambda _now: ([line()], 60.0))  # pyright: ignore
    balancer_status.main()
    seen = BalancerStatus.model_validate_json(capsys.readouterr().out, extra="forbid")
    assert seen.certificate is not None
    assert seen.health is not None
    assert (seen.requests, seen.upstreams[ONE].requests, seen.health.servers[ONE].why) == (1, 1, "silent")


def names_read() -> Iterator[str]:
    """Yield the attributes and keys that the commands and releases read."""
    for folder in ("commands", "releases", "machine/cloudwatch"):
        for path in (ROOT / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Attribute(attr=str(name)) | ast.Constant(value=str(name)):
                        yield name
                    case _:
                        pass


def test_every_typed_key_is_read() -> None:
    # Those of a gateway go into ServerView whole.
    fields = {name for kind in KINDS for name in kind.model_fields} - set(status.GatewayStatus.model_fields)
    assert fields - set(names_read()) == set()


def test_a_server_with_other_scripts_is_reported_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="it runs scripts of another version; run `pulumi up`"):
        parse_status(ReleaseStatus, '{"live": 1, "slots": {}}')


@pytest.mark.parametrize("output", ["", "warning: no locale", "{}", "[]", '{"live": ', "x\n" * 90, "[" * 9000])
def test_what_is_no_status_is_shown_and_the_machine_called_reachable(output: str) -> None:
    printed = f"printed {output.strip()[:80]!r}" if output else "printed nothing"
    with pytest.raises(ValueError, match=r"^it can be reached, but its script ") as caught:
        parse_status(ReleaseStatus, output)
    assert f"{printed} and no status; `pulumi up --replace '**-booted'`" in str(caught.value)


def test_a_balancer_whose_state_is_missing_reports_that_and_not_that_it_has_no_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_state, "STATE", tmp_path / "site.json")
    with pytest.raises(site_state.ProxyError, match=r"site\.json is missing: `pulumi up` writes the first one"):
        balancer_status.main()


def test_a_warning_before_the_status_and_keys_of_newer_scripts_are_ignored() -> None:
    known: dict[str, Any] = {"live": None, "slots": {}, "staged": [], "socket": "", "restarts": {}}
    text = f"sudo: unable to resolve host\n{json.dumps(known | {'new': 1})}\n"
    assert parse_status(ReleaseStatus, text).model_dump() == known
