"""DNS records in Route 53: the site's names point to the Elastic IP, or to the load balancer."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
import pulumi_aws as aws

from settings.aws import Aws

# Short enough that a wrong one is gone in minutes.
TTL_S = 300


def records(
    name: str,
    hostnames: Sequence[str],
    address: pulumi.Output[str],
    config: Aws,
    opts: pulumi.ResourceOptions,
) -> list[aws.route53.Record]:
    """Create an A record for each name, none where no hosted zone is given.

    They wait for no machine: they name the address, which outlives every machine. Route 53 rejects a
    write over an existing record, so no foreign record is taken.
    """
    if config.route53_zone_id is None:
        return []
    return [
        aws.route53.Record(
            f"{name}-{hostname}",
            zone_id=config.route53_zone_id,
            name=hostname,
            type="A",
            ttl=TTL_S,
            records=[address],
            opts=opts,
        )
        for hostname in hostnames
    ]


def alias_records(
    name: str,
    hostnames: Sequence[str],
    balancer: aws.lb.LoadBalancer,
    config: Aws,
    opts: pulumi.ResourceOptions,
    *,
    ipv6: bool,
) -> list[aws.route53.Record]:
    """Create an alias of the load balancer for each name, whose addresses change; none without a hosted zone."""
    if config.route53_zone_id is None:
        return []
    # What it finds unhealthy it handles itself; a name that leads nowhere would be no better.
    alias = aws.route53.RecordAliasArgs(name=balancer.dns_name, zone_id=balancer.zone_id, evaluate_target_health=False)
    return [
        aws.route53.Record(
            f"{name}-{hostname}{'' if type_ == 'A' else '-ipv6'}",
            zone_id=config.route53_zone_id,
            name=hostname,
            type=type_,
            aliases=[alias],
            opts=opts,
        )
        for hostname in hostnames
        for type_ in (("A", "AAAA") if ipv6 else ("A",))
    ]
