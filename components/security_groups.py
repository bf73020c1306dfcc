"""Which ports are open: of the balancer to clients, of app servers to the balancer, and of both to Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from platforms import Ingress, Platform, SecurityGroup
from rendering.common import BALANCER_PORT, HTTPS_PORT
from rendering.monitoring import NGINX_PORT, NODE_PORT
from settings.application import APP_PORT
from settings.monitoring import Monitoring

NO_MONITORING = Monitoring()


@dataclass(frozen=True)
class SecurityGroupsArgs:
    """apps: names of the applications; each fleet has a group of its own. https: the balancer serves HTTPS too.

    is_machine: whether the balancer is one, and no load balancer of the platform's own. monitoring: who reads metrics.
    """

    apps: Sequence[str]
    https: bool = False
    is_machine: bool = True
    monitoring: Monitoring = NO_MONITORING


class SecurityGroups(pulumi.ComponentResource):
    """balancer: the group of the balancer. apps: application -> the group of its servers.

    monitoring: that of the stack's own machine with Prometheus; None where there is none.
    """

    monitoring: SecurityGroup | None
    balancer: SecurityGroup
    apps: dict[str, SecurityGroup]

    def __init__(
        self, name: str, args: SecurityGroupsArgs, *, platform: Platform, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("wsgi-fleet:security_groups:SecurityGroups", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        # FSBP EC2.18: nothing else is open to everyone.
        ports = [BALANCER_PORT, HTTPS_PORT] if args.https else [BALANCER_PORT]
        self.monitoring = None
        if args.monitoring.enabled and args.monitoring.scrape_from is None:
            self.monitoring = platform.security_group("monitoring", [], isolated=True, opts=child)
        if args.is_machine:
            rules = [*map(Ingress, ports), *self._read_metrics(args, NODE_PORT, NGINX_PORT)]
            self.balancer = platform.security_group("balancer", rules, isolated=False, opts=child)
        else:
            self.balancer = platform.load_balancer_group("balancer", ports, opts=child)
        rules = [Ingress(APP_PORT, source=self.balancer), *self._read_metrics(args, NODE_PORT)]
        self.apps = {app: platform.security_group(f"app-{app}", rules, isolated=True, opts=child) for app in args.apps}
        self.register_outputs(
            {"balancer": self.balancer.id, "apps": {app: group.id for app, group in self.apps.items()}}
        )

    def _read_metrics(self, args: SecurityGroupsArgs, *ports: int) -> list[Ingress]:
        """Return the rules by which Prometheus alone reads metrics."""
        if not args.monitoring.enabled:
            return []
        return [Ingress(port, self.monitoring, args.monitoring.scrape_from or "") for port in ports]
