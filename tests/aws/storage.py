"""Buckets, and what Pulumi sets on them by resources of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.aws.kind import LOCAL, Clients, Kind, Property, Put, pairs, pascal


class Bucket(Kind):
    """Blocks inside a bucket (versioning, lifecycle rules) are not known: they are resources of their own."""

    named_by = "bucket"
    properties: ClassVar[Mapping[str, Property]] = {
        "bucket": Property("Bucket"),
        "objectLockEnabled": Property("ObjectLockEnabledForBucket"),
        "forceDestroy": LOCAL,
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        # The first region has no name here.
        if aws.region != "us-east-1":
            asked["CreateBucketConfiguration"] = {"LocationConstraint": aws.region}
        aws.s3.create_bucket(**asked)
        return str(asked["Bucket"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        aws.s3.head_bucket(Bucket=id_)
        return {
            "bucket": id_,
            "arn": f"arn:aws:s3:::{id_}",
            "bucketRegion": aws.region,
            "bucketDomainName": f"{id_}.s3.amazonaws.com",
            "bucketRegionalDomainName": f"{id_}.s3.{aws.region}.amazonaws.com",
        }

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        if state.get("forceDestroy"):
            # moto stumbles over the delete markers of a bucket whose versioning is suspended, as it is by now.
            aws.s3.put_bucket_versioning(Bucket=id_, VersioningConfiguration={"Status": "Enabled"})
            for page in aws.s3.get_paginator("list_object_versions").paginate(Bucket=id_):
                for each in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]:
                    aws.s3.delete_object(Bucket=id_, Key=each["Key"], VersionId=each["VersionId"])
        aws.s3.delete_bucket(Bucket=id_)

    def retag(self, aws: Clients, id_: str, state: Mapping[str, Any], old: Any, new: Mapping[str, str]) -> None:
        del state, old
        if new:
            aws.s3.put_bucket_tagging(Bucket=id_, Tagging={"TagSet": pairs(new)})
        else:
            aws.s3.delete_bucket_tagging(Bucket=id_)


class _Setting(Put):
    """Something that a bucket has one of. Its id is the bucket's name.

    call: what boto3 names it, after `put_`, `get_` and `delete_`.
    block: the parameter that contains all but the bucket.
    """

    taggable = False
    identity = frozenset({"bucket"})
    call: ClassVar[str]
    block: ClassVar[str]

    def put(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        bucket = asked.pop("Bucket")
        value = asked.pop(self.block) if self.block in asked else asked
        getattr(aws.s3, f"put_{self.call}")(Bucket=bucket, **{self.block: value})
        return str(bucket)

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        getattr(aws.s3, f"get_{self.call}")(Bucket=id_)
        return {}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        del state
        getattr(aws.s3, f"delete_{self.call.removesuffix('_configuration')}")(Bucket=id_)


BUCKET = Property("Bucket", refers="bucket")


class PublicAccessBlock(_Setting):
    call, block = "public_access_block", "PublicAccessBlockConfiguration"
    properties: ClassVar[Mapping[str, Property]] = {
        "bucket": BUCKET,
        "blockPublicAcls": Property("BlockPublicAcls"),
        "blockPublicPolicy": Property("BlockPublicPolicy"),
        "ignorePublicAcls": Property("IgnorePublicAcls"),
        "restrictPublicBuckets": Property("RestrictPublicBuckets"),
    }


class OwnershipControls(_Setting):
    call, block = "bucket_ownership_controls", "OwnershipControls"
    properties: ClassVar[Mapping[str, Property]] = {
        "bucket": BUCKET,
        "rule": Property("Rules", lambda rule: [pascal(rule)]),
    }


class Encryption(_Setting):
    call, block = "bucket_encryption", "ServerSideEncryptionConfiguration"
    properties: ClassVar[Mapping[str, Property]] = {"bucket": BUCKET, "rules": Property("Rules", pascal)}


class Versioning(_Setting):
    call, block = "bucket_versioning", "VersioningConfiguration"
    properties: ClassVar[Mapping[str, Property]] = {
        "bucket": BUCKET,
        "versioningConfiguration": Property("VersioningConfiguration", pascal),
    }

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        if aws.s3.get_bucket_versioning(Bucket=id_).get("Status") != "Enabled":
            raise LookupError(f"{id_} keeps no versions")
        return {}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        del state
        aws.s3.put_bucket_versioning(Bucket=id_, VersioningConfiguration={"Status": "Suspended"})


class Lifecycle(_Setting):
    call, block = "bucket_lifecycle_configuration", "LifecycleConfiguration"
    properties: ClassVar[Mapping[str, Property]] = {"bucket": BUCKET, "rules": Property("Rules", pascal)}


class Policy(_Setting):
    call, block = "bucket_policy", "Policy"
    properties: ClassVar[Mapping[str, Property]] = {"bucket": BUCKET, "policy": Property("Policy")}


KINDS: Mapping[str, Kind] = {
    "aws:s3/bucket:Bucket": Bucket(),
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": PublicAccessBlock(),
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": OwnershipControls(),
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": Encryption(),
    "aws:s3/bucketVersioning:BucketVersioning": Versioning(),
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": Lifecycle(),
    "aws:s3/bucketPolicy:BucketPolicy": Policy(),
}
