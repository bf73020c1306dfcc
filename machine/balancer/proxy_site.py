#!/usr/bin/env python3
"""The site that this balancer serves, and who takes its requests. Runs as root; standard library only.

    proxy_site.py site [JSON] PROBE...   make the site on standard input the wanted one; a probe for each application
    proxy_site.py drain ADDRESS          send that member no more requests, and wait for those it has
    proxy_site.py admit ADDRESS          send them again
    proxy_site.py unhealthy ADDRESS...   send these members no requests, and all others; upstream_health.py calls it
    proxy_site.py maintenance on|off     answer 503 with a page (on standard input, else the default one), or no more

What is served is the wanted site without the members that were drained by hand, and without unhealthy ones as long as
their application keeps a member. A change is tested on a copy, swapped in atomically, reloaded and probed; if that
fails, the site before it is put back. When members are removed or drained it ends only after the old workers have: then
nobody asks those servers any more. Meanwhile the lock is free. Maintenance needs no reload.

JSON says how servers are asked for their health: {UPSTREAM: {"protocol": "uwsgi" or "http", "health_path": PATH}}.

A probe is [UPSTREAM=][HOST]/PATH. An upstream that was unwell before, with the same members, is only told: one
application must not hold up the others.
"""

from __future__ import annotations

import fcntl
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import certificate
import proxy
from proxy import LOCK, Failure

CONFIG = Path("/etc/wsgi-fleet")
# What the last `site` wanted, whom a hand has drained since, and what is probed; one address or probe a line.
WANTED, DRAINED, PROBES = CONFIG / "site.wanted", CONFIG / "drained", CONFIG / "probes"
# Members that upstream_health.py found unhealthy; and for it: upstream -> members, protocol, health_path, as JSON.
UNHEALTHY, UPSTREAMS = CONFIG / "unhealthy", CONFIG / "upstreams.json"
# What upstream_health.py thinks, for people and alarms.
HEALTH = Path("/run/wsgi-fleet/health.json")
# Process ids of workers that somebody has to wait for.
LEAVING = Path("/run/wsgi-fleet.leaving")
DEFAULT_PAGE = CONFIG / "maintenance.html"
# While this file is there, the proxy answers with it (templates/*/).
PAGE = CONFIG / "errors" / "maintenance.html"
PAGE_BYTES = 1 << 20
# A member and the application that it is one of, as Nginx's sites name them and as Apache's do.
_SERVER = re.compile(r"^\s*(?:server |BalancerMember \w+://)(\S+):\d+ ", re.MULTILINE)
_UPSTREAM = re.compile(r"^(?:upstream |<Proxy balancer://)(\w+)")


def addresses(text: str) -> list[str]:
    """Return the members that a site names, in order."""
    return _SERVER.findall(text)


def members(text: str) -> dict[str, list[str]]:
    """Return upstream -> its members, of a site."""
    found: dict[str, list[str]] = {}
    upstream = ""
    for line in text.splitlines():
        if opened := _UPSTREAM.match(line):
            upstream = opened[1]
        elif server := _SERVER.match(line):
            found.setdefault(upstream, []).append(server[1])
    return found


def remove_servers(text: str, drained: Iterable[str], unhealthy: Iterable[str] = ()) -> str:
    """Return the site without the lines of these members; of unhealthy ones only where their application keeps one.

    Raises Failure when an application would have none left that is not drained.
    """
    gone = set(drained)
    for name, there in members(text).items():
        left = set(there) - gone
        if not left:
            raise Failure(
                f"{name} would have no member left ({', '.join(there)}): admit one with `./fleet admit`, or answer "
                "clients with a page by `./fleet maintenance on`"
            )
        if not left.issubset(unhealthy):
            gone |= left.intersection(unhealthy)
    lines_ = text.splitlines(keepends=True)
    return "".join(line for line in lines_ if not ((server := _SERVER.match(line)) and server[1] in gone))


def read_lines(file: Path) -> list[str]:
    """Return the lines of a file, none where it is missing."""
    return file.read_text().split() if file.exists() else []


