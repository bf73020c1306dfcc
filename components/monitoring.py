"""The machine with Prometheus and Alertmanager, which reads the metrics of all other machines of the stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components.app_server_fleet import AppServerFleet
from components.balancer import Balancer
from components.load_balancer import LoadBalancer
from platforms import MachineArgs, Platform, RemoteCommandArgs, SecurityGroup
from rendering.common import BOOT_TIMEOUT_S, apply_files_command
from rendering.monitoring import INSTALL_S
from rendering.prometheus import ScrapedMachine, monitoring_user_data, prometheus_files
from settings.size import Size
from settings.stack import Settings

# Prometheus needs about 100 MiB for a few servers.
SIZE = Size(cpus=1, memory_mib=512)


@dataclass(frozen=True)
class MonitoringArgs:
    """group: the security group, from which alone metrics are read. stack: a label of all metrics."""

    settings: Settings
    group: SecurityGroup
    stack: str
    front: Balancer | LoadBalancer
    fleets: Mapping[str, AppServerFleet]


class Monitoring(pulumi.ComponentResource):
    """A machine of its own: that of an application or of the balancer may be what fails."""

    def __init__(
        self, name: str, args: MonitoringArgs, *, platform: Platform, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("wsgi-fleet:monitoring:Monitoring", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        document = monitoring_user_data(args.settings.security_updates)
        machine_args = MachineArgs(name, document, args.group, SIZE, is_monitoring=True)
        self.machine = platform.machine(name, machine_args, store=None, opts=child)
        machines = {role: machine for fleet in args.fleets.values() for role, machine in fleet.machines.items()}
        has_nginx = args.settings.balancer.proxy.kind == "nginx"
        if isinstance(args.front, Balancer):
            machines["balancer"] = args.front.machine
        webhook = args.settings.monitoring.webhook_url
        addresses = pulumi.Output.all(**{role: machine.address for role, machine in machines.items()})
        files = addresses.apply(
            lambda there: prometheus_files(
                args.stack,
                [ScrapedMachine(role, there[role], has_nginx and role == "balancer") for role in machines],
                webhook.get_secret_value() if webhook else "",
            )
        )
        step = RemoteCommandArgs(
            self.machine,
            apply_files_command(),
            pulumi.Output.secret(files) if webhook else files,
            timeout_s=BOOT_TIMEOUT_S + INSTALL_S,
            has_secret=bool(webhook),
        )
        platform.remote_command(f"{name}-prometheus", step, opts=child)
        self.register_outputs({"machine": self.machine.id})
