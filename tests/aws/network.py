"""A VPC and what is in it, but for routes and security groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.aws.kind import Change, Clients, Kind, Property, Unsupported, account_id, ec2_arn


def _vpc_attribute(parameter: str) -> Change:
    return lambda aws, id_, value, _: aws.ec2.modify_vpc_attribute(VpcId=id_, **{parameter: {"Value": value}})


def _subnet_attribute(parameter: str) -> Change:
    return lambda aws, id_, value, _: aws.ec2.modify_subnet_attribute(SubnetId=id_, **{parameter: {"Value": value}})


class Vpc(Kind):
    properties: ClassVar[Mapping[str, Property]] = {
        "cidrBlock": Property("CidrBlock"),
        "instanceTenancy": Property("InstanceTenancy"),
        "assignGeneratedIpv6CidrBlock": Property("AmazonProvidedIpv6CidrBlock"),
        "enableDnsSupport": Property(change=_vpc_attribute("EnableDnsSupport")),
        "enableDnsHostnames": Property(change=_vpc_attribute("EnableDnsHostnames")),
        "enableNetworkAddressUsageMetrics": Property(change=_vpc_attribute("EnableNetworkAddressUsageMetrics")),
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        return str(aws.ec2.create_vpc(**asked)["Vpc"]["VpcId"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        aws.ec2.describe_vpcs(VpcIds=[id_])
        mine = {"Name": "vpc-id", "Values": [id_]}
        main = {"Name": "association.main", "Values": ["true"]}
        tables = aws.ec2.describe_route_tables(Filters=[mine, main])["RouteTables"]
        default = {"Name": "group-name", "Values": ["default"]}
        groups = aws.ec2.describe_security_groups(Filters=[mine, default])["SecurityGroups"]
        return {
            "arn": ec2_arn(aws, "vpc", id_),
            "ownerId": account_id(aws),
            "mainRouteTableId": tables[0]["RouteTableId"],
            "defaultRouteTableId": tables[0]["RouteTableId"],
            "defaultSecurityGroupId": groups[0]["GroupId"],
        }

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        del state
        aws.ec2.delete_vpc(VpcId=id_)


class Subnet(Kind):
    properties: ClassVar[Mapping[str, Property]] = {
        "vpcId": Property("VpcId", refers="vpc"),
        "cidrBlock": Property("CidrBlock"),
        "availabilityZone": Property("AvailabilityZone", computed=True),
        "availabilityZoneId": Property("AvailabilityZoneId", computed=True),
        "mapPublicIpOnLaunch": Property(change=_subnet_attribute("MapPublicIpOnLaunch")),
        "assignIpv6AddressOnCreation": Property(change=_subnet_attribute("AssignIpv6AddressOnCreation")),
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        return str(aws.ec2.create_subnet(**asked)["Subnet"]["SubnetId"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        found = aws.ec2.describe_subnets(SubnetIds=[id_])["Subnets"][0]
        return {
            "arn": found["SubnetArn"],
            "ownerId": found["OwnerId"],
            "availabilityZone": found["AvailabilityZone"],
            "availabilityZoneId": found["AvailabilityZoneId"],
        }

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        del state
        # moto would delete a subnet in use; EC2 answers DependencyViolation. (Interfaces of NAT gateways stay in moto.)
        here = [{"Name": "subnet-id", "Values": [id_]}]
        for user in aws.ec2.describe_network_interfaces(Filters=here)["NetworkInterfaces"]:
            if user.get("Attachment", {}).get("InstanceId"):
                raise RuntimeError(f"DependencyViolation: {id_} is used by {user['Attachment']['InstanceId']}")
        aws.ec2.delete_subnet(SubnetId=id_)


class InternetGateway(Kind):
    properties: ClassVar[Mapping[str, Property]] = {
        "vpcId": Property(
            change=lambda aws, id_, vpc, _: aws.ec2.attach_internet_gateway(InternetGatewayId=id_, VpcId=vpc),
            refers="vpc",
        )
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        return str(aws.ec2.create_internet_gateway(**asked)["InternetGateway"]["InternetGatewayId"])

    def change(self, aws: Clients, id_: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        del aws
        if old.get("vpcId") != new.get("vpcId"):
            raise Unsupported(f"vpcId of {id_}")

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        aws.ec2.describe_internet_gateways(InternetGatewayIds=[id_])
        return {"arn": ec2_arn(aws, "internet-gateway", id_), "ownerId": account_id(aws)}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        (found,) = aws.ec2.describe_internet_gateways(InternetGatewayIds=[id_])["InternetGateways"]
        for attached in found["Attachments"]:
            aws.ec2.detach_internet_gateway(InternetGatewayId=id_, VpcId=attached["VpcId"])
        del state
        aws.ec2.delete_internet_gateway(InternetGatewayId=id_)


class NatGateway(Kind):
    properties: ClassVar[Mapping[str, Property]] = {
        "allocationId": Property("AllocationId", refers="address"),
        "subnetId": Property("SubnetId", refers="subnet"),
        "connectivityType": Property("ConnectivityType"),
        "privateIp": Property("PrivateIpAddress", computed=True),
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        return str(aws.ec2.create_nat_gateway(**asked)["NatGateway"]["NatGatewayId"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        found = aws.ec2.describe_nat_gateways(NatGatewayIds=[id_])["NatGateways"]
        if not found or found[0]["State"] == "deleted":
            raise LookupError(f"{id_} does not exist")
        addresses: list[dict[str, str]] = found[0].get("NatGatewayAddresses") or []
        address = addresses[0] if addresses else {}
        return {
            "publicIp": address.get("PublicIp", ""),
            "privateIp": address.get("PrivateIp", ""),
            "networkInterfaceId": address.get("NetworkInterfaceId", ""),
        }

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        self.look(aws, id_, state)
        aws.ec2.delete_nat_gateway(NatGatewayId=id_)


def _members(add: str, remove: str, there: str) -> Change:
    """Return the call that makes one list of an endpoint what is given."""

    def change(aws: Clients, id_: str, wanted: list[str], inputs: Mapping[str, Any]) -> None:
        del inputs
        found = aws.ec2.describe_vpc_endpoints(VpcEndpointIds=[id_])["VpcEndpoints"][0].get(there, [])
        now: list[str] = [each["GroupId"] if there == "Groups" else each for each in found]
        lists = {add: [each for each in wanted if each not in now], remove: [e for e in now if e not in wanted]}
        aws.ec2.modify_vpc_endpoint(VpcEndpointId=id_, **{key: value for key, value in lists.items() if value})

    return change


class VpcEndpoint(Kind):
    properties: ClassVar[Mapping[str, Property]] = {
        "vpcId": Property("VpcId", refers="vpc"),
        "serviceName": Property("ServiceName"),
        "vpcEndpointType": Property("VpcEndpointType"),
        "ipAddressType": Property("IpAddressType"),
        "privateDnsEnabled": Property("PrivateDnsEnabled"),
        "policy": Property(
            "PolicyDocument",
            change=lambda aws, id_, text, _: aws.ec2.modify_vpc_endpoint(VpcEndpointId=id_, PolicyDocument=text),
        ),
        "routeTableIds": Property(
            "RouteTableIds", change=_members("AddRouteTableIds", "RemoveRouteTableIds", "RouteTableIds"), refers="table"
        ),
        "subnetIds": Property(
            "SubnetIds", change=_members("AddSubnetIds", "RemoveSubnetIds", "SubnetIds"), refers="subnet"
        ),
        "securityGroupIds": Property(
            "SecurityGroupIds",
            change=_members("AddSecurityGroupIds", "RemoveSecurityGroupIds", "Groups"),
            refers="group",
        ),
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        # moto takes any name; EC2 knows the services of the region.
        known = aws.ec2.describe_vpc_endpoint_services()["ServiceNames"]
        if asked["ServiceName"] not in known:
            raise LookupError(f"InvalidServiceName: {asked['ServiceName']}")
        return str(aws.ec2.create_vpc_endpoint(**asked)["VpcEndpoint"]["VpcEndpointId"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        (found,) = aws.ec2.describe_vpc_endpoints(VpcEndpointIds=[id_])["VpcEndpoints"] or [None]
        if found is None or found["State"] == "deleted":
            raise LookupError(f"{id_} does not exist")
        by_name = [{"Name": "prefix-list-name", "Values": [state["serviceName"]]}]
        lists = aws.ec2.describe_managed_prefix_lists(Filters=by_name)["PrefixLists"]
        return {
            "arn": ec2_arn(aws, "vpc-endpoint", id_),
            "state": found["State"],
            "prefixListId": lists[0]["PrefixListId"] if lists else "",
        }

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        self.look(aws, id_, state)
        aws.ec2.delete_vpc_endpoints(VpcEndpointIds=[id_])


class FlowLog(Kind):
    properties: ClassVar[Mapping[str, Property]] = {
        "vpcId": Property("ResourceIds", lambda id_: [id_], refers="vpc"),
        "trafficType": Property("TrafficType"),
        "logDestination": Property("LogDestination"),
        "logDestinationType": Property("LogDestinationType"),
        "logFormat": Property("LogFormat"),
        "iamRoleArn": Property("DeliverLogsPermissionArn", refers="role arn"),
        "maxAggregationInterval": Property("MaxAggregationInterval"),
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        answer = aws.ec2.create_flow_logs(ResourceType="VPC", **asked)
        if answer["Unsuccessful"]:
            raise RuntimeError(str(answer["Unsuccessful"]))
        return str(answer["FlowLogIds"][0])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        if not aws.ec2.describe_flow_logs(FlowLogIds=[id_])["FlowLogs"]:
            raise LookupError(f"{id_} does not exist")
        return {"arn": ec2_arn(aws, "vpc-flow-log", id_)}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        self.look(aws, id_, state)
        aws.ec2.delete_flow_logs(FlowLogIds=[id_])


KINDS: Mapping[str, Kind] = {
    "aws:ec2/vpc:Vpc": Vpc(),
    "aws:ec2/subnet:Subnet": Subnet(),
    "aws:ec2/internetGateway:InternetGateway": InternetGateway(),
    "aws:ec2/natGateway:NatGateway": NatGateway(),
    "aws:ec2/vpcEndpoint:VpcEndpoint": VpcEndpoint(),
    "aws:ec2/flowLog:FlowLog": FlowLog(),
}
