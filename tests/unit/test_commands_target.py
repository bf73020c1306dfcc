"""What the program exports for the operator's command is a secret as a whole, and is what the command reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from commands.target import resolve_target
from harness import mock_lxd
from harness.mock_engine import Secret, build
from harness.program import run
from platforms import operator
from releases.fleet import Server
from tests.unit.fake_fleet import MemoryStore
from tests.unit.fake_stack import Machines
from tests.unit.stack_blocks import config_of


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the output `fleet` of __main__.py."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "requirements.txt").touch()
    (tmp_path / "app" / "wsgi.py").write_text("app = print\n")
    monkeypatch.chdir(tmp_path)
    app = {"source": "app", "module": "wsgi:app", "fleet": {"servers": 2}, "rollout": {"start_timeout_s": 33}}
    config = config_of({"platform": "lxd", "apps": {"hello": app}})
    return build(run, config=config, outputs=mock_lxd.OUTPUTS).exports["fleet"]


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
    monkeypatch.setattr(operator, "transport", lambda spec: asked.append(spec) or Machines())  # pyright: ignore
    monkeypatch.setattr(operator, "store", lambda _: store)  # pyright: ignore
    exported.value["apps"]["hello"]["servers"][1]["address"] = "10.0.0.11"
    target = resolve_target("test", exported.value, None, patience_s=7)
    assert (target.app, target.start_timeout_s, target.drain_timeout_s) == ("hello", 33, 75)
    assert list(target.servers) == [Server(f"hello-{number}", f"test-hello-{number}-3fa9c2") for number in (1, 2)]
    # An address may begin or end another.
    assert target.with_server_names("10.0.0.11, 10.0.0.1, 110.0.0.1") == "hello-2, hello-1, 110.0.0.1"
    target.store.write("pointer", b"x")
    assert store.files == {"hello/pointer": b"x"}
    assert asked == [{**exported.value["reach"], "deadline_s": 7}]
