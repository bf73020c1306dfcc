"""What a command asks of the load balancer, where that is no machine: health of servers, draining, maintenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from commands.target import CommandError, Target
from commands.verdict import RUNNING, State, Verdict
from platforms.load_balancer import LoadBalancer, LoadBalancerError, TargetHealth
from platforms.server_group import Phase, ServerGroupError
from platforms.transport import machine_id
from releases.fleet import Server
from releases.live import LiveServers
from settings.alb_support import PAGE_CHARS


@dataclass(frozen=True)
class LoadBalancerReport:
    """health: target -> what the load balancer finds of a server. error: why nothing is known; "" where it is."""

    maintenance: bool | None = None
    health: Mapping[str, TargetHealth] = field(default_factory=dict[str, TargetHealth])
    error: str = ""


def ask_load_balancer(target: Target) -> LoadBalancerReport | None:
    """Ask what it knows of an application; None where a machine is in front."""
    front = target.load_balancer
    if front is None:
        return None
    try:
        return LoadBalancerReport(front.in_maintenance(), front.health(target.app))
    except LoadBalancerError as error:
        return LoadBalancerReport(error=str(error))


def judge_target(server: Server, verdict: Verdict, report: LoadBalancerReport, phase: Phase | None = None) -> Verdict:
    """Return the verdict of a server together with what the load balancer finds of it. phase: in its group."""
    # The load balancer knows the machine, the transport also its address.
    found = report.health.get(machine_id(server.target), TargetHealth("unused"))
    if report.error:
        return verdict
    if phase is Phase.WAITING:
        cause = "; ".join(filter(None, ["its group waits until it serves the current release", verdict.cause]))
        return Verdict(State.STARTING, cause, "wait for it")
    if found.state in ("unused", "draining"):
        also = f"; else it would be {verdict.state}: {verdict.cause}" if verdict.cause else ""
        cause = f"it gets no requests: drained by hand, or not yet registered by an `up` that did not end{also}"
        return Verdict(State.DRAINED, cause, f"`./fleet admit {server.name}` sends it requests again")
    if verdict.state not in RUNNING or found.state == "healthy":
        return verdict
    if found.state == "initial":
        return Verdict(State.STARTING, "the load balancer has not found it healthy yet", "wait for it")
    cause = "; ".join(filter(None, [f"the load balancer finds it {found.state}: {found.why}", verdict.cause]))
    return Verdict(State.UNHEALTHY, cause, f"`./fleet logs --server {server.name}` says why")


def drain_target(target: Target, server: Server) -> None:
    """Send a server no more requests, and wait for those that it has. Raises CommandError."""
    if target.live:
        # Else the group would take one that gets no requests for one that fails.
        _stand_by(target.live, server, on=True)
    _change(target, server.name, lambda front: front.drain(target.app, server.target))


def admit_target(target: Target, server: Server) -> None:
    """Send a server requests. Raises CommandError."""
    if target.live:
        _stand_by(target.live, server, on=False)
        return
    _change(target, server.name, lambda front: front.admit(target.app, server.target))


def set_maintenance(target: Target, page: str | None) -> None:
    """Have clients get a page, or for None the applications. Raises CommandError."""
    if page is not None and len(page) > PAGE_CHARS:
        raise CommandError(
            f"--page has {len(page)} characters, and an Application Load Balancer responds with {PAGE_CHARS} at most",
            code=2,
        )
    _change(target, "the load balancer", lambda front: front.set_maintenance(page))


def _stand_by(live: LiveServers, server: Server, *, on: bool) -> None:
    try:
        live.stand_by(server, on=on)
    except ServerGroupError as error:
        raise CommandError(f"{server.name}: {error}") from error


def _change(target: Target, subject: str, change: Callable[[LoadBalancer], None]) -> None:
    if target.load_balancer is None:
        raise CommandError(f"{subject}: a machine is in front")
    try:
        change(target.load_balancer)
    except LoadBalancerError as error:
        raise CommandError(f"{subject}: {error}") from error
