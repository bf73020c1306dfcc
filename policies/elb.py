"""Controls of Elastic Load Balancing, as policies/controls.py has those of other services."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from policies.control import Judge, Planned, control

BALANCER, LISTENER = "aws:lb/loadBalancer:LoadBalancer", "aws:lb/listener:Listener"
# In two zones (ELB.13 by its default).
LEAST_SUBNETS = 2
DESYNC = ("defensive", "strictest")


def _block(inputs: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", inputs.get(key) or {})


def _balancers(is_good: Callable[[Mapping[str, Any]], bool], problem: str) -> Judge:
    """Return a judge that finds load balancers whose inputs are not good."""

    def judge(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
        for each in plan:
            if each.type == BALANCER and not is_good(each.inputs):
                yield each, problem

    return judge


@control("ELB.1", "HTTP leads to HTTPS", "set balancer.alb.certificate_arn, or request_certificate: true")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in plan:
        if each.type == LISTENER and each.inputs.get("protocol") == "HTTP":
            actions = cast("list[dict[str, Any]]", each.inputs.get("defaultActions") or [])
            if [_block(action, "redirect").get("protocol") for action in actions] != ["HTTPS"]:
                yield each, "it serves HTTP"


control("ELB.4", "load balancers drop invalid headers", "set drop_invalid_header_fields")(
    _balancers(lambda given: given.get("dropInvalidHeaderFields") is True, "it passes on any header")
)
control("ELB.5", "load balancers keep access logs", "set balancer.alb.access_logs")(
    _balancers(lambda given: _block(given, "accessLogs").get("enabled") is True, "it keeps none")
)
control("ELB.6", "load balancers cannot be deleted by mistake", "set aws.protect: true")(
    _balancers(lambda given: given.get("enableDeletionProtection") is True, "one call deletes it")
)
control("ELB.12", "load balancers stop request smuggling", "set desync_mitigation_mode: defensive")(
    _balancers(lambda given: given.get("desyncMitigationMode") in DESYNC, "it passes on ambiguous requests")
)
control("ELB.13", "load balancers stand in several zones", "name another zone, or another subnet")(
    _balancers(lambda given: len(given.get("subnets") or ()) >= LEAST_SUBNETS, "it stands in one zone")
)


@control("ELB.17", "listeners have a recommended TLS policy", "remove balancer.alb.ssl_policy")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in plan:
        policy = str(each.inputs.get("sslPolicy"))
        is_https = each.type == LISTENER and each.inputs.get("protocol") == "HTTPS"
        if is_https and not policy.startswith(("ELBSecurityPolicy-TLS13-1-2-Res", "ELBSecurityPolicy-TLS13-1-3")):
            yield each, f"its policy is {policy}"
