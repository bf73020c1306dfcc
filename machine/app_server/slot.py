"""A slot runs one release: in one systemd unit, or in one for each process. This starts, proves and drains it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import local_nginx
from common import SLOTS, AppServerError, log, manifest_of, run
from slot_layout import (
    PROOF,
    format_response,
    gateways,
    get,
    private_socket,
    process_layout,
    serving_slots,
    state_of,
    unit_property,
    units,
)
from symlinks import atomic_symlink, link_target

# Seconds in which a started slot must be healthy if it serves clients from then on.
GATE_S = 5
# Answers of 500 in a row that end that sooner: clients get the same. (Another one may mean "not yet".)
ERRORS = 3
# The same for 3xx or 4xx at any start: the application responds, and its response will not change.
REFUSALS = 5
# Seconds after which a health path that still fails is shown; from then on at each minute.
FIRST_LOGGED_S = (10, 30)
# Seconds that one response may take until that is shown, from then on.
SILENCE_S = 5
# Lines of a journal to show.
LAST_LINES = 25
# Seconds for a slot without clients to end.
UNUSED_S = 5


def assign_release(slot: str, place: Path) -> None:
    """Make a slot that does not run one of the release in a folder."""
    for name in {slot, *gateways(slot)}:
        atomic_symlink(SLOTS / name, place)


def last_lines(slot: str, since: float, health_path: str = "") -> str:
    """Return what a slot logged last, to help repair the application: the last traceback, else the last lines.

    Left out is what the gateway logs of requests for the health path, which are ours.
    """
    run("journalctl", "--sync")
    of = [word for unit in units(slot) for word in ("-u", unit)]
    # Backwards: with --since, -n would take the first lines.
    text = run("journalctl", "--no-pager", "-o", "cat", "-r", "-n", "200", "--since", f"@{int(since)}", *of).stdout
    if health_path:
        text = re.sub(rf"^.*GET {re.escape(health_path)} (=>|HTTP/).*", "", text, flags=re.MULTILINE)
    lines = [line for line in reversed(text.splitlines()) if line.strip()]
    tracebacks = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    # By its first line releases/cause.py recognizes a traceback.
    head, rest = (lines[tracebacks[-1] :][:1], lines[tracebacks[-1] + 1 :]) if tracebacks else ([], lines)
    return "\n".join(f"    {line}" for line in head + rest[-(LAST_LINES - len(head)) :])


def start_and_gate(slot: str, manifest: dict[str, Any]) -> None:
    """Start a slot and wait for enough healthy responses in a row of each gateway; stop it if they do not come."""
    limit, path = manifest["start_timeout_s"], manifest["health_path"]
    drain = UNUSED_S
    start_s = time.time()
    moments = itertools.chain(FIRST_LOGGED_S, itertools.count(60, 60))
    moment = next(moments)
    deadline = time.monotonic() + limit
    run("systemctl", "reset-failed", *units(slot))
    try:
        # Type=notify: this returns when the application is imported, or as soon as it has ended.
        try:
            started = run("systemctl", "start", *units(slot), timeout_s=limit).returncode == 0
        except TimeoutError:
            raise AppServerError(
                f"{manifest['module']} was not imported in {limit} s; its last lines:\n{last_lines(slot, start_s)}"
            ) from None
        if not started:
            raise not_started(slot, manifest, start_s)
        if serves := slot != PROOF and not process_layout()[1]:
            # It was healthy when it was tested, and from here on it serves clients: no long patience.
            limit, drain = min(limit, GATE_S), drain_s(slot)
            deadline = time.monotonic() + limit
        for name in gateways(slot):
            good, same, status, response = 0, 0, 0, "nothing"
            while good < manifest["healthy_threshold"]:
                # Not after a good response: to ask systemd costs more than the request.
                if not good and has_ended(slot):
                    raise not_started(slot, manifest, start_s)
                is_refused = 300 <= status < 500 and same == REFUSALS
                if time.monotonic() > deadline or is_refused or (serves and status == 500 and same == ERRORS):
                    tried = f"{same} tries" if time.monotonic() <= deadline else f"{limit} s"
                    raise AppServerError(
                        f"GET {path} was not 200 in {tried} but {response}; its last lines:\n"
                        f"{last_lines(slot, start_s, path)}"
                    )
                before = status
                # A request that hangs would else show nothing before all of the time is up.
                silence_s = max(moment - waited_s(deadline, limit), SILENCE_S)
                slow = threading.Timer(silence_s, log_slow_response, (path, deadline, limit))
                slow.start()
                try:
                    status, line = get(private_socket(name), manifest, max(deadline - time.monotonic(), 0.1))
                    response = format_response(status, line)
                except (OSError, http.client.HTTPException) as error:
                    status, response = 0, str(error)
                finally:
                    slow.cancel()
                good = good + 1 if status == 200 else 0
                same = same + 1 if status == before else 1
                if not good and (waited := waited_s(deadline, limit)) > moment:
                    still = (
                        f"still responds with status {response}" if status else f"still does not respond ({response})"
                    )
                    log(f"GET {path} {still} after {waited:.0f} s of {limit} s")
                    moment = next(each for each in moments if each > waited)
                time.sleep(0.02 if good else 0.3)
        if has_ended(slot):
            raise not_started(slot, manifest, start_s)
    except BaseException:
        stop(slot, drain)
        raise


def not_started(slot: str, manifest: dict[str, Any], since: float) -> AppServerError:
    """Return what to raise for a slot that ended. since: when it was started, in seconds since 1970."""
    return AppServerError(f"{manifest['module']} did not start; its last lines:\n{last_lines(slot, since)}")


def waited_s(deadline: float, limit_s: int) -> float:
    """Return how many seconds of limit_s are over. deadline: when the last one is, by the monotonic clock."""
    return limit_s - (deadline - time.monotonic())


def log_slow_response(path: str, deadline: float, limit_s: int) -> None:
    """Print that a request for the health path has no response yet. deadline: as for waited_s."""
    log(f"GET {path} does not respond after {waited_s(deadline, limit_s):.0f} s of {limit_s} s")


def stop(slot: str, drain_s: float) -> None:
    """Stop gracefully: requests in flight are finished for up to drain_s seconds, then the rest is killed."""
    every = units(slot)
    mains = dict(zip(every, unit_property("MainPID", every), strict=False))
    with_files = {unit for unit in every if has_worker_files(unit)}

    def is_done(unit: str) -> bool:
        # The application may have started a child of the main process, which stays.
        have_ended = unit in with_files and not has_worker_files(unit)
        return have_ended or has_no_children(mains.get(unit, ""))

    run("systemctl", "stop", "--no-block", *every)
    deadline = time.monotonic() + drain_s
    while running := [unit for unit in every if state_of(unit) not in ("inactive", "failed")]:
        if done := [unit for unit in running if is_done(unit)]:
            # Its workers are done. uWSGI's master would look for that once a second only, and do nothing more.
            run("systemctl", "kill", "--signal=SIGKILL", *done)
        if time.monotonic() > deadline:
            log(f"{' '.join(running)} did not drain in {drain_s:.0f} s; killing what is left")
            run("systemctl", "kill", "--signal=SIGKILL", *running)
            deadline = time.monotonic() + 10
        wait_for_any(running, lambda unit: is_done(unit) or not Path(f"/proc/{mains.get(unit, '')}").exists())
    run("systemctl", "reset-failed", *every)


def wait_for_any(running: Sequence[str], is_done: Callable[[str], bool]) -> None:
    """Wait until one of these units is done, for a while: to ask systemd again costs 20 ms."""
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        time.sleep(0.02)
        if any(map(is_done, running)):
            return


def has_worker_files(unit: str) -> bool:
    """Return whether a worker of a unit has a file. Its companion removes that file when both have ended.

    There is none with supervisord, and where it could not be made.
    """
    name = unit.removeprefix("app@").removeprefix("app-")
    return any(private_socket(name).parent.glob("worker-*"))


def mend_socket() -> None:
    """Have systemd listen again if its socket failed. A running slot keeps the port, and must end first."""
    serving = serving_slots()
    if process_layout()[1] or not serving or state_of("app.socket") not in ("failed", "inactive"):
        return
    log("app.socket had ended: it and the live slot are restarted")
    for slot in serving:
        stop(slot, drain_s(slot))
    run("systemctl", "start", "app.socket")
    run("systemctl", "start", *units(serving[0]), timeout_s=600)


def has_no_children(pid: str) -> bool:
    """Return whether a process surely has no child: the kernel may not show it (CONFIG_PROC_CHILDREN)."""
    try:
        return not Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()
    except OSError:
        return False


def drain_s(slot: str) -> float:
    """Return the longest time, in seconds, that the release in a slot may take to finish its requests."""
    release = link_target(SLOTS / slot)
    return manifest_of(release)["drain_timeout_s"] if release else 15


def bake_slot(slot: str, manifest: dict[str, Any], seconds: float) -> None:
    """Watch a serving slot for so many seconds. Raises AppServerError as soon as it is unhealthy."""
    path, where = manifest["health_path"], " ".join(units(slot))
    start_s, deadline, first = time.time(), time.monotonic() + seconds, restart_fingerprint(slot)
    while time.monotonic() < deadline:
        if {*unit_property("ActiveState", units(slot))} != {"active"} or restart_fingerprint(slot) != first:
            raise AppServerError(f"{where} ended while it served; its last lines:\n{last_lines(slot, start_s)}")
        for name in gateways(slot):
            try:
                status, line = get(private_socket(name), manifest, 10)
            except (OSError, http.client.HTTPException) as error:
                status, line = 0, str(error)
            if status != 200:
                response = format_response(status, line)
                raise AppServerError(
                    f"GET {path} was {response} while it served; its last lines:\n{last_lines(slot, start_s)}"
                )
        time.sleep(0.5)


def restart_fingerprint(slot: str) -> list[str]:
    """Return a value that changes when a process of the slot is restarted."""
    return unit_property("NRestarts", units(slot)) + [str(each["pid"]) for each in supervisord_processes(slot)]


def supervisord_processes(slot: str) -> list[dict[str, Any]]:
    """Return what supervisord reports of the processes in a slot; nothing where it does not run them."""
    is_supervised = slot != PROOF and process_layout()[0] == "supervisord"
    return local_nginx.supervisord_processes(slot) if is_supervised else []


def has_ended(slot: str) -> bool:
    """Return whether a process ended, or its manager, where starting the unit does not show it: with supervisord."""
    bad = ("BACKOFF", "EXITED", "FATAL")
    return any(each["statename"] in bad for each in supervisord_processes(slot)) or {
        *unit_property("NRestarts", units(slot))
    } != {"0"}


def is_healthy(slot: str, manifest: dict[str, Any]) -> bool:
    """Return whether every gateway in a slot is healthy."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return all(get(private_socket(name), manifest, 10)[0] == 200 for name in gateways(slot))
    return False


def start_at_boot(slot: str) -> None:
    """Start a slot if this server balances processes; otherwise systemd starts it by its socket."""
    if process_layout()[1]:
        local_nginx.start(slot)


def route_traffic(slot: str, others: Sequence[str]) -> None:
    """Send new requests to this slot, if there is a local Nginx, and wait for requests in other slots."""
    if process_layout()[1]:
        local_nginx.route_traffic(slot, max(map(drain_s, others), default=0))


def stop_others(serving: Sequence[str], keep: str | None) -> None:
    """End what an interrupted switch left running."""
    others = [slot for slot in serving if slot != keep]
    if keep and others:
        route_traffic(keep, others)
    for slot in others:
        stop(slot, drain_s(slot))
