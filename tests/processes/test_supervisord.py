"""supervisord with the configuration of a release: it starts each gateway's processes, and again what ends."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import local_nginx
import pytest
import slot_layout

from gateways import GATEWAYS
from rendering.common import SCRIPTS
from rendering.gateway_files import gateway_files
from tests.processes.gateway_process import APP
from tests.unit.test_processes import ROOT, app


@pytest.mark.parametrize("kind", GATEWAYS)
def test_supervisord_starts_each_process_on_its_port_and_again_when_its_master_alone_is_killed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, scripts = tmp_path / "slots" / "blue", tmp_path / "scripts"
    scripts.mkdir()
    for source in ROOT.glob("machine/*/*.py"):
        (scripts / source.name).symlink_to(source)
    folders = ("code", "gateway", "venv/bin", "../../app-blue", "../../app-blue-0", "../../app-blue-1")
    for folder in folders:
        (place / folder).mkdir(parents=True)
    python = place / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (place / "code" / "app.py").write_text(APP)
    for name, text in gateway_files(app(kind, "supervisord", 2)).items():
        # There is no journal here, and ports may be taken.
        changed = text.replace("/srv/app/slots", str(tmp_path / "slots")).replace("/run/", f"{tmp_path}/")
        changed = changed.replace(SCRIPTS, str(scripts))
        changed = re.sub(r"/usr/bin/systemd-cat --identifier=\S+ ", "", changed)
        (place / name).write_text(re.sub(r"(?<=[ :])81(?=%)", f"2{os.getpid() % 90 + 10}", changed))
    monkeypatch.setattr(local_nginx, "RUN", tmp_path)
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(place / "gateway" / "supervisord-blue.conf")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            first = well(tmp_path)
            os.kill(first[1], signal.SIGKILL)
            again = well(tmp_path, other_than=first[1])
        finally:
            process.terminate()
            code = process.wait(30)
    assert (again[0] == first[0], again[1] != first[1], code) == (True, True, 0)


def well(run: Path, other_than: int = 0) -> list[int]:
    """Return both process ids once both respond and the second one is not `other_than`."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        processes = local_nginx.supervisord_processes("blue")
        pids = [each["pid"] for each in processes if each["statename"] == "RUNNING"]
        with contextlib.suppress(OSError, http.client.HTTPException):
            both = [
                slot_layout.get(run / f"app-blue-{number}" / "http.sock", {"health_path": "/"}, 10)[0]
                for number in (0, 1)
            ]
            if both == [200, 200] and len(pids) == 2 and pids[1] != other_than:
                return pids
        time.sleep(0.1)
    raise AssertionError(local_nginx.supervisord_processes("blue"))
