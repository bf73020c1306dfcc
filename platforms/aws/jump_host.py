"""Access to machines through the public one: SSH with a jump host."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pulumi
import pulumi_aws as aws
from pulumi_command import remote

from platforms import ConnectionSpec, Machine, RemoteCommandArgs
from platforms.aws.host_key import HostKey
from platforms.aws.key_pair import SSH_USER, KeyPair

# Seconds for one attempt of a step to connect, and attempts. The provider pauses up to 5 s between them: half a minute
# for a machine that refuses, three for one that does not respond. A new one is waited for by its HostKey.
DIAL_TIMEOUT_S, MAX_DIALS = 10, 15
# Seconds that a program may be registering resources before a missing jump host is an error.
JUMP_HOST_S = 60.0


@dataclass(frozen=True)
class _JumpHost:
    """The public machine, through which all others are reached.

    address: where it responds from outside. host_key: what it is known by.
    """

    id: pulumi.Output[str]
    address: pulumi.Output[str]
    host_key: pulumi.Output[str]
    resource: pulumi.Resource


# Id and host key.
_MachineKey = tuple[pulumi.Output[str], pulumi.Output[str]]


class JumpHostAccess:
    """An access.Access by which the public machine is the jump host to all others."""

    source = None

    def __init__(self, pair: KeyPair, *, stack: str, provider: aws.Provider) -> None:
        self.key_name, self._private_key = pair.name, pair.private_key
        self._stack, self._provider = stack, provider
        self._machine_keys: dict[pulumi.Resource, _MachineKey] = {}
        self._jump_host: _JumpHost | None = None
        self._jump_host_future: asyncio.Future[_JumpHost] | None = None

    def add(self, name: str, machine: Machine, *, public: bool, opts: pulumi.ResourceOptions) -> None:
        """Implement Access.add: pin the machine's host key. public: it is the jump host.

        The jump host's address is read from EC2 at every `up`, not from the state. Its first address is released when
        the Elastic IP is associated, and AWS may then give it to another customer.
        """
        now = (
            aws.ec2.get_instance_output(
                instance_id=machine.id, opts=pulumi.InvokeOutputOptions(provider=self._provider)
            ).public_ip
            if public
            else None
        )
        key = HostKey(
            f"{name}-host-key",
            machine=machine.id,
            target=machine.target,
            reach=self._spec(machine.id, now, {}) if now is not None else self._through_jump_host([]),
            opts=pulumi.ResourceOptions(parent=opts.parent),
        ).host_key
        self._machine_keys[machine.resource] = machine.id, key
        if now is not None:
            self._set_jump_host(_JumpHost(machine.id, now, key, machine.resource))

    def _set_jump_host(self, host: _JumpHost) -> None:
        self._jump_host = host
        if self._jump_host_future and not self._jump_host_future.done():
            self._jump_host_future.set_result(host)

    def add_known(
        self, name: str, machine: Machine, host_key: pulumi.Output[str], *, opts: pulumi.ResourceOptions
    ) -> None:
        """Implement Access.add_known: it is the jump host, whichever machine has the address."""
        # During an instance refresh the address moves, so nobody enters by it before that has ended.
        address = pulumi.Output.all(machine.address, machine.id).apply(lambda each: str(each[0]))
        keys = pulumi.Output.all(machine.id, host_key).apply(lambda each: {str(each[0]): str(each[1])})
        key = HostKey(
            f"{name}-host-key",
            machine=machine.id,
            target=machine.target,
            # The address may still lead to a machine with another key.
            reach={**self._spec(machine.id, address, keys), "waits_for_key": True},
            opts=pulumi.ResourceOptions(parent=opts.parent),
        ).host_key
        self._machine_keys[machine.resource] = machine.id, key
        self._set_jump_host(_JumpHost(machine.id, address, key, machine.resource))

    def use_public_address(self, address: pulumi.Output[str]) -> None:
        """Implement Access.use_public_address: it is the jump host's."""
        if self._jump_host:
            self._jump_host = dataclasses.replace(self._jump_host, address=address)

    def remote_command(self, name: str, args: RemoteCommandArgs, *, opts: pulumi.ResourceOptions) -> pulumi.Resource:
        """Implement Access.remote_command: run the command by the provider `command`."""
        command = shlex.join(["sudo", "--", "timeout", "--kill-after=10", str(args.timeout_s), *args.command])
        stdin = pulumi.Output.from_input(args.stdin)
        return remote.Command(
            name,
            connection=self._connection(args.machine),
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

    def _connection(self, machine: Machine) -> remote.ConnectionArgs:
        """Return how a step connects to a machine."""
        _, host_key = self._machine_keys[machine.resource]
        jump, jump_key = self._from_jump_host(_address), self._from_jump_host(_host_key)
        login: dict[str, Any] = {
            "user": SSH_USER,
            "private_key": self._private_key,
            "per_dial_timeout": DIAL_TIMEOUT_S,
            "dial_error_limit": MAX_DIALS,
        }
        if self._jump_host and machine.resource is self._jump_host.resource:
            return remote.ConnectionArgs(host=jump, host_key=host_key, **login)
        proxy = remote.ProxyConnectionArgs(host=jump, host_key=jump_key, **login)
        return remote.ConnectionArgs(host=machine.address, host_key=host_key, proxy=proxy, **login)

    def reach(self, machines: Iterable[Machine] | None) -> ConnectionSpec:
        """Implement Access.reach."""
        machine_keys = (
            self._machine_keys.values()
            if machines is None
            else [self._machine_keys[each.resource] for each in machines]
        )
        return ConnectionSpec(self._through_jump_host(list(machine_keys)))

    def _through_jump_host(self, machine_keys: Sequence[_MachineKey]) -> Mapping[str, pulumi.Input[Any]]:
        """Return a ConnectionSpec.spec with the host keys of these machines and of the jump host."""
        id_, host_key = self._from_jump_host(_id), self._from_jump_host(_host_key)
        pairs = pulumi.Output.all(*(pulumi.Output.all(*each) for each in (*machine_keys, (id_, host_key))))
        keys = pairs.apply(lambda each: {str(name): str(key) for name, key in each})
        return self._spec(id_, self._from_jump_host(_address), keys)

    def _spec(
        self, jump_id: pulumi.Output[str], jump_address: pulumi.Output[str], keys: pulumi.Input[Mapping[str, str]]
    ) -> Mapping[str, pulumi.Input[Any]]:
        return {
            "platform": "aws",
            "user": SSH_USER,
            "private_key": self._private_key,
            "stack": self._stack,
            "jump_id": jump_id,
            "jump_address": jump_address,
            "host_keys": keys,
        }

    def _from_jump_host(self, pick: Callable[[_JumpHost], pulumi.Output[str]]) -> pulumi.Output[str]:
        """Return a value of the jump host, which a program may describe after the machines behind it."""
        if self._jump_host:
            return pick(self._jump_host)
        if self._jump_host_future is None:
            loop = asyncio.get_running_loop()
            self._jump_host_future = loop.create_future()
            loop.call_later(JUMP_HOST_S, _give_up, self._jump_host_future)
        future = self._jump_host_future

        async def pick_later() -> pulumi.Output[str]:
            return pick(await future)

        return pulumi.Output.from_input(cast("Any", pick_later()))


def _id(host: _JumpHost) -> pulumi.Output[str]:
    return host.id


def _address(host: _JumpHost) -> pulumi.Output[str]:
    return host.address


def _host_key(host: _JumpHost) -> pulumi.Output[str]:
    return host.host_key


def _give_up(future: asyncio.Future[_JumpHost]) -> None:
    if not future.done():
        future.set_exception(RuntimeError("no public machine was described; all others are reached through it"))


def _digest(command: str, stdin: str) -> str:
    return hashlib.sha256(f"{command}\0{stdin}".encode()).hexdigest()
