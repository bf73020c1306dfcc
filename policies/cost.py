"""Prints what the resources of a stack cost in a month before traffic, from a price table with its date.

python -m policies.cost prod                               by its stack file, without AWS (make cost STACK=prod)
pulumi preview --json -s prod | python -m policies.cost -  what an `up` would make of it
pulumi stack export -s prod | python -m policies.cost -    what stands in the state
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from policies.control import Planned
from policies.plan import plan_of

# Rough: written down in that month, and not read from AWS, whose price lists are no file to keep here.
REGION, PRICES_OF = "eu-central-1", "2026-11"
# AWS's own month (calculator.aws).
HOURS = 730
# Dollars for an hour of Linux on demand, of the size `large`. Others are its multiples (aws.amazon.com/ec2/pricing).
LARGE = {
    "t3": 0.096, "t3a": 0.0864, "t4g": 0.0768, "m5": 0.115, "m6i": 0.115, "m6g": 0.092, "c5": 0.097, "c6i": 0.097,
    "c6g": 0.0776, "r5": 0.152, "r6i": 0.152, "r6g": 0.1216,
}  # fmt: skip
SIZES = {"nano": 1 / 16, "micro": 1 / 8, "small": 1 / 4, "medium": 1 / 2, "large": 1}
# Dollars for a month (aws.amazon.com/ebs/pricing, /cloudwatch/pricing: seven metrics of EC2 at 0.30).
GP3_GIB, DETAILED_METRICS, METRIC, ALARM = 0.0952, 2.10, 0.30, 0.10
# Dollars for an hour (aws.amazon.com/vpc/pricing, /privatelink/pricing, /elasticloadbalancing/pricing).
NAT_GATEWAY, PUBLIC_ADDRESS, INTERFACE_ENDPOINT, LOAD_BALANCER = 0.052, 0.005, 0.012, 0.027
GROUP, TEMPLATE = "aws:autoscaling/group:Group", "aws:ec2/launchTemplate:LaunchTemplate"
# Of AWS itself; they cost nothing.
OWN_METRICS = ("AWS/EC2", "AWS/ApplicationELB", "AWS/AutoScaling")


class Cost(NamedTuple):
    """A thing that costs. usd: for a month, each; None where the table has no price. number: how many."""

    what: str
    usd: float | None
    number: int = 1


def _instance(inputs: Mapping[str, Any]) -> Iterator[Cost]:
    kind, disk = inputs["instanceType"], inputs["rootBlockDevice"]["volumeSize"]
    yield Cost(f"machine, {kind}", _machine_usd(kind))
    yield Cost(f"disk, {disk} GiB gp3", disk * GP3_GIB)
    if inputs.get("monitoring"):
        yield Cost("metrics of a machine by the minute", DETAILED_METRICS)


def _machine_usd(instance_type: str) -> float | None:
    family, _, size = instance_type.partition(".")
    times = re.fullmatch(r"(\d*)xlarge", size)
    share = 2 * int(times[1] or 1) if times else SIZES.get(size)
    return None if family not in LARGE or share is None else LARGE[family] * share * HOURS


def _endpoint(inputs: Mapping[str, Any]) -> Iterator[Cost]:
    if inputs.get("vpcEndpointType") == "Interface":
        zones = len(inputs.get("subnetIds") or [""])
        yield Cost("interface endpoint, each zone", INTERFACE_ENDPOINT * HOURS, zones)


def _alarm(inputs: Mapping[str, Any]) -> Iterator[Cost]:
    # One that computes with metrics costs for each of them.
    queries = cast("list[dict[str, Any]]", inputs.get("metricQueries") or [{"metric": inputs}])
    metrics = [query["metric"] for query in queries if query.get("metric")]
    yield Cost("alarm", ALARM, len(metrics))
    if own := [metric for metric in metrics if metric["namespace"] not in OWN_METRICS]:
        yield Cost("metric that a machine reports", METRIC, len(own))


def _load_balancer(inputs: Mapping[str, Any]) -> Iterator[Cost]:
    yield Cost("load balancer", LOAD_BALANCER * HOURS)
    # One in each zone.
    yield Cost("public address", PUBLIC_ADDRESS * HOURS, len(inputs["subnets"]))


def _group(inputs: Mapping[str, Any], template: Mapping[str, Any]) -> Iterator[Cost]:
    """Yield what a group costs with as few machines as it may have, on demand."""
    kind, disk = template["instanceType"], template["blockDeviceMappings"][0]["ebs"]["volumeSize"]
    for each in _instance({"instanceType": kind, "rootBlockDevice": {"volumeSize": disk}, "monitoring": True}):
        yield each._replace(number=int(inputs["minSize"]))


def groups(plan: Sequence[Planned]) -> Iterator[tuple[Planned, list[Cost]]]:
    """Yield each group with what it costs. Its template has its name."""
    templates = {each.name: each.inputs for each in plan if each.type == TEMPLATE}
    for each in plan:
        if each.type == GROUP:
            yield each, list(_group(each.inputs, templates[each.name]))


def _hourly(what: str, usd: float) -> Callable[[Mapping[str, Any]], Iterator[Cost]]:
    return lambda _: iter([Cost(what, usd * HOURS)])


PRICED: Mapping[str, Callable[[Mapping[str, Any]], Iterator[Cost]]] = {
    "aws:ec2/instance:Instance": _instance,
    "aws:ec2/natGateway:NatGateway": _hourly("NAT gateway", NAT_GATEWAY),
    "aws:ec2/eip:Eip": _hourly("public address", PUBLIC_ADDRESS),
    "aws:ec2/vpcEndpoint:VpcEndpoint": _endpoint,
    "aws:cloudwatch/metricAlarm:MetricAlarm": _alarm,
    "aws:lb/loadBalancer:LoadBalancer": _load_balancer,
    # One that says that there are too few servers, and one that there are too many.
    "aws:autoscaling/policy:Policy": lambda _: iter([Cost("alarm", ALARM, 2)]),
}
TRAFFIC = "traffic to the internet: 0.09 for each GB after the first 100, 0.01 between zones"
# What costs by use alone, and how much.
BY_USE: Mapping[str, str] = {
    "aws:ec2/natGateway:NatGateway": "NAT gateways: 0.052 for each GB through them",
    "aws:ec2/flowLog:FlowLog": "flow log: 0.63 for each GB",
    "aws:cloudwatch/logGroup:LogGroup": "kept logs: 0.63 for each GB, and 0.03 for each GB and month",
    "aws:lb/loadBalancer:LoadBalancer": "load balancer: 5.84 a month for 25 new connections a second, or 1 GB an hour",
    "pulumi-python:dynamic/aws:BakedImage": "image of machines: 0.054 for each GB and month of its snapshot, some 2 GB",
    "aws:s3/bucket:Bucket": "release bucket, access logs: 0.0245 for each GB and month, cents for requests",
    "aws:ec2/instance:Instance": TRAFFIC,
    GROUP: TRAFFIC,
}
# Cost nothing by themselves.
FREE = re.compile(
    r"aws:(iam/.*|vpc/securityGroup.*|s3/bucket[A-Z].*|ec2/(vpc|subnet|internetGateway|egressOnlyInternetGateway|route|routeTable|eipAssociation|keyPair"
    r"|routeTableAssociation|securityGroup|defaultSecurityGroup|vpcEndpoint|flowLog|launchTemplate):.*|route53/record:.*"
    r"|lb/(targetGroup|listener|listenerRule):.*|acm/.*|wafv2/webAclAssociation:.*"
    r"|autoscaling/schedule:.*|ssm/parameter:.*"
    r"|ec2transitgateway/instanceConnectEndpoint:.*)"
)


def costs(plan: Sequence[Planned]) -> list[Cost]:
    """Return what costs, by name. Raises ValueError for a resource of AWS that the table does not know."""
    counts: dict[tuple[str, float | None], int] = {}
    for each in plan:
        if each.type in PRICED:
            for cost in PRICED[each.type](each.inputs):
                counts[cost[:2]] = counts.get(cost[:2], 0) + cost.number
        elif each.type.startswith("aws:") and each.type not in BY_USE and not FREE.fullmatch(each.type):
            raise ValueError(f"{each.name}: the price table knows no {each.type}; add it to policies/cost.py")
    for _, found in groups(plan):
        for cost in found:
            counts[cost[:2]] = counts.get(cost[:2], 0) + cost.number
    return sorted(Cost(*key, count) for key, count in counts.items())


def total_usd(found: Sequence[Cost]) -> float:
    """Return dollars for a month of all that has a price."""
    return sum((cost.usd or 0) * cost.number for cost in found)


def _text(stack: str, plan: Sequence[Planned]) -> str:
    found = costs(plan)
    lines = [f"{stack}: dollars for a month of {HOURS} hours, on demand in {REGION}", ""]
    for cost in found:
        each = "no price" if cost.usd is None else f"{cost.usd:8.2f}"
        together = "" if cost.usd is None else f"{cost.usd * cost.number:9.2f}"
        lines.append(f"  {cost.what:36} {cost.number:4} x {each:>8} {together}")
    at_least = "at least" if any(cost.usd is None for cost in found) else ""
    lines += [f"  {'together':36} {'':4}   {at_least:8} {total_usd(found):9.2f}", ""]
    for group, of_group in groups(plan):
        least, most = int(group.inputs["minSize"]), int(group.inputs["maxSize"])
        one = total_usd([each._replace(number=1) for each in of_group])
        more = f"{one * (most - least):.2f} more with {most}"
        lines += [f"  {group.name} has {least} servers in this; each further one is {one:.2f}, {more}", ""]
    lines.append("By use:")
    types = {each.type for each in plan}
    lines += dict.fromkeys(f"  {text}" for type_, text in BY_USE.items() if type_ in types)
    return "\n".join([*lines, "", f"Rough prices, written down in {PRICES_OF}; calculator.aws knows better."])


def markdown_table(stacks: Mapping[str, Sequence[Planned]]) -> str:
    """Return the table of docs/aws.md: what costs, and how many of it each stack has."""
    found = {stack: costs(plan) for stack, plan in stacks.items()}
    lines = [("what", "each", *stacks), ("---",) * (2 + len(stacks))]
    for what, usd in sorted({cost[:2] for each in found.values() for cost in each}):
        counts = [next((str(cost.number) for cost in each if cost[:2] == (what, usd)), "") for each in found.values()]
        lines.append((what, "?" if usd is None else f"{usd:.2f}", *counts))
    lines.append(("**together**", "", *(f"**{total_usd(each):.0f}**" for each in found.values())))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main(arguments: list[str]) -> int:
    """Print the costs of a plan. Return 0, or 2 for wrong input."""
    if len(arguments) != 1 or arguments[0].startswith("--"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        stack, plan = plan_of(arguments[0])
        print(_text(stack, plan) if any(each.type.startswith("aws:") for each in plan) else f"{stack}: nothing of AWS")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    # `| head` ends it without a traceback.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
