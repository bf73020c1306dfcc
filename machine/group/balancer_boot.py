#!/usr/bin/env python3
"""Makes a machine of a group of one the balancer by itself, because no steps run on it. Run once, by cloud-init.

    balancer_boot.py KEY    KEY: of the release store, under which the machine's files are

It takes the host key of the machine before it, so clients of SSH find the same key at the balancer's address. Standard
library only.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# The other modules are in the folder of this file, which is started by its path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
from apply_files import parse, systemctl, write_file, write_files
from fetch import fetch, fetch_secrets
from group_boot import BOOT, CONFIG, HERE, retry, run_script, start_units

HOST_KEY = Path("/etc/ssh/ssh_host_ed25519_key")


def main(arguments: Sequence[str]) -> None:
    """Fetch the files, take the host key, start the service that repeats the steps, and set the proxy up."""
    (key,) = arguments
    store = (CONFIG / "store").read_text().strip()
    text = retry(lambda: fetch(store, key)).decode()
    host_key = retry(lambda: fetch_secrets(store, BOOT))["key"]
    write_file(HOST_KEY, 0o600, host_key)
    # The public half of the key that this machine made. sshd derives it from the private one.
    HOST_KEY.with_suffix(".pub").unlink(missing_ok=True)
    systemctl("restart", "ssh")
    spec = parse(text)
    write_files(spec)
    systemctl("daemon-reload")
    start_units(spec["on"])
    subprocess.run([HERE / "setup-nginx"], check=True)


if __name__ == "__main__":
    run_script(main, "balancer_member.py", "the balancer")
