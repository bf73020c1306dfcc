"""How work reaches machines on LXD: `lxc exec`, which needs neither sshd nor an address nor a key."""

from __future__ import annotations

import contextlib
import math
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from platforms.lxd import machine
from platforms.lxd.client import Client, Unavailable
from platforms.transport import Result, Unreachable

# coreutils' timeout, run inside, reports 124 when it ended the command, or 137 when it had to kill it.
_TIMED_OUT = frozenset({124, 137})
# The machine's own clock ends a command; this much later the host gives up on the machine.
_GRACE_S = 15.0
_FAILED = 1
# LXD 5.0.2 does not always connect a command with its output: that is lost then, or `lxc` hangs (12 of 640 `echo`, 16
# at a time). So the command's shell prints a word and waits for it to come back before it does anything. Where the word
# does not come, nothing has run, and it is tried again. Then it prints the word with the exit code, in the one stream
# that keeps the order, and waits until that has arrived. $1: the word. $2: bytes of standard input for the command.
_SHELL = """\
exec 2>&1
word=$1 size=$2
shift 2
echo "$word"
read -r back
[ "$back" = "$word" ] || exit 1
head -c "$size" | "$@"
code=$?
echo "$word $code"
timeout 10 cat >/dev/null
exit $code"""
_WORD = f"wsgi-fleet-{secrets.token_hex(8)}"
_END = re.compile(rf"(?P<text>.*){_WORD} (?P<code>\d+)\s*".encode(), re.DOTALL)
_START_TIMEOUT_S = 10.0
_MAX_TRIES = 3
# Seconds for `lxc` to end when the command has.
_END_TIMEOUT_S = 2.0


class _NotStarted(Exception):
    """The command did not run: LXD did not connect it."""


class LxdTransport:
    """A platforms.transport.Transport over the exec of one LXD daemon. Threads may share it."""

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
        on_output: Callable[[bytes], None] | None = None,
    ) -> Result:
        """Implement Transport.exec: run the command by `lxc exec`; try again where LXD did not start it."""
        self._require_running(machine)
        arguments = [*self._client.command(), "exec", "--project", "default", "--mode", "non-interactive"]
        # `timeout` runs inside, since killing `lxc` leaves the command running on the machine.
        arguments += [
            f"local:{machine}",
            "--",
            "timeout",
            "--kill-after=5",
            str(max(1, math.ceil(timeout_s))),
        ]
        arguments += ["sh", "-c", _SHELL, "sh", _WORD, str(len(stdin)), *command]
        environment = self._client.command_environment()

        def handle(output: bytes, text: str) -> None:
            if on_output:
                on_output(output)
            if on_line:
                for line in text.removesuffix("\n").split("\n"):
                    on_line(line)

        for _ in range(_MAX_TRIES):
            began = time.monotonic()
            try:
                code, output = _run(arguments, environment, stdin, timeout_s + _GRACE_S, handle)
                break
            except _NotStarted:
                self._require_running(machine)
        else:
            words = " ".join(command)[:80]
            raise Unreachable(
                f"{machine}: LXD did not start `{words}` in {_START_TIMEOUT_S:.0f} s, {_MAX_TRIES} times; restart LXD"
            )
        elapsed_s = time.monotonic() - began
        if code is None or (code in _TIMED_OUT and elapsed_s >= timeout_s):
            raise TimeoutError(f"{machine}: {' '.join(command)[:80]} did not finish in {timeout_s:.0f} s")
        if code == _FAILED and output.rstrip().rpartition("\n")[2].startswith("Error:"):
            # `lxc` fails with 1 as programs do; only a machine that is healthy makes it the program's.
            self._require_running(machine)
        return Result(code, output)

    def _require_running(self, name: str) -> None:
        """Raise Unreachable unless the machine runs."""
        try:
            status = machine.status(self._client, name)
        except Unavailable as error:
            raise Unreachable(f"{name}: {error}") from error
        if status is None:
            raise Unreachable(f"{name}: LXD has no such machine; `pulumi up` replaces it")
        if status != machine.RUNNING:
            raise Unreachable(f"{name} is {status.lower()}; `pulumi up` starts it")


def _run(
    command: list[str],
    environment: dict[str, str],
    stdin: bytes,
    timeout_s: float,
    handle: Callable[[bytes, str], None],
) -> tuple[int | None, str]:
    """Run a program of the host that talks as _SHELL does; return its exit code and its output without that talk.

    handle: gets each line, as it comes and as text. The exit code is None where it was ended after timeout_s seconds.
    Raises _NotBegun.
    """
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    started, ended = threading.Event(), threading.Event()
    has_timed_out = False

    def kill_on_timeout() -> None:
        nonlocal has_timed_out
        if not started.wait(_START_TIMEOUT_S):
            process.kill()
        elif not ended.wait(timeout_s):
            has_timed_out = True
            process.kill()

    for work, arguments in ((kill_on_timeout, ()), (_send_stdin, (process, stdin, started, ended))):
        threading.Thread(target=work, args=arguments, daemon=True).start()
    code: int | None = None
    lines: list[str] = []
    try:
        # stdout is a pipe, which the type cannot express.
        assert process.stdout is not None  # noqa: S101
        with process.stdout as output:
            for line in output:
                if line.rstrip() == _WORD.encode() and not started.is_set():
                    started.set()
                    continue
                # A list of processes has the word in it as well.
                end = _END.fullmatch(line)
                if part := end["text"] if end else line:
                    text = part.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
                    lines.append(text)
                    handle(part, text)
                if end:
                    code = int(end["code"])
                    break
            ended.set()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_TIMEOUT_S if code is not None else None)
    finally:
        has_begun = started.is_set()
        # In this order: the word must not be sent back to an abandoned command.
        ended.set()
        started.set()
        if process.poll() is None:
            process.kill()
            process.wait()
    if code is None and not has_timed_out:
        if not has_begun and process.returncode < 0:
            raise _NotStarted
        code = process.returncode
    return code, "".join(lines)


def _send_stdin(
    process: subprocess.Popen[bytes], stdin: bytes, started: threading.Event, is_ended: threading.Event
) -> None:
    """Send the word back when it has come, then standard input, which a program need not read; close it at the end."""
    if process.stdin is None:
        return
    started.wait()
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        if is_ended.is_set():
            return
        pipe.write(f"{_WORD}\n".encode() + stdin)
        pipe.flush()
        is_ended.wait()
