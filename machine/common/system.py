"""What scripts of machines need: the port, a file written atomically, systemd notified. Standard library only."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

# Where an app server listens for the balancer.
APP_PORT = 8000


def write_atomically(file: Path, content: bytes, mode: int = 0o644, group: str | None = None) -> None:
    """Write a file so that a reader sees the old or the new content. Until it has its mode, only root may read it."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        if group:
            shutil.chown(temporary, group=group)
        temporary.chmod(mode)
        opened.write(content)
    temporary.rename(file)


def notify_systemd(state: bytes) -> None:
    """Notify systemd of a state (sd_notify(3)); do nothing where it did not ask for that."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.sendto(state, "\0" + address[1:] if address.startswith("@") else address)
