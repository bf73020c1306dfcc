"""An image of the stack's own as a resource: an instance installs what machines would install at boot, and is imaged.

Everything that it makes has its name as a tag. So an `up` that follows a killed one continues with what is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider

from platforms.aws.client import client, convert_errors
from platforms.aws.instance import METADATA
from platforms.provider import log, without_traceback
from rendering.image import BAKE_FAILED

# The tag with the name of the image, on the image, its snapshots and the instance that it is made of.
TAG = "wsgi-fleet:image"
# Seconds for an instance to boot, install and switch itself off. Some five minutes are usual for a small instance;
# install-packages waits for a slow mirror.
BAKE_TIMEOUT_S = 1200
# Seconds for EC2 to take the snapshot of a disk of some GiB, which is a matter of minutes.
IMAGE_TIMEOUT_S = 1800
# Seconds for the last machine to end after an instance refresh: its hook (server_group.py) and EC2's shutdown.
LEAVING_S = 300
LOOK_S, PROGRESS_S = 5.0, 30.0
CONSOLE_LINES = 15
# Of an instance that switched itself off (docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html).
BY_ITSELF = "Client.InstanceInitiatedShutdown"
ENDED = ("shutting-down", "terminated")


class BakeError(Exception):
    """There is no image. The text says why and what to do."""


class _Provider(ResourceProvider):
    serialize_as_secret_always = False

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Implement ResourceProvider.diff: the name contains a digest of all that the image consists of."""
        other = [key for key in ("region", "name") if _olds.get(key) != _news.get(key)]
        return DiffResult(changes=bool(other), replaces=other, delete_before_replace=False)

    def create(self, props: dict[str, Any]) -> CreateResult:
        try:
            return CreateResult(Baking(props).make(), dict(props))
        except BakeError as error:
            raise without_traceback(error) from None

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Implement ResourceProvider.read: `up --refresh` makes a deregistered image again."""
        with convert_errors(BakeError):
            return ReadResult(id_, props) if Baking(props).find_image() == id_ else ReadResult("", {})

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Implement ResourceProvider.delete. One that is gone is no error."""
        with convert_errors(BakeError):
            Baking(_props).remove(_id)


