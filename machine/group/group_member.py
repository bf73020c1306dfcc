#!/usr/bin/env python3
"""Notifies the Auto Scaling group when this server may get requests, and drains it before it leaves.

A new one waits (Pending:Wait) until it serves the release that the store names. One that leaves, or whose Spot capacity
is taken back, finishes its requests first. Runs as root for as long as the machine does. Standard library only.

    group_member.py            the same
    group_member.py give-up    this machine did not become a server: the group shall replace it
"""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import time
import urllib.error
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread

# The other modules are in the folder of this file, which is started by its path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
from aws_service import Refused
from common import CONFIG, LIVE, SLOTS, log, manifest_of, run, store_url
from fetch import FetchError, fetch, metadata
from lifecycle import Lifecycle, keep_waiting
from slot import drain_s, stop
from slot import is_healthy as is_slot_healthy
from slot_layout import BLUE, process_layout, serving_slots, state_of, units
from symlinks import link_target

# Port on which Nginx listens for the load balancer, and the path of its checks (rendering/server_site.py).
PORT, HEALTH_PATH = 8000, "/.wsgi-fleet/health"
# Seconds between two looks, and between two signs of life while the group waits.
LOOK_S, HEARTBEAT_S = 5.0, 300.0
# The same of one that leaves; platforms/aws/server_group.py has the group wait for three times as long.
LEAVING_S = 60.0
# Seconds to come onto the release that the store names. Then the group takes another machine.
LAUNCH_S = 1800.0
# Seconds in which a group that waits must have heard that this server serves, or has gone.
HEARD_S = 900.0
# Seconds that are left of the two minutes of a Spot notice, once it was seen and what follows has its time.
SPOT_S = 90.0
# Seconds until the stack's own balancer sends no more requests to a server that leaves. It asks the group every 5 s
# (machine/balancer/membership.py), and then reloads its proxy.
UNLISTED_S = 20.0


class Group:
    """The group of this machine. CONFIG/group has its name and those of its two hooks.

    by_load_balancer: whether the group registers its machines in one.
    """

    def __init__(self) -> None:
        config = json.loads((CONFIG / "group").read_text())
        self._lifecycle, self.launch, self.terminate = Lifecycle(config["name"]), config["launch"], config["terminate"]
        self.by_load_balancer: bool = config["by_load_balancer"]
        self._last_message = ""

    def complete(self, hook: str, result: str = "CONTINUE") -> bool:
        """Have a group that waits for a hook go on. Return whether it did wait."""
        return self._waits("CompleteLifecycleAction", lambda: self._lifecycle.complete(hook, result))

    def beat(self, hook: str) -> bool:
        """Have a group wait on. Return whether it does wait."""
        return self._waits("RecordLifecycleActionHeartbeat", lambda: self._lifecycle.beat(hook))

    def _waits(self, action: str, call: Callable[[], None]) -> bool:
        """Make a call for an action. Return whether the group took it, which it does while it waits."""
        try:
            call()
        except (Refused, OSError, http.client.HTTPException) as error:
            # Mostly that it does not wait (yet). The rest is tried again as well.
            if (message := f"{action}: {error}") != self._last_message:
                log(message)
            self._last_message = message
            return False
        return True


def find(path: str) -> str:
    """Return the machine's metadata at a path, "" if there are none."""
    try:
        return metadata(f"meta-data/{path}", metadata("api/token"))
    except urllib.error.HTTPError as error:
        # Closed, because it is the response as well.
        error.close()
    except (OSError, http.client.HTTPException) as error:
        log(f"{path}: no response: {error}")
    return ""


def is_terminating() -> bool:
    """Return whether the group is terminating this server, and has deregistered it from the load balancer."""
    return find("autoscaling/target-lifecycle-state").strip() == "Terminated"


def reason_to_leave() -> str:
    """Return why this machine is about to go; "" while it stays."""
    if is_terminating():
        return "the group takes this server away"
    if notice := find("spot/instance-action"):
        return f"EC2 takes its Spot capacity back ({notice.strip()})"
    return ""


def pointer() -> str | None:
    """Return the release that the store names; "" before the first one, None where the store does not respond."""
    try:
        return fetch(store_url(), "pointer", missing_ok=True).decode().strip()
    except (FetchError, OSError, http.client.HTTPException) as error:
        log(f"the release to serve is not known: {error}")
        return None


