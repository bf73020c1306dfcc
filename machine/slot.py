"""A slot is a systemd unit that runs one release; this starts, proves and drains it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server import RUN, SLOTS, Failure, manifest_of, named, run, say

BLUE, GREEN, PROOF = "blue", "green", "proof"
PROOF_UNIT = "app-proof"
# Seconds in which a slot that has started must be healthy.
GATE_S = 5


def state_of(unit: str) -> str:
    return run("systemctl", "show", "-P", "ActiveState", unit).stdout.strip()


def serving_slots() -> list[str]:
    return [slot for slot in (BLUE, GREEN) if state_of(f"app@{slot}") in ("active", "activating", "reloading")]


def journal(unit: str, since: float) -> str:
    """What a unit logged last, for a person who must mend the application: the last traceback, else the last lines."""
    run("journalctl", "--sync")
    text = run("journalctl", "--no-pager", "-o", "cat", "-n", "200", "--since", f"@{int(since)}", "-u", unit).stdout
    lines = [line for line in text.splitlines() if line.strip()]
    tracebacks = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    return "\n".join(f"    {line}" for line in (lines[tracebacks[-1] :] if tracebacks else lines)[-25:])


def get(sock: Path, path: str, timeout_s: float) -> tuple[int, str]:
    """Status and first line of the answer to GET path over a Unix socket."""
    connection = http.client.HTTPConnection("localhost", timeout=timeout_s)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(timeout_s)
    try:
        connection.sock.connect(str(sock))
        connection.request("GET", path, headers={"User-Agent": "wsgi-fleet", "X-Forwarded-Proto": "http"})
        response = connection.getresponse()
        return response.status, response.read(300).decode(errors="replace").strip().partition("\n")[0]
    finally:
        connection.close()


def start_and_gate(unit: str, manifest: dict[str, Any]) -> None:
    """Start a unit and wait for enough good answers in a row on its private socket; stop it if they do not come."""
    limit, threshold, path = (manifest[key] for key in ("start_timeout_s", "healthy_threshold", "health_path"))
    begun, deadline = time.time(), time.monotonic() + limit
    run("systemctl", "reset-failed", unit)
    try:
        # Type=notify: this returns when the application is imported, or as soon as it has ended.
        try:
            started = run("systemctl", "start", unit, timeout_s=limit).returncode == 0
        except TimeoutError:
            raise Failure(
                f"{manifest['module']} was not imported in {limit} s; its last lines:\n{journal(unit, begun)}"
            ) from None
        if not started:
            raise Failure(f"{manifest['module']} did not start; its last lines:\n{journal(unit, begun)}")
        if unit != PROOF_UNIT:
            # It was healthy when it was proven, and from here on it answers clients: no long patience.
            limit = min(limit, GATE_S)
            deadline = time.monotonic() + limit
        good, answer = 0, "nothing"
        while good < threshold:
            if time.monotonic() > deadline:
                raise Failure(
                    f"GET {path} was not 200 in {limit} s but {answer}; its last lines:\n{journal(unit, begun)}"
                )
            try:
                status, line = get(private_socket(unit), path, max(deadline - time.monotonic(), 0.1))
                good, answer = (good + 1, line) if status == 200 else (0, f"{status} {line}")
            except (OSError, http.client.HTTPException) as error:
                good, answer = 0, str(error)
            time.sleep(0.02 if good else 0.3)
    except BaseException:
        stop(unit, 5)
        raise


def private_socket(unit: str) -> Path:
    """Where only root on this machine asks this one slot (RuntimeDirectory= of the unit)."""
    return RUN / unit.replace("@", "-") / "http.sock"


def stop(unit: str, drain_s: float) -> None:
    """Stop gracefully: requests in flight are finished for up to drain_s seconds, then the rest is killed."""
    main = run("systemctl", "show", "-P", "MainPID", unit).stdout.strip()
    run("systemctl", "stop", "--no-block", unit)
    deadline = time.monotonic() + drain_s
    while state_of(unit) not in ("inactive", "failed"):
        if has_no_children(main):
            # Its workers are done. uWSGI's master would look for that once a second only, and do nothing more.
            run("systemctl", "kill", "--signal=SIGKILL", unit)
        if time.monotonic() > deadline:
            say(f"{unit} did not drain in {drain_s:.0f} s; killing what is left")
            run("systemctl", "kill", "--signal=SIGKILL", unit)
            deadline = time.monotonic() + 10
        time.sleep(0.05)
    run("systemctl", "reset-failed", unit)


def has_no_children(pid: str) -> bool:
    """Whether a process surely has no child: the kernel may not tell (CONFIG_PROC_CHILDREN)."""
    try:
        return not Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()
    except OSError:
        return False


def drain_s(slot: str) -> float:
    """Longest that the release in a slot may take to finish its requests."""
    release = named(SLOTS / slot)
    return manifest_of(release)["drain_timeout_s"] if release else 15


def watch(slot: str, manifest: dict[str, Any], seconds: float) -> None:
    """Look at a slot that serves for so long. Raises Failure as soon as it is not well."""
    unit, path = f"app@{slot}", manifest["health_path"]
    begun, deadline, restarts = time.time(), time.monotonic() + seconds, restarts_of(unit)
    while time.monotonic() < deadline:
        if state_of(unit) != "active" or restarts_of(unit) != restarts:
            raise Failure(f"{unit} ended while it served; its last lines:\n{journal(unit, begun)}")
        try:
            status, line = get(private_socket(unit), path, 10)
        except (OSError, http.client.HTTPException) as error:
            status, line = 0, str(error)
        if status != 200:
            answer = f"{status} {line}" if status else line
            raise Failure(f"GET {path} was {answer} while it served; its last lines:\n{journal(unit, begun)}")
        time.sleep(0.5)


def restarts_of(unit: str) -> str:
    return run("systemctl", "show", "-P", "NRestarts", unit).stdout.strip()


def answers(slot: str, manifest: dict[str, Any]) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return get(private_socket(f"app@{slot}"), manifest["health_path"], 10)[0] == 200
    return False


def stop_others(serving: Sequence[str], keep: str | None) -> None:
    """End what an interrupted switch left running."""
    for slot in serving:
        if slot != keep:
            stop(f"app@{slot}", drain_s(slot))
