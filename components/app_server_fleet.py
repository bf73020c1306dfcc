"""The app servers of one application and the releases that go to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from components.balancer import Balancer
from components.load_balancer import LoadBalancer
from gateways import GATEWAYS
from platforms import (
    GroupBoot,
    Machine,
    MachineArgs,
    Platform,
    RemoteCommandArgs,
    SecurityGroup,
    ServerGroup,
    ServerGroupArgs,
    Store,
)
from releases.manifest import make_manifest
from releases.release import release_id
from releases.resource import RolloutResource
from releases.secret import GeneratedSecret
from releases.source import Source
from rendering.app_server import ProcessLayout, app_server_files, app_server_user_data
from rendering.common import BOOT_TIMEOUT_S, SECURITY_UPDATES, apply_files_command
from rendering.group_server import group_server_files, group_server_user_data
from rendering.monitoring import INSTALL_S, OFF, app_server_exporter
from rendering.server_site import Front
from settings.application import App
from settings.capacity import Capacity
from settings.stack import SecurityUpdates


@dataclass(frozen=True)
class AppServerFleetArgs:
    """balancer: what asks the servers. A machine also serves the application's static files, where it has some.

    health_host: the name by which servers are asked for the health path. https: whether clients come by HTTPS.
    has_metrics: whether servers export metrics for Prometheus.
    """

    app: App
    group: SecurityGroup
    store: Store
    source: Source
    balancer: Balancer | LoadBalancer
    security_updates: SecurityUpdates = SECURITY_UPDATES
    health_host: str = "localhost"
    https: bool = False
    has_metrics: bool = False


class AppServerFleet(pulumi.ComponentResource):
    """machines: the servers by role; group: what has them instead, where their number follows the load.

    addresses: their private ones, known once the release serves on them.

    release: id of the current release. The order is machines -> booted -> rollout; `addresses` depends on all three.
    """

    machines: dict[str, Machine]
    group: ServerGroup | None
    addresses: pulumi.Output[Sequence[str]]
    release: pulumi.Output[str]
    rollout: pulumi.Resource

    def __init__(
        self, name: str, args: AppServerFleetArgs, *, platform: Platform, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("wsgi-fleet:app_server_fleet:AppServerFleet", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        app = args.app
        key = GeneratedSecret(f"{name}-key", opts=child).value

        self.machines, self.group = {}, None
        ready: list[pulumi.Resource] = []
        if app.fleet.capacity:
            self.group = self._group(name, args, app.fleet.capacity, key=key, platform=platform)
            ready.append(self.group.resource)
        else:
            ready += self._fixed_servers(name, args, key=key, platform=platform)

        secrets = self._secrets(name, app, child)
        front = args.balancer
        networks = front.networks if isinstance(front, LoadBalancer) else pulumi.Output.from_input(list[str]())
        manifest = pulumi.Output.all(key=key, secrets=secrets, networks=networks).apply(
            lambda values: self._manifest(name, args, **values)
        )
        # An id tells nothing of the secrets in it (they are in it by a keyed digest), so people may read it.
        release = pulumi.Output.unsecret(manifest.apply(release_id))
        machine: dict[str, Any] | None = None
        if isinstance(front, Balancer):
            machine = {"name": "balancer", "target": front.machine.target, "unit": front.unit}
            machine |= {"self_healing": "true"} if front.machine.kept else {}
            ready += [front.booted] if app.static else []
        rollout = RolloutResource(
            f"{name}-rollout",
            app=name,
            release=release,
            manifest=manifest.apply(bytes.decode),
            source=args.source,
            servers=[{"name": role, "target": machine.target} for role, machine in self.machines.items()],
            group=self.group.spec if self.group else None,
            balancer=machine,
            # Behind a load balancer servers serve them.
            static=bool(app.static and machine),
            secrets=secrets,
            limits={
                "stage_timeout_s": app.rollout.stage_timeout_s,
                "start_timeout_s": app.rollout.start_timeout_s,
                "drain_timeout_s": app.drain_timeout_s,
                "task_timeout_s": app.rollout.task_timeout_s,
                "task_before_proof": app.rollout.task_before_proof,
                "batch_size": app.rollout.batch_size,
                "bake_s": app.rollout.bake_s,
                "allow_unreachable": app.rollout.allow_unreachable,
                "keep_releases": app.rollout.keep_releases,
            },
            client_limits={
                "addresses": {role: machine.address for role, machine in self.machines.items()},
                "max_error_percent": app.rollout.max_error_percent,
                "max_latency_ratio": app.rollout.max_latency_ratio,
            },
            # To its own machines: one of another application must not hold this one up.
            reach=platform.reach(self.machines.values()),
            store=args.store,
            hooks=app.hooks.spec,
            opts=pulumi.ResourceOptions(parent=self, depends_on=ready),
        )
        self.rollout, self.release = rollout, rollout.release
        addresses = [machine.address for machine in self.machines.values()]
        self.addresses = pulumi.Output.all(self.release, *addresses).apply(lambda values: values[1:])
        self.register_outputs(
            {
                "machines": {role: machine.id for role, machine in self.machines.items()},
                "addresses": self.addresses,
                "release": self.release,
            }
        )

    def _fixed_servers(
        self, name: str, args: AppServerFleetArgs, *, key: pulumi.Output[str], platform: Platform
    ) -> list[pulumi.Resource]:
        """Create as many servers as fleet.servers says. Return the steps that end when they have booted."""
        app, child = args.app, pulumi.ResourceOptions(parent=self)
        kind = GATEWAYS[app.gateway.kind]
        document = app_server_user_data(app.system_packages, args.security_updates, kind, ProcessLayout.of(app))
        url = pulumi.Output.concat(args.store.machine_url, f"/{name}")
        off = () if args.has_metrics else OFF
        files = pulumi.Output.all(url, key).apply(lambda both: app_server_files(both[0], both[1], off))
        steps: list[pulumi.Resource] = []
        for zone in range(app.fleet.servers):
            role = f"{name}-{zone + 1}"
            machine_args = MachineArgs(
                role=role, user_data=document, group=args.group, size=app.fleet.size, zone=zone, app=name
            )
            server = platform.machine(role, machine_args, store=args.store, opts=child)
            step = RemoteCommandArgs(server, apply_files_command(), files, timeout_s=BOOT_TIMEOUT_S + 30)
            steps.append(platform.remote_command(f"{role}-booted", step, opts=child))
            booted = pulumi.ResourceOptions(parent=self, depends_on=[steps[-1]])
            platform.enable_monitoring(role, server, machine_args, opts=booted)
            if args.has_metrics:
                exporter = RemoteCommandArgs(server, apply_files_command(), app_server_exporter(name), INSTALL_S)
                platform.remote_command(f"{role}-metrics", exporter, opts=booted)
            self.machines[role] = server
        return steps

    def _group(
        self, name: str, args: AppServerFleetArgs, capacity: Capacity, *, key: pulumi.Output[str], platform: Platform
    ) -> ServerGroup:
        """Create the group of fleet.capacity. Pulumi does not know its machines, so no step runs on them."""
        app, names = args.app, platform.group_names(name)
        front = args.balancer.made if isinstance(args.balancer, LoadBalancer) else None
        kind, processes = GATEWAYS[app.gateway.kind], ProcessLayout.of(app)
        boot = GroupBoot(
            files=group_server_files(args.security_updates, kind, processes, names, by_load_balancer=front is not None),
            layout=f"{kind.name}, {processes or 'one gateway'}",
            user_data=lambda url, file: group_server_user_data(url, file, app.system_packages, processes),
            key=key,
            later=[app_server_exporter(name)] if args.has_metrics else [],
        )
        group_args = ServerGroupArgs(name, capacity, args.group, app.fleet.size, boot)
        child = pulumi.ResourceOptions(parent=self)
        return platform.server_group(name, group_args, front, store=args.store, opts=child)

    def _manifest(
        self, name: str, args: AppServerFleetArgs, *, key: str, secrets: Mapping[str, str], networks: Sequence[str]
    ) -> bytes:
        balancer = args.balancer
        front = None
        if isinstance(balancer, LoadBalancer):
            front = Front(name, balancer.settings, networks, args.health_host)
        return make_manifest(
            args.app,
            args.source,
            key=key,
            secrets=secrets,
            health_host=args.health_host,
            https=args.https,
            front=front,
        )

    def _secrets(self, name: str, app: App, child: pulumi.ResourceOptions) -> pulumi.Output[Mapping[str, str]]:
        configured = {
            variable: pulumi.Output.secret(value.get_secret_value()) for variable, value in app.secrets.items()
        }
        generated = {
            variable: GeneratedSecret(f"{name}-secret-{variable}", opts=child).value
            for variable in app.generated_secrets
        }
        return pulumi.Output.secret(pulumi.Output.all(**configured, **generated))
