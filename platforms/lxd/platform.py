"""Platform lxd as resources: dynamic ones, in system containers on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pulumi

import platforms
from platforms.lxd import address, image, label, machine, resources
from platforms.lxd.recipe import ImageRecipe
from rendering.common import PREBUILT_PACKAGES, prebuilt_scripts
from settings.lxd import Lxd
from settings.stack import Settings

_NO_LOAD_BALANCER = "platform lxd has no load balancer; settings with balancer.kind alb are rejected"


class LxdPlatform:
    """A platforms.Platform. Registers the image of its machines when it is made.

    project: folder of the program; the store is `.state/<stack>/store` in it. recipe: what machines find done when they
    boot; None: the base alone.
    """

    def __init__(self, lxd: Lxd, *, stack: str, project: Path, recipe: ImageRecipe | None = None) -> None:
        self._lxd = lxd
        self._stack = stack
        self._owner = label.owner(stack, project)
        self._store_path = project.resolve() / platforms.STATE / stack / "store"
        used = recipe or ImageRecipe()
        digest = used.digest()
        # What can be known before it is made is an input, so that previews know it. None marks other outputs: Pulumi
        # gives a dynamic resource only the attributes that it was made with.
        props = {"recipe": used.as_json(), "digest": digest, "alias": image.alias(digest), "pool": lxd.pool}
        self._image = resources.Image(resources.ImageProvider(), "image", {"owner": self._owner, **props})

    def security_group(
        self, name: str, ingress: Sequence[platforms.Ingress], *, isolated: bool, opts: pulumi.ResourceOptions
    ) -> platforms.SecurityGroup:
        """Implement Platform.security_group: register a network and its ACL."""
        rules = [
            {"port": rule.port, "addresses": rule.source.addresses if rule.source else rule.outside} for rule in ingress
        ]
        props = {
            "owner": self._owner,
            "role": name,
            "network": label.network_name(self._owner, name),
            "isolated": isolated,
            "rules": rules,
            "addresses": None,
        }
        group = resources.Group(resources.GroupProvider(), name, props, opts)
        return platforms.SecurityGroup(group.network, group.addresses, group)

    def store(self, name: str, *, opts: pulumi.ResourceOptions) -> platforms.Store:
        """Implement Platform.store: register a directory of this host."""
        store = resources.Store(resources.StoreProvider(), name, {"path": str(self._store_path)}, opts)
        # Through the resource, so that a machine comes after the directory it mounts and goes before it.
        url = store.path.apply(lambda _: f"file://{machine.STORE_PATH}")
        return platforms.Store(url, {"platform": "lxd", "path": store.path}, store)

    def machine(
        self,
        name: str,
        args: platforms.MachineArgs,
        *,
        store: platforms.Store | None,
        opts: pulumi.ResourceOptions,
    ) -> platforms.Machine:
        """Implement Platform.machine: register a container. Zones and the public subnet mean nothing on one host."""
        group = args.group.resource
        if not isinstance(group, resources.Group):
            raise TypeError(f"machine {name}: its security group was not made by this platform")
        props = {
            "stack": self._stack,
            "owner": self._owner,
            "role": args.role,
            "image": self._image.alias,
            "user_data": args.user_data,
            "network": args.group.id,
            "isolated": group.isolated,
            "pool": self._lxd.pool,
            "cpus": args.size.cpus,
            "memory_mib": args.size.memory_mib,
            "disk_gib": args.size.disk_gib,
            "store": pulumi.Output.concat(store.spec["path"], "/", args.app) if store else "",
            "status": machine.RUNNING,
            "name": None,
            "address": None,
        }
        resource = resources.Machine(resources.MachineProvider(), name, props, opts)
        if args.is_monitoring:
            published = {"owner": self._owner, "port": self._lxd.monitoring_port, "machine": resource.name}
            provider = resources.MonitoringAddressProvider()
            resources.MonitoringAddress(provider, f"{name}-address", published, opts)
        return platforms.Machine(resource.name, resource.address, resource.name, resource)

    def remote_command(
        self, name: str, args: platforms.RemoteCommandArgs, *, opts: pulumi.ResourceOptions
    ) -> pulumi.Resource:
        """Implement Platform.remote_command: register a command that LXD runs on the machine."""
        props = {
            "machine": args.machine.id,
            "command": list(args.command),
            "stdin": args.stdin,
            "timeout_s": args.timeout_s,
            "trigger": None,
        }
        return resources.Step(resources.StepProvider(), name, props, opts)

    def enable_monitoring(
        self, name: str, machine: platforms.Machine, args: platforms.MachineArgs, *, opts: pulumi.ResourceOptions
    ) -> None:
        """Implement Platform.enable_monitoring: do nothing. No metrics or logs of local machines are collected."""

    @property
    def log_groups(self) -> Mapping[str, pulumi.Output[str]]:
        """Implement Platform.log_groups: there are none."""
        return {}

    @property
    def https_port(self) -> int:
        """Implement Platform.https_port: the port of the host that the settings name."""
        return self._lxd.tls_port

    def public_address(
        self,
        name: str,
        machine: platforms.Machine,
        *,
        hostnames: Sequence[str] = (),
        https: bool = False,
        opts: pulumi.ResourceOptions,
    ) -> platforms.PublicAddress:
        """Implement Platform.public_address: lead ports of the host to the machine.

        Names mean nothing here: the ports are the host's own.
        """
        del hostnames
        port = self._lxd.port
        url = f"https://{address.HOST}:{self._lxd.tls_port}" if https else f"http://{address.HOST}:{port}"
        props: dict[str, Any] = {"owner": self._owner, "port": port, "machine": machine.id, "url": url}
        if https:
            props["tls_port"] = self._lxd.tls_port
        resource = resources.PublicAddress(resources.AddressProvider(), name, props, opts)
        return platforms.PublicAddress(resource.url, resource.url.apply(lambda _: address.HOST), resource)

    def load_balancer_group(
        self, name: str, ports: Sequence[int], *, opts: pulumi.ResourceOptions
    ) -> platforms.SecurityGroup:
        """Implement Platform.load_balancer_group. Raises NotImplementedError: the settings reject it here."""
        raise NotImplementedError(_NO_LOAD_BALANCER)

    def load_balancer(
        self, name: str, args: platforms.LoadBalancerArgs, *, opts: pulumi.ResourceOptions
    ) -> platforms.LoadBalancer:
        """Implement Platform.load_balancer. Raises NotImplementedError: the settings reject it here."""
        raise NotImplementedError(_NO_LOAD_BALANCER)

    def target(
        self,
        name: str,
        front: platforms.LoadBalancer,
        app: str,
        machine: platforms.Machine,
        *,
        opts: pulumi.ResourceOptions,
    ) -> pulumi.Resource:
        """Implement Platform.target. Raises NotImplementedError: the settings reject it here."""
        raise NotImplementedError(_NO_LOAD_BALANCER)

    def group_names(self, app: str) -> platforms.GroupNames:
        """Implement Platform.group_names. Raises NotImplementedError: the settings reject it here."""
        raise NotImplementedError(_NO_LOAD_BALANCER)

    def server_group(
        self,
        name: str,
        args: platforms.ServerGroupArgs,
        front: platforms.LoadBalancer | None,
        *,
        store: platforms.Store,
        opts: pulumi.ResourceOptions,
    ) -> platforms.ServerGroup:
        """Implement Platform.server_group. Raises NotImplementedError: the settings reject it here."""
        raise NotImplementedError(_NO_LOAD_BALANCER)

    def self_healing_machine(
        self,
        name: str,
        args: platforms.MachineArgs,
        boot: platforms.MachineBoot,
        *,
        store: platforms.Store,
        opts: pulumi.ResourceOptions,
    ) -> platforms.Machine:
        """Implement Platform.self_healing_machine. Raises NotImplementedError: the settings reject it here."""
        raise NotImplementedError(_NO_LOAD_BALANCER)

    def reach(self, machines: Iterable[platforms.Machine] | None = None) -> platforms.ConnectionSpec:
        """Implement Platform.reach: every machine of this host is reached alike."""
        del machines
        return platforms.ConnectionSpec({"platform": "lxd", "owner": self._owner})


def image_recipe(settings: Settings) -> ImageRecipe:
    """Return what the image of a stack is made from: with what machines would install, if the settings want that."""
    suite = settings.operating_system.suite
    if not settings.lxd.prebuilt_packages:
        return ImageRecipe(suite)
    return ImageRecipe(suite, packages=PREBUILT_PACKAGES, scripts=prebuilt_scripts())


def create(settings: Settings, *, stack: str, project: Path, project_name: str) -> LxdPlatform:  # noqa: ARG001
    """Return the platform of a stack (see platforms.registry)."""
    return LxdPlatform(settings.lxd, stack=stack, project=project, recipe=image_recipe(settings))
