"""Controls of EC2 Auto Scaling and of launch templates, as policies/controls.py has those of other services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from policies.control import block, control, judge_each

GROUP, TEMPLATE = "aws:autoscaling/group:Group", "aws:ec2/launchTemplate:LaunchTemplate"
# In two zones (AutoScaling.2 by its default).
MIN_SUBNETS = 2
Inputs = Mapping[str, Any]


def _blocks(inputs: Inputs, key: str) -> list[Inputs]:
    return cast("list[Inputs]", inputs.get(key) or [])


def _requires_sessions(inputs: Inputs) -> bool:
    return block(inputs, "metadataOptions").get("httpTokens") == "required"


def _has_no_public_address(inputs: Inputs) -> bool:
    return all(each.get("associatePublicIpAddress") == "false" for each in _blocks(inputs, "networkInterfaces"))


def _is_encrypted(inputs: Inputs) -> bool:
    disks = _blocks(inputs, "blockDeviceMappings")
    return bool(disks) and all(block(each, "ebs").get("encrypted") == "true" for each in disks)


control("AutoScaling.1", "groups behind a load balancer believe it about health", "set health_check_type: ELB")(
    judge_each(
        GROUP,
        lambda given: not given.get("targetGroupArns") or given.get("healthCheckType") == "ELB",
        "it keeps servers that do not respond",
    )
)
control("AutoScaling.2", "groups stand in several zones", "name another zone, or another subnet")(
    judge_each(GROUP, lambda given: len(given.get("vpcZoneIdentifiers") or ()) >= MIN_SUBNETS, "it is in one zone")
)
control("AutoScaling.9", "groups launch by a template", "set launch_template")(
    judge_each(
        GROUP,
        lambda given: bool(given.get("launchTemplate") or given.get("mixedInstancesPolicy")),
        "it launches by something else",
    )
)
control("EC2.25", "launch templates give no public address", "set associate_public_ip_address to false")(
    judge_each(TEMPLATE, _has_no_public_address, "its instances get one")
)
control("EC2.170", "launch templates ask for a session with instance metadata", "set http_tokens to required")(
    judge_each(TEMPLATE, _requires_sessions, "a request that is led there gets the role's keys")
)
control("EC2.181", "launch templates encrypt disks", "set encrypted in block_device_mappings")(
    judge_each(TEMPLATE, _is_encrypted, "a disk is not encrypted")
)
