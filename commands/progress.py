"""`python -m commands.progress up|destroy -s STACK`: run a Pulumi command and print what it does, a line each.

The engine's own display cuts what a release says to the width of the terminal; of 80 columns nothing of it is left.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from commands import engine_error

# How often events are read, and after how long a silence of a pipe is explained.
POLL_S, SILENCE_S = 0.1, 15.0
# How long the engine is waited for after Ctrl-C, twice.
END_TIMEOUT_S = 0.5
STACKS = Path(__file__).resolve().parents[1] / "stacks"
INTERRUPTED = 128 + signal.SIGINT
_DONE = {
    "create": "created",
    "update": "updated",
    "delete": "deleted",
    "create-replacement": "created anew",
    "delete-replaced": "deleted the old",
}
_COLOUR = re.compile(r"<\{%[^%]*%\}>")
_HOLDER = re.compile(r"created by (.+)")
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LANGUAGE = "pulumi-language"


class Progress:
    """What the events of an engine say to a person.

    waiting: what is at work -> since when. errors: each once. is_removal: of a `destroy`.
    """

    def __init__(self, *, is_removal: bool = False) -> None:
        self._is_removal = is_removal
        self.waiting: dict[str, float] = {}
        self.errors: list[str] = []

    def handle_event(self, event: Mapping[str, Any], now_s: float) -> list[str]:
        """Return the lines of one event, and keep its errors for the end."""
        for kind, content in event.items():
            if kind == "diagnosticEvent":
                return self._message(content)
            if kind in ("resourcePreEvent", "resOutputsEvent", "resOpFailedEvent"):
                return self._step(kind, content["metadata"], now_s)
            if kind == "summaryEvent" and content.get("result") != "failed":
                changes: dict[str, int] = content.get("resourceChanges") or {}
                counts = [f"{_DONE.get(op, op)} {number}" for op, number in changes.items() if op != "same"]
                return [", ".join(counts) if counts else "nothing was to do"]
        return []

    def _message(self, content: Mapping[str, Any]) -> list[str]:
        text, severity = _COLOUR.sub("", str(content["message"])).strip(), content["severity"]
        if severity == "error":
            text = engine_error.clean(text)
            # The stack's own error says only that there is another error.
            known = (*map(engine_error.identify, self.errors), "update failed", "destroy failed")
            if engine_error.identify(text) not in known:
                self.errors.append(text)
            return []
        if severity == "warning" and "pending operations from previous deployment" in text:
            then = "removed" if self._is_removal else "done anew"
            text = f"the last run was interrupted; what it began is {then}"
        warning = "warning: " if severity == "warning" else ""
        return [] if severity == "debug" or not text else [warning + text]

    def _step(self, kind: str, step: Mapping[str, Any], now_s: float) -> list[str]:
        state: dict[str, Any] = step.get("new") or step.get("old") or {}
        type_, name = step["type"].rpartition(":")[2], step["urn"].rpartition("::")[2]
        if step["op"] not in _DONE or not state.get("custom") or step["type"].startswith("pulumi:"):
            return []
        label = f"{type_} {name}"
        if kind == "resourcePreEvent":
            self.waiting[label] = now_s
            return []
        took = now_s - self.waiting.pop(label, now_s)
        how = "failed" if kind == "resOpFailedEvent" else _DONE[step["op"]]
        return [f"{label}: {how}" + (f" in {took:.0f} s" if took >= 1 else "")]

    def describe_waiting(self, now_s: float) -> str:
        """Return what the engine waits for, and since when for the first."""
        if not self.waiting:
            return "the engine compares the stack with its program"
        return f"waiting {now_s - min(self.waiting.values()):.0f} s for {', '.join(self.waiting)}"


def wrap(lines: Sequence[str], stream: TextIO) -> str:
    """Return lines as a text that fits the width of a terminal; in a pipe as they are."""
    width = max(shutil.get_terminal_size().columns, 20) if stream.isatty() else sys.maxsize
    clean = [_CONTROL.sub("", line) for line in lines]
    parts = [part for line in clean for part in _wrap_line(line, width) or [""]]
    return "".join(f"{part}\n" for part in parts)


def _wrap_line(line: str, width: int) -> list[str]:
    # Names of servers and options keep their hyphens.
    return textwrap.wrap(line, width, subsequent_indent=" " * 10, break_on_hyphens=False)


class Screen:
    """A terminal or a pipe that gets lines, each with the seconds since the start. On a terminal the last one moves."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._is_terminal = stream, stream.isatty()
        self._begun = self._last = time.monotonic()

    def now_s(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._begun

    def line(self, text: str) -> None:
        """Print a text, wrapped to the terminal's width."""
        self._last = time.monotonic()
        first, *more = text.splitlines()
        self._write(wrap([f"{self.now_s():4.0f} s  {first}", *(f"{'':8}{line}" for line in more)], self._stream))

    def show_waiting(self, text: str) -> None:
        """Show what is waited for: at the foot of a terminal always, in a pipe after SILENCE_S of silence."""
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"{self.now_s():4.0f} s  {_CONTROL.sub('', text)}"[:width])
        elif time.monotonic() - self._last >= SILENCE_S:
            self.line(text)

    def clear(self) -> None:
        """Remove what still() has shown."""
        self._write("")

    def _write(self, text: str) -> None:
        self._stream.write(("\r\033[K" if self._is_terminal else "") + text)
        self._stream.flush()


