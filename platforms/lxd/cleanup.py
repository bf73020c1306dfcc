"""Removes all that carries an owner's label: what killed runs left. `python -m platforms.lxd.cleanup OWNER_PREFIX`."""

from __future__ import annotations

import sys
from typing import Any

from platforms.lxd import image, label, machine, network
from platforms.lxd.client import Client, LxdError, url


def owners(client: Client | None = None) -> list[str]:
    """Return all owners of something in LXD, sorted."""
    lxd = client or Client()
    found: set[str] = set()
    for kind in ("instances", "networks", "network-acls"):
        found |= {resource["config"].get(label.OWNER, "") for resource in _all(lxd, kind)}
    for each in _all(lxd, "images"):
        found |= image.owners(each)
    return sorted(found - {""})


def remove_leftovers(owner: str, client: Client | None = None) -> None:
    """Remove what the owner has: machines, then networks and their rules, then its share of images."""
    lxd = client or Client()
    for each in machine.machines_of(lxd, owner):
        machine.remove(lxd, each["name"])
    for kind in ("networks", "network-acls"):
        for each in _all(lxd, kind):
            if label.is_labelled(each, owner):
                network.remove(lxd, each["name"], owner)
    for each in _all(lxd, "images"):
        if owner in image.owners(each):
            for alias in each["aliases"]:
                image.release(lxd, alias["name"], owner)


def _all(client: Client, kind: str) -> list[dict[str, Any]]:
    # Networks that LXD does not manage have no configuration.
    things: list[dict[str, Any]] = client.get(url(kind, recursion="1"))
    return [{**resource, "config": resource.get("config") or {}} for resource in things]


def main(arguments: list[str]) -> int:
    """Remove what each owner with the prefix has. An empty prefix would mean everybody, so it is rejected."""
    if len(arguments) != 1 or not arguments[0]:
        sys.stderr.write("usage: python -m platforms.lxd.cleanup OWNER_PREFIX\n")
        return 2
    try:
        for owner in owners():
            if owner.startswith(arguments[0]):
                remove_leftovers(owner)
                sys.stdout.write(f"removed what {owner} had\n")
    except LxdError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
