"""What one rollout is to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from releases.client_watch import ClientLimits
from releases.fleet import Server
from releases.release import Release


@dataclass(frozen=True)
class Plan:
    """What one rollout is to do. Times in seconds; keep_releases counts the new one.

    batch_size: servers that switch at a time after the canary, as a number or "25%". bake_s: how long the canary is
    watched before the others follow. allow_unreachable: servers that may be missing; they take the release when they
    boot. revision: of the source in its version control, for the journal; "" where there is none. balancer: the machine
    that serves static files, where it does. keeps_static: whether the store keeps them as well. task_before_proof:
    whether the release task runs before any server proves the release. client_limits: by which what clients see is
    judged; None where no balancer of ours is in front, or nothing is to be judged.
    """

    app: str
    release: Release
    servers: Sequence[Server]
    secrets: Mapping[str, str] = field(repr=False)
    stage_timeout_s: int
    start_timeout_s: int
    drain_timeout_s: int
    task_timeout_s: int
    batch_size: int | str
    bake_s: int
    allow_unreachable: int
    keep_releases: int
    revision: str = ""
    balancer: Server | None = None
    keeps_static: bool = False
    task_before_proof: bool = False
    client_limits: ClientLimits | None = None


def batches(servers: Sequence[Server], size: int | str) -> list[list[Server]]:
    """Return the servers in groups of size: a number, or "25%" of all, the canary included, rounded up.

    A group is never all of a fleet, since the canary has gone ahead alone.
    """
    whole = len(servers) + 1
    step = size if isinstance(size, int) else math.ceil(whole * int(size.removesuffix("%")) / 100)
    return [list(servers[start : start + step]) for start in range(0, len(servers), step)]
