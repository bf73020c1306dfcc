"""The LXD machines of the instances of groups."""

from __future__ import annotations

from platforms.lxd import machine
from platforms.lxd.client import Client, NotFound, url
from tests.aws.account import Account
from tests.aws.machines import Machines
from tests.aws.region import Region


class GroupMachines:
    """Does what tests/aws/group_launch.py asks of hosts. Safe for threads."""

    def __init__(self, region: Region, account: Account, lxd: Client) -> None:
        self._machines, self._lxd, self._owner = Machines(region, account), lxd, region.owner

    def launch(self, id_: str) -> None:
        """Create and start the machine of an instance. None of a group has a public address here."""
        self._machines.launch(id_)

    def terminate(self, id_: str) -> None:
        """Remove the machine of an instance, if it is there."""
        self._machines.terminate(id_)

    def stopped(self) -> set[str]:
        """Return the instances whose machines were switched off."""
        return {each["name"] for each in machine.machines_of(self._lxd, self._owner) if each["status"] == "Stopped"}

    def renew(self) -> None:
        """Follow the rules of security groups."""
        self._machines.subnets.renew()

    def cpu_s(self, id_: str) -> float:
        """Return how many seconds the CPU of an instance has worked so far; 0 for one that is gone."""
        try:
            return float(self._lxd.get(url("instances", id_, "state"))["cpu"]["usage"]) / 1e9
        except NotFound:
            return 0.0
