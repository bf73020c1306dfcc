"""The settings of the balancer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from settings import alb_support
from settings.alb import Alb
from settings.apache import unsupported_settings
from settings.constraint import Cidr
from settings.error_pages import ErrorPages
from settings.model import Model, reject
from settings.proxy import Proxy
from settings.size import Size
from settings.tls import Hostname, Tls, problems

# Nginx counts thousandths of requests, and at most 65,535 connections of a client (ngx_http_limit_*_module.c).
MAX_REQUESTS = 1_000_000


class Balancer(Model):
    """The balancer. Limits are off unless they are set."""

    kind: Literal["machine", "alb"] = Field(
        default="machine", description="machine: one with a proxy; alb: an Application Load Balancer (aws)"
    )
    alb: Alb = Field(default=Alb(), description="what an Application Load Balancer alone has")
    size: Size = Field(default=Size(), description="what the balancer has")
    self_healing: bool = Field(
        default=False,
        description="true: another machine takes its place and address by itself when it fails (aws): a group of one",
    )
    max_body_mib: int = Field(
        default=10, ge=1, le=10_240, description="largest request body; more is rejected with 413"
    )
    requests_per_second: int | None = Field(
        default=None, ge=1, le=MAX_REQUESTS, description="per client address; more are rejected with 429"
    )
    burst: int | None = Field(
        default=None,
        ge=1,
        le=MAX_REQUESTS,
        description="requests above requests_per_second that are taken; null is twice that",
    )
    connections: int | None = Field(
        default=None, ge=1, le=65_535, description="at a time per client; more are rejected with 429"
    )
    hostnames: list[Hostname] = Field(
        default_factory=list[str], description="names of the site; its URL has the first one", max_length=100
    )
    tls: Tls | None = Field(default=None, description="HTTPS; null: plain HTTP")
    trusted_proxies: list[Cidr] = Field(
        default_factory=list[str], description="trusted about a client's address and scheme: proxies that end TLS"
    )
    error_pages: ErrorPages = Field(
        default=ErrorPages(), description="HTML files that clients get instead of the balancer's own errors"
    )
    proxy: Proxy = Field(default=Proxy(), description="what it does with requests besides load balancing")

    @property
    def https(self) -> bool:
        """Return whether clients use HTTPS."""
        return self.alb.https if self.kind == "alb" else self.tls is not None

    @model_validator(mode="after")
    def _check_burst(self) -> Balancer:
        if self.burst is not None and self.requests_per_second is None:
            reject(
                f"burst: {self.burst}: counts above requests_per_second, which is not set; set that, or remove burst"
            )
        return self

    @model_validator(mode="after")
    def _check_proxy_support(self) -> Balancer:
        if self.kind == "alb":
            reject(*alb_support.unsupported_settings(self))
        elif self.proxy.kind == "apache":
            reject(*unsupported_settings(self))
        return self

    @model_validator(mode="after")
    def _check_trusted_proxies(self) -> Balancer:
        everyone = [cidr for cidr in self.trusted_proxies if int(cidr.rpartition("/")[2]) < 8]
        reject(
            *[
                f"trusted_proxies: {cidr}: lets (nearly) everyone forge an address; name only your own proxies"
                for cidr in everyone
            ]
        )
        return self

    @model_validator(mode="after")
    def _check_certificate(self) -> Balancer:
        reject(*(problems(self.tls, self.hostnames) if self.tls else []))
        return self
