"""The settings of one application and of the fleet it runs on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic.types import StringConstraints

from gateways import GATEWAYS
from settings import limits, route
from settings.background import Schedule, Worker
from settings.callable import Callable
from settings.capacity import Capacity
from settings.constraint import (
    PATH_FROM_SOURCE,
    RELATIVE_PATH,
    Command,
    Name,
    SecretValue,
    VariableName,
    VariableValue,
    matching,
)
from settings.gateway import Gateway
from settings.hooks import Hooks
from settings.model import Model, reject
from settings.rollout import Rollout
from settings.settings_file import SettingsFile
from settings.size import Size
from settings.static import Static
from settings.streaming import Streaming

# Names that the product itself sets for the application.
RESERVED_VARIABLES = frozenset(f"WSGI_FLEET_{name}" for name in ("PORT", "RELEASE", "SERVER", "SLOT"))
# Names by which systemd tells a gateway its socket and whom to notify; what an application is given counts before that.
_SYSTEMD_VARIABLES = ("LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET")
# Where a server listens for the balancer.
APP_PORT = 8000
# Where processes are balanced: the port of the first one in each slot; the others follow (app_status.py).
SLOT_PORTS = {"blue": 8100, "green": 8200}
MAX_ISOLATED_PROCESSES = 100
RelativePath = Annotated[str, RELATIVE_PATH]
UrlPath = Annotated[
    str,
    matching(
        r"^/[A-Za-z0-9_./~-]*$",
        "a path such as /healthz that begins with a slash, of letters, digits and any of _ . / ~ -",
        max_length=200,
    ),
]
HealthHost = Annotated[
    str,
    matching(
        r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        "a host name of small letters, digits, dots and hyphens, such as shop.example.org or localhost; remove "
        "scheme, port and path",
        max_length=253,
    ),
]
# Debian policy 5.6.1.
PackageName = Annotated[
    str,
    matching(
        r"^[a-z0-9][a-z0-9+.-]+$",
        "the name of a Debian package, such as libpq5, of small letters, digits and any of + . -",
        max_length=100,
    ),
]


def _reject_upstart(value: Any) -> Any:
    if value == "upstart":
        raise ValueError(
            '"upstart": no distribution that gets updates ships it, so no server could run it; write "systemd" or '
            '"supervisord". `./fleet units --manager upstart` prints the job that it would get'
        )
    return value


class Fleet(Model):
    """The app servers of one application."""

    servers: int = Field(default=3, ge=1, le=1000, description="how many app servers")
    capacity: Capacity | None = Field(
        default=None,
        description="a group of app servers that replaces dead ones and may follow the load, in place of servers; "
        "null: a fixed number",
    )
    local_proxy: bool = Field(
        default=False,
        description="true: an Nginx on each server balances over its processes; a change replaces the app servers",
    )
    process_manager: Annotated[Literal["systemd", "supervisord"], BeforeValidator(_reject_upstart)] = Field(
        default="systemd", description="what starts the processes; a change replaces the app servers"
    )
    size: Size = Field(default=Size(), description="what each of them has")

    @property
    def max_servers(self) -> int:
        """Return how many servers there are at most, by any of the settings."""
        if self.capacity is None:
            return self.servers
        return max(self.capacity.max, *(each.max for each in self.capacity.schedules.values()), 0)


class Release(Model):
    """What a release is made of."""

    max_mib: int = Field(default=500, ge=1, le=10_240, description="most that the files of the source may take, in MiB")
    wheels: bool = Field(
        default=True,
        description="keep what the first server has installed in the release store, for other servers and later boots; "
        "false: each server installs from the index",
    )


class App(route.Route):
    """One WSGI application and the fleet it runs on."""

    source: Annotated[str, StringConstraints(min_length=1, max_length=500)] = Field(
        description="folder of the application, relative to the project"
    )
    module: Callable = Field(description="the PEP 3333 callable as module:name, or a factory as module:name()")
    python_path: list[RelativePath] = Field(
        default_factory=list[str],
        max_length=20,
        description="folders inside source that modules are found in, beside source itself; as PYTHONPATH",
    )
    requirements: Annotated[str, PATH_FROM_SOURCE] | None = Field(
        default=None,
        description="file that names the packages, in source or above it in its repository: requirements.txt, a lock "
        "of uv, Poetry, Pipenv or pip, or pyproject.toml; null takes the first that is in source",
    )
    health_path: UrlPath = Field(
        default="/healthz", description="responds with status 200 when the application is healthy"
    )
    health_host: HealthHost | None = Field(
        default=None,
        description="host name of health checks; null: the first of hosts, else of balancer.hostnames, else localhost",
    )
    environment: dict[VariableName, VariableValue] = Field(
        default_factory=dict[str, str], description="environment variables of the application"
    )
    secrets: dict[VariableName, SecretValue] = Field(
        default_factory=dict[str, SecretStr], description="secret variables: pulumi config set --secret --path"
    )
    generated_secrets: list[VariableName] = Field(
        default_factory=list[str], description="secret variables that are generated once per stack and kept"
    )
    settings_file: SettingsFile | None = Field(
        default=None, description="values that the application reads from a file of the release"
    )
    required: list[VariableName] = Field(
        default_factory=list[str],
        description="names that must be set: in environment, secrets, generated_secrets or settings_file.values",
    )
    system_packages: list[PackageName] = Field(
        default_factory=list[str], description="Debian packages the servers need"
    )
    build: Command | None = Field(
        default=None,
        description="shell command run in the code of a new release on each server, before it is proven; makes files",
    )
    static: Static | None = Field(default=None, description="files that the balancer serves without the application")
    streaming: Streaming | None = Field(
        default=None, description="paths on which responses go out as they are made; null: none"
    )
    sticky_sessions: bool = Field(
        default=False,
        description="true: the balancer gives each client a cookie, and sends it to the same server again",
    )
    workers: dict[Name, Worker] = Field(
        default_factory=dict[str, Worker], description="programs that run beside it, by name"
    )
    schedules: dict[Name, Schedule] = Field(
        default_factory=dict[str, Schedule], description="commands that run at set times, by name"
    )
    release: Release = Field(default=Release(), description="what goes into a release")
    gateway: Gateway = Field(default=Gateway(), description="what runs it, and how")
    fleet: Fleet = Field(default=Fleet(), description="the machines it runs on")
    rollout: Rollout = Field(default=Rollout(), description="how a release moves over them")
    hooks: Hooks = Field(default=Hooks(), description="what runs on the operator's machine around a release")

    @property
    def drain_timeout_s(self) -> int:
        """Return the seconds that a slot may take to finish its requests."""
        return self.rollout.drain_timeout_s or self.gateway.request_timeout_s + limits.DRAIN_MARGIN_S

    @property
    def variables(self) -> list[tuple[str, str]]:
        """Return (place, name) of each environment variable that the stack file gives the application."""
        places = ("environment", "secrets", "generated_secrets")
        found = [(place, name) for place in places for name in getattr(self, place)]
        found += [("settings_file.variable", self.settings_file.variable)] if self.settings_file else []
        return found + ([("python_path", "PYTHONPATH")] if self.python_path else [])

    @property
    def missing(self) -> list[str]:
        """Return the required names that are set nowhere."""
        present = {name for _, name in self.variables} | RESERVED_VARIABLES
        present.update(self.settings_file.values if self.settings_file else ())
        return [name for name in self.required if name not in present]

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Return (setting, path) of each part that the balancer serves otherwise than the rest."""
        static = [("static.url_path", self.static.url_path)] if self.static else []
        return static + [("streaming.paths", path) for path in (self.streaming.paths if self.streaming else ())]

    @property
    def isolated_processes(self) -> int | None:
        """Return the number of gateways of one process each on a server; None where one gateway has all processes."""
        number = self.gateway.processes
        return None if number == "auto" or not self.fleet.local_proxy else number

    @model_validator(mode="after")
    def _check_isolated_processes(self) -> App:
        number, fleet = self.gateway.processes, self.fleet
        if not fleet.local_proxy:
            if fleet.process_manager == "supervisord":
                reject(
                    'fleet.process_manager: "supervisord": closes what it inherits before it starts a program, so '
                    "two releases cannot share systemd's socket; set fleet.local_proxy to true, where each "
                    "process has a port of its own, or leave systemd"
                )
        elif number == "auto":
            reject(
                'gateway.processes: "auto": should be a number where fleet.local_proxy is true: units and '
                "ports are made from it; write a number, such as two for each CPU"
            )
        elif number > MAX_ISOLATED_PROCESSES:
            reject(
                f"gateway.processes: {number}: should be {MAX_ISOLATED_PROCESSES} at most where fleet.local_proxy "
                "is true: ports are two digits after those of the slot; lower it"
            )
        return self

    @model_validator(mode="after")
    def _check_drain_timeout(self) -> App:
        if self.drain_timeout_s < self.gateway.request_timeout_s:
            reject(
                f"rollout.drain_timeout_s: {self.drain_timeout_s}: should be at least gateway.request_timeout_s "
                f"({self.gateway.request_timeout_s}), else a release cuts requests that may still end; raise it"
            )
        return self

    @model_validator(mode="after")
    def _check_streaming(self) -> App:
        if self.streaming:
            if problem := self.gateway.streaming_problem:
                reject(f"streaming: {problem}; remove it, or take another gateway.kind (docs/gateways.md)")
            static = self.static.url_path if self.static else None
            reject(
                *[
                    f"streaming.paths: {path}: should be outside of static.url_path ({static}), where the balancer "
                    "responds without the application; take another path"
                    for path in self.streaming.paths
                    if static and path.startswith(static)
                ]
            )
            if self.streaming.websockets and (problem := GATEWAYS[self.gateway.kind].no_websockets):
                reject(f"streaming.websockets: true: {problem}; remove it, or take gateway.kind gunicorn or gevent")
        return self

    @model_validator(mode="after")
    def _check_health_path(self) -> App:
        if self.static and self.health_path.startswith(self.static.url_path):
            reject(
                f"health_path: {self.health_path}: should be outside of static.url_path ({self.static.url_path}), "
                "where the balancer responds without the application; take another path"
            )
        return self

    @model_validator(mode="after")
    def _check_variables(self) -> App:
        names: dict[str, str] = dict.fromkeys((*RESERVED_VARIABLES, *_SYSTEMD_VARIABLES), "the product itself")
        twice: list[str] = []
        for place, name in self.variables:
            if name in names:
                twice.append(f"{place}: {name}: is set by {names[name]} as well; give each variable once")
            names[name] = place
        reject(*twice)
        return self
