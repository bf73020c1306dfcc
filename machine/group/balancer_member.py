#!/usr/bin/env python3
"""Makes this machine the balancer: repeats the steps of the one before, takes its address, and checks its own Nginx.

The release store has the commands of the steps. Their input is there too, or in parameters if it is secret. Runs as
root as long as the machine runs. Standard library only.

    balancer_member.py            become the balancer, and check Nginx
    balancer_member.py give-up    this machine did not become the balancer: have the group take another one
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

# The other modules are in the folder of this file, which is started by its path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
import proxy_site
from apply_files import READY
from fetch import FetchError, fetch, fetch_file, fetch_secrets
from group_boot import retry
from group_of_one import CALL_S, Member
from proxy import LOCK, ProxyError
from site_state import State

CONFIG, HERE = Path("/etc/wsgi-fleet"), Path(__file__).resolve().parent
# Exists once the steps of the balancer before were repeated here.
DONE = CONFIG / "took-over"
# In this order, before the site and after it (components/balancer.py has them).
SITE, BEFORE, AFTER = "site", ("booted", "certificate", "proxy"), ("monitoring", "metrics")
# Seconds for the proxy to be installed, and to call a group that may not wait any more.
READY_S, GIVE_UP_S = 600.0, 60.0
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


def fetch_again(work: Callable[[], T]) -> T:
    """Return what the work returns, tried again while the store does not respond or changes. Raises the last error."""
    return retry(work, errors=(ProxyError, FetchError))


def read_step(store: str, name: str) -> Step | None:
    """Return a step from the store; None if there was none. Raises FetchError or ProxyError."""
    text = fetch(store, f"steps/{name}.json", missing_ok=True)
    if not text:
        return None
    record = json.loads(text)
    stdin: str = record["stdin"]
    if secret := record["secret"]:
        parts = fetch_secrets(store, secret)
        stdin = "".join(parts[each] for each in sorted(parts))
        # The name ends with a digest, for an `up` may replace it meanwhile.
        if not hashlib.sha256(stdin.encode()).hexdigest().startswith(secret.rpartition("-")[2]):
            raise ProxyError(f"the parameters of {name} are not whole; `pulumi up --refresh` writes them anew")
    return Step(record["command"], stdin, record["timeout_s"])


def run(name: str, step: Step) -> None:
    """Do a step again. Raises ProxyError with what it printed."""
    command = ["timeout", "--kill-after=10", str(step.timeout_s), *step.command]
    # A page of maintenance has each byte as one character.
    text = step.stdin.encode("latin-1" if name == "maintenance" else "utf-8")
    result = subprocess.run(command, check=False, input=text, capture_output=True)
    if result.returncode:
        output = (result.stdout + result.stderr).decode(errors="replace")
        raise ProxyError(f"{name}: {output.strip()[-2000:]}")
    print(f"{name} is done", flush=True)


def serve(step: Step, drained: Mapping[str, str]) -> None:
    """Serve the site, even if applications behind it do not respond: they may be down as well. Raises ProxyError.

    drained: address -> instance, of servers that are to get no requests. Another one may have the address by now.
    """
    new, instances = State(json.loads(step.stdin), [], []), dict[str, str]()
    if proxy_site.has_groups(new):
        members = proxy_site.group_members()
        members.wait_for(new)
        new = members.adopt(new, new)
        instances = members.instances_of(new)
    here = [each for each, id_ in drained.items() if each in new.servers and instances.get(each, id_) == id_]
    marked = replace(new, drained=here)
    try:
        marked.active_servers()
        new = marked
    except ProxyError as error:
        print(f"error: servers that were drained by hand get requests again: {error}", flush=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        proxy_site.serve(new, by_agent=True)
    print(proxy_site.describe(new), flush=True)


def fetch_static(store: str) -> None:
    """Fetch the static files of the current releases. A failure is printed, and pages are served without them."""
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
    """Repeat the steps of the balancer before, and take its address. Raises ProxyError or FetchError."""
    site = fetch_again(lambda: read_step(store, SITE))
    if site is None:
        # Clients cannot be served yet. `up` connects to this address to install the site, or to read the errors.
        member.join()
    wait_until_set_up()
    for name in BEFORE:
        if step := fetch_again(lambda name=name: read_step(store, name)):
            run(name, step)
    if site:
        fetch_static(store)
        # What operators did by hand (commands/marks.py).
        marks = json.loads(fetch_again(lambda: fetch(store, "marks.json", missing_ok=True)) or b"{}")
        serve(site, marks.get("drained", {}))
        if (page := marks.get("page")) is not None:
            run("maintenance", Step([f"{HERE}/proxy_site.py", "maintenance", "on"], page, PAGE_S))
        member.join()
    for name in AFTER:
        try:
            if step := fetch_again(lambda name=name: read_step(store, name)):
                run(name, step)
        except (ProxyError, FetchError) as error:
            # Clients do not notice it, so this machine stays.
            print(f"error: {error}; `pulumi up --replace '**::balancer-{name}'` does it again", flush=True)


def wait_until_set_up() -> None:
    """Wait until the proxy is installed. Raises ProxyError."""
    deadline = time.monotonic() + READY_S
    while not READY.exists():
        if time.monotonic() > deadline:
            raise ProxyError("the proxy was not installed; /var/log/cloud-init-output.log says why")
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
    """Restart Nginx if it does not respond. If that does not help, have this machine replaced.

    Take the address back when a machine has left that was to replace this one: it may have had the address.
    """
    since = reported = asked = time.monotonic()
    is_restarted, was_alone = False, True
    while True:
        time.sleep(LOOK_S)
        now = time.monotonic()
        if now - asked >= AGAIN_S:
            asked = now
            was_alone = take_back(member, was_alone=was_alone)
        if responds():
            since, is_restarted = now, False
        elif now - since >= RESTART_S and not is_restarted:
            print(f"error: Nginx does not respond for {now - since:.0f} s and is restarted", flush=True)
            # One that hangs would not end by itself.
            subprocess.run(["systemctl", "kill", "--signal=KILL", "nginx"], check=False)
            subprocess.run(["systemctl", "restart", "--no-block", "nginx"], check=False)
            is_restarted = True
        elif now - since >= DEAD_S and now - reported >= AGAIN_S:
            print(
                f"error: Nginx does not respond for {now - since:.0f} s: the group is to replace this machine",
                flush=True,
            )
            reported = now
            try:
                member.report_dead()
            except ProxyError as error:
                print(f"error: the group did not take the report: {error}", flush=True)


def take_back(member: Member, *, was_alone: bool) -> bool:
    """Take the address where this machine is alone in its group and was not. Return whether it is, and has it."""
    try:
        is_alone = member.is_alone()
        if is_alone and not was_alone:
            member.take_address(limit_s=0)
    except ProxyError as error:
        print(f"error: {error}", flush=True)
        return was_alone
    return is_alone


def give_up(store: str, member: Member, limit_s: float = CALL_S) -> None:
    """Have the group take another machine. Without a site an operator runs `up`, and reads the errors on this one."""
    if fetch_again(lambda: read_step(store, SITE)):
        member.give_up(limit_s)


def main(arguments: Sequence[str]) -> None:
    """Repeat the steps unless that was done, then check Nginx for ever. With an argument, give up."""
    member = Member()
    store = (CONFIG / "store").read_text().strip()
    if arguments:
        give_up(store, member)
        return
    if not DONE.exists():
        ended = Event()
        Thread(target=member.keep_waiting, args=[ended], daemon=True).start()
        try:
            take_over(store, member)
        except (ProxyError, FetchError) as error:
            print(f"error: this machine does not become the balancer: {error}", flush=True)
            give_up(store, member, GIVE_UP_S)
            raise
        finally:
            ended.set()
        DONE.touch()
    watch(member)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ProxyError, FetchError) as problem:
        sys.exit(f"error: {problem}")
