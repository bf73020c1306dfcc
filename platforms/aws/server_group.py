"""App servers whose number follows the load: an Auto Scaling group, its launch template, and what its machines boot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pulumi
import pulumi_aws as aws

from platforms import GroupNames, ServerGroup, ServerGroupArgs, Store
from platforms.aws.alarms import GROUP_METRICS, MachineAlarms
from platforms.aws.bucket import ReleaseStore
from platforms.aws.instance import InstanceSpec
from platforms.aws.instance_refresh import InstanceRefresh
from platforms.aws.load_balancer import AlbResources
from platforms.aws.network import Subnet
from platforms.aws.ssm import BOOT, parameter_path
from settings.aws import Aws
from settings.time_zone import UTC

# Seconds without a sign of life for a machine to come from its launch to its release, and from its last request to its
# end. machine/group/group_member.py gives one each five minutes, and when it leaves each minute; a dead one gives none.
HEARTBEAT_S, LEAVING_S = 900, 180
# Seconds from the first request that a machine may get until the load balancer's word about it counts.
GRACE_S = 120
# Seconds until what a new machine does counts in metrics.
WARMUP_S = 60


def group_names(stack: str, app: str) -> GroupNames:
    """Return the names of a group and its hooks. The machines' role and files contain them before the group is."""
    # No application has a dot in its name, so those of "prod" with "eu-shop" and "prod-eu" with "shop" are two.
    return GroupNames(f"wsgi-fleet-{stack}.{app}", "wsgi-fleet-launch", "wsgi-fleet-terminate")


@dataclass(frozen=True)
class Boot:
    """user_data: of the machines. ready: what must be there before one boots."""

    user_data: pulumi.Output[str]
    ready: Sequence[pulumi.Resource]


