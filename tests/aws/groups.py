"""Security groups and their rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tests.aws.kind import LOCAL, Clients, Kind, Property, account_id, ec2_arn

Direction = Literal["ingress", "egress"]


class SecurityGroup(Kind):
    """Rules inside a group are not known here on purpose: they fight with rules that are resources."""

    named_by = "name"
    properties: ClassVar[Mapping[str, Property]] = {
        "name": Property("GroupName"),
        "description": Property("Description"),
        "vpcId": Property("VpcId", refers="vpc"),
        "revokeRulesOnDelete": LOCAL,
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        id_ = aws.ec2.create_security_group(**asked)["GroupId"]
        # EC2 opens a new group outwards; the provider takes that back.
        revoke_all(aws, id_, "egress")
        return str(id_)

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        aws.ec2.describe_security_groups(GroupIds=[id_])
        owner = account_id(aws)
        return {"arn": ec2_arn(aws, "security-group", id_), "ownerId": owner}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        if state.get("revokeRulesOnDelete"):
            revoke_all(aws, id_, "ingress")
            revoke_all(aws, id_, "egress")
        # moto would delete a group in use; EC2 answers DependencyViolation.
        by_group = [{"Name": "group-id", "Values": [id_]}]
        users = [
            each["NetworkInterfaceId"]
            for each in aws.ec2.describe_network_interfaces(Filters=by_group)["NetworkInterfaces"]
        ]
        rules = aws.ec2.describe_security_group_rules()["SecurityGroupRules"]
        users += [
            each["SecurityGroupRuleId"]
            for each in rules
            if each.get("ReferencedGroupInfo", {}).get("GroupId") == id_ and each["GroupId"] != id_
        ]
        if users:
            raise RuntimeError(f"DependencyViolation: {id_} is used by {', '.join(users)}")
        aws.ec2.delete_security_group(GroupId=id_)


class DefaultSecurityGroup(Kind):
    """The group that a VPC has from the start: adopted with exactly the given rules, and left when it is deleted."""

    properties: ClassVar[Mapping[str, Property]] = {
        "vpcId": Property("VpcId", refers="vpc"),
        "ingress": Property(change=lambda aws, id_, rules, _: set_rules(aws, id_, "ingress", rules)),
        "egress": Property(change=lambda aws, id_, rules, _: set_rules(aws, id_, "egress", rules)),
        "revokeRulesOnDelete": LOCAL,
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        filters = [{"Name": "vpc-id", "Values": [asked["VpcId"]]}, {"Name": "group-name", "Values": ["default"]}]
        (group,) = aws.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        id_ = str(group["GroupId"])
        set_rules(aws, id_, "ingress", [])
        set_rules(aws, id_, "egress", [])
        return id_

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        return {**SecurityGroup().look(aws, id_, state), "name": "default", "description": "default VPC security group"}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        """Do nothing: Pulumi only forgets it."""


def _modify(aws: Clients, id_: str, value: Any, inputs: Mapping[str, Any]) -> None:
    del value
    rule = {
        "IpProtocol": inputs["ipProtocol"],
        "FromPort": inputs.get("fromPort", -1),
        "ToPort": inputs.get("toPort", -1),
        "CidrIpv4": inputs.get("cidrIpv4"),
        "CidrIpv6": inputs.get("cidrIpv6"),
        "ReferencedGroupId": inputs.get("referencedSecurityGroupId"),
        "PrefixListId": inputs.get("prefixListId"),
        "Description": inputs.get("description"),
    }
    rule = {key: item for key, item in rule.items() if item is not None}
    aws.ec2.modify_security_group_rules(
        GroupId=inputs["securityGroupId"],
        SecurityGroupRules=[{"SecurityGroupRuleId": id_, "SecurityGroupRule": rule}],
    )


class _Rule(Kind):
    """One end: a CIDR, a group or a prefix list."""

    direction: ClassVar[Direction]

    properties: ClassVar[Mapping[str, Property]] = {
        "securityGroupId": Property("GroupId", refers="group"),
        **{
            name: Property(name, change=_modify, refers=refers)
            for name, refers in {
                "ipProtocol": "",
                "fromPort": "",
                "toPort": "",
                "cidrIpv4": "",
                "cidrIpv6": "",
                "referencedSecurityGroupId": "group",
                "prefixListId": "",
                "description": "",
            }.items()
        },
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        call = getattr(aws.ec2, f"authorize_security_group_{self.direction}")
        answer = call(GroupId=asked["GroupId"], IpPermissions=[permission(inputs)])
        return str(answer["SecurityGroupRules"][0]["SecurityGroupRuleId"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        aws.ec2.describe_security_group_rules(SecurityGroupRuleIds=[id_])
        arn = ec2_arn(aws, "security-group-rule", id_)
        return {"arn": arn, "securityGroupRuleId": id_}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        call = getattr(aws.ec2, f"revoke_security_group_{self.direction}")
        call(GroupId=state["securityGroupId"], SecurityGroupRuleIds=[id_])


class IngressRule(_Rule):
    direction = "ingress"


class EgressRule(_Rule):
    direction = "egress"


def permission(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule as EC2 takes it for a group. EC2, too, requires exactly one other end."""
    words = {"Description": rule["description"]} if rule.get("description") else {}
    ends = {
        "IpRanges": [{"CidrIp": rule["cidrIpv4"], **words}] if rule.get("cidrIpv4") else [],
        "Ipv6Ranges": [{"CidrIpv6": rule["cidrIpv6"], **words}] if rule.get("cidrIpv6") else [],
        "PrefixListIds": [{"PrefixListId": rule["prefixListId"], **words}] if rule.get("prefixListId") else [],
        "UserIdGroupPairs": [{"GroupId": id_, **words} for id_ in [rule.get("referencedSecurityGroupId")] if id_],
    }
    ends = {key: value for key, value in ends.items() if value}
    if len(ends) != 1:
        raise ValueError(f"a rule has one other end; this one has {sorted(ends)}")
    ports = {"FromPort": rule.get("fromPort"), "ToPort": rule.get("toPort")}
    return {"IpProtocol": rule["ipProtocol"], **{k: v for k, v in ports.items() if v is not None}, **ends}


def revoke_all(aws: Clients, id_: str, direction: Direction) -> None:
    group = aws.ec2.describe_security_groups(GroupIds=[id_])["SecurityGroups"][0]
    if there := group["IpPermissions" if direction == "ingress" else "IpPermissionsEgress"]:
        getattr(aws.ec2, f"revoke_security_group_{direction}")(GroupId=id_, IpPermissions=there)


def set_rules(aws: Clients, id_: str, direction: Direction, rules: list[dict[str, Any]]) -> None:
    """Replace all rules by these, which have the form that groups contain: lists of ends."""
    revoke_all(aws, id_, direction)
    for rule in rules:
        ends = {
            "IpRanges": [{"CidrIp": cidr} for cidr in rule.get("cidrBlocks", [])],
            "UserIdGroupPairs": [{"GroupId": group} for group in rule.get("securityGroups", [])]
            + [{"GroupId": id_}] * bool(rule.get("self")),
        }
        asked = {"IpProtocol": rule["protocol"], "FromPort": rule["fromPort"], "ToPort": rule["toPort"], **ends}
        getattr(aws.ec2, f"authorize_security_group_{direction}")(GroupId=id_, IpPermissions=[asked])


KINDS: Mapping[str, Kind] = {
    "aws:ec2/securityGroup:SecurityGroup": SecurityGroup(),
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": DefaultSecurityGroup(),
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": IngressRule(),
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": EgressRule(),
}
