"""DNS records in Route 53: the site's names lead to the Elastic IP."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
import pulumi_aws as aws

import settings

# Short enough that a wrong one is gone in minutes.
TTL_S = 300


def records(
    name: str,
    hostnames: Sequence[str],
    address: pulumi.Output[str],
    given: settings.Aws,
    opts: pulumi.ResourceOptions,
) -> list[aws.route53.Record]:
    """Create an A record for each name, none where no hosted zone is given.

    They wait for no machine: they name the address, which outlives every machine. Route 53 rejects a write over a
    record that is there, so nothing of somebody else's is taken.
    """
    if given.route53_zone_id is None:
        return []
    return [
        aws.route53.Record(
            f"{name}-{hostname}",
            zone_id=given.route53_zone_id,
            name=hostname,
            type="A",
            ttl=TTL_S,
            records=[address],
            opts=opts,
        )
        for hostname in hostnames
    ]
