"""`./fleet doctor`: looks at this machine and at a stack, and says of each thing that is wrong what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import typer
import yaml
from rich.text import Text

from commands.observation import Observation, ServerView, observe_all
from commands.report import Report
from commands.stack import PROJECT
from commands.status import console
from commands.target import AppOption, CommandError, StackOption, outputs, resolve_targets, selected_stack
from commands.verdict import HEALTHY, State
from platforms import operator
from platforms.diagnosis import Finding
from releases.drift import REPAIR, find_damage
from releases.status import AgentHealth, Certificate, MachineStatus
from settings.lxd import Lxd
from settings.words import count

GIB, MIB = 1 << 30, 1 << 20
# Free space below which a disk is nearly full: a release with its virtualenv needs some of it, images more.
HOST_FREE_BYTES, MACHINE_FREE_BYTES = 2 * GIB, 256 * MIB
MAX_SKEW_S = 2.0
# The balancer's health agent says something each 5 s.
AGENT_SILENCE_S = 30.0
DAY_S = 86_400
# certbot renews 30 days before the end, and looks twice a day; a person needs longer than a timer.
RENEWED_LEFT_DAYS, INSTALLED_LEFT_DAYS = 25, 14


def check_tools() -> Iterator[Finding]:
    """Yield findings about the programs that every platform needs here."""
    for tool in ("pulumi", "pulumi-language-python"):
        found = shutil.which(tool)
        yield (
            Finding(tool) if found else Finding(tool, "it is not on the PATH", "Run `make setup`, then call `./fleet`.")
        )


def check_disk(paths: Mapping[str, Path]) -> Iterator[Finding]:
    """Yield findings about the disks of this machine, each once."""
    seen: set[int] = set()
    for name, path in paths.items():
        if not path.exists() or path.stat().st_dev in seen:
            continue
        seen.add(path.stat().st_dev)
        free = shutil.disk_usage(path).free
        if free < HOST_FREE_BYTES:
            yield Finding(
                f"disk of {name}",
                f"{free // MIB} MiB are free below {path}",
                f"Free some: {HOST_FREE_BYTES // GIB} GiB at least; `make clean` removes what can be made again.",
            )
        else:
            yield Finding(f"disk of {name}")


def check_lock(stack: str, backend: str, project: str, rollouts: Sequence[str] = ()) -> Finding:
    """Check whether a killed pulumi left the stack locked. Only a file backend's lock shows whose it is.

    rollouts: those that are at work; they go on when their pulumi is killed.
    """
    subject = "lock of the stack"
    folder = Path(urlsplit(backend).path) / ".pulumi" / "locks" / "organization" / project / stack
    if urlsplit(backend).scheme != "file":
        return Finding(subject)
    for file in sorted(folder.glob("*.json")):
        lock: dict[str, Any] = json.loads(file.read_text())
        is_here = lock["hostname"] == socket.gethostname()
        process = Path("/proc") / str(lock["pid"]) / "comm"
        if is_here and not (process.exists() and process.read_text().startswith("pulumi")):
            problem = f"process {lock['pid']}, which held it, is gone"
            remedy = f"`pulumi cancel -s {stack}`, then run `pulumi up -s {stack}` to end what it began."
            if stack == "local":
                remedy += " `make local` and `make local-down` do it by themselves."
            if rollouts:
                waiting = f"Wait until `./fleet status -s {stack}` shows no rollout. Then take it away: {remedy}"
                return Finding(subject, f"{problem}; what it began is still at work: {', '.join(rollouts)}", waiting)
            return Finding(subject, problem, f"Take it away: {remedy}")
    return Finding(subject)


def read_blocks(stack: str) -> dict[str, Any]:
    """Return the blocks of the stack file without checking them; {} if the file cannot be read."""
    file = PROJECT / "stacks" / f"Pulumi.{stack}.yaml"
    try:
        document: dict[str, Any] = yaml.safe_load(file.read_text())
        return {key.partition(":")[2]: value for key, value in document["config"].items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {}


def check_operator(stack: str | None) -> Iterator[Finding]:
    """Yield findings about this machine. stack: None where none is selected."""
    yield from check_tools()
    yield from check_disk({"this project": PROJECT, "LXD": Path("/var/lib/lxd"), "caches": Path.home() / ".cache"})
    if stack is None:
        yield from operator.check_host("lxd", {"lxd": Lxd().model_dump()}, stack="local", project=PROJECT)
        return
    blocks = read_blocks(stack)
    kind = str(blocks.get("platform", ""))
    yield from operator.check_host(kind, blocks, stack=stack, project=PROJECT)


def fleet(every: Sequence[Observation]) -> Iterator[Finding]:
    """Yield findings about the machines of a stack. every: its applications, which share the balancer."""
    seen, stack = every[0], every[0].target.stack
    if seen.balancer_problem:
        remedy = f"`pulumi up --refresh -s {stack}` starts or replaces it; else `./fleet logs --server balancer`."
        yield Finding("balancer", seen.balancer_problem, remedy if seen.balancer else "")
    else:
        yield Finding("balancer")
    for each in every:
        damage = each.damage or find_damage(each.target.store)
        yield Finding(f"store of {each.target.app}", damage, f"{REPAIR}." if damage else "")
    servers = [server for each in every for server in each.servers]
    for server in servers:
        if server.state in HEALTHY:
            yield Finding(server.name)
        else:
            yield Finding(server.name, f"{server.state}: {server.cause}", server.remedy)
        for each in server.background:
            remedy = (
                f"`./fleet logs --server {server.name}` has more; mend its command under `workers` and run `pulumi up`."
            )
            yield Finding(f"workers of {server.name}", each, remedy)
        if server.ended:
            remedy = f"`./fleet logs --server {server.name}` shows where; correct that view."
            yield Finding(f"requests of {server.name}", server.ended, remedy)
    if seen.front is not None:
        yield check_health_agent(seen.front.health)
    yield from check_manual_changes(seen.maintenance, servers)
    machines: dict[str, Report[MachineStatus]] = {"balancer": seen.balancer} if seen.balancer else {}
    for each in every:
        machines |= each.reports
    for name, report in machines.items():
        yield from check_machine(name, report)
    yield compare_clocks(machines)
    if seen.front is not None:
        yield check_certificate(seen.front.certificate)


def check_certificate(facts: Certificate | None) -> Finding:
    """Check whether the balancer's certificate lasts. facts: None where it serves HTTP."""
    if facts is None:
        return Finding("certificate (not applicable: the balancer serves HTTP)")
    days = facts.expires_in_s // DAY_S
    problem = f"it expires in {count(days, 'day')}" if days >= 0 else "it has expired"
    if facts.is_renewed_here and days < RENEWED_LEFT_DAYS:
        remedy = "`journalctl -u certbot` on the balancer says why certbot has not renewed it."
        return Finding("certificate", problem, remedy)
    if not facts.is_renewed_here and days < INSTALLED_LEFT_DAYS:
        return Finding("certificate", problem, "Put the renewed one under balancer.tls and run `pulumi up`.")
    return Finding("certificate")