def run(arguments: Sequence[str], screen: Screen, signals: Sequence[int]) -> int:
    """Run a pulumi command with progress, and return its exit code; INTERRUPTED after Ctrl-C.

    signals: those that were received; the first one ends it.
    """
    if arguments[0] == "up" and (mistake := _find_mistake(STACKS / f"Pulumi.{arguments[-1]}.yaml")):
        sys.stderr.write(wrap(f"error: {mistake}".splitlines(), sys.stderr))
        return 1
    progress = Progress(is_removal=arguments[0] == "destroy")
    with tempfile.TemporaryDirectory() as folder:
        log, errors = Path(folder) / "events", Path(folder) / "errors"
        log.touch()
        with log.open() as events, errors.open("w") as complaints:
            process = subprocess.Popen(
                ["pulumi", *arguments, "--yes", "--skip-preview", "--non-interactive", "--event-log", str(log)],
                env=os.environ | {"PULUMI_DEBUG_COMMANDS": "true"}, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=complaints, start_new_session=True,
            )  # fmt: skip
            try:
                _follow(process, events, progress, screen, signals)
            finally:
                _stop(process)
        if signals:
            at_work = f" while {progress.describe_waiting(screen.now_s())}" if progress.waiting else ""
            screen.line(f"stopped{at_work}. What servers have begun, they end; run the same command again to go on")
            screen.line(describe_serving(arguments[-1]))
            return INTERRUPTED
        if process.returncode:
            screen.line("failed:")
            failures = [f"error: {each}" for each in progress.errors] or [_describe_complaint(errors.read_text())]
            if process.returncode < 0:
                failures.append(f"the engine was killed (signal {-process.returncode}); run the same command again")
            sys.stderr.write(wrap([line for each in failures for line in each.splitlines()], sys.stderr))
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _find_mistake(file: Path) -> str | None:
    """Return what Pulumi would change in a stack file: it rewrites the file, with its salt, before the program runs."""
    from settings.stack_file import SettingsError, load_config  # noqa: PLC0415  takes a quarter of a second to import

    try:
        load_config(file)
    except FileNotFoundError:
        return None
    except SettingsError as error:
        return str(error)
    return None


def _describe_complaint(complaint: str) -> str:
    """Return what the engine printed before it began; of a lock, what is safe to do about it."""
    if "stack is currently locked" not in complaint:
        return complaint
    holder = f" ({found[1]})" if (found := _HOLDER.search(complaint)) else ""
    return (
        f"error: another `pulumi up` or `make local` works on this stack{holder}; wait until it has ended. "
        "Only if none runs: `pulumi cancel`, then run the same command again"
    )


def _follow(
    process: subprocess.Popen[bytes], events: TextIO, progress: Progress, screen: Screen, signals: Sequence[int]
) -> None:
    part = ""
    while not signals:
        is_over = process.poll() is not None
        for text in events:
            part += text
            if part.endswith("\n"):
                for line in progress.handle_event(json.loads(part), screen.now_s()):
                    screen.line(line)
                part = ""
        if is_over:
            screen.clear()
            return
        screen.show_waiting(progress.describe_waiting(screen.now_s()))
        time.sleep(POLL_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the engine in any state. Its plugins finish the steps that they have started."""
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            break
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT_S)
    # The host of the program is in a group of its own, and would wait for its engine for minutes.
    for group in (process.pid, *_language_hosts(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _language_hosts(session: int) -> set[int]:
    """Return the process groups of a session's hosts of programs."""
    groups: set[int] = set()
    for file in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            pid = int(file.parent.name)
            if file.read_text().startswith(_LANGUAGE) and os.getsid(pid) == session:
                groups.add(os.getpgid(pid))
    return groups


def describe_serving(stack: str) -> str:
    """Return what clients get now, after an operator has stopped an `up`. It takes a second or two."""
    from commands.target import CommandError, find_all  # noqa: PLC0415  takes half a second to import
    from platforms.transport import Store  # noqa: PLC0415
    from releases import journal, pointers  # noqa: PLC0415

    def describe(store: Store) -> str:
        last = next(journal.entries(store), None)
        if last and last.is_unfinished:
            return "some servers may run the new release already; run the same command again"
        return f"release {pointers.current(store) or 'none'} serves"

    try:
        return "; ".join(f"{each.app}: {describe(each.store)}" for each in find_all(stack, None))
    except (CommandError, LookupError):
        return "nothing serves yet"
    except Exception:  # noqa: BLE001  whatever a store raises
        return f"`./fleet status -s {stack}` shows what serves"


def main(arguments: Sequence[str]) -> int:
    """Run `up` or `destroy`, whose last argument is the stack."""
    signals: list[int] = []

    def on_signal(number: int, _: object) -> None:
        signals.append(number)
        # Another one must not end what says what serves.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # In the background, or under nohup, some are ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, on_signal)
    try:
        return run(arguments, Screen(sys.stdout), signals)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        # The output is closed. At its end Python would write what is left, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
