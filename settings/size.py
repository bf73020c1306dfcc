"""What one machine has."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from settings.constraint import InstanceType
from settings.model import Model

# As Debian calls them.
Architecture = Literal["amd64", "arm64"]
# EC2's names: family, generation, "g" for Graviton, more letters (docs.aws.amazon.com/ec2/latest/instancetypes,
# "Instance type naming conventions"); a1 is older than that rule. g4dn, with the g in front, is amd64.
ARM64 = re.compile(r"^(a1|[a-z]+\d+g[a-z]*)\.")


class Size(Model):
    """What one machine has. `aws` uses instance_type and disk_gib, `lxd` the others (disk_gib where its pool can)."""

    cpus: int = Field(default=1, ge=1, le=128, description="CPUs of the machine (lxd)")
    memory_mib: int = Field(default=512, ge=256, le=1_048_576, description="memory in MiB (lxd)")
    disk_gib: int = Field(default=8, ge=2, le=16_384, description="root disk in GiB")
    instance_type: InstanceType = Field(default="t4g.small", description="EC2 instance type (aws)")

    @property
    def architecture(self) -> Architecture:
        """Return what the instance type needs an image for."""
        return "arm64" if ARM64.match(self.instance_type) else "amd64"
