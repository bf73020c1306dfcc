"""Time-outs and sizes that depend on one another: the constants agree, and settings that cannot work are refused."""

from __future__ import annotations

import json
import re
from typing import Any

import proxy
import pytest
import system
from pydantic import ValidationError

from settings import limits
from settings.application import APP_PORT, App
from settings.aws import Aws
from settings.gateway import Gateway
from settings.rollout import Rollout
from settings.size import Size
from settings.stack import Settings
from tests.unit.stack_blocks import ROOT, app, problems_of, production
from tests.unit.test_alb_settings import SERVERS
from tests.unit.test_alb_settings import stack as alb_stack


def stack(platform: str = "lxd", **changes: Any) -> Settings:
    own = production(**changes.pop("aws", {}))
    hello = app(**changes)
    # One architecture, as one image boots all.
    front = {"size": hello.get("fleet", {}).get("size", {})}
    blocks = own | {"platform": platform, "apps": {"hello": hello}, "balancer": front}
    return Settings.model_validate_json(json.dumps(blocks), context={"platform": platform})


def size_of_server(instance_type: str | None = None, **size: Any) -> dict[str, Any]:
    return {"size": size | ({"instance_type": instance_type} if instance_type else {})}


def number(pattern: str, file: str) -> int:
    (found,) = re.findall(pattern, (ROOT / "templates" / file).read_text(), re.MULTILINE)
    return int(found)


def test_each_time_out_is_below_the_next_whatever_the_request_time_out_is() -> None:
    longest = next(each.le for each in Gateway.model_fields["request_timeout_s"].metadata if hasattr(each, "le"))
    late = number(r"^GRACE_S = (\d+)$", "../machine/gateway/gateway_gevent.py")
    for request in (1, 60, longest):
        hello = App.model_validate_json(json.dumps(app(gateway={"request_timeout_s": request})))
        read = limits.read_timeout_s(request)
        assert request + late <= read < hello.drain_timeout_s < limits.STOP_TIMEOUT_S
    assert next(each.le for each in Rollout.model_fields["drain_timeout_s"].metadata if hasattr(each, "le")) == (
        limits.STOP_TIMEOUT_S
    )
    # Old workers of Nginx outlive every request that they may wait for.
    shutdown = number(r"^worker_shutdown_timeout (\d+)s;$", "nginx/nginx.conf")
    assert limits.read_timeout_s(longest) <= shutdown < proxy.DRAIN_S <= limits.STOP_TIMEOUT_S


def test_machines_ask_the_port_that_servers_listen_on() -> None:
    assert system.APP_PORT == APP_PORT


def test_the_sockets_backlog_is_not_cut_by_the_kernels_limit() -> None:
    somaxconn = number(r"net\.core\.somaxconn=(\d+)", "scripts/setup-app-server")
    assert number(r"^Backlog=(\d+)$", "systemd/app.socket.j2") <= somaxconn


@pytest.mark.parametrize("platform", ["lxd", "aws"])
def test_defaults_are_not_warned_of(platform: str) -> None:
    assert limits.warnings(stack(platform)) == []


@pytest.mark.parametrize(
    ("platform", "gateway", "server", "line"),
    [
        ("lxd", {"processes": 100}, size_of_server(memory_mib=512),
         "processes: 100: should be 85 at most with fleet.size.memory_mib (512): each needs"),
        ("aws", {"processes": 200}, size_of_server("t3.micro"),
         "processes: 200: should be 170 at most with fleet.size.instance_type (t3.micro, 1024"),
        ("lxd", {"reload_on_rss_mib": 513}, size_of_server(memory_mib=512),
         "reload_on_rss_mib: 513: is more than the machine has, fleet.size.memory_mib (512): it"),
    ],
)  # fmt: skip
def test_what_surely_does_not_fit_is_refused_with_both_settings(
    platform: str, gateway: dict[str, Any], server: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValidationError, match=re.escape(f"apps.hello.gateway.{line}")) as error:
        stack(platform, gateway=gateway, fleet=server)
    assert error.value.error_count() == 1


def test_a_command_that_outlasts_a_tunnel_of_aws_is_refused_where_there_are_tunnels() -> None:
    given: dict[str, Any] = {"release_task": "true", "task_timeout_s": 3481, "stage_timeout_s": 3421}
    stack("aws", rollout=given)
    by_tunnel: dict[str, Any] = {"transport": "instance_connect_endpoint", "admin_cidrs": []}
    with pytest.raises(ValidationError) as error:
        stack("aws", aws=by_tunnel, rollout=given)
    for setting in ("task_timeout_s: 3481", "stage_timeout_s: 3421"):
        assert f"apps.hello.rollout.{setting}: a command may take 3481 s with it, and AWS ends" in str(error.value)
    stack("aws", aws=by_tunnel, rollout=given | {"task_timeout_s": 3480, "stage_timeout_s": 3420})


def test_a_disk_smaller_than_the_image_is_refused_on_aws_alone() -> None:
    small = {"size": {"disk_gib": 7}}
    front: dict[str, Any] = {"apps": {"hello": app(fleet=small)}, "balancer": small}
    assert problems_of(front) == []
    why = "should be 8 at least on platform aws, whose image has as much; raise it"
    assert problems_of(production() | front) == [
        f"apps.hello.fleet.size.disk_gib: 7: {why}", f"balancer.size.disk_gib: 7: {why}"
    ]  # fmt: skip


