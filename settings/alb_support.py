"""Which part supports each setting with balancer.kind alb: the load balancer, the servers or none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING

from settings import listener_rule
from settings.alb import CERTIFICATE_NAMES, FIRST_NAME_CHARS, MIN_ZONES, Alb

if TYPE_CHECKING:
    from settings.aws import Aws
    from settings.balancer import Balancer
    from settings.stack import Settings

# The transport that reaches machines without a jump host.
TRANSPORT = "instance_connect_endpoint"
# The body of a fixed response (API_FixedResponseActionConfig).
PAGE_CHARS = 1024
# Targets of a load balancer, by its quota.
MAX_TARGETS = 1000

_ALB = "the load balancer"
_PROXY = "each server's own Nginx"
_EACH_COUNTS = "each server would count for itself, so a client would get as much from each; use a rate rule of AWS WAF"
_NO_MACHINE = "there is no balancer machine"
# Setting below balancer -> who does it.
SUPPORTED: Mapping[str, str] = {
    "kind": _ALB,
    "alb": _ALB,
    "hostnames": _ALB,
    "max_body_mib": _PROXY,
    "error_pages.maintenance": f"{_ALB}, up to {PAGE_CHARS} characters",
    "error_pages.bad_gateway": f"{_PROXY}; without any healthy server, an error of the load balancer's own",
    "error_pages.service_unavailable": f"{_PROXY}; without any healthy server, an error of the load balancer's own",
    "error_pages.gateway_timeout": f"{_PROXY}; of a server that is gone, an error of the load balancer's own",
    "proxy.compression": _PROXY,
    "proxy.access": _PROXY,
    "proxy.canonical_host": _PROXY,
    "proxy.redirects": f"{_PROXY}: for paths that an application serves",
    "proxy.rewrites": f"{_PROXY}: the application stays the one of the path before",
    "proxy.request_headers": _PROXY,
    "proxy.response_headers": _PROXY,
}
# Setting below balancer -> why it is not supported.
UNSUPPORTED: Mapping[str, str] = {
    "size": _NO_MACHINE,
    "self_healing": f"{_NO_MACHINE}, and a load balancer heals itself",
    "requests_per_second": _EACH_COUNTS,
    "burst": _EACH_COUNTS,
    "connections": _EACH_COUNTS,
    "tls": "the certificate is one of ACM; set balancer.alb.certificate_arn or balancer.alb.request_certificate",
    "trusted_proxies": "an ALB overwrites X-Forwarded-Proto and X-Forwarded-Port of every request",
    "proxy.kind": "the servers' own proxy is Nginx",
    "proxy.cache": "each server would keep its own responses; CloudFront in front of the ALB keeps them for all",
    "proxy.basic_auth": (
        "servers get the site with the release, which contains no passwords; let the application ask, or an "
        "OIDC provider in front"
    ),
    "proxy.geoip": "servers have no database of countries; CloudFront in front of the ALB adds a header",
    "proxy.memcached": "no server may reach it past the application; let the application ask it",
    "proxy.status": f"{_NO_MACHINE}; CloudWatch counts in the namespace AWS/ApplicationELB",
    "proxy.snippets": "they could not be tested on every server before a release; use settings, or the application",
}
# Settings of an application that are about its requests -> who does them.
OF_APPLICATION: Mapping[str, str] = {
    "hosts": f"{_ALB}, by rules",
    "path": f"{_ALB}, by rules on the path as the client wrote it; {_PROXY} takes it off",
    "strip_path": _PROXY,
    "health_path": f"{_ALB} asks {_PROXY}, and that the application",
    "health_host": f"{_PROXY}, for an ALB asks by address",
    "static": f"{_PROXY}, from the releases of both slots and the one that is staged",
    "streaming": f"{_PROXY}; the load balancer ends what is silent for 4,000 s",
    "sticky_sessions": f"{_ALB}, by a cookie of one day",
    "gateway": "the servers; the idle time-out of the load balancer follows from request_timeout_s",
    "fleet": "the servers, with local_proxy: true",
    "rollout": (
        "the servers; the deregistration delay follows from drain_timeout_s; max_error_percent and max_latency_ratio "
        f"are refused: {_NO_MACHINE} to count requests"
    ),
}
# Settings of an application that do not concern the balancer.
OF_SERVERS = frozenset(
    {"source", "module", "python_path", "requirements", "environment", "secrets", "generated_secrets", "settings_file",
     "required", "system_packages", "build", "workers", "schedules", "release", "hooks"}
)  # fmt: skip


def markdown_table() -> str:
    """Return a Markdown table of all settings, which docs/scaling.md contains."""
    rows = [("setting", "with `kind: alb`"), ("---", "---")]
    rows += [(f"`balancer.{name}`", by) for name, by in SUPPORTED.items() if name not in ("kind", "alb")]
    rows += [(f"`apps.NAME.{name}`", by) for name, by in OF_APPLICATION.items()]
    rows += [(f"`balancer.{name}`", f"refused: {why}") for name, why in UNSUPPORTED.items()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def unsupported_settings(balancer: Balancer) -> list[str]:
    """Return the settings that an ALB has no use for, each with the reason and the remedy."""
    found = [
        f"{name}: an Application Load Balancer does not support it: {why}; remove it, or take kind: machine"
        for name, why in UNSUPPORTED.items()
        if attrgetter(name)(balancer) != attrgetter(name)(type(balancer)())
    ]
    page = balancer.error_pages.maintenance
    if page is not None and len(page) > PAGE_CHARS:
        found.append(
            f"error_pages.maintenance: has {len(page)} characters, and an ALB responds with {PAGE_CHARS} at most; "
            "shorten it, or remove it for a plain page"
        )
    return found


def problems(settings: Settings) -> list[str]:
    """Return what of a whole stack keeps an Application Load Balancer from working, each with its path."""
    if settings.balancer.kind != "alb":
        return _unused_settings(settings.balancer.alb)
    if settings.platform != "aws" or settings.aws is None:
        return ["balancer.kind: alb: is a service of AWS; remove it, or take platform: aws"]
    found = [
        f"apps.{name}.fleet.local_proxy: false: should be true with balancer.kind alb: an ALB speaks HTTP alone and "
        "cannot clean headers, so a server's own Nginx does; set it, and gateway.processes to a number"
        for name, app in settings.apps.items()
        if not app.fleet.local_proxy
    ]
    found += [
        f"apps.{name}.rollout.{limit}: {value}: needs a balancer's access log, and with balancer.kind alb there is no "
        "balancer machine; remove it, or take kind: machine (alarms of the load balancer: aws.alarms)"
        for name, app in settings.apps.items()
        for limit in ("max_error_percent", "max_latency_ratio")
        if (value := getattr(app.rollout, limit)) not in (None, type(app.rollout).model_fields[limit].default)
    ]
    if settings.aws.transport != TRANSPORT:
        found.append(
            f"aws.transport: {settings.aws.transport}: should be {TRANSPORT} with balancer.kind alb, which leaves no "
            "public machine to reach the others through; set it"
        )
    found += _check_network(settings.aws, settings)
    found += _check_certificate(settings.aws, settings)
    servers = sum(app.fleet.max_servers for app in settings.apps.values())
    if servers > MAX_TARGETS:
        found.append(f"apps: have {servers} servers, and an ALB takes {MAX_TARGETS} by its quota; take fewer, larger")
    return [*found, *listener_rule.problems(settings.apps)]


def _unused_settings(alb: Alb) -> list[str]:
    """Return what a machine would ignore: with a certificate the site would be served by plain HTTP."""
    given, default = alb.model_dump(mode="json", exclude_unset=True), Alb().model_dump(mode="json")
    return [
        f"balancer.alb.{name}: {value if isinstance(value, str) else json.dumps(value)}: is not used with "
        "balancer.kind machine; remove it, or set balancer.kind: alb"
        for name, value in given.items()
        if value != default[name]
    ]


def _check_network(aws: Aws, settings: Settings) -> list[str]:
    alb, need = settings.balancer.alb, f"an ALB needs {MIN_ZONES} zones at least"
    given = f"balancer.alb.subnet_ids: {json.dumps(alb.subnet_ids)}:"
    if aws.vpc and alb.subnet_ids:
        return [f"{given} conflicts with aws.vpc, whose public subnets are used; remove one of them"]
    if aws.vpc and len(aws.vpc.zones) < MIN_ZONES:
        return [f"aws.vpc.zones: {', '.join(aws.vpc.zones)}: {need}; name another zone"]
    if aws.vpc:
        return []
    found = [
        f"balancer.alb.subnet_ids: {id_}: is named {number} times, and AWS takes a subnet once; remove the others"
        for id_, number in Counter(alb.subnet_ids).items()
        if number > 1
    ]
    if len({*alb.subnet_ids}) < MIN_ZONES:
        found.append(f"{given} {need}; name one public subnet in each (`aws ec2 describe-subnets`)")
    return found


def _check_certificate(aws: Aws, settings: Settings) -> list[str]:
    alb = settings.balancer.alb
    found = [
        f"balancer.alb.{name}: is in {region}; take one in aws.region ({aws.region})"
        for name, arn in alb.arns.items()
        if (region := arn.split(":")[3]) != aws.region
    ]
    if not alb.request_certificate:
        return found
    asks = "balancer.alb.request_certificate: true:"
    if aws.route53_zone_id is None:
        found.append(f"{asks} ACM looks for records that it names; set aws.route53_zone_id, or take a certificate_arn")
    if not settings.hostnames:
        found.append(f"{asks} a certificate is for names; name the site in balancer.hostnames")
    elif all(len(name) > FIRST_NAME_CHARS for name in settings.hostnames):
        found.append(
            f"{asks} is for names of more than {FIRST_NAME_CHARS} characters alone, and ACM takes none of these as the "
            "first; name a shorter one besides, or take a certificate_arn"
        )
    if len(settings.hostnames) > CERTIFICATE_NAMES:
        number = len(settings.hostnames)
        found.append(f"{asks} is for {number} names, and ACM signs {CERTIFICATE_NAMES} by its quota; name fewer")
    return found
