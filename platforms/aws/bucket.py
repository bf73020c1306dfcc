"""The release store on S3."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from platforms import Store
from platforms.aws.parameters import SecretParameters
from platforms.aws.ssm import parameter_path
from settings.aws import Aws

# Days in which replaced and deleted releases can be restored.
NONCURRENT_DAYS = 30


@dataclass(frozen=True)
class ReleaseStore:
    """The release store. bucket: its name. ready: what machines that read releases wait for."""

    store: Store
    bucket: pulumi.Output[str]
    ready: Sequence[pulumi.Resource]


def release_store(
    name: str, config: Aws, stack: str, provider: aws.Provider, opts: pulumi.ResourceOptions
) -> ReleaseStore:
    """Register the release store, in the bucket of the settings or in one of the stack's own.

    Keys stand under the stack's name in both. The secrets of releases stand beside it, under the same name, as
    parameters of Systems Manager.
    """
    bucket = None if config.release_bucket else private_bucket(name, provider, opts, protect=config.protect).bucket
    bucket_name = bucket.bucket if bucket else pulumi.Output.from_input(config.release_bucket or "")
    secrets = SecretParameters(f"{name}-secrets", path=parameter_path(stack), region=config.region, opts=opts)
    store = Store(
        machine_url=pulumi.Output.concat("s3://", bucket_name, "/", stack),
        spec={
            "platform": "aws",
            "bucket": bucket_name,
            "prefix": stack,
            "region": config.region,
            # Through the resource, so that they are removed after the machines and the rollout.
            "secrets": {"path": secrets.path, "region": config.region, "kms_key_arn": config.kms_key_arn or ""},
        },
        resource=bucket,
    )
    return ReleaseStore(store, bucket_name, [secrets, *([bucket] if bucket else [])])


@dataclass(frozen=True)
class PrivateBucket:
    """A bucket. policy: depend on it; access is restricted once it exists."""

    bucket: aws.s3.Bucket
    policy: pulumi.Resource


def private_bucket(
    name: str,
    provider: aws.Provider,
    opts: pulumi.ResourceOptions,
    *,
    protect: bool,
    expires_days: int | None = None,
    extra_statement: Callable[[str], Mapping[str, Any]] | None = None,
) -> PrivateBucket:
    """Create a private bucket with versions, which clients reach by TLS only.

    expires_days: after which objects are deleted; None: never. extra_statement: takes the bucket's ARN and returns
    one more statement of its policy.

    FSBP S3.1, S3.8 (no public access), S3.5 (TLS only), S3.12 (no ACLs), S3.13 (lifecycle), S3.14 (versions).
    CIS AWS 5.0 2.1.1 (TLS only), 2.1.4 (no public access).

    `pulumi destroy` deletes the bucket with all releases in it, because releases can be built again from source.
    Operators who want to keep releases set release_bucket to a bucket of their own.
    """
    bucket = aws.s3.Bucket(
        name,
        force_destroy=True,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(provider=provider, protect=protect)),
    )
    child = pulumi.ResourceOptions(parent=bucket, provider=provider)
    private = aws.s3.BucketPublicAccessBlock(
        f"{name}-private",
        bucket=bucket.bucket,
        block_public_acls=True,
        block_public_policy=True,
        ignore_public_acls=True,
        restrict_public_buckets=True,
        opts=child,
    )
    aws.s3.BucketOwnershipControls(
        f"{name}-owner", bucket=bucket.bucket, rule={"object_ownership": "BucketOwnerEnforced"}, opts=child
    )
    aws.s3.BucketServerSideEncryptionConfiguration(
        f"{name}-encryption",
        bucket=bucket.bucket,
        rules=[{"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}],
        opts=child,
    )
    versioning = aws.s3.BucketVersioning(
        f"{name}-versions", bucket=bucket.bucket, versioning_configuration={"status": "Enabled"}, opts=child
    )
    aws.s3.BucketLifecycleConfiguration(
        f"{name}-lifecycle",
        bucket=bucket.bucket,
        rules=[
            {
                "id": "forget",
                "status": "Enabled",
                "filter": {"prefix": ""},
                # The rollout alone deletes releases, by number and not by age: what it keeps may be old.
                "noncurrent_version_expiration": {"noncurrent_days": NONCURRENT_DAYS},
                # What a deletion leaves in a bucket with versions, once those are gone.
                "expiration": {"days": expires_days} if expires_days else {"expired_object_delete_marker": True},
                "abort_incomplete_multipart_upload": {"days_after_initiation": 1},
            }
        ],
        opts=pulumi.ResourceOptions(parent=bucket, provider=provider, depends_on=[versioning]),
    )
    policy = aws.s3.BucketPolicy(
        f"{name}-policy",
        bucket=bucket.bucket,
        policy=bucket.arn.apply(
            lambda arn: _policy([_tls_only(arn), *([extra_statement(arn)] if extra_statement else [])])
        ),
        # S3 refuses two changes of a bucket's access at a time.
        opts=pulumi.ResourceOptions(parent=bucket, provider=provider, depends_on=[private]),
    )
    return PrivateBucket(bucket, policy)


def _tls_only(arn: str) -> Mapping[str, Any]:
    return {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def _policy(statements: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
