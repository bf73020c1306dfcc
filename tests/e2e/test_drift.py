"""What changed behind the back of `up` is noticed by the next one, without --refresh, and put right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, on


@pytest.mark.long
def test_up_mends_a_damaged_store_and_a_server_that_does_not_serve_the_release(
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
    on(machine, "systemctl", "stop", "app@blue", "app@green")
    output = stack.up()
    assert "does not run the release" in output, output
    assert stack.get()["version"] == "1"
    stack.destroy()
