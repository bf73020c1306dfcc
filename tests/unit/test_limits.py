"""Time-outs and sizes that depend on one another: the constants agree, and settings that cannot work are refused."""

from __future__ import annotations

import json
import re
from typing import Any

import app_status
import proxy
import pytest
import upstream_health
from pydantic import ValidationError

from rendering.upstream import Upstream
from settings import App, Balancer, Gateway, Rollout, Settings, limits
from settings.application import APP_PORT
from tests.unit.site_text import site_text
from tests.unit.stack_blocks import ROOT

LEAST = {"source": "examples/flask-hello", "module": "hello.wsgi:app"}


def stack(platform: str = "lxd", **app: Any) -> Settings:
    aws = {
        "region": "eu-central-1",
        "ami": "ami-0123456789abcdef0",
        "admin_cidrs": ["192.0.2.0/24"],
        "vpc": {"cidr": "10.20.0.0/16", "zones": ["eu-central-1a"]},
    }
    blocks = {"platform": platform, "apps": {"hello": LEAST | app}, "aws": aws}
    return Settings.model_validate_json(json.dumps(blocks), context={"platform": platform})


def of_server(instance_type: str | None = None, **size: Any) -> dict[str, Any]:
    return {"size": size | ({"instance_type": instance_type} if instance_type else {})}


def text(file: str) -> str:
    return (ROOT / "templates" / file).read_text()


def number(pattern: str, file: str) -> int:
    (found,) = re.findall(pattern, text(file), re.MULTILINE)
    return int(found)


def test_each_time_out_is_below_the_next_whatever_the_request_time_out_is() -> None:
    longest = next(each.le for each in Gateway.model_fields["request_timeout_s"].metadata if hasattr(each, "le"))
    late = number(r"^GRACE_S = (\d+)$", "../machine/gateway/gateway_gevent.py")
    for request in (1, 60, longest):
        app = App.model_validate_json(json.dumps(LEAST | {"gateway": {"request_timeout_s": request}}))
        read = limits.read_timeout_s(request)
        assert request + late <= read < app.drain_timeout_s < limits.STOP_TIMEOUT_S
    assert next(each.le for each in Rollout.model_fields["drain_timeout_s"].metadata if hasattr(each, "le")) == (
        limits.STOP_TIMEOUT_S
    )
    # Old workers of Nginx outlive every request that they may wait for.
    shutdown = number(r"^worker_shutdown_timeout (\d+)s;$", "nginx/nginx.conf")
    assert limits.read_timeout_s(longest) <= shutdown < proxy.DRAIN_S <= limits.STOP_TIMEOUT_S


def test_machines_ask_the_port_that_servers_listen_on() -> None:
    assert upstream_health.PORT == app_status.PORT == APP_PORT


def test_the_sockets_backlog_is_not_cut_by_the_kernels_limit() -> None:
    somaxconn = number(r"net\.core\.somaxconn=(\d+)", "scripts/setup-app-server")
    assert number(r"^Backlog=(\d+)$", "systemd/app.socket.j2") <= somaxconn


def test_nginx_waits_as_the_limits_say() -> None:
    assert "uwsgi_read_timeout 35s;" in site_text(Balancer(), [Upstream("a", ["10.0.0.1"], 30, "/")])


@pytest.mark.parametrize("platform", ["lxd", "aws"])
def test_defaults_are_not_warned_of(platform: str) -> None:
    assert limits.warnings(stack(platform)) == []


