"""Processes that this server's own Nginx balances: which slot it asks, and what supervisord reports of them.

    local_nginx.py wait          before Nginx starts: wait until a process is healthy; until then the port refuses
    local_nginx.py again SLOT    start what supervisord gave up, again and again

Standard library only.
"""

from __future__ import annotations

import contextlib
import http.client
import sys
import time
from pathlib import Path
from typing import Any, cast

from common import RUN, SLOTS, AppServerError, log, manifest_of, run
from slot_layout import connect, gateways, get, private_socket, state_of, units
from symlinks import atomic_symlink, link_target

# A link to that of the slot that serves, in its release.
CONF = Path("/etc/nginx/nginx.conf")
# Seconds until new workers of Nginx accept.
RELOAD_S = 15
# Seconds for a process to respond after a boot; less than Nginx's start time-out in systemd (90 s), which retries it.
WAIT_S = 60
# Seconds between two looks for processes that supervisord gave up.
AGAIN_S = 5


def select_config(slot: str) -> None:
    """Have Nginx ask this slot when it starts or reloads."""
    atomic_symlink(CONF, SLOTS / slot / "gateway" / f"nginx-{slot}.conf")


def start(slot: str) -> None:
    """Start a slot, and Nginx once it serves. Do not wait: callers wait for a unit that this is part of."""
    select_config(slot)
    run("systemctl", "start", "--no-block", *units(slot), "nginx")


def route_traffic(slot: str, drain_s: float) -> None:
    """Have Nginx use this slot; wait for the responses of the other slot, or for drain_s seconds.

    Raises AppServerError when it does not take that; then it asks whom it asked before.
    """
    before = CONF.readlink() if CONF.is_symlink() else None
    select_config(slot)
    try:
        _call("/usr/sbin/nginx", "-t", "-q")
        if state_of("nginx") == "active":
            reload(drain_s)
        else:
            _call("systemctl", "start", "nginx")
    except BaseException:
        if before:
            atomic_symlink(CONF, before)
        else:
            # It would be tried again for ever.
            run("systemctl", "stop", "nginx")
            CONF.unlink()
        raise


def reload(drain_s: float) -> None:
    """Have Nginx read CONF, and wait for its old workers."""
    old = workers()
    _call("systemctl", "reload", "nginx")
    start_s = time.monotonic()
    while not (now := workers()).keys() - old or any(accepts for pid, accepts in now.items() if pid in old):
        if time.monotonic() - start_s > RELOAD_S:
            raise AppServerError("Nginx did not start new workers; `journalctl -u nginx` says why")
        time.sleep(0.02)
    while workers().keys() & old.keys():
        if time.monotonic() - start_s > drain_s:
            log(f"Nginx still waits for responses after {drain_s:.0f} s")
            return
        time.sleep(0.05)


def _call(*command: str) -> None:
    if (done := run(*command)).returncode:
        raise AppServerError(f"Nginx cannot send requests to the processes: {(done.stderr + done.stdout).strip()}")


def workers() -> dict[int, bool]:
    """Process ids of Nginx's workers -> whether they accept; old ones still finish what they have."""
    found: dict[int, bool] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            title = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if title.startswith(b"nginx: worker process"):
                found[int(entry.name)] = b"shutting down" not in title
    return found


def supervisord_processes(slot: str) -> list[dict[str, Any]]:
    """Return what supervisord reports of each process of the application; nothing while it does not respond."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        every = _ask_supervisord(slot, "supervisor.getAllProcessInfo")
        return [each for each in every if each["group"] == slot]
    return []


def _ask_supervisord(slot: str, method: str, *arguments: Any) -> Any:
    """Call a method of supervisord's XML-RPC and return its result.

    Raises OSError or HTTPException, also where it reports a fault.
    """
    # Here, because all verbs of release.py load this module: a third of their start. Few servers have a supervisord.
    import xmlrpc.client  # noqa: PLC0415

    with contextlib.closing(connect(RUN / f"app-{slot}" / "supervisor.sock", 5)) as connection:
        body = xmlrpc.client.dumps(arguments, method)
        connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
        try:
            return cast("Any", xmlrpc.client.loads(connection.getresponse().read())[0][0])
        except xmlrpc.client.Error as error:
            raise http.client.HTTPException(str(error)) from error


def wait_for_process() -> None:
    """Wait until a process of the slot that Nginx is going to ask is healthy."""
    slot = CONF.readlink().stem.removeprefix("nginx-")
    release, deadline = link_target(SLOTS / slot), time.monotonic() + WAIT_S
    manifest = manifest_of(release) if release else {"health_path": "/"}
    while time.monotonic() < deadline:
        for name in gateways(slot):
            with contextlib.suppress(OSError, http.client.HTTPException):
                if get(private_socket(name), manifest, 5)[0] == 200:
                    return
        time.sleep(0.2)
    sys.exit(f"no process of slot {slot} responds to GET {manifest['health_path']} with 200: the port stays closed")


def start_again(slot: str) -> None:
    """Start what supervisord gave up; that leaves a process that ended too often alone for ever."""
    while True:
        time.sleep(AGAIN_S)
        for each in supervisord_processes(slot):
            if each["statename"] == "FATAL":
                with contextlib.suppress(OSError, http.client.HTTPException):
                    _ask_supervisord(slot, "supervisor.startProcess", f"{each['group']}:{each['name']}", False)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["wait"]:
            wait_for_process()
        case ["again", name]:
            start_again(name)
        case _:
            sys.exit(__doc__)
