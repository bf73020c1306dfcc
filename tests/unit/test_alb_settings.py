"""balancer.kind: alb: what is refused, all at once, and that no setting was forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from settings import alb_support
from settings.alb import Alb
from settings.application import App
from settings.balancer import Balancer
from settings.error_pages import ErrorPages
from settings.proxy import Proxy
from tests.unit.stack_blocks import app, problems_of, production

CERTIFICATE = "arn:aws:acm:eu-central-1:123456789012:certificate/12345678-1234-1234-1234-123456789012"
SERVERS = {"fleet": {"local_proxy": True, "size": {"instance_type": "t4g.small"}}, "gateway": {"processes": 2}}
# Each setting below balancer that an ALB has no use for, at another value than its default.
REJECTED: dict[str, Any] = {
    "size": {"disk_gib": 9},
    "self_healing": True,
    "requests_per_second": 5,
    "burst": 5,
    "connections": 5,
    "tls": {"self_signed": True},
    "trusted_proxies": ["10.0.0.0/8"],
    "proxy.kind": "apache",
    "proxy.cache": {},
    "proxy.basic_auth": {"users": {}},
    "proxy.geoip": True,
    "proxy.memcached": {"server": "10.0.0.9:11211", "path": "/pages/"},
    "proxy.status": True,
    "proxy.snippets": [{"context": "http", "text": "# mine"}],
}


def stack(alb: dict[str, Any] | None = None, aws: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return blocks of a stack with a load balancer that works."""
    blocks = production(**{"transport": "instance_connect_endpoint", "admin_cidrs": [], **(aws or {})})
    front = {"kind": "alb", "hostnames": ["shop.example.org"], "alb": {"certificate_arn": CERTIFICATE} | (alb or {})}
    return blocks | {"apps": {"hello": app(**SERVERS)}, "balancer": front} | changes


def fields(model: type[BaseModel], *inside: str) -> set[str]:
    """Return the names of a model's settings; those of the blocks `inside` in their place."""
    blocks = {"proxy": Proxy, "error_pages": ErrorPages}
    return {
        name if name not in inside else f"{name}.{inner}"
        for name in model.model_fields
        for inner in (blocks[name].model_fields if name in inside else ("",))
    }


def test_each_setting_is_done_by_somebody_or_refused_with_a_reason() -> None:
    known = [*alb_support.SUPPORTED, *alb_support.UNSUPPORTED]
    assert fields(Balancer, "proxy", "error_pages") == set(known)
    assert len(known) == len(set(known))
    of_apps = [*alb_support.OF_APPLICATION, *alb_support.OF_SERVERS]
    assert set(App.model_fields) == set(of_apps)
    assert len(of_apps) == len(set(of_apps))


def test_a_stack_with_a_load_balancer_is_taken() -> None:
    assert problems_of(stack()) == []


def test_what_it_has_no_use_for_is_refused_at_once_each_with_the_reason() -> None:
    assert REJECTED.keys() == alb_support.UNSUPPORTED.keys()
    block: dict[str, Any] = {"kind": "alb", "proxy": {}, "error_pages": {"maintenance": "x" * 1025}}
    for name, value in REJECTED.items():
        above, _, last = name.rpartition(".")
        (block[above] if above else block)[last] = value
    found = {line.partition(": ")[0]: line for line in _refused_of_balancer(block)}
    assert found.keys() == {*alb_support.UNSUPPORTED, "error_pages.maintenance"}
    assert all(why in found[name] for name, why in alb_support.UNSUPPORTED.items())
    assert "has 1025 characters, and an ALB responds with 1024 at most" in found["error_pages.maintenance"]


def _refused_of_balancer(block: dict[str, Any]) -> list[str]:
    given = Balancer.model_construct(**{**Balancer().__dict__, **block})
    proxy = Proxy.model_construct(**{**Proxy().__dict__, **block["proxy"]})
    pages = ErrorPages.model_construct(**{**ErrorPages().__dict__, **block["error_pages"]})
    return alb_support.unsupported_settings(given.model_copy(update={"proxy": proxy, "error_pages": pages}))


