"""Platform aws as resources: EC2 instances, security groups, an Elastic IP, commands over SSH."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pulumi
import pulumi_aws as aws

from platforms import (
    ConnectionSpec,
    GroupNames,
    Ingress,
    LoadBalancer,
    LoadBalancerArgs,
    Machine,
    MachineArgs,
    MachineBoot,
    PublicAddress,
    RemoteCommandArgs,
    SecurityGroup,
    ServerGroup,
    ServerGroupArgs,
    Store,
)
from platforms.aws import bucket, group, network, role
from platforms.aws.access import access
from platforms.aws.address import Addresses
from platforms.aws.alarms import MachineAlarms
from platforms.aws.cloudwatch import Monitoring
from platforms.aws.image import DEFAULT_IMAGE, ImageKind
from platforms.aws.instance import InstanceSpec
from platforms.aws.load_balancer import AlbResources, front_of
from platforms.aws.machine_image import MachineImage
from platforms.aws.self_healing import HealingMachine, Place
from platforms.aws.server_group import GroupResources, group_names
from platforms.aws.target import Target
from platforms.aws.zones import check_front, warn_of_one_zone, zones_of
from rendering.common import apply_files_command
from settings.aws import Aws
from settings.size import Size
from settings.stack import Settings

# apply_files.py tries each of two units for 90 s, and the last try may take 55 and 90 more.
MONITORING_S = 360
DEFAULT_SIZE = Size()


class AwsPlatform:
    """A fleet on EC2, in an existing VPC or its own. image: what it boots. builder: size of what is imaged."""

    def __init__(
        self,
        config: Aws,
        *,
        stack: str,
        project_name: str,
        image: ImageKind = DEFAULT_IMAGE,
        builder: Size = DEFAULT_SIZE,
        ipv6: bool = False,
    ) -> None:
        self._config = config
        self._stack = stack
        self._tags = {
            **config.tags,
            "wsgi-fleet:project": project_name,
            "wsgi-fleet:stack": stack,
            "managed-by": "pulumi",
        }
        self._provider = aws.Provider("aws", region=config.region, default_tags={"tags": self._tags})
        self._network = network.network(config, stack, self._provider, ipv6=ipv6)
        self._image = MachineImage(config, image, self._network, self._provider, builder=builder, tags=self._tags)
        self._access = access(config, stack=stack, provider=self._provider, network=self._network)
        self._releases: bucket.ReleaseStore | None = None
        self._addresses = Addresses(config, stack, self._provider)
        self._monitoring = Monitoring(config, stack, self._provider)
        self._alarms = MachineAlarms(config, stack, self._provider, namespace=self._monitoring.namespace)
        self._roles = role.Roles(config, stack, self._provider, self._monitoring)
        self._alb: AlbResources | None = None
        # Those that reach their machine by the address that the public one has at first.
        self._steps: list[pulumi.Resource] = []
        self._healing: dict[pulumi.Resource, HealingMachine] = {}

    def security_group(
        self, name: str, ingress: Sequence[Ingress], *, isolated: bool, opts: pulumi.ResourceOptions
    ) -> SecurityGroup:
        """Implement Platform.security_group: create an EC2 group. Its machines are always isolated."""
        del isolated  # always so: no rule of ours lets a group reach itself
        return group.security_group(
            name,
            ingress,
            self._config,
            self._provider,
            opts,
            vpc_id=self._network.vpc_id,
            ssh_source=self._access.source,
        )

    def store(self, name: str, *, opts: pulumi.ResourceOptions) -> Store:
        """Implement Platform.store: register a release store in S3."""
        self._releases = bucket.release_store(name, self._config, self._stack, self._provider, opts)
        return self._releases.store

    def machine(self, name: str, args: MachineArgs, *, store: Store | None, opts: pulumi.ResourceOptions) -> Machine:
        """Implement Platform.machine: create an EC2 instance and its alarms, and pin its host key."""
        self._image.check()
        machine_role = self._roles.of(args, self._releases if store else None, opts)
        private = self._network.private
        subnet = self._network.public if args.public else private[args.zone % len(private)]
        instance = aws.ec2.Instance(
            name,
            subnet_id=subnet.id,
            user_data_replace_on_change=True,
            # It cannot be terminated by hand. The engine still can, because it must replace it.
            disable_api_termination=self._config.protect,
            force_destroy=self._config.protect,
            opts=pulumi.ResourceOptions.merge(
                opts,
                pulumi.ResourceOptions(
                    provider=self._provider,
                    depends_on=[*(machine_role.ready if machine_role else ()), *subnet.ready],
                    # EC2 would stop every server at once to change its type, and a grown disk needs a boot.
                    replace_on_changes=["instanceType", "rootBlockDevice.volumeSize"],
                    delete_before_replace=False,
                ),
            ),
            **self._instance_spec(args, machine_role).instance(),
        )
        self._alarms.create_ec2_alarms(name, args.role, instance)
        machine = Machine(
            id=instance.id,
            address=instance.private_ip,
            target=pulumi.Output.concat(instance.id, "@", instance.private_ip),
            resource=instance,
        )
        self._access.add(name, machine, public=args.public, opts=opts)
        return machine

    def self_healing_machine(
        self, name: str, args: MachineArgs, boot: MachineBoot, *, store: Store, opts: pulumi.ResourceOptions
    ) -> Machine:
        """Implement Platform.self_healing_machine: create an Auto Scaling group of one instance, and its address."""
        releases = self._releases_for(name)
        address = self._addresses.elastic(f"{name}-address", opts)
        made = HealingMachine(name, args, self._config, releases, address, stack=self._stack, provider=self._provider)
        where = Place(self._network, self._image.root_device, self._alarms)
        machine = made.create(boot, where, self._roles, self._instance_spec, store=store, opts=opts)
        self._access.add_known(name, machine, made.host_key, opts=opts)
        self._healing[machine.resource] = made
        return machine

    def group_names(self, app: str) -> GroupNames:
        """Implement Platform.group_names."""
        return group_names(self._stack, app)

    def server_group(
        self,
        name: str,
        args: ServerGroupArgs,
        front: LoadBalancer | None,
        *,
        store: Store,
        opts: pulumi.ResourceOptions,
    ) -> ServerGroup:
        """Implement Platform.server_group: create an Auto Scaling group, and all by which its instances boot."""
        releases = self._releases_for(name)
        warn_of_one_zone(args.app, self._config, self._app_zones)
        machine = MachineArgs(args.app, "", args.group, args.size, app=args.app)
        machine_role = self._roles.of(machine, releases, opts, group=self.group_names(args.app).group)
        group = GroupResources(
            name,
            args,
            self._config,
            stack=self._stack,
            spec=lambda user_data: replace(self._instance_spec(machine, machine_role), user_data=user_data),
            subnets=self._network.private,
            root_device=self._image.root_device,
            provider=self._provider,
        )
        boot = group.boot(store, releases, self._monitoring.agent_files(machine), opts)
        ready = [*(machine_role.ready if machine_role else ()), *(front.ready if front else ())]
        return group.group(boot, self._alb if front else None, self._alarms, ready=ready, opts=opts)

    @cached_property
    def _app_zones(self) -> Mapping[str, str]:
        """Return subnet -> zone of the app servers' subnets in an existing VPC."""
        return zones_of(self._config.app_subnet_ids, pulumi.InvokeOptions(provider=self._provider))

    def _releases_for(self, name: str) -> bucket.ReleaseStore:
        """Check the image, and return the release store, which a group needs."""
        self._image.check()
        if self._releases is None:
            raise ValueError(f"{name}: a group needs a release store")
        return self._releases

    def _instance_spec(self, args: MachineArgs, machine_role: role.Role | None) -> InstanceSpec:
        return InstanceSpec(
            ami=self._image.id,
            instance_type=args.size.instance_type,
            key_name=self._access.key_name,
            group=args.group.id,
            profile=machine_role.profile if machine_role else None,
            user_data=args.user_data,
            disk_gib=args.size.disk_gib,
            tags={**self._tags, "Name": f"{self._stack}-{args.role}"},
            public=args.public,
            ipv6=self._config.has_ipv6 and not args.public,
        )

    def remote_command(self, name: str, args: RemoteCommandArgs, *, opts: pulumi.ResourceOptions) -> pulumi.Resource:
        """Implement Platform.remote_command: run the command over SSH."""
        command = self._access.remote_command(name, args, opts=opts)
        self._steps.append(command)
        if healing := self._healing.get(args.machine.resource):
            healing.keep(name, args, command, opts.parent)
        return command

    def enable_monitoring(
        self, name: str, machine: Machine, args: MachineArgs, *, opts: pulumi.ResourceOptions
    ) -> None:
        """Implement Platform.enable_monitoring: install the scripts, and create alarms on the reports."""
        healing = self._healing.get(machine.resource)
        stdin = self._monitoring.agent_files(args, group=healing.names.group if healing else None)
        step = self.remote_command(
            f"{name}-monitoring",
            RemoteCommandArgs(machine, apply_files_command(), stdin, timeout_s=MONITORING_S),
            opts=opts,
        )
        self._alarms.create_agent_alarms(name, args.role, machine, step, balancer=not args.app, is_group=bool(healing))

    @property
    def log_groups(self) -> Mapping[str, pulumi.Output[str]]:
        """Implement Platform.log_groups: log groups of CloudWatch."""
        return self._monitoring.log_groups

    @property
    def https_port(self) -> int:
        """Implement Platform.https_port: 443 itself."""
        return 443

    def public_address(
        self,
        name: str,
        machine: Machine,
        *,
        hostnames: Sequence[str] = (),
        https: bool = False,
        opts: pulumi.ResourceOptions,
    ) -> PublicAddress:
        """Implement Platform.public_address: create an Elastic IP, unless the machine has one, and its DNS records."""
        names: dict[str, Any] = {"hostnames": hostnames, "https": https, "opts": opts}
        if healing := self._healing.get(machine.resource):
            return self._addresses.public_address(name, healing.address, **names)
        return self._addresses.lead_to(name, machine, self._steps, self._access, **names)

    def load_balancer_group(self, name: str, ports: Sequence[int], *, opts: pulumi.ResourceOptions) -> SecurityGroup:
        """Implement Platform.load_balancer_group: create an EC2 group."""
        return group.load_balancer_group(name, ports, self._provider, opts, vpc_id=self._network.vpc_id)

    def load_balancer(self, name: str, args: LoadBalancerArgs, *, opts: pulumi.ResourceOptions) -> LoadBalancer:
        """Implement Platform.load_balancer: create an Application Load Balancer and its alarms."""
        if subnets := args.settings.alb.subnet_ids:
            check_front(zones_of(subnets, pulumi.InvokeOptions(provider=self._provider)), self._app_zones)
        front = front_of(subnets, self._network.front, self._provider)
        resources = AlbResources(
            name,
            args,
            self._config,
            stack=self._stack,
            front=front,
            vpc_id=self._network.vpc_id,
            provider=self._provider,
            opts=opts,
        )
        self._alb = resources
        self._alarms.create_load_balancer_alarms(name, resources.balancer, resources.groups)
        return resources.load_balancer()

    def target(
        self, name: str, front: LoadBalancer, app: str, machine: Machine, *, opts: pulumi.ResourceOptions
    ) -> pulumi.Resource:
        """Implement Platform.target: register an instance in the application's target group."""
        return Target(
            name,
            server=name,
            region=self._config.region,
            group=front.target_groups[app],
            machine=machine.id,
            drain_timeout_s=front.drain_timeout_s[app],
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=list(front.ready))),
        )

    def reach(self, machines: Iterable[Machine] | None = None) -> ConnectionSpec:
        """Implement Platform.reach."""
        return self._access.reach(machines)


def create(settings: Settings, *, stack: str, project: Path, project_name: str) -> AwsPlatform:  # noqa: ARG001
    """Return the platform of a stack (see platforms.registry). Raises ValueError where `aws` is missing."""
    if settings.aws is None:
        raise ValueError("aws: is missing, and platform is aws")
    image = ImageKind(settings.operating_system, settings.architecture)
    builder = settings.image_size
    is_dual = settings.balancer.kind == "alb" and settings.balancer.alb.ip_address_type == "dualstack"
    return AwsPlatform(settings.aws, stack=stack, project_name=project_name, image=image, builder=builder, ipv6=is_dual)
