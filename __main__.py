"""The program: settings -> platform -> components -> exports."""

from pathlib import Path

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env, get_config_secret_keys_env

from components.app_server_fleet import AppServerFleet, AppServerFleetArgs
from components.balancer import Balancer, BalancerArgs
from components.security_groups import SecurityGroups, SecurityGroupsArgs
from platforms.choose import choose
from releases.revision import revision_of
from stack_file import SettingsError, parse

project, stack = Path.cwd(), pulumi.get_stack()
try:
    given = parse(
        get_config_env() | CONFIG.get(),
        project=project,
        where=f"stacks/Pulumi.{stack}.yaml",
        encrypted=get_config_secret_keys_env(),
    )
except SettingsError as error:
    # Ends the program with this text and without a traceback.
    raise pulumi.RunError(str(error)) from None
platform = choose(given, stack=stack, project=project, project_name=pulumi.get_project())

groups = SecurityGroups(
    "groups", SecurityGroupsArgs(list(given.apps), https=given.balancer.tls is not None), platform=platform
)
store = platform.store("releases", opts=pulumi.ResourceOptions())
packages = project / ".state" / stack / "packages"
fleets = {
    name: AppServerFleet(
        name,
        AppServerFleetArgs(
            app,
            groups.apps[name],
            store,
            project,
            packages / name,
            revision_of(project / app.source),
            given.maintenance,
        ),
        platform=platform,
    )
    for name, app in given.apps.items()
}
members = {name: fleet.members for name, fleet in fleets.items()}
balancer = Balancer(
    "balancer",
    BalancerArgs(given.balancer, groups.balancer, given.apps, members, given.maintenance),
    platform=platform,
)

pulumi.export("url", balancer.url)
pulumi.export("address", balancer.address)
pulumi.export("releases", {name: fleet.release for name, fleet in fleets.items()})
pulumi.export("servers", {role: machine.id for fleet in fleets.values() for role, machine in fleet.machines.items()})
if platform.log_places:
    pulumi.export("logs", platform.log_places)
# What ./fleet works with. A secret as a whole: the reach may hold a private key.
pulumi.export(
    "fleet",
    pulumi.Output.secret(
        {
            "store": store.spec,
            "reach": platform.reach().spec,
            "balancer": {"name": "balancer", "target": balancer.machine.target},
            "url": balancer.url,
            "apps": {
                name: {
                    "servers": [
                        {"name": role, "target": machine.target, "address": machine.address}
                        for role, machine in fleets[name].machines.items()
                    ],
                    "health_path": app.health_path,
                    "start_timeout_s": app.rollout.start_timeout_s,
                    "drain_timeout_s": app.drain_timeout_s,
                }
                for name, app in given.apps.items()
            },
        }
    ),
)
