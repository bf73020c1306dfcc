#!/usr/bin/env python3
"""Has an ACME server sign this balancer's certificate, again before it expires. Runs as root; standard library only.

    acme_certificate.py    JSON on standard input: hostnames, email, directory_url, ca_certificate (PEM or null) and
                           address (where the balancer is reached, for the error's sake)

First it asks every name for a file that the proxy has just got: a name that leads elsewhere would only use up the ACME
server's patience. Then certbot does the rest, and Debian's timer of it renews. Whatever fails, the certificate that
is there serves on.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import certificate
from proxy import ProxyError

HERE = Path("/usr/local/lib/wsgi-fleet")
# What the site serves under /.well-known/acme-challenge/ (templates/*/).
WEBROOT = Path("/var/lib/wsgi-fleet/acme")
CHALLENGES = WEBROOT / ".well-known" / "acme-challenge"
AUTHORITY = Path("/etc/wsgi-fleet/acme-ca.pem")
DROP_IN = Path("/etc/systemd/system/certbot.service.d/wsgi-fleet.conf")
# Route 53 says that it has spread a record within 60 s.
NAMES_S = 90


def run(*command: str, environment: dict[str, str] | None = None) -> str:
    """Run a command and return what it prints. Raises ProxyError with that."""
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise ProxyError(f"{Path(command[0]).name} failed:\n{(result.stdout + result.stderr).strip()}")
    return result.stdout + result.stderr


def misdirected_names(hostnames: Sequence[str]) -> dict[str, str]:
    """Return names by which this balancer is not reached over HTTP -> what happens instead."""
    name, content = f"wsgi-fleet-{secrets.token_hex(8)}", secrets.token_hex(16)
    CHALLENGES.mkdir(parents=True, exist_ok=True)
    # Neither a proxy nor a redirect may respond for this machine.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(), urllib.request.HTTPErrorProcessor(), urllib.request.HTTPDefaultErrorHandler(),
    ):  # fmt: skip
        opener.add_handler(handler)
    (CHALLENGES / name).write_text(content)
    misdirected: dict[str, str] = {}
    try:
        for hostname in hostnames:
            try:
                url = f"http://{hostname}/.well-known/acme-challenge/{name}"
                with opener.open(url, timeout=10) as response:
                    if response.read(64).decode("ascii", "replace") != content:
                        misdirected[hostname] = "another server responded"
            except urllib.error.HTTPError as error:
                misdirected[hostname] = f"another server responded: {error}"
            except (OSError, HTTPException) as error:
                misdirected[hostname] = str(getattr(error, "reason", error))
    finally:
        (CHALLENGES / name).unlink()
    return misdirected


def wait_for_names(hostnames: Sequence[str], address: str) -> None:
    """Wait until every name leads here. Raises ProxyError after NAMES_S seconds, with what to do."""
    deadline = time.monotonic() + NAMES_S
    while misdirected := misdirected_names(hostnames):
        if time.monotonic() > deadline:
            lines = "\n".join(f"  {hostname}: {what}" for hostname, what in misdirected.items())
            raise ProxyError(
                f"these names do not lead to this balancer, so no certificate was asked for:\n{lines}\n"
                f"Point their DNS records (type A) at {address}, wait until `dig +short NAME` says so, and run "
                "`pulumi up` again"
            )
        time.sleep(3)


def trust(authority: str | None) -> dict[str, str]:
    """Have certbot trust a private ACME server's HTTPS, now and when it renews. The variables that do so."""
    before = DROP_IN.read_text() if DROP_IN.exists() else ""
    want = f"# Made by wsgi-fleet.\n[Service]\nEnvironment=REQUESTS_CA_BUNDLE={AUTHORITY}\n" if authority else ""
    if authority:
        AUTHORITY.write_text(authority)
        DROP_IN.parent.mkdir(exist_ok=True)
        DROP_IN.write_text(want)
    else:
        DROP_IN.unlink(missing_ok=True)
    if want != before:
        run("systemctl", "daemon-reload")
    return {"REQUESTS_CA_BUNDLE": str(AUTHORITY)} if authority else {}


def server_of_renewal(renewal: Path) -> str | None:
    """Return the directory of the ACME server that signed the certificate which certbot keeps here."""
    found = re.search(r"^server = (\S+)$", renewal.read_text(), re.MULTILINE) if renewal.exists() else None
    return found[1] if found else None


def certbot_command(order: dict[str, Any]) -> list[str]:
    """Return the certbot command, which does nothing if the present certificate has time left."""
    command = [
        "certbot", "certonly", "--non-interactive", "--agree-tos", "--no-eff-email", "--email", order["email"],
        "--server", order["directory_url"], "--webroot", "--webroot-path", str(WEBROOT),
        "--cert-name", certificate.LINEAGE, "--key-type", "ecdsa", "--renew-with-new-domains",
        "--deploy-hook", f"{HERE}/certificate.py renewed",
    ]  # fmt: skip
    before = server_of_renewal(certificate.RENEWAL)
    if before not in (None, order["directory_url"]):
        # Another server's certificate has time left, and yet is not what is wanted: one of a staging server, mostly.
        command += ["--force-renewal", "--break-my-certs"]
    else:
        command.append("--keep-until-expiring")
    return [*command, *(word for hostname in order["hostnames"] for word in ("--domain", hostname))]


def main() -> None:
    """Get the certificate that standard input describes, install it, and have certbot.timer renew it."""
    order: dict[str, Any] = json.load(sys.stdin)
    extra = trust(order["ca_certificate"])
    wait_for_names(order["hostnames"], order["address"])
    print(f"asking {order['directory_url']} for a certificate for {', '.join(order['hostnames'])}", flush=True)
    run(*certbot_command(order), environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **extra})
    # certbot runs its hook only for what is new, and what a failing hook says it only logs.
    run(str(HERE / "certificate.py"), "renewed")
    run("systemctl", "enable", "--quiet", "--now", "certbot.timer")
    print("the certificate is in place, and certbot.timer looks twice a day whether it must be renewed")


if __name__ == "__main__":
    try:
        main()
    except (ProxyError, OSError) as problem:
        sys.exit(f"error: {problem}. The balancer serves on with the certificate that it has")
