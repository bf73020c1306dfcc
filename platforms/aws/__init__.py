"""Platform aws: EC2 machines, SSH, a release store in S3, secrets in Systems Manager.

platform.py registers the resources (its parts: access.py, network.py, group.py, bucket.py, parameters.py, role.py,
alarms.py); ssh.py, s3.py and ssm.py are the operator's side.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from platforms.aws.platform import AwsPlatform

__all__ = ["DEBIAN_NAME", "DEBIAN_OWNER", "AwsPlatform"]

# Debian's account on AWS, and what it calls its images of Debian 12 (wiki.debian.org/Cloud/AmazonEC2Image).
DEBIAN_OWNER, DEBIAN_NAME = "136693071363", "debian-12-amd64-*"


def __getattr__(name: str) -> object:
    """Load AwsPlatform late: pulumi_aws takes two seconds, and the operator's side does not need it."""
    if name == "AwsPlatform":
        from platforms.aws.platform import AwsPlatform  # noqa: PLC0415

        return AwsPlatform
    raise AttributeError(name)
