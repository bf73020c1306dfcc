"""Roles, their policies, and the profiles by which instances take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.aws.kind import LOCAL, Clients, Kind, Property, Put, pairs


class Role(Kind):
    named_by = "name"
    properties: ClassVar[Mapping[str, Property]] = {
        "name": Property("RoleName"),
        "path": Property("Path"),
        "assumeRolePolicy": Property(
            "AssumeRolePolicyDocument",
            change=lambda aws, id_, value, _: aws.iam.update_assume_role_policy(RoleName=id_, PolicyDocument=value),
        ),
        "description": Property(
            "Description",
            change=lambda aws, id_, value, _: aws.iam.update_role_description(RoleName=id_, Description=value),
        ),
        "maxSessionDuration": Property(
            "MaxSessionDuration",
            change=lambda aws, id_, value, _: aws.iam.update_role(RoleName=id_, MaxSessionDuration=value),
        ),
        "permissionsBoundary": Property("PermissionsBoundary"),
        "forceDetachPolicies": LOCAL,
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        return str(aws.iam.create_role(**asked)["Role"]["RoleName"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        role = aws.iam.get_role(RoleName=id_)["Role"]
        return {"arn": role["Arn"], "uniqueId": role["RoleId"]}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        for profile in aws.iam.list_instance_profiles_for_role(RoleName=id_)["InstanceProfiles"]:
            aws.iam.remove_role_from_instance_profile(RoleName=id_, InstanceProfileName=profile["InstanceProfileName"])
        if state.get("forceDetachPolicies"):
            for policy in aws.iam.list_attached_role_policies(RoleName=id_)["AttachedPolicies"]:
                aws.iam.detach_role_policy(RoleName=id_, PolicyArn=policy["PolicyArn"])
        aws.iam.delete_role(RoleName=id_)

    def retag(self, aws: Clients, id_: str, state: Mapping[str, Any], old: Any, new: Mapping[str, str]) -> None:
        del state
        if old:
            aws.iam.untag_role(RoleName=id_, TagKeys=list(old))
        aws.iam.tag_role(RoleName=id_, Tags=pairs(new))


class RolePolicy(Put):
    """A policy inside a role. Its id is `role:name`."""

    named_by = "name"
    taggable = False
    identity = frozenset({"role", "name"})
    properties: ClassVar[Mapping[str, Property]] = {
        "name": Property("PolicyName"),
        "role": Property("RoleName", refers="role"),
        "policy": Property("PolicyDocument"),
    }

    def put(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        aws.iam.put_role_policy(**asked)
        return f"{asked['RoleName']}:{asked['PolicyName']}"

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        role, _, name = id_.partition(":")
        aws.iam.get_role_policy(RoleName=role, PolicyName=name)
        return {}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        del state
        role, _, name = id_.partition(":")
        aws.iam.delete_role_policy(RoleName=role, PolicyName=name)


class RolePolicyAttachment(Kind):
    """A policy attached to a role. Its id is `role/arn`."""

    taggable = False
    properties: ClassVar[Mapping[str, Property]] = {
        "role": Property("RoleName", refers="role"),
        "policyArn": Property("PolicyArn", refers="policy"),
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        aws.iam.attach_role_policy(**asked)
        return f"{asked['RoleName']}/{asked['PolicyArn']}"

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        attached = aws.iam.list_attached_role_policies(RoleName=state["role"])["AttachedPolicies"]
        if state["policyArn"] not in [each["PolicyArn"] for each in attached]:
            raise LookupError(f"{id_} is not attached")
        return {}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        del id_
        aws.iam.detach_role_policy(RoleName=state["role"], PolicyArn=state["policyArn"])


def _take_role(aws: Clients, id_: str, role: str, inputs: Mapping[str, Any]) -> None:
    del inputs
    for there in aws.iam.get_instance_profile(InstanceProfileName=id_)["InstanceProfile"]["Roles"]:
        aws.iam.remove_role_from_instance_profile(InstanceProfileName=id_, RoleName=there["RoleName"])
    aws.iam.add_role_to_instance_profile(InstanceProfileName=id_, RoleName=role)


class InstanceProfile(Kind):
    named_by = "name"
    properties: ClassVar[Mapping[str, Property]] = {
        "name": Property("InstanceProfileName"),
        "path": Property("Path"),
        "role": Property(change=_take_role, refers="role"),
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        return str(aws.iam.create_instance_profile(**asked)["InstanceProfile"]["InstanceProfileName"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        profile = aws.iam.get_instance_profile(InstanceProfileName=id_)["InstanceProfile"]
        return {"arn": profile["Arn"], "uniqueId": profile["InstanceProfileId"]}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        del state
        for there in aws.iam.get_instance_profile(InstanceProfileName=id_)["InstanceProfile"]["Roles"]:
            aws.iam.remove_role_from_instance_profile(InstanceProfileName=id_, RoleName=there["RoleName"])
        aws.iam.delete_instance_profile(InstanceProfileName=id_)

    def retag(self, aws: Clients, id_: str, state: Mapping[str, Any], old: Any, new: Mapping[str, str]) -> None:
        del state
        if old:
            aws.iam.untag_instance_profile(InstanceProfileName=id_, TagKeys=list(old))
        aws.iam.tag_instance_profile(InstanceProfileName=id_, Tags=pairs(new))


KINDS: Mapping[str, Kind] = {
    "aws:iam/role:Role": Role(),
    "aws:iam/rolePolicy:RolePolicy": RolePolicy(),
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": RolePolicyAttachment(),
    "aws:iam/instanceProfile:InstanceProfile": InstanceProfile(),
}
