"""What is not EC2's: roles, buckets, logs and alarms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.aws.kind import LOCAL, Clients, Kind, Property, Retag, created_by, first, in_place, pairs, pascal, same, seen
from tests.aws.stored import resume_versioning


def _tagged(service: str, noun: str, parameter: str, *, by_arn: bool = False) -> Retag:
    """Return the calls `tag_<noun>` and `untag_<noun>` of a service."""

    def retag(aws: Clients, id_: str, state: Mapping[str, Any], old: Iterable[str], new: Mapping[str, str]) -> None:
        of, client = {parameter: state["arn"] if by_arn else id_}, getattr(aws, service)
        keys, tags = ("tagKeys", "tags") if service == "logs" else ("TagKeys", "Tags")
        if old:
            getattr(client, f"untag_{noun}")(**of, **{keys: list(old)})
        getattr(client, f"tag_{noun}")(**of, **{tags: dict(new) if service == "logs" else pairs(new)})

    return retag


def _look_at_attachment(aws: Clients, id_: str, state: Mapping[str, Any]) -> Mapping[str, Any]:
    attached = aws.iam.list_attached_role_policies(RoleName=state["role"])["AttachedPolicies"]
    first((each for each in attached if each["PolicyArn"] == state["policyArn"]), id_)
    return {}


def _create_profile(aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
    name = asked["InstanceProfileName"]
    aws.iam.create_instance_profile(InstanceProfileName=name)
    aws.iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=inputs["role"])
    return str(name)


def _delete_profile(aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
    aws.iam.remove_role_from_instance_profile(InstanceProfileName=id_, RoleName=state["role"])
    aws.iam.delete_instance_profile(InstanceProfileName=id_)


def _create_bucket(aws: Clients, asked: dict[str, Any], _inputs: Mapping[str, Any]) -> str:
    # The first region has no name here.
    if aws.region != "us-east-1":
        asked["CreateBucketConfiguration"] = {"LocationConstraint": aws.region}
    aws.s3.create_bucket(**asked)
    return str(asked["Bucket"])


def _delete_bucket(aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
    if state.get("forceDestroy"):
        resume_versioning(aws, id_)
        for page in aws.s3.get_paginator("list_object_versions").paginate(Bucket=id_):
            for each in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]:
                aws.s3.delete_object(Bucket=id_, Key=each["Key"], VersionId=each["VersionId"])
    aws.s3.delete_bucket(Bucket=id_)


def _setting(call: str, block: str, properties: Mapping[str, Property]) -> Kind:
    """Return the type of something that a bucket has one of. Its id is the bucket's name.

    call: what boto3 names it, after `put_`, `get_` and `delete_`. block: the parameter with all but the bucket.
    """

    def put(aws: Clients, asked: dict[str, Any], _inputs: Mapping[str, Any]) -> str:
        bucket = str(asked.pop("Bucket"))
        getattr(aws.s3, f"put_{call}")(Bucket=bucket, **{block: asked.get(block, asked)})
        return bucket

    def look(aws: Clients, id_: str, _state: Mapping[str, Any]) -> Mapping[str, Any]:
        found = getattr(aws.s3, f"get_{call}")(Bucket=id_)
        if call == "bucket_versioning" and found.get("Status") != "Enabled":
            raise LookupError(f"{id_} keeps no versions")
        return {}

    def delete(aws: Clients, id_: str, _state: Mapping[str, Any]) -> None:
        if call == "bucket_versioning":
            aws.s3.put_bucket_versioning(Bucket=id_, VersioningConfiguration={"Status": "Suspended"})
        else:
            getattr(aws.s3, f"delete_{call.removesuffix('_configuration')}")(Bucket=id_)

    return Kind(
        properties={"bucket": Property("Bucket", refers="bucket"), **properties},
        identity=frozenset({"bucket"}),
        create=put,
        look=look,
        delete=delete,
        retag=None,
    )


def _look_at_log_group(aws: Clients, id_: str, _state: Mapping[str, Any]) -> Mapping[str, Any]:
    groups = aws.logs.describe_log_groups(logGroupNamePrefix=id_)["logGroups"]
    group = first((each for each in groups if each["logGroupName"] == id_), id_)
    return {"arn": group["arn"].removesuffix(":*")}


def _dimensions(given: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in given.items()]


def _query(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a query of an alarm as the API has it: an expression, or a metric."""
    asked = pascal({key: value for key, value in given.items() if key != "metric"})
    if "ID" in asked:
        asked["Id"] = asked.pop("ID")
    if metric := given.get("metric"):
        named = pascal({key: metric[key] for key in ("namespace", "metricName")})
        statistic = {"Metric": named | {"Dimensions": _dimensions(metric["dimensions"])}}
        asked["MetricStat"] = statistic | {"Period": metric["period"], "Stat": metric["stat"]}
    return asked


