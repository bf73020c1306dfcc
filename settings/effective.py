"""What is in force: each setting of a stack with where it comes from, and what is computed from several."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, SecretStr

from settings import alb_support, limits, route
from settings.application import SLOT_PORTS, App
from settings.constraint import MASK
from settings.gateway import THREADS, THREADS_OF_ONE_PROCESS
from settings.platform import PLATFORMS
from settings.stack import Settings

STACK_FILE, DEFAULT, COMPUTED, FIXED = "stack file", "default", "computed", "fixed"


@dataclass(frozen=True)
class Value:
    """name: a setting's path, or another name beside it. origin: one of the words above.

    derived_from: settings that it is computed from. explanation: a few words, or "".
    """

    name: str
    value: Any
    origin: str
    derived_from: tuple[str, ...] = ()
    explanation: str = ""


def values(settings: Settings) -> list[Value]:
    """Return all values in the order of the stack file, but those the platform does not use. Secrets are masked."""
    computed = {each.name: each for each in _computed_values(settings)}
    # The number of a group of servers is capacity's.
    fixed = {f"apps.{name}.fleet.servers" for name, app in settings.apps.items() if app.fleet.capacity}
    set_values = [
        computed.pop(each.name, each)
        for each in _walk(settings, "")
        if not _is_unused_platform(each.name, settings.platform)
        and not _is_unused_kind(each.name, settings.balancer.kind)
        and each.name not in fixed
    ]
    # Computed values that are no setting follow the settings of their block.
    return sorted([*set_values, *computed.values()], key=lambda each: _block(settings, each.name))


def _is_unused_platform(name: str, platform: str) -> bool:
    """Return whether another platform alone uses a setting: its own block, and of a size what Size says."""
    if ".size." in name:
        return name.rpartition(".")[2] not in PLATFORMS[platform].size
    return name.partition(".")[0] in PLATFORMS.keys() - {platform}


def _is_unused_kind(name: str, kind: str) -> bool:
    """Return whether a setting is for another kind of balancer."""
    others = ("alb",) if kind == "machine" else alb_support.UNSUPPORTED
    return any(f"{name}.".startswith(f"balancer.{each}.") for each in others)


def _block(settings: Settings, name: str) -> tuple[int, int]:
    block, _, rest = name.partition(".")
    apps = list(settings.apps)
    return list(type(settings).model_fields).index(block), apps.index(rest.partition(".")[0]) if block == "apps" else 0


def _walk(model: BaseModel, prefix: str) -> Iterator[Value]:
    for name in type(model).model_fields:
        origin = STACK_FILE if name in model.model_fields_set else DEFAULT
        yield from _leaves(f"{prefix}{name}", getattr(model, name), origin)


def _leaves(name: str, value: Any, origin: str) -> Iterator[Value]:
    if isinstance(value, BaseModel):
        yield from _walk(value, f"{name}.")
    elif isinstance(value, Mapping) and value:
        for key, inner in cast("Mapping[str, Any]", value).items():
            yield from _leaves(f"{name}.{key}", inner, origin)
    elif isinstance(value, Sequence) and any(isinstance(each, BaseModel) for each in cast("Sequence[Any]", value)):
        for number, each in enumerate(cast("Sequence[Any]", value)):
            yield from _leaves(f"{name}.{number}", each, origin)
    else:
        yield Value(name, MASK if isinstance(value, SecretStr) else value, origin)


def _computed_values(settings: Settings) -> Iterator[Value]:
    yield Value("os.python", settings.operating_system.python, COMPUTED, ("os",), "of every server")
    for name, app in settings.apps.items():
        yield from _computed_of_app(f"apps.{name}.", app, settings.platform)
    if settings.hostnames != settings.balancer.hostnames:
        hosts = tuple(f"apps.{name}.hosts" for name, app in settings.apps.items() if app.hosts)
        yield Value("balancer.hostnames", settings.hostnames, COMPUTED, hosts, "the balancer's own come first")
    spread = settings.security_updates.randomized_delay_minutes
    how = "a machine's last 10 minutes are for its restart"
    yield Value(
        "security_updates.randomized_delay_minutes", spread, COMPUTED, ("security_updates.window_minutes",), how
    )


def _computed_of_app(prefix: str, app: App, platform: str) -> Iterator[Value]:
    def compute(name: str, value: Any, of: str, how: str = "") -> Value:
        return Value(prefix + name, value, COMPUTED, tuple(prefix + each for each in of.split()), how)

    size = f"fleet.size.{PLATFORMS[platform].cpus}"
    processes = limits.worker_processes(app, platform)
    if app.gateway.processes == "auto" and processes is not None:
        yield compute("gateway.processes", processes, size, "auto: two for each CPU")
    gateway = app.gateway
    if gateway.threads == "auto" and gateway.concurrency == gateway.thread_count:
        how = f"auto: {THREADS}, or {THREADS_OF_ONE_PROCESS} in a single process"
        yield compute("gateway.threads", gateway.thread_count, "gateway.processes", how)
    if processes is not None:
        each = "gateway.greenlets" if gateway.runs_greenlets else "gateway.threads"
        at_a_time = processes * gateway.concurrency
        yield compute("requests_at_a_time", at_a_time, f"gateway.processes {each}", "of each server; others wait")
    if app.rollout.drain_timeout_s is None:
        margin = f"{limits.DRAIN_MARGIN_S} s more"
        yield compute("rollout.drain_timeout_s", app.drain_timeout_s, "gateway.request_timeout_s", margin)
    if app.isolated_processes:
        last = app.isolated_processes - 1
        ports = {slot: f"{first} to {first + last}" for slot, first in SLOT_PORTS.items()}
        yield compute("process_ports", ports, "gateway.processes fleet.local_proxy", "of 127.0.0.1, by slot")
    yield compute("routes", [route.format_route(host, app.path) for host in app.hosts or [None]], "hosts path")
    yield compute("script_name", app.script_name, "path strip_path")
    yield compute("public_health_path", app.public(app.health_path), "health_path path strip_path")
    read_s = limits.read_timeout_s(app.gateway.request_timeout_s)
    margin = f"{limits.READ_MARGIN_S} s more"
    yield compute("nginx_read_timeout_s", read_s, "gateway.request_timeout_s", margin)
    yield Value(
        f"{prefix}systemd_stop_timeout_s",
        limits.STOP_TIMEOUT_S,
        FIXED,
        explanation="the longest that anything may drain",
    )
    batch, servers = app.rollout.batch_size, app.fleet.servers
    at_a_time = batch if isinstance(batch, int) else math.ceil(servers * int(batch.removesuffix("%")) / 100)
    if servers > 1 and app.fleet.capacity is None:
        after = "after the first server, which goes alone"
        yield compute("servers_at_a_time", min(at_a_time, servers - 1), "rollout.batch_size fleet.servers", after)
    if processes is not None and app.gateway.limits_memory:
        most = limits.CONCURRENT_RELEASES * processes * app.gateway.reload_on_rss_mib
        how = "if every worker grew so large while a release switches"
        yield compute("memory_at_most_mib", most, "gateway.processes gateway.reload_on_rss_mib", how)
