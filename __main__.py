"""The program: settings -> platform -> components -> outputs."""

import gc
from pathlib import Path

import pulumi

from components.app_server_fleet import AppServerFleet, AppServerFleetArgs
from components.configuration import read_settings, read_sources
from components.front import make_front, serve
from components.monitoring import Monitoring, MonitoringArgs
from components.outputs import Description, outputs
from components.security_groups import SecurityGroups, SecurityGroupsArgs
from platforms.registry import create
from settings.health import health_host

gc.disable()  # It keeps what it makes until it ends: to look for garbage took four tenths of a preview (decision 287).
project, stack = Path.cwd(), pulumi.get_stack()
settings = read_settings(project, stack)
sources = read_sources(settings, project)
platform = create(settings, stack=stack, project=project, project_name=pulumi.get_project())

https, is_machine = settings.balancer.https, settings.balancer.kind == "machine"
group_args = SecurityGroupsArgs(list(settings.apps), https, is_machine, settings.monitoring)
groups = SecurityGroups("groups", group_args, platform=platform)
store, has_metrics = platform.store("releases", opts=pulumi.ResourceOptions()), settings.monitoring.enabled
front, updates = make_front(settings, groups.balancer, platform, store), settings.security_updates
fleets: dict[str, AppServerFleet] = {}
for name, app in settings.apps.items():
    host = health_host(name, settings.apps, settings.hostnames)
    args = AppServerFleetArgs(app, groups.apps[name], store, sources[name], front, updates, host, https, has_metrics)
    fleets[name] = AppServerFleet(name, args, platform=platform)
public = serve(front, settings, fleets)
if groups.monitoring:
    Monitoring("monitoring", MonitoringArgs(settings, groups.monitoring, stack, front, fleets), platform=platform)

made = outputs(settings, platform, store, balancer=front, public=public, fleets=fleets)
Description("description", made["fleet"])
for name, value in made.items():
    pulumi.export(name, value)