@pytest.mark.parametrize(
    ("platform", "app", "line"),
    [
        (
            "lxd",
            {"gateway": {"processes": 100}, "fleet": of_server(memory_mib=512)},
            "apps.hello.gateway.processes: 100: should be 85 at most with fleet.size.memory_mib (512): each needs",
        ),
        (
            "aws",
            {"gateway": {"processes": 200}, "fleet": of_server("t3.micro")},
            "apps.hello.gateway.processes: 200: should be 170 at most with fleet.size.instance_type (t3.micro, 1024",
        ),
        (
            "lxd",
            {"gateway": {"reload_on_rss_mib": 513}, "fleet": of_server(memory_mib=512)},
            "apps.hello.gateway.reload_on_rss_mib: 513: is more than the machine has, fleet.size.memory_mib (512): it",
        ),
    ],
)
def test_what_surely_does_not_fit_is_refused_with_both_settings(platform: str, app: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError) as error:
        stack(platform, **app)
    (found,) = error.value.errors()
    assert found["msg"].removeprefix("Value error, ").startswith(line)


@pytest.mark.parametrize(
    ("platform", "app"),
    [
        ("lxd", {"gateway": {"processes": 85, "reload_on_rss_mib": 64}}),
        ("lxd", {"gateway": {"reload_on_rss_mib": 512}}),
        ("aws", {"gateway": {"processes": 170}, "fleet": of_server("t3.micro")}),
        # Nothing is known of its memory.
        ("aws", {"gateway": {"processes": 256, "reload_on_rss_mib": 100_000}, "fleet": of_server("x2idn.metal")}),
    ],
)
def test_what_may_fit_is_taken(platform: str, app: dict[str, Any]) -> None:
    assert stack(platform, **app).apps["hello"].module == "hello.wsgi:app"


@pytest.mark.parametrize(
    ("app", "lines"),
    [
        (
            {"gateway": {"request_timeout_s": 60}, "rollout": {"drain_timeout_s": 64}},
            ["apps.hello.rollout.drain_timeout_s: 64: is less than Nginx waits for an answer (65 s, of gateway."],
        ),
        ({"rollout": {"drain_timeout_s": 65}}, []),
        (
            {"gateway": {"processes": 4, "reload_on_rss_mib": 256}, "fleet": of_server(memory_mib=1024)},
            ["apps.hello.gateway.reload_on_rss_mib: 256: 4 processes (gateway.processes) may grow to 2048 MiB"],
        ),
        ({"gateway": {"processes": 4, "reload_on_rss_mib": 128}, "fleet": of_server(memory_mib=1024)}, []),
    ],
)
def test_what_is_probably_not_meant_is_warned_of_with_both_settings(app: dict[str, Any], lines: list[str]) -> None:
    found = limits.warnings(stack(**app))
    assert len(found) == len(lines)
    assert all(each.startswith(line) for each, line in zip(found, lines, strict=True)), found


@pytest.mark.parametrize(
    ("instance_type", "cpus", "gib"),
    [
        ("t3.nano", 2, 0.5), ("t3.medium", 2, 4), ("t3a.2xlarge", 8, 32), ("m5.large", 2, 8), ("m7i.xlarge", 4, 16),
        ("c6i.2xlarge", 8, 16), ("r5.24xlarge", 96, 768),
    ],
)  # fmt: skip
def test_the_sizes_of_usual_instance_types_are_known(instance_type: str, cpus: int, gib: float) -> None:
    found = limits.capacity_of(stack("aws", fleet=of_server(instance_type)).apps["hello"], "aws")
    assert found is not None
    assert (found.cpus, found.memory_mib) == (cpus, gib * 1024)


@pytest.mark.parametrize("instance_type", ["t2.micro", "x2idn.large", "c5.metal", "z1d.large", "m5.huge"])
def test_nothing_is_said_of_others(instance_type: str) -> None:
    app = stack("aws", fleet=of_server(instance_type)).apps["hello"]
    assert (limits.capacity_of(app, "aws"), limits.worker_processes(app, "aws")) == (None, None)


def test_auto_is_two_processes_for_each_cpu() -> None:
    assert limits.worker_processes(stack(fleet=of_server(cpus=3)).apps["hello"], "lxd") == 6
    assert limits.worker_processes(stack("aws", fleet=of_server("t3.medium")).apps["hello"], "aws") == 4
    assert limits.worker_processes(stack(gateway={"processes": 5}).apps["hello"], "lxd") == 5