def check_health_agent(health: AgentHealth | None) -> Finding:
    """Check that the balancer's health agent runs. health: None where it has written nothing yet."""
    subject = "health of servers"
    if health is not None and health.age_s < AGENT_SILENCE_S:
        return Finding(subject)
    problem = "no health check has run yet" if health is None else f"the last check was {health.age_s:.0f} s ago"
    remedy = "Servers that do not respond get requests. `journalctl -u wsgi-fleet-health` on the balancer says why."
    return Finding(subject, problem, remedy)


def check_manual_changes(maintenance: bool | None, servers: Sequence[ServerView]) -> Iterator[Finding]:
    """Yield findings about what an operator switched and may have forgotten: maintenance and drained servers."""
    if maintenance:
        yield Finding("maintenance", "it is on: clients get 503", "When the work is done: `./fleet maintenance off`.")
    else:
        yield Finding("maintenance")
    drained = [server.name for server in servers if server.state is State.DRAINED]
    for name in drained:
        yield Finding("drained servers", f"{name} takes no requests", f"When it may: `./fleet admit {name}`.")
    if not drained:
        yield Finding("drained servers")


def check_machine(name: str, report: Report[MachineStatus]) -> Iterator[Finding]:
    """Yield findings about the disk and units of one machine that responded."""
    if report.facts is None:
        return
    vitals = report.facts.machine
    free, size = vitals.disk_free_bytes, vitals.disk_bytes
    if vitals.disk_error:
        problem = f"nothing can be written there: {vitals.disk_error}"
        yield Finding(f"disk of {name}", problem, "Free some there, or raise size.disk_gib in the stack file.")
    elif free < min(MACHINE_FREE_BYTES, size // 10):
        problem = f"{free // MIB} MiB of {size // MIB} MiB are free"
        yield Finding(f"disk of {name}", problem, "Free some there, or raise size.disk_gib in the stack file.")
    else:
        yield Finding(f"disk of {name}")
    # A slot or its socket that failed is in the server's own state; a proof is killed when it is done.
    failed = [unit for unit in vitals.failed_units if not unit.startswith(("app@", "app.socket", "app-proof"))]
    if failed:
        remedy = f"`journalctl -u {failed[0]}` on it says why; `systemctl reset-failed` there once it is mended."
        yield Finding(f"units of {name}", f"{', '.join(failed)} failed", remedy)
    else:
        yield Finding(f"units of {name}")


def compare_clocks(reports: Mapping[str, Report[MachineStatus]]) -> Finding:
    """Check whether two machines' clocks surely differ: each was read between request and response."""
    with_facts = {name: report for name, report in reports.items() if report.facts is not None}
    least_ahead_s = {name: _clock(report) - report.ended_s for name, report in with_facts.items()}
    most_ahead_s = {name: _clock(report) - report.began_s for name, report in with_facts.items()}
    if with_facts:
        fast, slow = max(least_ahead_s, key=least_ahead_s.__getitem__), min(most_ahead_s, key=most_ahead_s.__getitem__)
        difference_s = least_ahead_s[fast] - most_ahead_s[slow]
        if difference_s > MAX_SKEW_S:
            return Finding(
                "clocks",
                f"{fast} is {difference_s:.1f} s or more ahead of {slow}",
                "See `timedatectl` on both; a time service (systemd-timesyncd, chrony) must run.",
            )
    return Finding("clocks")


def _clock(report: Report[MachineStatus]) -> float:
    return report.facts.machine.clock_s if report.facts else 0.0


def check_prometheus(url: str) -> Iterator[Finding]:
    """Yield whether the stack's own Prometheus responds. url: "" where it has none."""
    if not url:
        return
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5):  # noqa: S310  an output of the stack
            finding = Finding("monitoring")
    except OSError as error:
        remedy = "`lxc list` shows its machine. `pulumi up` starts it; on it, `journalctl -u prometheus` may say why."
        finding = Finding("monitoring", f"Prometheus at {url} does not respond: {error}", remedy)
    yield finding


