"""Access to machines through an EC2 Instance Connect Endpoint: no machine opens port 22 to an address."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws
from pulumi.dynamic import Resource

from platforms import ConnectionSpec, Machine, RemoteCommandArgs, SecurityGroup
from platforms.aws.host_key import HostKey
from platforms.aws.key_pair import SSH_USER, KeyPair
from platforms.aws.network import Network
from platforms.aws.ssh import SshTransport
from platforms.step import StepProvider
from platforms.transport import Result
from settings.aws import Aws

NAME = "instance-connect"


@dataclass(frozen=True)
class _Endpoint:
    """An endpoint. group: the security group that its connections come from."""

    id: pulumi.Output[str]
    dns_name: pulumi.Output[str]
    group: SecurityGroup


class EndpointAccess:
    """An access.Access to every machine at its private address; no machine need be public.

    AWS allows one endpoint for each VPC, so an existing VPC may have an existing endpoint.
    """

    def __init__(self, pair: KeyPair, config: Aws, *, stack: str, provider: aws.Provider, network: Network) -> None:
        self.key_name, self._private_key = pair.name, pair.private_key
        self._stack = stack
        there = config.instance_connect_endpoint_id
        endpoint = _look_up(there, config, provider) if there else _make(stack, provider, network)
        self.source = endpoint.group
        self._endpoint = {"id": endpoint.id, "dns_name": endpoint.dns_name, "region": config.region}
        # Id and host key.
        self._known: dict[pulumi.Resource, tuple[pulumi.Output[str], pulumi.Output[str]]] = {}

    def add(self, name: str, machine: Machine, *, public: bool, opts: pulumi.ResourceOptions) -> None:
        """Implement Access.add: pin the machine's host key."""
        del public
        key = HostKey(
            f"{name}-host-key",
            machine=machine.id,
            target=machine.target,
            reach=self._spec({}),
            opts=pulumi.ResourceOptions(parent=opts.parent),
        ).host_key
        self._known[machine.resource] = machine.id, key

    def add_known(
        self, name: str, machine: Machine, host_key: pulumi.Output[str], *, opts: pulumi.ResourceOptions
    ) -> None:
        """Implement Access.add_known. Raises NotImplementedError: the settings reject it with an endpoint."""
        raise NotImplementedError(name)

    def use_public_address(self, address: pulumi.Output[str]) -> None:
        """Implement Access.use_public_address: no connection uses it."""

    def remote_command(self, name: str, args: RemoteCommandArgs, *, opts: pulumi.ResourceOptions) -> pulumi.Resource:
        """Implement Access.remote_command: run the command by the transport of releases."""
        return Step(
            _StepProvider(),
            name,
            {
                "machine": args.machine.id,
                "target": args.machine.target,
                "command": list(args.command),
                "stdin": args.stdin,
                "timeout_s": args.timeout_s,
                "reach": self.reach([args.machine]).spec,
                "trigger": None,
            },
            opts,
        )

    def reach(self, machines: Iterable[Machine] | None) -> ConnectionSpec:
        """Implement Access.reach."""
        keys = self._known.values() if machines is None else [self._known[each.resource] for each in machines]
        pairs = pulumi.Output.all(*(pulumi.Output.all(*each) for each in keys))
        return ConnectionSpec(self._spec(pairs.apply(lambda each: {str(name): str(key) for name, key in each})))

    def _spec(self, keys: pulumi.Input[Mapping[str, str]]) -> Mapping[str, pulumi.Input[Any]]:
        return {
            "platform": "aws",
            "user": SSH_USER,
            "private_key": self._private_key,
            "stack": self._stack,
            "endpoint": self._endpoint,
            "host_keys": keys,
        }


def _make(stack: str, provider: aws.Provider, network: Network) -> _Endpoint:
    tags = {"Name": f"{stack}-{NAME}"}
    group = aws.ec2.SecurityGroup(
        NAME,
        description="wsgi-fleet endpoint of EC2 Instance Connect",
        vpc_id=network.vpc_id,
        tags=tags,
        opts=pulumi.ResourceOptions(provider=provider),
    )
    endpoint = aws.ec2transitgateway.InstanceConnectEndpoint(
        NAME,
        subnet_id=network.private[0].id,
        security_group_ids=[group.id],
        # Connections come from the endpoint's own address: rules of machines name its group.
        preserve_client_ip=False,
        tags=tags,
        # A second one beside it would be one too many.
        opts=pulumi.ResourceOptions(parent=group, provider=provider, delete_before_replace=True),
    )
    return _Endpoint(endpoint.id, endpoint.dns_name, SecurityGroup(group.id, pulumi.Output.from_input(""), group))


def _look_up(id_: str, config: Aws, provider: aws.Provider) -> _Endpoint:
    """Look up an existing endpoint. The stack neither changes nor removes it or its security group."""
    found = aws.ec2transitgateway.InstanceConnectEndpoint.get(NAME, id_, opts=pulumi.ResourceOptions(provider=provider))

    def check(each: Mapping[str, Any]) -> str:
        path = f"aws.instance_connect_endpoint_id: {id_}:"
        if each["vpc"] and each["vpc"] != config.vpc_id:
            raise pulumi.RunError(
                f"{path} is in {each['vpc']}, and aws.vpc_id is {config.vpc_id}; name one of that VPC"
            )
        if each["keeps_address"]:
            raise pulumi.RunError(
                f"{path} keeps the addresses of clients (PreserveClientIp), and machines let in its security group "
                "alone; take an endpoint that does not"
            )
        return str(each["groups"][0])

    group = pulumi.Output.all(
        groups=found.security_group_ids, vpc=found.vpc_id, keeps_address=found.preserve_client_ip
    ).apply(check)
    source = SecurityGroup(group, pulumi.Output.from_input(""), found, is_own=False)
    return _Endpoint(found.id, found.dns_name, source)


class _StepProvider(StepProvider):
    def execute(self, props: Mapping[str, Any], on_line: Callable[[str], None]) -> Result:
        transport = SshTransport.from_spec(props["reach"])
        try:
            return transport.exec(
                props["target"],
                list(props["command"]),
                stdin=str(props["stdin"]).encode(),
                timeout_s=float(props["timeout_s"]),
                on_line=on_line,
            )
        finally:
            transport.close()


class Step(Resource, module="aws", name="Step"):
    """A script on a machine. Inputs: machine, target, command, stdin, timeout_s, reach (a ConnectionSpec.spec)."""
