"""The balancer: one machine with Nginx, its site, and the address that clients know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

import settings
from platforms import Machine, MachineArgs, Platform, SecurityGroup, StepArgs
from rendering import MAINTENANCE, SCRIPTS, Upstream, balancer_user_data, booted, site
from settings import App, Maintenance

BOOT_S = 600
# nginx_site.py waits up to 330 s for old workers to finish.
SITE_S = 400


@dataclass(frozen=True)
class BalancerArgs:
    """apps: the applications it serves. members: application -> addresses of the servers that take its requests."""

    settings: settings.Balancer
    group: SecurityGroup
    apps: Mapping[str, App]
    members: Mapping[str, pulumi.Output[Sequence[str]]]
    maintenance: Maintenance = MAINTENANCE


class Balancer(pulumi.ComponentResource):
    """machine: the balancer. url: where clients find it; it points at this machine once its site serves."""

    machine: Machine
    url: pulumi.Output[str]

    def __init__(
        self, name: str, args: BalancerArgs, *, platform: Platform, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("wsgi-fleet:balancer:Balancer", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        machine_args = MachineArgs(
            role=name,
            user_data=balancer_user_data(args.maintenance),
            group=args.group,
            size=args.settings.size,
            public=True,
        )
        self.machine = platform.machine(name, machine_args, store=None, opts=child)
        ready = platform.step(
            f"{name}-booted",
            StepArgs(self.machine, booted(BOOT_S), timeout_s=BOOT_S + 30),
            opts=child,
        )
        text = pulumi.Output.all(**args.members).apply(
            lambda members: site(
                args.settings,
                [
                    Upstream(app, members[app], given.gateway.request_timeout_s, given.health_path)
                    for app, given in sorted(args.apps.items())
                ],
            )
        )
        health_paths = [app.health_path for _, app in sorted(args.apps.items())]
        members = platform.step(
            f"{name}-members",
            StepArgs(self.machine, [f"{SCRIPTS}/nginx_site.py", "site", *health_paths], text, timeout_s=SITE_S),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[ready]),
        )
        address = platform.public_address(
            f"{name}-address", self.machine, opts=pulumi.ResourceOptions(parent=self, depends_on=[members])
        )
        self.url = address.url
        self.register_outputs({"machine": self.machine.id, "url": self.url})
