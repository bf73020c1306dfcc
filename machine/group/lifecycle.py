"""Completes or extends a lifecycle hook of the Auto Scaling group of this machine. Standard library only.

See docs.aws.amazon.com/autoscaling/ec2/APIReference/.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import Event
from urllib.parse import urlencode

from aws_service import Service

FORM, VERSION = "application/x-www-form-urlencoded; charset=utf-8", "2011-01-01"


class Lifecycle:
    """group: its name. Raises OSError without metadata. Methods raise aws_service.Refused, OSError or HTTPException."""

    def __init__(self, group: str) -> None:
        self._group, self._service = group, Service("autoscaling")

    def complete(self, hook: str, result: str) -> None:
        """End the wait of the group for this machine. result: CONTINUE or ABANDON."""
        self._call("CompleteLifecycleAction", hook, LifecycleActionResult=result)

    def beat(self, hook: str) -> None:
        """Have the group wait on for this machine."""
        self._call("RecordLifecycleActionHeartbeat", hook)

    def _call(self, action: str, hook: str, **more: str) -> None:
        form = {
            "Action": action,
            "Version": VERSION,
            "AutoScalingGroupName": self._group,
            "LifecycleHookName": hook,
            "InstanceId": self._service.machine,
            **more,
        }
        self._service.post(FORM, urlencode(form).encode())


def keep_waiting(beat: Callable[[], object], ended: Event, *, every_s: float, limit_s: float) -> None:
    """Send a sign of life every so many seconds until what the group waits for has ended, for limit_s at most."""
    for _ in range(math.ceil(limit_s / every_s)):
        if ended.wait(every_s):
            return
        beat()
