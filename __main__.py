"""The program: settings -> platform -> components -> outputs."""

from pathlib import Path

import pulumi

from components.app_server_fleet import AppServerFleet, AppServerFleetArgs, packages_folder
from components.balancer import Balancer, BalancerArgs
from components.configuration import read_settings
from components.outputs import outputs
from components.security_groups import SecurityGroups, SecurityGroupsArgs
from platforms.registry import create
from releases.revision import revision_of

project, stack = Path.cwd(), pulumi.get_stack()
settings = read_settings(project, stack)
platform = create(settings, stack=stack, project=project, project_name=pulumi.get_project())

group_args = SecurityGroupsArgs(list(settings.apps), https=settings.balancer.tls is not None)
groups = SecurityGroups("groups", group_args, platform=platform)
store = platform.store("releases", opts=pulumi.ResourceOptions())
balancer_args = BalancerArgs(settings.balancer, groups.balancer, settings.security_updates)
balancer = Balancer("balancer", balancer_args, platform=platform)
packages = packages_folder(project, stack)
fleets: dict[str, AppServerFleet] = {}
for name, app in settings.apps.items():
    places = store, project, packages / name
    args = AppServerFleetArgs(
        app, groups.apps[name], *places, balancer, revision_of(project / app.source), settings.security_updates
    )
    fleets[name] = AppServerFleet(name, args, platform=platform)
members = {name: fleet.members for name, fleet in fleets.items()}
public = balancer.serve(settings.apps, members, settings.hostnames)

for name, value in outputs(settings, platform, store, balancer=balancer, public=public, fleets=fleets).items():
    pulumi.export(name, value)
