#!/usr/bin/env python3
"""Prints how this app server is, as JSON: its releases, its gateway's workers, its socket and its health path.

    app_status.py           all
    app_status.py release   what a rollout reads, which one question to systemd answers

Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import itertools
import json
import os
import re
import socket
import stat
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

# The other modules are in the folder of this file, which is started by its path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import LIVE, RELEASES, RUN, SLOTS, manifest_of, run
from slot_layout import BLUE, GREEN, best_state, gateways, get, private_socket, process_layout, state_of, units
from symlinks import link_target
from system import APP_PORT

# Units of the application that systemd restarts.
WITH_RESTARTS = ("app@*", "app-worker-*")
# Ports of the processes behind the local Nginx (rendering/gateway_files.py).
PROCESS_PORTS = range(8100, 8300)
# Time-outs in seconds: `./fleet status` must not wait for an application that hangs.
HEALTH_S = 3.0
STATS_S = 2.0
_LISTEN = "0A"
# What the companion logs when a request ends its worker. It is searched in the last lines of the last seconds.
_ENDED_REQUEST = re.compile(
    r"^worker \d+ ended while it worked on .*|^.* took longer than \d+ s: worker \d+ ends$", re.MULTILINE
)
ENDED_LINES, ENDED_S = 500, 600
# Of a file that a worker has: process, threads, entries. How many are looked at, and how much of one.
_WORKER = re.compile(r"worker-([0-9]{1,10})-([0-9]{1,6})-([1-9][0-9]{0,5})", re.ASCII)
MAX_WORKERS, MAX_BYTES = 1000, 1 << 22


def release_status() -> dict[str, Any]:
    """Return what a rollout reads of this server.

    live: release that serves. slots: state and release of each. staged: releases that are proven here. restarts: unit
    -> how often systemd restarted it, without units that it never did. socket: state of the listening socket; "" where
    Nginx listens. releases/status.py has the types.
    """
    of_slots = {slot: units(slot) for slot in (BLUE, GREEN)}
    shown = show_units(*itertools.chain(*of_slots.values()), "app.socket", *WITH_RESTARTS)
    states = {
        slot: best_state(shown[f"{unit}.service"]["ActiveState"] for unit in every) for slot, every in of_slots.items()
    }
    return {
        "live": link_target(LIVE),
        "slots": {slot: {"state": state, "release": link_target(SLOTS / slot)} for slot, state in states.items()},
        "staged": sorted(file.parent.name for file in RELEASES.glob("*/.staged")),
        "restarts": count_restarts(shown),
        "socket": "" if process_layout()[1] else shown["app.socket"]["ActiveState"],
    }


def app_status() -> dict[str, Any]:
    """Return what serves on this server and how it is: what release_status() returns, and more.

    live_since_s: when the release became live (seconds since 1970). queue: connections that wait to be accepted, None
    where the port does not listen. gateway: slot -> its workers. health: of the slot that serves, None without one.
    ended: log lines of the last ENDED_S seconds about requests that ended their worker, the newest first.
    """
    # Here, as below: a rollout asks often, and needs neither.
    from host_status import host_status  # noqa: PLC0415

    found = release_status()
    slots = [slot for slot, each in found["slots"].items() if each["state"] == "active"]
    return {
        **found,
        "live_since_s": LIVE.lstat().st_mtime if LIVE.exists() else None,
        "boot": state_of("app-boot"),
        "queue": accept_queue(PROCESS_PORTS if process_layout()[1] else ()),
        "gateway": {slot: found for slot in slots if (found := gateway_status(slot))},
        "ended": find_ended_requests(),
        "health": next((check_health(slot) for slot in slots if link_target(SLOTS / slot) == link_target(LIVE)), None),
        "machine": host_status(),
    }


def show_units(*names: str) -> dict[str, dict[str, str]]:
    """Return what systemd knows of units, by their full names: ActiveState, and NRestarts of services."""
    text = run("systemctl", "show", "-p", "Id,NRestarts,ActiveState", *names).stdout
    every = [dict(line.split("=", 1) for line in each.split()) for each in text.split("\n\n") if each.strip()]
    return {each["Id"]: each for each in every}


def count_restarts(shown: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """Return how often systemd restarted services that run, without those that it never did."""
    return {unit: times for unit, times in restarts_of(shown).items() if times}


def list_restarts() -> dict[str, int]:
    """Return how often systemd restarted each unit of the application that runs."""
    return restarts_of(show_units(*WITH_RESTARTS))


def restarts_of(shown: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """Return how often systemd restarted each service of these that runs. One that was stopped keeps its number."""
    return {
        unit: int(each["NRestarts"])
        for unit, each in shown.items()
        if "NRestarts" in each and each["ActiveState"] not in ("inactive", "failed")
    }


def find_ended_requests() -> list[str]:
    """Return the newest log lines about requests that ended their worker."""
    read = ("journalctl", "--no-pager", "-q", "-o", "cat", "-r", "-n", str(ENDED_LINES), f"--since=-{ENDED_S}s")
    return _ENDED_REQUEST.findall(run(*read, "-u", "app@*").stdout)


def gateway_status(slot: str) -> dict[str, int] | None:
    """Return the statistics of a slot, all its gateways together, or None when none has any."""
    found = [each for name in gateways(slot) if (each := uwsgi_status(name) or count_requests(RUN / f"app-{name}"))]
    return {key: sum(each[key] for each in found) for key in found[0]} if found else None


def uwsgi_status(name: str) -> dict[str, int] | None:
    """Return uWSGI's own statistics of one gateway, or None when it does not respond or is another one."""
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(STATS_S)
        connection.connect(str(RUN / f"app-{name}" / "stats.sock"))
        return count_workers(json.loads(b"".join(iter(lambda: connection.recv(65536), b""))))
    return None


