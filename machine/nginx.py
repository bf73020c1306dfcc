"""Nginx on the balancer: have it read a site, swap one in, probe it, wait for old workers. Standard library only."""

from __future__ import annotations

import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

MAIN = Path("/etc/nginx/nginx.conf")
SITE = Path("/etc/nginx/wsgi-fleet/site.conf")
# Held by whoever changes what is served.
LOCK = Path("/run/wsgi-fleet.lock")
# worker_shutdown_timeout of nginx.conf and some seconds.
DRAIN_S = 330
PROBE_S = 15
# This machine's own address, for probes.
HTTP, HTTPS = "http://127.0.0.1", "https://127.0.0.1"


class Failure(Exception):
    """Nginx cannot do what was asked."""


def command(*arguments: str) -> str:
    """What Nginx says when it is called so. Raises Failure with it."""
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
        command("-t", "-q", "-c", str(main))
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
    command("-s", "reload")
    deadline = time.monotonic() + PROBE_S
    while not (workers() - old) or not all(shutting_down(pid) for pid in old):
        if time.monotonic() > deadline:
            raise Failure("Nginx did not start new workers; see /var/log/nginx/error.log")
        time.sleep(0.02)
    return old


def serves_https(text: str | None = None) -> bool:
    """Whether a site (None: the one that serves) has TLS."""
    if text is None:
        text = SITE.read_text() if SITE.exists() else ""
    return "listen 443 ssl" in text


def answer(place: str) -> str:
    """What is wrong with the answer to GET, "" for one below 500. place: PATH, or HOST/PATH for a name of the site.

    By HTTPS where the site that serves has that: HTTP only leads there.
    """
    host, _, path = place.partition("/")
    request = urllib.request.Request(  # noqa: S310
        f"{HTTPS if serves_https() else HTTP}/{path}", headers={"Host": host} if host else {}
    )
    # To this machine itself; who signed the certificate is the clients' question.
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(request, timeout=5, context=anyone) as response:  # noqa: S310
            response.read()
    except urllib.error.HTTPError as error:
        return str(error) if error.code >= 500 else ""
    except OSError as error:
        return str(error) or type(error).__name__
    return ""


def probe(place: str) -> None:
    """Wait for an answer below 500 through the site that serves. Raises Failure with the last one after PROBE_S."""
    deadline, wrong = time.monotonic() + PROBE_S, ""
    while time.monotonic() < deadline:
        wrong = answer(place)
        if not wrong:
            return
        time.sleep(0.3)
    raise Failure(f"GET {place} through the new site: {wrong}")


def wait_for(old: set[int]) -> None:
    """Wait until these workers have gone. Raises Failure after DRAIN_S seconds."""
    deadline = time.monotonic() + DRAIN_S
    while workers() & old:
        if time.monotonic() > deadline:
            raise Failure(f"old workers still run after {DRAIN_S} s")
        time.sleep(0.1)
