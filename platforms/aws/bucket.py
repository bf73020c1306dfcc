"""The release store on S3, and the role by which machines read it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

import settings
from platforms import Store

# Days that replaced and deleted releases can be brought back.
KEPT_DAYS = 30


@dataclass(frozen=True)
class ReleaseStore:
    """profile: name of the instance profile of machines that read releases. ready: what they wait for."""

    store: Store
    profile: pulumi.Output[str]
    ready: list[pulumi.Resource]


def release_store(
    name: str, given: settings.Aws, stack: str, provider: aws.Provider, opts: pulumi.ResourceOptions
) -> ReleaseStore:
    """The bucket of the settings, or one of the stack's own; keys stand under the stack's name in both."""
    made = None if given.release_bucket else _bucket(name, provider, opts)
    bucket = made.bucket if made else pulumi.Output.from_input(given.release_bucket or "")
    profile, policy = _role(name, bucket, stack, provider, opts)
    store = Store(
        machine_url=pulumi.Output.concat("s3://", bucket, "/", stack),
        spec={"kind": "s3", "bucket": bucket, "prefix": stack, "region": given.region},
        resource=made,
    )
    return ReleaseStore(store, profile, [policy, *([made] if made else [])])


def _bucket(name: str, provider: aws.Provider, opts: pulumi.ResourceOptions) -> aws.s3.Bucket:
    """FSBP S3.1, S3.8 (no public access), S3.5 (TLS only), S3.12 (no ACLs), S3.13 (lifecycle), S3.14 (versions).

    A stack that goes takes its bucket along, with what is in it: releases are built from source, and without machines
    they serve nobody. Whoever wants to keep them names a bucket of their own in release_bucket.
    """
    bucket = aws.s3.Bucket(
        name,
        force_destroy=True,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(provider=provider)),
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
                "noncurrent_version_expiration": {"noncurrent_days": KEPT_DAYS},
                "abort_incomplete_multipart_upload": {"days_after_initiation": 1},
            }
        ],
        opts=pulumi.ResourceOptions(parent=bucket, provider=provider, depends_on=[versioning]),
    )
    aws.s3.BucketPolicy(
        f"{name}-policy",
        bucket=bucket.bucket,
        policy=bucket.arn.apply(_tls_only),
        # S3 refuses two changes of a bucket's access at a time.
        opts=pulumi.ResourceOptions(parent=bucket, provider=provider, depends_on=[private]),
    )
    return bucket


def _tls_only(arn: str) -> str:
    statement = {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _role(
    name: str, bucket: pulumi.Output[str], stack: str, provider: aws.Provider, opts: pulumi.ResourceOptions
) -> tuple[pulumi.Output[str], pulumi.Resource]:
    """Machines read releases by role, without keys (CIS AWS 5.0 1.17); the role can do nothing else."""
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    role = aws.iam.Role(
        f"{name}-reader",
        assume_role_policy=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        opts=pulumi.ResourceOptions(parent=opts.parent, provider=provider),
    )
    child = pulumi.ResourceOptions(parent=role, provider=provider)
    policy = aws.iam.RolePolicy(
        f"{name}-reader", role=role.name, policy=bucket.apply(lambda given: _reads(given, stack)), opts=child
    )
    return aws.iam.InstanceProfile(f"{name}-reader", role=role.name, opts=child).name, policy


def _reads(bucket: str, stack: str) -> str:
    statements = [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/{stack}/*"},
        # With it a key that is not there is a 404 and not a 403. "IfExists", for nothing says that GetObject of a
        # missing key brings a prefix along. The price: names (not contents) of a shared bucket can be listed.
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": f"arn:aws:s3:::{bucket}",
            "Condition": {"StringLikeIfExists": {"s3:prefix": f"{stack}/*"}},
        },
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})
