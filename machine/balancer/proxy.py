"""The reverse proxy of this balancer, whichever it is: test a site, swap one in, probe it, wait for old workers.

nginx.py and apache.py have the commands of each. Standard library only.
"""

from __future__ import annotations

import re
import ssl
import time
import urllib.error
import urllib.request
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from system import write_atomically

# Which one; where it is missing, Nginx.
KIND = Path("/etc/wsgi-fleet/proxy")
# Locked during each change of what is served.
LOCK = Path("/run/wsgi-fleet.lock")
# Nginx's worker_shutdown_timeout (nginx.conf) and some seconds; Apache has none.
DRAIN_S = 330
PROBE_S = 15
# How Nginx and Apache name a line of a site that they test.
LINE = re.compile(r"site\.candidate:(\d+)|line (\d+) of \S*site\.candidate")
# The lines before and behind a snippet (rendering/filters.py), with its setting.
SNIPPET = re.compile(r"\s*# (end of )?(balancer\.proxy\.snippets\.\d+)")
# This machine's own address, for probes.
HTTP, HTTPS = "http://127.0.0.1", "https://127.0.0.1"


class ProxyError(Exception):
    """The proxy could not do this. The text says why."""


@cache
def backend() -> ModuleType:
    """Return the module of the proxy that is on this machine."""
    return import_module(KIND.read_text().strip() if KIND.exists() else "nginx")


def current_site() -> str:
    """Return the site that serves; "" before there is one."""
    site: Path = backend().SITE
    return site.read_text() if site.exists() else ""


def test(text: str) -> None:
    """Have the proxy read its whole configuration with this site in the old one's place. Raises ProxyError."""
    try:
        backend().test(text)
    except ProxyError as error:
        raise ProxyError(locate(str(error), text)) from error


def locate(error: str, text: str) -> str:
    """Return what the proxy reports of a site, after the setting of the snippet that it means, or the line's text."""
    found = LINE.search(error)
    lines = text.split("\n")
    number = int(found[1] or found[2]) if found else 0
    if not 1 <= number <= len(lines):
        return error
    for above in range(number - 1, 0, -1):
        if snippet := SNIPPET.fullmatch(lines[above - 1]):
            if not snippet[1]:
                return f"{snippet[2]}: line {number - above}: {error}"
            return f"{lines[number - 1].strip()!r} (or {snippet[2]} above it leaves a bracket or quote open): {error}"
    return f"{lines[number - 1].strip()!r}: {error}"


def swap_in(text: str) -> set[int]:
    """Write, reload, and wait until only new workers accept. The old workers' process ids."""
    kind = backend()
    old: set[int] = kind.workers()
    write_atomically(kind.SITE, text.encode())
    kind.reload()
    deadline = time.monotonic() + PROBE_S
    while not (kind.workers() - old) or any(kind.accepts(pid) for pid in old):
        if time.monotonic() > deadline or kind.has_ended():
            raise ProxyError(f"{kind.TITLE} did not start new workers; see /var/log/wsgi-fleet/error.log")
        time.sleep(0.02)
    return old


def error_of(place: str, *, https: bool) -> str:
    """Return what is wrong with the response to GET, "" for one below 500.

    place: PATH, or HOST/PATH for a name of the site. https: whether the site has TLS; then HTTP only redirects.
    """
    host, _, path = place.partition("/")
    request = urllib.request.Request(  # noqa: S310
        f"{HTTPS if https else HTTP}/{path}", headers={"Host": host} if host else {}
    )
    # To this machine itself: the signer of the certificate does not matter.
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(request, timeout=5, context=unverified) as response:  # noqa: S310
            response.read()
    except urllib.error.HTTPError as error:
        return str(error) if error.code >= 500 else ""
    except OSError as error:
        return str(error) or type(error).__name__
    return ""


def probe(place: str, *, https: bool) -> None:
    """Wait for a response below 500 through the site that serves. Raises ProxyError with the last one after PROBE_S."""
    deadline, wrong = time.monotonic() + PROBE_S, ""
    while time.monotonic() < deadline:
        wrong = error_of(place, https=https)
        if not wrong:
            return
        time.sleep(0.3)
    raise ProxyError(f"GET {place} through the new site: {wrong}")


def wait_for(old: set[int]) -> None:
    """Wait until these workers have gone. Raises ProxyError after DRAIN_S seconds."""
    deadline = time.monotonic() + DRAIN_S
    while backend().workers() & old:
        if time.monotonic() > deadline:
            raise ProxyError(f"old workers still run after {DRAIN_S} s")
        time.sleep(0.1)
