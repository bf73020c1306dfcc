"""The servers of one application, and the commands that rollout and rollback run on them."""

from __future__ import annotations

import re
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from platforms.transport import Result, Transport, Unreachable
from releases.cause import group
from releases.redaction import escape_control
from releases.status import ReleaseStatus, parse_status
from rendering.paths import SCRIPTS
from settings.limits import STOP_TIMEOUT_S

COMMAND, STATUS_COMMAND = f"{SCRIPTS}/release.py", f"{SCRIPTS}/app_status.py"
# The argument with which it prints what a ReleaseStatus has and no more, in a quarter of the time.
OF_RELEASE = "release"
# Servers in work at the same time; each needs a connection and a thread.
PARALLEL = 16
STATUS_S = 60
JOURNAL_S = 20
# How often a server is named that is at work and prints nothing.
SILENCE_S = 15.0


@dataclass(frozen=True)
class Server:
    """name: as a person knows it. target: what the transport calls it."""

    name: str
    target: str


class ServerFailure(Exception):
    """One server could not do its part. is_unreachable: nothing is known of what it runs."""

    def __init__(self, server: Server, phase: str, why: str, *, is_unreachable: bool = False) -> None:
        super().__init__(f"{server.name}, {phase}: {why}")
        self.server, self.phase, self.why, self.is_unreachable = server, phase, why, is_unreachable


class ServerFailures(Exception):
    """Failures of a fleet's servers; equal ones are described once."""

    def __init__(self, failures: Sequence[ServerFailure], servers: int) -> None:
        super().__init__(group(((each.server.name, each.phase, each.why) for each in failures), servers))
        self.failures = failures


class Fleet:
    """log: gets a line for each thing that happens. first: the server that runs schedules. Times in seconds.

    drain_timeout_s: how long a slot may take to finish its requests; start_timeout_s: to start and be healthy. clean:
    takes secrets out of what machines say, for an application that fails may tell its own.
    """

    def __init__(
        self,
        app: str,
        transport: Transport,
        log: Callable[[str], None],
        *,
        first: Server,
        start_timeout_s: int,
        drain_timeout_s: int,
        clean: Callable[[str], str] = str,
    ) -> None:
        self.app = app
        self._without_secrets = clean
        self._transport, self._write_line = transport, log
        self._first = first
        self._start_s, self._drain_s = start_timeout_s, drain_timeout_s
        # What each server printed last.
        self.latest: dict[str, str] = {}
        # Of a group that moves: whether a server that failed has left it.
        self.has_gone: Callable[[Server], bool] = lambda _server: False

    def clean(self, text: str) -> str:
        """Return what a machine says without secrets, and without what would control a terminal."""
        return escape_control(self._without_secrets(text))

    def log(self, text: str) -> None:
        """Print a text for the operator. What machines say in it must be clean already."""
        self._write_line(f"{self.app}: {text}")

    def status(self, server: Server) -> ReleaseStatus:
        """Return what a server runs. Raises ServerFailure."""
        result = self.run(server, "reach", [OF_RELEASE], timeout_s=STATUS_S, quiet=True, program=STATUS_COMMAND)
        try:
            return parse_status(ReleaseStatus, result.output)
        except ValueError as error:
            raise ServerFailure(server, "reach", str(error)) from error

    def switch(self, server: Server, release: str) -> None:
        """Make a staged release serve; nothing to do where it does. Raises ServerFailure."""
        # What drains is the release before, which may have been given more time than this one: all that there can be.
        limit = self._start_s + max(self._drain_s, STOP_TIMEOUT_S) * 2 + 30
        place = "first" if server == self._first else "other"
        self.run(server, "switch", ["switch", release, place], timeout_s=limit)

    def run(
        self,
        server: Server,
        phase: str,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        quiet: bool = False,
        program: str = COMMAND,
        handle: Callable[[str], bool] = lambda _line: False,
    ) -> Result:
        """Run release.py (or that program) on a server. Raises ServerFailure with the last `error:` that it printed.

        handle: gets each line, and returns whether it need not be shown.
        """
        is_error, start_s, ended = False, time.monotonic(), threading.Event()
        last = start_s

        def on_line(line: str) -> None:
            # The failure tells it in the end, whole.
            nonlocal is_error, last
            is_error, last = is_error or line.startswith("error: "), time.monotonic()
            if not (handle(line) or quiet or is_error):
                self.latest[server.name] = self.clean(line)
                self._write_line(f"{server.name}: {self.latest[server.name]}")

        def log_silent_servers() -> None:
            nonlocal last
            while not ended.wait(SILENCE_S / 10):
                if time.monotonic() - last >= SILENCE_S:
                    last = time.monotonic()
                    at_work = f"{last - start_s:.0f} s of at most {timeout_s:.0f} s"
                    self._write_line(f"{server.name}: {phase}: at work for {at_work}")

        if not quiet:
            threading.Thread(target=log_silent_servers, daemon=True).start()
        try:
            result = self._transport.exec(
                server.target, [program, *arguments], stdin=stdin, timeout_s=timeout_s, on_line=on_line
            )
        except Unreachable as error:
            raise ServerFailure(server, phase, f"unreachable: {self.clean(str(error))}", is_unreachable=True) from error
        except TimeoutError as error:
            words = shlex.join(arguments or [program])
            raise ServerFailure(server, phase, f"`{words}` did not finish in {timeout_s:.0f} s") from error
        finally:
            ended.set()
        if result.exit_code:
            # What it quotes of others' errors is indented; its own begins a line.
            why = (
                re.split(r"^error: ", result.output.strip(), flags=re.MULTILINE)[-1] or f"exit code {result.exit_code}"
            )
            raise ServerFailure(server, phase, self.clean(why))
        return result

    def journal(self, server: Server, phase: str, *options: str) -> str:
        """Return the messages that journalctl has for these options on a server. Raises ServerFailure."""
        command = ["--no-pager", "--quiet", "--output=cat", *options]
        return self.run(server, phase, command, timeout_s=JOURNAL_S, quiet=True, program="journalctl").output

    def on_all(self, servers: Iterable[Server], work: Callable[[Server], object]) -> None:
        """Do the work on all servers in parallel. Raises ServerFailures with the failed ones."""
        failures: list[ServerFailure] = []
        with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
            futures = [pool.submit(work, server) for server in servers]
            for future in futures:
                try:
                    future.result()
                except ServerFailure as failure:
                    failures.append(failure)
        if failures := [failure for failure in failures if not self.has_gone(failure.server)]:
            raise ServerFailures(failures, len(futures))
