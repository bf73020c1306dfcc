"""Where a load balancer writes its access log: a bucket that is there, or one of the stack's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

import settings
from platforms.aws.bucket import private_bucket
from platforms.aws.partition import partition_of
from settings.alb import AccessLogs

# The service that writes them (docs.aws.amazon.com/elasticloadbalancing/latest/application/enable-access-logging.html).
WRITER = "logdelivery.elasticloadbalancing.amazonaws.com"


@dataclass(frozen=True)
class AccessLogPlace:
    """args: access_logs of the load balancer. ready: what it waits for, for AWS tries to write at once."""

    args: aws.lb.LoadBalancerAccessLogsArgs
    ready: Sequence[pulumi.Resource]


def access_logs(
    name: str,
    given: AccessLogs | None,
    block: settings.Aws,
    provider: aws.Provider,
    opts: pulumi.ResourceOptions,
) -> AccessLogPlace | None:
    """Return where access logs go; None where they are not asked for."""
    if given is None:
        return None
    if given.bucket:
        return AccessLogPlace(aws.lb.LoadBalancerAccessLogsArgs(enabled=True, bucket=given.bucket), [])
    partition = partition_of(block.region)

    def lets_in_the_writer(arn: str) -> Mapping[str, Any]:
        return {
            "Sid": "AccessLogs",
            "Effect": "Allow",
            "Principal": {"Service": WRITER},
            "Action": "s3:PutObject",
            "Resource": f"{arn}/AWSLogs/*",
            # Load balancers of other accounts write nothing here.
            "Condition": {
                "ArnLike": {"aws:SourceArn": f"arn:{partition.name}:elasticloadbalancing:{block.region}:*:*"}
            },
        }

    made = private_bucket(
        f"{name}-log",
        provider,
        pulumi.ResourceOptions(parent=opts.parent),
        protect=block.protect,
        expires_days=given.retention_days,
        more=lets_in_the_writer,
    )
    return AccessLogPlace(aws.lb.LoadBalancerAccessLogsArgs(enabled=True, bucket=made.bucket.bucket), [made.policy])
