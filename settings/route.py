"""Which application serves a request: by host name and by the beginning of the path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

from pydantic import Field

from settings.constraint import matching
from settings.model import Model

# As settings.tls.Hostname; with "*." in front it means every name below, however deep, as Nginx reads it.
Host = Annotated[
    str,
    matching(
        r"^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$",
        'a host name of small letters, digits and hyphens with a dot, such as shop.example.org or "*.example.org"',
        max_length=253,
    ),
]
# Segments that begin with no dot: neither the balancer's own places (/.error, /.well-known) nor "..".
MountPath = Annotated[
    str,
    matching(
        r"^(/|(/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)+)$",
        "/ or a path such as /shop, of letters, digits and any of _ . ~ - between slashes, without a slash at its end "
        "or a part that begins with a dot",
        max_length=100,
    ),
]


class Route(Model):
    """Where clients find an application."""

    hosts: list[Host] = Field(
        default_factory=list[str],
        max_length=20,
        description='host names it answers, such as shop.example.org or "*.example.org"; none: every one',
    )
    path: MountPath = Field(default="/", description="beginning of the paths of its requests")
    strip_path: bool = Field(
        default=True, description="true: path becomes SCRIPT_NAME and the rest PATH_INFO; false: it sees whole paths"
    )

    @property
    def script_name(self) -> str:
        """Return what the gateway calls SCRIPT_NAME (PEP 3333): the part of the path that led to the application."""
        return self.path if self.strip_path and self.path != "/" else ""

    def public(self, path: str) -> str:
        """Return the path by which clients reach a path of the application."""
        return self.script_name + path


@dataclass(frozen=True)
class VirtualHost:
    """Names that share a table. names: () for every other name. table: beginning of a path -> application.

    The longest matching beginning counts; without one the response is 404.
    """

    names: tuple[str, ...]
    table: tuple[tuple[str, str], ...]

    def owner(self, path: str) -> str | None:
        """Return the application that serves a path, which does not end with a slash; None if there is none."""
        fits = [(beginning, name) for beginning, name in self.table if _is_below(path, beginning)]
        return max(fits, key=lambda each: len(each[0]), default=("", None))[1]


def virtual_hosts(apps: Mapping[str, Route]) -> list[VirtualHost]:
    """Return the balancer's virtual hosts: first the default for all other names, then those with names."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for host in sorted({host for app in apps.values() for host in app.hosts}):
        groups.setdefault(_table(apps, host), []).append(host)
    return [VirtualHost((), _table(apps, None)), *(VirtualHost(tuple(names), table) for table, names in groups.items())]


def _table(apps: Mapping[str, Route], host: str | None) -> tuple[tuple[str, str], ...]:
    """Return (path, application) for a host: each application gets the requests below its path.

    An application that names the host more exactly comes first. Among equals, the longest path comes first. So an
    application without hosts gets the remaining requests of a named host.
    """
    table: dict[str, str] = {}
    for candidate in _candidate_hosts(host):
        above = list(table)
        for name, app in apps.items():
            if _serves_host(app, candidate) and not any(_is_below(app.path, path) for path in above):
                table[app.path] = name
    return tuple(sorted(table.items()))


def _candidate_hosts(host: str | None) -> Iterator[str | None]:
    """Yield the name itself, each wildcard that covers it, and None for no name at all."""
    if host is not None:
        yield host
        labels = host.removeprefix("*.").split(".")
        for first in range(1, len(labels)):
            yield "*." + ".".join(labels[first:])
    yield None


def _serves_host(app: Route, host: str | None) -> bool:
    return not app.hosts if host is None else host in app.hosts


def _is_below(path: str, beginning: str) -> bool:
    return beginning in ("/", path) or path.startswith(beginning + "/")


def problems(
    apps: Mapping[str, Route], health_paths: Mapping[str, str], parts: Mapping[str, Sequence[tuple[str, str]]]
) -> list[str]:
    """Return what keeps requests, or a probe, from finding an application; each names the applications that meet.

    health_paths: application -> the path, as it sees it. parts: application -> setting and path, as it sees it, of each
    part of it that the balancer serves otherwise than the rest.
    """
    found = [
        f"apps.{one}, apps.{other}: both serve {format_route(host, apps[one].path)}; "
        f"give one of them {'hosts or another path' if host is None else 'another host or path'}"
        for one, other in combinations(apps, 2)
        for host in [
            host
            for host in [*apps[one].hosts, None]
            if _serves_host(apps[one], host) and _serves_host(apps[other], host)
        ]
        if apps[one].path == apps[other].path
    ]
    found += [
        f"apps.{name}.hosts: {host}: is named twice; name it once"
        for name, app in apps.items()
        for host in sorted({host for host in app.hosts if app.hosts.count(host) > 1})
    ]
    found = found or [line for name in apps for line in _check_health_path(name, apps, health_paths[name])]
    return found or [line for name, every in parts.items() for part in every for line in _check_part(name, apps, *part)]


def _check_health_path(name: str, apps: Mapping[str, Route], health_path: str) -> Iterator[str]:
    app = apps[name]
    path = app.public(health_path)
    if not _is_below(path, app.path):
        yield (
            f"apps.{name}.health_path: {health_path}: should be below apps.{name}.path ({app.path}), "
            "since strip_path is false: the balancer asks it as clients do"
        )
        return
    for host in app.hosts or [None]:
        fits = [(beginning, owner) for beginning, owner in _table(apps, host) if _is_below(path, beginning)]
        _, owner = max(fits, key=lambda each: len(each[0]))
        if owner != name:
            yield (
                f"apps.{name}.health_path: {health_path}: {format_route(host, path)} belongs to apps.{owner} "
                f"(path {apps[owner].path}); take another path"
            )


def _check_part(name: str, apps: Mapping[str, Route], setting: str, part: str) -> Iterator[str]:
    """Yield a part's problems: on every host of the application it must not be in a path of another one."""
    path = apps[name].public(part).rstrip("/")
    if path == apps[name].path:
        yield f"apps.{name}.{setting}: {part}: is all of the application (apps.{name}.path); name a part of it"
        return
    for host in virtual_hosts(apps):
        owner = host.owner(path)
        if name in dict(host.table).values() and owner != name:
            holder = f"apps.{owner} (path {apps[owner].path})" if owner else "no application"
            place = format_route(host.names[0] if host.names else None, path)
            yield f"apps.{name}.{setting}: {part}: {place} belongs to {holder}; take another path"
            return


def format_route(host: str | None, path: str) -> str:
    """Return a route as text for the operator."""
    return f"{host}{path}" if host else f"{path} of every host"


def hostnames(hostnames_: Sequence[str], apps: Mapping[str, Route]) -> list[str]:
    """Return the names of the whole site, exact ones first: those of the balancer, then the hosts of applications."""
    every = dict.fromkeys([*hostnames_, *(host for app in apps.values() for host in app.hosts)])
    return sorted(every, key=lambda name: name.startswith("*."))


def unrouted_hostnames(hostnames_: Sequence[str], apps: Mapping[str, Route]) -> list[str]:
    """Return the names of the balancer under which no application serves."""
    return [name for name in hostnames_ if not _table(apps, name)]
