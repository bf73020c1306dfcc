"""A load balancer of the platform's own in front: no machine, and each server's Nginx does what is left to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pulumi

import platforms
from platforms import LoadBalancerArgs, Machine, Platform, PublicAddress
from settings.application import App
from settings.balancer import Balancer as BalancerSettings


@dataclass(frozen=True)
class ServiceArgs:
    """The load balancer of these applications. hostnames: names of the site. group: of the load balancer."""

    settings: BalancerSettings
    apps: Mapping[str, App]
    hostnames: Sequence[str]
    group: platforms.SecurityGroup


class Servers(Protocol):
    """The servers of an application. rollout: after which they serve."""

    machines: dict[str, Machine]
    rollout: pulumi.Resource


class LoadBalancer(pulumi.ComponentResource):
    """made: what the platform made. networks: from which it connects to servers.

    settings: what each server's Nginx must know.

    Call serve() when the servers are described.
    """

    networks: pulumi.Output[Sequence[str]]

    def __init__(
        self, name: str, args: ServiceArgs, *, platform: Platform, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("wsgi-fleet:load_balancer:LoadBalancer", name, None, opts)
        self.settings, self._platform = args.settings, platform
        given = LoadBalancerArgs(args.settings, args.apps, args.hostnames, args.group)
        self.made = platform.load_balancer(name, given, opts=pulumi.ResourceOptions(parent=self))
        self.networks, self.spec = self.made.networks, self.made.spec

    def serve(self, fleets: Mapping[str, Servers]) -> PublicAddress:
        """Send requests to these servers, each once its application's release serves. Called once."""
        for app, fleet in fleets.items():
            opts = pulumi.ResourceOptions(parent=self, depends_on=[fleet.rollout])
            for role, machine in fleet.machines.items():
                self._platform.target(role, self.made, app, machine, opts=opts)
        address = self.made.address
        self.register_outputs({"url": address.url, "address": address.host})
        return address
