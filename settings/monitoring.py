"""Settings of metrics for Prometheus. What platform aws reports to CloudWatch is in settings/cloudwatch.py."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, SecretStr

from settings.constraint import check_ipv4_network
from settings.hooks import check_url
from settings.model import Model

if TYPE_CHECKING:
    from settings.stack import Settings

_GROUP = re.compile(r"^sg-[0-9a-f]{8,17}$")
# A larger network is hardly one's own.
MIN_PREFIX_LENGTH = 8


def _check_source(value: str) -> str:
    if _GROUP.fullmatch(value):
        return value
    try:
        network = ipaddress.IPv4Network(check_ipv4_network(value))
    except ValueError as error:
        raise ValueError(f"{error}, or the id of a security group (sg-...)") from None
    if network.prefixlen < MIN_PREFIX_LENGTH:
        raise ValueError(f'"{value}": opens the metrics to (nearly) everyone; name the network of your Prometheus')
    return value


class Monitoring(Model):
    """Metrics of every machine, and on platform lxd a machine with Prometheus and Alertmanager that reads them."""

    enabled: bool = Field(
        default=False, description="machines export metrics; a change replaces none but those of groups"
    )
    scrape_from: Annotated[str, AfterValidator(_check_source)] | None = Field(
        default=None,
        description="platform aws: who may read the metrics, your own Prometheus: a security group of the VPC "
        "(sg-...), or an IPv4 network",
    )
    webhook_url: Annotated[SecretStr, AfterValidator(check_url)] | None = Field(
        default=None, description="platform lxd: URL to which Alertmanager posts alerts; a secret"
    )


def problems(settings: Settings) -> Iterator[str]:
    """Yield what of monitoring does not fit the platform, each with its path."""
    monitoring, platform = settings.monitoring, settings.platform
    if monitoring.scrape_from is not None and platform != "aws":
        yield (
            f"monitoring.scrape_from: {monitoring.scrape_from}: is for platform aws; platform {platform} has a machine "
            "of its own that reads the metrics; remove it"
        )
    if monitoring.webhook_url is not None and platform != "lxd":
        yield (
            f"monitoring.webhook_url: (secret): is for the Alertmanager of platform lxd; on platform {platform} name "
            "it in your own; remove it"
        )
    if monitoring.enabled and platform == "aws" and monitoring.scrape_from is None:
        yield (
            "monitoring.scrape_from: missing; name the security group of your Prometheus (sg-...), or its IPv4 "
            "network, such as 10.20.0.0/24: nobody else may read the metrics"
        )
    if (
        monitoring.enabled
        and platform == "lxd"
        and settings.lxd.monitoring_port
        in (
            ports := {"port": settings.lxd.port}
            | ({"tls_port": settings.lxd.tls_port} if settings.balancer.tls else {})
        ).values()
    ):
        other = next(name for name, port in ports.items() if port == settings.lxd.monitoring_port)
        yield f"lxd.monitoring_port: {settings.lxd.monitoring_port}: is lxd.{other} as well; take another port for one"
