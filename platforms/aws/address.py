"""The public address of a balancer: an Elastic IP, and the names that lead to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pulumi
import pulumi_aws as aws

from platforms import Machine, PublicAddress
from platforms.aws import dns
from platforms.aws.access import Access
from settings.aws import Aws


class Addresses:
    """The public addresses of a stack."""

    def __init__(self, config: Aws, stack: str, provider: aws.Provider) -> None:
        self._config, self._stack, self._provider = config, stack, provider

    def elastic(self, name: str, opts: pulumi.ResourceOptions) -> aws.ec2.Eip:
        """Create an Elastic IP. It waits for nothing and outlives every machine."""
        return aws.ec2.Eip(
            name,
            domain="vpc",
            tags={"Name": f"{self._stack}-{name}"},
            opts=pulumi.ResourceOptions(parent=opts.parent, provider=self._provider, protect=self._config.protect),
        )

    def lead_to(
        self,
        name: str,
        machine: Machine,
        steps: Sequence[pulumi.Resource],
        access: Access,
        *,
        hostnames: Sequence[str],
        https: bool,
        opts: pulumi.ResourceOptions,
    ) -> PublicAddress:
        """Create an Elastic IP that leads to a machine when all that opts name is done, and these steps.

        EC2 takes the machine's first address away then, and a connection to it ends.
        """
        address = self.elastic(name, opts)
        association = aws.ec2.EipAssociation(
            name,
            allocation_id=address.allocation_id,
            instance_id=machine.id,
            allow_reassociation=True,
            opts=pulumi.ResourceOptions.merge(
                opts, pulumi.ResourceOptions(provider=self._provider, depends_on=list(steps))
            ),
        )
        # What is described from here on runs after the move: the address below is no longer the machine's own.
        access.use_public_address(pulumi.Output.all(address.public_ip, association.id).apply(lambda values: values[0]))
        after = pulumi.ResourceOptions(parent=opts.parent, depends_on=[association])
        return self.public_address(name, address, hostnames=hostnames, https=https, opts=after)

    def public_address(
        self,
        name: str,
        address: aws.ec2.Eip,
        *,
        hostnames: Sequence[str],
        https: bool,
        opts: pulumi.ResourceOptions,
    ) -> PublicAddress:
        """Create the DNS records of an address, which leads to the site when all that opts name is done."""
        ready = cast("Sequence[pulumi.Resource]", opts.depends_on)[-1]
        there = pulumi.Output.all(address.public_ip, ready.urn).apply(lambda values: values[0])
        beside = pulumi.ResourceOptions(parent=opts.parent, provider=self._provider)
        records = dns.records(name, hostnames, address.public_ip, self._config, beside)
        host = pulumi.Output.all(there, *(record.id for record in records)).apply(lambda values: values[0])
        # Which name below a wildcard clients use is unknown.
        exact = next((name for name in hostnames if not name.startswith("*.")), there)
        url = pulumi.Output.concat("https://" if https else "http://", exact)
        return PublicAddress(url, host, ready)
