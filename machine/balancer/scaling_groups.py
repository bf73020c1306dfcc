"""Asks EC2 Auto Scaling which machines are in service, by the role of this machine. Standard library only.

See docs.aws.amazon.com/autoscaling/ec2/APIReference/ and docs.aws.amazon.com/AWSEC2/latest/APIReference/.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from urllib.parse import urlencode
from xml.etree import ElementTree

from aws_service import Service

FORM = "application/x-www-form-urlencoded; charset=utf-8"
SCALING, EC2 = "2011-01-01", "2016-11-15"
# Names that one call takes, and values of one filter.
NAMES_PER_CALL, VALUES_PER_FILTER = 50, 200


class ScalingGroups:
    """Raises OSError without metadata. Methods raise aws_service.Refused, OSError, HTTPException or ParseError."""

    def __init__(self) -> None:
        self._scaling, self._ec2 = Service("autoscaling"), Service("ec2")
        # Instance -> private address, which it keeps.
        self._addresses: dict[str, str] = {}

    def in_service(self, names: Collection[str]) -> dict[str, dict[str, str]]:
        """Return group -> private address -> instance, of all in service. A missing group is left out."""
        found: dict[str, list[str]] = {}
        every = sorted(names)
        for start in range(0, len(every), NAMES_PER_CALL):
            query = _numbered("AutoScalingGroupNames.member", every[start : start + NAMES_PER_CALL])
            for group in self._pages("DescribeAutoScalingGroups", query):
                # As they are: a name has no blank and no tag in it.
                found[group.findtext("{*}AutoScalingGroupName", "")] = [
                    each.findtext("{*}InstanceId", "")
                    for each in group.iterfind("{*}Instances/{*}member")
                    if each.findtext("{*}LifecycleState") == "InService"
                ]
        self._learn_addresses({id_ for ids in found.values() for id_ in ids})
        return {
            name: {self._addresses[id_]: id_ for id_ in ids if id_ in self._addresses} for name, ids in found.items()
        }

    def condemn(self, id_: str) -> None:
        """Have the group of an instance put another one in its place."""
        query = {"InstanceId": id_, "HealthStatus": "Unhealthy", "ShouldRespectGracePeriod": "false"}
        self._call(self._scaling, SCALING, "SetInstanceHealth", query)

    @property
    def machine(self) -> str:
        """Return the id of this instance."""
        return self._ec2.machine

    def take_address(self, allocation: str) -> None:
        """Have an Elastic IP lead to this instance, wherever it leads now."""
        query = {"AllocationId": allocation, "InstanceId": self.machine, "AllowReassociation": "true"}
        self._call(self._ec2, EC2, "AssociateAddress", query)

    def members(self, name: str) -> set[str]:
        """Return the instances of a group, whatever they do."""
        query = _numbered("AutoScalingGroupNames.member", [name])
        return {
            each.findtext("{*}InstanceId", "")
            for group in self._pages("DescribeAutoScalingGroups", query)
            for each in group.iterfind("{*}Instances/{*}member")
        }

    def _pages(self, action: str, query: Mapping[str, str]) -> Iterator[ElementTree.Element]:
        """Yield the groups of each page of a response."""
        token = ""
        while True:
            more = {"NextToken": token} if token else {}
            root = self._call(self._scaling, SCALING, action, {**query, "MaxRecords": "100", **more})
            yield from root.iterfind(f"{{*}}{action}Result/{{*}}AutoScalingGroups/{{*}}member")
            token = root.findtext(f"{{*}}{action}Result/{{*}}NextToken", "")
            if not token:
                return

    def _learn_addresses(self, ids: Collection[str]) -> None:
        """Query EC2 for the addresses of new instances, and forget those that left."""
        self._addresses = {id_: address for id_, address in self._addresses.items() if id_ in ids}
        new = sorted({*ids} - self._addresses.keys())
        for start in range(0, len(new), VALUES_PER_FILTER):
            query = _numbered("Filter.1.Value", new[start : start + VALUES_PER_FILTER]) | {
                "Filter.1.Name": "instance-id"
            }
            root = self._call(self._ec2, EC2, "DescribeInstances", query)
            for each in root.iterfind(".//{*}instancesSet/{*}item"):
                if address := each.findtext("{*}privateIpAddress", ""):
                    self._addresses[each.findtext("{*}instanceId", "")] = address

    def _call(self, service: Service, version: str, action: str, query: Mapping[str, str]) -> ElementTree.Element:
        form = urlencode({"Action": action, "Version": version, **query})
        return ElementTree.fromstring(service.post(FORM, form.encode()))  # noqa: S314  AWS, by TLS


def _numbered(name: str, values: Collection[str]) -> dict[str, str]:
    return {f"{name}.{number}": value for number, value in enumerate(values, 1)}
