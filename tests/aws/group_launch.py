"""Launches the instances of groups: in EC2 by the launch template, and as a machine."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import ClientError

from tests.aws.group_calls import template_and_types
from tests.aws.kind import Clients, pairs
from tests.aws.launch_template import resolve
from tests.aws.machines import Machines
from tests.aws.scaling_group import Group, Instance


class Launcher:
    """Launches instances; their machines by threads of the pool. closed: zones in which AWS has no machine left."""

    def __init__(self, aws: Clients, machines: Machines, pool: ThreadPoolExecutor) -> None:
        self._aws, self._machines, self._pool = aws, machines, pool
        self.closed: set[str] = set()

    def launch(self, group: Group, zones: Mapping[str, str]) -> bool:
        """Launch an instance where the group has the fewest; return whether AWS could. zones: of subnets."""
        specification, types = template_and_types(group.configuration)
        policy: Mapping[str, Any] = group.configuration.get("MixedInstancesPolicy", {})
        is_spot = bool(policy) and group.wants_spot(policy.get("InstancesDistribution", {}))
        cause = "an instance was started in response to a difference between desired and actual capacity"
        for subnet in group.next_subnets(zones):
            activity = group.note("Launching a new EC2 instance", cause)
            try:
                if zones[subnet] in self.closed:
                    raise LookupError(f"InsufficientInstanceCapacity: {zones[subnet]} has none left")
                template, asked = resolve(self._aws, specification)
                if types:
                    asked["InstanceType"] = types[0]
                id_ = self._run(group, template, asked, subnet, is_spot=is_spot)
            except (ClientError, LookupError) as error:
                activity.description += f".  Status Reason: {error}"
                activity.end("Failed", str(error))
                continue
            activity.description += f": {id_}"
            group.launched, group.current = group.launched + 1, template
            group.instances[id_] = Instance(
                id_,
                asked["InstanceType"],
                zones[subnet],
                template,
                group.launched,
                is_spot=is_spot,
                target="InService",
                work=self._pool.submit(self._start, id_),
                activity=activity,
            )
            return True
        return False

    def _start(self, id_: str) -> None:
        """Start the machine of an instance, and lead its public address there, if it has one."""
        self._machines.launch(id_)
        self._machines.publish()

    def _run(
        self, group: Group, template: Mapping[str, str], asked: dict[str, Any], subnet: str, *, is_spot: bool
    ) -> str:
        """Run an instance in moto, and return its id."""
        interfaces: list[dict[str, Any]] = asked.pop("NetworkInterfaces")
        interfaces[0] = {"DeleteOnTermination": True, **interfaces[0], "SubnetId": subnet}
        own = {each["Key"]: each["Value"] for each in group.tags if each.get("PropagateAtLaunch")}
        own |= {
            "aws:autoscaling:groupName": group.name,
            "aws:ec2launchtemplate:id": template["LaunchTemplateId"],
            "aws:ec2launchtemplate:version": template["Version"],
        }
        tagged: list[dict[str, Any]] = asked.pop("TagSpecifications", [])
        rest = [each for each in tagged if each["ResourceType"] != "instance"]
        kept = [tag for each in tagged if each not in rest for tag in each["Tags"] if tag["Key"] not in own]
        specifications = [*rest, {"ResourceType": "instance", "Tags": [*kept, *pairs(own)]}]
        market = {"InstanceMarketOptions": {"MarketType": "spot"}} if is_spot else {}
        made = self._aws.ec2.run_instances(
            MinCount=1, MaxCount=1, NetworkInterfaces=interfaces, TagSpecifications=specifications, **market, **asked
        )
        return str(made["Instances"][0]["InstanceId"])
