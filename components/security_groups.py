"""Which ports are open: those of the balancer to clients, and those of the app servers to the balancer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from platforms import Ingress, Platform, SecurityGroup
from rendering.common import BALANCER_PORT, HTTPS_PORT
from settings.application import APP_PORT


@dataclass(frozen=True)
class SecurityGroupsArgs:
    """apps: names of the applications; each fleet has a group of its own. https: the balancer serves HTTPS too.

    is_machine: whether the balancer is one, and no load balancer of the platform's own.
    """

    apps: Sequence[str]
    https: bool = False
    is_machine: bool = True


class SecurityGroups(pulumi.ComponentResource):
    """balancer: the group of the balancer. apps: application -> the group of its servers."""

    balancer: SecurityGroup
    apps: dict[str, SecurityGroup]

    def __init__(
        self, name: str, args: SecurityGroupsArgs, *, platform: Platform, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("wsgi-fleet:security_groups:SecurityGroups", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        # FSBP EC2.18: nothing else is open to everyone.
        ports = [BALANCER_PORT, HTTPS_PORT] if args.https else [BALANCER_PORT]
        if args.is_machine:
            self.balancer = platform.security_group("balancer", [*map(Ingress, ports)], isolated=False, opts=child)
        else:
            self.balancer = platform.load_balancer_group("balancer", ports, opts=child)
        self.apps = {
            app: platform.security_group(
                f"app-{app}", [Ingress(APP_PORT, source=self.balancer)], isolated=True, opts=child
            )
            for app in args.apps
        }
        self.register_outputs(
            {"balancer": self.balancer.id, "apps": {app: group.id for app, group in self.apps.items()}}
        )
