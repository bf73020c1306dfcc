"""Instances, their key pairs and addresses."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.aws.kind import LOCAL, Change, Clients, Kind, Property, Unsupported, ec2_arn, pairs, pascal


def _attribute(parameter: str) -> Change:
    """Return the call that sets one attribute of an instance."""
    return lambda aws, id_, value, _: aws.ec2.modify_instance_attribute(
        InstanceId=id_, **{parameter: {"Value": value} if parameter != "Groups" else value}
    )


def _retype(aws: Clients, id_: str, value: str, inputs: Mapping[str, Any]) -> None:
    del inputs
    aws.ec2.stop_instances(InstanceIds=[id_])
    aws.ec2.modify_instance_attribute(InstanceId=id_, InstanceType={"Value": value})
    aws.ec2.start_instances(InstanceIds=[id_])


def _not_in_moto(aws: Clients, id_: str, value: Any, inputs: Mapping[str, Any]) -> None:
    """Raise Unsupported: EC2 changes it in place, and moto does not know the call."""
    del aws, inputs
    raise Unsupported(f"{id_}: moto cannot change it to {value!r}")


def _reprofile(aws: Clients, id_: str, name: str, inputs: Mapping[str, Any]) -> None:
    del inputs
    by_instance = [{"Name": "instance-id", "Values": [id_]}]
    found = aws.ec2.describe_iam_instance_profile_associations(Filters=by_instance)["IamInstanceProfileAssociations"]
    if found:
        aws.ec2.replace_iam_instance_profile_association(
            AssociationId=found[0]["AssociationId"], IamInstanceProfile={"Name": name}
        )
    else:
        aws.ec2.associate_iam_instance_profile(InstanceId=id_, IamInstanceProfile={"Name": name})


def _unprofile(aws: Clients, id_: str) -> None:
    by_instance = [{"Name": "instance-id", "Values": [id_]}]
    for each in aws.ec2.describe_iam_instance_profile_associations(Filters=by_instance)[
        "IamInstanceProfileAssociations"
    ]:
        aws.ec2.disassociate_iam_instance_profile(AssociationId=each["AssociationId"])


def _redisk(aws: Clients, id_: str, disk: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    del inputs
    volume = root_volume(aws, id_)
    names = {"volumeSize": "Size", "volumeType": "VolumeType", "iops": "Iops", "throughput": "Throughput"}
    there = aws.ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]
    asked = {names[key]: value for key, value in disk.items() if key in names and there.get(names[key]) != value}
    if asked:
        aws.ec2.modify_volume(VolumeId=volume, **asked)
    if disk.get("tags"):
        aws.ec2.create_tags(Resources=[volume], Tags=pairs(disk["tags"]))


class Instance(Kind):
    """Changed user-data replaces, as with userDataReplaceOnChange; without that it is rejected."""

    properties: ClassVar[Mapping[str, Property]] = {
        "ami": Property("ImageId", refers="ami"),
        "instanceType": Property("InstanceType", change=_retype),
        "keyName": Property("KeyName", refers="key"),
        "subnetId": Property("SubnetId", refers="subnet"),
        "vpcSecurityGroupIds": Property("SecurityGroupIds", refers="group", change=_attribute("Groups")),
        "associatePublicIpAddress": Property("AssociatePublicIpAddress"),
        "privateIp": Property("PrivateIpAddress", computed=True),
        "availabilityZone": Property("Placement", lambda zone: {"AvailabilityZone": zone}, computed=True),
        "iamInstanceProfile": Property(
            "IamInstanceProfile", lambda name: {"Name": name}, change=_reprofile, refers="profile"
        ),
        "userDataBase64": Property("UserData", base64.b64decode),
        "userData": Property("UserData"),
        "userDataReplaceOnChange": LOCAL,
        "metadataOptions": Property(
            "MetadataOptions",
            pascal,
            change=lambda aws, id_, value, _: aws.ec2.modify_instance_metadata_options(InstanceId=id_, **pascal(value)),
        ),
        "rootBlockDevice": Property("BlockDeviceMappings", change=_redisk),
        "monitoring": Property("Monitoring", lambda on: {"Enabled": on}, change=_not_in_moto),
        "disableApiTermination": Property("DisableApiTermination", change=_attribute("DisableApiTermination")),
        "disableApiStop": Property("DisableApiStop", change=_attribute("DisableApiStop")),
        "ebsOptimized": Property("EbsOptimized"),
        "instanceInitiatedShutdownBehavior": Property(
            "InstanceInitiatedShutdownBehavior", change=_attribute("InstanceInitiatedShutdownBehavior")
        ),
        "maintenanceOptions": Property(
            "MaintenanceOptions",
            pascal,
            change=_not_in_moto,
        ),
        "creditSpecification": Property("CreditSpecification", pascal, change=_not_in_moto),
        "privateDnsNameOptions": Property("PrivateDnsNameOptions", pascal),
        "sourceDestCheck": Property(change=_attribute("SourceDestCheck")),
        "forceDestroy": LOCAL,
    }
    replacing = frozenset(f"rootBlockDevice.{key}" for key in ("encrypted", "kmsKeyId", "deviceName", "snapshotId"))

    def change(self, aws: Clients, id_: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """Implement Kind.change; a profile can be taken away as well."""
        if old.get("iamInstanceProfile") and not new.get("iamInstanceProfile"):
            _unprofile(aws, id_)
            old = {key: value for key, value in old.items() if key != "iamInstanceProfile"}
        super().change(aws, id_, old, new)

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        image = aws.ec2.describe_images(ImageIds=[asked["ImageId"]])["Images"][0]
        disk = {**asked.pop("BlockDeviceMappings", {})}
        tags = disk.pop("tags", {})
        if disk:
            asked["BlockDeviceMappings"] = [{"DeviceName": image["RootDeviceName"], "Ebs": pascal(disk)}]
        # A public address is asked for on the interface alone, which then takes the groups and the subnet as well.
        if "AssociatePublicIpAddress" in asked:
            interface = {"DeviceIndex": 0, "DeleteOnTermination": True}
            for parameter in ("AssociatePublicIpAddress", "SubnetId", "PrivateIpAddress"):
                if parameter in asked:
                    interface[parameter] = asked.pop(parameter)
            interface["Groups"] = asked.pop("SecurityGroupIds", [])
            asked["NetworkInterfaces"] = [interface]
        id_ = str(aws.ec2.run_instances(MinCount=1, MaxCount=1, **asked)["Instances"][0]["InstanceId"])
        if tags:
            aws.ec2.create_tags(Resources=[root_volume(aws, id_)], Tags=pairs(tags))
        return id_

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        found = instance(aws, id_)
        if found["State"]["Name"] == "terminated":
            raise LookupError(f"{id_} is terminated")
        return {
            "arn": ec2_arn(aws, "instance", id_),
            "privateIp": found["PrivateIpAddress"],
            "privateDns": found["PrivateDnsName"],
            "publicIp": found.get("PublicIpAddress", ""),
            "publicDns": found.get("PublicDnsName", ""),
            "instanceState": found["State"]["Name"],
            "availabilityZone": found["Placement"]["AvailabilityZone"],
            "primaryNetworkInterfaceId": found["NetworkInterfaces"][0]["NetworkInterfaceId"],
        }

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        if state.get("forceDestroy"):
            aws.ec2.modify_instance_attribute(InstanceId=id_, DisableApiTermination={"Value": False})
        aws.ec2.terminate_instances(InstanceIds=[id_])


class KeyPair(Kind):
    named_by = "keyName"
    properties: ClassVar[Mapping[str, Property]] = {
        "keyName": Property("KeyName"),
        "publicKey": Property("PublicKeyMaterial"),
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        return str(aws.ec2.import_key_pair(**asked)["KeyName"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        found = aws.ec2.describe_key_pairs(KeyNames=[id_])["KeyPairs"][0]
        return {
            "arn": ec2_arn(aws, "key-pair", id_),
            "fingerprint": found["KeyFingerprint"],
            "keyPairId": found["KeyPairId"],
        }

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        del state
        aws.ec2.delete_key_pair(KeyName=id_)

    def retag(self, aws: Clients, id_: str, state: Mapping[str, Any], old: Any, new: Mapping[str, str]) -> None:
        super().retag(aws, state["keyPairId"], state, old, new)
        del id_


class Eip(Kind):
    properties: ClassVar[Mapping[str, Property]] = {
        "domain": Property("Domain"),
        "networkBorderGroup": Property("NetworkBorderGroup"),
        "publicIpv4Pool": Property("PublicIpv4Pool"),
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        return str(aws.ec2.allocate_address(**asked)["AllocationId"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        found = aws.ec2.describe_addresses(AllocationIds=[id_])["Addresses"][0]
        return {
            "allocationId": id_,
            "publicIp": found["PublicIp"],
            "arn": ec2_arn(aws, "elastic-ip", id_),
        }

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        del state
        aws.ec2.release_address(AllocationId=id_)


class EipAssociation(Kind):
    taggable = False
    properties: ClassVar[Mapping[str, Property]] = {
        "allocationId": Property("AllocationId", refers="address"),
        "instanceId": Property("InstanceId", refers="instance"),
        "networkInterfaceId": Property("NetworkInterfaceId", computed=True),
        "privateIpAddress": Property("PrivateIpAddress"),
        "allowReassociation": Property("AllowReassociation"),
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        return str(aws.ec2.associate_address(**asked)["AssociationId"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        for each in aws.ec2.describe_addresses()["Addresses"]:
            if each.get("AssociationId") == id_:
                return {"publicIp": each["PublicIp"], "networkInterfaceId": each.get("NetworkInterfaceId", "")}
        raise LookupError(f"{id_} does not exist")

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        # An association that moved on has another id: that one is not ours to end.
        self.look(aws, id_, state)
        aws.ec2.disassociate_address(AssociationId=id_)


def instance(aws: Clients, id_: str) -> dict[str, Any]:
    """Return an instance as describe_instances shows it."""
    found: dict[str, Any] = aws.ec2.describe_instances(InstanceIds=[id_])["Reservations"][0]["Instances"][0]
    return found


def root_volume(aws: Clients, id_: str) -> str:
    return str(instance(aws, id_)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"])


KINDS: Mapping[str, Kind] = {
    "aws:ec2/instance:Instance": Instance(),
    "aws:ec2/keyPair:KeyPair": KeyPair(),
    "aws:ec2/eip:Eip": Eip(),
    "aws:ec2/eipAssociation:EipAssociation": EipAssociation(),
}
