"""The balancer's certificate: one source, and one that can serve; and the site with TLS, read back by crossplane."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import certificate
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from rendering.site import render_site
from rendering.upstream import Upstream
from settings.balancer import Balancer
from settings.route import Route
from settings.tls import Tls, problems
from tests.certificates import Authority, Signed, pem_of
from tests.unit.nginx_reader import args, conditions, directives, find, location, mapped
from tests.unit.site_text import site_text
from tests.unit.stack_blocks import app, problems_of, production

NAME = "shop.example.org"
AUTHORITY = Authority()
GOOD = AUTHORITY.sign([NAME, "*.example.org"])


def find_problems(balancer: Any, **blocks: Any) -> list[str]:
    return problems_of({"balancer": balancer} | blocks)


def by_tls(signed: Signed = GOOD, hostnames: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    tls = {"certificate": signed.certificate, "private_key": signed.private_key} | changes
    return {"hostnames": [NAME] if hostnames is None else hostnames, "tls": tls}


def test_what_can_serve_is_taken() -> None:
    assert (
        find_problems(by_tls())
        == find_problems(by_tls(hostnames=[]))
        == find_problems(by_tls(hostnames=["www.example.org"]))
        == []
    )
    assert find_problems(by_tls(AUTHORITY.sign([NAME], private=rsa.generate_private_key(65537, 2048)))) == []
    assert find_problems(by_tls(certificate=GOOD.certificate + AUTHORITY.certificate)) == []
    assert find_problems({"tls": {"self_signed": True}}) == find_problems({"hostnames": [NAME]}) == []
    names = [NAME, "xn--bcher-kva.example", "a.b-c.d1.example"]
    assert find_problems({"hostnames": names, "tls": {"acme": {"email": "a+b@example.org"}}}) == []
    assert find_problems({"tls": {"acme": {"email": "a@b.c"}}}) == [
        "balancer.hostnames: []: should name what the ACME server signs; name the site, e.g. [shop.example.org]"
    ]


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ({}, "certificate, acme, self_signed: none given"),
        ({"self_signed": True, "acme": {"email": "a@b.c"}}, "self_signed: acme and self_signed given"),
        (by_tls()["tls"] | {"self_signed": True}, "self_signed: certificate and self_signed given"),
        ({"certificate": GOOD.certificate}, "private_key: missing"),
        ({"private_key": GOOD.private_key}, "certificate: missing"),
        ({"acme": {}}, "acme.email: missing"),
        ({"acme": {"email": "a b@c"}}, 'acme.email: "a b@c": should be an address such as ops@example.org'),
        ({"acme": {"email": "-x@c\n--hook"}}, "acme.email"),
        ({"acme": {"email": "a@b.c", "directory_url": "http://ca/"}}, "acme.directory_url"),
        ({"acme": {"email": "a@b.c", "directory_url": "https://ca/$(id)"}}, "acme.directory_url"),
        ({"acme": {"email": "a@b.c", "ca_certificate": "nonsense"}}, "ca_certificate: should be"),
        ({"self_signed": True, "hsts_max_age_s": -1}, "hsts_max_age_s: -1: should be a whole number"),
        ({"self_signed": True, "hsts_max_age_s": 63_072_001}, "hsts_max_age_s: 63072001: should be a whole number"),
        ({"certificate": "x;\nssl_protocols TLSv1;", "private_key": "x"}, "certificate"),
    ],
)
def test_a_certificate_has_exactly_one_source(tls: dict[str, Any], expected: str) -> None:
    (line,) = find_problems({"hostnames": [NAME], "tls": tls})
    assert line.startswith("balancer.tls.")
    assert expected in line


def test_what_is_no_host_name_is_refused() -> None:
    for hostname in (
        "Shop.example.org", "shop", "*.example.org", "-a.example", "a-.example", "a..example", "a.example.", "10.0.0.1",
        "a.example; return 200", "a.example\n", "a_b.example", "a" * 64 + ".example", "", "$host.example",
    ):  # fmt: skip
        (line,) = find_problems({"hostnames": [hostname]})
        assert line.startswith("balancer.hostnames.0: "), hostname


@pytest.mark.parametrize(
    ("balancer", "expected"),
    [
        (by_tls(AUTHORITY.sign([NAME], days=(2, 9))), "tls.certificate: is valid only from "),
        (by_tls(hostnames=[NAME, "other.example"]), "cover other.example of hostnames (it is for *.example.org, shop"),
        (by_tls(hostnames=["a.b.example.org"]), "tls.certificate: does not cover a.b.example.org"),
        (by_tls(AUTHORITY.sign([])), "does not cover shop.example.org of hostnames (it is for no name)"),
        (by_tls(private_key=AUTHORITY.sign([NAME]).private_key), "tls.private_key: (secret): does not belong"),
        (by_tls(private_key=pem_of(GOOD.private, "x")), "tls.private_key: (secret): has a passphrase"),
        (by_tls(private_key="sesame"), "tls.private_key: (secret): is no private key in PEM"),
        (by_tls(private_key=GOOD.certificate), "tls.private_key: (secret): is no private key in PEM"),
        (by_tls(certificate="AAAA"), "tls.certificate: should be certificates in PEM, the site's own first"),
        (by_tls(certificate=GOOD.certificate + Authority("another").certificate),
         "in the wrong order: CN=another did not sign CN=shop.example.org"),
        (by_tls(AUTHORITY.sign([NAME], private=rsa.generate_private_key(65537, 1024))), "its RSA key has 1024 bits"),
        (by_tls(AUTHORITY.sign([NAME], private=ed25519.Ed25519PrivateKey.generate())), "its key is neither RSA nor"),
    ],
)  # fmt: skip
def test_a_certificate_that_cannot_serve_is_refused_before_any_machine_gets_it(
    balancer: dict[str, Any], expected: str
) -> None:
    (line,) = find_problems(balancer)
    assert line.startswith("balancer.")
    assert expected in line
    assert "sesame" not in line
    assert GOOD.private_key.splitlines()[1] not in line


def test_a_certificate_is_good_until_the_second_it_expires_and_every_problem_is_told_at_once() -> None:
    block = by_tls(private_key=AUTHORITY.sign([NAME]).private_key)
    tls = Tls.model_validate_json(json.dumps(block["tls"]))
    ends = x509.load_pem_x509_certificate(GOOD.certificate.encode()).not_valid_after_utc
    assert [line.split(": ")[0] for line in problems(tls, [NAME], ends - timedelta(seconds=1))] == ["tls.private_key"]
    expired, uncovered, key = problems(tls, ["old.example"], ends)
    assert expired.startswith("tls.certificate: expired on ")
    assert uncovered.startswith("tls.certificate: does not cover old.example")
    assert key.startswith("tls.private_key: (secret): does not belong")


def test_two_ports_of_the_host_cannot_be_one() -> None:
    ports = {"port": 9000, "tls_port": 9000}
    (line,) = find_problems({"tls": {"self_signed": True}}, lxd=ports)
    assert line == "lxd.tls_port: 9000: is lxd.port as well; take another port for one of both"
    assert find_problems({}, lxd=ports) == []


def test_a_hosted_zone_needs_names() -> None:
    prod: dict[str, Any] = production(route53_zone_id="Z0123456789ABCDEFGHIJ") | {"balancer": {}}
    assert problems_of(prod) == [
        "balancer.hostnames: []: aws.route53_zone_id gets records for these names; name the site"
    ]
    assert problems_of(prod | {"balancer": {"hostnames": [NAME]}}) == []
    assert problems_of(prod | {"apps": {"hello": app(hosts=[NAME])}}) == []
    (line,) = problems_of(production(route53_zone_id="/hostedzone/Z1") | {"balancer": {"hostnames": [NAME]}})
    assert line.startswith('aws.route53_zone_id: "/hostedzone/Z1": should be')


@pytest.mark.parametrize("cidr", ["0.0.0.0/0", "10.0.0.0/7", "10.0.0.1", "::/0", "10.0.0.0/8; deny all"])
def test_everyone_is_no_proxy(cidr: str) -> None:
    (line,) = find_problems({"trusted_proxies": [cidr]})
    assert "trusted_proxies" in line
    assert find_problems({"trusted_proxies": ["10.0.0.0/8"]}) == []


APP = Upstream("shop", ["10.0.0.1"], 60, "/healthz")
ACME = {"acme": {"email": "ops@example.org"}}


def balancer(tls: dict[str, Any] | None = None, *hostnames: str) -> Balancer:
    return Balancer.model_validate_json(json.dumps({"hostnames": hostnames, "tls": tls}))


def site(folder: Path, given: Balancer, *apps: Upstream) -> list[dict[str, Any]]:
    return directives(site_text(given, apps or [APP], given.hostnames), folder)


def server(block: list[dict[str, Any]]) -> list[dict[str, Any]]:
    (found,) = [each["block"] for each in block if each["directive"] == "server"]
    return found


def test_a_site_without_tls_knows_nothing_of_it_whatever_its_names() -> None:
    text = site_text(balancer(None, "shop.example.org"), [APP])
    assert text == site_text(Balancer(), [APP])
    words = ("443", "ssl", "https", "308", "Strict", "acme", "real_ip", "geo", "$client_scheme", "UWSGI_SCHEME")
    assert [word for word in words if word in text] == []
    assert not render_site(balancer(None), [APP])["https"]


def test_https_is_what_mozilla_calls_intermediate(tmp_path: Path) -> None:
    given = balancer({"self_signed": True, "hsts_max_age_s": 0})
    assert render_site(given, [APP])["https"]
    block = site(tmp_path, given)
    assert "acme-challenge" not in json.dumps(block)
    assert mapped(block, "hsts") == [("default", [""])]
    assert args(block, "ssl_protocols") == [["TLSv1.2", "TLSv1.3"]]
    ((ciphers,),) = args(block, "ssl_ciphers")
    for cipher in ciphers.split(":"):
        assert cipher.startswith("ECDHE-")
        assert cipher.endswith(("-GCM-SHA256", "-GCM-SHA384", "-POLY1305"))
    assert args(block, "ssl_session_tickets") == [["off"]]
    assert args(block, "ssl_certificate") == args(block, "ssl_certificate_key") == [[str(certificate.FILE)]]


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


def test_without_names_every_one_is_led_to_itself(tmp_path: Path) -> None:
    assert mapped(site(tmp_path, balancer({"self_signed": True})), "https_host") == [("default", ["$host"])]


def test_every_answer_of_an_application_carries_hsts_over_https_alone(tmp_path: Path) -> None:
    empty = Upstream("b", [], 60, "/", Route(path="/b"))
    block = site(tmp_path, balancer({"self_signed": True, "hsts_max_age_s": 77}), APP, empty)
    assert [each[0] for each in args(block, "map") if each[1] == "$hsts"] == ["$https"]
    assert mapped(block, "hsts") == [("default", [""]), ("on", ["max-age=77"])]
    # A location that adds a header of its own loses those of the server.
    for each in find(block, "location"):
        if headers := args(each["block"], "add_header"):
            assert ["Strict-Transport-Security", "$hsts", "always"] in headers, each["args"]


def test_who_ends_tls_in_front_is_believed_about_the_client_and_nobody_else_is(tmp_path: Path) -> None:
    block = site(tmp_path, Balancer(trusted_proxies=["10.1.0.0/16", "192.0.2.7/32"]))
    assert args(server(block), "set_real_ip_from") == [["10.1.0.0/16"], ["192.0.2.7/32"]]
    (believed,) = find(block, "geo")
    assert believed["args"] == ["$realip_remote_addr", "$from_trusted_proxy"]
    assert [[each["directive"], *each["args"]] for each in believed["block"]] == [
        ["default", "no"], ["10.1.0.0/16", "yes"], ["192.0.2.7/32", "yes"],
    ]  # fmt: skip
    assert mapped(block, "client_port") == [
        ("default", ["80"]),
        (r"~^\S+ yes:([0-9]{1,5})[ ,]", ["$1"]), ("~:([0-9]{1,5})$", ["$1"]), ("~^https ", ["443"]),
    ]  # fmt: skip
    params = {each[0]: each[1] for each in args(server(block), "uwsgi_param")}
    assert params["HTTP_X_FORWARDED_PROTO"] == params["UWSGI_SCHEME"] == "$client_scheme"
    assert params["HTTP_X_FORWARDED_FOR"] == "$remote_addr"
