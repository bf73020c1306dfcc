"""Render what a machine of a group boots with: small user data, and a file in the release store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

from gateways import Gateway
from rendering.app_server import ProcessLayout, boot_files, packages_to_install, status_scripts
from rendering.common import SCRIPTS, files_to_apply, script_files
from rendering.templates import read_file
from rendering.user_data import cloud_config, without_comments
from settings.stack import SecurityUpdates

UNIT = "wsgi-fleet-group.service"


class Names(Protocol):
    """What machines must know of their group: its name, and those of its hooks."""

    @property
    def group(self) -> str: ...  # noqa: D102
    @property
    def launch(self) -> str: ...  # noqa: D102
    @property
    def terminate(self) -> str: ...  # noqa: D102


def group_server_files(
    security_updates: SecurityUpdates,
    kind: Gateway,
    processes: ProcessLayout | None,
    names: Names,
    *,
    by_load_balancer: bool,
) -> str:
    """Return the files of an app server that is in a group, as apply_files.py takes them.

    They are those that one of a fixed fleet boots with, what its step brings, and what joins the group.
    by_load_balancer: whether the group registers it in one; else a balancer of the stack's own asks the group.
    """
    config: dict[str, object] = {"name": names.group, "launch": names.launch, "terminate": names.terminate}
    config["by_load_balancer"] = by_load_balancer
    unit = without_comments(read_file(f"templates/systemd/{UNIT}"))
    files = boot_files(security_updates, kind, processes) | status_scripts()
    files |= script_files("group/group_member", "group/lifecycle", "common/aws_service")
    files |= {"/etc/wsgi-fleet/group": ("0644", json.dumps(config)), f"/etc/systemd/system/{UNIT}": ("0644", unit)}
    return files_to_apply(files, on=[UNIT])


def group_server_user_data(
    store_url: str, key: str, system_packages: Sequence[str], processes: ProcessLayout | None
) -> str:
    """Return the user data. store_url: of the application's releases. key: of the files there."""
    files = script_files("group/group_boot", "common/fetch", "common/apply_files")
    files["/etc/wsgi-fleet/store"] = ("0600", store_url)
    packages = packages_to_install(system_packages, processes)
    return cloud_config(files, [f"{SCRIPTS}/group_boot.py", key, *packages])
