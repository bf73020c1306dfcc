"""What is stored for machines: objects in buckets, and parameters of Systems Manager."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.aws.kind import LOCAL, Clients, Kind, Property, created_by, first, in_place, pairs, same


def _change_object(aws: Clients, _id: str, value: Any, inputs: Mapping[str, Any]) -> None:
    aws.s3.put_object(
        Bucket=inputs["bucket"], Key=inputs["key"], Body=value.encode(), ContentType=inputs["contentType"]
    )


def _look_at_object(aws: Clients, _id: str, state: Mapping[str, Any]) -> Mapping[str, Any]:
    found = aws.s3.head_object(Bucket=state["bucket"], Key=state["key"])
    return {"etag": found["ETag"].strip('"')}


def _change_parameter(aws: Clients, id_: str, value: Any, inputs: Mapping[str, Any]) -> None:
    aws.ssm.put_parameter(Name=id_, Value=value, Type=inputs["type"], Overwrite=True)


def _look_at_parameter(aws: Clients, id_: str, _state: Mapping[str, Any]) -> Mapping[str, Any]:
    by_name = [{"Key": "Name", "Option": "Equals", "Values": [id_]}]
    found = first(aws.ssm.describe_parameters(ParameterFilters=by_name)["Parameters"], id_)
    return {"version": found["Version"]}


def _tag_parameter(
    aws: Clients, id_: str, _state: Mapping[str, Any], old: Iterable[str], new: Mapping[str, str]
) -> None:
    which = {"ResourceType": "Parameter", "ResourceId": id_}
    if old:
        aws.ssm.remove_tags_from_resource(**which, TagKeys=list(old))
    aws.ssm.add_tags_to_resource(**which, Tags=pairs(new))


def resume_versioning(aws: Clients, bucket: str) -> None:
    """Enable versioning where it is suspended: moto stumbles there over delete markers that it has made before."""
    if aws.s3.get_bucket_versioning(Bucket=bucket).get("Status") == "Suspended":
        aws.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def _delete_object(aws: Clients, _id: str, state: Mapping[str, Any]) -> None:
    resume_versioning(aws, state["bucket"])
    aws.s3.delete_object(Bucket=state["bucket"], Key=state["key"])


KINDS: Mapping[str, Kind] = {
    "aws:s3/bucketObjectv2:BucketObjectv2": Kind(
        properties={
            "bucket": Property("Bucket", refers="bucket"),
            "key": Property("Key"),
            "content": Property("Body", str.encode, change=_change_object),
            "contentType": Property("ContentType", change=in_place),
            # Without it the provider would tag it, and AWS takes ten tags of an object.
            "overrideProvider": LOCAL,
        },
        create=created_by("s3", "put_object", "Bucket", "Key"),
        look=_look_at_object,
        delete=_delete_object,
        retag=None,
    ),
    "aws:ssm/parameter:Parameter": Kind(
        properties={
            **same("name", "type"),
            "value": Property("Value", change=_change_parameter),
            "keyId": Property("KeyId", change=in_place),
        },
        create=created_by("ssm", "put_parameter", "Name"),
        look=_look_at_parameter,
        delete=lambda aws, id_, _: aws.ssm.delete_parameter(Name=id_),
        retag=_tag_parameter,
    ),
}
