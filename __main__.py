"""The program: settings -> platform -> components -> exports."""

from pathlib import Path

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env, get_config_secret_keys_env

from components.app_server_fleet import AppServerFleet, AppServerFleetArgs
from components.balancer import Balancer, BalancerArgs
from components.security_groups import SecurityGroups, SecurityGroupsArgs
from platforms.choose import choose
from releases.revision import revision_of
from settings.ladder import warnings
from settings.route import shown
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
for warning in warnings(given):
    pulumi.log.warn(warning)
platform = choose(given, stack=stack, project=project, project_name=pulumi.get_project())

groups = SecurityGroups(
    "groups", SecurityGroupsArgs(list(given.apps), https=given.balancer.tls is not None), platform=platform
)
store = platform.store("releases", opts=pulumi.ResourceOptions())
# Packages and the store hold settings unencrypted: other users of this machine may not read them.
(project / ".state").mkdir(mode=0o700, exist_ok=True)
(project / ".state").chmod(0o700)
packages = project / ".state" / stack / "packages"
balancer = Balancer(
    "balancer", BalancerArgs(given.balancer, groups.balancer, given.security_updates), platform=platform
)
fleets = {
    name: AppServerFleet(
        name,
        AppServerFleetArgs(
            app,
            groups.apps[name],
            store,
            project,
            packages / name,
            balancer,
            revision_of(project / app.source),
            given.security_updates,
        ),
        platform=platform,
    )
    for name, app in given.apps.items()
}
members = {name: fleet.members for name, fleet in fleets.items()}
public = balancer.serve(given.apps, members, given.hostnames)

pulumi.export("url", public.url)
pulumi.export("address", public.host)
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
            "url": public.url,
            "apps": {
                name: {
                    "servers": [
                        {"name": role, "target": machine.target, "address": machine.address}
                        for role, machine in fleets[name].machines.items()
                    ],
                    "health_path": app.health_path,
                    "start_timeout_s": app.rollout.start_timeout_s,
                    "drain_timeout_s": app.drain_timeout_s,
                    "routes": [shown(host, app.path) for host in app.hosts or [None]],
                }
                for name, app in given.apps.items()
            },
        }
    ),
)
