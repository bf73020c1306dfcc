"""Time-outs and sizes that depend on one another: each is below the next, and what runs fits into its machine.

request time-out < Nginx's read time-out < drain < systemd's stop
two releases' worker processes <= memory of the machine
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from settings.words import count

if TYPE_CHECKING:
    from settings.application import App
    from settings.platform_block import MachineCapacity
    from settings.stack import Settings

# Nginx waits longer than the gateway, so that the gateway decides: a greenlet that does not wait is ended 5 s later
# (GRACE_S of machine/gateway/gateway_gevent.py and gateway_gunicorn.py), half a second of looking not counted.
READ_MARGIN_S = 5
# Extra seconds of draining after the longest request, to close connections.
DRAIN_MARGIN_S = 15
# The end of systemd's patience with a release, and so of any draining.
STOP_TIMEOUT_S = 330
# proxy_site.py probes, and waits as long as a release may drain for the proxy's old workers.
SITE_TIMEOUT_S = STOP_TIMEOUT_S + 70
# How long a tunnel of EC2 Instance Connect lasts, and what a command of a rollout may take beside what is set for it.
TUNNEL_S, TUNNEL_MARGIN_S = 3600, 120
# The snapshot of Debian's images of AWS, below which EC2 launches none.
AWS_IMAGE_GIB = 8
# Time-out and interval of a load balancer's health checks; those of the balancer's own agent are the same.
TARGET_HEALTH_TIMEOUT_S = 5
TARGET_HEALTH_INTERVAL_S = 10
# What a Spot notice leaves of its two minutes for requests (SPOT_S of machine/group/group_member.py).
SPOT_DRAIN_S = 90
# Of these a server behind a machine serves on until that has taken it out (UNLISTED_S there).
UNLISTED_S = 20
# A release is judged by what clients see once each of both releases had so many requests, and by so many errors: a
# lone error, or two, stop nothing.
MIN_REQUESTS, MIN_ERRORS = 50, 3
# Least memory of one worker. Measured: of 8 idle ones that serve examples/bare-wsgi each has 2.6 MiB to itself and,
# with its share of the rest, 3.2 (Linux's smaps_rollup, pyuwsgi 2.0.30, Python 3.11).
WORKER_MIB = 3
# The same of a process that is a gateway of its own, with its master (fleet.local_proxy). Measured: of
# three idle ones of uWSGI that serve tests/e2e/app each has 12.4 MiB, of Tornado 26.5.
ISOLATED_WORKER_MIB = 12
# Characters of a secret that is taken out of what people see (releases/redaction.py). A shorter one is guessed at once.
MIN_SECRET_CHARS = 4
# While a release switches, the old one's workers and the new one's run side by side.
CONCURRENT_RELEASES = 2


def capacity_of(app: App, platform: str) -> MachineCapacity | None:
    """Return the servers of an application; None for an instance type that is not known here."""
    # Here, because all blocks of all platforms come with it, and others need the constants of this module alone.
    from settings.platform import PLATFORMS  # noqa: PLC0415

    return PLATFORMS[platform].capacity(app.fleet.size)


def worker_processes(app: App, platform: str) -> int | None:
    """Return the worker processes of a server; None where that is auto and the machine is not known here."""
    if app.gateway.processes != "auto":
        return app.gateway.processes
    found = capacity_of(app, platform)
    return found and 2 * found.cpus


def read_timeout_s(request_timeout_s: int) -> int:
    """Return the seconds that Nginx waits for an application."""
    return request_timeout_s + READ_MARGIN_S


def idle_timeout_s(apps: Iterable[App]) -> int:
    """Return the seconds of silence after which an Application Load Balancer ends a connection: later than servers do.

    AWS takes 4,000 at most.
    """
    longest = (max(app.gateway.request_timeout_s, app.streaming.timeout_s if app.streaming else 0) for app in apps)
    # Once more the margin, for the server's Nginx decides first.
    return min(read_timeout_s(max(longest)) + READ_MARGIN_S, 4000)


def problems(settings: Settings) -> list[str]:
    """Return what surely cannot work, with both settings. Single settings and App have bounds of their own besides."""
    by_tunnel = settings.platform == "aws" and settings.aws is not None and settings.aws.transport != "ssh"
    return [
        f"apps.{name}.{line}"
        for name, app in settings.apps.items()
        for line in (
            *_check_memory(app, capacity_of(app, settings.platform)),
            *(_check_commands(app, TUNNEL_S - TUNNEL_MARGIN_S, settings.balancer.kind) if by_tunnel else ()),
        )
    ] + _check_disks(settings)


def _check_disks(settings: Settings) -> list[str]:
    sizes = {f"apps.{name}.fleet.size": app.fleet.size for name, app in settings.apps.items()}
    if settings.balancer.kind == "machine":
        sizes["balancer.size"] = settings.balancer.size
    return [
        f"{place}.disk_gib: {size.disk_gib}: should be {AWS_IMAGE_GIB} at least on platform aws, whose image has as "
        "much; raise it"
        for place, size in sizes.items()
        if settings.platform == "aws" and size.disk_gib < AWS_IMAGE_GIB
    ]


def _check_commands(app: App, most_s: int, front: str) -> Iterator[str]:
    """Check that no command of a rollout may take longer. Each takes some seconds besides what is set here."""
    given = app.rollout
    before = given.task_timeout_s if given.task_before_proof else 0
    least = {
        "task_timeout_s": given.task_timeout_s if given.release_task else 0,
        "stage_timeout_s": given.stage_timeout_s + given.start_timeout_s + before,
        "bake_s": given.bake_s,
    }
    # An Application Load Balancer leaves no machine to reach others through by SSH (settings/alb_support.py).
    by_ssh = ", or take transport: ssh"
    in_background = {"task_timeout_s": ", and run a longer task in the background of a machine (docs/aws.md)"}
    for setting, seconds in least.items():
        if seconds > most_s:
            other = by_ssh if front == "machine" else in_background.get(setting, "")
            yield (
                f"rollout.{setting}: {getattr(given, setting)}: a command may take {seconds} s with it, and AWS ends a "
                f"tunnel after {TUNNEL_S} s (aws.transport); keep it within {most_s} s{other}"
            )


def _check_memory(app: App, capacity: MachineCapacity | None) -> Iterator[str]:
    if capacity is None:
        return
    gateway = app.gateway
    least = ISOLATED_WORKER_MIB if app.isolated_processes else WORKER_MIB
    if gateway.processes != "auto" and CONCURRENT_RELEASES * gateway.processes * least > capacity.memory_mib:
        yield (
            f"gateway.processes: {gateway.processes}: should be "
            f"{capacity.memory_mib // (CONCURRENT_RELEASES * least)} at most with {capacity.setting}: "
            f"each needs {least} MiB at least, and twice as many run in a release; lower it, or take larger servers"
        )
    if "reload_on_rss_mib" in gateway.model_fields_set and gateway.reload_on_rss_mib > capacity.memory_mib:
        yield (
            f"gateway.reload_on_rss_mib: {gateway.reload_on_rss_mib}: is more than the machine has, "
            f"{capacity.setting}: it would be out of memory before a worker is replaced; lower it, "
            "or take larger servers"
        )


def warnings(settings: Settings) -> list[str]:
    """Return what may work and probably is not meant, with both settings. Defaults alone never cause a warning."""
    return [
        f"apps.{name}.{line}"
        for name, app in settings.apps.items()
        for line in (
            *_check_timeouts(app),
            *_check_growth(app, settings.platform),
            *_check_secrets(app),
            *_check_capacity(app, settings.balancer.kind),
        )
    ]


def _check_timeouts(app: App) -> Iterator[str]:
    read_s = read_timeout_s(app.gateway.request_timeout_s)
    if app.drain_timeout_s < read_s:
        yield (
            f"rollout.drain_timeout_s: {app.drain_timeout_s}: is less than Nginx waits for a response ({read_s} s, of "
            f"gateway.request_timeout_s {app.gateway.request_timeout_s}): a release may cut a request that began late"
        )


def _check_growth(app: App, platform: str) -> Iterator[str]:
    gateway, there, workers = app.gateway, capacity_of(app, platform), worker_processes(app, platform)
    if not gateway.limits_memory:
        return
    if there is None or workers is None or not gateway.model_fields_set & {"processes", "reload_on_rss_mib"}:
        return
    most = CONCURRENT_RELEASES * workers * gateway.reload_on_rss_mib
    if most > there.memory_mib and gateway.reload_on_rss_mib <= there.memory_mib:
        grow = f"{count(workers, 'process', 'processes')} (gateway.processes) may grow"
        yield (
            f"gateway.reload_on_rss_mib: {gateway.reload_on_rss_mib}: {grow} "
            f"to {most} MiB while a release switches, and {there.setting} is less; "
            f"{max(there.memory_mib // (CONCURRENT_RELEASES * workers), 64)} would keep them within it"
        )


def _check_capacity(app: App, front: str) -> Iterator[str]:
    capacity = app.fleet.capacity
    if capacity is None:
        return
    targets = (capacity.requests_per_target, capacity.cpu_percent)
    if capacity.max > capacity.min and targets == (None, None) and not capacity.schedules:
        # Requests are counted by a load balancer alone (settings/capacity.py).
        counted = "requests_per_target, " if front == "alb" else ""
        yield (
            f"fleet.capacity.max: {capacity.max}: nothing makes more servers than min ({capacity.min}); set "
            f"{counted}cpu_percent or schedules"
        )
    drain_s = SPOT_DRAIN_S if front == "alb" else SPOT_DRAIN_S - UNLISTED_S
    if capacity.spot_percent and app.drain_timeout_s > drain_s:
        yield (
            f"fleet.capacity.spot_percent: {capacity.spot_percent}: servers have {drain_s} s after a Spot notice; "
            f"longer requests are cut (rollout.drain_timeout_s is {app.drain_timeout_s})"
        )


def _check_secrets(app: App) -> Iterator[str]:
    for name, secret in app.secrets.items():
        if len(secret.get_secret_value().strip()) < MIN_SECRET_CHARS:
            yield (
                f"secrets.{name}: (secret): has fewer than {MIN_SECRET_CHARS} characters, so messages "
                "show it, which remove other secrets; take a longer one"
            )