class Baking:
    """An image in the making. props: the inputs of BakedImage."""

    def __init__(self, props: Mapping[str, Any]) -> None:
        self._props, self._name = props, str(props["name"])

    @cached_property
    def ec2(self) -> Any:
        """Return the client, made once it is needed."""
        return client("ec2", self._props["region"])

    def make(self) -> str:
        """Return the id of the image, made now if it is not there. Raises BakeError."""
        with convert_errors(BakeError):
            try:
                id_ = self.find_image() or self._create_image(self._bake())
                snapshots = self._wait_for_image(id_)
                # CreateImage tags them as well, but not with what an earlier `up` was killed before.
                self.ec2.create_tags(Resources=snapshots, Tags=self._tags("image"))
            finally:
                self._terminate_builders()
            # Those of killed runs with other settings. One that a machine was launched from is in the state.
            for each in self._own_images():
                if each["ImageId"] != id_:
                    self._remove(each)
            self._delete_snapshots()
        return id_

    def remove(self, id_: str) -> None:
        """Remove an image and its snapshots, unless a machine of it is left. Its instances go on without it."""
        self._terminate_builders()
        start_s = time.monotonic()
        while self._has_machines(id_) and time.monotonic() - start_s < LEAVING_S:
            time.sleep(LOOK_S)
        for each in self._own_images():
            if each["ImageId"] == id_:
                self._remove(each)
        self._delete_snapshots()

    def find_image(self) -> str:
        """Return the id of the image of this name, whether or not it is ready; "" where there is none."""
        for each in self._own_images():
            if each["Name"] == self._name and each["State"] in ("pending", "available"):
                return str(each["ImageId"])
        return ""

    def _bake(self) -> str:
        """Return the id of an instance that has installed all and is off. Raises BakeError."""
        tag = {"Key": TAG, "Value": self._name}
        there = [str(each["InstanceId"]) for each in self._instances(self._of_stack()) if tag in each["Tags"]]
        id_ = there[0] if there else self._run()
        start_s = told_s = time.monotonic()
        while (found := self._find_instance(id_))["State"]["Name"] in ("pending", "running", "stopping"):
            now = time.monotonic()
            if now - told_s >= PROGRESS_S:
                told_s = now
                log(f"{self._name}: instance {id_} has installed packages for {now - start_s:.0f} s")
                if BAKE_FAILED in self._console(id_):
                    raise self._failed(id_, "its script failed")
            if now - start_s > BAKE_TIMEOUT_S:
                raise self._failed(id_, f"it did not end in {BAKE_TIMEOUT_S} s")
            time.sleep(LOOK_S)
        if found["State"]["Name"] != "stopped" or found.get("StateReason", {}).get("Code") != BY_ITSELF:
            raise self._failed(id_, f"somebody else ended it ({found['State']['Name']})")
        return id_

    def _run(self) -> str:
        """Run an instance that nobody can connect to, and return its id."""
        props = self._props
        interface = {
            "DeviceIndex": 0,
            "SubnetId": props["subnet"],
            "Groups": [props["group"]],
            "AssociatePublicIpAddress": False,
            "DeleteOnTermination": True,
            **({"Ipv6AddressCount": 1} if props["ipv6"] else {}),
        }
        # The engine has numbers as floats.
        disk = {
            "VolumeSize": int(props["disk_gib"]),
            "Encrypted": True,
            "VolumeType": "gp3",
            "DeleteOnTermination": True,
        }
        tagged = ("instance", "volume", "network-interface")
        made = self.ec2.run_instances(
            MinCount=1,
            MaxCount=1,
            ImageId=props["base"],
            InstanceType=props["instance_type"],
            UserData=props["user_data"],
            InstanceInitiatedShutdownBehavior="stop",
            MetadataOptions={
                "".join(word.capitalize() for word in key.split("_")): value for key, value in METADATA.items()
            },
            NetworkInterfaces=[interface],
            BlockDeviceMappings=[{"DeviceName": props["root_device"], "Ebs": disk}],
            TagSpecifications=[{"ResourceType": kind, "Tags": self._tags("image-builder")} for kind in tagged],
        )
        return str(made["Instances"][0]["InstanceId"])

    def _create_image(self, builder: str) -> str:
        # One that failed has the name.
        for each in self._own_images():
            if each["Name"] == self._name:
                self._remove(each)
        log(f"{self._name}: takes the image of instance {builder}")
        made = self.ec2.create_image(
            InstanceId=builder,
            Name=self._name,
            Description=f"wsgi-fleet: {self._props['base']} with the packages of machines",
            TagSpecifications=[{"ResourceType": "image", "Tags": self._tags("image")}],
        )
        return str(made["ImageId"])

    def _wait_for_image(self, id_: str) -> list[str]:
        """Wait until machines can boot an image, and return its snapshots. Raises BakeError."""
        start_s = told_s = time.monotonic()
        while True:
            # It is not listed yet in the first moments.
            found: list[dict[str, Any]] = self.ec2.describe_images(Filters=_is("image-id", id_))["Images"]
            state = found[0]["State"] if found else "pending"
            now = time.monotonic()
            if state == "available":
                return _snapshots(found[0])
            if state != "pending" or now - start_s > IMAGE_TIMEOUT_S:
                self._remove({"ImageId": id_, **(found[0] if found else {})})
                why = found[0].get("StateReason", {}).get("Message", "AWS tells no reason") if found else "not listed"
                raise BakeError(
                    f"{self._name}: image {id_} is {state} after {now - start_s:.0f} s: {why}; run it again"
                )
            if now - told_s >= PROGRESS_S:
                told_s = now
                log(f"{self._name}: EC2 has copied the disk for {now - start_s:.0f} s")
            time.sleep(LOOK_S)

    def _terminate_builders(self) -> None:
        """Terminate the instances that images of this stack were made of."""
        if ids := [str(each["InstanceId"]) for each in self._instances(self._of_stack())]:
            self.ec2.terminate_instances(InstanceIds=ids)

    def _instances(self, filters: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield instances that have not ended."""
        for page in self.ec2.get_paginator("describe_instances").paginate(Filters=filters):
            for each in (each for reservation in page["Reservations"] for each in reservation["Instances"]):
                if each["State"]["Name"] not in ENDED:
                    yield each

    def _has_machines(self, image: str) -> bool:
        return next(self._instances(_is("image-id", image)), None) is not None

    def _find_instance(self, id_: str) -> dict[str, Any]:
        pages = self.ec2.describe_instances(Filters=_is("instance-id", id_))["Reservations"]
        # It is not listed yet in the first moments.
        return pages[0]["Instances"][0] if pages else {"State": {"Name": "pending"}}

    def _own_images(self) -> list[dict[str, Any]]:
        return list(self.ec2.describe_images(Owners=["self"], Filters=self._of_stack())["Images"])

    def _remove(self, image: Mapping[str, Any]) -> None:
        """Remove an image and its snapshots, unless machines of it are left: their group may launch more."""
        id_ = str(image["ImageId"])
        if self._has_machines(id_):
            log(f"{self._name}: image {id_} stays, for there are machines of it")
            return
        self.ec2.deregister_image(ImageId=id_)
        for each in _snapshots(image):
            self.ec2.delete_snapshot(SnapshotId=each)

    def _delete_snapshots(self) -> None:
        """Delete the snapshots of images that a killed run had deregistered."""
        there = {str(each["Name"]) for each in self._own_images()}
        found = self.ec2.describe_snapshots(OwnerIds=["self"], Filters=self._of_stack())["Snapshots"]
        for each in found:
            if not there.intersection(tag["Value"] for tag in each["Tags"] if tag["Key"] == TAG):
                self.ec2.delete_snapshot(SnapshotId=each["SnapshotId"])

    def _failed(self, id_: str, why: str) -> BakeError:
        lines = self._console(id_).splitlines()[-CONSOLE_LINES:]
        return BakeError(
            f"{self._name}: instance {id_} became no image: {why}. Nothing was replaced. Mend the cause, and run "
            "the same command again; `aws.image: debian` needs no image. Its console ends:\n"
            + "\n".join(lines or ["(empty)"])
        )

    def _console(self, id_: str) -> str:
        """Return the console's text as it is now; "" where EC2 has none."""
        from botocore.exceptions import ClientError  # noqa: PLC0415

        try:
            return str(self.ec2.get_console_output(InstanceId=id_, Latest=True).get("Output", ""))
        except ClientError:
            # Types before Nitro have no latest output.
            return ""

    def _of_stack(self) -> list[dict[str, Any]]:
        """Return filters for what images of this stack are made of, and these themselves."""
        keys = ("wsgi-fleet:project", "wsgi-fleet:stack")
        own = [each for key in keys for each in _is(f"tag:{key}", self._props["tags"][key])]
        return [*own, *_is("tag-key", TAG)]

    def _tags(self, role: str) -> list[dict[str, str]]:
        tags: dict[str, str] = self._props["tags"]
        own = {"Name": f"{tags['wsgi-fleet:stack']}-{role}", TAG: self._name}
        return [{"Key": key, "Value": value} for key, value in {**tags, **own}.items()]


def _is(name: str, value: str) -> list[dict[str, Any]]:
    return [{"Name": name, "Values": [value]}]


def _snapshots(image: Mapping[str, Any]) -> list[str]:
    disks = [each["Ebs"] for each in image.get("BlockDeviceMappings", ()) if "Ebs" in each]
    return [str(each["SnapshotId"]) for each in disks if "SnapshotId" in each]


class BakedImage(Resource, module="aws", name="BakedImage"):
    """An image made of `base`; its id is that of the image. image: its name, other for other content.

    user_data: the document of the instance that it is made of, which ends by switching itself off. tags: of the stack.
    """

    def __init__(
        self,
        name: str,
        *,
        image: str,
        region: str,
        base: str,
        root_device: str,
        instance_type: str,
        disk_gib: int,
        subnet: pulumi.Input[str],
        group: pulumi.Input[str],
        ipv6: bool,
        user_data: str,
        tags: Mapping[str, str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        props = {
            "name": image, "region": region, "base": base, "root_device": root_device, "instance_type": instance_type,
            "disk_gib": disk_gib, "subnet": subnet, "group": group, "ipv6": ipv6, "user_data": user_data, "tags": tags,
        }  # fmt: skip
        super().__init__(_Provider(), name, props, opts)
