"""The network of machines: existing subnets, or a VPC of the stack's own with its internet access."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network

import pulumi
import pulumi_aws as aws

from platforms.aws.flow_log import flow_log
from settings.aws import Aws
from settings.vpc import PUBLIC, SSM_SERVICES, ZONE_LETTERS, Vpc

ANYWHERE, ANYWHERE_IPV6 = "0.0.0.0/0", "::/0"
HTTPS = 443


@dataclass(frozen=True)
class Subnet:
    """A subnet. ready: what a machine in it waits for.

    That is its way out, over which it installs packages when it boots.
    """

    id: pulumi.Output[str]
    ready: Sequence[pulumi.Resource] = ()


@dataclass(frozen=True)
class Front:
    """The public subnets of a load balancer. networks: their addresses. ready: what it waits for."""

    subnet_ids: Sequence[pulumi.Input[str]]
    networks: pulumi.Output[Sequence[str]]
    ready: Sequence[pulumi.Resource] = ()


@dataclass(frozen=True)
class Network:
    """The network of a fleet.

    public: of the balancer. private: of app servers, one subnet for each zone. front: all public subnets; None in an
    existing VPC.
    """

    vpc_id: pulumi.Output[str]
    public: Subnet
    private: Sequence[Subnet]
    front: Front | None = None


def network(config: Aws, stack: str, provider: aws.Provider, *, ipv6: bool = False) -> Network:
    """Return the network of the settings: a new VPC, or an existing one, which is not changed.

    ipv6: public subnets have addresses of IPv6, too.
    """
    if config.vpc:
        return _StackVpc(config.vpc, config, stack, provider, front_ipv6=ipv6).network
    return Network(
        pulumi.Output.from_input(config.vpc_id or ""),
        Subnet(pulumi.Output.from_input(config.balancer_subnet_id or "")),
        [Subnet(pulumi.Output.from_input(id_)) for id_ in config.app_subnet_ids],
    )


class _StackVpc:
    """A VPC and what is in it, named by the letters of its zones: a zone that is added or removed moves no other."""

    network: Network

    def __init__(self, vpc: Vpc, config: Aws, stack: str, provider: aws.Provider, *, front_ipv6: bool) -> None:
        self._config, self._region, self._stack, self._front_ipv6 = vpc, config.region, stack, front_ipv6
        self._vpc = aws.ec2.Vpc(
            "vpc",
            cidr_block=vpc.cidr,
            # Private names of endpoints need both.
            enable_dns_support=True,
            enable_dns_hostnames=True,
            assign_generated_ipv6_cidr_block=vpc.ipv6_egress or front_ipv6 or None,
            tags=self._name_tag("vpc"),
            opts=pulumi.ResourceOptions(provider=provider),
        )
        self._child = pulumi.ResourceOptions(parent=self._vpc, provider=provider)
        # FSBP EC2.2, CIS AWS 5.0 5.5: a machine without another group has no access in either direction.
        aws.ec2.DefaultSecurityGroup(
            "vpc-default",
            vpc_id=self._vpc.id,
            ingress=[],
            egress=[],
            tags=self._name_tag("default-closed"),
            opts=self._child,
        )
        public = self._public()
        with_nat = {"none": 0, "single": 1, "one_per_az": len(vpc.zones)}[vpc.nat_gateways]
        nat = {zone: self._nat(zone, public[zone]) for zone in vpc.zones[:with_nat]}
        self._egress = self._egress_gateway() if vpc.ipv6_egress else None
        private = {zone: self._private(zone, nat.get(zone, nat.get(vpc.zones[0]))) for zone in vpc.zones}
        s3 = self._s3([table for _, table in private.values()])
        subnets = [Subnet(subnet.id, [*subnet.ready, s3]) for subnet, _ in private.values()]
        # In the order in which they came to be settings; a name is that of its service.
        services = {
            **dict.fromkeys(SSM_SERVICES if vpc.ssm_endpoints else ()),
            **dict.fromkeys(_services_over_ipv4(config) if vpc.nat_gateways == "none" else ()),
        }
        if services:
            endpoints = self._interface_endpoints(list(services), subnets)
            subnets = [Subnet(each.id, [*each.ready, *endpoints]) for each in subnets]
        if vpc.flow_log_days:
            flow_log(self._vpc, vpc.flow_log_days, self._name_tag("flow-log"), self._child)
        networks = pulumi.Output.from_input([vpc.subnet(zone, public=True) for zone in vpc.zones])
        front = Front(
            [subnet.id for subnet in public.values()], networks, [each for one in public.values() for each in one.ready]
        )
        self.network = Network(self._vpc.id, public[vpc.zones[0]], subnets, front)

    def _public(self) -> dict[str, Subnet]:
        """Create a public subnet in each zone; all leave by the internet gateway."""
        gateway = aws.ec2.InternetGateway(
            "vpc-gateway", vpc_id=self._vpc.id, tags=self._name_tag("gateway"), opts=self._child
        )
        table = self._table("public")
        # Resources with a public address depend on it, so they are deleted first: AWS detaches no gateway in use.
        out = aws.ec2.Route(
            "public-out",
            route_table_id=table.id,
            destination_cidr_block=ANYWHERE,
            gateway_id=gateway.id,
            opts=self._child,
        )
        ways = [out]
        if self._front_ipv6:
            six = aws.ec2.Route(
                "public-out-ipv6",
                route_table_id=table.id,
                destination_ipv6_cidr_block=ANYWHERE_IPV6,
                gateway_id=gateway.id,
                opts=self._child,
            )
            ways.append(six)
        return {zone: self._subnet(zone, table, ways, public=True) for zone in self._config.zones}

    def _egress_gateway(self) -> aws.ec2.EgressOnlyInternetGateway:
        """Create the gateway for outbound connections by IPv6. It allows no inbound ones."""
        return aws.ec2.EgressOnlyInternetGateway(
            "vpc-egress", vpc_id=self._vpc.id, tags=self._name_tag("egress"), opts=self._child
        )

    def _private(self, zone: str, nat: aws.ec2.NatGateway | None) -> tuple[Subnet, aws.ec2.RouteTable]:
        """Create a private subnet, which leaves by that NAT gateway and by IPv6, and its route table.

        Each has its own table, so that the gateway can be another.
        """
        name = f"private-{zone[-1]}"
        table = self._table(name)
        out: list[pulumi.Resource] = []
        if nat:
            route = aws.ec2.Route(
                f"{name}-out",
                route_table_id=table.id,
                destination_cidr_block=ANYWHERE,
                nat_gateway_id=nat.id,
                opts=self._child,
            )
            out.append(route)
        if self._egress:
            route = aws.ec2.Route(
                f"{name}-out-ipv6",
                route_table_id=table.id,
                destination_ipv6_cidr_block=ANYWHERE_IPV6,
                egress_only_gateway_id=self._egress.id,
                opts=self._child,
            )
            out.append(route)
        return self._subnet(zone, table, out, public=False), table

    def _nat(self, zone: str, public: Subnet) -> aws.ec2.NatGateway:
        """Create a NAT gateway with an address of its own; both need the public subnet's way out."""
        name = f"nat-{zone[-1]}"
        after = self._after(public.ready)
        address = aws.ec2.Eip(name, domain="vpc", tags=self._name_tag(name), opts=after)
        return aws.ec2.NatGateway(
            name, subnet_id=public.id, allocation_id=address.allocation_id, tags=self._name_tag(name), opts=after
        )

    def _subnet(self, zone: str, table: aws.ec2.RouteTable, out: Sequence[pulumi.Resource], *, public: bool) -> Subnet:
        name = f"{'public' if public else 'private'}-{zone[-1]}"
        has_ipv6 = self._front_ipv6 if public else self._config.ipv6_egress
        subnet = aws.ec2.Subnet(
            name,
            vpc_id=self._vpc.id,
            availability_zone=zone,
            cidr_block=self._config.subnet(zone, public=public),
            ipv6_cidr_block=self._ipv6_block(zone, public=public) if has_ipv6 else None,
            # FSBP EC2.15. The balancer asks for its public address itself.
            map_public_ip_on_launch=False,
            tags=self._name_tag(name),
            opts=self._child,
        )
        association = aws.ec2.RouteTableAssociation(
            name, subnet_id=subnet.id, route_table_id=table.id, opts=self._child
        )
        return Subnet(subnet.id, [*out, association])

    def _ipv6_block(self, zone: str, *, public: bool) -> pulumi.Output[str]:
        """Return the /64 of a zone's subnet in the /56 that AWS gives a VPC, numbered as those of IPv4 are."""
        number = ZONE_LETTERS.index(zone[-1]) + (PUBLIC if public else 0)
        return self._vpc.ipv6_cidr_block.apply(
            lambda block: str(list(IPv6Network(block).subnets(new_prefix=64))[number])
        )

    def _table(self, name: str) -> aws.ec2.RouteTable:
        # Its routes are resources of their own: inline ones would fight with those of the S3 endpoint.
        return aws.ec2.RouteTable(name, vpc_id=self._vpc.id, tags=self._name_tag(name), opts=self._child)

    def _s3(self, tables: Sequence[aws.ec2.RouteTable]) -> aws.ec2.VpcEndpoint:
        """Create an endpoint through which traffic of S3 bypasses the NAT gateway. It costs nothing."""
        return aws.ec2.VpcEndpoint(
            "s3",
            vpc_id=self._vpc.id,
            service_name=f"com.amazonaws.{self._region}.s3",
            vpc_endpoint_type="Gateway",
            route_table_ids=[table.id for table in tables],
            policy=self._vpc.owner_id.apply(_s3_policy),
            tags=self._name_tag("s3"),
            opts=self._child,
        )

    def _interface_endpoints(self, services: Sequence[str], private: Sequence[Subnet]) -> list[aws.ec2.VpcEndpoint]:
        """Create endpoints of AWS services in each private subnet: machines reach them without internet access."""
        group = aws.ec2.SecurityGroup(
            "ssm",
            description="wsgi-fleet endpoints of Systems Manager",
            vpc_id=self._vpc.id,
            tags=self._name_tag("ssm"),
            opts=self._child,
        )
        aws.vpc.SecurityGroupIngressRule(
            f"ssm-in-{HTTPS}",
            security_group_id=group.id,
            ip_protocol="tcp",
            from_port=HTTPS,
            to_port=HTTPS,
            cidr_ipv4=self._config.cidr,
            opts=self._child,
        )
        return [
            aws.ec2.VpcEndpoint(
                service,
                vpc_id=self._vpc.id,
                service_name=f"com.amazonaws.{self._region}.{service}",
                vpc_endpoint_type="Interface",
                subnet_ids=[subnet.id for subnet in private],
                security_group_ids=[group.id],
                private_dns_enabled=True,
                tags=self._name_tag(service),
                opts=self._child,
            )
            for service in services
        ]

    def _after(self, others: Sequence[pulumi.Resource]) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions.merge(self._child, pulumi.ResourceOptions(depends_on=list(others)))

    def _name_tag(self, name: str) -> Mapping[str, str]:
        return {"Name": f"{self._stack}-{name}"}


def _services_over_ipv4(config: Aws) -> list[str]:
    """Return the services that machines call, and that have only IPv4 addresses."""
    return ["ssm", *(["logs"] if config.logs else []), *(["monitoring"] if config.alarms else [])]


def _s3_policy(account: str) -> str:
    """Return a policy that allows everything to keys of this account, and reading to everyone.

    So an intruder on a machine cannot copy data to a foreign bucket this way.
    Reading is open to everyone, because public buckets are read without keys.
    """
    statements = [
        {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": "*",
            "Condition": {"StringEquals": {"aws:PrincipalAccount": account}},
        },
        {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "*"},
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})
