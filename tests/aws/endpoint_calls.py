"""The calls of EC2 about Instance Connect Endpoints, which moto does not know, as further actions of moto's EC2."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from tests.aws.kind import Clients

# The quota as we remember it; no source was at hand.
FOR_EACH_VPC = 1
SSH = 22


class Endpoints:
    """The endpoints of an account. dns_name: where all of them are here."""

    def __init__(self, dns_name: str) -> None:
        self._dns_name = dns_name
        self._made: dict[str, dict[str, Any]] = {}

    @property
    def ids(self) -> list[str]:
        """Return the ids of those that are there."""
        return [*self._made]

    @contextmanager
    def added_to_moto(self) -> Generator[None]:
        """Make moto's server of this process take the calls."""
        responses: Any = importlib.import_module("moto.ec2.responses")
        results: Any = importlib.import_module("moto.core.responses")
        errors: Any = importlib.import_module("moto.ec2.exceptions")

        def create(request: Any) -> Any:
            backend, groups = request.ec2_backend, request._get_param("SecurityGroupIds", [])
            subnet = backend.get_subnet(request._get_param("SubnetId"))
            if sum(each["VpcId"] == subnet.vpc_id for each in self._made.values()) >= FOR_EACH_VPC:
                raise errors.EC2ClientError("InstanceConnectEndpointLimitExceeded", f"{subnet.vpc_id} has one")
            id_ = f"eice-{secrets.token_hex(8)}{secrets.randbelow(16):x}"
            interface = backend.create_network_interface(subnet, None, group_ids=groups, description=id_)
            self._made[id_] = {
                "InstanceConnectEndpointId": id_,
                "State": "create-complete",
                "DnsName": self._dns_name,
                "NetworkInterfaceIds": [interface.id],
                "VpcId": subnet.vpc_id,
                "SubnetId": subnet.id,
                "SecurityGroupIds": groups,
                "PreserveClientIp": request._get_bool_param("PreserveClientIp", False),
            }
            return results.ActionResult({"InstanceConnectEndpoint": self._made[id_]})

        def find(id_: str) -> dict[str, Any]:
            if id_ not in self._made:
                raise errors.EC2ClientError("InvalidInstanceConnectEndpointId.NotFound", f"{id_} does not exist")
            return self._made[id_]

        def describe(request: Any) -> Any:
            asked = request._get_param("InstanceConnectEndpointIds", [])
            found = [find(id_) for id_ in asked] if asked else list(self._made.values())
            return results.ActionResult({"InstanceConnectEndpoints": found})

        def delete(request: Any) -> Any:
            found = find(request._get_param("InstanceConnectEndpointId"))
            request.ec2_backend.delete_network_interface(found["NetworkInterfaceIds"][0])
            del self._made[found["InstanceConnectEndpointId"]]
            return results.ActionResult({"InstanceConnectEndpoint": found | {"State": "delete-in-progress"}})

        with ExitStack() as stack:
            for verb, call in (("create", create), ("delete", delete)):
                name = f"{verb}_instance_connect_endpoint"
                stack.enter_context(mock.patch.object(responses.EC2Response, name, call, create=True))
            prefixes = {"instance-connect-endpoint": "eice"}
            stack.enter_context(mock.patch.dict("moto.ec2.utils.EC2_RESOURCE_TO_PREFIX", prefixes))
            name = "describe_instance_connect_endpoints"
            stack.enter_context(mock.patch.object(responses.EC2Response, name, describe, create=True))
            yield


def find_machine(aws: Clients, address: str) -> str | None:
    """Return the instance at an address, where rules let an endpoint out to it and let it in; None for no such."""
    expected = [
        {"Name": "private-ip-address", "Values": [address]},
        {"Name": "instance-state-name", "Values": ["running"]},
    ]
    found = [
        each for page in aws.ec2.describe_instances(Filters=expected)["Reservations"] for each in page["Instances"]
    ]
    for instance in found:
        own = {each["GroupId"] for interface in instance["NetworkInterfaces"] for each in interface["Groups"]}
        endpoints = endpoint_groups(aws)
        rules = [each for each in ssh_rules(aws) if (other := _other(each)) and {each["GroupId"], other} & own]
        lets_in = {_other(each) for each in rules if not each["IsEgress"] and each["GroupId"] in own}
        lets_out = {each["GroupId"] for each in rules if each["IsEgress"] and _other(each) in own}
        if endpoints & lets_in & lets_out:
            return str(instance["InstanceId"])
    return None


def is_open_elsewhere(aws: Clients) -> bool:
    """Return whether a rule opens port 22 to something that is no endpoint."""
    endpoints = endpoint_groups(aws)
    return any(_other(each) not in endpoints for each in ssh_rules(aws) if not each["IsEgress"])


def endpoint_groups(aws: Clients) -> set[str]:
    there: list[Mapping[str, Any]] = aws.ec2.describe_instance_connect_endpoints()["InstanceConnectEndpoints"]
    return {id_ for each in there for id_ in each["SecurityGroupIds"]}


def ssh_rules(aws: Clients) -> list[Mapping[str, Any]]:
    rules: list[Mapping[str, Any]] = aws.ec2.describe_security_group_rules()["SecurityGroupRules"]
    return [each for each in rules if each["IpProtocol"] == "-1" or each["FromPort"] <= SSH <= each["ToPort"]]


def _other(rule: Mapping[str, Any]) -> str:
    """Return the group at the other end of a rule; "" for addresses."""
    return str(rule.get("ReferencedGroupInfo", {}).get("GroupId", ""))
