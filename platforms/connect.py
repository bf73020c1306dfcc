"""Opens what a platform described: outside of the Pulumi program only these specifications are known."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from platforms.diagnosis import Finding
from releases.transport import SecretStore, Store, Transport, Unreachable

SECRET_FD = 3


def transport(spec: Mapping[str, Any]) -> Transport:
    """Return the transport of a Reach.spec. Raises Unreachable when there is no way to any machine."""
    if spec["kind"] == "lxd":
        from platforms.lxd.client import LxdError
        from platforms.lxd.transport import LxdTransport

        try:
            return LxdTransport()
        except LxdError as error:
            raise Unreachable(str(error)) from error
    from platforms.aws.ssh import SshTransport

    return SshTransport.from_spec(spec)


def store(spec: Mapping[str, Any]) -> Store:
    """Return the store of a Store.spec."""
    if spec["kind"] == "directory":
        from platforms.lxd.store import DirectoryStore

        return DirectoryStore(spec["path"])
    from platforms.aws.s3 import S3Store

    return S3Store.from_spec(spec)


def secrets(spec: Mapping[str, Any], app: str) -> SecretStore | None:
    """Return the store from which an application's servers read secrets at boot; None where a spec has none."""
    if not spec.get("secrets"):
        return None
    from platforms.aws.ssm import SsmSecrets

    return SsmSecrets.from_spec(spec["secrets"], app)


@dataclass(frozen=True)
class Terminal:
    """A command of this machine that opens a terminal on another. secret: what it reads from SECRET_FD; "" for none."""

    command: Sequence[str]
    environment: Mapping[str, str]
    secret: str = ""

    def enter(self) -> NoReturn:
        """Replace this process with that command. Raises FileNotFoundError where there is no such program."""
        if self.secret:
            # Never as a file: a pipe takes 64 KiB before anybody reads (pipe(7)), and goes with its readers.
            read, write = os.pipe()
            os.write(write, self.secret.encode())
            os.close(write)
            os.dup2(read, SECRET_FD)
            os.set_inheritable(SECRET_FD, True)
        os.execvpe(self.command[0], list(self.command), dict(self.environment))  # noqa: S606  no shell is meant


def terminal(spec: Mapping[str, Any], machine: str, command: Sequence[str]) -> Terminal:
    """Return the command that opens a terminal on a machine and runs `command` there.

    Raises Unreachable when there is no way to any machine.
    """
    if spec["kind"] == "lxd":
        from platforms.lxd.client import Client, LxdError

        try:
            client = Client()
            words = [*client.command(), "exec", "--project", "default", "-t", f"local:{machine}", "--", *command]
        except LxdError as error:
            raise Unreachable(str(error)) from error
        return Terminal(words, client.command_environment())
    from platforms.aws import terminal as ssh

    return ssh.terminal(spec, machine, command)


def look_around(platform: str, block: Mapping[str, Any], *, stack: str, project: Path) -> list[Finding]:
    """Check what this machine needs for a platform. block: the stack file's settings of it."""
    if platform == "lxd":
        from platforms.lxd.diagnosis import look_around

        return look_around(block, stack=stack, project=project)
    if platform == "aws":
        from platforms.aws.diagnosis import look_around

        return look_around(block, stack=stack)
    return []


def look_along(spec: Mapping[str, Any]) -> list[Finding]:
    """Check whether the way of a Reach.spec is open, as far as possible without entering a machine."""
    if spec["kind"] != "ssh":
        return []
    from platforms.aws.diagnosis import way_in

    return [way_in(spec)]
