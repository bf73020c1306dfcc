"""HTTPS on the balancer: what clients are offered, what the application learns, a renewed certificate under load."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import subprocess
import urllib.parse
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import yaml

from harness.load import Load
from harness.stack import Stack, free_port, lxc, on, processes_that_name, proxy_complaints
from tests.certificates import Authority, Signed

NAME = "shop.example.org"


@pytest.fixture(scope="module")
def https(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create one server behind a balancer that rehearses HTTPS with a certificate of its own."""
    stack = make_module_stack("tls", fleet={"servers": 1})
    stack.settings["lxd"]["tls_port"] = free_port()
    stack.settings["balancer"] = {"tls": {"self_signed": True, "hsts_max_age_s": 77}}
    stack.app["health_path"] = "/well"
    stack.up()
    return stack


def anyone() -> ssl.SSLContext:
    """Return a TLS context that trusts any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers (small letters) and body of one response; redirects are not followed."""
    parts = urllib.parse.urlsplit(url)
    where = f"127.0.0.1:{parts.port}"
    made = (
        http.client.HTTPSConnection(where, timeout=30, context=anyone())
        if parts.scheme == "https"
        else http.client.HTTPConnection(where, timeout=30)
    )
    with contextlib.closing(made):
        made.request(method, parts.path, headers=headers)
        with made.getresponse() as response:
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def handshake(port: int, context: ssl.SSLContext, name: str | None = None) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=30)
    try:
        return context.wrap_socket(raw, server_hostname=name)
    except BaseException:
        raw.close()
        raise


def https_port(stack: Stack) -> int:
    return stack.settings["lxd"]["tls_port"]


def url(stack: Stack) -> str:
    return f"https://127.0.0.1:{https_port(stack)}"


def test_the_url_is_https_and_the_application_learns_so(https: Stack) -> None:
    assert https.output("url") == url(https)
    status, _, body = ask(f"{url(https)}/headers", **{"X-Forwarded-Proto": "gopher"})
    response: dict[str, Any] = json.loads(body)
    assert (status, response["HTTP_X_FORWARDED_PROTO"], response["wsgi.url_scheme"]) == (200, "https", "https")


