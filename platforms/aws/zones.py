"""The zones of subnets that are there, looked up in EC2 while the program runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pulumi
import pulumi_aws as aws

from platforms.failure import end_program
from settings.aws import Aws


def zones_of(subnet_ids: Iterable[str], opts: pulumi.InvokeOptions) -> Mapping[str, str]:
    """Return subnet -> its zone, of those that are known."""
    found = {id_: aws.ec2.get_subnet(id=id_, opts=opts).availability_zone for id_ in subnet_ids}
    return {id_: zone for id_, zone in found.items() if zone}


def check_front(public: Mapping[str, str], private: Mapping[str, str]) -> None:
    """End the program where a load balancer could not stand in the public subnets, or not reach the private ones.

    Both are subnet -> zone. AWS says the first in the middle of an `up`, and the second never.
    """
    problems: list[str] = []
    by_zone: dict[str, list[str]] = {}
    for id_, zone in public.items():
        by_zone.setdefault(zone, []).append(id_)
    for zone, ids in by_zone.items():
        if len(ids) > 1:
            problems.append(
                f"balancer.alb.subnet_ids: {', '.join(ids)}: are all in {zone}, and an ALB takes one subnet of a zone; "
                "name one public subnet in each of two zones or more"
            )
    problems += [
        f"aws.app_subnet_ids: {id_}: is in {zone}, and balancer.alb.subnet_ids has no subnet there: an ALB sends "
        f"requests to its own zones alone; name a public subnet in {zone} there, or leave this one out"
        for id_, zone in private.items()
        if by_zone and zone not in by_zone
    ]
    if problems:
        end_program("\n".join(problems))


def warn_of_one_zone(app: str, config: Aws, private: Mapping[str, str]) -> None:
    """Log a warning if all servers of a group are in one zone (FSBP AutoScaling.2). private: subnet -> zone."""
    zones: Sequence[str] = config.vpc.zones if config.vpc else sorted(set(private.values()))
    if len(zones) == 1:
        where, what = ("vpc.zones", "zone") if config.vpc else ("app_subnet_ids", "private subnet of another zone")
        pulumi.log.warn(
            f"aws.{where}: the servers of a group stand in {zones[0]} alone (apps.{app}.fleet.capacity), and are gone "
            f"when that zone is; name another {what}"
        )
