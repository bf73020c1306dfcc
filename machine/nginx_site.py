#!/usr/bin/env python3
"""Makes the site on standard input the one that this balancer serves. Runs as root; standard library only.

    nginx_site.py HEALTH_PATH...    one path for each application that has members

Tests the site on a copy, swaps it in atomically, reloads, probes each path, and puts the old site back if one fails.
When servers were removed it ends only after the old workers have: then nobody asks those servers any more.
"""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

MAIN = Path("/etc/nginx/nginx.conf")
SITE = Path("/etc/nginx/wsgi-fleet/site.conf")
LOCK = Path("/run/wsgi-fleet.lock")
# worker_shutdown_timeout of nginx.conf and some seconds.
DRAIN_S = 330
PROBE_S = 15


class Failure(Exception):
    """The site cannot serve; the one before it still does."""


def nginx(*arguments: str) -> str:
    result = subprocess.run(["/usr/sbin/nginx", *arguments], check=False, capture_output=True, text=True)
    if result.returncode:
        raise Failure(result.stderr.strip())
    return result.stderr


def test(text: str) -> None:
    """Have Nginx read the whole configuration with this site in the old one's place."""
    site, main = SITE.with_name("site.candidate"), MAIN.with_name("nginx.candidate")
    try:
        site.write_text(text)
        main.write_text(MAIN.read_text().replace("include /etc/nginx/wsgi-fleet/*.conf;", f"include {site};"))
        nginx("-t", "-q", "-c", str(main))
    finally:
        site.unlink(missing_ok=True)
        main.unlink(missing_ok=True)


def workers() -> set[int]:
    """Process ids of Nginx's workers, old ones that are still finishing included."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes().startswith(b"nginx: worker process"):
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def shutting_down(pid: int) -> bool:
    try:
        return b"shutting down" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


def swap_in(text: str) -> set[int]:
    """Write, reload, and wait until only new workers accept. The old workers' process ids."""
    old = workers()
    temporary = SITE.with_name("site.new")
    temporary.write_text(text)
    temporary.rename(SITE)
    nginx("-s", "reload")
    deadline = time.monotonic() + PROBE_S
    while not (workers() - old) or not all(shutting_down(pid) for pid in old):
        if time.monotonic() > deadline:
            raise Failure("Nginx did not start new workers; see /var/log/nginx/error.log")
        time.sleep(0.02)
    return old


def probe(path: str) -> None:
    """An answer below 500 through the new site."""
    deadline, answer = time.monotonic() + PROBE_S, ""
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1{path}", timeout=5) as response:
                response.read()
            return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                return
            answer = str(error)
        except OSError as error:
            answer = str(error)
        time.sleep(0.3)
    raise Failure(f"GET {path} through the new site: {answer}")


def main(health_paths: Sequence[str]) -> None:
    text = sys.stdin.read()
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = SITE.read_text()
        if text != before:
            test(text)
            try:
                old = swap_in(text)
                for path in health_paths:
                    probe(path)
            except Failure:
                swap_in(before)
                raise
            wait_for_removed(before, text, old)
        else:
            for path in health_paths:
                probe(path)
    servers = re.findall(r"^\s*server (\S+:\d+) ", text, re.MULTILINE)
    print(f"the balancer sends requests to {len(servers)} servers: {', '.join(servers) or 'none'}")


def wait_for_removed(before: str, after: str, old: set[int]) -> None:
    servers = re.compile(r"^\s*server (\S+:\d+) ", re.MULTILINE)
    removed = set(servers.findall(before)) - set(servers.findall(after))
    if not removed:
        return
    print(f"draining {', '.join(sorted(removed))}", flush=True)
    deadline = time.monotonic() + DRAIN_S
    while workers() & old:
        if time.monotonic() > deadline:
            raise Failure(f"old workers still run after {DRAIN_S} s")
        time.sleep(0.1)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Failure, OSError) as problem:
        sys.exit(f"error: {problem}; the site before it still serves")
