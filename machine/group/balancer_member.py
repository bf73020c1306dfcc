#!/usr/bin/env python3
"""Brings back what steps did to the balancer before this one, takes its address, and asks Nginx whether it responds.

The steps stand in the release store: their commands, and their input there or in parameters. Runs as root for as long
as the machine does. Standard library only.

    balancer_member.py            the same
    balancer_member.py give-up    this machine did not become the balancer: the group shall take another one
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

# The other modules stand beside this file; it is started by its path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
import proxy_site
from apply_files import READY
from aws_service import Refused
from fetch import FetchError, fetch, fetch_file, fetch_secrets
from proxy import LOCK, Failure
from scaling_groups import ScalingGroups
from site_state import State

CONFIG, HERE = Path("/etc/wsgi-fleet"), Path(__file__).resolve().parent
# There once the steps of the balancer before were done here.
DONE = CONFIG / "took-over"
# In this order, before the site and after it (components/balancer.py has them).
SITE, BEFORE, AFTER = "site", ("booted", "certificate", "proxy"), ("monitoring",)
# Seconds: for the proxy to be installed; in which AWS must have taken a call; between two tries.
READY_S, CALL_S, PAUSE_S = 600.0, 900.0, 3.0
# Seconds to unpack the static files of an application, 100 MiB at most; and to put up the page of maintenance.
STATIC_S, PAGE_S = 300.0, 30
# Where Nginx responds by itself (templates/nginx/self.conf), and the seconds that it may take.
PORT, RESPONSE_S = 8082, 5.0
# Seconds between two looks; without a response until Nginx is restarted, until this machine is replaced, and then
# between two reports of it.
LOOK_S, RESTART_S, DEAD_S, AGAIN_S = 5.0, 30.0, 90.0, 60.0


T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """A step that was done to the balancer."""

    command: Sequence[str]
    stdin: str
    timeout_s: int


class Member:
    """This machine in its group. CONFIG/member has the group, its hook, and the allocation of the address."""

    def __init__(self) -> None:
        given = json.loads((CONFIG / "member").read_text())
        self._group, self._hook, self._address = given["group"], given["hook"], given["address"]
        self._aws = ScalingGroups()

    def take_address(self) -> None:
        """Have the address lead here. Raises Failure."""
        self._call(lambda: self._aws.take_address(self._address))
        print("the address leads here", flush=True)

    def complete(self, result: str) -> None:
        """End the wait of the group for this machine. result: CONTINUE or ABANDON. Raises Failure."""
        self._call(lambda: self._aws.complete(self._group, self._hook, result))

    def report_dead(self) -> None:
        """Have the group put another machine in the place of this one. Raises Failure where it does not take that."""
        self._call(lambda: self._aws.condemn(self._aws.machine), limit_s=0)

    @staticmethod
    def _call(call: Callable[[], None], limit_s: float = CALL_S) -> None:
        """Call AWS, again while it does not take the call: a new role, or a group that does not wait yet."""
        deadline = time.monotonic() + limit_s
        while True:
            try:
                call()
                return
            except (Refused, OSError, http.client.HTTPException) as error:
                if time.monotonic() >= deadline:
                    raise Failure(str(error)) from error
                print(f"next try in {PAUSE_S:.0f} s: {error}", flush=True)
            time.sleep(PAUSE_S)


def recorded(store: str, name: str) -> Step | None:
    """Return a step as the store has it; None where there was none. Raises FetchError or Failure."""
    text = fetch(store, f"steps/{name}.json", missing_ok=True)
    if not text:
        return None
    given = json.loads(text)
    stdin: str = given["stdin"]
    if secret := given["secret"]:
        parts = fetch_secrets(store, secret)
        stdin = "".join(parts[each] for each in sorted(parts))
        # The name ends with a digest, for an `up` may replace it meanwhile.
        if not hashlib.sha256(stdin.encode()).hexdigest().startswith(secret.rpartition("-")[2]):
            raise Failure(f"the parameters of {name} are not whole; `pulumi up --refresh` writes them anew")
    return Step(given["command"], stdin, given["timeout_s"])


def run(name: str, step: Step) -> None:
    """Do a step again. Raises Failure with what it printed."""
    command = ["timeout", "--kill-after=10", str(step.timeout_s), *step.command]
    # A page of maintenance has each byte as one character.
    text = step.stdin.encode("latin-1" if name == "maintenance" else "utf-8")
    result = subprocess.run(command, check=False, input=text, capture_output=True)
    if result.returncode:
        said = (result.stdout + result.stderr).decode(errors="replace")
        raise Failure(f"{name}: {said.strip()[-2000:]}")
    print(f"{name} is done", flush=True)


def serve(step: Step, drained: Sequence[str]) -> None:
    """Serve the site, whatever the applications behind it respond: this machine comes in a trouble. Raises Failure."""
    new = State(json.loads(step.stdin), [], [])
    if proxy_site.has_groups(new):
        members = proxy_site.group_members()
        members.wait_for(new)
        new = members.adopt(new, new)
    marked = replace(new, drained=[each for each in drained if each in new.servers])
    try:
        marked.active_servers()
        new = marked
    except Failure as error:
        print(f"error: servers that were drained by hand get requests again: {error}", flush=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        proxy_site.serve(new, by_agent=True)
    print(proxy_site.describe(new), flush=True)


def bring_static(store: str) -> None:
    """Bring the static files of the releases that serve. Without them pages are served all the same."""
    file = CONFIG / "static.json"
    for app in json.loads(file.read_text()) if file.exists() else ():
        of_app = f"{store.rpartition('/')[0]}/{app}"
        archive = Path(f"/var/tmp/static-{app}.tar.gz")  # noqa: S108  root's alone, by its mode
        try:
            release = fetch(of_app, "pointer").decode().strip()
            archive.touch(0o600)
            fetch_file(of_app, f"releases/{release}/static.tar.gz", archive)
            for words in (["put", app, release], ["point", app, release]):
                with archive.open("rb") as stdin:
                    command = [sys.executable, str(HERE / "static_files.py"), *words]
                    subprocess.run(command, check=True, stdin=stdin, timeout=STATIC_S)
        except (FetchError, OSError, subprocess.SubprocessError) as error:
            print(f"error: static files of {app}: {error}; a release brings them", flush=True)
        finally:
            archive.unlink(missing_ok=True)


def take_over(store: str, member: Member) -> None:
    """Do the steps again that were done to the balancer before, and take its address. Raises Failure or FetchError."""
    site = retry(lambda: recorded(store, SITE))
    if site is None:
        # There is no site yet that clients could get: `up` comes by this address to bring it, or to read what is wrong.
        member.take_address()
        member.complete("CONTINUE")
    wait_until_set_up()
    for name in BEFORE:
        if step := retry(lambda name=name: recorded(store, name)):
            run(name, step)
    if site:
        bring_static(store)
        # What operators did by hand (commands/marks.py).
        marks = json.loads(retry(lambda: fetch(store, "marks.json", missing_ok=True)) or b"{}")
        serve(site, marks.get("drained", ()))
        if (page := marks.get("page")) is not None:
            run("maintenance", Step([f"{HERE}/proxy_site.py", "maintenance", "on"], page, PAGE_S))
        member.take_address()
        member.complete("CONTINUE")
    for name in AFTER:
        try:
            if step := retry(lambda name=name: recorded(store, name)):
                run(name, step)
        except (Failure, FetchError) as error:
            # Nothing that clients notice: no reason to take another machine.
            print(f"error: {error}; `pulumi up --replace '**::balancer-{name}'` does it again", flush=True)


def retry(work: Callable[[], T]) -> T:
    """Return what the work returns, tried again while the store does not respond or changes. Raises the last error."""
    deadline = time.monotonic() + CALL_S / 3
    while True:
        try:
            return work()
        except (Failure, FetchError) as error:
            if time.monotonic() > deadline:
                raise
            print(f"next try in {PAUSE_S:.0f} s: {error}", flush=True)
        time.sleep(PAUSE_S)


def wait_until_set_up() -> None:
    """Wait until the proxy is installed. Raises Failure."""
    deadline = time.monotonic() + READY_S
    while not READY.exists():
        if time.monotonic() > deadline:
            raise Failure("the proxy was not installed; /var/log/cloud-init-output.log says why")
        time.sleep(0.5)


def responds() -> bool:
    """Return whether Nginx itself responds, whatever applications do."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=RESPONSE_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 204
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def watch(member: Member) -> None:
    """Restart an Nginx that does not respond, and have this machine replaced where that does not help."""
    since = reported = time.monotonic()
    is_restarted = False
    while True:
        time.sleep(LOOK_S)
        now = time.monotonic()
        if responds():
            since, is_restarted = now, False
        elif now - since >= RESTART_S and not is_restarted:
            print(f"error: Nginx does not respond for {now - since:.0f} s and is restarted", flush=True)
            # One that hangs would not end by itself.
            subprocess.run(["systemctl", "kill", "--signal=KILL", "nginx"], check=False)
            subprocess.run(["systemctl", "restart", "--no-block", "nginx"], check=False)
            is_restarted = True
        elif now - since >= DEAD_S and now - reported >= AGAIN_S:
            print(f"error: Nginx does not respond for {now - since:.0f} s: another machine is to come", flush=True)
            reported = now
            try:
                member.report_dead()
            except Failure as error:
                print(f"error: the group was not told: {error}", flush=True)


def main(arguments: Sequence[str]) -> None:
    """Take over unless that was done, and watch. With an argument, give up."""
    member = Member()
    store = (CONFIG / "store").read_text().strip()
    if arguments:
        # Without a site a person runs `up`, and reads here what is wrong.
        if recorded(store, SITE):
            member.complete("ABANDON")
        return
    if not DONE.exists():
        try:
            take_over(store, member)
        except (Failure, FetchError) as error:
            print(f"error: this machine does not become the balancer: {error}", flush=True)
            main(["give-up"])
            raise
        DONE.touch()
    watch(member)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Failure, FetchError) as problem:
        sys.exit(f"error: {problem}")
