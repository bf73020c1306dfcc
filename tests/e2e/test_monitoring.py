"""Metrics and alerts for real: a fleet that exports them, Prometheus that reads them, and faults that it sees."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from metric_families import FAMILIES

from harness.stack import Stack, eventually, free_port, host_address, lxc, on
from tests.receiver import receiving

pytestmark = pytest.mark.long
# A test does not wait as long as an operator: Prometheus looks each second, and at the last seconds.
FASTER = (
    "sed -i 's/_interval: 15s/_interval: 1s/' prometheus.yml && "
    r"sed -i -E 's/for: [0-9]+[mh]/for: 1s/; s/\[5m\]/[15s]/g' alerts.yml && "
    "promtool check config prometheus.yml && systemctl reload prometheus"
)
PORT_IS_OPEN = (
    "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close(); print('open')"
)


class Monitored:
    """A stack with monitoring."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    @property
    def machine(self) -> str:
        return self.stack.machines("app")["monitoring"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what Prometheus says of an expression, as the operator's machine reaches it."""
        url = self.stack.output("monitoring_url") + "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.loads(response.read())["data"]["result"]

    def value(self, expression: str) -> float | None:
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> dict[str, str]:
        """Return alert -> the machine or application that it names."""
        labels = [each["metric"] for each in self.query('ALERTS{alertstate="firing"}')]
        return {each["alertname"]: each.get("app") or each.get("instance", "") for each in labels}

    def ask(self, path: str) -> int:
        try:
            with urllib.request.urlopen(self.stack.url + path, timeout=10) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Generator[Monitored]:
    stack = Stack.make("metrics", tmp_path_factory.mktemp("metrics"), fleet={"servers": 2})
    stack.settings["lxd"]["monitoring_port"] = free_port()
    stack.settings["monitoring"] = {"enabled": True}
    try:
        stack.up()
        yield Monitored(stack)
    finally:
        with contextlib.suppress(AssertionError):
            stack.destroy()
        stack.end_processes()


def test_prometheus_reads_every_machine_and_nobody_else_does(monitored: Monitored) -> None:
    def up() -> dict[tuple[str, str], str]:
        return {(each["metric"]["job"], each["metric"]["instance"]): each["value"][1] for each in monitored.query("up")}

    expected = {("wsgi-fleet", name): "1" for name in ("probe-1", "probe-2", "balancer")}
    expected |= {("wsgi-fleet-nginx", "balancer"): "1"}
    expected |= {("prometheus", f"127.0.0.1:{port}"): "1" for port in (9090, 9093)}
    eventually(lambda: up() == expected, timeout_s=60, message=f"all are up: {up()}")
    servers, balancer = monitored.stack.servers(), monitored.stack.balancer()
    addresses = {each["name"]: each for each in monitored.stack.instances()}
    address = addresses[servers["probe-1"]]["devices"]["eth0"]["ipv4.address"]

    def reaches(machine: str, port: int) -> bool:
        lines = on(machine, "python3", "-c", PORT_IS_OPEN, address, str(port), check=False).splitlines()
        return lines[-1] == "open"

    # The control: the port of the application is open to the balancer.
    assert reaches(balancer, 8000)
    assert reaches(monitored.machine, 9100)
    assert not reaches(monitored.machine, 8000)
    assert not reaches(balancer, 9100)
    assert not reaches(servers["probe-2"], 9100)


def test_each_family_is_exported_and_each_request_counted_once(monitored: Monitored) -> None:
    on(monitored.machine, "sh", "-c", f"cd /etc/wsgi-fleet/prometheus && {FASTER}")
    # Without TLS there is no certificate, and no server had its first request before the exporter began.
    assert [monitored.ask("/") for _ in range(30)] == [200] * 30
    total = 'sum(wsgi_fleet_requests_total{app="probe",code="200"})'
    eventually(lambda: (monitored.value(total) or 0) >= 30, timeout_s=40, message="the requests are counted")
    before = monitored.value(total)
    assert before is not None
    # As logrotate does it, in the middle.
    rotate = "logrotate --force /etc/logrotate.d/wsgi-fleet"
    assert [monitored.ask("/") for _ in range(10)] == [200] * 10
    on(monitored.stack.balancer(), "sh", "-c", rotate)
    assert [monitored.ask("/") for _ in range(10)] == [200] * 10
    eventually(lambda: monitored.value(total) == before + 20, timeout_s=60, message="20 more, and none twice")
    assert monitored.value("sum(wsgi_fleet_upstream_requests_total)") == before + 20
    names = {each["metric"]["__name__"] for each in monitored.query('{__name__=~"wsgi_fleet_.+"}')}
    missing = [each.name for each in FAMILIES if not any(name.startswith(each.name) for name in names)]
    assert missing == ["wsgi_fleet_certificate_not_after_timestamp_seconds"]
    assert monitored.value('min(wsgi_fleet_threads{state="idle"})') == 16
    assert monitored.value("min(wsgi_fleet_collection_success)") == 1


def test_errors_of_the_application_fire_an_alert_that_reaches_the_webhook(monitored: Monitored) -> None:
    stack = monitored.stack
    with receiving(host_address(monitored.machine)) as receiver:
        stack.set_config_secret("monitoring.webhook_url", receiver.url)
        output = stack.up()
        assert "opensesame" not in output + stack.export()
        on(monitored.machine, "sh", "-c", f"cd /etc/wsgi-fleet/prometheus && {FASTER}")
        eventually(lambda: "FleetErrors5xx" not in monitored.firing(), timeout_s=30, message="all is well before")

        def errors() -> bool:
            assert monitored.ask("/raise") == 500
            return monitored.firing().get("FleetErrors5xx") == "probe"

        eventually(errors, timeout_s=60, message="FleetErrors5xx fires")

        def is_told() -> bool:
            assert monitored.ask("/raise") == 500
            alerts = [alert["labels"] for body in receiver.bodies for alert in body["alerts"]]
            return any((each["alertname"], each.get("app")) == ("FleetErrors5xx", "probe") for each in alerts)

        eventually(is_told, timeout_s=60, message="the webhook is told")


def test_a_server_that_is_down_fires_an_alert(monitored: Monitored) -> None:
    server = monitored.stack.servers()["probe-1"]
    assert monitored.firing().get("FleetMachineDown") is None
    lxc("stop", "--force", server)
    try:
        eventually(
            lambda: monitored.firing().get("FleetMachineDown") == "probe-1", timeout_s=60, message="the alert fires"
        )
        eventually(lambda: "FleetServerUnhealthy" in monitored.firing(), timeout_s=60, message="the balancer's as well")
    finally:
        lxc("start", server)
    eventually(lambda: "FleetMachineDown" not in monitored.firing(), timeout_s=60, message="it ends with the fault")


def test_a_server_that_runs_what_the_store_does_not_name_fires_an_alert(monitored: Monitored) -> None:
    stack = monitored.stack
    pointer = stack.folder / ".state" / stack.name / "store" / "probe" / "pointer"
    release = pointer.read_bytes()
    drifted = "sum(wsgi_fleet_release_drift)"
    # Without a wait for the next question to the store.
    restart = ("systemctl", "restart", "wsgi-fleet-exporter")
    assert monitored.value(drifted) == 0
    try:
        pointer.write_bytes(b"0" * len(release))
        on(stack.servers()["probe-2"], *restart)
        eventually(lambda: monitored.value(drifted) == 1, timeout_s=60, message="one server differs from the store")
        eventually(
            lambda: monitored.firing().get("FleetReleaseDrifted") == "probe", timeout_s=60, message="the alert fires"
        )
    finally:
        pointer.write_bytes(release)
    on(stack.servers()["probe-2"], *restart)
    eventually(lambda: monitored.value(drifted) == 0, timeout_s=60, message="it ends with the fault")


def test_switched_off_it_leaves_nothing_that_listens(monitored: Monitored, tmp_path: Path) -> None:
    stack = monitored.stack
    machines = set(stack.machines("app").values()) - {monitored.machine}
    output = stack.fleet("monitoring", "--output", str(tmp_path))
    assert "3 machines" in output.stdout, output.stderr
    stack.settings["monitoring"] = {"enabled": False}
    stack.up()
    assert set(stack.machines("app").values()) == machines
    for machine in (*machines, stack.balancer()):
        listening = on(machine, "ss", "-ltnH")
        assert not any(port in listening for port in (":9100", ":9113"))
        assert "exporter" not in on(machine, "systemctl", "list-units", "--no-legend", "--plain")
    assert stack.fleet("monitoring", "--output", str(tmp_path)).returncode == 2
    assert monitored.ask("/") == 200
