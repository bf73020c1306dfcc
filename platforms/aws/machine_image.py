"""What the machines of a stack boot: the pinned image, or one of the stack's own that is made of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property

import pulumi
import pulumi_aws as aws

from platforms.aws import group
from platforms.aws.baked_image import BakedImage
from platforms.aws.image import ImageKind
from platforms.aws.network import Network
from platforms.aws.pinned_image import check_image
from rendering.image import image_user_data
from settings.aws import Aws
from settings.size import Size


class MachineImage:
    """The image of a stack. builder: size of the machine that becomes one of its own. tags: of the stack."""

    def __init__(
        self,
        config: Aws,
        kind: ImageKind,
        network: Network,
        provider: aws.Provider,
        *,
        builder: Size,
        tags: Mapping[str, str],
    ) -> None:
        self._config, self._kind, self._network, self._provider = config, kind, network, provider
        self._builder, self._tags = builder, tags

    def check(self) -> None:
        """End the program where the pinned image cannot boot the machines."""
        _ = self.root_device

    @cached_property
    def root_device(self) -> str:
        """Return the name of its root disk. Ends the program as check does."""
        return check_image(self._config, self._kind, pulumi.InvokeOptions(provider=self._provider))

    @cached_property
    def id(self) -> pulumi.Input[str]:
        """Return the id of the image, known once it is made. Ends the program as check does."""
        root_device, config, builder, subnet = self.root_device, self._config, self._builder, self._network.private[0]
        if config.image == "debian":
            return config.ami
        vpc_id, none = self._network.vpc_id, pulumi.ResourceOptions()
        builders = group.security_group("image-builder", [], config, self._provider, none, vpc_id=vpc_id)
        document = image_user_data()
        stack = [self._tags[f"wsgi-fleet:{key}"] for key in ("project", "stack")]
        digest = hashlib.sha256(json.dumps([*stack, config.ami, builder.disk_gib, document]).encode()).hexdigest()[:16]
        made = BakedImage(
            "machine-image",
            image=f"wsgi-fleet-{digest}",
            region=config.region,
            base=config.ami,
            root_device=root_device,
            instance_type=builder.instance_type,
            disk_gib=builder.disk_gib,
            subnet=subnet.id,
            group=builders.id,
            ipv6=config.has_ipv6,
            user_data=document,
            tags=self._tags,
            opts=pulumi.ResourceOptions(depends_on=list(subnet.ready)),
        )
        return made.id
