"""Controls of Elastic Load Balancing, as policies/controls.py has those of other services."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from policies.control import Planned, block, control, judge_each

BALANCER, LISTENER = "aws:lb/loadBalancer:LoadBalancer", "aws:lb/listener:Listener"
# In two zones (ELB.13 by its default).
MIN_SUBNETS = 2
DESYNC = ("defensive", "strictest")


@control("ELB.1", "HTTP leads to HTTPS", "set balancer.alb.certificate_arn, or request_certificate: true")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in plan:
        if each.type == LISTENER and each.inputs.get("protocol") == "HTTP":
            actions = cast("list[dict[str, Any]]", each.inputs.get("defaultActions") or [])
            if [block(action, "redirect").get("protocol") for action in actions] != ["HTTPS"]:
                yield each, "it serves HTTP"


control("ELB.4", "load balancers drop invalid headers", "set drop_invalid_header_fields")(
    judge_each(BALANCER, lambda given: given.get("dropInvalidHeaderFields") is True, "it passes on any header")
)
control("ELB.5", "load balancers keep access logs", "set balancer.alb.access_logs")(
    judge_each(BALANCER, lambda given: block(given, "accessLogs").get("enabled") is True, "it keeps none")
)
control("ELB.6", "load balancers cannot be deleted by mistake", "set aws.protect: true")(
    judge_each(BALANCER, lambda given: given.get("enableDeletionProtection") is True, "one call deletes it")
)
control("ELB.12", "load balancers stop request smuggling", "set desync_mitigation_mode: defensive")(
    judge_each(BALANCER, lambda given: given.get("desyncMitigationMode") in DESYNC, "it passes on ambiguous requests")
)
control("ELB.13", "load balancers stand in several zones", "name another zone, or another subnet")(
    judge_each(BALANCER, lambda given: len(given.get("subnets") or ()) >= MIN_SUBNETS, "it is in one zone")
)


@control("ELB.17", "listeners have a recommended TLS policy", "remove balancer.alb.ssl_policy")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in plan:
        policy = str(each.inputs.get("sslPolicy"))
        is_https = each.type == LISTENER and each.inputs.get("protocol") == "HTTPS"
        if is_https and not policy.startswith(("ELBSecurityPolicy-TLS13-1-2-Res", "ELBSecurityPolicy-TLS13-1-3")):
            yield each, f"its policy is {policy}"
