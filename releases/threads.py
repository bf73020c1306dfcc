"""Threads that an application starts when it is imported: a gateway that forks afterwards loses them."""

from __future__ import annotations

import json
import math

from releases.fleet import Fleet, Server, ServerFailure

# The script of gateways that can fork after the import, and what it prints before the names.
SCRIPT = "gateway/gateway_environment.py"
MARK = "warning: threads of the import end in workers: "


def report_lost_threads(fleet: Fleet, server: Server, manifest: bytes, since_s: float) -> None:
    """Print a warning if the test of a release, in the last since_s seconds, has logged such threads."""
    if SCRIPT not in json.loads(manifest).get("gateway_files", ()):
        return
    try:
        log = fleet.journal(server, "threads", f"--since=-{math.ceil(since_s)}s", "_SYSTEMD_UNIT=app-proof.service")
    except ServerFailure as failure:
        fleet.log(f"whether its import starts threads is not known: {failure}")
        return
    for names in dict.fromkeys(line.removeprefix(MARK) for line in log.splitlines() if line.startswith(MARK)):
        fleet.log(
            f"warning: the import of the application starts threads ({names}). The gateway forks its workers after "
            "the import, and threads do not run on there. Set gateway.lazy_apps to true, which imports the application "
            "in each worker, or start them at the first request"
        )
