"""What changed behind the back of `up` is noticed by the next one, without --refresh, and put right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, eventually, lxc, on


@pytest.mark.long
def test_up_mends_a_damaged_store_a_server_that_does_not_serve_the_release_and_a_balancer_that_does_not(
    make_stack: Callable[..., Stack],
) -> None:
    stack = make_stack("drift", fleet={"servers": 1})
    stack.up()
    assert "updated" not in stack.up().rpartition("Resources:")[2]
    store = stack.folder / ".state" / stack.name / "store" / "probe"
    (archive,) = store.glob("releases/*/code.tar.gz")
    files: dict[Path | None, str] = {
        archive: "archive in the store is damaged",
        store / "pointer": "pointer does not name the release",
        store / "epoch": "epoch is damaged",
        None: "its journal is damaged",
        store / "lock": "",
    }
    for given, told in files.items():
        file = given or sorted(store.glob("journal/*"))[-1]
        good = file.read_bytes() if file.exists() else b""
        file.write_bytes(b"\x1f\x8bdamaged")
        for command in (["status"], ["doctor"], ["releases"]):
            said = stack.fleet(*command)
            assert "Traceback" not in said.stdout + said.stderr, (file, said)
        output = stack.up()
        assert told in output, (file, output)
        assert "Traceback" not in output
        if file == archive:
            assert archive.read_bytes() == good
    (machine,) = stack.servers().values()
    # The socket first, or a health check starts the gateway again.
    on(machine, "systemctl", "stop", "app.socket", "app@blue", "app@green")
    output = stack.up()
    assert "does not run the release" in output, output
    assert stack.get()["version"] == "1"
    on(stack.balancer(), "systemctl", "stop", "nginx")
    output = stack.up()
    assert "balancer does not serve: nginx.service is inactive" in output, output
    assert stack.get()["version"] == "1"
    for stopped in (stack.balancer(), machine):
        lxc("stop", "--force", stopped)
        stack.up()
        assert eventually(stack.get, timeout_s=30, message="it serves again")["version"] == "1"
    assert "updated" not in stack.up().rpartition("Resources:")[2]
    stack.destroy()
