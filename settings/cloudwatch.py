"""Settings of what platform aws watches and keeps: alarms, and logs in CloudWatch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from settings.constraint import matching
from settings.model import Model
from settings.vpc import RetentionDays

KeyArn = Annotated[
    str,
    matching(
        r"^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[0-9a-z-]{36}$",
        "the ARN of a KMS key: arn:aws:kms:REGION:ACCOUNT:key/ID; take one that `aws kms list-keys` lists",
    ),
]


class Alarms(Model):
    """Alarms on machines and on responses of the balancer, sent to a topic."""

    sns_topic_arn: Annotated[
        str,
        matching(
            r"^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}$",
            "the ARN of an SNS topic: arn:aws:sns:REGION:ACCOUNT:NAME; take one that `aws sns list-topics` lists",
        ),
    ] = Field(description="SNS topic of the same region, for messages when an alarm starts and when it ends")
    errors_5xx_percent: int = Field(
        default=5, ge=1, le=100, description="share of the balancer's responses that are errors, five minutes in a row"
    )
    disk_percent: int = Field(
        default=85, ge=50, le=99, description="how full a machine's disk is, five minutes in a row"
    )


class Logs(Model):
    """Nginx's access log and the journals of applications, in CloudWatch Logs."""

    retention_days: RetentionDays = Field(default=90, description="days that lines are kept")
    kms_key_arn: KeyArn | None = Field(
        default=None, description="KMS key that encrypts them, which lets in CloudWatch Logs; null is AWS's own key"
    )
