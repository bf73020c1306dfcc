"""The balancer in front of the app servers: a machine of the stack, or a load balancer of the platform."""

from __future__ import annotations

from collections.abc import Mapping

from components.app_server_fleet import AppServerFleet
from components.balancer import Balancer, BalancerArgs
from components.load_balancer import LoadBalancer, ServiceArgs
from platforms import Platform, PublicAddress, SecurityGroup, Store
from rendering.monitoring import balancer_exporter
from settings.stack import Settings


def make_front(settings: Settings, group: SecurityGroup, platform: Platform, store: Store) -> Balancer | LoadBalancer:
    """Create what balancer.kind says. group: its security group. store: the release store."""
    if settings.balancer.kind == "machine":
        groups = {name: platform.group_names(name).group for name, app in settings.apps.items() if app.fleet.capacity}
        static = [name for name, app in settings.apps.items() if app.static]
        has_metrics = settings.monitoring.enabled
        args = BalancerArgs(
            settings.balancer,
            group,
            settings.security_updates,
            settings.operating_system,
            groups,
            store,
            static,
            balancer_exporter(settings.apps, settings.balancer.proxy.kind) if has_metrics else "",
        )
        return Balancer("balancer", args, platform=platform)
    service = ServiceArgs(settings.balancer, settings.apps, settings.hostnames, group)
    return LoadBalancer("balancer", service, platform=platform)


def serve(front: Balancer | LoadBalancer, settings: Settings, fleets: Mapping[str, AppServerFleet]) -> PublicAddress:
    """Have it send requests to these fleets. Return where clients find it."""
    if isinstance(front, LoadBalancer):
        return front.serve(fleets)
    addresses = {name: fleet.addresses for name, fleet in fleets.items()}
    return front.serve(settings.apps, addresses, settings.hostnames)
