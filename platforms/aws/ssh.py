"""Scripts over SSH, with any connector. An event loop in its own thread serves all calling threads."""

from __future__ import annotations

import asyncio
import codecs
import shlex
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import asyncssh

from platforms.aws.connection import CONNECT_S, Connector, WrongHostKey, make_connector, public_text
from platforms.aws.tunnel import TunnelRefused
from platforms.transport import Result, Unreachable

# Seconds: pauses between attempts (the last one repeats), all attempts.
PAUSES_S, DEADLINE_S = (1.0, 2.0, 4.0, 8.0), 90.0
# Seconds after its time that a command is given to end on the machine before the connection is dropped.
GRACE_S = 15.0
# What is left of a command that `timeout` had to end (124), or to kill (it goes along then).
ENDED = (124, 137, -9)

T = TypeVar("T")


class SshTransport:
    """Implements platforms.transport.Transport. A machine is `<name>@<address>`; its host key is known by the name.

    A key that is not known yet is pinned at first contact. Safe for threads; close() it to end its connections.
    """

    def __init__(
        self, connector: Connector, *, user: str, deadline_s: float = DEADLINE_S, waits_for_key: bool = False
    ) -> None:
        self._connector, self._user, self._deadline_s = connector, user, deadline_s
        self._waits_for_key = waits_for_key
        self._start = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> SshTransport:
        """Return the transport of a ConnectionSpec.spec of platform aws.

        deadline_s in it, where it is given, is how long a machine is tried; waits_for_key: whether one that shows
        another host key is tried on, for an address that is about to lead to another machine.
        """
        return cls(
            make_connector(spec),
            user=spec["user"],
            deadline_s=float(spec.get("deadline_s", DEADLINE_S)),
            waits_for_key=bool(spec.get("waits_for_key")),
        )

    def exec(
        self,
        machine: str,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float,
        on_line: Callable[[str], None] | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Result:
        """Implement Transport.exec: run the command over SSH; `timeout` ends it on the machine."""
        lifetime_s = self._connector.lifetime_s
        if lifetime_s and timeout_s + GRACE_S > lifetime_s:
            raise Unreachable(
                f"{machine}: {command[0]} may take {timeout_s:g} s, and {self._connector.name} ends a connection after "
                f"{lifetime_s:g} s; give it at most {lifetime_s - GRACE_S:g} s"
            )
        with self._connector.reserve(machine):
            return self._run(self._exec(machine, command, stdin, timeout_s, on_line=on_line, on_output=on_output))

    def host_key(self, machine: str) -> str:
        """Return the public host key of a machine that lets us in: `ssh-ed25519 AAAA...`. Raises Unreachable."""
        with self._connector.reserve(machine):
            return self._run(self._host_key(machine))

    def close(self) -> None:
        """End all connections. The transport can be used again afterwards."""
        with self._start:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop and thread:
            asyncio.run_coroutine_threadsafe(self._connector.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._start:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="ssh", daemon=True)
                self._thread.start()
            loop = self._loop
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    async def _exec(
        self,
        machine: str,
        command: Sequence[str],
        stdin: bytes,
        timeout_s: float,
        *,
        on_line: Callable[[str], None] | None,
        on_output: Callable[[bytes], None] | None,
    ) -> Result:
        # `timeout` on the machine ends the command even when this end is gone.
        words = ["timeout", "--kill-after=10", f"{timeout_s:g}", *command]
        text = shlex.join(words if self._user == "root" else ["sudo", "-n", "--", *words])

        async def started(
            connection: asyncssh.SSHClientConnection,
        ) -> tuple[float, asyncssh.SSHClientProcess[bytes]]:
            # Taken before the request: the `timeout` on the machine starts before its response arrives.
            began = time.monotonic()
            # Without the end of an empty input a command that reads it would wait for all of its time.
            input_options: dict[str, Any] = {"input": stdin} if stdin else {"stdin": asyncssh.DEVNULL}
            return began, await connection.create_process(text, stderr=asyncssh.STDOUT, encoding=None, **input_options)

        # Until it is started everything may be tried again; afterwards nothing, for it may have run.
        connection, (began, process) = await self._retry(machine, started)
        try:
            async with asyncio.timeout(timeout_s + GRACE_S):
                output = await _read(process, on_line, on_output)
                await process.wait_closed()
        except TimeoutError:
            process.channel.abort()
            raise TimeoutError(_timeout_message(machine, command, timeout_s)) from None
        except (OSError, asyncssh.Error) as error:
            raise Unreachable(f"{machine}: the connection was lost while a command ran: {error}") from error
        finally:
            self._connector.give_back(connection)
        if process.returncode is None:
            raise Unreachable(f"{machine}: the connection was lost while {command[0]} ran")
        if process.returncode in ENDED and time.monotonic() - began >= timeout_s:
            raise TimeoutError(_timeout_message(machine, command, timeout_s))
        return Result(process.returncode, output)

    async def _host_key(self, machine: str) -> str:
        connection, key = await self._retry(machine, _host_key)
        self._connector.give_back(connection)
        return key

    async def _retry(
        self, machine: str, work: Callable[[asyncssh.SSHClientConnection], Coroutine[Any, Any, T]]
    ) -> tuple[asyncssh.SSHClientConnection, T]:
        """Return a connection and the result of work on it; try again with pauses up to the deadline."""
        deadline = time.monotonic() + self._deadline_s
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), CONNECT_S)):
                    connection = await self._connector.connect(machine)
                    try:
                        return connection, await work(connection)
                    except BaseException:
                        self._connector.give_back(connection)
                        raise
            except TunnelRefused as error:
                raise Unreachable(f"{machine}: {error}") from None
            except (WrongHostKey, OSError, asyncssh.Error) as error:
                if isinstance(error, WrongHostKey) and not self._waits_for_key:
                    raise Unreachable(str(error)) from None
                pause = PAUSES_S[min(attempt, len(PAUSES_S) - 1)]
                attempt += 1
                if time.monotonic() + pause > deadline:
                    raise Unreachable(
                        f"{machine} did not respond over SSH for {self._deadline_s:g} s "
                        f"(through {self._connector.name}): {str(error) or type(error).__name__}"
                    ) from error
                await asyncio.sleep(pause)


async def _host_key(connection: asyncssh.SSHClientConnection) -> str:
    key = connection.get_server_host_key()
    if key is None:
        raise OSError("the server sent no host key")
    return public_text(key)


async def _read(
    process: asyncssh.SSHClientProcess[bytes],
    on_line: Callable[[str], None] | None,
    on_output: Callable[[bytes], None] | None,
) -> str:
    """Return all output; pass each line and all bytes on as they appear."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    output, begun = "", ""
    while chunk := await process.stdout.read(65536):
        if on_output:
            on_output(chunk)
        text = decoder.decode(chunk)
        output += text
        *lines, begun = (begun + text).split("\n")
        if on_line:
            for line in lines:
                on_line(line)
    if on_line and begun:
        on_line(begun)
    return output


def _timeout_message(machine: str, command: Sequence[str], timeout_s: float) -> str:
    return f"{machine}: {command[0]} did not finish in {timeout_s:g} s and was ended"
