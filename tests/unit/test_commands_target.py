"""What the program exports for the operator's command is a secret as a whole, and is what the command reads."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from commands.target import resolve_target
from harness import mock_lxd
from harness.mock_engine import Secret, build
from platforms import operator
from releases.fleet import Server
from tests.unit.fake_fleet import MemoryStore
from tests.unit.fake_stack import Machines

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the output `fleet` of __main__.py."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "requirements.txt").touch()
    (tmp_path / "app" / "wsgi.py").write_text("app = print\n")
    monkeypatch.chdir(tmp_path)
    app = {"source": "app", "module": "wsgi:app", "fleet": {"servers": 2}, "rollout": {"start_timeout_s": 33}}
    config = {"wsgi-fleet:platform": "lxd", "wsgi-fleet:apps": json.dumps({"hello": app})}

    def program() -> None:
        runpy.run_path(str(ROOT / "__main__.py"))

    return build(program, config=config, outputs=mock_lxd.OUTPUTS).exports["fleet"]


def test_all_of_it_is_one_secret(exported: Any, tmp_path: Path) -> None:
    assert isinstance(exported, Secret)
    servers = [
        {"name": f"hello-{number}", "target": f"test-hello-{number}-3fa9c2", "address": f"10.0.0.{number}"}
        for number in (1, 2)
    ]
    owner = exported.value["reach"].pop("owner")
    assert owner.startswith("test-")
    assert exported.value == {
        "store": {"platform": "lxd", "path": str(tmp_path / ".state" / "test" / "store")},
        "reach": {"platform": "lxd"},
        "balancer": {"name": "balancer", "target": "test-balancer-3fa9c2"},
        "url": "http://127.0.0.1:8080",
        "apps": {
            "hello": {"servers": servers, "health_path": "/healthz", "start_timeout_s": 33, "drain_timeout_s": 75}
            | {"routes": ["/ of every host"]}
        },
    }


def test_the_command_reads_what_the_program_wrote(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    asked: list[Any] = []

    def transport(spec: Any) -> Machines:
        asked.append(spec)
        return Machines()

    monkeypatch.setattr(operator, "transport", transport)
    monkeypatch.setattr(operator, "store", lambda _: store)  # pyright: ignore
    target = resolve_target("test", exported.value, None, patience_s=7)
    assert (target.app, target.start_timeout_s, target.drain_timeout_s) == ("hello", 33, 75)
    assert list(target.servers) == [Server(f"hello-{number}", f"test-hello-{number}-3fa9c2") for number in (1, 2)]
    assert target.with_server_names("10.0.0.1 and 10.0.0.2") == "hello-1 and hello-2"
    target.store.write("pointer", b"x")
    assert store.files == {"hello/pointer": b"x"}
    assert asked == [{**exported.value["reach"], "deadline_s": 7}]


def test_a_name_that_begins_anothers_address_does_not_spoil_it(monkeypatch: pytest.MonkeyPatch, exported: Any) -> None:
    servers: list[dict[str, str]] = exported.value["apps"]["hello"]["servers"]
    servers[1]["address"] = "10.0.0.11"
    monkeypatch.setattr(operator, "store", lambda _: MemoryStore())  # pyright: ignore
    monkeypatch.setattr(operator, "transport", lambda _: Machines())  # pyright: ignore
    assert (
        resolve_target("test", exported.value, None).with_server_names("10.0.0.11, 10.0.0.1, 110.0.0.1")
        == "hello-2, hello-1, 110.0.0.1"
    )
