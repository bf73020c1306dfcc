"""How work reaches machines on LXD: `lxc exec`, which needs neither sshd nor an address nor a key."""

from __future__ import annotations

import io
import math
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from platforms.lxd import machine
from platforms.lxd.client import Client, Unavailable
from releases.transport import Result, Unreachable

# coreutils' timeout, run inside, reports 124 when it ended the command, or 137 when it had to kill it.
_TIMED_OUT = frozenset({124, 137})
# The machine's own clock ends a command; this much later the host gives up on the machine.
_GRACE_S = 15.0
_FAILED = 1


class LxdTransport:
    """A releases.transport.Transport over the exec of one LXD daemon. Threads may share it."""

    def __init__(self, client: Client | None = None) -> None:
        self._client = client or Client()

    def exec(
        self,
        machine: str,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        """See Transport.exec."""
        self._require_running(machine)
        began = time.monotonic()
        arguments = [*self._client.command(), "exec", "--project", "default", "--mode", "non-interactive"]
        # `timeout` runs inside, since killing `lxc` leaves the command running on the machine.
        arguments += [
            f"local:{machine}",
            "--",
            "timeout",
            "--kill-after=5",
            str(max(1, math.ceil(timeout_s))),
            *command,
        ]
        code, output = _run(
            arguments, self._client.command_environment(), stdin, timeout_s + _GRACE_S, on_line or (lambda _: None)
        )
        elapsed_s = time.monotonic() - began
        if code is None or (code in _TIMED_OUT and elapsed_s >= timeout_s):
            raise TimeoutError(f"{machine}: {' '.join(command)[:80]} did not finish in {timeout_s:.0f} s")
        if code == _FAILED and output.rstrip().rpartition("\n")[2].startswith("Error:"):
            # `lxc` fails with 1 as programs do; only a machine that is well makes it the program's.
            self._require_running(machine)
        return Result(code, output)

    def _require_running(self, name: str) -> None:
        """Raises Unreachable unless the machine runs."""
        try:
            status = machine.status(self._client, name)
        except Unavailable as error:
            raise Unreachable(f"{name}: {error}") from error
        if status is None:
            raise Unreachable(f"{name}: LXD has no such machine; `pulumi up --refresh` replaces it")
        if status != machine.RUNNING:
            raise Unreachable(f"{name} is {status.lower()}; `pulumi up --refresh` starts it")


def _run(
    command: list[str],
    environment: dict[str, str],
    stdin: bytes,
    timeout_s: float,
    on_line: Callable[[str], None],
) -> tuple[int | None, str]:
    """Run a program of the host; its exit code (None: it was ended after timeout_s seconds) and its output."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    ended = threading.Event()

    def end() -> None:
        ended.set()
        process.kill()

    watchdog = threading.Timer(timeout_s, end)
    watchdog.daemon = True
    watchdog.start()
    feeder = threading.Thread(target=_feed, args=(process, stdin), daemon=True)
    feeder.start()
    lines: list[str] = []
    try:
        # A pipe was asked for; the type cannot know.
        assert process.stdout is not None  # noqa: S101
        for line in io.TextIOWrapper(process.stdout, encoding="utf-8", errors="replace"):
            lines.append(line)
            on_line(line.rstrip("\r\n"))
        code = process.wait()
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
    return (None if ended.is_set() else code), "".join(lines)


def _feed(process: subprocess.Popen[bytes], stdin: bytes) -> None:
    """Write standard input; a program need not read it."""
    if process.stdin is None:
        return
    try:
        process.stdin.write(stdin)
        process.stdin.close()
    except BrokenPipeError:
        return