def test_http_2_carries_the_port_and_bodies_whose_length_is_not_told(https: Stack) -> None:
    parts = [b"a" * 50_000, b"b" * 50_000]
    with httpx.Client(http2=True, verify=anyone(), timeout=30) as client:
        responses = client.get(f"{url(https)}/headers"), client.post(url(https), content=iter(parts))
    assert [(each.http_version, each.status_code) for each in responses] == [("HTTP/2", 200)] * 2
    port = str(https_port(https))
    assert (responses[0].json()["SERVER_PORT"], responses[0].json()["HTTP_HOST"]) == (port, f"127.0.0.1:{port}")
    assert responses[1].json()["body_sha256"] == hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize(
    ("version", "offered"),
    [
        (ssl.TLSVersion.TLSv1_1, None),
        (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        (ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_clients_are_offered_tls_1_2_and_1_3_alone(https: Stack, version: ssl.TLSVersion, offered: str | None) -> None:
    context = anyone()
    # Without it this side would not even try.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    if offered is None:
        with pytest.raises(ssl.SSLError, match="alert protocol version"):
            handshake(https_port(https), context)
        return
    with handshake(https_port(https), context) as made:
        assert made.version() == offered


def test_a_cipher_without_forward_secrecy_is_refused(https: Stack) -> None:
    context = anyone()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-GCM-SHA256:AES256-SHA256:DHE-RSA-AES128-GCM-SHA256")
    with pytest.raises(ssl.SSLError, match="handshake failure"):
        handshake(https_port(https), context)


def test_http_leads_to_https_with_method_and_body_kept(https: Stack) -> None:
    for method in ("GET", "POST"):
        status, headers, _ = ask(f"{https.url}/cart", method)
        assert (status, headers["location"]) == (308, f"{url(https)}/cart")
        assert "strict-transport-security" not in headers


def test_whoever_watches_the_health_path_needs_no_https(https: Stack) -> None:
    status, headers, _ = ask(f"{https.url}/well")
    assert status == 200
    assert "strict-transport-security" not in headers


def test_browsers_are_told_to_come_by_https_from_the_page_of_maintenance_too(https: Stack) -> None:
    assert ask(f"{url(https)}/")[1]["strict-transport-security"] == "max-age=77"
    site = "/usr/local/lib/wsgi-fleet/proxy_site.py"
    on(https.balancer(), site, "maintenance", "on")
    try:
        status, headers, _ = ask(f"{url(https)}/")
        assert (status, headers["strict-transport-security"]) == (503, "max-age=77")
    finally:
        on(https.balancer(), site, "maintenance", "off")


def test_nginx_has_nothing_to_warn_of_and_it_alone_reads_the_key(https: Stack) -> None:
    assert proxy_complaints(https.balancer()) == ""
    kept = on(https.balancer(), "stat", "-c", "%a %U %G %n", "/etc/wsgi-fleet/tls", "/etc/wsgi-fleet/tls/site.pem")
    assert kept.splitlines() == [
        "750 root www-data /etc/wsgi-fleet/tls",
        "640 root www-data /etc/wsgi-fleet/tls/site.pem",
    ]


def test_the_operators_command_sees_when_the_certificate_ends(https: Stack) -> None:
    report = json.loads(on(https.balancer(), "/usr/local/lib/wsgi-fleet/balancer_status.py"))["certificate"]
    assert not report["is_renewed_here"]
    assert 3649 * 86_400 < report["expires_in_s"] <= 3650 * 86_400


def give(stack: Stack, signed: Signed) -> None:
    """Put a certificate into the stack file as a user does it: the key encrypted."""
    stack.settings["balancer"] = {
        "hostnames": [NAME],
        "tls": {"certificate": signed.certificate, "hsts_max_age_s": 77},
    }
    stack.write()
    path = "wsgi-fleet:balancer.tls.private_key"
    subprocess.run(
        ["pulumi", "config", "set", "-s", stack.name, "--secret", "--path", path],
        cwd=stack.folder, env=stack.environment(), input=signed.private_key, text=True, check=True,
    )  # fmt: skip
    stack.settings["balancer"] = yaml.safe_load(stack.file.read_text())["config"]["wsgi-fleet:balancer"]
    assert "secure" in stack.settings["balancer"]["tls"]["private_key"]


def read_serial_number(stack: Stack, authority: Authority) -> str:
    """Return the serial number of the certificate that a client which trusts the authority gets."""
    context = ssl.create_default_context(cadata=authority.certificate)
    with handshake(https_port(stack), context, NAME) as made:
        certificate: Any = made.getpeercert()
        return certificate["serialNumber"]


def test_a_given_certificate_and_the_one_that_renews_it_come_without_a_lost_request(https: Stack) -> None:
    authority = Authority()
    first, second = (authority.sign([NAME], addresses=["127.0.0.1"]) for _ in range(2))
    give(https, first)
    output = https.up()
    before = read_serial_number(https, authority)
    give(https, second)
    with Load(url(https), trust=authority.certificate) as load:
        output += https.up()
        load.wait_for(20)
    assert read_serial_number(https, authority) != before
    assert load.outcome.failed_fresh == [], load.outcome
    assert load.outcome.responses > 40
    # Nginx 1.22 closes idle connections when it reloads (docs/operations.md): what is kept alive may cross that.
    words = [line for signed in (first, second) for line in signed.private_key.splitlines()[1:-1]]
    assert [word for word in words if word in https.export() + output] == []
    assert processes_that_name(words) == []
    machine = lxc("config", "show", https.balancer(), "--expanded").stdout
    cat = "journalctl --no-pager; cat /var/log/cloud-init*.log /var/log/wsgi-fleet/*.log"
    logs = on(https.balancer(), "sh", "-c", cat)
    assert [word for word in words if word in machine + logs] == []


def test_a_certificate_that_nginx_would_not_take_leaves_the_one_that_serves(https: Stack) -> None:
    port = https_port(https)
    before = ssl.get_server_certificate(("127.0.0.1", port))
    other = Authority().sign([NAME])
    pem = other.certificate + Authority().sign([NAME]).private_key
    result = lxc(
        "exec", https.balancer(), "-T", "--", "/usr/local/lib/wsgi-fleet/certificate.py", "given",
        check=False, stdin=pem,
    )  # fmt: skip
    assert result.returncode == 1
    assert "cannot be used" in result.stderr
    assert "the certificate before it still serves" in result.stderr
    assert ssl.get_server_certificate(("127.0.0.1", port)) == before
    assert proxy_complaints(https.balancer()) == ""


@pytest.mark.long
def test_a_site_without_tls_keeps_no_key_and_no_port(https: Stack) -> None:
    https.settings["balancer"] = {}
    https.up()
    assert https.output("url") == https.url
    assert https.get()["version"] == "1"
    assert (
        on(https.balancer(), "ls", "-A", "/etc/wsgi-fleet/tls", check=False)
        .rstrip()
        .endswith("No such file or directory")
    )
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", https_port(https)), timeout=5)
    devices = json.loads(lxc("query", f"/1.0/instances/{https.balancer()}").stdout)["devices"]
    assert "public-tls" not in devices


@pytest.mark.long
def test_what_ends_tls_in_front_is_believed_about_the_client_once_it_is_named(https: Stack) -> None:
    # The published port reaches Nginx from the machine's own loopback.
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "8443"}
    learned: list[tuple[str, ...]] = []
    for trusted in ([], ["127.0.0.1/32"]):
        https.settings["balancer"] = {"trusted_proxies": trusted}
        https.up()
        seen: dict[str, str] = json.loads(ask(f"{https.url}/headers", **forged)[2])
        names = ("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "wsgi.url_scheme", "SERVER_PORT")
        learned.append(tuple(seen[name] for name in names))
    port = str(https.settings["lxd"]["port"])
    assert learned == [("127.0.0.1", "http", "http", port), ("203.0.113.9", "https", "https", "8443")]
    assert proxy_complaints(https.balancer()) == ""
