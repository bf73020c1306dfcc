"""What changed behind the back of `up` is told, and put right by the next one, without --refresh."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.stack import Stack, eventually, lxc, on


def store_of(stack: Stack) -> Path:
    """Return the application's folder in the release store."""
    return stack.folder / ".state" / stack.name / "store" / "probe"


def assert_told_and_mended(stack: Stack, file: Path, content: bytes | None) -> None:
    """Damage a file of the store (None: delete it). Check that it is named with its remedy, `pulumi up`, and mended."""
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    message = f"{file.relative_to(store_of(stack))} in the store "
    for command in ("status", "doctor"):
        printed = stack.fleet(command)
        assert message in printed.stdout, (file, printed)
        assert "`pulumi up` puts it right" in printed.stdout
        assert printed.returncode == 1
        assert "Traceback" not in printed.stdout + printed.stderr
    assert "Traceback" not in stack.fleet("releases").stderr
    output = stack.up()
    assert message in output, (file, output)
    assert "Traceback" not in output
    assert "ok     store of probe" in stack.fleet("doctor").stdout
    stack.up("--expect-no-changes")


@pytest.mark.long
def test_up_mends_a_damaged_store_a_server_that_does_not_serve_the_release_and_a_balancer_that_does_not(
    make_stack: Callable[..., Stack],
) -> None:
    """Cover damage without load; test_faults_machines.py covers other damage under load."""
    stack = make_stack("drift", fleet={"servers": 1})
    stack.up()
    (manifest,) = store_of(stack).glob("releases/*/manifest.json")
    good = manifest.read_bytes()
    for name in ("releases/*/manifest.json", "manual-changes", "journal/*"):
        file = max(store_of(stack).glob(name), default=store_of(stack) / name)
        assert_told_and_mended(stack, file, b"\x1f\x8bdamaged")
    assert manifest.read_bytes() == good
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
