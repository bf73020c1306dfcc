"""The group of one that a balancer is in, and its address. Standard library only."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TypeVar

from aws_service import Refused
from group_boot import retry
from lifecycle import Lifecycle, keep_waiting
from proxy import ProxyError
from scaling_groups import ScalingGroups

CONFIG = Path("/etc/wsgi-fleet")
# Exists once the address led here and the group went on.
JOINED = CONFIG / "joined"
# Seconds in which AWS must have taken a call.
CALL_S = 900.0
# Seconds between two signs of life while the group waits, which is 900 s by itself, and until the last one: as long as
# the steps may take together.
HEARTBEAT_S, LAUNCH_S = 300.0, 3600.0

T = TypeVar("T")


class Member:
    """This machine in its group. CONFIG/member has the group, its hook, and the allocation of the address."""

    def __init__(self) -> None:
        config = json.loads((CONFIG / "member").read_text())
        self._group, self._hook, self._address = config["group"], config["hook"], config["address"]
        self._aws, self._lifecycle = ScalingGroups(), Lifecycle(self._group)

    def take_address(self, limit_s: float = CALL_S) -> None:
        """Have the address lead here. Raises ProxyError."""
        call_aws(lambda: self._aws.take_address(self._address), limit_s)
        print("the address leads here", flush=True)

    def join(self) -> None:
        """Have the address lead here and the group go on, once: another machine may come later. Raises ProxyError."""
        if JOINED.exists():
            return
        self.take_address()
        if not self.complete("CONTINUE"):
            # Its answer was lost, or it did not wait as long. If it abandons this machine, another one comes.
            print("the group does not wait for this machine", flush=True)
        JOINED.touch()

    def complete(self, result: str, limit_s: float = CALL_S) -> bool:
        """End the wait of the group for this machine. result: CONTINUE or ABANDON. Return whether it did wait."""
        try:
            call_aws(lambda: self._lifecycle.complete(self._hook, result), limit_s)
        except ProxyError as error:
            print(f"error: {error}", flush=True)
            return False
        return True

    def keep_waiting(self, ended: Event) -> None:
        """Have the group wait for this machine until that has ended, or LAUNCH_S is over."""
        keep_waiting(self._beat, ended, every_s=HEARTBEAT_S, limit_s=LAUNCH_S)

    def _beat(self) -> None:
        try:
            call_aws(lambda: self._lifecycle.beat(self._hook), limit_s=0)
        except ProxyError as error:
            print(f"the group did not take a sign of life: {error}", flush=True)

    def give_up(self, limit_s: float = CALL_S) -> None:
        """Have the group take another machine, whether it still waits for this one or not. Raises ProxyError."""
        if not self.complete("ABANDON", limit_s):
            self.report_dead()

    def report_dead(self) -> None:
        """Have the group replace this machine. Raises ProxyError if AWS rejects the call."""
        call_aws(lambda: self._aws.condemn(self._aws.machine), limit_s=0)

    def is_alone(self) -> bool:
        """Return whether the group has no other machine. Raises ProxyError if AWS does not respond."""
        return call_aws(lambda: self._aws.members(self._group), limit_s=0) == {self._aws.machine}


def call_aws(call: Callable[[], T], limit_s: float = CALL_S) -> T:
    """Return what a call of AWS returns. Raises ProxyError.

    Call again while AWS rejects it: the role may be new, or the group may not wait yet.
    """
    errors = (Refused, OSError, http.client.HTTPException)
    try:
        return retry(call, errors=errors, limit_s=limit_s)
    except errors as error:
        raise ProxyError(str(error)) from error
