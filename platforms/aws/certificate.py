"""A certificate of ACM, validated by records in Route 53. ACM renews it as long as these exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_aws as aws

from settings.alb import FIRST_NAME_CHARS

TTL_S = 300


def request_certificate(
    name: str, hostnames: Sequence[str], zone_id: str, opts: pulumi.ResourceOptions
) -> pulumi.Output[str]:
    """Request a certificate with these names. Return its ARN, known once ACM has signed. opts: with the provider.

    settings/alb_support.py rejects names of which ACM takes none as the first.
    """
    first = next(hostname for hostname in hostnames if len(hostname) <= FIRST_NAME_CHARS)
    certificate = aws.acm.Certificate(
        name,
        domain_name=first,
        subject_alternative_names=[hostname for hostname in hostnames if hostname != first],
        validation_method="DNS",
        # Browsers of the last ten years take it, and it is faster than RSA.
        key_algorithm="EC_prime256v1",
        opts=opts,
    )
    child = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(parent=certificate))
    # A wildcard is proven by the record of the name that it is below. So a record stays when one of both comes or goes:
    # Route 53 refuses a second one of its name.
    proven = {hostname.removeprefix("*."): hostname for hostname in hostnames}
    records = [_record(f"{name}-{base}", listed, certificate, zone_id, child) for base, listed in proven.items()]
    signed = aws.acm.CertificateValidation(
        name,
        certificate_arn=certificate.arn,
        validation_record_fqdns=[record.fqdn for record in records],
        opts=child,
    )
    return signed.certificate_arn


def _record(
    name: str, hostname: str, certificate: aws.acm.Certificate, zone_id: str, opts: pulumi.ResourceOptions
) -> aws.route53.Record:
    found: pulumi.Output[Mapping[str, Any]] = certificate.domain_validation_options.apply(
        lambda options: next(_fields(option) for option in options if option.domain_name == hostname)
    )
    return aws.route53.Record(
        name,
        zone_id=zone_id,
        name=found["name"],
        type=found["type"],
        records=[found["value"]],
        ttl=TTL_S,
        opts=opts,
    )


def _fields(option: Any) -> Mapping[str, Any]:
    return {
        "name": option.resource_record_name,
        "type": option.resource_record_type,
        "value": option.resource_record_value,
    }
