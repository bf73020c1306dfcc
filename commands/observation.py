"""Query every machine of a fleet once, in parallel, and sum up its state in one word."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any

from commands.front import LoadBalancerReport, ask_load_balancer, judge_target
from commands.report import Report, ask
from commands.restarting import Restarting, find_restarting
from commands.target import Target
from commands.verdict import HEALTHY, RUNNING, State, Verdict, judge, judge_health, judge_member, logs_command, slot_of
from platforms.server_group import Phase
from releases import lock, pointers
from releases.drift import find_damage
from releases.fleet import PARALLEL, STATUS_COMMAND, Server
from releases.journal import Entry, entries
from releases.status import SCRIPTS_REMEDY, BalancerStatus, ServerStatus, Traffic
from rendering.paths import SCRIPTS
from settings.words import count

MEASURED = {"requests_per_s", "p50_ms", "p99_ms", "errors_5xx"}
NO_TRAFFIC = Traffic(requests=0, requests_per_s=0.0, errors_5xx=0, p50_ms=None, p99_ms=None)
# What a rollout does once its journal's last event is this one.
PHASES = {
    "begin": "publishing",
    "published": "staging on all servers",
    "staged": "switching the first server",
    "release task": "switching the first server",
    "switched": "switching the servers",
    "watched": "switching the servers",
    "switch failed": "going back",
    "went back": "going back",
}


@dataclass(frozen=True)
class ServerView:
    """A server as `status` shows it. None: unknown. cause, remedy: "" where it serves.

    background: of each worker beside the application that keeps ending, how often and what it logged. ended: of
    requests that ended their gateway's worker of late, how many and the last; "" without one.
    """

    name: str
    address: str
    state: State
    cause: str = ""
    remedy: str = ""
    release: str | None = None
    release_age_s: float | None = None
    slot: str | None = None
    workers_busy: int | None = None
    workers_idle: int | None = None
    threads_busy: int | None = None
    threads: int | None = None
    listen_queue: int | None = None
    requests_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors_5xx: int | None = None
    background: tuple[str, ...] = ()
    ended: str = ""
    os: str | None = None
    python: str | None = None

    @property
    def is_healthy(self) -> bool:
        """Return whether the server is as desired, with all that runs beside the application."""
        return self.state in HEALTHY and not self.background


@dataclass(frozen=True)
class Observation:
    """pointer: the current release. entry: how it came. rollout: who moves the fleet now, as the lock has it.

    damage: which file of the store is damaged, "" where none is.
    """

    target: Target
    at_s: float
    pointer: str | None
    entry: Entry | None
    rollout: Mapping[str, Any] | None
    balancer: Report[BalancerStatus] | None
    reports: Mapping[str, Report[ServerStatus]]
    servers: Sequence[ServerView]
    damage: str = ""
    load_balancer: LoadBalancerReport | None = None

    @property
    def front(self) -> BalancerStatus | None:
        """Return what the balancer reports of itself; None where it does not, or is no machine."""
        return self.balancer.facts if self.balancer else None

    @property
    def maintenance(self) -> bool | None:
        """Return whether clients get the maintenance page; None when the balancer does not report it."""
        if self.load_balancer:
            return self.load_balancer.maintenance
        return self.front.maintenance if self.front else None

    @property
    def balancer_problem(self) -> str:
        """Return what is wrong with the balancer, "" if nothing is."""
        if self.balancer is None:
            return self.load_balancer.error if self.load_balancer else ""
        facts = self.balancer.facts
        if facts is None:
            return self.balancer.error
        if facts.state != "active":
            return f"{facts.proxy} is {facts.state}; see `./fleet logs --server balancer`"
        return facts.health.problem if facts.health else ""

    @property
    def is_healthy(self) -> bool:
        """Return whether every machine is as desired."""
        return not (self.balancer_problem or self.damage) and all(server.is_healthy for server in self.servers)


def observe_all(targets: Sequence[Target]) -> list[Observation]:
    """Observe applications of one stack at the same time. Their common balancer is queried once."""
    with ThreadPoolExecutor(max_workers=len(targets) + 1) as pool:
        front = pool.submit(_query_balancer, targets[0])
        return [each.result() for each in [pool.submit(observe, target, front.result) for target in targets]]


def observe(target: Target, balancer_report: Callable[[], Report[BalancerStatus] | None] | None = None) -> Observation:
    """Query the machines and the release store of an application, all in parallel.

    balancer_report: returns the balancer's report if another application has requested it. None: query the balancer.
    """
    with ThreadPoolExecutor(max_workers=PARALLEL + 2) as pool:
        front = pool.submit(balancer_report or partial(_query_balancer, target))
        service = pool.submit(ask_load_balancer, target)
        asked = {
            server.name: pool.submit(ask, target, server, [STATUS_COMMAND], ServerStatus) for server in target.servers
        }
        now = pointers.current(target.store)
        entry = next((each for each in entries(target.store) if each.release == now and each.result == "done"), None)
        damage = find_damage(target.store, reads_archive=False)
        moving = rollout_of(lock.parse(target.store.read(lock.KEY)), time.time())
        newest = next(entries(target.store), None)
        if moving and newest:
            phase = "switching all servers" if newest.is_rollback else PHASES.get(newest.result, newest.result)
            moving = {**moving, "phase": phase}
        balancer, load_balancer = front.result(), service.result()
        reports = {name: future.result() for name, future in asked.items()}
        ending = {
            server.name: pool.submit(find_restarting, target.transport, server, facts)
            for server in target.servers
            if (facts := reports[server.name].facts)
        }
        restarting = {name: future.result() for name, future in ending.items()}
    views = [
        server_view(
            server,
            target.addresses[server.name],
            reports[server.name],
            balancer.facts if balancer else None,
            now,
            is_moving=bool(moving),
            unfinished=newest.release if newest and newest.is_unfinished else None,
            restarting=restarting.get(server.name, ()),
            load_balancer=load_balancer,
            phase=target.phases.get(server.name),
        )
        for server in target.servers
    ]
    return Observation(target, time.time(), now, entry, moving, balancer, reports, views, damage, load_balancer)


def _query_balancer(target: Target) -> Report[BalancerStatus] | None:
    return target.balancer and ask(target, target.balancer, [f"{SCRIPTS}/balancer_status.py"], BalancerStatus)


def rollout_of(content: Mapping[str, Any] | None, now_s: float) -> Mapping[str, Any] | None:
    """Return the lock's holder; None if there is no lock, or its holder was killed."""
    if not content or now_s - float(content["beat"]) > lock.LEASE_S:
        return None
    return {"servers": content.get("servers", {}), **{key: content[key] for key in ("who", "since", "what")}}


