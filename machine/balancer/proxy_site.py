#!/usr/bin/env python3
"""Changes what this balancer serves, and which servers take its requests. Runs as root; standard library only.

    proxy_site.py site                   serve the site on standard input (JSON, see site_state.py)
    proxy_site.py drain ADDRESS          send that server no more requests, and wait for those it has
    proxy_site.py admit ADDRESS          send it requests again
    proxy_site.py unhealthy ADDRESS...   send these servers no requests, and all others; upstream_health.py calls it
    proxy_site.py members                serve the servers that Auto Scaling groups have now; it calls this as well
    proxy_site.py maintenance on|off     respond with 503 and a page (on standard input, else the default one), or not

What is served is the last site without the servers that an operator drained, and without unhealthy ones as long as
their application keeps a server. A change is tested on a copy, swapped in atomically, reloaded and probed; if that
fails, the site before it is put back. When servers are removed or drained it ends only after the old workers have: from
then on no request reaches those servers. Meanwhile the lock is free. Maintenance needs no reload.

An upstream that was unhealthy before, with the same servers, is only logged: one application must not hold up the
others.
"""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import certificate
import proxy
import site_state
from proxy import LOCK, ProxyError
from site_state import PAGE, State, empty_state, read_state, require_state
from system import write_atomically

# Process ids of workers that the next run has to wait for, one a line.
LEAVING = Path("/run/wsgi-fleet.leaving")
DEFAULT_PAGE = site_state.CONFIG / "maintenance.html"
PAGE_BYTES = 1 << 20


def serve(new: State, *, by_agent: bool = False, is_repair: bool = False) -> None:
    """Serve a state, and save it once that works. Raises ProxyError.

    is_repair: the remembered state cannot be read, so nothing is known of what the proxy has loaded.
    by_agent: the change comes from upstream_health.py. It is not probed and waits for no old worker: a server that
    hangs would hold it up for minutes, and the application may be what is unhealthy. A server that leaves its group
    waits by itself.
    """
    old = empty_state() if is_repair else read_state()
    is_known = site_state.STATE.exists() and not is_repair
    before, text = old.render() if is_known else proxy.current_site(), new.render()
    probed = [] if by_agent else upstreams_to_probe(old, new)
    old_workers: set[int] = set()
    # A run that was killed may have left a site that is not the remembered one.
    changes = is_repair or text != before or text != proxy.current_site()
    if changes:
        proxy.test(text)
    try:
        if changes:
            old_workers = proxy.swap_in(text)
        for name in probed:
            proxy.probe(new.site["upstreams"][name]["probe"], https=new.site["https"])
    except ProxyError:
        if changes:
            proxy.swap_in(before)
        raise
    # A server that was unhealthy got no new request, and no run has waited for those that it had.
    removed = sorted(
        ({*old.active_addresses(), *old.unhealthy} - set(new.active_addresses()))
        - set(new.unhealthy)
        - set(old.drained)
    )
    removed += [address for address in new.unhealthy if address in new.drained and address not in old.drained]
    if removed and not by_agent:
        print(f"draining {', '.join(removed)}", flush=True)
        # Before the change is remembered: the run after one that was killed waits in its place.
        pids = sorted(old_workers | leaving_workers())
        write_atomically(LEAVING, "".join(f"{pid}\n" for pid in pids).encode())
    new.write()


def leaving_workers() -> set[int]:
    """Return process ids of workers that finish their requests, and of those in LEAVING."""
    backend = proxy.backend()
    return {pid for pid in backend.workers() if not backend.accepts(pid)} | read_leaving()


def read_leaving() -> set[int]:
    """Return the process ids in LEAVING, none where it is missing."""
    return set(map(int, LEAVING.read_text().split())) if LEAVING.exists() else set()


def wait_for_leaving() -> None:
    """Wait for the old workers of removed servers, also of a killed run. Raises ProxyError."""
    if pids := read_leaving():
        proxy.wait_for(pids)
        if read_leaving() == pids:
            LEAVING.unlink()


def upstreams_to_probe(old: State, new: State) -> list[str]:
    """Return the upstreams that a change may break: all but those that are unhealthy already and keep their servers."""
    before, after, found = old.active_servers(), new.active_servers(), list[str]()
    for name, each in new.site["upstreams"].items():
        keeps = name in before and before[name] == after[name]
        if keeps and (wrong := proxy.error_of(each["probe"], https=old.site["https"])):
            print(f"{name} is unhealthy, as it was before: GET {each['probe']}: {wrong}", flush=True)
        else:
            found.append(name)
    return found