class GroupResources:
    """The resources of one group. spec: returns what its instances are, by their user data."""

    def __init__(
        self,
        name: str,
        args: ServerGroupArgs,
        config: Aws,
        *,
        stack: str,
        spec: Callable[[pulumi.Output[str]], InstanceSpec],
        subnets: Sequence[Subnet],
        root_device: str,
        provider: aws.Provider,
    ) -> None:
        self._name, self._args, self._config, self._stack = name, args, config, stack
        self._spec, self._subnets, self._root_device, self._provider = spec, subnets, root_device, provider
        self._names = group_names(stack, args.app)

    def boot(
        self, store: Store, releases: ReleaseStore, monitoring: pulumi.Output[str], opts: pulumi.ResourceOptions
    ) -> Boot:
        """Create what machines fetch when they boot: files in the release store, and the key as a parameter."""
        args, boot = self._args, self._args.boot
        child = pulumi.ResourceOptions(parent=opts.parent, provider=self._provider, depends_on=list(releases.ready))
        content = monitoring.apply(lambda more: json.dumps([*map(json.loads, (boot.files, more, *boot.later))]))
        # Another content has another key: machines of the template before still find theirs.
        key = content.apply(lambda text: f"{BOOT}/{hashlib.sha256(text.encode()).hexdigest()[:16]}.json")
        files = aws.s3.BucketObjectv2(
            f"{self._name}-boot",
            bucket=releases.bucket,
            key=pulumi.Output.concat(self._stack, "/", args.app, "/", key),
            content=content,
            content_type="application/json",
            # An object takes ten tags (Amazon S3 User Guide, object tagging), and a stack may have more.
            override_provider={"default_tags": {"tags": {}}},
            # It goes with the releases (releases/resource.py), for a group may still launch by an earlier template.
            opts=pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(retain_on_delete=True)),
        )
        parameter = aws.ssm.Parameter(
            f"{self._name}-boot-key",
            name=f"{parameter_path(self._stack)}/{args.app}/{BOOT}/key",
            type="SecureString",
            # JSON text, as all of them (platforms/aws/ssm.py).
            value=boot.key.apply(json.dumps),
            key_id=self._config.kms_key_arn,
            opts=child,
        )
        url = pulumi.Output.concat(store.machine_url, "/", args.app)
        return Boot(pulumi.Output.all(url, key).apply(lambda each: boot.user_data(*each)), [files, parameter])

    def group(
        self,
        boot: Boot,
        front: AlbResources | None,
        alarms: MachineAlarms,
        *,
        ready: Sequence[pulumi.Resource],
        opts: pulumi.ResourceOptions,
        leaves_at_once: bool = False,
    ) -> ServerGroup:
        """Create the group and its alarms. front: where its machines are registered, if anywhere.

        ready: what it waits for besides. leaves_at_once: a machine that goes has nothing to finish.
        """
        capacity, name = self._args.capacity, self._name
        instance = self._spec(boot.user_data)
        # The engine names it: with the name of a group in it, a long name of a stack would exceed its 128 characters.
        template = aws.ec2.LaunchTemplate(
            name,
            update_default_version=True,
            opts=pulumi.ResourceOptions(parent=opts.parent, provider=self._provider),
            **instance.launch_template(self._root_device),
        )
        template_version = {"id": template.id, "version": template.latest_version.apply(str)}
        group = aws.autoscaling.Group(
            name,
            name=self._names.group,
            min_size=capacity.min,
            max_size=capacity.max,
            # FSBP AutoScaling.2: a subnet for each zone.
            vpc_zone_identifiers=[subnet.id for subnet in self._subnets],
            target_group_arns=[front.groups[self._args.app].arn] if front else None,
            # FSBP AutoScaling.1. A balancer of the stack's own reports what it finds dead (machine/balancer).
            health_check_type="ELB" if front else "EC2",
            health_check_grace_period=GRACE_S,
            default_instance_warmup=WARMUP_S,
            capacity_rebalance=capacity.spot_percent > 0,
            # The rollout brings the first release, and waits for servers itself.
            wait_for_capacity_timeout="0",
            enabled_metrics=list[Any](GROUP_METRICS.values()) if self._config.alarms else None,
            # With the group itself, so that no machine escapes them.
            initial_lifecycle_hooks=self._hooks(leaves_at_once=leaves_at_once),
            # Default tags do not reach groups, and what is launched has them of the template.
            tags=[
                {"key": key, "value": value, "propagate_at_launch": False}
                for key, value in {**instance.tags, "Name": self._names.group}.items()
            ],
            opts=pulumi.ResourceOptions.merge(
                opts,
                pulumi.ResourceOptions(
                    provider=self._provider,
                    depends_on=[*ready, *boot.ready, *(each for subnet in self._subnets for each in subnet.ready)],
                    # Its deletion waits for the servers' requests.
                    custom_timeouts=pulumi.CustomTimeouts(delete="45m"),
                    # A refresh changes what it launches, once servers of it serve (instance_refresh.py).
                    ignore_changes=["launchTemplate", "mixedInstancesPolicy"],
                ),
            ),
            **self._launch(template_version),
        )
        refresh = InstanceRefresh(
            f"{name}-refresh",
            region=self._config.region,
            group=group.name,
            configuration=pulumi.Output.all(**template_version).apply(
                lambda each: json.dumps(_api_keys(self._launch(each)))
            ),
            layout=self._args.boot.layout,
            opts=pulumi.ResourceOptions(parent=group, depends_on=[group]),
        )
        child = pulumi.ResourceOptions(parent=group, provider=self._provider)
        self._policies(group, front, child)
        alarms.create_group_alarms(name, group)
        for schedule, bounds in capacity.schedules.items():
            aws.autoscaling.Schedule(
                # No name has a dot, so those of "a" and "b-c" are not those of "a-b" and "c".
                f"{name}.{schedule}",
                autoscaling_group_name=group.name,
                scheduled_action_name=schedule,
                recurrence=bounds.recurrence,
                # AWS uses UTC without one, and knows only regions and cities.
                time_zone=None if bounds.time_zone.upper() == UTC else bounds.time_zone,
                min_size=bounds.min,
                max_size=bounds.max,
                # As it is, within the bounds.
                desired_capacity=-1,
                opts=child,
            )
        spec = {
            "platform": "aws",
            "region": self._config.region,
            "name": group.name,
            **({"group": front.groups[self._args.app].arn} if front else {}),
        }
        return ServerGroup(spec, refresh)

    def _hooks(self, *, leaves_at_once: bool) -> list[Any]:
        # A machine that does not get ready is replaced; one that does not finish its requests is still terminated.
        hooks = [(self._names.launch, "autoscaling:EC2_INSTANCE_LAUNCHING", HEARTBEAT_S, "ABANDON")]
        if not leaves_at_once:
            hooks.append((self._names.terminate, "autoscaling:EC2_INSTANCE_TERMINATING", LEAVING_S, "CONTINUE"))
        return [
            {"name": name, "lifecycle_transition": when, "heartbeat_timeout": seconds, "default_result": result}
            for name, when, seconds, result in hooks
        ]

    def _launch(self, template: Any) -> dict[str, Any]:
        """Return by what it launches: one template, or that with several types and kinds of capacity."""
        capacity, first = self._args.capacity, self._args.size.instance_type
        if not (capacity.instance_types or capacity.spot_percent):
            return {"launch_template": {"id": template["id"], "version": template["version"]}}
        types = list(dict.fromkeys([first, *capacity.instance_types]))
        return {
            "mixed_instances_policy": {
                "launch_template": {
                    "launch_template_specification": {
                        "launch_template_id": template["id"],
                        "version": template["version"],
                    },
                    "overrides": [{"instance_type": each} for each in types],
                },
                "instances_distribution": {
                    "on_demand_base_capacity": 0,
                    "on_demand_percentage_above_base_capacity": 100 - capacity.spot_percent,
                    # By what AWS has most of, at the lowest price among those: fewest are taken back.
                    "spot_allocation_strategy": "price-capacity-optimized",
                    "on_demand_allocation_strategy": "prioritized",
                },
            }
        }

    def _policies(self, group: aws.autoscaling.Group, front: AlbResources | None, opts: pulumi.ResourceOptions) -> None:
        capacity = self._args.capacity
        metrics: dict[str, tuple[int | None, Any]] = {
            "cpu": (capacity.cpu_percent, {"predefined_metric_type": "ASGAverageCPUUtilization"}),
        }
        if front:
            label = pulumi.Output.concat(front.balancer.arn_suffix, "/", front.groups[self._args.app].arn_suffix)
            counted = {"predefined_metric_type": "ALBRequestCountPerTarget", "resource_label": label}
            metrics["requests"] = (capacity.requests_per_target, counted)
        for what, (target, metric) in metrics.items():
            if target is not None:
                aws.autoscaling.Policy(
                    f"{self._name}-{what}",
                    autoscaling_group_name=group.name,
                    policy_type="TargetTrackingScaling",
                    target_tracking_configuration={
                        "predefined_metric_specification": metric,
                        "target_value": float(target),
                    },
                    opts=opts,
                )


def _api_keys(launch: Any) -> Any:
    """Return what a group launches as a DesiredConfiguration of AWS's API: names in its spelling."""
    if isinstance(launch, dict):
        fields = cast("dict[str, Any]", launch)
        names = {"id": "LaunchTemplateId"}
        return {
            names.get(key, "".join(word.capitalize() for word in key.split("_"))): _api_keys(value)
            for key, value in fields.items()
        }
    return [_api_keys(each) for each in cast("list[Any]", launch)] if isinstance(launch, list) else launch
