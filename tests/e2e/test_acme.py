"""A certificate from a real ACME server: Pebble, which `make test-acme` builds. Without it these tests are skipped."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.load import Load
from harness.stack import Stack, eventually, free_port, lxc, on, proxy_complaints
from tests.certificates import Authority
from tests.e2e.test_tls import handshake, https_port, url

pytestmark = pytest.mark.skipif(
    not (shutil.which("pebble") and shutil.which("pebble-challtestsrv")),
    reason="the ACME server Pebble is not on the PATH; `make test-acme` builds it",
)
NAME = "shop.example.org"
CERTBOT = Path("/etc/letsencrypt/renewal/wsgi-fleet.conf")


@dataclass
class Pebble:
    """directory: where it is asked. root: the authority that signs what it gives (PEM)."""

    directory: str
    root: str


def wait_for(address: str, trust: ssl.SSLContext, process: subprocess.Popen[str], log: Path) -> bytes:
    """Return the body of the first response from the address. Fail after 20 s or when the process ends."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5, context=trust) as response:
                return response.read()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


@pytest.fixture(scope="module", params=["nginx", "apache"])
def stack(request: pytest.FixtureRequest, make_module_stack: Callable[..., Stack]) -> Stack:
    """Create one server behind a balancer without TLS yet, which waits 3 s instead of 90 s for names."""
    made = make_module_stack(f"acme-{request.param}", fleet={"servers": 1})
    made.settings["balancer"] = {"proxy": {"kind": request.param}}
    made.settings["lxd"]["tls_port"] = free_port()
    made.app["health_path"] = "/well"
    script = made.folder / "machine" / "balancer" / "acme_certificate.py"
    assert "NAMES_S = 90" in script.read_text()
    script.write_text(script.read_text().replace("NAMES_S = 90", "NAMES_S = 3"))
    made.up()
    return made


def address_of(stack: Stack) -> str:
    return str(json.loads(lxc("query", f"/1.0/instances/{stack.balancer()}").stdout)["devices"]["eth0"]["ipv4.address"])


@pytest.fixture(scope="module")
def pebble(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Generator[Pebble]:
    """Create an ACME server that the balancer can reach. In its DNS every name leads to the balancer."""
    folder, address = tmp_path_factory.mktemp("pebble"), address_of(stack)
    gateway = address.rpartition(".")[0] + ".1"
    authority = Authority()
    signed = authority.sign([], addresses=[gateway])
    (folder / "cert.pem").write_text(signed.certificate)
    (folder / "key.pem").write_text(signed.private_key)
    port, management, dns = free_port(), free_port(), free_port()
    config = {
        "listenAddress": f"{gateway}:{port}",
        "managementListenAddress": f"{gateway}:{management}",
        "certificate": str(folder / "cert.pem"),
        "privateKey": str(folder / "key.pem"),
        "httpPort": 80,
        "tlsPort": 443,
        "retryAfter": {"authz": 1, "order": 1},
        "keyAlgorithm": "ecdsa",
        "profiles": {"default": {"description": "as Let's Encrypt's", "validityPeriod": 90 * 86_400}},
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
    log = folder / "log"
    names = [
        "pebble-challtestsrv", "-defaultIPv4", address, "-defaultIPv6", "", "-dnsserver", f"127.0.0.1:{dns}",
        "-management", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "",
    ]  # fmt: skip
    server = ["pebble", "-config", str(folder / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}"]
    with log.open("w") as output:
        processes = [
            subprocess.Popen(
                command, stdout=output, stderr=output, text=True, env=os.environ | {"PEBBLE_VA_NOSLEEP": "1"}
            )
            for command in (names, server)
        ]
    try:
        trust = ssl.create_default_context(cadata=authority.certificate)
        wait_for(f"https://{gateway}:{port}/dir", trust, processes[1], log)
        root = wait_for(f"https://{gateway}:{management}/roots/0", trust, processes[1], log).decode()
        stack.settings["balancer"] |= {
            "hostnames": [NAME],
            "tls": {
                "acme": {
                    "email": "ops@example.org",
                    "directory_url": f"https://{gateway}:{port}/dir",
                    "ca_certificate": authority.certificate,
                }
            },
        }
        yield Pebble(f"https://{gateway}:{port}/dir", root)
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def serial(stack: Stack, root: str) -> str:
    """Return the serial of the certificate that a client which trusts this authority gets, or raise ssl.SSLError."""
    with handshake(https_port(stack), ssl.create_default_context(cadata=root), NAME) as made:
        certificate: Any = made.getpeercert()
        return str(certificate["serialNumber"])


def test_names_that_lead_elsewhere_are_told_while_a_certificate_stands_in(stack: Stack, pebble: Pebble) -> None:
    output = stack.up(fails=True)
    assert "these names do not lead to this balancer, so no certificate was asked for" in output, output
    assert f"  {NAME}: " in output
    assert "Point their DNS records (type A) at 127.0.0.1" in output
    assert "Traceback" not in output
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
        serial(stack, pebble.root)
    assert stack.get("/well")["version"] == "1"


def test_the_next_up_gets_the_certificate_and_one_more_changes_nothing(stack: Stack, pebble: Pebble) -> None:
    on(stack.balancer(), "sh", "-c", f"echo '127.0.0.1 {NAME}' >> /etc/hosts")
    output = stack.up()
    assert "the certificate is in place" in output, output
    first = serial(stack, pebble.root)
    assert stack.output("url") == url(stack)
    assert on(stack.balancer(), "systemctl", "is-enabled", "certbot.timer").strip() == "enabled"
    assert proxy_complaints(stack.balancer()) == ""
    assert "unchanged" in stack.up()
    assert serial(stack, pebble.root) == first


def test_the_timer_renews_before_the_end_without_a_lost_request(stack: Stack, pebble: Pebble) -> None:
    machine, first = stack.balancer(), serial(stack, pebble.root)
    on(machine, "systemctl", "start", "certbot.service")
    assert serial(stack, pebble.root) == first
    on(machine, "sed", "-i", "1i renew_before_expiry = 2000 days", str(CERTBOT))
    # The name of Load's URL is an address, which is not in a certificate of ACME's.
    with Load(f"https://{NAME}:{https_port(stack)}", trust=pebble.root, address="127.0.0.1") as load:
        on(machine, "systemctl", "start", "certbot.service")
        eventually(lambda: serial(stack, pebble.root) != first, message="certbot.service renewed")
        load.wait_for(20)
    assert load.outcome.failed_fresh == [], load.outcome
    assert load.outcome.responses > 20


def test_without_tls_nothing_is_renewed_any_more(stack: Stack, pebble: Pebble) -> None:
    del pebble
    del stack.settings["balancer"]["tls"]
    stack.up()
    left = on(stack.balancer(), "ls", "-A", "/etc/wsgi-fleet/tls", str(CERTBOT), check=False)
    assert left.count("No such file or directory") == 2
    assert stack.get()["version"] == "1"
