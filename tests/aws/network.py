"""A VPC and what is in it, but for security groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.aws.ec2 import VPC_ID, attribute, create_by_call, look_up
from tests.aws.kind import Clients, Delete, Kind, Property, first, in_place, same
from tests.aws.load_balancing import INTERFACE


def _kind(noun: str, properties: Mapping[str, Property], *, delete: Delete | None = None, owner: bool = False) -> Kind:
    """Return a type whose calls EC2 names alike: create_vpc, describe_vpcs, delete_vpc. owner: the program reads it."""
    title = "".join(part.capitalize() for part in noun.split("_"))

    def create(aws: Clients, asked: dict[str, Any], _inputs: Mapping[str, Any]) -> str:
        return getattr(aws.ec2, f"create_{noun}")(**asked)[title][f"{title}Id"]

    def look(aws: Clients, id_: str, _state: Mapping[str, Any]) -> Mapping[str, Any]:
        there = getattr(aws.ec2, f"describe_{noun}s")(**{f"{title}Ids": [id_]})[f"{title}s"]
        found = first((each for each in there if each.get("State") != "deleted"), id_)
        if not owner:
            return {}
        # moto gives an address block to a VPC that asked for one.
        blocks = [each["Ipv6CidrBlock"] for each in found.get("Ipv6CidrBlockAssociationSet", ())]
        return {"ownerId": found["OwnerId"], **({"ipv6CidrBlock": blocks[0]} if blocks else {})}

    def remove(aws: Clients, id_: str, _state: Mapping[str, Any]) -> None:
        getattr(aws.ec2, f"delete_{noun}")(**{f"{title}Id": id_})

    return Kind(properties=properties, create=create, look=look, delete=delete or remove)


def _delete_subnet(aws: Clients, id_: str, _state: Mapping[str, Any]) -> None:
    # moto would delete a subnet in use; EC2 answers DependencyViolation. (Interfaces of NAT gateways stay in moto.)
    here = [{"Name": "subnet-id", "Values": [id_]}]
    for user in aws.ec2.describe_network_interfaces(Filters=here)["NetworkInterfaces"]:
        if (machine := user.get("Attachment", {}).get("InstanceId")) or user["Description"].startswith(INTERFACE):
            raise RuntimeError(f"DependencyViolation: {id_} is used by {machine or user['Description']}")
    aws.ec2.delete_subnet(SubnetId=id_)


def _delete_gateway(aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
    aws.ec2.detach_internet_gateway(InternetGatewayId=id_, VpcId=state["vpcId"])
    aws.ec2.delete_internet_gateway(InternetGatewayId=id_)


def _create_flow_log(aws: Clients, asked: dict[str, Any], _inputs: Mapping[str, Any]) -> str:
    response = aws.ec2.create_flow_logs(ResourceType="VPC", **asked)
    if response["Unsuccessful"]:
        raise RuntimeError(str(response["Unsuccessful"]))
    return str(response["FlowLogIds"][0])


def _create_route(aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
    aws.ec2.create_route(**asked)
    (block,) = _destination(inputs).values()
    return f"r-{asked['RouteTableId']}-{block}"


def _table(aws: Clients, state: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = aws.ec2.describe_route_tables(RouteTableIds=[state["routeTableId"]])["RouteTables"][0]
    return found


def _destination(state: Mapping[str, Any]) -> dict[str, str]:
    """Return the destination of a route as a parameter of EC2's calls."""
    if "destinationIpv6CidrBlock" in state:
        return {"DestinationIpv6CidrBlock": state["destinationIpv6CidrBlock"]}
    return {"DestinationCidrBlock": state["destinationCidrBlock"]}


def _look_at_route(aws: Clients, id_: str, state: Mapping[str, Any]) -> Mapping[str, Any]:
    expected = _destination(state).items()
    first((each for each in _table(aws, state)["Routes"] if expected <= each.items()), id_)
    return {}


def _look_at_association(aws: Clients, id_: str, state: Mapping[str, Any]) -> Mapping[str, Any]:
    there = _table(aws, state)["Associations"]
    first((each for each in there if each["RouteTableAssociationId"] == id_), id_)
    return {}


