"""The network of platform aws on the mock engine: a VPC of the stack's own, and one that is there."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import Any

from hypothesis import given as each_of
from hypothesis import strategies as st

from harness.mock_engine import Build
from settings.cloudwatch import Logs
from settings.vpc import ZONE_LETTERS, Vpc
from tests.unit.aws_fleet import EIP, GROUP, IN, INSTANCE, LOG_GROUP, OUT, POLICY, ROLE, built, names, statements, vpc

VPC, SUBNET, NAT = "aws:ec2/vpc:Vpc", "aws:ec2/subnet:Subnet", "aws:ec2/natGateway:NatGateway"
GATEWAY, ENDPOINT = "aws:ec2/internetGateway:InternetGateway", "aws:ec2/vpcEndpoint:VpcEndpoint"
TABLE, ROUTE = "aws:ec2/routeTable:RouteTable", "aws:ec2/route:Route"
ASSOCIATION, FLOW_LOG = "aws:ec2/routeTableAssociation:RouteTableAssociation", "aws:ec2/flowLog:FlowLog"


def prod() -> Build:
    """Return a network of three zones, with a NAT gateway in each."""
    return built(**vpc("a", "b", "c", nat_gateways="one_per_az"))


def default_routes(made: Build) -> dict[str, str]:
    """Return subnet -> the resource that its default route leads to."""
    table_of = {each.inputs["subnetId"]: each.inputs["routeTableId"] for each in made.of(ASSOCIATION)}
    out: dict[str, str] = {}
    for route in made.of(ROUTE):
        assert route.inputs["destinationCidrBlock"] == "0.0.0.0/0"
        assert route.inputs["routeTableId"] not in out
        (key,) = route.inputs.keys() - {"destinationCidrBlock", "routeTableId"}
        out[route.inputs["routeTableId"]] = f"{key}={route.inputs[key]}"
    return {subnet.name: out[table_of[subnet.id]] for subnet in made.of(SUBNET)}


def test_in_a_vpc_that_is_there_no_network_is_made() -> None:
    made = built()
    network = {VPC, SUBNET, NAT, GATEWAY, TABLE, ROUTE, ASSOCIATION, ENDPOINT, FLOW_LOG}
    assert not network & {each.type for each in made.resources}
    assert {each.inputs["vpcId"] for each in made.of(GROUP)} == {"vpc-01234567"}
    assert names(made.of(EIP)) == ["address"]


def test_a_vpc_resolves_names_and_holds_every_group() -> None:
    own = prod().one(VPC).inputs
    assert own == {
        "cidrBlock": "10.20.0.0/16",
        "enableDnsSupport": True,
        "enableDnsHostnames": True,
        "tags": {"Name": "prod-vpc"},
    }
    assert {each.inputs["vpcId"] for each in prod().of(GROUP)} == {"vpc-id"}
    default = prod().one("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup").inputs
    assert (default["vpcId"], default["ingress"], default["egress"]) == ("vpc-id", [], [])


def test_each_zone_has_a_public_and_a_private_subnet_and_machines_in_them() -> None:
    letters = {"private": ("0", "16", "32"), "public": ("128", "144", "160")}
    assert {each.name: each.inputs for each in prod().of(SUBNET)} == {
        f"{kind}-{letter}": {
            "vpcId": "vpc-id",
            "availabilityZone": f"eu-central-1{letter}",
            "cidrBlock": f"10.20.{third}.0/20",
            "mapPublicIpOnLaunch": False,
            "tags": {"Name": f"prod-{kind}-{letter}"},
        }
        for kind, thirds in letters.items()
        for letter, third in zip("abc", thirds, strict=True)
    }
    assert {each.name: each.inputs["subnetId"] for each in prod().of(INSTANCE)} == {
        "balancer": "public-a-id",
        "hello-1": "private-a-id",
        "hello-2": "private-b-id",
        "hello-3": "private-c-id",
    }
    # The balancer stands in the first zone, whatever its letter.
    assert built(**vpc("b", "a")).one(INSTANCE, "balancer").inputs["subnetId"] == "public-b-id"


def test_public_subnets_leave_by_the_internet_gateway_and_private_ones_by_a_nat_gateway() -> None:
    public = dict.fromkeys(("public-a", "public-b", "public-c"), "gatewayId=vpc-gateway-id")
    private = {f"private-{letter}": f"natGatewayId=nat-{letter}-id" for letter in "abc"}
    assert default_routes(prod()) == public | private
    assert prod().one(GATEWAY).inputs["vpcId"] == "vpc-id"
    nats = {each.name: (each.inputs["subnetId"], each.inputs["allocationId"]) for each in prod().of(NAT)}
    assert nats == {f"nat-{letter}": (f"public-{letter}-id", f"eipalloc-nat-{letter}") for letter in "abc"}
    small = built(**vpc("a", "b"))
    assert small.one(NAT).inputs["subnetId"] == "public-a-id"
    assert default_routes(small)["private-a"] == default_routes(small)["private-b"] == "natGatewayId=nat-a-id"
    assert names(small.of(EIP)) == ["address", "nat-a"]


def test_what_needs_a_way_out_waits_for_it() -> None:
    """Check machines, which install packages when they boot, and NAT gateways."""
    made = prod()
    public = [(ROUTE, "public-out"), (ASSOCIATION, "public-b")]
    private = [(ROUTE, "private-b-out"), (ASSOCIATION, "private-b"), (ENDPOINT, "s3")]
    waits: dict[tuple[str, str], list[tuple[str, str]]] = {
        (INSTANCE, "balancer"): [(ROUTE, "public-out"), (ASSOCIATION, "public-a")],
        (INSTANCE, "hello-2"): private,
        (NAT, "nat-b"): public,
        (EIP, "nat-b"): public,
        (ROUTE, "public-out"): [(GATEWAY, "vpc-gateway")],
    }
    for waiting, others in waits.items():
        assert [other for other in others if not made.one(*waiting).depends_on(made.one(*other))] == [], waiting
    # Nor does a zone wait for another.
    assert not made.one(INSTANCE, "hello-2").depends_on(made.one(ROUTE, "private-a-out"))


def test_private_subnets_reach_s3_past_the_nat_gateway_where_keys_of_others_can_only_read() -> None:
    endpoint = prod().one(ENDPOINT).inputs
    assert (endpoint["serviceName"], endpoint["vpcEndpointType"]) == ("com.amazonaws.eu-central-1.s3", "Gateway")
    assert endpoint["routeTableIds"] == ["private-a-id", "private-b-id", "private-c-id"]
    own, others = statements(endpoint["policy"])
    assert own["Condition"] == {"StringEquals": {"aws:PrincipalAccount": "123456789012"}}
    assert others == {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "*"}


def test_endpoints_of_systems_manager_take_tls_from_the_vpc_and_reach_nothing() -> None:
    assert (names(prod().of(ENDPOINT)), names(prod().of(GROUP))) == (["s3"], ["app-hello", "balancer"])
    made = built(**vpc("a", "b", ssm_endpoints=True))
    assert {each.name: each.inputs for each in made.of(ENDPOINT) if each.name != "s3"} == {
        name: {
            "vpcId": "vpc-id",
            "serviceName": f"com.amazonaws.eu-central-1.{name}",
            "vpcEndpointType": "Interface",
            "privateDnsEnabled": True,
            "subnetIds": ["private-a-id", "private-b-id"],
            "securityGroupIds": ["ssm-id"],
            "tags": {"Name": f"prod-{name}"},
        }
        for name in ("ec2messages", "ssm", "ssmmessages")
    }
    ports = {"ipProtocol": "tcp", "fromPort": 443, "toPort": 443}
    assert made.one(IN, "ssm-in-443").inputs == {"securityGroupId": "ssm-id", **ports, "cidrIpv4": "10.20.0.0/16"}
    ends = [each.name for type_ in (IN, OUT) for each in made.of(type_) if each.inputs["securityGroupId"] == "ssm-id"]
    assert ends == ["ssm-in-443"]


def test_without_a_nat_gateway_servers_leave_by_ipv6_and_reach_what_they_ask_of_aws_inside() -> None:
    plain = built(**vpc("a", "c"))
    made = built(**vpc("a", "c", nat_gateways="none", ipv6_egress=True), logs=Logs())
    assert made.of(NAT) == []
    assert names(made.of(EIP)) == ["address"]
    assert made.one(VPC).inputs["assignGeneratedIpv6CidrBlock"] is True
    blocks = {each.name: each.inputs.get("ipv6CidrBlock") for each in made.of(SUBNET)}
    assert blocks == {
        "private-a": "2001:db8:0:ff00::/64", "private-c": "2001:db8:0:ff02::/64", "public-a": None, "public-c": None,
    }  # fmt: skip
    out = made.one(ROUTE, "private-c-out-ipv6")
    assert (out.inputs["destinationIpv6CidrBlock"], out.inputs["egressOnlyGatewayId"]) == ("::/0", "vpc-egress-id")
    assert {each.name: each.inputs.get("ipv6AddressCount") for each in made.of(INSTANCE)} == {
        "balancer": None, "hello-1": 1, "hello-2": 1, "hello-3": 1,
    }  # fmt: skip
    rules = [each for each in made.of(OUT) if each.inputs.get("cidrIpv6")]
    assert {(each.name, each.inputs["cidrIpv6"]) for each in rules} == {
        (f"{group}-out-{port}-ipv6", "::/0") for group in ("app-hello", "balancer") for port in (80, 443)
    }
    # Secrets and logs are asked for at addresses of the VPC; a machine waits for them as for its way out.
    assert names(made.of(ENDPOINT)) == ["logs", "s3", "ssm"]
    server = made.one(INSTANCE, "hello-1")
    for type_, name in ((ENDPOINT, "ssm"), (ENDPOINT, "logs"), (ROUTE, "private-a-out-ipv6")):
        assert server.depends_on(made.one(type_, name)), name
    assert [each.inputs for each in plain.resources if "ipv6" in json.dumps(each.inputs, default=str).lower()] == []


def test_refused_connections_are_logged_for_the_days_given_by_a_role_that_makes_no_group() -> None:
    made = built(**vpc("a", flow_log_days=365))
    assert made.one(LOG_GROUP).inputs == {"retentionInDays": 365}
    log = made.one(FLOW_LOG)
    assert {key: log.inputs[key] for key in ("vpcId", "trafficType", "logDestination", "iamRoleArn")} == {
        "vpcId": "vpc-id",
        "trafficType": "REJECT",
        "logDestination": "arn:aws:logs:::log-group:flow-log",
        "iamRoleArn": "arn:aws:iam::123456789012:role/flow-log",
    }
    (trust,) = statements(made.one(ROLE, "flow-log").inputs["assumeRolePolicy"])
    assert trust["Principal"] == {"Service": "vpc-flow-logs.amazonaws.com"}
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}
    policy = made.one(POLICY, "flow-log")
    actions = ("CreateLogStream", "PutLogEvents", "DescribeLogGroups", "DescribeLogStreams")
    assert statements(policy.inputs["policy"]) == [
        {
            "Effect": "Allow",
            "Action": [f"logs:{action}" for action in actions],
            "Resource": ["arn:aws:logs:::log-group:flow-log", "arn:aws:logs:::log-group:flow-log:*"],
        }
    ]
    assert log.depends_on(policy)
    without = built(**vpc("a", flow_log_days=None))
    assert [each.name for type_ in (FLOW_LOG, LOG_GROUP, ROLE) for each in without.of(type_)] == ["app-hello"]


def changed(one: Build, other: Build) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Return type and name of what AWS is asked otherwise for in another build, and of what is new in it."""
    before, after = ({(r.type, r.name): r.inputs for r in b.resources if r.type[:4] == "aws:"} for b in (one, other))
    return {key for key, inputs in before.items() if after[key] != inputs}, after.keys() - before.keys()


