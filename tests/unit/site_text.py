"""The text of a site, as the balancer makes it of what rendering/site.py sends."""

from __future__ import annotations

import json
from collections.abc import Sequence

from site_state import State

from rendering.site import render_site
from rendering.upstream import Upstream
from settings.balancer import Balancer
from settings.operating_system import DEFAULT_OS, OperatingSystem


def site_text(
    balancer: Balancer,
    upstreams: Sequence[Upstream],
    hostnames: Sequence[str] = (),
    *,
    https_port: int = 443,
    system: OperatingSystem = DEFAULT_OS,
) -> str:
    """Return the text that is served while all servers take requests."""
    site = render_site(balancer, upstreams, hostnames, https_port=https_port, system=system)
    return State(json.loads(json.dumps(site)), [], []).render()
