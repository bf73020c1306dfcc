"""The settings of a stack: typed and frozen. A value of these types is valid; nothing checks it again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic.types import StringConstraints

from settings import ladder, route
from settings.aws import Aws
from settings.constraint import Cidr, InstanceType
from settings.gateway import Gateway
from settings.model import Model
from settings.proxy import Proxy
from settings.proxy import problems as proxy_problems
from settings.static import Static
from settings.tls import Hostname, Tls, problems, unsigned

# Names become part of host names (63 characters), interfaces, units and Nginx variables: keep them short and plain.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z](-?[a-z0-9])*$", max_length=20)]
# Names that the product itself sets for the application.
RESERVED_VARIABLES = frozenset({"WSGI_FLEET_RELEASE", "WSGI_FLEET_SERVER"})
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
# NUL cannot be in an environment; everything else is quoted where it is written.
VariableValue = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=32768)]
RelativePath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$", max_length=200)
]
# PEP 3333 callable: dotted module, colon, dotted name in it.
Callable = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$", max_length=200)
]
# One line for `sh -c`; a script of the application may hold more.
Command = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00\n]+$")]
UrlPath = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./~-]*$", max_length=200)]
# Debian policy 5.6.1.
PackageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+$", max_length=100)]


class Size(Model):
    """What one machine has. `aws` uses instance_type and disk_gib, `lxd` the others (disk_gib where its pool can)."""

    cpus: int = Field(default=1, ge=1, le=128, description="CPUs of the machine (lxd)")
    memory_mib: int = Field(default=512, ge=256, le=1_048_576, description="memory in MiB (lxd)")
    disk_gib: int = Field(default=8, ge=2, le=16_384, description="root disk in GiB")
    instance_type: InstanceType = Field(default="t3.small", description="EC2 instance type, amd64 (aws)")


class Fleet(Model):
    """The app servers of one application."""

    servers: int = Field(default=3, ge=1, le=1000, description="how many app servers")
    size: Size = Field(default=Size(), description="what each of them has")


class Rollout(Model):
    """How a release moves over the fleet: staged everywhere, the task once, the canary, then the others in batches."""

    release_task: Command | None = Field(
        default=None,
        description="shell command of the new release, run once on one server before it serves; must be idempotent",
    )
    task_timeout_s: int = Field(default=600, ge=1, le=86_400, description="longest time for the release task")
    batch_size: Annotated[int, Field(ge=1)] | Annotated[str, StringConstraints(pattern=r"^([1-9]|[1-9]\d|100)%$")] = (
        Field(
            default="50%", description="servers that switch at a time after the first: a number, or a share, rounded up"
        )
    )
    bake_s: int = Field(default=2, ge=0, le=3600, description="how long the first server is watched before the others")
    drain_timeout_s: int | None = Field(
        default=None,
        ge=1,
        le=ladder.STOP_S,
        description="longest time for requests in flight to end; null is gateway.request_timeout_s + 15",
    )
    healthy_threshold: int = Field(
        default=3, ge=1, le=100, description="good answers in a row that make a slot healthy"
    )
    stage_timeout_s: int = Field(
        default=300, ge=10, le=3600, description="longest time to bring a release onto a server"
    )
    start_timeout_s: int = Field(default=60, ge=5, le=600, description="longest time to start and be healthy")
    allow_unreachable: int = Field(
        default=0, ge=0, description="servers that may be unreachable; they take the release when they boot"
    )
    keep_releases: int = Field(default=5, ge=2, le=50, description="releases kept on each server and in the store")


class Worker(Model):
    """A program that runs beside the application, with its release, environment and user, and is kept running."""

    command: Command = Field(description="shell command")
    count: int = Field(default=1, ge=1, le=64, description="how many run on each server")
    servers: Literal["all", "first"] = Field(default="all", description="on which servers")


class Schedule(Model):
    """A command that runs at set times, with the release that serves then, on the first server alone."""

    command: Command = Field(description="shell command")
    calendar: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 *:/,.~-]{1,100}$")] = Field(
        description='when, as systemd writes it: "hourly", "Mon..Fri 06:30" (man systemd.time)'
    )


class App(route.Routed):
    """One WSGI application and the fleet it runs on."""

    source: Annotated[str, StringConstraints(min_length=1, max_length=500)] = Field(
        description="folder of the application, relative to the project"
    )
    module: Callable = Field(description="the PEP 3333 callable as module:name")
    requirements: RelativePath = Field(default="requirements.txt", description="pip requirements file inside source")
    health_path: UrlPath = Field(default="/healthz", description="answers 200 when the application is well")
    environment: dict[VariableName, VariableValue] = Field(
        default_factory=dict[str, str], description="environment variables of the application"
    )
    secrets: dict[VariableName, SecretStr] = Field(
        default_factory=dict[str, SecretStr], description="secret variables: pulumi config set --secret --path"
    )
    generated_secrets: list[VariableName] = Field(
        default_factory=list[str], description="secret variables that are generated once per stack and kept"
    )
    system_packages: list[PackageName] = Field(
        default_factory=list[str], description="Debian packages the servers need"
    )
    build: Command | None = Field(
        default=None,
        description="shell command run in the code of a new release on each server, before it is proven; makes files",
    )
    static: Static | None = Field(default=None, description="files that the balancer serves without the application")
    workers: dict[Name, Worker] = Field(
        default_factory=dict[str, Worker], description="programs that run beside it, by name"
    )
    schedules: dict[Name, Schedule] = Field(
        default_factory=dict[str, Schedule], description="commands that run at set times, by name"
    )
    gateway: Gateway = Field(default=Gateway(), description="what runs it, and how")
    fleet: Fleet = Field(default=Fleet(), description="the machines it runs on")
    rollout: Rollout = Field(default=Rollout(), description="how a release moves over them")

    @property
    def drain_timeout_s(self) -> int:
        """Seconds that a slot may take to finish its requests."""
        return self.rollout.drain_timeout_s or self.gateway.request_timeout_s + ladder.DRAIN_MARGIN_S

    @model_validator(mode="after")
    def _requests_can_end_before_they_are_cut(self) -> App:
        if self.drain_timeout_s < self.gateway.request_timeout_s:
            raise ValueError(
                f"rollout.drain_timeout_s: {self.drain_timeout_s}: should be at least gateway.request_timeout_s "
                f"({self.gateway.request_timeout_s}), else a release cuts requests that may still end"
            )
        return self

    @model_validator(mode="after")
    def _health_is_answered_by_the_application(self) -> App:
        if self.static and self.health_path.startswith(self.static.url_path):
            raise ValueError(
                f"health_path: {self.health_path}: should be outside of static.url_path ({self.static.url_path}), "
                "where the balancer answers without the application"
            )
        return self

    @model_validator(mode="after")
    def _variables_are_given_once(self) -> App:
        seen: dict[str, str] = dict.fromkeys(RESERVED_VARIABLES, "the product itself")
        twice: list[str] = []
        for place in ("environment", "secrets", "generated_secrets"):
            for name in getattr(self, place):
                if name in seen:
                    twice.append(f"{name} is set in {place} and by {seen[name]}")
                seen[name] = place
        if twice:
            raise ValueError("; ".join(twice) + "; give each variable once")
        return self


class Balancer(Model):
    """The machine in front. Limits are off unless they are set."""

    size: Size = Field(default=Size(), description="what the balancer has")
    max_body_mib: int = Field(default=10, ge=1, le=10_240, description="largest request body; more is answered 413")
    requests_per_second: int | None = Field(default=None, ge=1, description="per client address; more are answered 429")
    burst: int | None = Field(
        default=None, ge=1, description="requests above requests_per_second that are taken; null is twice that"
    )
    connections: int | None = Field(default=None, ge=1, description="at a time per client; more are answered 429")
    hostnames: list[Hostname] = Field(
        default_factory=list[str], description="names of the site; the first one stands in its URL", max_length=100
    )
    tls: Tls | None = Field(default=None, description="HTTPS; null: plain HTTP")
    trusted_proxies: list[Cidr] = Field(
        default_factory=list[str], description="who is believed about a client's address and scheme: what ends TLS"
    )
    proxy: Proxy = Field(default=Proxy(), description="what it does with requests besides spreading them")

    @model_validator(mode="after")
    def _a_burst_is_above_a_rate(self) -> Balancer:
        if self.burst is not None and self.requests_per_second is None:
            raise ValueError(f"burst: {self.burst}: should come with requests_per_second, above which it is")
        return self

    @model_validator(mode="after")
    def _not_everyone_is_believed(self) -> Balancer:
        for cidr in self.trusted_proxies:
            if int(cidr.rpartition("/")[2]) < 8:
                raise ValueError(f"trusted_proxies: {cidr} lets (nearly) everyone pretend to be anybody; name yours")
        return self

    @model_validator(mode="after")
    def _the_certificate_serves_the_names(self) -> Balancer:
        found = problems(self.tls, self.hostnames) if self.tls else []
        if found:
            raise ValueError("; ".join(found))
        return self


class Maintenance(Model):
    """When machines of both tiers install Debian's security updates by themselves."""

    upgrades: bool = Field(default=True, description="security updates are installed, once in each window")
    window: Annotated[
        str,
        StringConstraints(
            pattern=r"^((Mon|Tue|Wed|Thu|Fri|Sat|Sun)(,(Mon|Tue|Wed|Thu|Fri|Sat|Sun))* )?([01][0-9]|2[0-3]):[0-5][0-9]$"
        ),
    ] = Field(default="03:00", description='when it begins, in UTC: "03:00" on all days, "Sun 03:00", "Mon,Thu 23:30"')
    window_minutes: int = Field(
        default=120, ge=30, le=720, description="how long it is; each machine begins at a moment of its own in it"
    )
    reboot: bool = Field(default=False, description="a machine that needs it for an update restarts after it")

    @property
    def spread_minutes(self) -> int:
        """Within which machines begin: an update, and a restart after it, get the last ten minutes."""
        return self.window_minutes - 10