def test_a_zone_or_a_nat_gateway_more_changes_nothing_of_the_others() -> None:
    moved, added = changed(built(**vpc("a", "c", nat_gateways="one_per_az")), prod())
    assert moved == {(ENDPOINT, "s3"), (INSTANCE, "hello-2"), (INSTANCE, "hello-3")}
    assert {name for type_, name in added if type_ != ROUTE} == {"public-b", "private-b", "nat-b"}
    moved, added = changed(built(**vpc("a", "b")), built(**vpc("a", "b", nat_gateways="one_per_az")))
    assert moved == {(ROUTE, "private-b-out")}
    assert added == {(NAT, "nat-b"), (EIP, "nat-b")}


def test_services_are_named_by_the_region_and_no_arn_by_a_partition() -> None:
    china: dict[str, Any] = vpc("a") | {"vpc": Vpc(cidr="10.20.0.0/16", zones=["cn-north-1a"])}
    made = built(region="cn-north-1", **china)
    assert made.one(ENDPOINT).inputs["serviceName"] == "com.amazonaws.cn-north-1.s3"
    # The mock account's own ARNs aside, which come from the provider.
    ours = [made.one(ENDPOINT).inputs["policy"], made.one(ROLE, "flow-log").inputs["assumeRolePolicy"]]
    assert [text for text in ours if "arn:" in text] == []


@each_of(st.integers(16, 22), st.lists(st.sampled_from(ZONE_LETTERS), min_size=1, unique=True))
def test_subnets_never_overlap_and_lie_in_the_vpc(prefix: int, letters: list[str]) -> None:
    made = Vpc(cidr=f"172.16.0.0/{prefix}", zones=[f"us-east-1{letter}" for letter in letters])
    subnets = [IPv4Network(made.subnet(zone, public=public)) for zone in made.zones for public in (True, False)]
    assert all(subnet.subnet_of(IPv4Network(made.cidr)) for subnet in subnets)
    assert not any(one.overlaps(other) for one in subnets for other in subnets if one is not other)
