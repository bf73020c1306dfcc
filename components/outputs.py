"""Collect the outputs of the stack: for a person, and for ./fleet (commands/target.py reads them)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from components.app_server_fleet import AppServerFleet
from components.balancer import Balancer
from components.load_balancer import LoadBalancer
from platforms import Machine, Platform, PublicAddress, Store
from settings.route import format_route
from settings.stack import Settings


class Description(pulumi.ComponentResource):
    """Keeps what ./fleet works with in the state from before the first release.

    The stack has outputs once all of it has succeeded, and after a first release that failed none.
    """

    def __init__(self, name: str, fleet: pulumi.Output[Mapping[str, Any]]) -> None:
        super().__init__("wsgi-fleet:outputs:Description", name)
        self.register_outputs({"fleet": fleet})


def _kept(machine: Machine) -> dict[str, str]:
    return {"kept": machine.kept} if machine.kept else {}


def _metrics(settings: Settings, balancer: Balancer | LoadBalancer) -> dict[str, Any]:
    """Return what exports metrics besides app servers."""
    if isinstance(balancer, LoadBalancer):
        return {}
    return {"balancer": balancer.machine.address, "has_nginx": settings.balancer.proxy.kind == "nginx"}


def outputs(
    settings: Settings,
    platform: Platform,
    store: Store,
    *,
    balancer: Balancer | LoadBalancer,
    fleets: Mapping[str, AppServerFleet],
    public: PublicAddress,
) -> dict[str, Any]:
    """Return the stack's outputs by name. `fleet` is a secret as a whole: the reach may contain a private key.

    It depends on no release: after a failed one, `up --continue-on-error` would drop it from the outputs.
    """
    machines = {role: machine for fleet in fleets.values() for role, machine in fleet.machines.items()}
    apps = {
        name: {
            "servers": [
                {"name": role, "target": machine.target, "address": machine.address}
                for role, machine in fleets[name].machines.items()
            ],
            # ./fleet asks the platform for the servers of a group each time it runs.
            **({"group": dict(group.spec)} if (group := fleets[name].group) else {}),
            "health_path": app.health_path,
            "start_timeout_s": app.rollout.start_timeout_s,
            "drain_timeout_s": app.drain_timeout_s,
            **({"hooks": hooks} if (hooks := app.hooks.spec) else {}),
            "routes": [format_route(host, app.path) for host in app.hosts or [None]],
        }
        for name, app in settings.apps.items()
    }
    fleet = {
        "store": store.spec,
        "reach": platform.reach().spec,
        **(
            {"load_balancer": dict(balancer.spec)}
            if isinstance(balancer, LoadBalancer)
            else {"balancer": {"name": "balancer", "target": balancer.machine.target, **_kept(balancer.machine)}}
        ),
        "apps": apps,
        **({"metrics": _metrics(settings, balancer)} if settings.monitoring.enabled else {}),
    }
    return {
        "url": public.url,
        "address": public.host,
        "releases": {name: fleet.release for name, fleet in fleets.items()},
        "servers": {role: machine.id for role, machine in machines.items()},
        **(
            {"groups": groups}
            if (groups := {name: fleet.group.spec["name"] for name, fleet in fleets.items() if fleet.group})
            else {}
        ),
        # Settings have checked that there is a machine with Prometheus on that platform.
        **(
            {"monitoring_url": f"http://127.0.0.1:{settings.lxd.monitoring_port}"}
            if settings.monitoring.enabled and settings.platform == "lxd"
            else {}
        ),
        **({"logs": platform.log_groups} if platform.log_groups else {}),
        "fleet": pulumi.Output.secret(fleet),
    }
