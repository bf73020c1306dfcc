"""The settings of how a release moves over a fleet."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from settings import limits
from settings.constraint import Command, matching
from settings.model import Model, reject


class Rollout(Model):
    """How a release moves over the fleet: staged everywhere, the task once, the canary, then the others in batches."""

    release_task: Command | None = Field(
        default=None,
        description="shell command of the new release, run once on one server before it serves; must be idempotent",
    )
    task_before_proof: bool = Field(
        default=False,
        description="true: release_task runs before the release is proven, for a health_path that needs what it makes",
    )
    task_timeout_s: int = Field(default=600, ge=1, le=86_400, description="longest time for the release task")
    batch_size: (
        Annotated[int, Field(ge=1, le=1000)]
        | Annotated[str, matching(r"^([1-9]|[1-9]\d|100)%$", "a share from 1% to 100%")]
    ) = Field(
        default="50%", description="servers that switch at a time after the first: a number, or a share, rounded up"
    )
    bake_s: int = Field(default=2, ge=0, le=3600, description="how long the first server is watched before the others")
    max_error_percent: Annotated[float, Field(ge=0, le=100)] | None = Field(
        default=10,
        description="percentage points of 5xx above the release before at which a release goes back, as the balancer "
        f"counts at least {limits.MIN_REQUESTS} requests; null: not judged",
    )
    max_latency_ratio: Annotated[float, Field(ge=1.1, le=1000)] | None = Field(
        default=None, description="p99 as a multiple of that of the release before at which it goes back; null: off"
    )
    drain_timeout_s: int | None = Field(
        default=None,
        ge=1,
        le=limits.STOP_TIMEOUT_S,
        description="longest time for requests in flight to end; null is gateway.request_timeout_s + 15",
    )
    healthy_threshold: int = Field(
        default=3, ge=1, le=100, description="healthy responses in a row that make a slot healthy"
    )
    stage_timeout_s: int = Field(
        default=300, ge=10, le=3600, description="longest time to install a release on a server"
    )
    start_timeout_s: int = Field(default=60, ge=5, le=600, description="longest time to start and be healthy")
    allow_unreachable: int = Field(
        default=0, ge=0, le=1000, description="servers that may be unreachable; they take the release when they boot"
    )
    keep_releases: int = Field(default=5, ge=2, le=50, description="releases kept on each server and in the store")

    @model_validator(mode="after")
    def _check_task(self) -> Rollout:
        if self.task_before_proof and not self.release_task:
            reject("task_before_proof: true: needs a release_task; set it, or remove this")
        return self