KINDS: Mapping[str, Kind] = {
    "aws:ec2/vpc:Vpc": _kind(
        "vpc",
        {
            "cidrBlock": Property("CidrBlock"),
            "assignGeneratedIpv6CidrBlock": Property("AmazonProvidedIpv6CidrBlock"),
            "enableDnsSupport": Property(change=attribute("vpc", "EnableDnsSupport")),
            "enableDnsHostnames": Property(change=attribute("vpc", "EnableDnsHostnames")),
        },
        owner=True,
    ),
    "aws:ec2/subnet:Subnet": _kind(
        "subnet",
        {
            "vpcId": VPC_ID,
            **same("cidrBlock", "availabilityZone", "ipv6CidrBlock"),
            "mapPublicIpOnLaunch": Property(change=attribute("subnet", "MapPublicIpOnLaunch")),
        },
        delete=_delete_subnet,
    ),
    "aws:ec2/internetGateway:InternetGateway": _kind(
        "internet_gateway",
        {
            "vpcId": Property(
                change=lambda aws, id_, vpc, _: aws.ec2.attach_internet_gateway(InternetGatewayId=id_, VpcId=vpc),
                refers="vpc",
            )
        },
        delete=_delete_gateway,
    ),
    "aws:ec2/egressOnlyInternetGateway:EgressOnlyInternetGateway": _kind(
        "egress_only_internet_gateway", {"vpcId": VPC_ID}
    ),
    "aws:ec2/natGateway:NatGateway": _kind(
        "nat_gateway",
        {"allocationId": Property("AllocationId", refers="address"), "subnetId": Property("SubnetId", refers="subnet")},
    ),
    "aws:ec2/routeTable:RouteTable": _kind("route_table", {"vpcId": VPC_ID}),
    "aws:ec2/route:Route": Kind(
        properties={
            "routeTableId": Property("RouteTableId", refers="table"),
            **same("destinationCidrBlock", "destinationIpv6CidrBlock"),
            "gatewayId": Property("GatewayId", change=in_place),
            "natGatewayId": Property("NatGatewayId", change=in_place, refers="nat"),
            "egressOnlyGatewayId": Property("EgressOnlyInternetGatewayId", change=in_place),
        },
        create=_create_route,
        look=_look_at_route,
        delete=lambda aws, _, state: aws.ec2.delete_route(RouteTableId=state["routeTableId"], **_destination(state)),
        retag=None,
    ),
    "aws:ec2/routeTableAssociation:RouteTableAssociation": Kind(
        properties={
            "routeTableId": Property("RouteTableId", refers="table"),
            "subnetId": Property("SubnetId", refers="subnet"),
        },
        create=create_by_call("associate_route_table", "AssociationId"),
        look=_look_at_association,
        delete=lambda aws, id_, _: aws.ec2.disassociate_route_table(AssociationId=id_),
        retag=None,
    ),
    "aws:ec2/vpcEndpoint:VpcEndpoint": _kind(
        "vpc_endpoint",
        {
            "vpcId": VPC_ID,
            **same("serviceName", "vpcEndpointType"),
            "privateDnsEnabled": Property("PrivateDnsEnabled", change=in_place),
            "policy": Property("PolicyDocument", change=in_place),
            "routeTableIds": Property("RouteTableIds", change=in_place, refers="table"),
            "subnetIds": Property("SubnetIds", change=in_place, refers="subnet"),
            "securityGroupIds": Property("SecurityGroupIds", change=in_place, refers="group"),
        },
        delete=lambda aws, id_, _: aws.ec2.delete_vpc_endpoints(VpcEndpointIds=[id_]),
    ),
    "aws:ec2transitgateway/instanceConnectEndpoint:InstanceConnectEndpoint": Kind(
        properties={
            "subnetId": Property("SubnetId", refers="subnet"),
            "securityGroupIds": Property("SecurityGroupIds", refers="group"),
            "preserveClientIp": Property("PreserveClientIp"),
        },
        create=create_by_call(
            "create_instance_connect_endpoint", "InstanceConnectEndpoint", "InstanceConnectEndpointId"
        ),
        look=look_up(
            "describe_instance_connect_endpoints",
            "InstanceConnectEndpointIds",
            "InstanceConnectEndpoints",
            {
                "dnsName": "DnsName",
                "vpcId": "VpcId",
                "securityGroupIds": "SecurityGroupIds",
                "preserveClientIp": "PreserveClientIp",
            },
        ),
        delete=lambda aws, id_, _: aws.ec2.delete_instance_connect_endpoint(InstanceConnectEndpointId=id_),
    ),
    "aws:ec2/flowLog:FlowLog": Kind(
        properties={
            "vpcId": Property("ResourceIds", lambda id_: [id_], refers="vpc"),
            **same("trafficType", "logDestination", "logDestinationType"),
            "iamRoleArn": Property("DeliverLogsPermissionArn", refers="role arn"),
        },
        create=_create_flow_log,
        look=look_up("describe_flow_logs", "FlowLogIds", "FlowLogs", {}),
        delete=lambda aws, id_, _: aws.ec2.delete_flow_logs(FlowLogIds=[id_]),
    ),
}
