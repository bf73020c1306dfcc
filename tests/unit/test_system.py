"""Small things that scripts of every machine use: files that are never there by half, and notes to systemd."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import system


def test_a_file_is_written_whole_with_its_mode_over_what_a_killed_run_left(tmp_path: Path) -> None:
    file, left = tmp_path / "site.json", tmp_path / ".site.json.new"
    left.write_text("half of a long fi")
    left.chmod(0o666)
    system.write_atomically(file, b"{}", 0o640)
    assert [each.name for each in tmp_path.iterdir()] == ["site.json"]
    assert (file.read_bytes(), oct(file.stat().st_mode)[-3:]) == (b"{}", "640")


@pytest.mark.parametrize("is_abstract", [True, False])
def test_systemd_hears_of_a_state_where_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_abstract: bool
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    system.notify_systemd(b"READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{tmp_path}" if is_abstract else str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{tmp_path}" if is_abstract else str(tmp_path / "notify"))
        system.notify_systemd(b"READY=1")
        assert systemd.recv(64) == b"READY=1"
