"""Platform aws as resources: EC2 instances, security groups, an Elastic IP, commands over SSH."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import gzip
import hashlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pulumi
import pulumi_aws as aws
from pulumi_command import remote

import settings
from platforms import (
    Ingress,
    Machine,
    MachineArgs,
    PublicAddress,
    Reach,
    SecurityGroup,
    StepArgs,
    Store,
)
from platforms.aws import bucket, group

# The user of Debian's images: sudo without a password.
SSH_USER = "admin"
# EC2's limit before base64 (docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html).
USER_DATA_BYTES = 16_384
# Debian's account on AWS (wiki.debian.org/Cloud/AmazonEC2Image).
DEBIAN_OWNER, DEBIAN_NAME = "136693071363", "debian-12-amd64-*"
# Seconds for one attempt to connect, and attempts: a new machine has its SSH server up within a minute or two.
DIAL_S, DIALS = 10, 30
# Seconds that a program may be registering resources before a missing jump host is an error.
JUMP_HOST_S = 60.0


@dataclass(frozen=True)
class _JumpHost:
    """address: where it answers from outside."""

    id: pulumi.Output[str]
    address: pulumi.Output[str]
    resource: pulumi.Resource


class AwsPlatform:
    """A fleet on EC2, in a VPC that is there.

    The public machine (the balancer) is the jump host: the way to all others. A person keeps it within admin_cidrs.
    """

    def __init__(self, given: settings.Aws, *, stack: str, project_name: str) -> None:
        self._given = given
        self._stack = stack
        self._tags = {
            **given.tags,
            "wsgi-fleet:project": project_name,
            "wsgi-fleet:stack": stack,
            "managed-by": "pulumi",
        }
        self._provider = aws.Provider("aws", region=given.region, default_tags={"tags": self._tags})
        self._private_key = pulumi.Output.secret(given.ssh_private_key.get_secret_value())
        self._releases: bucket.ReleaseStore | None = None
        self._image_is_checked = False
        self._jump_host: _JumpHost | None = None
        self._jump_host_comes: asyncio.Future[_JumpHost] | None = None

    def security_group(
        self, name: str, ingress: Sequence[Ingress], *, isolated: bool, opts: pulumi.ResourceOptions
    ) -> SecurityGroup:
        del isolated  # always so: no rule of ours lets a group reach itself
        return group.security_group(name, ingress, self._given, self._provider, opts)

    def store(self, name: str, *, opts: pulumi.ResourceOptions) -> Store:
        self._releases = bucket.release_store(name, self._given, self._stack, self._provider, opts)
        return self._releases.store

    def machine(self, name: str, args: MachineArgs, *, store: Store | None, opts: pulumi.ResourceOptions) -> Machine:
        self._report_newer_image()
        releases = self._releases if store else None
        subnets = self._given.app_subnet_ids
        tags = {**self._tags, "Name": f"{self._stack}-{args.role}"}
        instance = aws.ec2.Instance(
            name,
            ami=self._given.ami,
            instance_type=args.size.instance_type,
            key_name=self._given.ssh_key_name,
            subnet_id=self._given.balancer_subnet_id if args.public else subnets[args.zone % len(subnets)],
            vpc_security_group_ids=[args.group.id],
            # FSBP EC2.9; the balancer is the one accepted finding.
            associate_public_ip_address=args.public,
            iam_instance_profile=releases.profile if releases else None,
            user_data_base64=_packed(args.user_data),
            user_data_replace_on_change=True,
            # FSBP EC2.8, CIS AWS 5.0 5.7. One hop: containers on the machine do not get at the role.
            metadata_options={
                "http_endpoint": "enabled",
                "http_tokens": "required",
                "http_put_response_hop_limit": 1,
                "instance_metadata_tags": "disabled",
            },
            # FSBP EC2.3, CIS AWS 5.0 5.1.1. Default tags do not reach volumes.
            root_block_device={
                "encrypted": True,
                "volume_type": "gp3",
                "volume_size": args.size.disk_gib,
                "delete_on_termination": True,
                "tags": tags,
            },
            monitoring=True,
            tags=tags,
            opts=pulumi.ResourceOptions.merge(
                opts,
                pulumi.ResourceOptions(
                    provider=self._provider,
                    depends_on=releases.ready if releases else None,
                    # EC2 would stop every server at once to change its type, and a grown disk needs a boot.
                    replace_on_changes=["instanceType", "rootBlockDevice.volumeSize"],
                    delete_before_replace=False,
                ),
            ),
        )
        machine = Machine(
            id=instance.id,
            address=instance.private_ip,
            target=pulumi.Output.concat(instance.id, "@", instance.private_ip),
            resource=instance,
        )
        if args.public:
            self._found(machine)
        return machine

    def step(self, name: str, args: StepArgs, *, opts: pulumi.ResourceOptions) -> pulumi.Resource:
        command = shlex.join(["sudo", "--", "timeout", "--kill-after=10", str(args.timeout_s), *args.command])
        stdin = pulumi.Output.from_input(args.stdin)
        jump = self._by_jump_host(lambda host: host.address)
        login: dict[str, Any] = {
            "user": SSH_USER,
            "private_key": self._private_key,
            "per_dial_timeout": DIAL_S,
            "dial_error_limit": DIALS,
        }
        direct = self._jump_host is not None and args.machine.resource is self._jump_host.resource
        connection = remote.ConnectionArgs(
            host=jump if direct else args.machine.address,
            proxy=None if direct else remote.ProxyConnectionArgs(host=jump, **login),
            **login,
        )
        return remote.Command(
            name,
            connection=connection,
            create=command,
            # With `update` set, only a trigger runs the step again, and always by `create`.
            update="true",
            stdin=stdin,
            triggers=[stdin.apply(lambda text: _digest(command, text)), args.machine.id],
            logging=remote.Logging.STDERR,
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions.merge(
                opts,
                # The jump host's address changes once, after the first `up`. The engine takes it all the same when it
                # replaces a step (it checks the program's inputs anew then).
                pulumi.ResourceOptions(ignore_changes=["connection"]),
            ),
        )

    def public_address(self, name: str, machine: Machine, *, opts: pulumi.ResourceOptions) -> PublicAddress:
        # It waits for nothing and outlives every machine; the association moves when all that opts name is done.
        address = aws.ec2.Eip(
            name,
            domain="vpc",
            tags={"Name": f"{self._stack}-{name}"},
            opts=pulumi.ResourceOptions(parent=opts.parent, provider=self._provider),
        )
        association = aws.ec2.EipAssociation(
            name,
            allocation_id=address.allocation_id,
            instance_id=machine.id,
            allow_reassociation=True,
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(provider=self._provider)),
        )
        there = pulumi.Output.all(address.public_ip, association.id).apply(lambda values: values[0])
        # What is described from here on runs after the move: the address below is no longer the machine's own.
        if self._jump_host:
            self._jump_host = dataclasses.replace(self._jump_host, address=there)
        return PublicAddress(pulumi.Output.concat("http://", there), association)

    def reach(self) -> Reach:
        return Reach(
            {
                "kind": "ssh",
                "user": SSH_USER,
                "private_key": self._private_key,
                "stack": self._stack,
                "jump_id": self._by_jump_host(lambda host: host.id),
                "jump_address": self._by_jump_host(lambda host: host.address),
            }
        )

    def _found(self, machine: Machine) -> None:
        """Keep the way to the jump host, and let those go on that were described before it.

        Where it answers is asked anew at every `up`: at first at an address of its own, which EC2 takes away when the
        Elastic IP comes; the state would still name it, and by then it may be somebody else's.
        """
        now = aws.ec2.get_instance_output(
            instance_id=machine.id, opts=pulumi.InvokeOutputOptions(provider=self._provider)
        )
        self._jump_host = _JumpHost(machine.id, now.public_ip, machine.resource)
        if self._jump_host_comes and not self._jump_host_comes.done():
            self._jump_host_comes.set_result(self._jump_host)

    def _by_jump_host(self, pick: Callable[[_JumpHost], pulumi.Output[str]]) -> pulumi.Output[str]:
        """Something of the jump host, which a program may describe after the machines that are reached through it."""
        if self._jump_host:
            return pick(self._jump_host)
        if self._jump_host_comes is None:
            loop = asyncio.get_running_loop()
            self._jump_host_comes = loop.create_future()
            loop.call_later(JUMP_HOST_S, _give_up, self._jump_host_comes)
        comes = self._jump_host_comes

        async def later() -> pulumi.Output[str]:
            return pick(await comes)

        return pulumi.Output.from_input(cast("Any", later()))

    def _report_newer_image(self) -> None:
        """Say it once when Debian has a newer image than the pinned one; never take it.

        What cannot be asked (no ec2:DescribeImages, a throttled call) is a warning: it must not keep anybody from `up`.
        """
        if self._image_is_checked:
            return
        self._image_is_checked = True
        try:
            newest = aws.ec2.get_ami(
                owners=[DEBIAN_OWNER],
                most_recent=True,
                filters=[{"name": "name", "values": [DEBIAN_NAME]}],
                opts=pulumi.InvokeOptions(provider=self._provider),
            )
        except Exception as error:  # noqa: BLE001  whatever the provider raises; it decides nothing
            pulumi.log.warn(f"whether Debian has an image newer than {self._given.ami} is not known: {error}")
            return
        if newest.id != self._given.ami:
            pulumi.log.info(
                f"the pinned image is {self._given.ami}; Debian's newest in {self._given.region} is {newest.id} "
                f"({newest.name}). Once it stands under aws.ami, every machine is replaced, the new one before the old."
            )


def _give_up(comes: asyncio.Future[_JumpHost]) -> None:
    if not comes.done():
        comes.set_exception(RuntimeError("no public machine was described; all others are reached through it"))


# A whole fleet boots the same document, and packing takes 5 ms.
@functools.lru_cache(maxsize=8)
def _packed(user_data: str) -> str:
    """A document as EC2 takes it: 16 KiB at most, and cloud-init unpacks gzip. Raises ValueError for a larger one."""
    packed = gzip.compress(user_data.encode(), 9, mtime=0)
    if len(packed) > USER_DATA_BYTES:
        raise ValueError(f"user-data has {len(packed)} bytes when packed, and EC2 takes {USER_DATA_BYTES}")
    return base64.b64encode(packed).decode()


def _digest(command: str, stdin: str) -> str:
    return hashlib.sha256(f"{command}\0{stdin}".encode()).hexdigest()
