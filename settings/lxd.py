"""Settings of platform lxd."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from settings.constraint import Name
from settings.platform_block import MachineCapacity, PlatformBlock
from settings.size import Size


class Lxd(PlatformBlock):
    """Where the fleet runs on this machine."""

    size: ClassVar = frozenset({"cpus", "memory_mib", "disk_gib"})
    cpus: ClassVar = "cpus"

    port: int = Field(default=8080, ge=1024, le=65535, description="loopback port on which the balancer is published")
    tls_port: int = Field(default=8443, ge=1024, le=65535, description="the same for HTTPS, where balancer.tls is set")
    monitoring_port: int = Field(
        default=9090, ge=1024, le=65535, description="the same for Prometheus, where monitoring.enabled is set"
    )
    pool: Name = Field(default="wsgi-fleet", description="LXD storage pool")
    prebuilt_packages: bool = Field(default=True, description="false: packages are installed at boot, as on EC2")

    @staticmethod
    def capacity(size: Size) -> MachineCapacity:
        """Return what the size says."""
        return MachineCapacity(size.cpus, size.memory_mib, f"fleet.size.memory_mib ({size.memory_mib})")
