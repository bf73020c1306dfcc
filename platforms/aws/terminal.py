"""A terminal on a machine by OpenSSH, with the stack's key and host keys and none of the user's own settings."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncssh

from platforms.aws.ssh import CONNECT_S, HOST_KEY, known_hosts
from platforms.terminal import SECRET_FD, Terminal

PORT = 22
# Seconds that the agent keeps the key: for both logins, and no longer.
KEY_S = 60
# An agent of its own, which ends with the command: the key is in no file, no argument and no environment.
WITH_KEY = f'ssh-add -q -t {KEY_S} - <&{SECRET_FD} && exec {SECRET_FD}<&- && exec "$@"'


def terminal(spec: Mapping[str, Any], machine: str, command: Sequence[str]) -> Terminal:
    """Return the terminal of a ConnectionSpec.spec of platform aws.

    A host key that is not known yet is pinned, as SshTransport does.
    """
    file = known_hosts(spec).write()
    file.parent.mkdir(parents=True, exist_ok=True)
    name, _, address = machine.rpartition("@")
    words = ["ssh", "-t", *_options(file, name)]
    if name != spec["jump_id"]:
        jump = ["ssh", *_options(file, spec["jump_id"]), "-W", f"{address}:{PORT}", _login(spec, spec["jump_address"])]
        words += ["-o", f"ProxyCommand={_literal(shlex.join(jump))}"]
    reached = spec["jump_address"] if name == spec["jump_id"] else address
    # One word for the remote shell; ssh would join the words with spaces.
    words += [_login(spec, reached), shlex.join(command if spec["user"] == "root" else ["sudo", *command])]
    # As ssh-add reads it from a pipe, whatever ends of lines it was given with.
    key = asyncssh.import_private_key(spec["private_key"]).export_private_key("openssh").decode()
    return Terminal(["ssh-agent", "sh", "-c", WITH_KEY, "sh", *words], dict(os.environ), secret=key)


def _options(file: Path, name: str) -> list[str]:
    """Return the options of one hop.

    name: what its host key is known by; addresses change their machines.
    """
    options = {
        "HostKeyAlias": name,
        "UserKnownHostsFile": f'"{_literal(str(file))}"',
        "GlobalKnownHostsFile": "none",
        "HashKnownHosts": "no",
        "StrictHostKeyChecking": "accept-new",
        "HostKeyAlgorithms": HOST_KEY,
        "PreferredAuthentications": "publickey",
        "IdentityFile": "none",
        "ConnectTimeout": f"{CONNECT_S:.0f}",
        "ServerAliveInterval": "15",
        "LogLevel": "ERROR",
    }
    words = ["-F", "none", "-p", str(PORT)]
    for key, value in options.items():
        words += ["-o", f"{key}={value}"]
    return words


def _login(spec: Mapping[str, Any], address: str) -> str:
    return f"{spec['user']}@{address}"


def _literal(text: str) -> str:
    """Escape each %, which OpenSSH expands in some of its settings."""
    return text.replace("%", "%%")