def test_behind_a_load_balancer_nobody_is_told_to_take_another_transport() -> None:
    given = {"release_task": "true", "task_timeout_s": 3600, "bake_s": 3600}
    task, bake = problems_of(alb_stack(apps={"hello": app(**SERVERS, rollout=given)}))
    assert task.endswith("keep it within 3480 s, and run a longer task in the background of a machine (docs/aws.md)")
    assert bake.endswith("keep it within 3480 s")


def test_what_may_fit_is_taken() -> None:
    stack("lxd", gateway={"processes": 85, "reload_on_rss_mib": 64})
    stack("lxd", gateway={"reload_on_rss_mib": 512})
    stack("aws", gateway={"processes": 170}, fleet=size_of_server("t3.micro"))
    # Nothing is known of its memory.
    stack("aws", gateway={"processes": 256, "reload_on_rss_mib": 100_000}, fleet=size_of_server("x2idn.metal"))


def test_a_group_that_cannot_grow_or_finish_its_requests_is_warned_of() -> None:
    def warnings_of(capacity: dict[str, int], drain_timeout_s: int = 90, **blocks: Any) -> list[str]:
        changes = {
            "fleet": {"local_proxy": True, "capacity": capacity},
            "rollout": {"drain_timeout_s": drain_timeout_s},
        }
        given = alb_stack(apps={"hello": app(gateway={"processes": 2}, **changes)}) | blocks
        return limits.warnings(Settings.model_validate_json(json.dumps(given), context={"platform": "aws"}))

    assert warnings_of({"min": 2, "max": 2, "spot_percent": 10}) == []
    (line,) = warnings_of({"min": 2, "max": 8})
    assert line.startswith("apps.hello.fleet.capacity.max: 8: nothing makes more servers than min (2); set requests_")
    (line,) = warnings_of({"min": 2, "max": 8}, balancer={})
    assert line.endswith("than min (2); set cpu_percent or schedules")
    (line,) = warnings_of({"min": 2, "max": 8, "cpu_percent": 50, "spot_percent": 10}, 91)
    assert line.startswith("apps.hello.fleet.capacity.spot_percent: 10: servers have 90 s after a Spot notice")
    (line,) = warnings_of({"min": 2, "max": 2, "spot_percent": 10}, 71, balancer={})
    assert line.startswith("apps.hello.fleet.capacity.spot_percent: 10: servers have 70 s after a Spot notice")
    assert number(r"^SPOT_S = (\d+)\.0$", "../machine/group/group_member.py") == limits.SPOT_DRAIN_S
    assert number(r"^UNLISTED_S = (\d+)\.0$", "../machine/group/group_member.py") == limits.UNLISTED_S


def test_what_is_probably_not_meant_is_warned_of_with_both_settings() -> None:
    (line,) = limits.warnings(stack(gateway={"request_timeout_s": 60}, rollout={"drain_timeout_s": 64}))
    assert line.startswith("apps.hello.rollout.drain_timeout_s: 64: is less than Nginx waits for a response (65 s, of ")
    assert limits.warnings(stack(rollout={"drain_timeout_s": 65})) == []
    server = size_of_server(memory_mib=1024)
    (line,) = limits.warnings(stack(gateway={"processes": 4, "reload_on_rss_mib": 256}, fleet=server))
    assert line.startswith(
        "apps.hello.gateway.reload_on_rss_mib: 256: 4 processes (gateway.processes) may grow to 2048"
    )
    assert limits.warnings(stack(gateway={"processes": 4, "reload_on_rss_mib": 128}, fleet=server)) == []
    # It replaces no worker that has grown.
    assert limits.warnings(stack(gateway={"kind": "gunicorn", "processes": 4}, fleet=server)) == []


def test_a_secret_that_is_too_short_to_be_removed_from_messages_is_warned_of() -> None:
    (line,) = limits.warnings(stack(secrets={"PIN": "123\n", "PASSWORD": "1234"}))
    assert line.startswith("apps.hello.secrets.PIN: (secret): has fewer than 4 characters")


@pytest.mark.parametrize(
    ("instance_type", "cpus", "gib"),
    [
        ("t3.nano", 2, 0.5), ("t3.medium", 2, 4), ("t3a.2xlarge", 8, 32), ("m5.large", 2, 8), ("m7i.xlarge", 4, 16),
        ("c6i.2xlarge", 8, 16), ("r5.24xlarge", 96, 768), ("t4g.small", 2, 2), ("m7g.medium", 1, 4),
        ("c8gd.large", 2, 4),
    ],
)  # fmt: skip
def test_the_sizes_of_usual_instance_types_are_known(instance_type: str, cpus: int, gib: float) -> None:
    found = Aws.capacity(Size(instance_type=instance_type))
    assert found is not None
    assert (found.cpus, found.memory_mib) == (cpus, gib * 1024)


def test_nothing_is_said_of_others() -> None:
    for instance_type in ("t2.micro", "x2idn.large", "c5.metal", "z1d.large", "m5.medium"):
        hello = stack("aws", fleet=size_of_server(instance_type)).apps["hello"]
        assert (limits.capacity_of(hello, "aws"), limits.worker_processes(hello, "aws")) == (None, None)


def test_auto_is_two_processes_for_each_cpu() -> None:
    assert limits.worker_processes(stack(fleet=size_of_server(cpus=3)).apps["hello"], "lxd") == 6
    assert limits.worker_processes(stack("aws", fleet=size_of_server("t3.medium")).apps["hello"], "aws") == 4
    assert limits.worker_processes(stack(gateway={"processes": 5}).apps["hello"], "lxd") == 5
