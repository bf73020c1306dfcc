"""Texts of docs/security.md besides the controls: how each is kept, and what is left open on purpose."""

from __future__ import annotations

from typing import NamedTuple

from policies.control import Accepted


class OurControl(NamedTuple):
    """what: what we do. where: the files that do it. test: the test that fails without it."""

    what: str
    where: tuple[str, ...]
    test: str


OUR_CONTROLS = {
    "EC2.2": OurControl(
        "the default group of a VPC made here has no rules; an existing VPC is not changed",
        ("platforms/aws/network.py",),
        "test_the_stacks_of_this_project_fail_no_control",
    ),
    "EC2.3": OurControl(
        "gp3 with the account's key",
        ("platforms/aws/instance.py",),
        "test_machines_are_asked_for_with_exactly_this",
    ),
    "EC2.6": OurControl(
        "a VPC that is made here; yours is yours",
        ("platforms/aws/network.py",),
        "test_the_stacks_of_this_project_fail_no_control",
    ),
    "EC2.8": OurControl(
        "IMDSv2 required, one hop: containers do not get at the role",
        ("platforms/aws/instance.py",),
        "test_machines_are_asked_for_with_exactly_this",
    ),
    "EC2.9": OurControl(
        "app servers are in private subnets",
        ("platforms/aws/instance.py",),
        "test_machines_are_asked_for_with_exactly_this",
    ),
    "EC2.13": OurControl(
        "the balancer for `aws.admin_cidrs`, app servers for the balancer; or all for an endpoint alone",
        ("platforms/aws/group.py", "settings/constraint.py"),
        "test_each_tier_is_reached_and_gets_out_by_what_it_needs_and_nothing_else",
    ),
    "EC2.15": OurControl(
        "the balancer alone asks for one",
        ("platforms/aws/network.py",),
        "test_each_zone_has_a_public_and_a_private_subnet_and_machines_in_them",
    ),
    "EC2.18": OurControl(
        "rules name groups, but for the balancer's own ports",
        ("platforms/aws/group.py", "components/security_groups.py"),
        "test_each_tier_is_reached_and_gets_out_by_what_it_needs_and_nothing_else",
    ),
    "EC2.38": OurControl(
        "default tags of the provider, and on disks by hand",
        ("platforms/aws/instance.py",),
        "test_machines_are_asked_for_with_exactly_this",
    ),
    "IAM.1": OurControl(
        "each role has one small policy",
        ("platforms/aws/role.py",),
        "test_each_tier_may_do_what_it_is_there_for_and_nothing_more",
    ),
    "IAM.21": OurControl(
        "actions are named",
        ("platforms/aws/role.py",),
        "test_each_tier_may_do_what_it_is_there_for_and_nothing_more",
    ),
    "S3.5": OurControl(
        "the bucket's policy denies the rest",
        ("platforms/aws/bucket.py",),
        "test_the_stacks_of_this_project_fail_no_control",
    ),
    "S3.6": OurControl(
        "the bucket's policy only denies",
        ("platforms/aws/bucket.py",),
        "test_the_stacks_of_this_project_fail_no_control",
    ),
    "S3.8": OurControl(
        "all four blocks",
        ("platforms/aws/bucket.py",),
        "test_the_stacks_of_this_project_fail_no_control",
    ),
    "S3.12": OurControl(
        "the bucket's owner owns every object",
        ("platforms/aws/bucket.py",),
        "test_the_stacks_of_this_project_fail_no_control",
    ),
    "S3.13": OurControl(
        "old versions and broken uploads expire",
        ("platforms/aws/bucket.py",),
        "test_the_stacks_of_this_project_fail_no_control",
    ),
    "S3.14": OurControl(
        "versioning, for 30 days",
        ("platforms/aws/bucket.py",),
        "test_the_stacks_of_this_project_fail_no_control",
    ),
    "CloudWatch.15": OurControl(
        "the topic of `aws.alarms`, when they go off and when it is over",
        ("platforms/aws/alarms.py",),
        "test_a_topic_is_told_when_an_alarm_goes_off_and_when_it_is_over",
    ),
    "CloudWatch.16": OurControl(
        "flow logs and shipped logs do; both are encrypted, with AWS's key or `aws.logs.kms_key_arn`",
        ("platforms/aws/network.py", "platforms/aws/cloudwatch.py"),
        "test_logs_have_a_place_for_each_tier_that_keeps_them_so_long",
    ),
    "CloudWatch.17": OurControl(
        "nothing switches them off",
        ("platforms/aws/alarms.py",),
        "test_a_topic_is_told_when_an_alarm_goes_off_and_when_it_is_over",
    ),
    "ELB.1": OurControl(
        "with a certificate, port 80 leads there; without one it is HTTP, as you asked",
        ("platforms/aws/load_balancer.py",),
        "test_http_leads_to_https_and_the_rules_to_the_applications",
    ),
    "ELB.4": OurControl(
        "names with an underscore are among them",
        ("platforms/aws/load_balancer.py",),
        "test_it_stands_in_every_zone_and_drops_what_would_be_read_otherwise",
    ),
    "ELB.5": OurControl(
        "`balancer.alb.access_logs`, into a bucket of the stack or yours",
        ("platforms/aws/load_balancer.py",),
        "test_it_stands_in_every_zone_and_drops_what_would_be_read_otherwise",
    ),
    "ELB.6": OurControl(
        "with `aws.protect`",
        ("platforms/aws/load_balancer.py",),
        "test_it_stands_in_every_zone_and_drops_what_would_be_read_otherwise",
    ),
    "ELB.12": OurControl(
        "defensive: it closes the connection after an ambiguous request",
        ("platforms/aws/load_balancer.py",),
        "test_it_stands_in_every_zone_and_drops_what_would_be_read_otherwise",
    ),
    "ELB.13": OurControl(
        "all zones of the VPC; two at least are asked for",
        ("platforms/aws/load_balancer.py",),
        "test_it_stands_in_every_zone_and_drops_what_would_be_read_otherwise",
    ),
    "ELB.17": OurControl(
        "TLS 1.3 and 1.2 with forward secrecy, and ML-KEM",
        ("platforms/aws/load_balancer.py",),
        "test_http_leads_to_https_and_the_rules_to_the_applications",
    ),
    "AutoScaling.1": OurControl(
        "one that the load balancer finds unhealthy is replaced",
        ("platforms/aws/server_group.py",),
        "test_no_instance_escapes_the_hooks_and_the_load_balancer_says_who_is_healthy",
    ),
    "AutoScaling.2": OurControl(
        "a private subnet in each zone",
        ("platforms/aws/server_group.py",),
        "test_no_instance_escapes_the_hooks_and_the_load_balancer_says_who_is_healthy",
    ),
    "AutoScaling.9": OurControl(
        "one template for each group, whose instances follow it by a watched refresh",
        ("platforms/aws/server_group.py",),
        "test_no_instance_escapes_the_hooks_and_the_load_balancer_says_who_is_healthy",
    ),
    "EC2.25": OurControl(
        "each interface says so",
        ("platforms/aws/instance.py",),
        "test_an_instance_of_a_group_is_what_one_of_a_fixed_fleet_is",
    ),
    "EC2.170": OurControl(
        "as every instance",
        ("platforms/aws/instance.py",),
        "test_an_instance_of_a_group_is_what_one_of_a_fixed_fleet_is",
    ),
    "EC2.181": OurControl(
        "as every instance",
        ("platforms/aws/instance.py",),
        "test_an_instance_of_a_group_is_what_one_of_a_fixed_fleet_is",
    ),
    "FLEET.1": OurControl(
        "keys and secrets are secret outputs, which the state encrypts",
        ("platforms/aws/key_pair.py", "platforms/aws/jump_host.py", "platforms/aws/endpoint.py"),
        "test_no_secret_stands_in_a_plain_input_or_export",
    ),
    "FLEET.2": OurControl(
        "a server that was broken into reaches no other",
        ("platforms/aws/group.py",),
        "test_the_stacks_of_this_project_fail_no_control",
    ),
    "FLEET.3": OurControl(
        "EC2 takes them for its machines",
        ("platforms/aws/role.py",),
        "test_each_tier_may_do_what_it_is_there_for_and_nothing_more",
    ),
    "FLEET.4": OurControl(
        "each stack has its namespace, and roles are held to it",
        ("platforms/aws/cloudwatch.py",),
        "test_each_tier_may_do_what_it_is_there_for_and_nothing_more",
    ),
    "FLEET.5": OurControl(
        "roles write into their tier's log group, which the stack makes and deletes",
        ("platforms/aws/cloudwatch.py",),
        "test_each_tier_may_do_what_it_is_there_for_and_nothing_more",
    ),
    "FLEET.6": OurControl(
        "with `aws.transport: instance_connect_endpoint` no rule for port 22 names an address",
        ("platforms/aws/group.py", "platforms/aws/endpoint.py"),
        "test_port_22_of_every_machine_is_open_to_the_endpoint_and_to_no_address",
    ),
}
# Findings of Security Hub, which looks at more than the controls here.
OPEN = (
    Accepted("EC2.10", "the VPC", "Machines do not call the API of EC2; an endpoint for it would have no client."),
    Accepted(
        "AutoScaling.6",
        "groups",
        "One type is enough where capacity is there; `fleet.capacity.instance_types` names further ones.",
    ),
    Accepted(
        "EC2.28", "disks", "Nothing on them is worth a backup: a machine is made anew, releases are in the bucket."
    ),
    Accepted(
        "ELB.16",
        "the load balancer",
        "Rules of AWS WAF cost by the request, and are yours: name a web ACL in `balancer.alb.waf_acl_arn`.",
    ),
    Accepted(
        "S3.9",
        "the release bucket",
        "Access logs need a second bucket, which needs another. Who reads releases is in CloudTrail's data events.",
    ),
    Accepted(
        "S3.15",
        "the release bucket",
        "Nothing is locked, so that a stack can be destroyed whole. Name a bucket of your own in `aws.release_bucket`.",
    ),
    Accepted(
        "CloudWatch.1 to CloudWatch.14",
        "the account",
        "Alarms on what people do in it are the account's and not a stack's.",
    ),
    Accepted(
        "SSM.1",
        "machines",
        "Debian's image has no agent of Systems Manager; the way in is SSH. `aws.ssm` is for images that have it.",
    ),
)
