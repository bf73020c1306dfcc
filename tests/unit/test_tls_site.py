"""The site with TLS, read back by crossplane. Nginx itself reads it in tests/e2e/test_tls.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import certificate
import pytest

from rendering.site import render_site
from rendering.upstream import Upstream
from settings import Balancer
from settings.route import Route
from tests.unit.nginx_reader import args, conditions, directives, find, location, mapped
from tests.unit.site_text import site_text

APP = Upstream("shop", ["10.0.0.1"], 60, "/healthz")
ACME = {"acme": {"email": "ops@example.org"}}


def balancer(tls: dict[str, Any] | None = None, *hostnames: str) -> Balancer:
    return Balancer.model_validate_json(json.dumps({"hostnames": hostnames, "tls": tls}))


def site(folder: Path, given: Balancer, *apps: Upstream, https_port: int = 443) -> list[dict[str, Any]]:
    return directives(site_text(given, apps or [APP], given.hostnames, https_port=https_port), folder)


def server(block: list[dict[str, Any]]) -> list[dict[str, Any]]:
    (found,) = [each["block"] for each in block if each["directive"] == "server"]
    return found


def test_a_site_without_tls_knows_nothing_of_it_whatever_its_names() -> None:
    text = site_text(balancer(None, "shop.example.org"), [APP])
    assert text == site_text(Balancer(), [APP])
    assert [word for word in ("443", "ssl", "https", "308", "Strict", "acme") if word in text] == []
    assert not render_site(balancer(None), [APP])["https"]


def test_https_is_what_mozilla_calls_intermediate(tmp_path: Path) -> None:
    text = site_text(balancer({"self_signed": True}), [APP])
    assert render_site(balancer({"self_signed": True}), [APP])["https"]
    block = directives(text, tmp_path)
    assert args(block, "listen") == [["80", "default_server"], ["443", "ssl", "http2", "default_server"]]
    assert args(block, "ssl_protocols") == [["TLSv1.2", "TLSv1.3"]]
    ((ciphers,),) = args(block, "ssl_ciphers")
    assert all(
        cipher.startswith("ECDHE-") and cipher.endswith(("-GCM-SHA256", "-GCM-SHA384", "-POLY1305"))
        for cipher in ciphers.split(":")
    )
    assert args(block, "ssl_session_tickets") == [["off"]]
    assert args(block, "ssl_certificate") == args(block, "ssl_certificate_key") == [[str(certificate.FILE)]]


@pytest.mark.parametrize(("port", "location"), [(443, "https://$https_host"), (8443, "https://$https_host:8443")])
def test_http_leads_to_https_on_the_port_that_clients_see(tmp_path: Path, port: int, location: str) -> None:
    block = site(tmp_path, balancer({"self_signed": True}), https_port=port)
    assert ["308", f"{location}$request_uri"] in args(server(block), "return")


def steps(block: list[dict[str, Any]]) -> list[tuple[list[str], list[str]]]:
    """Return each `if` of the server with what it does, in order, up to the redirect of HTTP."""
    found = conditions(server(block))
    return found[: [condition for condition, _ in found].index(["$plain", "=", "http"])]


def test_health_paths_are_answered_over_http_unless_that_is_the_whole_site(tmp_path: Path) -> None:
    whole = Upstream("b", ["10.0.0.2"], 60, "/", Route(strip_path=False, path="/b"))
    assert steps(site(tmp_path, balancer({"self_signed": True}), APP, whole)) == [
        (["$uri", "=", "/healthz"], ["$plain", ""])
    ]


def test_an_acme_server_finds_its_challenges_over_http_and_during_maintenance(tmp_path: Path) -> None:
    block = site(tmp_path, balancer(ACME, "shop.example.org"))
    challenge = (["$uri", "~", r"^/\.well-known/acme-challenge/"], ["$plain", ""])
    assert challenge in steps(block)
    exempt = conditions(server(block))
    assert exempt.index((challenge[0], ["$maintenance", ""])) < exempt.index((["$maintenance"], ["503"]))
    assert args(location(block, "^~", "/.well-known/acme-challenge/"), "root") == [["/var/lib/wsgi-fleet/acme"]]


def test_without_an_acme_server_nothing_answers_challenges(tmp_path: Path) -> None:
    assert "acme-challenge" not in json.dumps(site(tmp_path, balancer({"self_signed": True})))


def test_only_names_of_the_site_are_led_to_themselves(tmp_path: Path) -> None:
    names = balancer({"self_signed": True}, "shop.example.org", "www.example.org")
    assert mapped(site(tmp_path, names), "https_host") == [
        ("default", ["shop.example.org"]),
        (r"~^shop\.example\.org$", ["$host"]),
        (r"~^www\.example\.org$", ["$host"]),
    ]
    nameless = site(tmp_path, balancer({"self_signed": True}))
    assert mapped(nameless, "https_host") == [("default", ["$host"])]


def test_every_answer_of_an_application_carries_hsts_over_https_alone(tmp_path: Path) -> None:
    empty = Upstream("b", [], 60, "/", Route(path="/b"))
    block = site(tmp_path, balancer({"self_signed": True, "hsts_max_age_s": 77}), APP, empty)
    assert [each[0] for each in args(block, "map") if each[1] == "$hsts"] == ["$https"]
    assert mapped(block, "hsts") == [("default", [""]), ("on", ["max-age=77"])]
    # A location that adds a header of its own loses those of the server.
    for each in find(block, "location"):
        if headers := args(each["block"], "add_header"):
            assert ["Strict-Transport-Security", "$hsts", "always"] in headers, each["args"]


def test_hsts_that_is_off_says_nothing(tmp_path: Path) -> None:
    block = site(tmp_path, balancer({"self_signed": True, "hsts_max_age_s": 0}))
    assert mapped(block, "hsts") == [("default", [""])]


def test_who_ends_tls_in_front_is_believed_about_the_client_and_nobody_else_is(tmp_path: Path) -> None:
    block = site(tmp_path, Balancer(trusted_proxies=["10.1.0.0/16", "192.0.2.7/32"]))
    assert args(server(block), "set_real_ip_from") == [["10.1.0.0/16"], ["192.0.2.7/32"]]
    (believed,) = find(block, "geo")
    assert believed["args"] == ["$realip_remote_addr", "$from_trusted_proxy"]
    assert [(each["directive"], each["args"]) for each in believed["block"]] == [
        ("default", ["no"]),
        ("10.1.0.0/16", ["yes"]),
        ("192.0.2.7/32", ["yes"]),
    ]
    params = {each[0]: each[1] for each in args(server(block), "uwsgi_param")}
    assert params["HTTP_X_FORWARDED_PROTO"] == params["UWSGI_SCHEME"] == "$client_scheme"
    assert params["HTTP_X_FORWARDED_FOR"] == "$remote_addr"


def test_unless_they_are_named_nobody_is_believed() -> None:
    text = site_text(Balancer(), [APP])
    assert [word for word in ("real_ip", "geo", "$client_scheme", "UWSGI_SCHEME") if word in text] == []