KINDS: Mapping[str, Kind] = {
    "aws:iam/role:Role": Kind(
        named_by="name",
        properties={
            "name": Property("RoleName"),
            "assumeRolePolicy": Property("AssumeRolePolicyDocument", change=in_place),
        },
        create=created_by("iam", "create_role", "RoleName"),
        look=lambda aws, id_, _: {"arn": aws.iam.get_role(RoleName=id_)["Role"]["Arn"]},
        delete=lambda aws, id_, _: aws.iam.delete_role(RoleName=id_),
        retag=_tagged("iam", "role", "RoleName"),
    ),
    "aws:iam/rolePolicy:RolePolicy": Kind(
        named_by="name",
        identity=frozenset({"role", "name"}),
        properties={
            "name": Property("PolicyName"),
            "role": Property("RoleName", refers="role"),
            "policy": Property("PolicyDocument"),
        },
        create=created_by("iam", "put_role_policy", "RoleName", "PolicyName"),
        look=lambda aws, _, state: seen(aws.iam.get_role_policy(RoleName=state["role"], PolicyName=state["name"])),
        delete=lambda aws, _, state: aws.iam.delete_role_policy(RoleName=state["role"], PolicyName=state["name"]),
        retag=None,
    ),
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": Kind(
        properties={"role": Property("RoleName", refers="role"), "policyArn": Property("PolicyArn", refers="policy")},
        create=created_by("iam", "attach_role_policy", "RoleName", "PolicyArn"),
        look=_look_at_attachment,
        delete=lambda aws, _, state: aws.iam.detach_role_policy(RoleName=state["role"], PolicyArn=state["policyArn"]),
        retag=None,
    ),
    "aws:iam/instanceProfile:InstanceProfile": Kind(
        named_by="name",
        properties={"name": Property("InstanceProfileName"), "role": Property("Role", refers="role", change=in_place)},
        create=_create_profile,
        look=lambda aws, id_, _: seen(aws.iam.get_instance_profile(InstanceProfileName=id_)),
        delete=_delete_profile,
        retag=_tagged("iam", "instance_profile", "InstanceProfileName"),
    ),
    "aws:s3/bucket:Bucket": Kind(
        named_by="bucket",
        properties={"bucket": Property("Bucket"), "forceDestroy": LOCAL},
        create=_create_bucket,
        look=lambda aws, id_, _: seen(aws.s3.head_bucket(Bucket=id_), arn=f"arn:aws:s3:::{id_}"),
        delete=_delete_bucket,
        retag=lambda aws, id_, _state, _old, new: aws.s3.put_bucket_tagging(Bucket=id_, Tagging={"TagSet": pairs(new)}),
    ),
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": _setting(
        "public_access_block",
        "PublicAccessBlockConfiguration",
        same("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"),
    ),
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": _setting(
        "bucket_ownership_controls", "OwnershipControls", {"rule": Property("Rules", lambda rule: [pascal(rule)])}
    ),
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": _setting(
        "bucket_encryption", "ServerSideEncryptionConfiguration", {"rules": Property("Rules", pascal)}
    ),
    "aws:s3/bucketVersioning:BucketVersioning": _setting(
        "bucket_versioning",
        "VersioningConfiguration",
        {"versioningConfiguration": Property("VersioningConfiguration", pascal)},
    ),
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": _setting(
        "bucket_lifecycle_configuration", "LifecycleConfiguration", {"rules": Property("Rules", pascal)}
    ),
    "aws:s3/bucketPolicy:BucketPolicy": _setting("bucket_policy", "Policy", {"policy": Property("Policy")}),
    "aws:cloudwatch/logGroup:LogGroup": Kind(
        named_by="name",
        properties={
            "name": Property("logGroupName"),
            "kmsKeyId": Property("kmsKeyId", change=in_place),
            "retentionInDays": Property(
                change=lambda aws, id_, value, _: aws.logs.put_retention_policy(logGroupName=id_, retentionInDays=value)
            ),
        },
        create=created_by("logs", "create_log_group", "logGroupName"),
        look=_look_at_log_group,
        delete=lambda aws, id_, _: aws.logs.delete_log_group(logGroupName=id_),
        retag=_tagged("logs", "resource", "resourceArn", by_arn=True),
    ),
    "aws:cloudwatch/metricAlarm:MetricAlarm": Kind(
        named_by="name",
        identity=frozenset({"name"}),
        properties={
            "name": Property("AlarmName"),
            "dimensions": Property("Dimensions", _dimensions),
            **same("alarmActions", "alarmDescription", "comparisonOperator", "evaluationPeriods", "metricName"),
            **same("namespace", "period", "statistic", "threshold", "treatMissingData"),
            "okActions": Property("OKActions"),
            "metricQueries": Property("Metrics", lambda given: [_query(each) for each in given]),
        },
        create=created_by("cloudwatch", "put_metric_alarm", "AlarmName"),
        look=lambda aws, id_, _: {
            "arn": first(aws.cloudwatch.describe_alarms(AlarmNames=[id_])["MetricAlarms"], id_)["AlarmArn"]
        },
        delete=lambda aws, id_, _: aws.cloudwatch.delete_alarms(AlarmNames=[id_]),
        retag=_tagged("cloudwatch", "resource", "ResourceARN", by_arn=True),
    ),
}
