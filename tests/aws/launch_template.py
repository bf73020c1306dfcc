"""Launch templates of EC2: the type of the resource, and which parameters an instance is then launched with."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, cast

from tests.aws.kind import LOCAL, REFERENCES, Clients, Kind, Property, first, pascal

LIMIT = 16384
# Of what an instance may have, those that a template of ours may.
KNOWN = frozenset(
    {
        "BlockDeviceMappings", "IamInstanceProfile", "ImageId", "InstanceType", "KeyName", "MaintenanceOptions",
        "MetadataOptions", "Monitoring", "NetworkInterfaces", "SecurityGroupIds", "TagSpecifications", "UserData",
        "InstanceInitiatedShutdownBehavior", "EbsOptimized",
    }
)  # fmt: skip
# Where Pulumi's property has the name of no parameter, and whose values are lists of ids.
INTERFACE = {"SecurityGroups": "Groups"}


def _plain(value: Any) -> Any:
    """Convert the texts "true" and "false", which these properties have, to what they say."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[Any]", value)]
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _nested(value: Any) -> Any:
    return _plain(pascal(value))


def _interfaces(given: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = _nested(given)
    return [{INTERFACE.get(key, key): value for key, value in each.items()} for each in every]


def _tag_specifications(given: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "ResourceType": each["resourceType"],
            "Tags": [{"Key": key, "Value": value} for key, value in each["tags"].items()],
        }
        for each in given
    ]


def _data(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        property_.parameter: property_.convert(inputs[key])
        for key, property_ in _DATA.items()
        if inputs.get(key) is not None
    }


def _check(aws: Clients, data: Mapping[str, Any]) -> None:
    """Raise what EC2 answers at the latest when it launches what is not there."""
    if len(base64.b64decode(data.get("UserData", ""))) > LIMIT:
        raise RuntimeError(f"InvalidUserData.Malformed: User data is limited to {LIMIT} bytes")
    interfaces: list[Mapping[str, Any]] = data.get("NetworkInterfaces", [])
    if interfaces and data.get("SecurityGroupIds"):
        raise RuntimeError("InvalidParameterCombination: security groups beside network interfaces")
    for group in [*data.get("SecurityGroupIds", ()), *(id_ for each in interfaces for id_ in each.get("Groups", ()))]:
        REFERENCES["group"](aws, group)
    for key, reference in (("ImageId", "ami"), ("KeyName", "key")):
        if key in data:
            REFERENCES[reference](aws, data[key])
    if profile := data.get("IamInstanceProfile"):
        REFERENCES["profile"](aws, profile.get("Name") or profile["Arn"].rpartition("/")[2])


def _create(aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
    del asked
    data = _data(inputs)
    _check(aws, data)
    made = aws.ec2.create_launch_template(LaunchTemplateName=inputs["name"], LaunchTemplateData=data)
    return str(made["LaunchTemplate"]["LaunchTemplateId"])


def _change(aws: Clients, id_: str, value: Any, inputs: Mapping[str, Any]) -> None:
    """Make a new version of the whole, unless it is there: several properties can have changed."""
    del value
    data = _data(inputs)
    _check(aws, data)
    if _find_version(aws, id_, "$Latest")["LaunchTemplateData"] == data:
        return
    made = aws.ec2.create_launch_template_version(LaunchTemplateId=id_, LaunchTemplateData=data)
    if inputs.get("updateDefaultVersion"):
        version = str(made["LaunchTemplateVersion"]["VersionNumber"])
        aws.ec2.modify_launch_template(LaunchTemplateId=id_, DefaultVersion=version)


def _look(aws: Clients, id_: str, state: Mapping[str, Any]) -> Mapping[str, Any]:
    del state
    found = first(aws.ec2.describe_launch_templates(LaunchTemplateIds=[id_])["LaunchTemplates"], id_)
    account = str(aws.sts.get_caller_identity()["Account"])
    return {
        "arn": f"arn:aws:ec2:{aws.region}:{account}:launch-template/{id_}",
        "latestVersion": found["LatestVersionNumber"],
        "defaultVersion": found["DefaultVersionNumber"],
    }


def _find_version(aws: Clients, id_: str, version: str) -> Any:
    asked = aws.ec2.describe_launch_template_versions(LaunchTemplateId=id_, Versions=[version])
    return asked["LaunchTemplateVersions"][0]


# A version is made of what is given then: anything can go.
_CHANGE: Mapping[str, Any] = {"change": _change, "removable": True}
_DATA: Mapping[str, Property] = {
    "imageId": Property("ImageId", **_CHANGE),
    "instanceType": Property("InstanceType", **_CHANGE),
    "keyName": Property("KeyName", **_CHANGE),
    "userData": Property("UserData", **_CHANGE),
    "vpcSecurityGroupIds": Property("SecurityGroupIds", **_CHANGE),
    "instanceInitiatedShutdownBehavior": Property("InstanceInitiatedShutdownBehavior", **_CHANGE),
    "ebsOptimized": Property("EbsOptimized", _plain, **_CHANGE),
    "iamInstanceProfile": Property("IamInstanceProfile", pascal, **_CHANGE),
    "networkInterfaces": Property("NetworkInterfaces", _interfaces, **_CHANGE),
    "blockDeviceMappings": Property("BlockDeviceMappings", _nested, **_CHANGE),
    "metadataOptions": Property("MetadataOptions", pascal, **_CHANGE),
    "maintenanceOptions": Property("MaintenanceOptions", pascal, **_CHANGE),
    "monitoring": Property("Monitoring", pascal, **_CHANGE),
    "tagSpecifications": Property("TagSpecifications", _tag_specifications, **_CHANGE),
}
KINDS: Mapping[str, Kind] = {
    "aws:ec2/launchTemplate:LaunchTemplate": Kind(
        named_by="name",
        # Nothing of it is a parameter of the creation by itself; all of it is in one.
        properties={"name": Property("LaunchTemplateName"), **_DATA, "updateDefaultVersion": LOCAL},
        create=_create,
        look=_look,
        delete=lambda aws, id_, _: aws.ec2.delete_launch_template(LaunchTemplateId=id_),
    ),
}


def resolve(aws: Clients, given: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return (id, name and number of a version), (parameters of RunInstances) of a LaunchTemplateSpecification.

    Raises the error of EC2, or ValueError for what the stand-in does not launch.
    """
    by = {key: given[key] for key in ("LaunchTemplateId", "LaunchTemplateName") if key in given}
    asked = aws.ec2.describe_launch_template_versions(**by, Versions=[given.get("Version", "$Default")])
    found = asked["LaunchTemplateVersions"][0]
    data: dict[str, Any] = dict(found["LaunchTemplateData"])
    if strange := data.keys() - KNOWN:
        raise ValueError(f"{found['LaunchTemplateId']}: {', '.join(sorted(strange))}")
    # boto3 encodes what an instance is given, and not what a template is.
    if "UserData" in data:
        data["UserData"] = base64.b64decode(data["UserData"])
    named = {key: str(found[key]) for key in ("LaunchTemplateId", "LaunchTemplateName")}
    return named | {"Version": str(found["VersionNumber"])}, data
