"""How files and units come to a machine that runs. systemd itself takes them in tests/e2e/test_aws.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import apply_files
import pytest

from rendering.common import files_to_apply

FAILING = 'if [ "$2 $3" = "restart bad.service" ]; then echo "Job failed" >&2; exit 1; fi\n'


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for units. `systemctl` records calls and cannot start bad.service; `journalctl` says why."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n{FAILING}')
    (programs / "journalctl").write_text("#!/bin/sh\necho AccessDenied\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name in ("DONE", "READY"):
        (tmp_path / name).touch()
        monkeypatch.setattr(apply_files, name, tmp_path / name)
    monkeypatch.setattr(apply_files, "PROVE_S", 0.0)
    return tmp_path / "units"


def make_spec(units: Path, **changes: Any) -> dict[str, Any]:
    files = {str(units / "a.service"): ["0644", "[Service]\n"], str(units.parent / "a.py"): ["0755", "#!\n"]}
    given = {"off": ["b.service"], "prove": ["a.service"], "on": ["a.service", "c.timer"]}
    return {"boot_s": 0, "files": files} | given | changes


def systemctl_calls(units: Path) -> list[str]:
    return [line.removeprefix("--quiet ") for line in (units.parent / "asked").read_text().splitlines()]


def test_files_are_there_before_units_start_what_is_not_wanted_is_gone_and_it_can_be_run_again(units: Path) -> None:
    units.mkdir()
    (units / "b.service").touch()
    apply_files.apply(make_spec(units), units)
    assert (units / "a.service").read_text() == "[Service]\n"
    assert oct((units.parent / "a.py").stat().st_mode & 0o777) == "0o755"
    assert [each.name for each in units.iterdir()] == ["a.service"]
    assert systemctl_calls(units) == [
        "disable --now --no-reload b.service",
        "daemon-reload",
        "restart a.service",
        "enable --no-reload a.service",
        "enable --no-reload c.timer",
        "restart c.timer",
    ]
    (units.parent / "asked").unlink()
    apply_files.apply(make_spec(units), units)
    # What is not there is not asked about.
    assert not any("b.service" in line for line in systemctl_calls(units))


def test_a_unit_that_does_not_start_fails_with_what_it_said(units: Path) -> None:
    with pytest.raises(apply_files.ApplyError) as error:
        apply_files.apply(make_spec(units, prove=["bad.service"]), units)
    assert str(error.value) == "systemctl restart bad.service: Job failed\nAccessDenied"
    assert "enable --no-reload a.service" not in systemctl_calls(units)


@pytest.mark.parametrize("missing", ["DONE", "READY"])
def test_nothing_is_written_on_a_machine_that_did_not_get_ready_and_what_failed_is_said(
    units: Path, missing: str
) -> None:
    (units.parent / "bin" / "cloud-init").write_text("#!/bin/sh\nprintf 'status: error\\ndetail: no network\\n'\n")
    (units.parent / "bin" / "cloud-init").chmod(0o755)
    (units.parent / missing).unlink()
    with pytest.raises(apply_files.ApplyError, match="failed on this machine: status: error detail: no network"):
        apply_files.apply(make_spec(units), units)
    assert not (units / "a.service").exists()


def test_a_secret_file_is_never_readable_by_others(units: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    rename = Path.write_text

    def seen(self: Path, text: str) -> int:
        written = rename(self, text)
        modes.append(oct(self.stat().st_mode & 0o777))
        return written

    monkeypatch.setattr(Path, "write_text", seen)
    apply_files.apply(make_spec(units, files={str(units.parent / "key"): ["0600", "0123"]}), units)
    assert modes == ["0o600"]
    assert oct((units.parent / "key").stat().st_mode & 0o777) == "0o600"


def test_where_a_folder_stands_in_the_place_of_a_file_nothing_is_left_beside_it(units: Path) -> None:
    folder = units.parent / "key"
    folder.mkdir()
    with pytest.raises(apply_files.ApplyError, match=f"{folder} is a folder"):
        apply_files.apply(make_spec(units, files={str(folder): ["0600", "0123"]}), units)
    assert not (units.parent / ".key.new").exists()


def test_a_file_that_cannot_be_put_in_place_leaves_no_half_of_it(units: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError(f"{self} to {target}")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match=r"\.key\.new"):
        apply_files.apply(make_spec(units, files={str(units.parent / "key"): ["0600", "0123"]}), units)
    assert not (units.parent / ".key.new").exists()


def test_a_run_after_one_that_was_killed_once_the_unit_was_gone_reloads(units: Path) -> None:
    apply_files.apply(make_spec(units, files={}, prove=[], on=[]), units)
    assert systemctl_calls(units) == ["daemon-reload"]


WRONG: list[dict[str, Any]] = [
    {"boot_s": "0"},
    {"files": []},
    {"files": {"/a": "0644"}},
    {"files": {"/a": ["rw", ""]}},
    {"files": {"/a": [420, ""]}},
    {"files": {"/a": ["0644", 1]}},
    {"off": [1]},
    {"on": None},
]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[" * 100_000]
    + [json.dumps({"boot_s": 0, "files": {}, "off": [], "prove": [], "on": []} | change) for change in WRONG],
)
def test_input_that_is_none_is_one_line_and_no_traceback(text: str) -> None:
    script = Path(apply_files.__file__)
    ran = subprocess.run([sys.executable, script], check=False, input=text, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert ran.stderr.startswith("error: standard input is no list of files and units: ")


def test_input_as_rendering_makes_it_is_taken() -> None:
    assert apply_files.parse(files_to_apply({"/a": ("0644", "x")}, on=["a.service"]))["files"] == {"/a": ["0644", "x"]}