def desired_site() -> str:
    """Return the site that the last `site` brought; before the first, the one that serves."""
    return WANTED.read_text() if WANTED.exists() else proxy.current_site()


def served_now() -> str | None:
    """Return the site that the last run has remembered as served; None before the first."""
    return remove_servers(WANTED.read_text(), read_lines(DRAINED), read_lines(UNHEALTHY)) if WANTED.exists() else None


def serve(want: str, drained: Sequence[str], probes: Sequence[str], unhealthy: Sequence[str] | None = None) -> None:
    """Serve the wanted site without the drained and unhealthy members, and remember all once it does. Raises Failure.

    unhealthy: given by upstream_health.py, whose change is not probed and waits for no old worker: a server that hangs
    would hold it up for minutes, and the application may be what is unhealthy.
    """
    in_haste, unhealthy = unhealthy is not None, read_lines(UNHEALTHY) if unhealthy is None else unhealthy
    unhealthy = [address for address in unhealthy if address in addresses(want)]
    text = remove_servers(want, drained, unhealthy)
    served = served_now()
    before = proxy.current_site() if served is None else served
    unwell = already_failing(probes, members(before), members(text)) if not in_haste else set(probes)
    old: set[int] = set()
    # One that was killed between both may have left a site that nobody has read.
    changes = text != served or (in_haste and text != proxy.current_site())
    if changes:
        proxy.test(text)
    try:
        if changes:
            old = proxy.swap_in(text)
        for probe in probes:
            if probe not in unwell:
                proxy.probe(probe.rpartition("=")[2])
    except Failure:
        if changes:
            proxy.swap_in(before)
        raise
    # One that was unhealthy got no new request, and nobody has waited for those that it had.
    removed = sorted(
        ({*addresses(before), *read_lines(UNHEALTHY)} - set(addresses(text)))
        - set(unhealthy)
        - set(read_lines(DRAINED))
    )
    removed += [address for address in unhealthy if address in drained and address not in read_lines(DRAINED)]
    if removed:
        print(f"draining {', '.join(removed)}", flush=True)
        # Before the change is remembered: whoever comes after a run that was killed waits in its place.
        put(LEAVING, lines(map(str, sorted(old | leaving()))).encode())
    remembered = {WANTED: want, DRAINED: lines(drained), PROBES: lines(probes), UNHEALTHY: lines(unhealthy)}
    for file, content in remembered.items():
        put(file, content.encode())


def leaving() -> set[int]:
    """Return process ids of workers that finish what they have, and of those that somebody waits for."""
    kind = proxy.backend()
    return {pid for pid in kind.workers() if not kind.accepts(pid)} | {int(pid) for pid in read_lines(LEAVING)}


def wait_for_leaving() -> None:
    """Wait for the old workers of removed members, of a run before that was killed as well. Raises Failure."""
    if pids := read_lines(LEAVING):
        proxy.wait_for({int(pid) for pid in pids})
        if read_lines(LEAVING) == pids:
            LEAVING.unlink()


def remember_upstreams(text: str, facts: Mapping[str, Mapping[str, Any]] | None) -> None:
    """Write for upstream_health.py whom to ask, and how; facts: None where they are those of before."""
    known_: dict[str, Any] = json.loads(UPSTREAMS.read_text()) if UPSTREAMS.exists() else {}
    how = known_ if facts is None else facts
    named = members(text)
    there = {name: {**each, "members": named.get(name, [])} for name, each in how.items()}
    put(UPSTREAMS, json.dumps(there).encode())


def already_failing(
    probes: Iterable[str], before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]
) -> set[str]:
    """Return the probes of upstreams that keep their members and are unhealthy already.

    No change of the site is to blame for these.
    """
    found: set[str] = set()
    for probe in probes:
        upstream, _, place = probe.rpartition("=")
        if upstream in before and before[upstream] == after.get(upstream) and (wrong := proxy.answer(place)):
            print(f"{upstream} is unwell, as it was before: GET {place}: {wrong}", flush=True)
            found.add(probe)
    return found


def lines(words: Iterable[str]) -> str:
    """Return the words as text, one a line."""
    return "".join(f"{word}\n" for word in words)


