"""Gives instances that are imaged a machine: no plugin runs them, so this follows moto. Their image is one of LXD.

It is published when its machine has switched itself off, and before moto says so: whoever then takes the image in EC2
finds it. It goes with the image in EC2.
"""

from __future__ import annotations

import importlib
from typing import Any

from platforms.aws.baked_image import BY_ITSELF, TAG
from platforms.lxd import image, label
from platforms.lxd.client import Client, url
from tests.aws.auth_proxy import ACCOUNT
from tests.aws.follower import Follower
from tests.aws.kind import Clients
from tests.aws.machines import Machines
from tests.aws.region import Region

PUBLISH_TIMEOUT_S = 300.0


class ImageBuilders(Follower):
    """The machines of instances that images are made of, and those images."""

    def __init__(self, aws: Clients, region: Region, machines: Machines) -> None:
        super().__init__()
        self._aws, self._region, self._machines = aws, region, machines
        self._lxd = Client()
        # Instances with a machine; and images of LXD -> instance that each was made of.
        self._there: set[str] = set()
        self._published: dict[str, str] = {}

    def look(self) -> None:
        """Launch what is new, publish what has ended, and remove what is gone in EC2."""
        pages: list[Any] = self._aws.ec2.describe_instances(Filters=[{"Name": "tag-key", "Values": [TAG]}])[
            "Reservations"
        ]
        found: dict[str, Any] = {each["InstanceId"]: each for page in pages for each in page["Instances"]}
        running = {id_ for id_, each in found.items() if each["State"]["Name"] in ("pending", "running")}
        stopped = {id_ for id_, each in found.items() if each["State"]["Name"] == "stopped"}
        for id_ in running - self._there:
            self._machines.launch(id_)
            self._there.add(id_)
        for id_ in running & (self._machines.stopped() if running else set()):
            self._publish(id_, self._region.baked({each["Key"]: each["Value"] for each in found[id_]["Tags"]}[TAG]))
        for id_ in self._there - running - stopped:
            self._machines.terminate(id_)
            self._there.discard(id_)
        images: list[Any] = self._aws.ec2.describe_images(Owners=["self"])["Images"] if self._published else []
        kept = {self._region.baked(each["Name"]) for each in images}
        for alias in [each for each, id_ in self._published.items() if each not in kept and id_ not in self._there]:
            image.release(self._lxd, alias, self._region.owner)
            del self._published[alias]

    def _publish(self, id_: str, alias: str) -> None:
        """Make an image of a machine, then let EC2 say that the instance has switched itself off."""
        image.release(self._lxd, alias, self._region.owner)
        body = {
            "source": {"type": "instance", "name": id_},
            "properties": {label.OWNERS: self._region.owner},
            "compression_algorithm": "none",
        }
        made = self._lxd.request("POST", url("images"), body, timeout_s=PUBLISH_TIMEOUT_S)
        self._lxd.request("POST", url("images", "aliases"), {"name": alias, "target": made["fingerprint"]})
        self._published[alias] = id_
        # No client can say so for an instance.
        models: Any = importlib.import_module("moto.ec2.models")
        instances: Any = importlib.import_module("moto.ec2.models.instances")
        instance = models.ec2_backends[ACCOUNT][self._region.name].get_instance(id_)
        instance.stop()
        instance.state_reason = instances.StateReason("it switched itself off", BY_ITSELF)