def read_site() -> State:
    """Return the site on standard input, once the servers of groups in it are known."""
    new = State(json.load(sys.stdin), [], [])
    if has_groups(new):
        group_members().wait_for(new)
    return new


def has_groups(state: State) -> bool:
    """Return whether Auto Scaling groups have some of the servers."""
    return any("group" in each for each in state.site["upstreams"].values())


def group_members() -> ModuleType:
    """Return the module about them, which the step after user data brings."""
    return import_module("group_members")


def serve_site(new: State) -> None:
    """Serve a site; servers that an operator drained stay drained, as long as it names them."""
    is_repair = False
    try:
        old = read_state()
    except ProxyError as error:
        old, is_repair = empty_state(), True
        print(f"{error}; this step does, and servers that were drained by hand get requests again", flush=True)
    new = group_members().adopt(new, old) if has_groups(new) else new.marked_as(old, new.servers)
    serve(new, is_repair=is_repair)
    if not new.site["https"]:
        certificate.forget()
    print(describe(new))


def describe(state: State) -> str:
    """Describe the servers that get requests, and those that were drained or are unhealthy."""
    served = state.active_addresses()
    more = f"; drained by hand: {', '.join(state.drained)}" if state.drained else ""
    more += f"; unhealthy: {', '.join(state.unhealthy)}" if state.unhealthy else ""
    servers = "1 server" if len(served) == 1 else f"{len(served)} servers"
    return f"the balancer sends requests to {servers}: {', '.join(served) or 'none'}{more}"


def drain(address: str) -> None:
    """Send this server no more requests. Raises ProxyError where the site does not name it."""
    state = require_state()
    check_address(address, state)
    if address in state.drained:
        print(f"{address} is drained already")
        return
    new = replace(state, drained=[*state.drained, address])
    for name in new.site["upstreams"]:
        new.check_left(name)
    serve(new)


def admit(address: str) -> None:
    """Send a drained server requests again. Raises ProxyError where the site does not name it."""
    state = require_state()
    check_address(address, state)
    if address not in state.drained:
        print(f"{address} takes requests already")
        return
    serve(replace(state, drained=[other for other in state.drained if other != address]))
    print(f"{address} takes requests again")


def exclude_unhealthy(addresses: Sequence[str]) -> None:
    """Serve the site without the unhealthy servers, which these are; do nothing before the first `site`."""
    if site_state.STATE.exists():
        state = read_state()
        serve(replace(state, unhealthy=[each for each in addresses if each in state.servers]), by_agent=True)


def follow_groups() -> None:
    """Serve the servers that groups have now; do nothing before the first `site`."""
    if site_state.STATE.exists():
        serve(group_members().with_members(read_state(), group_members().read_members()), by_agent=True)


def check_address(address: str, state: State) -> None:
    """Raise ProxyError unless the site names the address."""
    if address not in state.servers:
        servers = ", ".join(state.servers) or "none"
        raise ProxyError(f"{address} is no server of this balancer (its servers: {servers}); `pulumi up` adds it")


def maintenance(switch: str) -> None:
    """Switch maintenance on or off. The page is read from standard input; an empty one means the default page."""
    if switch == "off":
        PAGE.unlink(missing_ok=True)
        print("maintenance is off: the application responds")
        return
    site_state.check_exists()
    page = sys.stdin.buffer.read(PAGE_BYTES + 1) or DEFAULT_PAGE.read_bytes()
    if len(page) > PAGE_BYTES:
        raise ProxyError(f"the page has more than {PAGE_BYTES} bytes; link to what is large")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.parent.chmod(0o755)
    write_atomically(PAGE, page)
    print("maintenance is on: clients get 503 and the page; the application responds on health paths")


def main(arguments: Sequence[str]) -> None:
    """Run the command that the arguments name, under the lock."""
    # Before the lock: a server that fails meanwhile is taken out.
    site = read_site() if list(arguments) == ["site"] else None
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        match list(arguments):
            case ["site"] if site:
                serve_site(site)
            case ["drain", address]:
                drain(address)
            case ["admit", address]:
                admit(address)
            case ["unhealthy", *addresses]:
                exclude_unhealthy(addresses)
                return
            case ["members"]:
                follow_groups()
                return
            case ["maintenance", ("on" | "off") as switch]:
                maintenance(switch)
                return
            case _:
                raise ProxyError(str(__doc__))
    # Without the lock: a server that hangs meanwhile can still be removed.
    wait_for_leaving()
    if arguments[0] == "drain":
        print(f"{arguments[1]} is drained: no request is on its way to it any more")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ProxyError, OSError, ValueError) as problem:
        sys.exit(f"error: {problem}; the site before it still serves")
