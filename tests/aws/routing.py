"""Where a VPC's packets go: route tables, routes, and which subnets follow them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.aws.kind import Clients, Kind, Property, account_id, ec2_arn


class RouteTable(Kind):
    """Routes inside a table are not known: they are resources of their own."""

    properties: ClassVar[Mapping[str, Property]] = {"vpcId": Property("VpcId", refers="vpc")}

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        return str(aws.ec2.create_route_table(**asked)["RouteTable"]["RouteTableId"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        aws.ec2.describe_route_tables(RouteTableIds=[id_])
        return {"arn": ec2_arn(aws, "route-table", id_), "ownerId": account_id(aws)}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        del state
        aws.ec2.delete_route_table(RouteTableId=id_)


def _reroute(aws: Clients, id_: str, value: str, inputs: Mapping[str, Any]) -> None:
    del id_, value
    asked = {property_.parameter: inputs[key] for key, property_ in Route.properties.items() if inputs.get(key)}
    aws.ec2.replace_route(**asked)


class Route(Kind):
    """A route. Its id is made of table and destination."""

    taggable = False
    properties: ClassVar[Mapping[str, Property]] = {
        "routeTableId": Property("RouteTableId", refers="table"),
        "destinationCidrBlock": Property("DestinationCidrBlock"),
        "destinationIpv6CidrBlock": Property("DestinationIpv6CidrBlock"),
        "gatewayId": Property("GatewayId", change=_reroute),
        "natGatewayId": Property("NatGatewayId", change=_reroute, refers="nat"),
        "networkInterfaceId": Property("NetworkInterfaceId", change=_reroute),
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        aws.ec2.create_route(**asked)
        return f"r-{asked['RouteTableId']}-{_destination(asked)}"

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        table = aws.ec2.describe_route_tables(RouteTableIds=[state["routeTableId"]])["RouteTables"][0]
        wanted = state.get("destinationCidrBlock") or state.get("destinationIpv6CidrBlock")
        for route in table["Routes"]:
            if _destination(route) == wanted:
                return {"state": route["State"], "origin": route.get("Origin", "CreateRoute")}
        raise LookupError(f"{id_} does not exist")

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        self.look(aws, id_, state)
        names = {"destinationCidrBlock": "DestinationCidrBlock", "destinationIpv6CidrBlock": "DestinationIpv6CidrBlock"}
        to = {names[key]: state[key] for key in names if state.get(key)}
        aws.ec2.delete_route(RouteTableId=state["routeTableId"], **to)


def _destination(route: Mapping[str, Any]) -> str | None:
    return route.get("DestinationCidrBlock") or route.get("DestinationIpv6CidrBlock")


class RouteTableAssociation(Kind):
    taggable = False
    properties: ClassVar[Mapping[str, Property]] = {
        "routeTableId": Property("RouteTableId", refers="table"),
        "subnetId": Property("SubnetId", refers="subnet"),
        "gatewayId": Property("GatewayId"),
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        return str(aws.ec2.associate_route_table(**asked)["AssociationId"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        table = aws.ec2.describe_route_tables(RouteTableIds=[state["routeTableId"]])["RouteTables"][0]
        if id_ not in [each["RouteTableAssociationId"] for each in table["Associations"]]:
            raise LookupError(f"{id_} does not exist")
        return {}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        self.look(aws, id_, state)
        aws.ec2.disassociate_route_table(AssociationId=id_)


KINDS: Mapping[str, Kind] = {
    "aws:ec2/routeTable:RouteTable": RouteTable(),
    "aws:ec2/route:Route": Route(),
    "aws:ec2/routeTableAssociation:RouteTableAssociation": RouteTableAssociation(),
}
