"""The program: settings -> platform -> components -> outputs."""

from pathlib import Path

import pulumi

from components.app_server_fleet import AppServerFleet, AppServerFleetArgs
from components.balancer import Balancer, BalancerArgs
from components.configuration import read_settings, read_sources
from components.outputs import outputs
from components.security_groups import SecurityGroups, SecurityGroupsArgs
from platforms.registry import create
from settings.health import health_host

project, stack = Path.cwd(), pulumi.get_stack()
settings = read_settings(project, stack)
sources = read_sources(settings, project)
platform = create(settings, stack=stack, project=project, project_name=pulumi.get_project())

group_args = SecurityGroupsArgs(list(settings.apps), https=settings.balancer.tls is not None)
groups = SecurityGroups("groups", group_args, platform=platform)
store = platform.store("releases", opts=pulumi.ResourceOptions())
updates = settings.security_updates
balancer_args = BalancerArgs(settings.balancer, groups.balancer, updates, settings.operating_system)
balancer = Balancer("balancer", balancer_args, platform=platform)
fleets: dict[str, AppServerFleet] = {}
for name, app in settings.apps.items():
    host, https = health_host(name, settings.apps, settings.hostnames), settings.balancer.tls is not None
    args = AppServerFleetArgs(app, groups.apps[name], store, sources[name], balancer, updates, host, https=https)
    fleets[name] = AppServerFleet(name, args, platform=platform)
addresses = {name: fleet.addresses for name, fleet in fleets.items()}
public = balancer.serve(settings.apps, addresses, settings.hostnames)

for name, value in outputs(settings, platform, store, balancer=balancer, public=public, fleets=fleets).items():
    pulumi.export(name, value)
