"""The balancer as a group of one: when its machine fails, another one does the steps again and takes the address.

Pulumi does not know the machine. Steps reach it by the Elastic IP, where it always shows the same host key, and each
step that succeeded is kept in the release store, from which the next machine has it (machine/group/balancer_member.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pulumi
import pulumi_aws as aws

from platforms import GroupBoot, Machine, MachineArgs, MachineBoot, RemoteCommandArgs, ServerGroupArgs, Store
from platforms.aws.alarms import MachineAlarms
from platforms.aws.bucket import ReleaseStore
from platforms.aws.instance import InstanceSpec
from platforms.aws.key_pair import GeneratedKey
from platforms.aws.network import Network, Subnet
from platforms.aws.role import Role, Roles
from platforms.aws.server_group import Boot, GroupResources, group_names
from platforms.aws.ssm import BALANCER, BOOT, parameter_path
from settings.aws import Aws
from settings.capacity import Capacity
from settings.self_healing import SECRET_CHARS

# Parameters of one input that is a secret, and characters in each: a standard parameter takes 4096 as JSON text.
PARTS = 6
PART_CHARS = SECRET_CHARS // PARTS


@dataclass(frozen=True)
class Place:
    """Where a machine stands. root_device: of its image. alarms: those of the stack."""

    network: Network
    root_device: str
    alarms: MachineAlarms


class HealingMachine:
    """A machine that heals itself, and the steps that are done to it. address: which the machine itself takes.

    names: of its group. host_key: what each of its machines shows.
    """

    def __init__(
        self,
        name: str,
        args: MachineArgs,
        config: Aws,
        releases: ReleaseStore,
        address: aws.ec2.Eip,
        *,
        stack: str,
        provider: aws.Provider,
    ) -> None:
        self._name, self._args, self._config, self._releases = name, args, config, releases
        self._stack, self._provider = stack, provider
        self.address, self.names = address, group_names(stack, BALANCER)
        key = GeneratedKey(f"{name}-host-key-pair")
        self._private_key, self.host_key = key.private_key, key.public_key.apply(_without_comment)

    def create(
        self,
        boot: MachineBoot,
        where: Place,
        roles: Roles,
        spec: Callable[[MachineArgs, Role | None], InstanceSpec],
        *,
        store: Store,
        opts: pulumi.ResourceOptions,
    ) -> Machine:
        """Create the group, its launch template, and what its machine fetches when it boots. spec: of its instances.

        The id is the name of the group, known once an instance refresh has ended; the address is the public one.
        """
        args, layout = self._args, "the balancer"
        own = roles.of(args, self._releases, opts, group=self.names.group, address=self.address.allocation_id)
        made = GroupResources(
            self._name,
            ServerGroupArgs(
                BALANCER,
                Capacity(min=1, max=1),
                args.group,
                args.size,
                GroupBoot(boot.files, layout, boot.user_data, self._private_key),
            ),
            self._config,
            stack=self._stack,
            spec=lambda user_data: replace(spec(args, own), user_data=user_data),
            subnets=_subnets(where.network),
            root_device=where.root_device,
            provider=self._provider,
        )
        boots = self._boot(boot, store, opts)
        group = made.group(boots, None, where.alarms, ready=own.ready if own else (), opts=opts, leaves_at_once=True)
        name = pulumi.Output.all(group.spec["name"], group.resource.urn).apply(lambda each: str(each[0]))
        address = self.address.public_ip
        return Machine(name, address, pulumi.Output.concat(name, "@", address), group.resource, BALANCER)

    def _boot(self, boot: MachineBoot, store: Store, opts: pulumi.ResourceOptions) -> Boot:
        child = pulumi.ResourceOptions(
            parent=opts.parent, provider=self._provider, depends_on=list(self._releases.ready)
        )
        facts = {"group": self.names.group, "hook": self.names.launch}
        content = self.address.allocation_id.apply(
            lambda id_: _with_file(boot.files, "/etc/wsgi-fleet/member", json.dumps(facts | {"address": id_}))
        )
        # Another content has another key: a machine of the template before still finds its own.
        key = content.apply(lambda text: f"{BOOT}/{hashlib.sha256(text.encode()).hexdigest()[:16]}.json")
        files = self._object(f"{self._name}-boot", key, content, child)
        parameter = self._parameter(f"{self._name}-boot-key", f"{BOOT}/key", self._private_key, child)
        url = pulumi.Output.concat(store.machine_url, "/", BALANCER)
        return Boot(pulumi.Output.all(url, key).apply(lambda each: boot.user_data(*each)), [files, parameter])

    def keep(self, name: str, args: RemoteCommandArgs, step: pulumi.Resource, parent: pulumi.Resource | None) -> None:
        """Keep a step for the next machine, once it was done to this one."""
        child = pulumi.ResourceOptions(parent=parent, provider=self._provider, depends_on=[step])
        stdin, what = pulumi.Output.from_input(args.stdin), name.removeprefix(f"{self._name}-")
        nothing = pulumi.Output.from_input("")
        secret, plain = nothing, stdin
        if args.has_secret:
            secret, plain = pulumi.Output.unsecret(stdin.apply(lambda text: f"{what}-{_digest(text)}")), nothing
            parts = [
                self._parameter(f"{name}-{each}", pulumi.Output.concat(secret, f"/{each}"), _part(stdin, each), child)
                for each in range(PARTS)
            ]
            child = pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(depends_on=[step, *parts]))
        content = pulumi.Output.all(secret, plain).apply(
            lambda each: json.dumps(
                {"command": list(args.command), "stdin": each[1], "secret": each[0], "timeout_s": args.timeout_s}
            )
        )
        self._object(f"{name}-kept", f"steps/{what}.json", content, child)

    def _object(
        self, name: str, key: pulumi.Input[str], content: pulumi.Input[str], opts: pulumi.ResourceOptions
    ) -> pulumi.Resource:
        return aws.s3.BucketObjectv2(
            name,
            bucket=self._releases.bucket,
            key=pulumi.Output.concat(self._stack, "/", BALANCER, "/", key),
            content=content,
            content_type="application/json",
            # An object takes ten tags (Amazon S3 User Guide, object tagging), and a stack may have more.
            override_provider={"default_tags": {"tags": {}}},
            opts=opts,
        )

    def _parameter(
        self, name: str, key: pulumi.Input[str], value: pulumi.Output[str], opts: pulumi.ResourceOptions
    ) -> pulumi.Resource:
        return aws.ssm.Parameter(
            name,
            name=pulumi.Output.concat(parameter_path(self._stack), "/", BALANCER, "/", key),
            type="SecureString",
            # JSON text, as all of them (platforms/aws/ssm.py).
            value=value.apply(lambda text: json.dumps(text).replace("{", "\\u007b")),
            key_id=self._config.kms_key_arn,
            opts=opts,
        )


def _subnets(network: Network) -> list[Subnet]:
    """Return the public subnets: one for each zone of a VPC of the stack's own, and of another VPC the one named."""
    if network.front is None:
        return [network.public]
    return [
        Subnet(pulumi.Output.from_input(each), [*network.front.ready, *network.public.ready])
        for each in network.front.subnet_ids
    ]


def _with_file(files: str, path: str, text: str) -> str:
    """Return files_to_apply's document with another file in it."""
    document: dict[str, Any] = json.loads(files)
    document["files"][path] = ["0644", text]
    return json.dumps(document)


def _part(text: pulumi.Output[str], number: int) -> pulumi.Output[str]:
    return text.apply(lambda whole: whole[number * PART_CHARS : (number + 1) * PART_CHARS])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_comment(key: str) -> str:
    return " ".join(key.split()[:2])
