"""Where a load balancer writes its access log: an existing bucket, or one of the stack's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from platforms.aws.bucket import private_bucket
from platforms.aws.partition import partition_of
from settings.alb import AccessLogs
from settings.aws import Aws

# The service that writes them (docs.aws.amazon.com/elasticloadbalancing/latest/application/enable-access-logging.html).
WRITER = "logdelivery.elasticloadbalancing.amazonaws.com"


@dataclass(frozen=True)
class AccessLogPlace:
    """args: access_logs of the load balancer. ready: what it waits for, because AWS tries to write at once."""

    args: aws.lb.LoadBalancerAccessLogsArgs
    ready: Sequence[pulumi.Resource]


def access_logs(
    name: str,
    logs: AccessLogs | None,
    config: Aws,
    provider: aws.Provider,
    opts: pulumi.ResourceOptions,
) -> AccessLogPlace | None:
    """Return where access logs go; None if they are off."""
    if logs is None:
        return None
    if logs.bucket:
        return AccessLogPlace(aws.lb.LoadBalancerAccessLogsArgs(enabled=True, bucket=logs.bucket), [])
    partition = partition_of(config.region)

    def allow_writer(arn: str) -> Mapping[str, Any]:
        return {
            "Sid": "AccessLogs",
            "Effect": "Allow",
            "Principal": {"Service": WRITER},
            "Action": "s3:PutObject",
            "Resource": f"{arn}/AWSLogs/*",
            # Load balancers of other accounts write nothing here.
            "Condition": {
                "ArnLike": {"aws:SourceArn": f"arn:{partition.name}:elasticloadbalancing:{config.region}:*:*"}
            },
        }

    bucket = private_bucket(
        f"{name}-log",
        provider,
        pulumi.ResourceOptions(parent=opts.parent),
        protect=config.protect,
        expires_days=logs.retention_days,
        extra_statement=allow_writer,
    )
    return AccessLogPlace(aws.lb.LoadBalancerAccessLogsArgs(enabled=True, bucket=bucket.bucket.bucket), [bucket.policy])
