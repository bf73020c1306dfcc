"""A terminal on a machine by OpenSSH, with the stack's key and host keys and none of the user's own settings."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncssh

from platforms.aws.connection import CONNECT_S, HOST_KEY, known_hosts
from platforms.aws.tunnel import Endpoint, proxy_command
from platforms.terminal import SECRET_FD, Terminal

PORT = 22
# Seconds to connect through a tunnel.
TUNNEL_S = 60.0
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
    # A tunnel's program has to start, and its endpoint to reach the machine.
    words = ["ssh", "-t", *_options(file, name, TUNNEL_S if "endpoint" in spec else CONNECT_S)]
    environment = dict(os.environ)
    if "endpoint" in spec:
        words += _proxy_option(proxy_command(Endpoint(**spec["endpoint"]), address))
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    elif name == spec["jump_id"]:
        address = spec["jump_address"]
    else:
        words += _proxy_option(
            ["ssh", *_options(file, spec["jump_id"]), "-W", f"{address}:{PORT}", _login(spec, spec["jump_address"])]
        )
    # One word for the remote shell; ssh would join the words with spaces.
    words += [_login(spec, address), shlex.join(command if spec["user"] == "root" else ["sudo", *command])]
    # As ssh-add reads it from a pipe, whatever ends of lines it was given with.
    key = asyncssh.import_private_key(spec["private_key"]).export_private_key("openssh").decode()
    return Terminal(["ssh-agent", "sh", "-c", WITH_KEY, "sh", *words], environment, secret=key)


def _proxy_option(command: Sequence[str]) -> list[str]:
    """Return the option by which ssh talks to a machine over standard input and output of a command."""
    return ["-o", f"ProxyCommand={_escape_percent(shlex.join(command))}"]


def _options(file: Path, name: str, connect_s: float = CONNECT_S) -> list[str]:
    """Return the options of one hop.

    name: what its host key is known by; addresses change their machines. connect_s: seconds to connect.
    """
    options = {
        "HostKeyAlias": name,
        "UserKnownHostsFile": f'"{_escape_percent(str(file))}"',
        "GlobalKnownHostsFile": "none",
        "HashKnownHosts": "no",
        "StrictHostKeyChecking": "accept-new",
        "HostKeyAlgorithms": HOST_KEY,
        "PreferredAuthentications": "publickey",
        "IdentityFile": "none",
        "ConnectTimeout": f"{connect_s:.0f}",
        "ServerAliveInterval": "15",
        "LogLevel": "ERROR",
    }
    words = ["-F", "none", "-p", str(PORT)]
    for key, value in options.items():
        words += ["-o", f"{key}={value}"]
    return words


def _login(spec: Mapping[str, Any], address: str) -> str:
    return f"{spec['user']}@{address}"


def _escape_percent(text: str) -> str:
    """Escape each %, which OpenSSH expands in some of its settings."""
    return text.replace("%", "%%")