@pytest.mark.parametrize(
    ("blocks", "line"),
    [
        (stack() | {"platform": "lxd"}, "balancer.kind: alb: is a service of AWS; remove it, or take platform: aws"),
        (
            stack(apps={"hello": app(**SERVERS, rollout={"max_latency_ratio": 2})}),
            "apps.hello.rollout.max_latency_ratio: 2.0: needs a balancer's access log, and with balancer.kind alb",
        ),
        (stack(apps={"hello": app()}), "apps.hello.fleet.local_proxy: false: should be true with balancer.kind alb"),
        (
            stack(aws={"transport": "ssh", "admin_cidrs": ["198.51.100.0/24"]}),
            "aws.transport: ssh: should be instance_connect_endpoint",
        ),
        (
            stack({"subnet_ids": ["subnet-0123456a"]}),
            'balancer.alb.subnet_ids: ["subnet-0123456a"]: conflicts with aws.vpc',
        ),
        (
            stack({"access_logs": {"bucket": "our-logs", "retention_days": 30}}),
            "balancer.alb.access_logs.retention_days: 30: is for a bucket that is made, and our-logs has its own",
        ),
        (
            stack(aws={"vpc": {"cidr": "10.20.0.0/16", "zones": ["eu-central-1a"]}}),
            "aws.vpc.zones: eu-central-1a: an ALB needs 2 zones at least",
        ),
        (
            stack(
                {"subnet_ids": ["subnet-0123456a"]},
                {"vpc": None, "vpc_id": "vpc-0123456a", "app_subnet_ids": ["subnet-0123456b"]},
            ),
            'balancer.alb.subnet_ids: ["subnet-0123456a"]: an ALB needs 2 zones at least; name one public subnet in',
        ),
        (
            stack({"certificate_arn": CERTIFICATE.replace("central", "west")}),
            "balancer.alb.certificate_arn: is in eu-west-1; take one in aws.region",
        ),
        (
            stack({"certificate_arn": None, "request_certificate": True}),
            "balancer.alb.request_certificate: true: ACM looks for records that it names; set aws.route53_zone_id",
        ),
        (
            stack({"request_certificate": True}),
            "balancer.alb.request_certificate: true: conflicts with certificate_arn; remove one of them",
        ),
        (
            stack(apps={"hello": app(**SERVERS, path="/a/b/c/d/e/f")}),
            "apps.hello.path: /a/b/c/d/e/f: with balancer.kind alb a path has 5 parts at most",
        ),
    ],
)
def test_what_keeps_it_from_working_is_refused(blocks: dict[str, Any], line: str) -> None:
    assert [each for each in problems_of(blocks) if each.startswith(line)], problems_of(blocks)


def test_a_certificate_is_not_requested_for_names_that_are_all_too_long() -> None:
    long, zone = f"{'a' * 53}.example.org", {"route53_zone_id": "Z0123456789ABC"}
    blocks = stack({"certificate_arn": None, "request_certificate": True}, zone)
    blocks["balancer"]["hostnames"] = [long]
    (line,) = problems_of(blocks)
    assert line == (
        "balancer.alb.request_certificate: true: is for names of more than 64 characters alone, and ACM takes none of "
        "these as the first; name a shorter one besides, or take a certificate_arn"
    )
    for enough in ([long, "example.org"], [long[1:]]):
        blocks["balancer"]["hostnames"] = enough
        assert problems_of(blocks) == []


def test_a_subnet_that_is_named_twice_is_named_in_the_message() -> None:
    there = {"vpc": None, "vpc_id": "vpc-0123456a", "app_subnet_ids": ["subnet-0123456b"]}
    subnets = ["subnet-0123456c", "subnet-0123456c", "subnet-0123456d"]
    (line,) = problems_of(stack({"subnet_ids": subnets}, there))
    assert line == (
        "balancer.alb.subnet_ids: subnet-0123456c: is named 2 times, and AWS takes a subnet once; remove the others"
    )


def test_a_vpc_that_is_there_names_the_public_subnets_and_no_balancers_subnet() -> None:
    there = {"vpc": None, "vpc_id": "vpc-0123456a", "app_subnet_ids": ["subnet-0123456b"]}
    two = {"subnet_ids": ["subnet-0123456c", "subnet-0123456d"]}
    assert problems_of(stack(two, there)) == []
    (line,) = problems_of(stack(two, there | {"balancer_subnet_id": "subnet-0123456e"}))
    assert line.startswith("aws.balancer_subnet_id: subnet-0123456e: ")


# A value of each setting of balancer.alb that is not its default.
OF_ALB: dict[str, Any] = {
    "subnet_ids": ["subnet-0123456a"],
    "certificate_arn": CERTIFICATE,
    "request_certificate": True,
    "ssl_policy": "ELBSecurityPolicy-TLS13-1-3-2021-06",
    "hsts_max_age_s": 0,
    "slow_start_s": 60,
    "access_logs": {},
    "waf_acl_arn": "arn:aws:wafv2:eu-central-1:123456789012:regional/webacl/x/12345678-1234-1234-1234-123456789012",
    "ip_address_type": "dualstack",
}


def test_with_a_machine_no_setting_of_a_load_balancer_is_silently_ignored() -> None:
    assert OF_ALB.keys() == Alb.model_fields.keys()
    for name, value in OF_ALB.items():
        for blocks in (production(), {}):
            (line,) = problems_of(blocks | {"balancer": {"alb": {name: value}}})
            assert line.startswith(f"balancer.alb.{name}: ")
            assert line.endswith(": is not used with balancer.kind machine; remove it, or set balancer.kind: alb")


def test_with_a_machine_the_defaults_may_stay_as_the_example_has_them() -> None:
    assert problems_of({"balancer": {"alb": Alb().model_dump()}}) == []
