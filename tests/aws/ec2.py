"""Instances, VPCs and what is in them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from tests.aws.kind import (
    LOCAL,
    Change,
    Clients,
    Create,
    Kind,
    Look,
    Property,
    first,
    in_place,
    pairs,
    pascal,
    retag_ec2,
    same,
)

VPC_ID = Property("VpcId", refers="vpc")


def attribute(noun: str, parameter: str) -> Change:
    """Return the call that sets one attribute of a VPC, a subnet or an instance."""
    id_of = {"vpc": "VpcId", "subnet": "SubnetId", "instance": "InstanceId"}[noun]
    return lambda aws, id_, value, _: getattr(aws.ec2, f"modify_{noun}_attribute")(
        **{id_of: id_, parameter: {"Value": value}}
    )


def look_up(describe: str, by: str, key: str, outputs: Mapping[str, str]) -> Look:
    """Return a look by the ids of a call. outputs: of the state -> where they stand in the answer."""

    def look(aws: Clients, id_: str, _state: Mapping[str, Any]) -> Mapping[str, Any]:
        found = first(getattr(aws.ec2, describe)(**{by: [id_]})[key], id_)
        return {name: found[place] for name, place in outputs.items()}

    return look


def instance(aws: Clients, id_: str) -> dict[str, Any]:
    """Return an instance as describe_instances shows it."""
    found: dict[str, Any] = aws.ec2.describe_instances(InstanceIds=[id_])["Reservations"][0]["Instances"][0]
    return found


ON_INTERFACE = ("AssociatePublicIpAddress", "SubnetId", "Ipv6AddressCount")


def _create_instance(aws: Clients, asked: dict[str, Any], _inputs: Mapping[str, Any]) -> str:
    image = aws.ec2.describe_images(ImageIds=[asked["ImageId"]])["Images"][0]
    disk = {**asked.pop("BlockDeviceMappings", {})}
    tags = disk.pop("tags", {})
    if disk:
        asked["BlockDeviceMappings"] = [{"DeviceName": image["RootDeviceName"], "Ebs": pascal(disk)}]
    # A public address is asked for on the interface alone, which then takes the groups and the subnet as well.
    interface = {"DeviceIndex": 0, "DeleteOnTermination": True, "Groups": asked.pop("SecurityGroupIds", [])}
    interface |= {key: asked.pop(key) for key in ON_INTERFACE if key in asked}
    made = aws.ec2.run_instances(MinCount=1, MaxCount=1, NetworkInterfaces=[interface], **asked)["Instances"][0]
    id_ = str(made["InstanceId"])
    volume = instance(aws, id_)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    if tags:
        aws.ec2.create_tags(Resources=[volume], Tags=pairs(tags))
    return id_


def _look_at_instance(aws: Clients, id_: str, _state: Mapping[str, Any]) -> Mapping[str, Any]:
    found = instance(aws, id_)
    if found["State"]["Name"] == "terminated":
        raise LookupError(f"{id_} is terminated")
    return {"privateIp": found["PrivateIpAddress"]}


def _terminate(aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
    if state.get("forceDestroy"):
        aws.ec2.modify_instance_attribute(InstanceId=id_, DisableApiTermination={"Value": False})
    aws.ec2.terminate_instances(InstanceIds=[id_])


def _reprofile(aws: Clients, id_: str, name: str | None, _inputs: Mapping[str, Any]) -> None:
    by_instance = [{"Name": "instance-id", "Values": [id_]}]
    found = aws.ec2.describe_iam_instance_profile_associations(Filters=by_instance)["IamInstanceProfileAssociations"]
    for each in found:
        aws.ec2.disassociate_iam_instance_profile(AssociationId=each["AssociationId"])
    if name:
        aws.ec2.associate_iam_instance_profile(InstanceId=id_, IamInstanceProfile={"Name": name})


def _look_at_association(aws: Clients, id_: str, _state: Mapping[str, Any]) -> Mapping[str, Any]:
    first((each for each in aws.ec2.describe_addresses()["Addresses"] if each.get("AssociationId") == id_), id_)
    return {}


def _disassociate(aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
    # An association that moved on has another id: that one is not ours to end.
    _look_at_association(aws, id_, state)
    aws.ec2.disassociate_address(AssociationId=id_)


def _create_group(aws: Clients, asked: dict[str, Any], _inputs: Mapping[str, Any]) -> str:
    id_ = str(aws.ec2.create_security_group(**asked)["GroupId"])
    # EC2 opens a new group outwards; the provider takes that back.
    _revoke_all(aws, id_)
    return id_


def _delete_group(aws: Clients, id_: str, _state: Mapping[str, Any]) -> None:
    # moto would delete a group in use; EC2 answers DependencyViolation.
    by_group = [{"Name": "group-id", "Values": [id_]}]
    interfaces = aws.ec2.describe_network_interfaces(Filters=by_group)["NetworkInterfaces"]
    rules = aws.ec2.describe_security_group_rules()["SecurityGroupRules"]
    others = [each for each in rules if each.get("ReferencedGroupInfo", {}).get("GroupId") == id_ != each["GroupId"]]
    if interfaces or others:
        raise RuntimeError(f"DependencyViolation: {id_} is used by {interfaces or others}")
    aws.ec2.delete_security_group(GroupId=id_)


def _adopt_group(aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
    """Return the group that a VPC has from the start, without rules."""
    if inputs.get("ingress") or inputs.get("egress"):
        raise NotImplementedError("rules of a default group")
    filters = [{"Name": "vpc-id", "Values": [asked["VpcId"]]}, {"Name": "group-name", "Values": ["default"]}]
    (group,) = aws.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    _revoke_all(aws, group["GroupId"])
    return str(group["GroupId"])


def _revoke_all(aws: Clients, id_: str) -> None:
    group = aws.ec2.describe_security_groups(GroupIds=[id_])["SecurityGroups"][0]
    for direction, key in (("ingress", "IpPermissions"), ("egress", "IpPermissionsEgress")):
        if group[key]:
            getattr(aws.ec2, f"revoke_security_group_{direction}")(GroupId=id_, IpPermissions=group[key])


def _rule(direction: str) -> Kind:
    """Return the type of rules with one end: a CIDR or a group."""

    def create(aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        ends = {
            "IpRanges": [{"CidrIp": inputs["cidrIpv4"]}] if inputs.get("cidrIpv4") else [],
            "Ipv6Ranges": [{"CidrIpv6": inputs["cidrIpv6"]}] if inputs.get("cidrIpv6") else [],
            "UserIdGroupPairs": [{"GroupId": id_} for id_ in [inputs.get("referencedSecurityGroupId")] if id_],
        }
        if sum(map(len, ends.values())) != 1:
            raise ValueError(f"a rule has one other end; this one has {ends}")
        permission = {key: asked[key] for key in ("IpProtocol", "FromPort", "ToPort") if key in asked}
        call = getattr(aws.ec2, f"authorize_security_group_{direction}")
        response = call(GroupId=asked["GroupId"], IpPermissions=[permission | ends])
        return str(response["SecurityGroupRules"][0]["SecurityGroupRuleId"])

    def delete(aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        call = getattr(aws.ec2, f"revoke_security_group_{direction}")
        call(GroupId=state["securityGroupId"], SecurityGroupRuleIds=[id_])

    return Kind(
        properties={
            "securityGroupId": Property("GroupId", refers="group"),
            **same("ipProtocol", "fromPort", "toPort", "cidrIpv4", "cidrIpv6", change=in_place),
            "referencedSecurityGroupId": Property("ReferencedGroupId", change=in_place, refers="group"),
        },
        create=create,
        look=look_up("describe_security_group_rules", "SecurityGroupRuleIds", "SecurityGroupRules", {}),
        delete=delete,
    )


def create_by_call(method: str, *path: str) -> Create:
    """Return a creation by one call, whose answer has the id at that path."""

    def create(aws: Clients, asked: dict[str, Any], _inputs: Mapping[str, Any]) -> str:
        response = getattr(aws.ec2, method)(**asked)
        for key in path:
            response = response[key]
        return str(response)

    return create


_look_at_group = look_up("describe_security_groups", "GroupIds", "SecurityGroups", {})
KINDS: Mapping[str, Kind] = {
    "aws:ec2/instance:Instance": Kind(
        properties={
            "ami": Property("ImageId", refers="ami"),
            "instanceType": Property("InstanceType", change=in_place),
            "keyName": Property("KeyName", refers="key"),
            "subnetId": Property("SubnetId", refers="subnet"),
            "vpcSecurityGroupIds": Property("SecurityGroupIds", refers="group", change=in_place),
            "associatePublicIpAddress": Property("AssociatePublicIpAddress"),
            "ipv6AddressCount": Property("Ipv6AddressCount"),
            "iamInstanceProfile": Property(
                "IamInstanceProfile", lambda name: {"Name": name}, change=_reprofile, refers="profile", removable=True
            ),
            # With userDataReplaceOnChange; without it the stand-in replaces as well.
            "userDataBase64": Property("UserData", base64.b64decode),
            "userDataReplaceOnChange": LOCAL,
            "metadataOptions": Property("MetadataOptions", pascal, change=in_place),
            "rootBlockDevice": Property("BlockDeviceMappings", change=in_place),
            "monitoring": Property("Monitoring", lambda on: {"Enabled": on}, change=in_place),
            "disableApiTermination": Property(
                "DisableApiTermination", change=attribute("instance", "DisableApiTermination")
            ),
            "maintenanceOptions": Property("MaintenanceOptions", pascal, change=in_place),
            "forceDestroy": LOCAL,
        },
        create=_create_instance,
        look=_look_at_instance,
        delete=_terminate,
    ),
    "aws:ec2/keyPair:KeyPair": Kind(
        named_by="keyName",
        properties={"keyName": Property("KeyName"), "publicKey": Property("PublicKeyMaterial")},
        create=create_by_call("import_key_pair", "KeyName"),
        look=look_up("describe_key_pairs", "KeyNames", "KeyPairs", {"keyPairId": "KeyPairId"}),
        delete=lambda aws, id_, _: aws.ec2.delete_key_pair(KeyName=id_),
        retag=lambda aws, _, state, old, new: retag_ec2(aws, state["keyPairId"], state, old, new),
    ),
    "aws:ec2/eip:Eip": Kind(
        properties={"domain": Property("Domain")},
        create=create_by_call("allocate_address", "AllocationId"),
        look=look_up(
            "describe_addresses", "AllocationIds", "Addresses", {"allocationId": "AllocationId", "publicIp": "PublicIp"}
        ),
        delete=lambda aws, id_, _: aws.ec2.release_address(AllocationId=id_),
    ),
    "aws:ec2/eipAssociation:EipAssociation": Kind(
        properties={
            "allocationId": Property("AllocationId", refers="address"),
            "instanceId": Property("InstanceId", refers="instance"),
            "allowReassociation": Property("AllowReassociation"),
        },
        create=create_by_call("associate_address", "AssociationId"),
        look=_look_at_association,
        delete=_disassociate,
        retag=None,
    ),
    "aws:ec2/securityGroup:SecurityGroup": Kind(
        named_by="name",
        properties={"name": Property("GroupName"), "description": Property("Description"), "vpcId": VPC_ID},
        create=_create_group,
        look=_look_at_group,
        delete=_delete_group,
    ),
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": Kind(
        properties={"vpcId": VPC_ID, "ingress": LOCAL, "egress": LOCAL},
        create=_adopt_group,
        look=_look_at_group,
        # Pulumi only forgets it.
        delete=lambda _aws, _id, _state: None,
    ),
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": _rule("ingress"),
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": _rule("egress"),
}
