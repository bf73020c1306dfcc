#!/usr/bin/env python3
"""Makes a machine of a group of one the balancer by itself, for nobody runs steps on it. Run once, by cloud-init.

    balancer_boot.py KEY    KEY: of the release store, under which the machine's files stand

It has the host key of the machine before it, so whoever connects to the balancer's address finds the same key. Standard
library only.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# The other modules stand beside this file; it is started by its path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
from apply_files import Failure, parse, systemctl, write_file
from fetch import FetchError, fetch, fetch_secrets
from group_boot import BOOT, CONFIG, HERE, retry

HOST_KEY = Path("/etc/ssh/ssh_host_ed25519_key")


def main(arguments: Sequence[str]) -> None:
    """Fetch the files, take the host key, start what brings back what steps did, and set the proxy up."""
    (key,) = arguments
    store = (CONFIG / "store").read_text().strip()
    text = retry(lambda: fetch(store, key)).decode()
    host_key = retry(lambda: fetch_secrets(store, BOOT))["key"]
    write_file(HOST_KEY, 0o600, host_key)
    # That of the key which this machine made; sshd finds it in the private one.
    HOST_KEY.with_suffix(".pub").unlink(missing_ok=True)
    systemctl("restart", "ssh")
    wanted = parse(text)
    for path, (mode, content) in wanted["files"].items():
        write_file(Path(path), int(mode, 8), content)
    systemctl("daemon-reload")
    for unit in wanted["on"]:
        systemctl("enable", unit)
        systemctl("start", "--no-block", unit)
    subprocess.run([HERE / "setup-nginx"], check=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Failure, FetchError, OSError, ValueError, KeyError, subprocess.SubprocessError) as problem:
        if (HERE / "balancer_member.py").exists():
            subprocess.run([HERE / "balancer_member.py", "give-up"], check=False)
        sys.exit(f"error: this machine did not become the balancer: {problem!r}")
