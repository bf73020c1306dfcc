"""What this balancer shall serve: one JSON file, and the text of the proxy's site that follows from it.

The step that brings a site sends it as JSON (Site, made by rendering/site.py). Nothing here reads the proxy's language:
the lines of upstream servers come apart from the rest. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from proxy import ProxyError
from system import write_atomically

CONFIG = Path("/etc/wsgi-fleet")
STATE = CONFIG / "site.json"
# Written by upstream_health.py, for people and alarms.
HEALTH = Path("/run/wsgi-fleet/health.json")
# While this file exists, the proxy serves it with status 503 (templates/*/).
PAGE = CONFIG / "errors" / "maintenance.html"
# `pulumi up` alone does not repeat a step whose input is the same.
REMEDY = "`pulumi up --replace '**::balancer-site'` writes it anew"


class Group(TypedDict):
    """An Auto Scaling group that has an application's servers (group_members.py). members: address -> instance.

    line: of each in the site. no_server: the line while there is none, so that clients get 503.
    """

    name: str
    line: str
    no_server: str
    members: dict[str, str]


class Upstream(TypedDict):
    """One application. servers: address -> its line in the site. probe: [HOST]/PATH, through the site.

    health_path, health_host: what each server is asked for, and the name by which. group: whose members the servers
    are, where their number is not fixed.
    """

    servers: dict[str, str]
    protocol: str
    health_path: str
    health_host: str
    probe: str
    group: NotRequired[Group]


class Site(TypedDict):
    """parts: {"text": ...} or {"servers_of": UPSTREAM}, in order. https: whether the site has TLS."""

    parts: list[dict[str, str]]
    upstreams: dict[str, Upstream]
    https: bool


@dataclass(frozen=True)
class State:
    """The last site of a step, and the drained and unhealthy servers since then."""

    site: Site
    drained: Sequence[str]
    unhealthy: Sequence[str]

    @property
    def servers(self) -> list[str]:
        """Return the addresses of all upstream servers, in order."""
        return [address for each in self.site["upstreams"].values() for address in each["servers"]]

    def active_servers(self) -> dict[str, list[str]]:
        """Return upstream -> its servers that get requests.

        These are not drained, and healthy as long as the upstream keeps one. Raises ProxyError when all are drained,
        but for a group: it may have lost the others.
        """
        found: dict[str, list[str]] = {}
        for name, each in self.site["upstreams"].items():
            left = [address for address in each["servers"] if address not in self.drained]
            if "group" not in each:
                self.check_left(name)
            found[name] = [address for address in left if address not in self.unhealthy] or left
        return found

    def check_left(self, name: str) -> None:
        """Raise ProxyError where each server of an upstream is drained."""
        servers = self.site["upstreams"][name]["servers"]
        if servers and {*servers} <= {*self.drained}:
            raise ProxyError(
                f"{name} would have no server left ({', '.join(servers)}): admit one with `./fleet admit`, "
                "or show clients a page by `./fleet maintenance on`"
            )

    def marked_as(self, other: State, servers: Container[str]) -> State:
        """Return this state with the marks that another one has on these servers."""
        drained, unhealthy = ([each for each in those if each in servers] for those in (other.drained, other.unhealthy))
        return replace(self, drained=drained, unhealthy=unhealthy)

    def active_addresses(self) -> list[str]:
        """Return the addresses of all servers that get requests. Raises ProxyError as active_servers() does."""
        return [address for servers in self.active_servers().values() for address in servers]

    def render(self) -> str:
        """Return the text of the site. Raises ProxyError as active_servers() does."""
        lines = {name: self._lines(name, addresses) for name, addresses in self.active_servers().items()}
        return "".join(
            lines[part["servers_of"]] if "servers_of" in part else part["text"] for part in self.site["parts"]
        )

    def _lines(self, name: str, addresses: Sequence[str]) -> str:
        each = self.site["upstreams"][name]
        if "group" in each and not addresses:
            return each["group"]["no_server"]
        return "\n".join(each["servers"][address] for address in addresses)

    def write(self) -> None:
        """Remember this state."""
        write_atomically(STATE, json.dumps(asdict(self)).encode())


def read_state() -> State:
    """Return the remembered state; an empty one before the first site. Raises ProxyError where the file is broken."""
    if not STATE.exists():
        return empty_state()
    try:
        value = json.loads(STATE.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ProxyError(f"{STATE} is broken ({error}): {REMEDY}") from error
    if not is_state(value):
        raise ProxyError(f"{STATE} is broken (it is not what a step wrote): {REMEDY}")
    return State(value["site"], value["drained"], value["unhealthy"])


def check_exists() -> None:
    """Raise ProxyError before the first site."""
    if not STATE.exists():
        raise ProxyError(f"{STATE} is missing: `pulumi up` writes the first one; later {REMEDY}")


def require_state() -> State:
    """Return the remembered state. Raises ProxyError before the first site, and where the file is broken."""
    check_exists()
    return read_state()


def empty_state() -> State:
    """Return the state of a balancer without a site."""
    return State({"parts": [], "upstreams": {}, "https": False}, [], [])


def is_state(value: Any) -> bool:
    """Return whether this is what State.write wrote."""
    match value:
        case {
            "site": {"parts": [*parts], "upstreams": {**upstreams}, "https": bool()},
            "drained": [*drained],
            "unhealthy": [*unhealthy],
        }:
            addresses = [*drained, *unhealthy]
            return (
                all(isinstance(each, str) for each in addresses)
                and all(map(is_upstream, upstreams.values()))
                and all(is_part(each, upstreams) for each in parts)
            )
        case _:
            return False


def is_upstream(value: Any) -> bool:
    """Return whether this is an Upstream."""
    match value:
        case {
            "servers": {**servers},
            "protocol": str(),
            "health_path": str(),
            "health_host": str(),
            "probe": str(),
        }:
            return all(isinstance(each, str) for each in servers.values()) and is_group(value.get("group"))
        case _:
            return False


def is_group(value: Any) -> bool:
    """Return whether this is a Group, or None, which an upstream without one has."""
    match value:
        case {"name": str(), "line": str(), "no_server": str(), "members": {**members}}:
            return all(isinstance(each, str) for each in members.values())
        case _:
            return value is None


def is_part(value: Any, upstreams: dict[str, Any]) -> bool:
    """Return whether this is a part of a site with these upstreams."""
    match value:
        case {"servers_of": str(name)}:
            return name in upstreams
        case {"text": str()}:
            return True
        case _:
            return False
