"""What a balancer with TLS, or with more to do than spreading requests, brings with it over both platforms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from harness.mock_engine import Build, Secret
from harness.mock_lxd import ADDRESS, GROUP, STEP
from rendering.balancer import balancer_user_data, proxy_packages_command
from rendering.htpasswd import htpasswd_line
from settings.balancer import Balancer as Settings
from tests.certificates import Authority
from tests.unit.balancer_build import COMMAND, balancer_build, names_that_tell, steps
from tests.unit.test_components import MACHINE

NAME = "shop.example.org"
SIGNED = Authority().sign([NAME])
GIVEN = {"certificate": SIGNED.certificate, "private_key": SIGNED.private_key}
ACME = {"acme": {"email": "ops@example.org"}}
SELF_SIGNED = {"self_signed": True}
ASSOCIATION = "aws:ec2/eipAssociation:EipAssociation"
RECORD, RULE = "aws:route53/record:Record", "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"


def build_balancer(
    tls: Any, on: str = "lxd", *, names: tuple[str, ...] = (NAME,), preview: bool = False, **aws: Any
) -> Build:
    return balancer_build({"hostnames": names, "tls": tls}, on, preview=preview, **aws)


@pytest.mark.parametrize("on", ["lxd", "aws"])
def test_without_tls_there_is_no_certificate_no_port_and_no_record(on: str) -> None:
    built = build_balancer(None, on)
    assert steps(built) == ["balancer-booted", "balancer-site"]
    assert "443" not in str([each.inputs for each in built.of(RULE) + built.of(GROUP)])
    assert "tls_port" not in str([each.inputs for each in built.of(ADDRESS)])
    assert built.of(RECORD) == []


@pytest.mark.parametrize(
    ("on", "step", "address"), [("lxd", STEP, ADDRESS), ("aws", COMMAND, ASSOCIATION)], ids=["lxd", "aws"]
)
def test_the_certificate_is_there_before_the_site_and_acme_asks_once_the_address_leads_here(
    on: str, step: str, address: str
) -> None:
    built = build_balancer(ACME, on, route53_zone_id="Z1")
    certificate, site = built.one(step, "balancer-certificate"), built.one(step, "balancer-site")
    acme = built.one(step, "balancer-acme")
    assert certificate.depends_on(built.one(step, "balancer-booted"))
    assert site.depends_on(certificate)
    assert built.one(address).depends_on(site)
    assert acme.depends_on(built.one(address))
    for record in built.of(RECORD):
        assert acme.depends_on(record)
    assert [each.name for each in built.resources if each.depends_on(acme)] == []


def test_a_given_certificate_travels_on_standard_input_as_a_secret() -> None:
    step = build_balancer(GIVEN).one(STEP, "balancer-certificate").inputs
    assert steps(build_balancer(GIVEN)) == ["balancer-booted", "balancer-certificate", "balancer-site"]
    assert step["command"] == ["/usr/local/lib/wsgi-fleet/certificate.py", "given"]
    assert step["stdin"] == Secret(SIGNED.certificate.strip() + "\n" + SIGNED.private_key.strip() + "\n")


@pytest.mark.parametrize("on", ["lxd", "aws"])
def test_the_private_key_stands_nowhere_in_plain(on: str) -> None:
    built = build_balancer(GIVEN, on)
    assert names_that_tell(built, SIGNED.private_key.splitlines()[1:-1]) == []
    # On aws the digest that runs the step again, and what a step prints, must tell nothing either.
    for step in built.of(COMMAND):
        assert step.inputs["logging"] == "stderr"
        assert step.name != "balancer-certificate" or isinstance(step.inputs["stdin"], Secret)


@pytest.mark.parametrize(
    ("tls", "names", "words"),
    [
        (SELF_SIGNED, (), ["self-signed", "localhost"]),
        (SELF_SIGNED, (NAME, "b.example"), ["self-signed", NAME, "b.example"]),
        (ACME, (NAME,), ["stand-in", NAME]),
    ],
)
def test_what_the_balancer_makes_itself_is_for_its_names(tls: Any, names: tuple[str, ...], words: list[str]) -> None:
    built = build_balancer(tls, names=names)
    step = built.one(STEP, "balancer-certificate").inputs
    assert step["command"] == ["/usr/local/lib/wsgi-fleet/certificate.py", *words]
    assert step["stdin"] == ""
    # Only an ACME server is asked after the address.
    assert ("balancer-acme" in steps(built)) == (tls == ACME)


def test_the_acme_step_knows_whom_to_ask_for_what_and_where_dns_must_lead() -> None:
    acme = {"email": "ops@example.org", "directory_url": "https://ca.example/dir"}
    step = build_balancer({"acme": acme}, "aws").one(COMMAND, "balancer-acme").values
    assert step["create"].endswith(" 400 /usr/local/lib/wsgi-fleet/acme_certificate.py")
    there = {"ca_certificate": None, "hostnames": [NAME], "address": "203.0.113.7"}
    assert json.loads(step["stdin"]) == acme | there
    # By then the balancer's first address is gone.
    assert step["connection"]["host"] == "203.0.113.7"


@pytest.mark.parametrize(
    ("on", "tls", "names", "url"),
    [
        ("lxd", None, (NAME,), "http://127.0.0.1:8080"),
        ("lxd", SELF_SIGNED, (NAME,), "https://127.0.0.1:9443"),
        ("aws", None, (), "http://203.0.113.7"),
        ("aws", None, (NAME,), f"http://{NAME}"),
        ("aws", SELF_SIGNED, (), "https://203.0.113.7"),
        ("aws", GIVEN, (NAME,), f"https://{NAME}"),
    ],
)
def test_the_url_is_what_clients_type(on: str, tls: Mapping[str, Any] | None, names: tuple[str, ...], url: str) -> None:
    built = build_balancer(tls, on, names=names)
    assert built.exports == {"url": url, "address": "127.0.0.1" if on == "lxd" else "203.0.113.7"}


def test_http_leads_to_the_port_that_the_platform_publishes() -> None:
    site = build_balancer(SELF_SIGNED).one(STEP, "balancer-site").inputs["stdin"]
    assert "return 308 https://$https_host:9443$request_uri;" in site
    site = build_balancer(SELF_SIGNED, "aws").one(COMMAND, "balancer-site").values["stdin"]
    assert "return 308 https://$https_host$request_uri;" in site


def test_ports_80_and_443_are_open_to_everyone_and_nothing_else_is() -> None:
    rules = [each.inputs for each in build_balancer(GIVEN, "aws").of(RULE)]
    assert sorted(each["fromPort"] for each in rules if each.get("cidrIpv4") == "0.0.0.0/0") == [80, 443]
    assert build_balancer(GIVEN).one(GROUP, "balancer").inputs["rules"] == [
        {"port": port, "addresses": ""} for port in (80, 443)
    ]


def test_each_name_becomes_a_record_that_no_machine_holds_up() -> None:
    names = (NAME, "www.example.org")
    built = build_balancer(ACME, "aws", names=names, route53_zone_id="Z1")
    record = {"zoneId": "Z1", "type": "A", "ttl": 300, "records": ["203.0.113.7"]}
    assert {each.name: each.inputs for each in built.of(RECORD)} == {
        f"balancer-address-{name}": record | {"name": name} for name in names
    }
    for each in built.of(RECORD):
        assert not each.depends_on(built.one("aws:ec2/instance:Instance"))
        assert each.provider.startswith(built.one("pulumi:providers:aws").urn)
        assert each.parent == built.one("wsgi-fleet:balancer:Balancer").urn
    assert build_balancer(ACME, "aws").of(RECORD) == []


@pytest.mark.parametrize("on", ["lxd", "aws"])
def test_a_preview_names_what_up_makes(on: str) -> None:
    planned, done = (build_balancer(ACME, on, preview=preview, route53_zone_id="Z1") for preview in (True, False))
    assert {each.urn for each in planned.resources} == {each.urn for each in done.resources}


PASSWORDS = {"ann": "correct horse", "bob": "battery staple"}


def with_proxy(proxy: Mapping[str, Any], on: str = "lxd") -> Build:
    return balancer_build({"proxy": proxy}, on)


@pytest.mark.parametrize("on", ["lxd", "aws"])
def test_a_balancer_that_needs_nothing_beside_its_site_has_no_step_for_it(on: str) -> None:
    built = with_proxy({"cache": {}, "status": True}, on)
    assert steps(built) == ["balancer-booted", "balancer-site"]


@pytest.mark.parametrize(("on", "step"), [("lxd", STEP), ("aws", COMMAND)])
def test_packages_and_users_are_there_before_the_site_that_names_them(on: str, step: str) -> None:
    built = with_proxy({"geoip": True, "basic_auth": {"users": PASSWORDS}}, on)
    proxy = built.one(step, "balancer-proxy")
    assert proxy.depends_on(built.one(step, "balancer-booted"))
    assert built.one(step, "balancer-site").depends_on(proxy)


def test_users_travel_hashed_on_standard_input_as_a_secret() -> None:
    step = with_proxy({"basic_auth": {"users": PASSWORDS}}).one(STEP, "balancer-proxy").inputs
    assert step["command"] == proxy_packages_command(
        Settings.model_validate_json(json.dumps({"proxy": {"basic_auth": {"users": {}}}}))
    )
    lines = [htpasswd_line(user, password, "made-for-balancer-key") for user, password in PASSWORDS.items()]
    assert step["stdin"] == Secret("".join(lines))


@pytest.mark.parametrize("on", ["lxd", "aws"])
def test_neither_a_password_nor_its_hash_stands_anywhere_in_plain(on: str) -> None:
    built = with_proxy({"basic_auth": {"users": PASSWORDS}}, on)
    assert names_that_tell(built, [*PASSWORDS.values(), "$6$"]) == []


def test_another_kind_of_proxy_is_another_balancer_and_no_other_setting_is() -> None:
    busy_ = {"geoip": True, "cache": {}, "basic_auth": {"users": PASSWORDS}}
    plain, busy, other = (
        with_proxy(proxy).one(MACHINE, "balancer").inputs for proxy in ({}, busy_, {"kind": "apache"})
    )
    assert plain == busy
    assert other == plain | {"user_data": balancer_user_data(proxy="apache")} != plain
