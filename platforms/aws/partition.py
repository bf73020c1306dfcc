"""The partition of a region: what ARNs and host names of AWS begin and end with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Partition:
    """A partition. name: second part of its ARNs. domain: what the host names of its services end with."""

    name: str
    domain: str


def partition_of(region: str) -> Partition:
    """Return the partition by the region's name, so that nothing has to be asked.

    The isolated partitions are not known here.
    """
    if region.startswith("cn-"):
        return Partition("aws-cn", "amazonaws.com.cn")
    if region.startswith("us-gov-"):
        return Partition("aws-us-gov", "amazonaws.com")
    return Partition("aws", "amazonaws.com")
