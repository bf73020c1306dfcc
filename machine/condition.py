"""How the application on this server is: its gateway's workers, what waits in its socket, its health path."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from server import LIVE, RUN, SLOTS, manifest_of, named
from slot import BLUE, GREEN, get, private_socket, restarts_of, state_of
from vitals import vitals

PORT = 8000
# Seconds: who asks how a server is does not wait for an application that hangs.
HEALTH_S = 3.0
STATS_S = 2.0
_LISTEN = "0A"


def condition() -> dict[str, Any]:
    """What `release status` says besides what is where.

    live_since_s: when the live release became so (seconds since 1970). queue: connections that wait to be accepted,
    None where the port does not listen. gateway: by slot that runs. health: of the slot that serves, None without one.
    """
    slots = [slot for slot in (BLUE, GREEN) if state_of(f"app@{slot}") == "active"]
    return {
        "live_since_s": LIVE.lstat().st_mtime if LIVE.exists() else None,
        "boot": state_of("app-boot"),
        "queue": accept_queue(),
        "gateway": {slot: found for slot in slots if (found := gateway(slot))},
        "restarts": {slot: int(restarts_of(f"app@{slot}") or 0) for slot in slots},
        "health": next((health(slot) for slot in slots if named(SLOTS / slot) == named(LIVE)), None),
        "cpus": len(os.sched_getaffinity(0)),
        "machine": vitals(),
    }


def gateway(slot: str) -> dict[str, int] | None:
    """What uWSGI tells of a slot, or None when it does not answer."""
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(STATS_S)
        connection.connect(str(RUN / f"app-{slot}" / "stats.sock"))
        return workers_of(json.loads(b"".join(iter(lambda: connection.recv(65536), b""))))
    return None


def workers_of(stats: dict[str, Any]) -> dict[str, int]:
    """uWSGI's statistics as numbers. A worker is busy when one of its threads is; cheaped ones are neither."""
    workers: list[dict[str, Any]] = [each for each in stats["workers"] if each["status"] not in ("cheap", "pause")]
    threads: list[dict[str, Any]] = [core for each in workers for core in each.get("cores", [])]
    idle = sum(each["status"] == "idle" for each in workers)
    return {
        "workers_busy": len(workers) - idle,
        "workers_idle": idle,
        "threads": len(threads),
        "threads_busy": sum(bool(core["in_request"]) for core in threads),
        "listen_queue": int(stats.get("listen_queue", 0)),
        "requests": sum(int(each["requests"]) for each in workers),
        "harakiris": sum(int(each.get("harakiri_count", 0)) for each in workers),
        "respawns": sum(max(int(each.get("respawn_count", 1)) - 1, 0) for each in workers),
    }


def accept_queue(tables: tuple[Path, ...] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))) -> int | None:
    """Connections that wait on the application's port, as the kernel counts them (`ss -ltn` shows the same).

    uWSGI's own number is of the sockets that it opened; this one systemd opened.
    """
    queues: list[int] = []
    for table in tables:
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == PORT:
                # Of a listening socket tx_queue:rx_queue is 0 and the connections to be accepted.
                queues.append(int(fields[4].partition(":")[2], 16))
    return sum(queues) if queues else None


def health(slot: str) -> dict[str, Any]:
    """The answer of the slot's private socket to GET of the health path; status 0 and why when there was none."""
    release = named(SLOTS / slot)
    path = manifest_of(release)["health_path"] if release else "/"
    begun = time.monotonic()
    try:
        status, line = get(private_socket(f"app@{slot}"), path, HEALTH_S)
    except TimeoutError:
        status, line = 0, f"no answer in {HEALTH_S:.0f} s"
    except (OSError, http.client.HTTPException) as error:
        status, line = 0, str(error)
    return {"path": path, "status": status, "line": line, "answer_ms": round((time.monotonic() - begun) * 1000, 1)}
