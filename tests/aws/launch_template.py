"""Launch templates of EC2: the type of the resource, and which parameters an instance is then launched with."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, cast

from tests.aws.kind import LOCAL, REFERENCES, Clients, Kind, Property, first, pairs, parameters, pascal

LIMIT = 16384
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
    return [{"ResourceType": each["resourceType"], "Tags": pairs(each["tags"])} for each in given]


def _check(aws: Clients, data: Mapping[str, Any]) -> None:
    """Raise what EC2 answers at the latest when it launches what is not there."""
    if len(base64.b64decode(data.get("UserData", ""))) > LIMIT:
        raise RuntimeError(f"InvalidUserData.Malformed: User data is limited to {LIMIT} bytes")
    for group in (id_ for each in data.get("NetworkInterfaces", ()) for id_ in each.get("Groups", ())):
        REFERENCES["group"](aws, group)
    for key, reference in (("ImageId", "ami"), ("KeyName", "key")):
        if key in data:
            REFERENCES[reference](aws, data[key])
    if profile := data.get("IamInstanceProfile"):
        REFERENCES["profile"](aws, profile["Name"])


def _create(aws: Clients, _asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
    data = parameters(_DATA, inputs)
    _check(aws, data)
    made = aws.ec2.create_launch_template(LaunchTemplateName=inputs["name"], LaunchTemplateData=data)
    return str(made["LaunchTemplate"]["LaunchTemplateId"])


def _change(aws: Clients, id_: str, _value: Any, inputs: Mapping[str, Any]) -> None:
    """Make a new version of the whole, unless it is there: several properties can have changed."""
    data = parameters(_DATA, inputs)
    _check(aws, data)
    if _find_version(aws, id_, "$Latest")["LaunchTemplateData"] == data:
        return
    made = aws.ec2.create_launch_template_version(LaunchTemplateId=id_, LaunchTemplateData=data)
    if inputs.get("updateDefaultVersion"):
        version = str(made["LaunchTemplateVersion"]["VersionNumber"])
        aws.ec2.modify_launch_template(LaunchTemplateId=id_, DefaultVersion=version)


def _look(aws: Clients, id_: str, _state: Mapping[str, Any]) -> Mapping[str, Any]:
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

    Raises the error of EC2.
    """
    by = {key: given[key] for key in ("LaunchTemplateId", "LaunchTemplateName") if key in given}
    asked = aws.ec2.describe_launch_template_versions(**by, Versions=[given.get("Version", "$Default")])
    found = asked["LaunchTemplateVersions"][0]
    data: dict[str, Any] = dict(found["LaunchTemplateData"])
    # boto3 encodes what an instance is given, and not what a template is.
    data["UserData"] = base64.b64decode(data["UserData"])
    named = {key: str(found[key]) for key in ("LaunchTemplateId", "LaunchTemplateName")}
    return named | {"Version": str(found["VersionNumber"])}, data
