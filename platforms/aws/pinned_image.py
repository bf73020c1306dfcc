"""Look the pinned image up in EC2 while the program runs."""

from __future__ import annotations

import pulumi
import pulumi_aws as aws

from platforms.aws.image import DEBIAN_OWNER, ImageKind
from platforms.failure import end_program
from settings.aws import Aws

# Of Debian's images.
ROOT_DEVICE = "/dev/xvda"


def check_image(config: Aws, kind: ImageKind, opts: pulumi.InvokeOptions) -> str:
    """End the program where the pinned image cannot boot the machines. Return the name of its root disk.

    Log when Debian has a newer one; never take it.

    A question that fails (no ec2:DescribeImages, a throttled call) is a warning: it must not prevent an `up`.
    """
    try:
        pinned = aws.ec2.get_ami(filters=[{"name": "image-id", "values": [config.ami]}], opts=opts)
        newest = aws.ec2.get_ami(
            owners=[DEBIAN_OWNER],
            most_recent=True,
            filters=[{"name": "name", "values": [kind.name_pattern]}],
            opts=opts,
        )
    except Exception as error:  # noqa: BLE001  whatever the provider raises; it decides nothing
        pulumi.log.warn(f"whether {config.ami} is right, and whether Debian has a newer image, is not known: {error}")
        return ROOT_DEVICE
    found = {"Architecture": pinned.architecture, "OwnerId": pinned.owner_id, "Name": pinned.name}
    if problem := kind.find_problem(found):
        end_program(
            f"aws.ami: {config.ami}: {problem}; Debian's newest for this stack is {newest.id} ({newest.name}): "
            "pin that, or change `os` or the instance types"
        )
    if newest.id != config.ami:
        pulumi.log.info(
            f"the pinned image is {config.ami}; Debian's newest in {config.region} is {newest.id} "
            f"({newest.name}). If you set it as aws.ami, every machine is replaced; new ones start before old ones end."
        )
    return pinned.root_device_name or ROOT_DEVICE
