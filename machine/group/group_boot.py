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
from apply_files import Failure, parse, systemctl, write_file
from fetch import FetchError, fetch, fetch_secrets

HERE = Path(__file__).resolve().parent
CONFIG = Path("/etc/wsgi-fleet")
# Seconds for rights to be there, and between two tries.
PATIENCE_S, PAUSE_S = 300.0, 3.0
# Below the application's parameters, as a release is; platforms/aws/ssm.py has the same name.
BOOT = "boot"

T = TypeVar("T")


def retry(work: Callable[[], T]) -> T:
    """Return what the work returns, tried again while the store does not respond. Raises FetchError in the end."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return work()
        except FetchError as error:
            if time.monotonic() > deadline:
                raise
            print(f"next try in {PAUSE_S:.0f} s: {error}", flush=True)
            time.sleep(PAUSE_S)


def main(arguments: Sequence[str]) -> None:
    """Fetch the files, set the machine up, and start what reconciles it and joins the group."""
    key, *packages = arguments
    store = (CONFIG / "store").read_text().strip()
    text = retry(lambda: fetch(store, key)).decode()
    secrets = retry(lambda: fetch_secrets(store, BOOT))
    write_file(CONFIG / "key", 0o600, secrets["key"])
    spec, *others = json.loads(text)
    parsed = parse(json.dumps(spec))
    for path, (mode, content) in parsed["files"].items():
        write_file(Path(path), int(mode, 8), content)
    subprocess.run([HERE / "setup-app-server", *packages], check=True)
    # Do not wait for a release here: cloud-init must end first, because the first rollout waits for that.
    systemctl("start", "--no-block", "app-boot.service")
    for unit in parsed["on"]:
        systemctl("enable", unit)
        systemctl("start", "--no-block", unit)
    for number, each in enumerate(others):
        file = CONFIG / f"boot-{number}.json"
        write_file(file, 0o600, json.dumps(each))
        options = ["--no-block", "--collect", f"--unit=wsgi-fleet-boot-{number}"]
        run = ["systemd-run", *options, f"--property=StandardInput=file:{file}", HERE / "apply_files.py"]
        subprocess.run(run, check=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Failure, FetchError, OSError, ValueError, KeyError, subprocess.SubprocessError) as problem:
        if (HERE / "group_member.py").exists():
            subprocess.run([HERE / "group_member.py", "give-up"], check=False)
        sys.exit(f"error: this machine did not become an app server: {problem!r}")
