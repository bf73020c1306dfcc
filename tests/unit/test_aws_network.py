"""The network of platform aws on the mock engine: a VPC of the stack's own, and one that is there."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import Any

import pulumi
import pytest
from hypothesis import given as each_of
from hypothesis import strategies as st
from pydantic import SecretStr

from harness.mock_aws import HOST_KEY, KEY, LOOKUPS, OUTPUTS
from harness.mock_engine import Build, Registered, build
from platforms import Ingress, MachineArgs
from platforms.aws.platform import AwsPlatform
from settings import Aws, Size
from settings.vpc import ZONE_LETTERS, Vpc

INSTANCE, GROUP = "aws:ec2/instance:Instance", "aws:ec2/securityGroup:SecurityGroup"
VPC, SUBNET, NAT = "aws:ec2/vpc:Vpc", "aws:ec2/subnet:Subnet", "aws:ec2/natGateway:NatGateway"
GATEWAY, EIP = "aws:ec2/internetGateway:InternetGateway", "aws:ec2/eip:Eip"
TABLE, ROUTE = "aws:ec2/routeTable:RouteTable", "aws:ec2/route:Route"
ASSOCIATION = "aws:ec2/routeTableAssociation:RouteTableAssociation"
ENDPOINT, FLOW_LOG = "aws:ec2/vpcEndpoint:VpcEndpoint", "aws:ec2/flowLog:FlowLog"
LOG_GROUP, ROLE = "aws:cloudwatch/logGroup:LogGroup", "aws:iam/role:Role"
IN = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
OUT = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
THERE = {
    "vpc_id": "vpc-0123456a",
    "balancer_subnet_id": "subnet-0123456a",
    "app_subnet_ids": ["subnet-0123456b", "subnet-0123456c"],
}
OWN_KEY: dict[str, Any] = {"ssh_key_name": "ops", "ssh_private_key": SecretStr(KEY)}
NONE = pulumi.ResourceOptions()


def vpc(*letters: str, **changes: Any) -> dict[str, Any]:
    """Return settings with a VPC over these zones."""
    return {"vpc": Vpc(cidr="10.20.0.0/16", zones=[f"eu-central-1{letter}" for letter in letters], **changes)}


def built(network: dict[str, Any], *, region: str = "eu-central-1") -> Build:
    """Build a balancer and three app servers in that network."""
    aws = Aws(region=region, ami="ami-0123456a", admin_cidrs=["192.0.2.0/24"], **OWN_KEY, **network)

    def program() -> None:
        platform = AwsPlatform(aws, stack="prod", project_name="wsgi-fleet")
        balancers = platform.security_group("balancer", [Ingress(80)], isolated=False, opts=NONE)
        apps = platform.security_group("app-hello", [Ingress(8000, source=balancers)], isolated=True, opts=NONE)
        for zone in range(3):
            role = f"hello-{zone + 1}"
            platform.machine(role, MachineArgs(role, "#cloud-config\n", apps, Size(), zone), store=None, opts=NONE)
        front = MachineArgs("balancer", "#cloud-config\n", balancers, Size(), public=True)
        balancer = platform.machine("balancer", front, store=None, opts=NONE)
        platform.public_address("balancer-address", balancer, opts=NONE)

    return build(program, lookups=LOOKUPS, outputs=OUTPUTS, stack="prod")


def of_aws(made: Build) -> list[Registered]:
    """Return the resources that AWS is asked for."""
    return [each for each in made.resources if each.type.startswith("aws:")]


@pytest.fixture(scope="module")
def prod() -> Build:
    """Build three zones, a NAT gateway in each."""
    return built(vpc("a", "b", "c", nat_gateways="one_per_az"))


@pytest.fixture(scope="module")
def small() -> Build:
    """Build two zones, one NAT gateway."""
    return built(vpc("a", "b"))


def ways(made: Build) -> dict[str, str]:
    """Return subnet -> the resource that its default route leads to."""
    table_of = {each.inputs["subnetId"]: each.inputs["routeTableId"] for each in made.of(ASSOCIATION)}
    out: dict[str, str] = {}
    for route in made.of(ROUTE):
        assert route.inputs["destinationCidrBlock"] == "0.0.0.0/0"
        assert route.inputs["routeTableId"] not in out
        (target,) = [route.inputs[key] for key in ("gatewayId", "natGatewayId") if key in route.inputs]
        out[route.inputs["routeTableId"]] = target
    return {subnet.name: out[table_of[subnet.id]] for subnet in made.of(SUBNET)}


def names(found: list[Registered]) -> list[str]:
    return [each.name for each in found]


def statements(policy: str) -> list[dict[str, Any]]:
    return json.loads(policy)["Statement"]


def test_in_a_vpc_that_is_there_nothing_is_made_but_machines_and_their_groups() -> None:
    made = built(THERE)
    assert {each.type for each in made.resources} == {
        "pulumi:providers:aws", INSTANCE, GROUP, IN, OUT, EIP, "aws:ec2/eipAssociation:EipAssociation", HOST_KEY,
    }  # fmt: skip
    assert {each.inputs["vpcId"] for each in made.of(GROUP)} == {"vpc-0123456a"}
    assert {each.name: each.inputs["subnetId"] for each in made.of(INSTANCE)} == {
        "balancer": "subnet-0123456a",
        "hello-1": "subnet-0123456b",
        "hello-2": "subnet-0123456c",
        "hello-3": "subnet-0123456b",
    }
    assert names(made.of(EIP)) == ["balancer-address"]


def test_a_vpc_resolves_names_and_holds_every_group(prod: Build) -> None:
    own = prod.one(VPC)
    asked = {key: own.inputs[key] for key in ("cidrBlock", "enableDnsSupport", "enableDnsHostnames")}
    assert asked == {"cidrBlock": "10.20.0.0/16", "enableDnsSupport": True, "enableDnsHostnames": True}
    assert {each.inputs["vpcId"] for each in prod.of(GROUP)} == {own.id}


def test_each_zone_has_a_public_and_a_private_subnet(prod: Build) -> None:
    placed = [(s.name, s.inputs["availabilityZone"], s.inputs["cidrBlock"], s.inputs["vpcId"]) for s in prod.of(SUBNET)]
    assert placed == [
        ("private-a", "eu-central-1a", "10.20.0.0/20", "vpc-id"),
        ("private-b", "eu-central-1b", "10.20.16.0/20", "vpc-id"),
        ("private-c", "eu-central-1c", "10.20.32.0/20", "vpc-id"),
        ("public-a", "eu-central-1a", "10.20.128.0/20", "vpc-id"),
        ("public-b", "eu-central-1b", "10.20.144.0/20", "vpc-id"),
        ("public-c", "eu-central-1c", "10.20.160.0/20", "vpc-id"),
    ]


def test_no_subnet_gives_public_addresses_by_itself(prod: Build) -> None:
    assert [subnet.inputs["mapPublicIpOnLaunch"] for subnet in prod.of(SUBNET)] == [False] * 6
    public = {each.name for each in prod.of(INSTANCE) if each.inputs["associatePublicIpAddress"]}
    assert public == {"balancer"}


def test_the_balancer_stands_in_the_first_zone_and_app_servers_in_all(prod: Build) -> None:
    assert {each.name: each.inputs["subnetId"] for each in prod.of(INSTANCE)} == {
        "balancer": "public-a-id",
        "hello-1": "private-a-id",
        "hello-2": "private-b-id",
        "hello-3": "private-c-id",
    }
    moved = built(vpc("b", "a"))
    assert moved.one(INSTANCE, "balancer").inputs["subnetId"] == "public-b-id"


def test_public_subnets_alone_reach_the_internet_gateway(prod: Build, small: Build) -> None:
    for made in (prod, small):
        gateway = made.one(GATEWAY)
        assert gateway.inputs["vpcId"] == "vpc-id"
        direct = {name for name, target in ways(made).items() if target == gateway.id}
        assert direct == {each.name for each in made.of(SUBNET) if each.name.startswith("public-")}


def test_with_a_nat_gateway_in_each_zone_no_zone_needs_another(prod: Build) -> None:
    assert {gateway.name: gateway.inputs["subnetId"] for gateway in prod.of(NAT)} == {
        "nat-a": "public-a-id",
        "nat-b": "public-b-id",
        "nat-c": "public-c-id",
    }
    assert {name: target for name, target in ways(prod).items() if name.startswith("private-")} == {
        "private-a": "nat-a-id",
        "private-b": "nat-b-id",
        "private-c": "nat-c-id",
    }


def test_one_nat_gateway_stands_in_the_first_zone_and_serves_all(small: Build) -> None:
    assert small.one(NAT).inputs["subnetId"] == "public-a-id"
    assert ways(small)["private-a"] == ways(small)["private-b"] == "nat-a-id"
    assert names(small.of(EIP)) == ["balancer-address", "nat-a"]


def test_every_nat_gateway_has_an_address_of_its_own(prod: Build) -> None:
    assert [gateway.inputs["allocationId"] for gateway in prod.of(NAT)] == [
        "eipalloc-nat-a",
        "eipalloc-nat-b",
        "eipalloc-nat-c",
    ]


def test_machines_wait_for_their_way_out_because_they_install_packages_when_they_boot(prod: Build) -> None:
    ready = {
        "balancer": [(ROUTE, "public-out"), (ASSOCIATION, "public-a")],
        "hello-2": [(ROUTE, "private-b-out"), (ASSOCIATION, "private-b"), (ENDPOINT, "s3")],
    }
    for machine, waits_for in ready.items():
        instance = prod.one(INSTANCE, machine)
        assert [other for other in waits_for if not instance.depends_on(prod.one(*other))] == []
    # Nor does a zone wait for another.
    assert not prod.one(INSTANCE, "hello-2").depends_on(prod.one(ROUTE, "private-a-out"))


def test_nat_gateways_and_their_addresses_wait_for_the_internet_gateway(prod: Build) -> None:
    out = prod.one(ROUTE, "public-out")
    assert out.depends_on(prod.one(GATEWAY))
    for each in [*prod.of(NAT), *(address for address in prod.of(EIP) if address.name.startswith("nat-"))]:
        assert each.depends_on(out)
        assert each.depends_on(prod.one(ASSOCIATION, f"public-{each.name[-1]}"))


def test_the_default_group_of_the_vpc_lets_nothing_through(prod: Build) -> None:
    default = prod.one("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup")
    assert (default.inputs["vpcId"], default.inputs["ingress"], default.inputs["egress"]) == ("vpc-id", [], [])


def test_private_subnets_reach_s3_past_the_nat_gateway(prod: Build) -> None:
    endpoint = prod.one(ENDPOINT)
    assert (endpoint.inputs["serviceName"], endpoint.inputs["vpcEndpointType"]) == (
        "com.amazonaws.eu-central-1.s3",
        "Gateway",
    )
    assert endpoint.inputs["routeTableIds"] == ["private-a-id", "private-b-id", "private-c-id"]


def test_keys_of_another_account_can_only_read_through_the_s3_endpoint(prod: Build) -> None:
    own, others = statements(prod.one(ENDPOINT).inputs["policy"])
    assert own["Condition"] == {"StringEquals": {"aws:PrincipalAccount": "123456789012"}}
    assert others["Action"] == "s3:GetObject"
    assert "Condition" not in others


def test_endpoints_of_systems_manager_are_made_only_when_asked_for(prod: Build) -> None:
    assert names(prod.of(ENDPOINT)) == ["s3"]
    assert names(prod.of(GROUP)) == ["app-hello", "balancer"]
    made = built(vpc("a", "b", ssm_endpoints=True))
    asked = {each.name: each.inputs for each in made.of(ENDPOINT) if each.name != "s3"}
    assert {name: inputs["serviceName"] for name, inputs in asked.items()} == {
        name: f"com.amazonaws.eu-central-1.{name}" for name in ("ec2messages", "ssm", "ssmmessages")
    }
    for inputs in asked.values():
        assert (inputs["vpcEndpointType"], inputs["privateDnsEnabled"]) == ("Interface", True)
        assert inputs["subnetIds"] == ["private-a-id", "private-b-id"]
        assert inputs["securityGroupIds"] == [made.one(GROUP, "ssm").id]


def test_endpoints_of_systems_manager_take_tls_from_the_vpc_and_reach_nothing() -> None:
    made = built(vpc("a", ssm_endpoints=True))
    group = made.one(GROUP, "ssm")
    (rule,) = [each.inputs for each in made.of(IN) if each.inputs["securityGroupId"] == group.id]
    assert (rule["ipProtocol"], rule["fromPort"], rule["toPort"], rule["cidrIpv4"]) == ("tcp", 443, 443, "10.20.0.0/16")
    assert [each.name for each in made.of(OUT) if each.inputs["securityGroupId"] == group.id] == []
    assert not {"ingress", "egress"} & set(group.inputs)


def test_refused_connections_are_logged_for_the_days_given() -> None:
    made = built(vpc("a", flow_log_days=365))
    log, group, role = made.one(FLOW_LOG), made.one(LOG_GROUP), made.one(ROLE)
    assert group.inputs["retentionInDays"] == 365
    assert {key: log.inputs[key] for key in ("vpcId", "trafficType", "logDestination", "iamRoleArn")} == {
        "vpcId": "vpc-id",
        "trafficType": "REJECT",
        "logDestination": "arn:aws:logs:::log-group:flow-log",
        "iamRoleArn": "arn:aws:iam::123456789012:role/flow-log",
    }
    (trust,) = statements(role.inputs["assumeRolePolicy"])
    assert trust["Principal"] == {"Service": "vpc-flow-logs.amazonaws.com"}
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_the_role_of_the_flow_log_writes_into_its_group_and_makes_none() -> None:
    made = built(vpc("a"))
    policy = made.one("aws:iam/rolePolicy:RolePolicy")
    (statement,) = statements(policy.inputs["policy"])
    assert statement["Effect"] == "Allow"
    assert statement["Resource"] == ["arn:aws:logs:::log-group:flow-log", "arn:aws:logs:::log-group:flow-log:*"]
    assert set(statement["Action"]) == {
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "logs:DescribeLogGroups",
        "logs:DescribeLogStreams",
    }
    assert made.one(FLOW_LOG).depends_on(policy)


def test_without_days_no_flow_log_is_kept() -> None:
    made = built(vpc("a", flow_log_days=None))
    assert made.of(FLOW_LOG) + made.of(LOG_GROUP) + made.of(ROLE) == []


def test_a_zone_that_is_added_changes_nothing_of_the_others() -> None:
    before, after = (
        {(each.type, each.name): each.inputs for each in of_aws(built(vpc(*letters, nat_gateways="one_per_az")))}
        for letters in ("ac", "abc")
    )
    grown = {(ENDPOINT, "s3"), (INSTANCE, "hello-2"), (INSTANCE, "hello-3")}
    assert {key for key, inputs in before.items() if after[key] != inputs} == grown
    added = {name for type_, name in after.keys() - before.keys() if type_ != ROUTE}
    assert added == {"public-b", "private-b", "nat-b"}


def test_another_number_of_nat_gateways_changes_routes_and_no_subnet_nor_machine() -> None:
    one, each = (
        {(r.type, r.name): r.inputs for r in of_aws(built(vpc("a", "b", nat_gateways=nat)))}
        for nat in ("single", "one_per_az")
    )
    assert {key for key, inputs in one.items() if each[key] != inputs} == {(ROUTE, "private-b-out")}
    assert each.keys() - one.keys() == {(NAT, "nat-b"), (EIP, "nat-b")}


def test_what_is_made_carries_a_name_and_the_stack(prod: Build) -> None:
    taggable = {VPC, SUBNET, NAT, GATEWAY, TABLE, ENDPOINT, FLOW_LOG}
    tags = {(each.type, each.name): each.inputs["tags"] for each in prod.resources if each.type in taggable}
    assert tags[SUBNET, "private-a"] == {"Name": "prod-private-a"}
    assert all(each["Name"].startswith("prod-") for each in tags.values())
    assert len({each["Name"] for each in (tags[key] for key in tags if key[0] == TABLE)}) == 4


def test_everything_is_made_by_the_provider_of_the_region_below_its_vpc(prod: Build) -> None:
    own = prod.one(VPC)
    network = [each for each in prod.resources if each.type.rpartition(":")[0].startswith(("aws:ec2/", "aws:cloudw"))]
    outside = {each.name for each in network if each.parent != own.urn}
    assert outside == {"vpc", "balancer", "hello-1", "hello-2", "hello-3", "app-hello", "balancer-address"}
    assert {each.provider.rpartition("::")[0] for each in network} == {prod.one("pulumi:providers:aws").urn}


def test_services_are_named_by_the_region_and_no_arn_by_a_partition() -> None:
    china = Vpc(cidr="10.20.0.0/16", zones=["cn-north-1a"])
    made = built({"vpc": china}, region="cn-north-1")
    assert made.one(ENDPOINT).inputs["serviceName"] == "com.amazonaws.cn-north-1.s3"
    # The mock account's own ARNs aside, which come from the provider.
    ours = [made.one(ENDPOINT).inputs["policy"], made.one(ROLE).inputs["assumeRolePolicy"]]
    assert [text for text in ours if "arn:" in text] == []


@each_of(st.integers(16, 22), st.lists(st.sampled_from(ZONE_LETTERS), min_size=1, unique=True))
def test_subnets_never_overlap_and_lie_in_the_vpc(prefix: int, letters: list[str]) -> None:
    made = Vpc(cidr=f"172.16.0.0/{prefix}", zones=[f"us-east-1{letter}" for letter in letters])
    subnets = [IPv4Network(made.subnet(zone, public=public)) for zone in made.zones for public in (True, False)]
    assert all(subnet.subnet_of(IPv4Network(made.cidr)) for subnet in subnets)
    assert not any(one.overlaps(other) for one in subnets for other in subnets if one is not other)
