"""Sites that a test brings to a balancer in place of the step, as rendering/site.py makes them."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from harness.stack import lxc, on


def desired_site(balancer: str, old: str = "", new: str = "") -> str:
    """Return the site that the last step brought, with its first `old` replaced by `new` in each part of its text."""
    site = json.loads(on(balancer, "cat", "/etc/wsgi-fleet/site.json"))["site"]
    for part in site["parts"]:
        if "text" in part and old:
            part["text"] = part["text"].replace(old, new, 1)
    return json.dumps(site)


def site_document(text: str, probe: str = "") -> str:
    """Return a site of this text. probe: the path of its only application, which has no server; "" for none."""
    app: dict[str, Any] = {"servers": {}, "protocol": "http", "health_path": probe, "health_host": "", "probe": probe}
    return json.dumps({"parts": [{"text": text}], "upstreams": {"app": app} if probe else {}, "https": False})


def apply_site(balancer: str, site: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Have a balancer serve a site."""
    command = ("/usr/local/lib/wsgi-fleet/proxy_site.py", "site")
    return lxc("exec", balancer, "-T", "--", *command, check=check, stdin=site)
