"""Asking an ACME server: only for names that lead here, and once while there is time left."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import acme_certificate
import certificate
import pytest
from proxy import ProxyError

GIVEN: dict[str, Any] = {
    "hostnames": ["shop.example.org", "www.example.org"],
    "email": "ops@example.org",
    "directory_url": "https://ca.example/directory",
    "ca_certificate": None,
    "address": "203.0.113.7",
}


class Handler(BaseHTTPRequestHandler):
    """Nginx with the webroot, or somebody else."""

    status = 200
    body: bytes | None = None

    def do_GET(self) -> None:
        assert self.path.startswith("/.well-known/acme-challenge/wsgi-fleet-")
        content = self.body if self.body is not None else (acme_certificate.WEBROOT / self.path[1:]).read_bytes()
        self.send_response(self.status)
        self.send_header("Location", "https://127.0.0.1/")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the commands that were run; their output is empty."""
    ran: list[list[str]] = []

    def run(*command: str, environment: dict[str, str] | None = None) -> str:
        ran.append([*command] if environment is None else [*command, f"CA={environment.get('REQUESTS_CA_BUNDLE')}"])
        return ""

    monkeypatch.setattr(acme_certificate, "run", run)
    webroot = tmp_path / "webroot"
    monkeypatch.setattr(acme_certificate, "WEBROOT", webroot)
    monkeypatch.setattr(acme_certificate, "CHALLENGES", webroot / ".well-known" / "acme-challenge")
    monkeypatch.setattr(acme_certificate, "AUTHORITY", tmp_path / "ca.pem")
    monkeypatch.setattr(acme_certificate, "DROP_IN", tmp_path / "certbot.service.d" / "wsgi-fleet.conf")
    monkeypatch.setattr(certificate, "RENEWAL", tmp_path / "renewal.conf")
    return ran


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch, machine: list[list[str]]) -> Iterator[str]:
    """Yield a name that leads to a server with the webroot."""
    del machine
    monkeypatch.setattr(Handler, "status", 200)
    monkeypatch.setattr(Handler, "body", None)
    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield f"127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def test_a_name_that_leads_here_is_known_by_a_file_of_this_machine_and_no_proxy_answers_for_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert acme_certificate.misdirected_names([name]) == {}
    assert list(acme_certificate.CHALLENGES.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"welcome", "another server responded"),
        (404, b"", "another server responded: HTTP Error 404: Not Found"),
        (301, b"", "another server responded: HTTP Error 301: Moved Permanently"),
    ],
)
def test_a_name_that_leads_elsewhere_is_told_with_what_answered(
    name: str, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, message: str
) -> None:
    monkeypatch.setattr(Handler, "status", status)
    monkeypatch.setattr(Handler, "body", body)
    assert acme_certificate.misdirected_names([name]) == {name: message}


def test_names_that_do_not_lead_here_end_it_with_the_record_to_set_and_cost_the_acme_server_nothing(
    machine: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acme_certificate, "NAMES_S", -1)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(GIVEN | {"hostnames": ["no-such-name.invalid"]})))
    message = (
        r"no certificate was asked for:\n  no-such-name.invalid: .*\nPoint their DNS records \(type A\) at 203.0.113.7"
    )
    with pytest.raises(ProxyError, match=rf"{message}.* run `pulumi up` again"):
        acme_certificate.main()
    assert machine == []


def call(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    def all_lead_here(hostnames: list[str]) -> dict[str, str]:
        assert hostnames == GIVEN["hostnames"]
        return {}

    monkeypatch.setattr(acme_certificate, "misdirected_names", all_lead_here)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(GIVEN | changes)))
    acme_certificate.main()


CERTBOT = [
    "certbot", "certonly", "--non-interactive", "--agree-tos", "--no-eff-email", "--email", "ops@example.org",
    "--server", "https://ca.example/directory", "--webroot", "--webroot-path", "WEBROOT",
    "--cert-name", "wsgi-fleet", "--key-type", "ecdsa", "--renew-with-new-domains",
    "--deploy-hook", "/usr/local/lib/wsgi-fleet/certificate.py renewed",
]  # fmt: skip
DOMAINS = ["--domain", "shop.example.org", "--domain", "www.example.org"]


def test_certbot_is_asked_and_left_to_renew(machine: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch)
    asked = [word.replace(str(acme_certificate.WEBROOT), "WEBROOT") for word in machine[0]]
    assert asked == [*CERTBOT, "--keep-until-expiring", *DOMAINS, "CA=None"]
    assert machine[1:] == [
        ["/usr/local/lib/wsgi-fleet/certificate.py", "renewed"],
        ["systemctl", "enable", "--quiet", "--now", "certbot.timer"],
    ]


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("https://ca.example/directory", ["--keep-until-expiring"]),
        ("https://staging.example/directory", ["--force-renewal", "--break-my-certs"]),
    ],
)
def test_a_certificate_of_another_acme_server_is_not_kept(
    machine: list[list[str]], monkeypatch: pytest.MonkeyPatch, server: str, expected: list[str]
) -> None:
    certificate.RENEWAL.write_text(f"[renewalparams]\naccount = 1\nserver = {server}\n")
    call(monkeypatch)
    options = {"--keep-until-expiring", "--force-renewal", "--break-my-certs"}
    assert [word for word in machine[0] if word in options] == expected


def test_the_authority_of_a_private_server_is_trusted_now_and_by_the_timer(
    machine: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reload = ["systemctl", "daemon-reload"]
    call(monkeypatch, ca_certificate="PEM")
    assert acme_certificate.AUTHORITY.read_text() == "PEM"
    line = f"Environment=REQUESTS_CA_BUNDLE={acme_certificate.AUTHORITY}"
    assert acme_certificate.DROP_IN.read_text() == f"# Made by wsgi-fleet.\n[Service]\n{line}\n"
    assert [command[-1] for command in machine if command[0] == "certbot"] == [f"CA={acme_certificate.AUTHORITY}"]
    call(monkeypatch, ca_certificate="PEM")
    assert machine.count(reload) == 1
    call(monkeypatch)
    assert not acme_certificate.DROP_IN.exists()
    assert machine.count(reload) == 2