def is_healthy(*, by_load_balancer: bool) -> bool:
    """Return whether this server responds to a load balancer's check with 200; without one, whether it is healthy."""
    if not by_load_balancer:
        return serves_by_itself()
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", HEALTH_PATH)
        return connection.getresponse().status == 200
    return False


def serves_by_itself() -> bool:
    """Return whether the release that is live is healthy in a slot, and what listens for the balancer runs."""
    release, is_local = link_target(LIVE), bool(process_layout()[1])
    if not release or (is_local and state_of("nginx") != "active"):
        return False
    slots = [slot for slot in serving_slots() if link_target(SLOTS / slot) == release]
    if not slots and not is_local and link_target(SLOTS / BLUE) == release:
        # Units start at boot, but the first boot had no release, and no request starts them.
        run("systemctl", "start", "--no-block", "app.socket", *units(BLUE))
    return any(is_slot_healthy(slot, manifest_of(release)) for slot in slots)


def join(group: Group) -> str:
    """Wait until this server serves, and notify the group. Return why it must leave before; "" once notified."""
    start_s, beat_s = time.monotonic(), time.monotonic()
    served: float | None = None
    while not (why := reason_to_leave()):
        now, release = time.monotonic(), pointer()
        if release == "":
            # Before the first release, which the first rollout installs.
            start_s = now
        if release and release == link_target(LIVE) and is_healthy(by_load_balancer=group.by_load_balancer):
            served = served or now
            if group.complete(group.launch):
                log(f"{release} serves: the group may send requests")
                return ""
            if now - served > HEARD_S:
                # After a restart of the machine or of this program: the group was notified long ago.
                log("the group does not wait for this server")
                return ""
        elif now - beat_s > HEARTBEAT_S and now - start_s < LAUNCH_S:
            group.beat(group.launch)
            beat_s = now
        time.sleep(LOOK_S)
    return why


def wait_until_terminating(limit_s: float) -> None:
    """Serve on until the group has heard of the notice as well: until then the load balancer sends requests."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and not is_terminating():
        time.sleep(LOOK_S)


def leave(group: Group, why: str) -> None:
    """Finish the requests and end what runs. Then have the group go on."""
    slots = serving_slots()
    limit = max(map(drain_s, slots), default=0)
    unlisted_s = 0.0 if group.by_load_balancer else UNLISTED_S
    if "Spot" in why:
        limit = min(limit, SPOT_S - unlisted_s)
        wait_until_terminating(SPOT_S - unlisted_s - limit)
    log(f"{why}: it finishes its requests for {limit:.0f} s")
    ended = Event()
    # Nginx, then each slot, and what killing takes. Not for ever: a process may be one that nothing ends.
    limits = {"every_s": LEAVING_S, "limit_s": (limit + 60) * (1 + len(slots)) + limit + unlisted_s}
    beating = Thread(target=keep_waiting, args=[lambda: group.beat(group.terminate), ended], kwargs=limits, daemon=True)
    beating.start()
    try:
        # The group has already notified a load balancer, which waits as long for its open requests. A balancer of the
        # stack finds out by itself; the gateways finish what it has sent.
        time.sleep(limit if group.by_load_balancer else unlisted_s)
        run("systemctl", "stop", "nginx", "app-worker-*", "app-schedule-*", timeout_s=limit + 60)
        # Otherwise it would start a slot again for connections that a hung gateway left waiting.
        run("systemctl", "stop", "--no-block", "app.socket")
        for slot in slots:
            stop(slot, limit)
    finally:
        ended.set()
        beating.join()
    deadline = time.monotonic() + HEARD_S
    while not group.complete(group.terminate) and time.monotonic() < deadline:
        time.sleep(LOOK_S)


def give_up(group: Group) -> None:
    """Have the group replace this machine at once, because it will not serve.

    Before the first release it stays: the rollout that brings it reads here what is wrong, and tells a person.
    """
    deadline = time.monotonic() + HEARD_S
    while pointer() != "" and not group.complete(group.launch, "ABANDON") and time.monotonic() < deadline:
        time.sleep(LOOK_S)


def main(arguments: Sequence[str]) -> None:
    """Join, stay until there is a reason to leave, and leave. With an argument, give up."""
    group = Group()
    if arguments:
        give_up(group)
        return
    why = join(group)
    while not why:
        time.sleep(LOOK_S)
        why = reason_to_leave()
    leave(group, why)
    while True:
        # systemd would start it again.
        time.sleep(HEARD_S)


if __name__ == "__main__":
    main(sys.argv[1:])
