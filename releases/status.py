"""What the scripts on machines print as JSON for `up` and ./fleet, as types.

machine/ has the standard library only and cannot import this; tests/unit/test_status.py runs both against each other.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

# `pulumi up` alone does not repeat a step whose input is the same.
SCRIPTS_REMEDY = "`pulumi up --replace '**-booted'` installs the scripts again"


class _Status(BaseModel):
    """A key that is missing or of another type is an error; one that a newer script adds is not."""

    # Each is built when it is used first: a rollout needs one of them.
    model_config = ConfigDict(frozen=True, strict=True, defer_build=True)


class HostStatus(_Status):
    """Any machine. See machine/common/host_status.py."""

    disk_bytes: int
    disk_free_bytes: int
    disk_error: str
    failed_units: list[str]
    system: str
    clock_s: float
    os: str
    python: str


class MachineStatus(_Status):
    """The part that servers and the balancer share."""

    machine: HostStatus


class Slot(_Status):
    """state: ActiveState of its unit. release: None before the first one."""

    state: str
    release: str | None


class ReleaseStatus(_Status):
    """The part of `app_status.py` that a rollout reads. See machine/app_server/app_status.py."""

    live: str | None
    slots: dict[str, Slot]
    staged: list[str]
    socket: str
    restarts: dict[str, int]


class GatewayStatus(_Status):
    """The workers of the gateway in one slot."""

    workers_busy: int
    workers_idle: int
    threads: int
    threads_busy: int
    listen_queue: int


class HealthResponse(_Status):
    """The response to GET path. status: 0 without one; line: its first line, or why there is none."""

    path: str
    status: int
    line: str


class ServerStatus(MachineStatus, ReleaseStatus):
    """What `app_status.py` prints. See machine/app_server/app_status.py."""

    live_since_s: float | None
    boot: str
    queue: int | None
    gateway: dict[str, GatewayStatus]
    ended: list[str]
    health: HealthResponse | None


class Traffic(_Status):
    """Requests of the last minute in the access log. Times are None without a response."""

    requests: int
    requests_per_s: float
    errors_5xx: int
    p50_ms: float | None
    p99_ms: float | None


class Certificate(_Status):
    """See machine/balancer/certificate.py."""

    expires_in_s: int
    is_renewed_here: bool


class UpstreamHealth(_Status):
    """What the health agent found out about a server."""

    healthy: bool
    why: str


class AgentHealth(_Status):
    """What the health agent wrote last, and its age. problem: why the servers of groups are not known, or "".

    See machine/balancer/upstream_health.py.
    """

    age_s: float
    servers: dict[str, UpstreamHealth]
    problem: str


class BalancerStatus(MachineStatus, Traffic):
    """What machine/balancer/balancer_status.py prints. active: addresses of servers that get requests."""

    proxy: str
    state: str
    maintenance: bool
    certificate: Certificate | None
    active: list[str]
    drained: list[str]
    health: AgentHealth | None
    window_s: float
    upstreams: dict[str, Traffic]


# Requests, those with 5xx, p50 and p99 in milliseconds; the latter None without a response.
Summary = tuple[int, int, float | None, float | None]
# The same of one bucket, which comes first: its number.
Row = tuple[int, int, int, float | None, float | None]


class TrafficSeries(_Status):
    """Requests through time; times in seconds since 1970 by the balancer's clock. See machine/balancer/traffic.py.

    begins_s: from when on the log has all. apps: by identifier. servers: by address, the busiest ones. A row's bucket
    begins at first_s + number * bucket_s.
    """

    now_s: float
    first_s: float
    begins_s: float
    bucket_s: int
    whole: list[Row]
    apps: dict[str, list[Row]]
    servers: dict[str, list[Row]]


class GroupTraffic(_Status):
    """Attempts at servers, together and by address."""

    all: Summary
    servers: dict[str, Summary]


class TrafficGroups(_Status):
    """Groups of servers, each server in a time of its own."""

    groups: dict[str, GroupTraffic]


Status_co = TypeVar("Status_co", bound=_Status, covariant=True)


def parse_status(kind: type[Status_co], output: str) -> Status_co:
    """Return the status in the last line of what a script printed. Raises ValueError with what to do."""
    # A warning of sudo or a locale may stand before it.
    last = output.strip().rpartition("\n")[2]
    try:
        return kind.model_validate_json(last)
    except ValidationError as error:
        try:
            found: Any = from_json(last)
        except ValueError:
            found = None
        if isinstance(found, dict) and kind.model_fields.keys() & found:
            raise ValueError("it runs scripts of another version; run `pulumi up`") from error
        printed = f"printed {output.strip()[:80]!r}" if output.strip() else "printed nothing"
        raise ValueError(f"it can be reached, but its script {printed} and no status; {SCRIPTS_REMEDY}") from error
