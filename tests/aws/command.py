"""Stands in for the provider `command`: command:remote:Command alone, as version 1.2.1 does it.

Read in pulumi/pulumi-command at v1.2.1: only `triggers` replaces; any other change runs `update`, or `create` where
there is none. Without a host key none is checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Mapping
from typing import Any

import asyncssh

from tests.aws.plugin import Failed, Values

VERSION = "1.2.1"
TYPE = "command:remote:Command"
KNOWN = {"connection", "create", "update", "stdin", "triggers", "logging", "addPreviousOutputInEnv"}
DIALS, DIAL_S, PAUSE_S = 10, 15, 1.0
# Lines of a failed command that its error repeats.
TAIL = 15


class RemoteCommands:
    """A plugin.Provider of remote commands."""

    def configure(self, given: Mapping[str, str]) -> None:
        """Ignore the configuration: the provider has none."""

    def create(self, type_: str, inputs: Values) -> tuple[str, Values]:
        """Run `create`."""
        if type_ != TYPE or inputs.keys() - KNOWN:
            raise Failed(f"the stand-in knows no {type_} with {', '.join(sorted(inputs.keys() - KNOWN))}")
        return secrets.token_hex(8), self._ran(inputs, inputs["create"])

    def update(self, type_: str, id_: str, old: Values, new: Values) -> Values:
        """Run `update`, or `create` where there is none."""
        del type_, id_, old
        return self._ran(new, new.get("update", new["create"]))

    def delete(self, type_: str, id_: str, state: Values) -> None:
        """Forget it: `delete` is not known here."""

    def read(self, type_: str, id_: str, state: Values) -> Values | None:
        """Return the state unchanged: a command that ran stays as it is."""
        del type_, id_
        return state

    def invoke(self, token: str, args: Values) -> Values:
        """Raise Failed: no function is known."""
        raise Failed(f"the stand-in knows no function {token}({', '.join(args)})")

    def replaces(self, type_: str, key: str) -> bool:
        """Return whether the key is one of the triggers, which alone replace."""
        return type_ == TYPE and re.split(r"[.\[]", key, maxsplit=1)[0] == "triggers"

    @staticmethod
    def _ran(inputs: Values, command: str) -> Values:
        """Return the inputs and what the command printed. Raises Failed with its last lines."""
        connection: Values = inputs["connection"]
        try:
            result = asyncio.run(_run(connection, command, inputs.get("stdin", "")))
        except (OSError, TimeoutError, asyncssh.Error) as error:
            raise Failed(f"{connection['host']}: {type(error).__name__} {error}") from error
        if result.exit_status:
            output = [*str(result.stdout).splitlines(), *str(result.stderr).splitlines()][-TAIL:]
            raise Failed(f"exit status {result.exit_status} of {command[:200]!r}:\n" + "\n".join(output))
        texts = {"stdout": result.stdout, "stderr": result.stderr}
        return {**inputs, **{name: str(text or "").removesuffix("\n") for name, text in texts.items()}}


async def _run(connection: Values, command: str, stdin: str) -> asyncssh.SSHCompletedProcess:
    async with contextlib.AsyncExitStack() as stack:
        jump = None
        if proxy := connection.get("proxy"):
            jump = await stack.enter_async_context(await _dial(proxy, None))
        machine = await stack.enter_async_context(await _dial(connection, jump))
        given: dict[str, Any] = {"input": stdin} if stdin else {"stdin": asyncssh.DEVNULL}
        return await machine.run(command, **given)


async def _dial(to: Values, jump: asyncssh.SSHClientConnection | None) -> asyncssh.SSHClientConnection:
    """Open a connection, tried as often as dialErrorLimit says."""
    left = int(to.get("dialErrorLimit", DIALS))
    none: list[Any] = []
    trusted = ([asyncssh.import_public_key(to["hostKey"])], none, none) if to.get("hostKey") else None
    while True:
        try:
            return await asyncssh.connect(
                to["host"],
                int(to.get("port", 22)),
                username=to.get("user", "root"),
                client_keys=[asyncssh.import_private_key(to["privateKey"])],
                known_hosts=trusted,
                agent_path=None,
                config=None,
                tunnel=jump,
                connect_timeout=to.get("perDialTimeout", DIAL_S),
                login_timeout=to.get("perDialTimeout", DIAL_S),
            )
        except (OSError, TimeoutError, asyncssh.Error):
            left -= 1
            if left < 0:
                raise
            await asyncio.sleep(PAUSE_S)