def put(file: Path, content: bytes) -> None:
    """Write a file that the proxy may read, atomically."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_bytes(content)
    temporary.chmod(0o644)
    temporary.rename(file)


def site(words: Sequence[str]) -> None:
    """Serve the site on standard input; members drained by hand stay drained. words: [JSON] PROBE..."""
    text = sys.stdin.read()
    facts = json.loads(words[0]) if words and words[0].startswith("{") else None
    # A member that is no more wanted was replaced or removed: nobody need remember that it was drained.
    drained = [address for address in read_lines(DRAINED) if address in addresses(text)]
    serve(text, drained, words if facts is None else words[1:])
    remember_upstreams(text, facts)
    if not proxy.serves_https(text):
        certificate.forget()
    print(told(addresses(proxy.current_site()), drained, read_lines(UNHEALTHY)))


def told(members: Sequence[str], drained: Sequence[str], unhealthy: Sequence[str] = ()) -> str:
    """Describe the members that get requests, and those that were drained or are unhealthy."""
    kept = f"; drained by hand: {', '.join(drained)}" if drained else ""
    kept += f"; unhealthy: {', '.join(unhealthy)}" if unhealthy else ""
    return f"the balancer sends requests to {len(members)} servers: {', '.join(members) or 'none'}{kept}"


def drain(address: str) -> None:
    """Send this member no more requests. Raises Failure where the site does not name it."""
    want, drained = desired_site(), read_lines(DRAINED)
    must_be_known(address, want)
    if address in drained:
        print(f"{address} is drained already")
        return
    serve(want, [*drained, address], read_lines(PROBES))


def admit(address: str) -> None:
    """Send a drained member requests again. Raises Failure where the site does not name it."""
    want, drained = desired_site(), read_lines(DRAINED)
    must_be_known(address, want)
    if address not in drained:
        print(f"{address} takes requests already")
        return
    serve(want, [other for other in drained if other != address], read_lines(PROBES))
    print(f"{address} takes requests again")


def unhealthy(listed: Sequence[str]) -> None:
    """Serve the site without the unhealthy members that are listed; do nothing before the first `site`."""
    want, drained = desired_site(), read_lines(DRAINED)
    if WANTED.exists():
        serve(want, drained, read_lines(PROBES), listed)


def must_be_known(address: str, want: str) -> None:
    """Raise Failure unless the site names the address."""
    if address not in addresses(want):
        members = ", ".join(addresses(want)) or "none"
        raise Failure(f"{address} is no member of this balancer (there are: {members}); `pulumi up` adds it")


def maintenance(switch: str) -> None:
    """Switch maintenance on or off. The page comes from standard input, else it is the default one."""
    if switch == "off":
        PAGE.unlink(missing_ok=True)
        print("maintenance is off: the application answers")
        return
    if str(PAGE) not in proxy.current_site():
        raise Failure("this balancer's site has no maintenance page yet; run `pulumi up` first")
    page = sys.stdin.buffer.read(PAGE_BYTES + 1) or DEFAULT_PAGE.read_bytes()
    if len(page) > PAGE_BYTES:
        raise Failure(f"the page has more than {PAGE_BYTES} bytes; link to what is large")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.parent.chmod(0o755)
    put(PAGE, page)
    print("maintenance is on: clients get 503 and the page; health paths are answered by the application")


def main(arguments: Sequence[str]) -> None:
    """Run the command that the arguments name, under the lock."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        match list(arguments):
            case ["site", *words]:
                site(words)
            case ["drain", address]:
                drain(address)
            case ["admit", address]:
                admit(address)
            case ["unhealthy", *listed]:
                unhealthy(listed)
                return
            case ["maintenance", ("on" | "off") as switch]:
                maintenance(switch)
                return
            case _:
                raise Failure(str(__doc__))
    # Without the lock: a server that hangs meanwhile is taken out all the same.
    wait_for_leaving()
    if arguments[0] == "drain":
        print(f"{arguments[1]} is drained: no request is on its way to it any more")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Failure, OSError) as problem:
        sys.exit(f"error: {problem}; the site before it still serves")