def examine(stack: str | None, app: str | None) -> Iterator[Finding]:
    """Yield findings about everything, as far as it can be examined."""
    chosen: str | None = None
    problem: CommandError | None = None
    try:
        chosen = selected_stack(stack)
    except CommandError as error:
        problem = error
    yield from check_operator(chosen)
    if chosen is None:
        remedy = "Name one with --stack, or make one: `make local`, or `pulumi stack init NAME`."
        yield Finding("stack", str(problem), remedy)
        return
    lock = partial(check_lock, chosen, os.environ.get("PULUMI_BACKEND_URL", ""), "wsgi-fleet")
    try:
        described = outputs(chosen, app)
        targets = resolve_targets(chosen, described, app, patience_s=15)
    except CommandError as error:
        yield lock()
        text, _, remedy = str(error).partition("; ")
        yield Finding(f"stack {chosen}", text, f"{remedy[:1].upper()}{remedy[1:]}." if remedy else "")
        return
    every = observe_all(targets)
    yield lock([each.rollout["what"] for each in every if each.rollout])
    yield Finding(f"stack {chosen}")
    yield from operator.check_connection(targets[0].reach)
    yield from check_prometheus(described.get("monitoring_url", ""))
    yield from fleet(every)


def doctor(stack: StackOption = None, app: AppOption = None) -> None:
    """Look for what is wrong, and say what to do.

    With this machine and with the stack. Ends with 1 if anything is wrong.
    """
    screen, wrong = console(), 0
    for finding in examine(stack, app):
        if finding.problem:
            wrong += 1
            screen.print(Text.assemble(("wrong", "bold red"), f"  {finding.subject}: {finding.problem}"))
            if finding.remedy:
                screen.print(Text(f"       {finding.remedy}"))
        else:
            screen.print(Text.assemble(("ok", "green"), f"     {finding.subject}"))
    if wrong:
        screen.print(f"\n{wrong} {'thing is' if wrong == 1 else 'things are'} wrong")
        raise typer.Exit(1)
    screen.print("\nnothing is wrong")
