"""Puts the servers that Auto Scaling groups have into the site: membership.py asks AWS, and proxy_site.py serves them.

Brought beside the health agent, because user data has no room for it. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from site_state import Group, State, Upstream

# Group -> its members, as AWS listed them last.
FILE = Path("/run/wsgi-fleet/members.json")
# Seconds to wait for the first response of AWS about a group, which has its servers by then.
FIRST_LIST_S = 30.0
# What the line of a server has for its address, and for what a cookie calls it (rendering/upstream.py).
ADDRESS, ROUTE, ROUTE_DIGITS = "@ADDRESS@", "@ROUTE@", 12

# Address -> instance.
Members = Mapping[str, str]


def read_members() -> dict[str, Members]:
    """Return group -> its members; {} before the first response."""
    try:
        return json.loads(FILE.read_text())
    except (OSError, ValueError):
        return {}


def groups_of(state: State) -> dict[str, Members]:
    """Return group -> its members, of each group that a site names."""
    every = [each["group"] for each in state.site["upstreams"].values() if "group" in each]
    return {group["name"]: group["members"] for group in every}


def wait_for(state: State) -> None:
    """Wait until AWS has named a server of each group in the site, or FIRST_LIST_S are over."""
    deadline = time.monotonic() + FIRST_LIST_S
    while groups_of(state).keys() - {name for name, members in read_members().items() if members}:
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)


def adopt(new: State, old: State) -> State:
    """Return a new site with the servers that AWS names, or that the site before has. Marks of that one count on."""
    new = with_members(new, groups_of(old))
    return with_members(new.marked_as(old, new.servers), read_members())


def with_members(state: State, members_of: Mapping[str, Members]) -> State:
    """Return the state with these members of groups. Marks of servers that left, or are others now, are gone."""
    upstreams: dict[str, Upstream] = {}
    for name, each in state.site["upstreams"].items():
        upstreams[name] = each
        if "group" in each and (members := members_of.get(each["group"]["name"])) is not None:
            servers = {address: line_of(each["group"]["line"], address) for address in sorted(members)}
            group: Group = {**each["group"], "members": dict(sorted(members.items()))}
            upstreams[name] = {**each, "servers": servers, "group": group}
    changed = State({**state.site, "upstreams": upstreams}, (), ())
    before, after = ({**dict.fromkeys(each.servers, ""), **instances_of(each)} for each in (state, changed))
    return changed.marked_as(state, {address for address, id_ in after.items() if before.get(address) == id_})


def line_of(line: str, address: str) -> str:
    """Return the line of a server in a group."""
    route = hashlib.sha256(address.encode()).hexdigest()[:ROUTE_DIGITS]
    return line.replace(ADDRESS, address).replace(ROUTE, route)


def instances_of(state: State) -> dict[str, str]:
    """Return address -> instance, of the servers that are in groups."""
    return {address: id_ for members in groups_of(state).values() for address, id_ in members.items()}
