"""The specification of an EC2 instance, launched by AwsPlatform.machine() or by a group's launch template."""

from __future__ import annotations

import base64
import functools
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import pulumi
import zopfli.gzip

# EC2's limit before base64 (docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html).
USER_DATA_BYTES = 16_384
# FSBP EC2.8, CIS AWS 5.0 5.7. One hop: containers on the machine do not get at the role.
METADATA: Mapping[str, Any] = {
    "http_endpoint": "enabled",
    "http_tokens": "required",
    "http_put_response_hop_limit": 1,
    "instance_metadata_tags": "disabled",
}


@dataclass(frozen=True)
class InstanceSpec:
    """An instance. profile: name of its instance profile. tags: with those that everything of the stack has.

    public: whether it gets a public address (FSBP EC2.9, EC2.25; the balancer is the one accepted finding).
    """

    ami: pulumi.Input[str]
    instance_type: str
    key_name: pulumi.Input[str]
    group: pulumi.Input[str]
    profile: pulumi.Input[str] | None
    user_data: pulumi.Input[str]
    disk_gib: int
    tags: Mapping[str, str]
    public: bool
    ipv6: bool

    def instance(self) -> dict[str, Any]:
        """Return the properties of an aws.ec2.Instance."""
        return {
            "ami": self.ami,
            "instance_type": self.instance_type,
            "key_name": self.key_name,
            "vpc_security_group_ids": [self.group],
            "associate_public_ip_address": self.public,
            "ipv6_address_count": 1 if self.ipv6 else None,
            "iam_instance_profile": self.profile,
            "user_data_base64": self._user_data(),
            "metadata_options": METADATA,
            "root_block_device": {**self._disk(), "tags": self.tags},
            "monitoring": True,
            # A failed host of EC2 moves the machine to another one, with its address and its disk.
            "maintenance_options": {"auto_recovery": "default"},
            "tags": self.tags,
        }

    def launch_template(self, root_device: str) -> dict[str, Any]:
        """Return the properties of an aws.ec2.LaunchTemplate. root_device: name of the image's root disk."""
        return {
            "image_id": self.ami,
            "instance_type": self.instance_type,
            "key_name": self.key_name,
            "network_interfaces": [
                {
                    "device_index": 0,
                    "security_groups": [self.group],
                    "associate_public_ip_address": str(self.public).lower(),
                    "ipv6_address_count": 1 if self.ipv6 else None,
                    "delete_on_termination": "true",
                }
            ],
            "iam_instance_profile": {"name": self.profile} if self.profile else None,
            "user_data": self._user_data(),
            "metadata_options": METADATA,
            # AWS's own template has these as text.
            "block_device_mappings": [
                {
                    "device_name": root_device,
                    "ebs": {**self._disk(), "encrypted": "true", "delete_on_termination": "true"},
                }
            ],
            "monitoring": {"enabled": True},
            "maintenance_options": {"auto_recovery": "default"},
            # Default tags reach the template and not what is launched from it.
            "tag_specifications": [
                {"resource_type": kind, "tags": self.tags} for kind in ("instance", "volume", "network-interface")
            ],
            "tags": self.tags,
        }

    def _disk(self) -> dict[str, Any]:
        # FSBP EC2.3, CIS AWS 5.0 5.1.1. Default tags do not reach volumes.
        return {"encrypted": True, "volume_type": "gp3", "volume_size": self.disk_gib, "delete_on_termination": True}

    def _user_data(self) -> pulumi.Input[str]:
        if isinstance(self.user_data, str):
            return pack_user_data(self.user_data)
        return pulumi.Output.from_input(self.user_data).apply(pack_user_data)


# A whole fleet boots the same document.
@functools.lru_cache(maxsize=8)
def pack_user_data(user_data: str) -> str:
    """Return a document as EC2 takes it: as gzip, which cloud-init unpacks, of 16 KiB at most.

    Raises ValueError for a larger one.
    """
    document = gzip.compress(user_data.encode(), 9, mtime=0)
    if len(document) > USER_DATA_BYTES:
        # 4 % smaller, and it takes 0.2 to 0.6 s where gzip takes 5 ms.
        document = cast("bytes", zopfli.gzip.compress(user_data.encode()))  # pyright: ignore[reportUnknownMemberType]
    if len(document) > USER_DATA_BYTES:
        raise ValueError(f"user-data has {len(document)} bytes when packed, and EC2 takes {USER_DATA_BYTES}")
    return base64.b64encode(document).decode()
