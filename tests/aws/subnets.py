"""EC2's subnets as networks of LXD: a bridge for each that a machine stands in, with the subnet's own addresses."""

from __future__ import annotations

import random
import threading
from ipaddress import IPv4Network
from typing import Any
from unittest import mock

from platforms.lxd import label, network, subnet
from platforms.lxd.client import Client, url
from rendering.common import BALANCER_PORT
from settings.application import APP_PORT
from tests.aws.endpoint_calls import SSH, is_open_elsewhere
from tests.aws.kind import Clients

HTTPS = 443


def free_block() -> IPv4Network:
    """Return a /16 of 10.0.0.0/8 that this host has no route into, for a VPC. Raises LookupError."""
    used = list(subnet.in_use())
    for second in random.sample(range(1, 255), 254):
        block = IPv4Network(f"10.{second}.0.0/16")
        if not any(block.overlaps(other) for other in used):
            return block
    raise LookupError("this host has routes into every /16 of 10.0.0.0/8")


class Subnets:
    """The networks of subnets. Safe for threads.

    owner: label of what is made in LXD. A network's role is the subnet's id.
    """

    def __init__(self, aws: Clients, lxd: Client, owner: str) -> None:
        self._aws, self._lxd, self._owner = aws, lxd, owner
        self._making = threading.Lock()
        # Subnet -> whether it is the balancer's, of each that has a network; and whether port 22 is open in them.
        self._there: dict[str, bool] = {}
        self._is_ssh_open = False

    def name(self, id_: str) -> str:
        """Return the name of a subnet's network."""
        return label.network_name(self._owner, id_)

    def ensure(self, id_: str, *, public: bool) -> str:
        """Create or update the network of a subnet; return its name.

        public: of the balancer. Any other lets in only what comes from other subnets. This host connects from the
        network's own gateway, so that the jump host is the one way. Port 22 is open where a rule opens it to more than
        an endpoint: who comes through that comes past the network (see tests/aws/session.py).
        """
        with self._making:
            self._is_ssh_open = is_open_elsewhere(self._aws)
            self._there[id_] = public
            return self._ensure(id_)

    def renew(self) -> None:
        """Open or close port 22 in all networks, where the rules of groups have changed that."""
        with self._making:
            if (is_open := is_open_elsewhere(self._aws)) != self._is_ssh_open:
                self._is_ssh_open = is_open
                # Another process may have removed some.
                left = {each["SubnetId"] for each in self._aws.ec2.describe_subnets()["Subnets"]}
                for id_ in self._there.keys() & left:
                    self._ensure(id_)

    def _ensure(self, id_: str) -> str:
        public, ssh = self._there[id_], [SSH] if self._is_ssh_open else []
        there: list[dict[str, Any]] = self._aws.ec2.describe_subnets()["Subnets"]
        own = next(each for each in there if each["SubnetId"] == id_)
        others = [each["CidrBlock"] for each in there if each["VpcId"] == own["VpcId"] and each is not own]
        rules = (
            [network.AclRule(port) for port in (*ssh, BALANCER_PORT, HTTPS)]
            if public
            else [network.AclRule(port, cidr) for port in (*ssh, APP_PORT) for cidr in others]
        )
        chosen = IPv4Network(own["CidrBlock"])
        with mock.patch("platforms.lxd.network._free_subnet", return_value=chosen):
            return network.ensure(self._lxd, self._owner, id_, rules)[0]

    def remove(self, id_: str) -> None:
        """Remove the network of a subnet, if it has one."""
        self._there.pop(id_, None)
        network.remove(self._lxd, self.name(id_), self._owner)

    def forward(self, expected: dict[str, dict[str, str]]) -> None:
        """Lead public addresses to private ones, and no others. expected: subnet -> public address -> private one."""
        networks: list[dict[str, Any]] = self._lxd.get(url("networks", recursion="1"))
        own = [each for each in networks if label.is_labelled(each, self._owner)]
        # All that goes before what comes: an address may move from one network to another.
        for each in own:
            place, there = url("networks", each["name"], "forwards"), self._forwards(each["name"])
            for public in there.keys() - expected.get(each["config"][label.ROLE], {}).keys():
                self._lxd.request("DELETE", f"{place}/{public}")
        for each in own:
            self._forward(each["name"], expected.get(each["config"][label.ROLE], {}))

    def _forwards(self, name: str) -> dict[str, str | None]:
        """Return public address -> private one, as a network leads them now."""
        forwards: list[dict[str, Any]] = self._lxd.get(f"{url('networks', name, 'forwards')}?recursion=1")
        return {each["listen_address"]: each["config"].get("target_address") for each in forwards}

    def _forward(self, name: str, expected: dict[str, str]) -> None:
        place, there = url("networks", name, "forwards"), self._forwards(name)
        for public, private in expected.items():
            if public not in there:
                body = {"listen_address": public, "config": {"target_address": private}}
                self._lxd.request("POST", place, body)
            elif there[public] != private:
                # In one step, as EC2 does it.
                self._lxd.request("PUT", f"{place}/{public}", {"config": {"target_address": private}})
