"""The provider `aws` of a test: all is made in moto, and each EC2 instance and load balancer is an LXD machine as well.

moto chooses addresses, LXD follows: private ones are those of the machines, public ones lead to them by forwards of
their network, which is what EC2 does with them (1:1 NAT). A machine's name is its instance id.
"""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Mapping
from typing import Any

import yaml

from platforms.lxd import label, machine
from platforms.lxd.client import Client, NotFound, url
from tests.aws.account import Account
from tests.aws.auth_proxy import ACCOUNT
from tests.aws.auto_scaling import GROUP, drain
from tests.aws.balancer_machine import BalancerMachines
from tests.aws.plugin import Failed, Values
from tests.aws.region import POOL, Region
from tests.aws.subnets import Subnets

INSTANCE, SUBNET = "aws:ec2/instance:Instance", "aws:ec2/subnet:Subnet"
ASSOCIATION, BALANCER = "aws:ec2/eipAssociation:EipAssociation", "aws:lb/loadBalancer:LoadBalancer"
# Who may reach port 22 depends on these.
ON_PORT_22 = (
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
    "aws:ec2transitgateway/instanceConnectEndpoint:InstanceConnectEndpoint",
)
# The user of Debian's images, with the key pair's key and sudo without a password.
USER = "admin"
# Where every instance finds its metadata; and where the other services are here, apart from an Nginx at 0.0.0.0:443.
LINK_LOCAL = "169.254.169.254"
SERVICES = "::1"
PUBLIC_METADATA_PORT = 8169
METADATA_ELSEWHERE = f"AWS_EC2_METADATA_SERVICE_ENDPOINT=http://{LINK_LOCAL}:{PUBLIC_METADATA_PORT}"
# How gzip begins (RFC 1952).
GZIP = b"\x1f\x8b"
CPUS, MEMORY_MIB, DISK_GIB = 1, 512, 8


class Ec2OnLxd:
    """A plugin.Provider of everything that tests.aws.account knows."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._account = Account(region.endpoint, region.name)
        self._machines = Machines(region, self._account)

    def configure(self, given: Mapping[str, str]) -> None:
        """Take the provider's default tags, and check that its region is this one."""
        if given.get("region") != self._region.name:
            raise Failed(f"the stand-in is region {self._region.name}, not {given.get('region')}")
        tags: dict[str, str] = json.loads(given.get("defaultTags", "{}")).get("tags", {})
        self._account = Account(self._region.endpoint, self._region.name, tags)

    def create(self, type_: str, inputs: Values) -> tuple[str, Values]:
        """Create it in moto first, which knows what AWS rejects."""
        id_, state = self._account.create(type_, inputs)
        try:
            if type_ == INSTANCE:
                self._machines.launch(id_)
            if type_ == BALANCER:
                self._machines.balancers.launch(id_)
            if type_ in (INSTANCE, ASSOCIATION, BALANCER):
                self._machines.publish()
            if type_ in ON_PORT_22:
                self._machines.subnets.renew()
        except Exception:
            self.delete(type_, id_, state)
            raise
        return id_, state

    def update(self, type_: str, id_: str, old: Values, new: Values) -> Values:
        """Update it in moto alone: no change of an instance in place is one of its machine."""
        return self._account.update(type_, id_, old, new)

    def delete(self, type_: str, id_: str, state: Values) -> None:
        """Delete it; an instance's machine first: while that is there, its address is taken."""
        if type_ == INSTANCE:
            self._machines.terminate(id_)
        if type_ == SUBNET:
            self._machines.subnets.remove(id_)
        if type_ == GROUP:
            drain(self._account.aws, id_)
        self._account.delete(type_, id_, state)
        if type_ == BALANCER:
            self._machines.balancers.terminate(id_)
        if type_ in (INSTANCE, ASSOCIATION, BALANCER):
            self._machines.publish()

    def read(self, type_: str, id_: str, state: Values) -> Values | None:
        """Return the state as moto has it."""
        return self._account.read(type_, id_, state)

    def invoke(self, token: str, args: Values) -> Values:
        """Return the result as moto has it."""
        return self._account.invoke(token, args)

    def replaces(self, type_: str, key: str) -> bool:
        """Return whether AWS replaces it; user-data as with userDataReplaceOnChange."""
        return self._account.replaces(type_, key)


