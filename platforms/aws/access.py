"""Access to machines on EC2: key pair, known host keys and transport."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import pulumi
import pulumi_aws as aws

from platforms import ConnectionSpec, Machine, RemoteCommandArgs, SecurityGroup
from platforms.aws.endpoint import EndpointAccess
from platforms.aws.jump_host import JumpHostAccess
from platforms.aws.key_pair import key_pair
from platforms.aws.network import Network
from settings.aws import Aws


class Access(Protocol):
    """Access to all described machines, in any order.

    key_name: the EC2 key pair that machines are made with. source: what alone may reach port 22 of every machine; None
    where the balancer lets in admin_cidrs, and app servers the balancer.
    """

    @property
    def key_name(self) -> pulumi.Output[str]:
        """Return the name of the EC2 key pair."""
        ...

    @property
    def source(self) -> SecurityGroup | None:
        """Return the group of the endpoint, or None."""
        ...

    def add(self, name: str, machine: Machine, *, public: bool, opts: pulumi.ResourceOptions) -> None:
        """Pin the host key of a machine once it lets us in."""
        ...

    def add_known(
        self, name: str, machine: Machine, host_key: pulumi.Output[str], *, opts: pulumi.ResourceOptions
    ) -> None:
        """Wait for a public machine with a given host key, whose address is one that it takes itself."""
        ...

    def use_public_address(self, address: pulumi.Output[str]) -> None:
        """Set the public machine's address for all that is described from here on."""
        ...

    def remote_command(self, name: str, args: RemoteCommandArgs, *, opts: pulumi.ResourceOptions) -> pulumi.Resource:
        """Register a script on a machine, which must show the host key that it showed at first."""
        ...

    def reach(self, machines: Iterable[Machine] | None) -> ConnectionSpec:
        """Return how the rollout and `./fleet` get to these machines; None: to all that were described so far."""
        ...


def access(config: Aws, *, stack: str, provider: aws.Provider, network: Network) -> Access:
    """Return the access of the settings."""
    pair = key_pair("ssh-key", config, provider)
    if config.transport == "instance_connect_endpoint":
        return EndpointAccess(pair, config, stack=stack, provider=provider, network=network)
    return JumpHostAccess(pair, stack=stack, provider=provider)