def server_view(
    server: Server,
    address: str,
    report: Report[ServerStatus],
    front: BalancerStatus | None,
    pointer: str | None,
    *,
    is_moving: bool,
    unfinished: str | None = None,
    restarting: Sequence[Restarting] = (),
    load_balancer: LoadBalancerReport | None = None,
    phase: Phase | None = None,
) -> ServerView:
    """Combine a server's own report with the balancer's. front: facts of the balancer, None if it sends none."""
    facts = report.facts
    measured: dict[str, Any] = {}
    if front is not None:
        measured = front.upstreams.get(address, NO_TRAFFIC).model_dump(include=MEASURED)
    if facts is None:
        state, remedy = State.UNREACHABLE, "`pulumi up --refresh` starts or replaces it"
        if report.is_reached:
            state, remedy = State.FAILED, SCRIPTS_REMEDY
        # LXD's own words name a remedy, and parse_status does.
        remedy = "" if "`pulumi" in report.error else remedy
        return ServerView(server.name, address, state, report.error, remedy, **measured)
    verdict = judge(server.name, facts, pointer, is_moving=is_moving, unfinished=unfinished)
    if slots := [str(each) for each in restarting if each.unit.startswith("app@")]:
        remedy = f"it is started for ever, with pauses of up to 10 s; {logs_command(server.name)}"
        verdict = Verdict(State.RESTARTING, "; ".join(slots), remedy)
    if front is not None:
        if address in front.drained:
            also = f"; else it would be {verdict.state}: {verdict.cause}" if verdict.cause else ""
            remedy = f"`./fleet admit {server.name}` sends it requests again"
            verdict = Verdict(State.DRAINED, f"it was drained by hand{also}", remedy)
        elif verdict.state in RUNNING and (found := judge_health(address, front)):
            cause = "; ".join(filter(None, [found, verdict.cause]))
            verdict = Verdict(State.UNHEALTHY, cause, f"`./fleet logs --server {server.name}` says why")
        elif verdict.state is State.SERVING and address not in front.active and phase:
            verdict = judge_member(phase)
        elif verdict.state is State.SERVING and address not in front.active:
            verdict = Verdict(State.STOPPED, "the balancer sends it no requests", "`pulumi up` adds it to the balancer")
    elif load_balancer is not None:
        verdict = judge_target(server, verdict, load_balancer, phase)
    slot = slot_of(facts)
    gateway = facts.gateway.get(slot) if slot else None
    since = facts.live_since_s
    return ServerView(
        server.name,
        address,
        verdict.state,
        verdict.cause,
        verdict.remedy,
        release=facts.slots[slot].release if slot else facts.live,
        release_age_s=round(max(facts.machine.clock_s - since, 0), 1) if since else None,
        slot=slot,
        background=tuple(str(each) for each in restarting if not each.unit.startswith("app@")),
        ended=_describe_ended(facts.ended),
        os=facts.machine.os,
        python=facts.machine.python,
        listen_queue=None if facts.queue is None else max(facts.queue, gateway.listen_queue if gateway else 0),
        **(gateway.model_dump(exclude={"listen_queue"}) if gateway else {}),
        **measured,
    )


def _describe_ended(lines: Sequence[str]) -> str:
    """Describe the requests that ended their worker. lines: of app_status.py, the newest first."""
    times = count(len(lines), "request ended its worker", "requests ended their worker")
    return f"{times} in the last 10 min; the last: {lines[0]}" if lines else ""


def seconds_since(when: str, now_s: float) -> float:
    """Return the seconds since an ISO 8601 time."""
    return max(now_s - datetime.fromisoformat(when).timestamp(), 0)


def as_json(observation: Observation) -> dict[str, Any]:
    """Return all of it as values; times in s or ms and counts, as their names say."""
    entry, front = observation.entry, observation.front
    keys = {"window_s", *MEASURED}
    traffic = front.model_dump(include=keys) if front else dict.fromkeys(sorted(keys))
    release = None
    if observation.pointer:
        release = {
            "id": observation.pointer,
            "who": None,
            "when": None,
            "age_s": None,
            "revision": None,
            "rollback": None,
        }
        if entry:
            release |= {
                "who": entry.who,
                "when": entry.when,
                "age_s": round(seconds_since(entry.when, observation.at_s), 1),
            }
            release |= {"revision": entry.revision, "rollback": entry.is_rollback}
    return {
        "stack": observation.target.stack,
        "app": observation.target.app,
        "routes": list(observation.target.routes),
        "url": observation.target.url,
        "healthy": observation.is_healthy,
        "release": release,
        "rollout": dict(observation.rollout) if observation.rollout else None,
        "store": {"problem": observation.damage},
        "maintenance": observation.maintenance,
        "balancer": {"problem": observation.balancer_problem, **traffic},
        "servers": [asdict(server) for server in observation.servers],
    }
