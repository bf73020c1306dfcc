"""Settings of an Application Load Balancer, for balancer.kind alb."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from settings.constraint import AwsId, matching
from settings.model import Model, reject

# What AWS recommends (docs.aws.amazon.com/elasticloadbalancing/latest/application/describe-ssl-policies.html, 2026-11):
# TLS 1.3 and 1.2, forward secrecy and AEAD alone, and ML-KEM for clients that have it. FSBP ELB.17.
SSL_POLICY = "ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09"
# A load balancer stands in two zones at least (CreateLoadBalancer); FSBP ELB.13.
MIN_ZONES = 2
# Names in a certificate of ACM (its quota, which can be raised).
CERTIFICATE_NAMES = 10
# Characters of the name that it is requested for; the others may be longer (RequestCertificate).
FIRST_NAME_CHARS = 64


class AccessLogs(Model):
    """The access log, which a load balancer writes into S3 every five minutes."""

    bucket: (
        Annotated[
            str,
            matching(
                r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
                "the name of a bucket: small letters, digits, dots and hyphens; take one that `aws s3 ls` lists",
            ),
        ]
        | None
    ) = Field(default=None, description="a bucket that lets load balancers write; null: one is made")
    retention_days: int = Field(default=90, ge=1, le=3650, description="days that a bucket that is made keeps it")

    @model_validator(mode="after")
    def _reject_days_of_a_given_bucket(self) -> AccessLogs:
        if self.bucket and "retention_days" in self.model_fields_set:
            reject(
                f"retention_days: {self.retention_days}: is for a bucket that is made, and {self.bucket} has its own "
                "lifecycle rules; remove it, or bucket"
            )
        return self


class Alb(Model):
    """What an Application Load Balancer alone has. Names are AWS's."""

    subnet_ids: list[Annotated[str, AwsId("subnet")]] = Field(
        default_factory=list[str],
        max_length=6,
        description="public subnets in two zones or more, of a VPC that is there (aws.vpc_id)",
    )
    certificate_arn: (
        Annotated[
            str,
            matching(
                r"^arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/[0-9a-z-]{36}$",
                "the ARN of a certificate of ACM: arn:aws:acm:REGION:ACCOUNT:certificate/ID; take one that "
                "`aws acm list-certificates` lists",
            ),
        ]
        | None
    ) = Field(default=None, description="certificate of ACM for HTTPS")
    request_certificate: bool = Field(
        default=False, description="true: ask ACM for one, proven by records in aws.route53_zone_id; ACM renews it"
    )
    ssl_policy: Annotated[
        str,
        matching(
            r"^ELBSecurityPolicy-[A-Za-z0-9-]{1,100}$",
            "the name of a policy, of letters, digits and -, such as ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09; take "
            "one that `aws elbv2 describe-ssl-policies` lists",
        ),
    ] = Field(default=SSL_POLICY, description="protocols and ciphers of HTTPS")
    # As settings.tls.Tls has it.
    hsts_max_age_s: int = Field(
        default=300, ge=0, le=63_072_000, description="for how long browsers insist on HTTPS; 0: no such header"
    )
    slow_start_s: Annotated[int, Field(ge=30, le=900)] | None = Field(
        default=None,
        description="seconds in which a new server's share grows; then shares go round, and not by open requests",
    )
    access_logs: AccessLogs | None = Field(default=None, description="access log in S3; null: none")
    waf_acl_arn: (
        Annotated[
            str,
            matching(
                r"^arn:aws[a-z-]*:wafv2:[a-z0-9-]+:[0-9]{12}:regional/webacl/[A-Za-z0-9_-]{1,128}/[0-9a-z-]{36}$",
                "the ARN of a regional web ACL: arn:aws:wafv2:REGION:ACCOUNT:regional/webacl/NAME/ID; take one that "
                "`aws wafv2 list-web-acls --scope REGIONAL` lists",
            ),
        ]
        | None
    ) = Field(default=None, description="web ACL of AWS WAF that requests pass first")
    ip_address_type: Literal["ipv4", "dualstack"] = Field(
        default="ipv4", description="dualstack: clients reach it by IPv6 as well"
    )

    @property
    def https(self) -> bool:
        """Return whether it serves HTTPS."""
        return self.certificate_arn is not None or self.request_certificate

    @property
    def arns(self) -> dict[str, str]:
        """Return setting -> ARN of what must be in the region of the machines."""
        found = {"certificate_arn": self.certificate_arn, "waf_acl_arn": self.waf_acl_arn}
        return {name: arn for name, arn in found.items() if arn}

    @model_validator(mode="after")
    def _check_source(self) -> Alb:
        if self.certificate_arn and self.request_certificate:
            reject("request_certificate: true: conflicts with certificate_arn; remove one of them")
        return self
