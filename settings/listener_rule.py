"""The rules by which an Application Load Balancer finds the application of a request, from settings/route.py."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from settings.route import Route, VirtualHost, virtual_hosts

# Quotas of an Application Load Balancer: of its rules, of the values in one rule's conditions, of a host in them
# (docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-limits.html, API_RuleCondition).
MAX_RULES, MAX_VALUES, MAX_HOST_CHARS = 100, 5, 128
# Priorities go up to 50,000. Below FIRST are those of ./fleet: a lower one counts first.
FIRST, LAST = 100, 50_000
# How many labels of a wildcard, and how many segments of a path, the priority distinguishes.
MAX_LABELS, MAX_SEGMENTS = 6, 5
_CLASSES = (MAX_LABELS + 1) * (MAX_SEGMENTS + 1)
_ROOM = (LAST - FIRST) // _CLASSES


@dataclass(frozen=True)
class ListenerRule:
    """hosts, paths: patterns with `*`; () is every one. app: who gets the request; None: nobody, so it is 404.

    priority: the rule with the lowest counts first.
    """

    hosts: tuple[str, ...]
    paths: tuple[str, ...]
    app: str | None
    priority: int

    @property
    def name(self) -> str:
        """Return a unique name of the rule, which does not depend on other rules."""
        return f"{self.hosts[0] if self.hosts else 'every-host'}{self.paths[0] if self.paths else ''}".replace("*", "_")


def default_app(apps: Mapping[str, Route]) -> str | None:
    """Return the application for requests that match no rule; None: they get 404."""
    return dict(virtual_hosts(apps)[0].table).get("/")


def listener_rules(apps: Mapping[str, Route]) -> list[ListenerRule]:
    """Return the rules in the order in which they count. What none is for goes to default_app().

    A rule has the priority of its class, which is how exact host and path are, and in the class a place of its own by a
    hash. So a rule that comes moves no other, for AWS refuses a priority that another rule still has; where two hashes
    meet (1 in 1,188), a second `up` moves the other one.
    """
    found: list[ListenerRule] = []
    priorities = set[int]()
    for hosts, path, app in sorted(_conditions(apps), key=str):
        key = f"{hosts} {path}"
        first = FIRST + _class_of(hosts, path) * _ROOM
        place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % _ROOM
        while first + place in priorities:
            place = (place + 1) % _ROOM
        priorities.add(first + place)
        found.append(ListenerRule(hosts, _patterns(path), app, first + place))
    return sorted(found, key=lambda rule: rule.priority)


def _conditions(apps: Mapping[str, Route]) -> Iterator[tuple[tuple[str, ...], str, str | None]]:
    """Yield (hosts, path, application) of each rule; "/" is every path."""
    default, *named = virtual_hosts(apps)
    for path, app in default.table:
        if path != "/":
            yield (), path, app
    for host in named:
        for path, app in _whole(host):
            # A path takes two values: itself, and what is below.
            room = MAX_VALUES - len(_patterns(path))
            for group in _groups(host.names):
                for start in range(0, len(group), room):
                    yield tuple(group[start : start + room]), path, app


def _whole(host: VirtualHost) -> Iterator[tuple[str, str | None]]:
    yield from host.table
    if "/" not in dict(host.table):
        # Otherwise the request would reach an application that serves every host.
        yield "/", None


def _groups(names: Sequence[str]) -> list[list[str]]:
    """Return the names in groups that are equally exact."""
    groups: dict[int, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(_host_class((name,)), []).append(name)
    return list(groups.values())


def _patterns(path: str) -> tuple[str, ...]:
    return () if path == "/" else (path, f"{path}/*")


def _labels(host: str) -> int:
    return host.count(".") + 1


def _host_class(hosts: Sequence[str]) -> int:
    """Return 0 for an exact host, more for a wildcard the fewer labels it has, and the most for every host."""
    if not hosts:
        return MAX_LABELS
    return MAX_LABELS + 1 - min(_labels(hosts[0]), MAX_LABELS) if hosts[0].startswith("*.") else 0


def _class_of(hosts: Sequence[str], path: str) -> int:
    segments = min(path.count("/") if path != "/" else 0, MAX_SEGMENTS)
    return _host_class(hosts) * (MAX_SEGMENTS + 1) + MAX_SEGMENTS - segments


def problems(apps: Mapping[str, Route]) -> Iterator[str]:
    """Yield what an Application Load Balancer cannot route, each with the setting."""
    for name, app in apps.items():
        for host in app.hosts:
            if len(host) > MAX_HOST_CHARS:
                yield (
                    f"apps.{name}.hosts: {host}: an ALB takes {MAX_HOST_CHARS} characters at most; take a shorter name"
                )
            last = host.rpartition(".")[2]
            # Host has a dot, and characters of ASCII alone.
            if not last.isalpha():
                yield (
                    f"apps.{name}.hosts: {host}: an ALB takes letters alone behind the last dot, so no name below "
                    f"{last}; take a name of another domain, or kind: machine"
                )
            if host.startswith("*.") and _labels(host) > MAX_LABELS:
                yield (
                    f"apps.{name}.hosts: {host}: with balancer.kind alb a wildcard has {MAX_LABELS} labels at most; "
                    "take a shorter name"
                )
        if app.path.count("/") > MAX_SEGMENTS:
            yield (
                f"apps.{name}.path: {app.path}: with balancer.kind alb a path has {MAX_SEGMENTS} parts at most; "
                "take a shorter one"
            )
    if (number := len(listener_rules(apps))) > MAX_RULES:
        yield (
            f"apps: the hosts and paths need {number} rules, and an ALB has {MAX_RULES} by its quota; "
            "name fewer hosts, or leave out hosts if an application serves every one"
        )