class Machines:
    """The LXD machines of a region's instances. Safe for threads."""

    def __init__(self, region: Region, account: Account) -> None:
        self._region, self._aws = region, account.aws
        self._lxd = Client()
        self.subnets = Subnets(account.aws, self._lxd, region.owner)
        self.balancers = BalancerMachines(region, account.aws, self.subnets)
        self._publishing = threading.Lock()

    def launch(self, id_: str) -> None:
        """Create and start an instance's machine, with the user-data that EC2 was given, at the address it gave."""
        instance = self._instance(id_)
        public = "PublicIpAddress" in instance
        spec = machine.Spec(
            stack=self._region.name,
            owner=self._region.owner,
            role=id_,
            image=self._image(instance["ImageId"]),
            user_data=_with_environment(self._user_data(id_)) if public else self._user_data(id_),
            network=self.subnets.ensure(instance["SubnetId"], public=public),
            # No security group here lets its own machines reach one another.
            isolated=not public,
            pool=POOL,
            cpus=CPUS,
            memory_mib=MEMORY_MIB,
            disk_gib=DISK_GIB,
            store="",
        )
        fingerprint = self._lxd.get(url("images", "aliases", spec.image))["target"]
        address = instance["PrivateIpAddress"]
        sized = self._lxd.get(url("storage-pools", POOL))["driver"] in machine.SIZED_DRIVERS
        body = machine.body(id_, spec, fingerprint=fingerprint, address=address, sized=sized)
        body["config"]["cloud-init.vendor-data"] = self._vendor_data(instance)
        body["config"][label.CONFIRMED] = "true"
        body["config"]["linux.sysctl.net.ipv4.ip_nonlocal_bind"] = "1"
        at = "127." + address.partition(".")[2]
        # One that serves port 80 itself finds its metadata on another: two cannot have one port.
        body["devices"] |= {
            "metadata": _door(
                f"{LINK_LOCAL}:{PUBLIC_METADATA_PORT if public else 80}", f"{at}:{self._region.metadata_port}"
            ),
            "services": _door(f"[{SERVICES}]:443", f"127.0.0.1:{self._region.services_port}"),
        }
        self._lxd.request("POST", url("instances"), body)
        machine.start(self._lxd, id_)

    def terminate(self, id_: str) -> None:
        """Remove the machine of an instance, if it is there."""
        machine.remove(self._lxd, id_)

    def stopped(self) -> set[str]:
        """Return the instances whose machines were switched off."""
        there = machine.machines_of(self._lxd, self._region.owner)
        return {each["name"] for each in there if each["status"] == "Stopped"}

    def cpu_s(self, id_: str) -> float:
        """Return how many seconds the CPU of an instance has worked so far; 0 for one that is gone."""
        try:
            return float(self._lxd.get(url("instances", id_, "state"))["cpu"]["usage"]) / 1e9
        except NotFound:
            return 0.0

    def publish(self) -> None:
        """Lead each public address that an instance or a load balancer has now to its machine, and no other."""
        with self._publishing:
            alive = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
            pages = self._aws.ec2.describe_instances(Filters=alive)["Reservations"]
            expected = self.balancers.forwards()
            for each in (each for page in pages for each in page["Instances"]):
                if "PublicIpAddress" in each:
                    expected.setdefault(each["SubnetId"], {})[each["PublicIpAddress"]] = each["PrivateIpAddress"]
            self.subnets.forward(expected)

    def _instance(self, id_: str) -> dict[str, Any]:
        return self._aws.ec2.describe_instances(InstanceIds=[id_])["Reservations"][0]["Instances"][0]

    def _image(self, id_: str) -> str:
        """Return the alias of the LXD image that an image of EC2 stands for."""
        found = self._aws.ec2.describe_images(ImageIds=[id_])["Images"][0]
        return self._region.baked(found["Name"]) if found["OwnerId"] == ACCOUNT else self._region.image

    def _user_data(self, id_: str) -> str:
        """Return the text that EC2 was given: cloud-init would unpack it on the machine, LXD takes text."""
        asked = self._aws.ec2.describe_instance_attribute(InstanceId=id_, Attribute="userData")
        packed = base64.b64decode(asked["UserData"]["Value"])
        return (gzip.decompress(packed) if packed.startswith(GZIP) else packed).decode()

    def _vendor_data(self, instance: Mapping[str, Any]) -> str:
        """Return what an image of Debian brings, and what makes this host AWS to its machine."""
        names = [instance["KeyName"]] if instance.get("KeyName") else []
        pairs: list[dict[str, Any]] = (
            self._aws.ec2.describe_key_pairs(KeyNames=names, IncludePublicKey=True)["KeyPairs"] if names else []
        )
        hosts = f"{SERVICES} {' '.join(self._region.services)}"
        elsewhere = ["systemctl", "set-environment", METADATA_ELSEWHERE]
        document = {
            "users": [
                {
                    "name": USER,
                    "sudo": "ALL=(ALL) NOPASSWD:ALL",
                    "shell": "/bin/bash",
                    "ssh_authorized_keys": [each["PublicKey"] for each in pairs],
                }
            ],
            "ca_certs": {"trusted": [self._region.authority]},
            # At every boot: machines of EC2 run cloud-init each time, those of platform lxd the first time alone.
            "bootcmd": [
                ["sh", "-c", "rm -rf /etc/systemd/system/cloud-*.service.d"],
                ["ip", "address", "add", f"{LINK_LOCAL}/32", "dev", "lo"],
                ["sh", "-c", f"grep -qxF '{hosts}' /etc/hosts || echo '{hosts}' >> /etc/hosts"],
                *([elsewhere] if "PublicIpAddress" in instance else []),
            ],
        }
        return "#cloud-config\n" + json.dumps(document)


def _with_environment(user_data: str) -> str:
    """Return user data whose commands find the metadata service: cloud-init is older than what systemd is told."""
    head, document = user_data.partition("\n")[0], yaml.safe_load(user_data)
    document["runcmd"] = [["env", METADATA_ELSEWHERE, *each] for each in document["runcmd"]]
    return f"{head}\n{yaml.safe_dump(document, width=1000)}"


def _door(at: str, to: str) -> dict[str, str]:
    """Return a device that leads an address and port inside a machine to one of the host's loopback."""
    return {"type": "proxy", "bind": "instance", "listen": f"tcp:{at}", "connect": f"tcp:{to}"}