class Lxd(Model):
    """Where the fleet runs on this machine."""

    port: int = Field(default=8080, ge=1024, le=65535, description="loopback port on which the balancer is published")
    tls_port: int = Field(default=8443, ge=1024, le=65535, description="the same for HTTPS, where balancer.tls is set")
    pool: Name = Field(default="wsgi-fleet", description="LXD storage pool")
    prebuilt_packages: bool = Field(default=True, description="false: packages are installed at boot, as on EC2")


class Settings(Model):
    """Everything a stack file can say."""

    platform: Literal["lxd", "aws"] = Field(description="what machines are made of")
    apps: Annotated[dict[Name, App], Field(min_length=1, max_length=20)] = Field(
        description="the applications by name; they share the balancer, and each has a fleet of its own"
    )
    balancer: Balancer = Field(default=Balancer(), description="the machine in front")
    maintenance: Maintenance = Field(default=Maintenance(), description="when machines upgrade themselves")
    lxd: Lxd = Field(default=Lxd(), description="where the fleet runs on this machine (platform lxd)")
    aws: Aws | None = Field(default=None, description="where the fleet runs on EC2 (platform aws)")

    @model_validator(mode="after")
    def _the_platform_has_its_block(self) -> Settings:
        if self.platform == "aws" and self.aws is None:
            raise ValueError("aws: missing; platform aws needs it (see stacks/Pulumi.example.yaml)")
        return self

    @model_validator(mode="after")
    def _servers_fit_into_their_subnets(self) -> Settings:
        vpc = self.aws.vpc if self.platform == "aws" and self.aws else None
        servers = sum(app.fleet.servers for app in self.apps.values())
        if vpc and servers > vpc.servers_per_zone * len(vpc.zones):
            raise ValueError(
                f"aws.vpc.cidr: {vpc.cidr}: has room for {vpc.servers_per_zone} app servers in each of "
                f"{len(vpc.zones)} zones, and there are {servers}; take a larger network, or more zones"
            )
        return self

    @model_validator(mode="after")
    def _names_and_ports_have_a_use(self) -> Settings:
        if self.platform == "aws" and self.aws and self.aws.route53_zone_id and not self.hostnames:
            raise ValueError("balancer.hostnames: []: should name what aws.route53_zone_id gets records for")
        if self.platform == "lxd" and self.balancer.tls and self.lxd.port == self.lxd.tls_port:
            raise ValueError(f"lxd.tls_port: {self.lxd.tls_port}: should differ from lxd.port")
        return self

    @property
    def hostnames(self) -> list[str]:
        """Names of the site: those of the balancer, then the hosts of applications that are not among them."""
        return route.hostnames(self.balancer.hostnames, self.apps)

    @model_validator(mode="after")
    def _applications_fit_together(self) -> Settings:
        found = route.problems(
            self.apps,
            {name: app.health_path for name, app in self.apps.items()},
            {name: app.static.url_path for name, app in self.apps.items() if app.static},
        )
        found += [
            f"balancer.hostnames: {name}: no application answers it; give one that host, or one no hosts"
            for name in route.without_application(self.balancer.hostnames, self.apps)
        ]
        if self.balancer.tls:
            found += unsigned(self.balancer.tls, self.balancer.hostnames, self.hostnames)
        found += ladder.problems(self)
        found += [f"balancer.proxy.{problem}" for problem in proxy_problems(self)]
        if found:
            raise ValueError("\n".join(found))
        return self
