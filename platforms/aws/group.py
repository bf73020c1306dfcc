"""EC2 security groups: standalone rules, each naming a group where it can."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
import pulumi_aws as aws

from platforms import Ingress, SecurityGroup
from settings.aws import Aws

SSH = 22
EVERYONE, EVERYONE_IPV6 = "0.0.0.0/0", "::/0"
IN, OUT = aws.vpc.SecurityGroupIngressRule, aws.vpc.SecurityGroupEgressRule
# Debian's mirrors answer on 80; the package index and S3 on 443. Security groups do not filter the resolver and the
# clock of a VPC, so no rule names them; a VPC with resolvers of its own needs one for port 53.
OUTSIDE = (80, 443)


def security_group(
    name: str,
    ingress: Sequence[Ingress],
    config: Aws,
    provider: aws.Provider,
    opts: pulumi.ResourceOptions,
    *,
    vpc_id: pulumi.Input[str],
    ssh_source: SecurityGroup | None = None,
) -> SecurityGroup:
    """Create a group with its rules, and on each group it lets in the rule that lets those machines out to it.

    ssh_source: the group to which alone port 22 is open. Without it, a group that is open to everyone is that of the
    jump host: port 22 is open to admin_cidrs. Any other then takes port 22 from the groups it takes anything from. No
    rule lets a group reach itself, so its machines are isolated.
    Raises ValueError for port 22 (FSBP EC2.13, CIS AWS 5.0 5.3): it is opened here alone.
    """
    if any(rule.port == SSH for rule in ingress):
        raise ValueError(f"security group {name}: port 22 is opened by the platform, never by a rule")
    group = aws.ec2.SecurityGroup(
        name,
        description=f"wsgi-fleet {name}",
        vpc_id=vpc_id,
        tags={"Name": name},
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(provider=provider)),
    )
    child = pulumi.ResourceOptions(parent=group, provider=provider)
    for port in sorted({*OUTSIDE, *config.outbound_ports}):
        _rule(OUT, f"{name}-out-{port}", group.id, port, child, cidr=EVERYONE)
        if config.has_ipv6:
            _rule(OUT, f"{name}-out-{port}-ipv6", group.id, port, child, cidr_ipv6=EVERYONE_IPV6)
    for rule in ingress:
        if rule.outside:
            is_group = rule.outside.startswith("sg-")
            there = {"group": rule.outside} if is_group else {"cidr": rule.outside}
            _rule(IN, f"{name}-in-{rule.port}-outside", group.id, rule.port, child, **there)
        elif rule.source is None:
            _rule(IN, f"{name}-in-{rule.port}", group.id, rule.port, child, cidr=EVERYONE)
        else:
            _open_between(name, group.id, rule.source, rule.port, child)
    if ssh_source:
        _open_between(name, group.id, ssh_source, SSH, child)
        return SecurityGroup(group.id, pulumi.Output.from_input(""), group)
    if any(rule.source is None and not rule.outside for rule in ingress):
        for cidr in config.admin_cidrs:
            _rule(IN, f"{name}-in-{SSH}-{cidr}", group.id, SSH, child, cidr=cidr)
    for source in {rule.source.resource: rule.source for rule in ingress if rule.source}.values():
        _open_between(name, group.id, source, SSH, child)
    return SecurityGroup(group.id, pulumi.Output.from_input(""), group)


def load_balancer_group(
    name: str,
    ports: Sequence[int],
    provider: aws.Provider,
    opts: pulumi.ResourceOptions,
    *,
    vpc_id: pulumi.Input[str],
) -> SecurityGroup:
    """Create the group of a load balancer. No machine is in it: it has no port 22, and no way out but to servers."""
    group = aws.ec2.SecurityGroup(
        name,
        description=f"wsgi-fleet {name}",
        vpc_id=vpc_id,
        tags={"Name": name},
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(provider=provider)),
    )
    child = pulumi.ResourceOptions(parent=group, provider=provider)
    for port in ports:
        _rule(IN, f"{name}-in-{port}", group.id, port, child, cidr=EVERYONE)
        IN(
            f"{name}-in-{port}-ipv6",
            security_group_id=group.id,
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            cidr_ipv6=EVERYONE_IPV6,
            opts=child,
        )
    return SecurityGroup(group.id, pulumi.Output.from_input(""), group)


def _open_between(
    name: str, id_: pulumi.Input[str], source: SecurityGroup, port: int, child: pulumi.ResourceOptions
) -> None:
    """Open a port of the group to machines of source, by a rule at each end that is the stack's own."""
    other = source.resource.pulumi_resource_name
    _rule(IN, f"{name}-in-{port}-{other}", id_, port, child, group=source.id)
    if source.is_own:
        _rule(OUT, f"{other}-out-{port}-{name}", source.id, port, child, group=id_)


def _rule(
    direction: type[aws.vpc.SecurityGroupIngressRule | aws.vpc.SecurityGroupEgressRule],
    name: str,
    id_: pulumi.Input[str],
    port: int,
    child: pulumi.ResourceOptions,
    *,
    cidr: str | None = None,
    cidr_ipv6: str | None = None,
    group: pulumi.Input[str] | None = None,
) -> None:
    """Create a rule for one TCP port, towards or from either addresses or another group."""
    direction(
        name,
        security_group_id=id_,
        ip_protocol="tcp",
        from_port=port,
        to_port=port,
        cidr_ipv4=cidr,
        cidr_ipv6=cidr_ipv6,
        referenced_security_group_id=group,
        opts=child,
    )