def count_requests(folder: Path) -> dict[str, int] | None:
    """Return the statistics of a gateway by the files of its workers (gateway_requests.py); None where there are none.

    worker-PID-THREADS-ENTRIES: as many entries of one size, each of which begins with 0 if it is free. The application
    can write anything there: nothing but a short regular file of a process that lives counts.
    """
    workers: list[tuple[int, int]] = []
    for file in itertools.islice(folder.glob("worker-*"), MAX_WORKERS):
        found = _WORKER.fullmatch(file.name)
        if not found or not Path(f"/proc/{found[1]}").exists():
            continue
        with contextlib.suppress(OSError), open(file, "rb", opener=_open_regular) as opened:
            entries, content = int(found[3]), opened.read(MAX_BYTES)
            size = len(content) // entries
            workers.append((int(found[2]), sum(map(bool, content[::size])) if size else 0))
    busy = sum(number > 0 for _, number in workers)
    counted = {"workers_busy": busy, "workers_idle": len(workers) - busy, "listen_queue": 0}
    threads = {"threads": sum(each for each, _ in workers), "threads_busy": sum(number for _, number in workers)}
    return counted | threads if workers else None


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file")
    return descriptor


def count_workers(stats: dict[str, Any]) -> dict[str, int]:
    """Return uWSGI's statistics as numbers. A worker is busy when one of its threads is; cheaped ones are neither."""
    workers: list[dict[str, Any]] = [each for each in stats["workers"] if each["status"] not in ("cheap", "pause")]
    threads: list[dict[str, Any]] = [core for each in workers for core in each.get("cores", [])]
    idle = sum(each["status"] == "idle" for each in workers)
    return {
        "workers_busy": len(workers) - idle,
        "workers_idle": idle,
        "threads": len(threads),
        "threads_busy": sum(bool(core["in_request"]) for core in threads),
        "listen_queue": int(stats.get("listen_queue", 0)),
    }


def accept_queue(
    more: Collection[int] = (), tables: tuple[Path, ...] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
) -> int | None:
    """Return how many connections wait on the application's port, and on more, as the kernel counts (like `ss -ltn`).

    None where the application's port does not listen.

    uWSGI's own number is of the sockets that it opened; this one systemd opened.
    """
    queues: dict[int, int] = {}
    for table in tables:
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == _LISTEN and (port == APP_PORT or port in more):
                # Of a listening socket tx_queue:rx_queue is 0 and the connections to be accepted.
                queues[port] = queues.get(port, 0) + int(fields[4].partition(":")[2], 16)
    return sum(queues.values()) if APP_PORT in queues else None


def check_health(slot: str) -> dict[str, Any]:
    """Send GET to the health path of each gateway of a slot, and return the worst response.

    Without a response the status is 0, and the line says why.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    release, names = link_target(SLOTS / slot), gateways(slot)
    manifest = manifest_of(release) if release else {"health_path": "/"}
    with ThreadPoolExecutor(len(names)) as pool:
        responses = list(pool.map(functools.partial(_get_health, manifest), names))
    worst = next((each for each in responses if each[0] != 200), responses[0])
    of = f"{names[responses.index(worst)]}: " if len(names) > 1 and worst[0] != 200 else ""
    return {"path": manifest["health_path"], "status": worst[0], "line": of + worst[1]}


def _get_health(manifest: dict[str, Any], name: str) -> tuple[int, str]:
    """Return the status and the first line of a gateway's response."""
    try:
        return get(private_socket(name), manifest, HEALTH_S)
    except TimeoutError:
        return 0, f"no response in {HEALTH_S:.0f} s"
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)


if __name__ == "__main__":
    print(json.dumps(release_status() if sys.argv[1:] == ["release"] else app_status()))
