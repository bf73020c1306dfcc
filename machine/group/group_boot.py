#!/usr/bin/env python3
"""Makes a machine of a group an app server by itself, because no steps run on it. Run once, by cloud-init as root.

    group_boot.py KEY PACKAGE...    KEY: of the release store, under which the machine's files stand

It waits for what may be missing for a while: rights of a role that is new, and the way out. Standard library only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

# The other modules are in the folder of this file, which is started by its path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
from apply_files import ApplyError, parse, systemctl, write_file, write_files
from fetch import FetchError, fetch, fetch_secrets

HERE = Path(__file__).resolve().parent
CONFIG = Path("/etc/wsgi-fleet")
# Seconds for rights to be there, and between two tries.
PATIENCE_S, PAUSE_S = 300.0, 3.0
# Below the application's parameters, as a release is; platforms/aws/ssm.py has the same name.
BOOT = "boot"

T = TypeVar("T")


def retry(
    work: Callable[[], T], *, errors: tuple[type[Exception], ...] = (FetchError,), limit_s: float = PATIENCE_S
) -> T:
    """Return what the work returns. Try it again while it raises one of these errors, and raise the last in the end."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return work()
        except errors as error:
            if time.monotonic() >= deadline:
                raise
            print(f"next try in {PAUSE_S:.0f} s: {error}", flush=True)
            time.sleep(PAUSE_S)


def start_units(units: Sequence[str]) -> None:
    """Start units now and at each boot. Do not wait for them: cloud-init must end first. Raises ApplyError."""
    for unit in units:
        systemctl("enable", unit)
        systemctl("start", "--no-block", unit)


def run_script(main: Callable[[Sequence[str]], None], member: str, goal: str) -> None:
    """Run a script with the arguments of its command line. If it fails, have the group take another machine.

    member: name of the script that has the group replace this machine. goal: what the machine was to become.
    """
    try:
        main(sys.argv[1:])
    except (ApplyError, FetchError, OSError, ValueError, KeyError, subprocess.SubprocessError) as problem:
        if (HERE / member).exists():
            subprocess.run([HERE / member, "give-up"], check=False)
        sys.exit(f"error: this machine did not become {goal}: {problem!r}")


def main(arguments: Sequence[str]) -> None:
    """Fetch the files, set the machine up, and start what reconciles it and joins the group."""
    key, *packages = arguments
    store = (CONFIG / "store").read_text().strip()
    text = retry(lambda: fetch(store, key)).decode()
    secrets = retry(lambda: fetch_secrets(store, BOOT))
    write_file(CONFIG / "key", 0o600, secrets["key"])
    spec, *others = json.loads(text)
    parsed = parse(json.dumps(spec))
    write_files(parsed)
    subprocess.run([HERE / "setup-app-server", *packages], check=True)
    # Do not wait for a release here: cloud-init must end first, because the first rollout waits for that.
    systemctl("start", "--no-block", "app-boot.service")
    start_units(parsed["on"])
    for number, each in enumerate(others):
        file = CONFIG / f"boot-{number}.json"
        write_file(file, 0o600, json.dumps(each))
        options = ["--no-block", "--collect", f"--unit=wsgi-fleet-boot-{number}"]
        command = ["systemd-run", *options, f"--property=StandardInput=file:{file}", HERE / "apply_files.py"]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    run_script(main, "group_member.py", "an app server")
