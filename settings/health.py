"""The host name of an application's health checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from settings.application import App


def health_host(name: str, apps: Mapping[str, App], hostnames: Sequence[str]) -> str:
    """Return the name by which servers of an application are asked for their health: one that its clients use.

    hostnames: of the site; those of other applications do not count.
    """
    others = {host for app in apps.values() for host in app.hosts}
    names = [*apps[name].hosts, *(host for host in hostnames if host not in others), "localhost"]
    # Below a wildcard any name does.
    return apps[name].health_host or names[0].replace("*", "wsgi-fleet")
