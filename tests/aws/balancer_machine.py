"""The LXD machine of a load balancer: Debian's HAProxy, at the address of its first interface."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from platforms.lxd import image, label, machine
from platforms.lxd.client import Client, url
from platforms.lxd.recipe import ImageFile, ImageRecipe
from tests.aws import haproxy
from tests.aws.kind import Clients
from tests.aws.load_balancing import interfaces, machine_name, public_address
from tests.aws.plugin import Failed
from tests.aws.region import POOL, Region
from tests.aws.subnets import Subnets

CPUS, MEMORY_MIB, DISK_GIB = 1, 192, 4
# Until it serves: it boots in some seconds.
BOOT_S = 120.0
# Its files come from outside (tests/aws/balancing.py), maybe after it has begun.
UNIT = f"""\
[Unit]
StartLimitIntervalSec=0
[Service]
Environment=CONFIG={haproxy.FOLDER}/{haproxy.CONFIG} "EXTRAOPTS=-S {haproxy.FOLDER}/{haproxy.MASTER},mode,666"
RestartSec=500ms
"""
RECIPE = ImageRecipe(
    packages=("haproxy",), files=(ImageFile("/etc/systemd/system/haproxy.service.d/stand-in.conf", UNIT),)
)


class BalancerMachines:
    """The machines of a region's load balancers. Safe for threads."""

    def __init__(self, region: Region, aws: Clients, subnets: Subnets) -> None:
        self._region, self._aws, self._subnets = region, aws, subnets
        self._lxd = Client()

    def launch(self, arn: str) -> None:
        """Create and start its machine, and wait until it serves. Raises Failed."""
        interface, folder = interfaces(self._aws, arn)[0], self._folder(arn)
        folder.mkdir(exist_ok=True)
        network = self._subnets.ensure(interface["SubnetId"], public=True)
        # Targets see who connects: within a VPC nobody hides behind another's address. It needs no way out.
        self._lxd.edit(url("networks", network), _without_nat)
        alias = image.ensure(self._lxd, self._region.owner, RECIPE, RECIPE.digest(), _log)
        spec = machine.Spec(
            stack=self._region.name,
            owner=self._region.owner,
            role=machine_name(arn),
            image=alias,
            user_data="",
            network=network,
            isolated=False,
            pool=POOL,
            cpus=CPUS,
            memory_mib=MEMORY_MIB,
            disk_gib=DISK_GIB,
            store="",
        )
        fingerprint = self._lxd.get(url("images", "aliases", alias))["target"]
        sized = self._lxd.get(url("storage-pools", POOL))["driver"] in machine.SIZED_DRIVERS
        address = interface["PrivateIpAddress"]
        body = machine.body(spec.role, spec, fingerprint=fingerprint, address=address, sized=sized)
        body["config"][label.CONFIRMED] = "true"
        body["devices"]["files"] = {"type": "disk", "source": str(folder), "path": haproxy.FOLDER}
        self._lxd.request("POST", url("instances"), body)
        machine.start(self._lxd, spec.role)
        end = time.monotonic() + BOOT_S
        while not (folder / haproxy.ADMIN).exists():
            if time.monotonic() > end:
                raise Failed(
                    f"{spec.role} does not serve after {BOOT_S:.0f} s:\n{machine.console(self._lxd, spec.role)}"
                )
            time.sleep(0.2)

    def terminate(self, arn: str) -> None:
        """Remove its machine and its files, as far as they are there."""
        machine.remove(self._lxd, machine_name(arn))
        shutil.rmtree(self._folder(arn), ignore_errors=True)

    def forwards(self) -> dict[str, dict[str, str]]:
        """Return subnet -> public address -> private one."""
        found: dict[str, dict[str, str]] = {}
        every: list[dict[str, Any]] = self._aws.elbv2.describe_load_balancers()["LoadBalancers"]
        for arn in (str(each["LoadBalancerArn"]) for each in every):
            for interface in interfaces(self._aws, arn)[:1]:
                found.setdefault(interface["SubnetId"], {})[public_address(arn)] = interface["PrivateIpAddress"]
        return found

    def _folder(self, arn: str) -> Path:
        return Path(self._region.balancers) / machine_name(arn)


def _without_nat(network: dict[str, Any]) -> bool:
    had = network["config"].get("ipv4.nat") != "false"
    network["config"]["ipv4.nat"] = "false"
    return had


def _log(text: str) -> None:
    # Standard output is the engine's.
    sys.stderr.write(f"{text}\n")
