"""An Application Load Balancer: its subnets, its listeners and its rules for applications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_aws as aws

from platforms import LoadBalancer, LoadBalancerArgs, PublicAddress
from platforms.aws import access_logs, dns
from platforms.aws.certificate import request_certificate
from platforms.aws.network import Front
from rendering.error_pages import maintenance_page
from rendering.server_site import TARGET_HEALTH_PATH
from settings.application import APP_PORT, App
from settings.aws import TAG_CHARS, TAG_VALUE_CHARS, Aws
from settings.limits import TARGET_HEALTH_INTERVAL_S, TARGET_HEALTH_TIMEOUT_S, idle_timeout_s
from settings.listener_rule import ListenerRule, default_app, listener_rules

HTTP, HTTPS = 80, 443
# Seconds that a client of sticky_sessions stays with its server.
STICKY_S = 86_400
# As the sites of Nginx have it for a request that no application is for.
NOBODY: Any = {
    "type": "fixed-response",
    "fixed_response": {
        "content_type": "text/plain", "message_body": "no application answers here\n", "status_code": "404"
    },
}  # fmt: skip


class AlbResources:
    """The resources of a load balancer. front: its subnets."""

    def __init__(
        self,
        name: str,
        args: LoadBalancerArgs,
        config: Aws,
        *,
        stack: str,
        front: Front,
        vpc_id: pulumi.Input[str],
        provider: aws.Provider,
        opts: pulumi.ResourceOptions,
    ) -> None:
        self._name, self._args, self._config, self._stack = name, args, config, stack
        self._alb, self._front, self._provider = args.settings.alb, front, provider
        self._beside = pulumi.ResourceOptions(parent=opts.parent, provider=provider)
        self.balancer = self._balancer(opts)
        self._child = pulumi.ResourceOptions(parent=self.balancer, provider=provider)
        self.groups = {app: self._target_group(app, args.apps[app], vpc_id) for app in args.apps}
        if self._alb.waf_acl_arn:
            aws.wafv2.WebAclAssociation(
                name, resource_arn=self.balancer.arn, web_acl_arn=self._alb.waf_acl_arn, opts=self._child
            )
        self._listener = self._listeners()
        rules = [self._rule(rule) for rule in listener_rules(args.apps)]
        self._ready: list[pulumi.Resource] = [self._listener, *rules]

    def load_balancer(self) -> LoadBalancer:
        """Return what components know of it."""
        groups = {app: group.arn for app, group in self.groups.items()}
        times = {app: each.drain_timeout_s for app, each in self._args.apps.items()}
        spec = {
            "platform": "aws",
            "region": self._config.region,
            "listener": self._listener.arn,
            "groups": groups,
            "drain_timeout_s": times,
            "maintenance_page": maintenance_page(self._args.settings.error_pages),
        }
        return LoadBalancer(self._address(), self._front.networks, groups, times, spec, self._ready)

    def _balancer(self, opts: pulumi.ResourceOptions) -> aws.lb.LoadBalancer:
        logs = access_logs.access_logs(self._name, self._alb.access_logs, self._config, self._provider, opts)
        return aws.lb.LoadBalancer(
            self._name,
            load_balancer_type="application",
            internal=False,
            # FSBP ELB.13.
            subnets=list(self._front.subnet_ids),
            security_groups=[self._args.group.id],
            ip_address_type=self._alb.ip_address_type,
            idle_timeout=idle_timeout_s(self._args.apps.values()),
            # FSBP ELB.4. Names with an underscore are among them, by which a client could forge one with a hyphen.
            drop_invalid_header_fields=True,
            # FSBP ELB.12.
            desync_mitigation_mode="defensive",
            preserve_host_header=True,
            xff_header_processing_mode="append",
            # FSBP ELB.6.
            enable_deletion_protection=self._config.protect,
            # FSBP ELB.5.
            access_logs=logs.args if logs else None,
            tags={"Name": f"{self._stack}-{self._name}"},
            opts=pulumi.ResourceOptions.merge(
                opts,
                pulumi.ResourceOptions(
                    provider=self._provider,
                    protect=self._config.protect,
                    depends_on=[*self._front.ready, *(logs.ready if logs else ())],
                ),
            ),
        )

    def _target_group(self, name: str, app: App, vpc_id: pulumi.Input[str]) -> aws.lb.TargetGroup:
        slow = self._alb.slow_start_s
        return aws.lb.TargetGroup(
            name,
            target_type="instance",
            vpc_id=vpc_id,
            port=APP_PORT,
            protocol="HTTP",
            protocol_version="HTTP1",
            # AWS has slow start with round robin alone.
            load_balancing_algorithm_type="round_robin" if slow else "least_outstanding_requests",
            slow_start=slow or 0,
            deregistration_delay=app.drain_timeout_s,
            health_check={
                "path": TARGET_HEALTH_PATH,
                "protocol": "HTTP",
                "port": "traffic-port",
                "matcher": "200",
                "interval": TARGET_HEALTH_INTERVAL_S,
                "timeout": TARGET_HEALTH_TIMEOUT_S,
                "healthy_threshold": 2,
                "unhealthy_threshold": 2,
            },
            stickiness={"type": "lb_cookie", "enabled": app.sticky_sessions, "cookie_duration": STICKY_S},
            tags={"Name": f"{self._stack}-{name}"},
            # Not a child of the load balancer: a replaced one keeps the servers registered.
            opts=self._beside,
        )

    def _listeners(self) -> aws.lb.Listener:
        """Create the listeners. Return the one that forwards to applications."""
        app = default_app(self._args.apps)
        serves = _forward(self.groups[app]) if app else NOBODY
        if not self._alb.https:
            return self._listen(f"{self._name}-http", HTTP, serves)
        # FSBP ELB.1. An ALB has no 308, which would keep the method.
        there = {"protocol": "HTTPS", "port": str(HTTPS), "status_code": "HTTP_301"}
        self._listen(f"{self._name}-http", HTTP, {"type": "redirect", "redirect": there})
        return self._listen(
            f"{self._name}-https",
            HTTPS,
            serves,
            protocol="HTTPS",
            certificate_arn=self._certificate_arn(),
            ssl_policy=self._alb.ssl_policy,
        )

    def _listen(self, name: str, port: int, action: Any, **tls: Any) -> aws.lb.Listener:
        listener_args: dict[str, Any] = {"protocol": "HTTP", **tls}
        return aws.lb.Listener(
            name,
            load_balancer_arn=self.balancer.arn,
            port=port,
            default_actions=[action],
            tags={"Name": f"{self._stack}-{name}"},
            opts=self._child,
            **listener_args,
        )

    def _certificate_arn(self) -> pulumi.Input[str]:
        if self._alb.certificate_arn:
            return self._alb.certificate_arn
        zone = self._config.route53_zone_id or ""
        return request_certificate(f"{self._name}-certificate", self._args.hostnames, zone, self._beside)

    def _rule(self, rule: ListenerRule) -> aws.lb.ListenerRule:
        conditions: list[Any] = []
        if rule.hosts:
            conditions.append({"host_header": {"values": list(rule.hosts)}})
        if rule.paths:
            conditions.append({"path_pattern": {"values": list(rule.paths)}})
        return aws.lb.ListenerRule(
            f"{self._name}-{rule.name}",
            listener_arn=self._listener.arn,
            priority=rule.priority,
            conditions=conditions,
            actions=[_forward(self.groups[rule.app]) if rule.app else NOBODY],
            tags={"Name": _tag_value(f"{self._stack}-{rule.name}")},
            opts=pulumi.ResourceOptions(parent=self._listener, provider=self._provider),
        )

    def _address(self) -> PublicAddress:
        records = dns.alias_records(
            f"{self._name}-address",
            self._args.hostnames,
            self.balancer,
            self._config,
            self._beside,
            ipv6=self._alb.ip_address_type == "dualstack",
        )
        host = pulumi.Output.all(self.balancer.dns_name, *(record.id for record in records)).apply(
            lambda values: str(values[0])
        )
        # Which name below a wildcard clients use is unknown.
        exact = next((name for name in self._args.hostnames if not name.startswith("*.")), host)
        url = pulumi.Output.concat("https://" if self._alb.https else "http://", exact)
        return PublicAddress(url, host, self._listener)


def _tag_value(text: str) -> str:
    """Return text as a tag takes it: a path may have other characters, and be longer with its host."""
    return "".join(char if TAG_CHARS.fullmatch(char) else "_" for char in text)[:TAG_VALUE_CHARS]


def _forward(group: aws.lb.TargetGroup) -> Any:
    return {"type": "forward", "target_group_arn": group.arn}


def front_of(subnet_ids: Sequence[str], stack_front: Front | None, provider: aws.Provider) -> Front:
    """Return the subnets of the load balancer: the public ones of the stack's own VPC, or the configured ones."""
    if stack_front:
        return stack_front
    options = pulumi.InvokeOutputOptions(provider=provider)
    cidrs = [aws.ec2.get_subnet_output(id=id_, opts=options).cidr_block for id_ in subnet_ids]
    return Front(list(subnet_ids), pulumi.Output.all(*cidrs))
