"""What a server is, in one word, and why: by what it says of itself, and by what the balancer finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from platforms.server_group import Phase
from releases.status import BalancerStatus, ServerStatus


class State(StrEnum):
    """What a server is, for a person who looks at it once."""

    SERVING = "serving"
    DRAINED = "drained"
    STARTING = "starting"
    OUTDATED = "outdated"
    AHEAD = "ahead"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"
    RESTARTING = "restarting"
    FAILED = "failed"
    EMPTY = "empty"
    UNREACHABLE = "unreachable"


# What systemd says of a machine that is not up yet.
BOOTING = frozenset({"initializing", "starting"})
# As a person wants it; all others make `status` fail.
HEALTHY = frozenset({State.SERVING, State.DRAINED})


# Those of a server that could serve: only for them the balancer's own opinion says more.
RUNNING = frozenset({State.SERVING, State.OUTDATED, State.AHEAD, State.FAILED})


def slot_of(facts: ServerStatus) -> str | None:
    """Return the slot that runs the live release, otherwise any running slot."""
    running = [slot for slot, each in facts.slots.items() if each.state == "active"]
    good = [slot for slot in running if facts.slots[slot].release == facts.live]
    return next(iter([*good, *running]), None)


@dataclass(frozen=True)
class Verdict:
    """What a server is, why, and what a person does about it; the last two are "" where it serves."""

    state: State
    cause: str = ""
    remedy: str = ""


def judge(
    name: str, facts: ServerStatus, pointer: str | None, *, is_moving: bool, unfinished: str | None = None
) -> Verdict:
    """Judge a server by its own report.

    pointer: the current release. is_moving: a rollout is running. unfinished: the release of the newest rollout, where
    that did not end.
    """
    states = {slot: each.state for slot, each in facts.slots.items()}
    if facts.boot == "activating":
        return Verdict(State.STARTING, "it has booted and makes itself the current release", "wait for it")
    if "active" in states.values():
        return _judge_running(facts, pointer, name, is_moving=is_moving, unfinished=unfinished)
    if facts.machine.system in BOOTING:
        return Verdict(State.STARTING, "the machine boots", "wait for it")
    if facts.live is None:
        return Verdict(State.EMPTY, "no release is here yet", "`pulumi up` brings one")
    return _judge_stopped(states, name)


def logs_command(name: str) -> str:
    """Say which command shows a server's log."""
    return f"`./fleet logs --server {name}` says why"


def _restart(name: str) -> str:
    """Say how a server's machine is restarted."""
    return f"restart the machine (`./fleet shell --server {name}`, then `reboot`)"


def _judge_stopped(states: Mapping[str, str], name: str) -> Verdict:
    logs = logs_command(name)
    if "activating" in states.values():
        return Verdict(State.STARTING, "the application is being started", f"if that takes long, {logs}")
    if failed := " and ".join(f"app@{slot}" for slot, state in states.items() if state == "failed"):
        return Verdict(State.FAILED, f"{failed} failed", logs)
    return Verdict(State.STOPPED, "no slot runs", f"{_restart(name)}: it comes back on the current release")


def _judge_running(
    facts: ServerStatus, pointer: str | None, name: str, *, is_moving: bool, unfinished: str | None
) -> Verdict:
    logs = logs_command(name)
    if facts.queue is None:
        return Verdict(State.FAILED, "nothing listens on its port", f"{_restart(name)}; {logs}")
    if facts.socket not in ("", "active"):
        # The slot keeps the port as long as it runs.
        cause = f"app.socket is {facts.socket}: the slot cannot be started anew"
        return Verdict(State.FAILED, cause, "`pulumi up` starts the socket and the slot")
    health = facts.health
    if health is not None and health.status != 200:
        separator = ": " if health.line.startswith('"') else " "
        answer = f"{health.status}{separator}{health.line}".strip() if health.status else health.line
        return Verdict(State.FAILED, f"GET {health.path} is not 200 but: {answer}", logs)
    return _judge_release(facts, pointer, is_moving=is_moving, unfinished=unfinished)


def _judge_release(facts: ServerStatus, pointer: str | None, *, is_moving: bool, unfinished: str | None) -> Verdict:
    """Judge a server that responds by what it runs."""
    running = sorted({str(each.release) for each in facts.slots.values() if each.state == "active"})
    live = facts.live
    restart = "`pulumi up`, or a restart of the machine, brings it there"
    if live not in running:
        return Verdict(State.OUTDATED, f"it runs {', '.join(running)} and should run {live}", restart)
    if live != pointer and live == unfinished:
        cause = f"it serves {live} of a rollout that has not ended, the current release is {pointer or 'none'}"
        if is_moving:
            return Verdict(State.AHEAD, cause, "wait: a rollout is at work")
        back = f"; a restart of the machine brings it back to {pointer}" if pointer else ""
        return Verdict(State.AHEAD, cause, f"`pulumi up` or `make local` ends that rollout{back}")
    if live != pointer:
        cause = f"it serves {live}, the current release is {pointer or 'none'}"
        return Verdict(State.OUTDATED, cause, "wait: a rollout is at work" if is_moving else restart)
    return Verdict(State.SERVING)


def judge_member(phase: Phase) -> Verdict:
    """Judge a healthy server of a group to which the balancer does not send requests yet."""
    if phase is Phase.STANDBY:
        return Verdict(State.DRAINED, "its group has it on standby", "take it out of standby in the AWS console")
    cause = "its group waits until it serves the current release"
    if phase is Phase.SERVING:
        cause = "the balancer does not know this server yet; it reads the list of the group's servers every 5 s"
    return Verdict(State.STARTING, cause, "wait for it")


def judge_health(address: str, balancer: BalancerStatus) -> str:
    """Return why the balancer finds a server unhealthy, and whether it still gets requests; "" where it is healthy."""
    found = balancer.health.servers.get(address) if balancer.health else None
    if found is None or found.healthy:
        return ""
    is_asked = address in balancer.active
    which = (
        "the balancer still sends it requests, because no other server is healthy"
        if is_asked
        else "it gets no requests"
    )
    return f"{found.why}; {which}"
