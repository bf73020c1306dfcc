"""What one machine has."""

from __future__ import annotations

from pydantic import Field

from settings.constraint import InstanceType
from settings.model import Model


class Size(Model):
    """What one machine has. `aws` uses instance_type and disk_gib, `lxd` the others (disk_gib where its pool can)."""

    cpus: int = Field(default=1, ge=1, le=128, description="CPUs of the machine (lxd)")
    memory_mib: int = Field(default=512, ge=256, le=1_048_576, description="memory in MiB (lxd)")
    disk_gib: int = Field(default=8, ge=2, le=16_384, description="root disk in GiB")
    instance_type: InstanceType = Field(default="t3.small", description="EC2 instance type, amd64 (aws)")
