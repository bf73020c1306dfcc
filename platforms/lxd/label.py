"""Names and labels: what here belongs to which stack of which checkout. Nothing unlabelled is ever touched."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PREFIX = "user.wsgi-fleet."
OWNER = PREFIX + "owner"
ROLE = PREFIX + "role"
# "true" once the engine has surely recorded the machine: what is not confirmed is half-made and may be removed.
CONFIRMED = PREFIX + "confirmed"
# Of an image, which stacks share: owners, separated by commas.
OWNERS = PREFIX + "owners"

HOST_NAME_LENGTH = 63
# IFNAMSIZ less the closing NUL.
INTERFACE_NAME_LENGTH = 15


def owner(stack: str, project: Path) -> str:
    """Return the owner of what a stack makes: two checkouts may both have a stack `local`."""
    return f"{stack}-{_digest(str(project.resolve()))[:6]}"


def stack_of(of_owner: str) -> str:
    """Return the stack of an owner."""
    return of_owner.rpartition("-")[0]


def machine_name(stack: str, role: str) -> str:
    """Return a new host name for a machine of that role: `local-hello-1-3fa9c2`.

    Its end is random, so old and new coexist.
    """
    tail = secrets.token_hex(3)
    head = re.sub(r"[^a-z0-9]+", "-", f"{stack}-{role}".lower()).strip("-")
    if not head[:1].isalpha():
        head = f"m-{head}"
    return f"{head[: HOST_NAME_LENGTH - len(tail) - 1].rstrip('-')}-{tail}"


def network_name(of_owner: str, role: str) -> str:
    """Return the name of a security group's bridge.

    An interface name is too short to be descriptive; the labels and the description are.
    """
    return f"wf{_digest(f'{of_owner}/{role}')[: INTERFACE_NAME_LENGTH - 3]}"


def labels(of_owner: str, role: str) -> dict[str, str]:
    """Return the configuration keys that name the owner and the role of a thing."""
    return {OWNER: of_owner, ROLE: role}


def is_labelled(description: Mapping[str, Any], of_owner: str, role: str | None = None) -> bool:
    """Return whether an instance, network or ACL, as LXD describes it, is the owner's (and has that role)."""
    config: Mapping[str, str] = description.get("config") or {}
    return config.get(OWNER) == of_owner and role in (None, config.get(ROLE))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
