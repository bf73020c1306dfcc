"""Reject settings of the balancer that Apache does not support."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from settings.balancer import Balancer

NO_RATE_LIMITING = "no module of Debian's Apache counts the requests of a client"
# Setting below balancer -> why it has no meaning with proxy.kind: apache.
UNSUPPORTED: Mapping[str, str] = {
    "requests_per_second": NO_RATE_LIMITING,
    "burst": NO_RATE_LIMITING,
    "connections": NO_RATE_LIMITING,
    "proxy.cache": "its cache sends all equal requests at once to the application, and has no limit of its size",
    "proxy.memcached": "no module of Debian's Apache serves pages from memcached",
}


def unsupported_settings(balancer: Balancer) -> list[str]:
    """Return the settings that Apache does not support, each with the reason and the remedy."""
    return [
        f"{name}: Apache does not support it: {why}; remove it, or take proxy.kind: nginx"
        for name, why in UNSUPPORTED.items()
        if attrgetter(name)(balancer) is not None
    ]
