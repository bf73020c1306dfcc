"""The settings of a whole stack file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from settings import alb_support, capacity, limits, monitoring, route, self_healing
from settings.application import App
from settings.balancer import Balancer
from settings.constraint import Name, matching
from settings.model import Model, reject
from settings.monitoring import Monitoring
from settings.operating_system import DEFAULT_OS, OPERATING_SYSTEMS, OperatingSystem, OsName
from settings.platform import Aws, Lxd, PlatformName
from settings.proxy import problems as proxy_problems
from settings.size import Architecture, Size
from settings.tls import uncovered_hosts


class SecurityUpdates(Model):
    """When machines of both tiers install Debian's security updates by themselves."""

    enabled: bool = Field(default=True, description="security updates are installed, once in each window")
    window: Annotated[
        str,
        matching(
            r"^((Mon|Tue|Wed|Thu|Fri|Sat|Sun)(,(Mon|Tue|Wed|Thu|Fri|Sat|Sun))* )?([01][0-9]|2[0-3]):[0-5][0-9]$",
            'a time in quotes, with days before it if not on all: "03:00", "Sun 03:00" or "Mon,Thu 23:30"',
        ),
    ] = Field(default="03:00", description='when it begins, in UTC: "03:00" on all days, "Sun 03:00", "Mon,Thu 23:30"')
    window_minutes: int = Field(
        default=120, ge=30, le=720, description="how long it is; each machine begins at a moment of its own in it"
    )
    reboot: bool = Field(default=False, description="a machine that needs it for an update restarts after it")

    @property
    def randomized_delay_minutes(self) -> int:
        """Return within how many minutes machines begin.

        An update, and a restart after it, get the last ten minutes.
        """
        return self.window_minutes - 10


class Settings(Model):
    """Everything a stack file can say."""

    platform: PlatformName = Field(description="what machines are made of")
    os: OsName = Field(default=DEFAULT_OS.name, description="what every machine runs; a change replaces the machines")
    apps: Annotated[dict[Name, App], Field(min_length=1, max_length=20)] = Field(
        description="the applications by name; they share the balancer, and each has a fleet of its own"
    )
    balancer: Balancer = Field(default=Balancer(), description="what stands in front")
    security_updates: SecurityUpdates = Field(default=SecurityUpdates(), description="when machines upgrade themselves")
    monitoring: Monitoring = Field(default=Monitoring(), description="metrics for Prometheus")
    lxd: Lxd = Field(default=Lxd(), description="where the fleet runs on this machine (platform lxd)")
    aws: Aws | None = Field(default=None, description="where the fleet runs on EC2 (platform aws)")

    @model_validator(mode="after")
    def _check_platform_block(self) -> Settings:
        name = self.platform
        if getattr(self, name) is None:
            reject(f"{name}: missing; set it, for platform {name} needs it (see stacks/Pulumi.example.yaml)")
        return self

    @model_validator(mode="after")
    def _check_balancer_subnet(self) -> Settings:
        aws = self.aws if self.platform == "aws" else None
        is_machine = self.balancer.kind == "machine"
        if aws and not aws.vpc and is_machine and not aws.balancer_subnet_id:
            reject("aws.balancer_subnet_id: missing; name a public subnet of the VPC for the balancer")
        if aws and aws.balancer_subnet_id and not is_machine:
            reject(
                f"aws.balancer_subnet_id: {aws.balancer_subnet_id}: balancer.kind alb uses no such machine; "
                "remove it, and name public subnets in balancer.alb.subnet_ids"
            )
        return self

    @model_validator(mode="after")
    def _check_architectures(self) -> Settings:
        sizes = {f"apps.{name}.fleet.size": app.fleet.size for name, app in self.apps.items()}
        if self.balancer.kind == "alb":
            first, of_first = next(iter(sizes.items()))
        else:
            first, of_first = "balancer.size", self.balancer.size
        reject(
            *[
                f"{place}.instance_type: {size.instance_type}: is {size.architecture}, and {first}.instance_type "
                f"({of_first.instance_type}) is {of_first.architecture}: one image (aws.ami) boots all machines; "
                "take types of one architecture"
                for place, size in sizes.items()
                if self.platform == "aws" and size.architecture != of_first.architecture
            ]
        )
        return self

    @model_validator(mode="after")
    def _check_subnet_sizes(self) -> Settings:
        vpc = self.aws.vpc if self.platform == "aws" and self.aws else None
        servers = sum(app.fleet.max_servers for app in self.apps.values())
        if vpc and servers > vpc.servers_per_zone * len(vpc.zones):
            room = f"has room for {vpc.servers_per_zone} app servers in each of {len(vpc.zones)} zones"
            reject(f"aws.vpc.cidr: {vpc.cidr}: {room}, and there are {servers}; take a larger network, or more zones")
        return self

    @model_validator(mode="after")
    def _check_names_and_ports(self) -> Settings:
        if self.platform == "aws" and self.aws and self.aws.route53_zone_id and not self.hostnames:
            reject("balancer.hostnames: []: aws.route53_zone_id gets records for these names; name the site")
        if self.platform == "lxd" and self.balancer.tls and self.lxd.port == self.lxd.tls_port:
            reject(f"lxd.tls_port: {self.lxd.tls_port}: is lxd.port as well; take another port for one of both")
        return self

    @property
    def operating_system(self) -> OperatingSystem:
        """Return what is known of the operating system of the machines."""
        return OPERATING_SYSTEMS[self.os]

    @property
    def architecture(self) -> Architecture:
        """Return what an image for all machines must be made for (platform aws)."""
        return self.image_size.architecture

    @property
    def image_size(self) -> Size:
        """Return the size of a machine that can become the image of all (platform aws).

        Its type is that of the first machine. No machine can have a smaller disk than its image has.
        """
        front = [] if self.balancer.kind == "alb" else [self.balancer.size]
        sizes = [*front, *(app.fleet.size for app in self.apps.values())]
        return sizes[0].model_copy(update={"disk_gib": min(size.disk_gib for size in sizes)})

    @property
    def hostnames(self) -> list[str]:
        """Return the names of the site: those of the balancer, then other hosts of applications."""
        return route.hostnames(self.balancer.hostnames, self.apps)

    @model_validator(mode="after")
    def _check_applications(self) -> Settings:
        found = route.problems(
            self.apps,
            {name: app.health_path for name, app in self.apps.items()},
            {name: app.parts for name, app in self.apps.items()},
        )
        found += [
            f"balancer.hostnames: {name}: no application serves it; give one that host, or one no hosts"
            for name in route.unrouted_hostnames(self.balancer.hostnames, self.apps)
        ]
        found += [
            f"apps.{name}.required: {missing}: is set nowhere; set it in environment, settings_file.values or "
            f"generated_secrets, or by `pulumi config set --secret --path wsgi-fleet:apps.{name}.secrets.{missing}`"
            for name, app in self.apps.items()
            for missing in app.missing
        ]
        if self.balancer.tls:
            found += uncovered_hosts(self.balancer.tls, self.balancer.hostnames, self.hostnames)
        found += limits.problems(self)
        found += alb_support.problems(self)
        found += capacity.problems(self)
        found += self_healing.problems(self)
        found += monitoring.problems(self)
        found += [f"balancer.proxy.{problem}" for problem in proxy_problems(self)]
        reject(*found)
        return self
