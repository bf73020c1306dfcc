"""What a machine reports of itself, and how it calls AWS."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

import aws_service
import balancer_status
import cloudwatch_metrics
import pytest
import site_state
from aws_service import Refused, Service

from harness.program import ROOT
from tests.unit.cloud import CREDENTIALS, REGION, is_signed


def health(age_s: float = 1, **healthy: bool) -> dict[str, Any]:
    """Return health as balancer_status.py reads it; a server by its last number."""
    servers = {f"10.0.0.{name[1:]}": {"healthy": each, "why": ""} for name, each in healthy.items()}
    return {"age_s": age_s, "servers": servers}


def test_servers_that_are_unhealthy_and_not_drained_count() -> None:
    assert cloudwatch_metrics.count_unhealthy(health(n1=True, n2=False, n3=False, n4=False), ["10.0.0.3"]) == 2
    assert cloudwatch_metrics.count_unhealthy(health(), []) == 0


def test_who_says_nothing_any_more_does_not_say_that_all_is_well() -> None:
    with pytest.raises(ValueError, match="has written nothing for 31 s"):
        cloudwatch_metrics.count_unhealthy(health(31, n1=True), [])


def test_a_disk_is_as_full_as_df_says() -> None:
    report = subprocess.run(["df", "--output=pcent", "/"], check=True, capture_output=True, text=True).stdout
    assert abs(cloudwatch_metrics.disk_used_percent() - int(report.split()[1].rstrip("%"))) <= 1


@pytest.fixture
def balancer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that contains the access log and the balancer's state files."""
    for name in ("STATE", "HEALTH", "PAGE"):
        monkeypatch.setattr(site_state, name, tmp_path / name)
    server = {"healthy": False, "why": ""}
    site_state.HEALTH.write_text(json.dumps({"at": time.time(), "servers": {"10.0.0.1": server}}))
    monkeypatch.setattr(balancer_status, "HEALTH", site_state.HEALTH)
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    lines = [
        {"time": moment, "status": status, "seconds": 0.1}
        | dict.fromkeys(("upstream", "upstream_status", "header_s", "response_s"), "")
        for status in (200, 200, 404, 502)
    ]
    log = tmp_path / "access.log"
    log.write_text("".join(json.dumps(each) + "\n" for each in lines))
    # Defaults are bound when a function is made.
    monkeypatch.setattr(balancer_status.read_recent, "__defaults__", ((log,),))
    return tmp_path


@pytest.mark.usefixtures("balancer")
def test_a_broken_state_is_an_error_that_holds_up_no_other_metric() -> None:
    site_state.STATE.write_text("[]")
    with pytest.raises(ValueError, match="is broken"):
        list(cloudwatch_metrics.balancer_metrics())


class Idle(BaseHTTPRequestHandler):
    """AWS: rejects what is not signed, and closes the connection without a word when it is asked on it again."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server, headers = cast("Any", self.server), dict(self.headers.items())
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["X-Amz-Security-Token"] == CREDENTIALS["Token"]
        is_again = self.client_address in [client for client, _ in server.asked]
        server.asked.append((self.client_address, body))
        if is_again:
            self.close_connection = True
            return
        self.send_response(200 if is_signed(headers, body, self.headers["Host"].partition(".")[0]) else 403)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Do nothing: no test reads this log."""


def key(minutes: float, **changes: str) -> dict[str, str]:
    ends = datetime.now(UTC) + timedelta(minutes=minutes)
    return CREDENTIALS | {"Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ")} | changes


@pytest.fixture
def keys() -> list[dict[str, str]]:
    """Return the credentials of the machine's role, in the order in which they are given; the last stay."""
    return [key(60)]


@pytest.fixture
def asked(keys: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, bytes]]]:
    """Return client and body of each request to AWS."""
    known = {"api/token": "t", "meta-data/instance-id": "i-1", "meta-data/placement/region": REGION}
    made: list[http.client.HTTPConnection] = []

    def metadata(path: str, token: str = "") -> str:
        del token
        return known[path]

    def credentials(_: str) -> dict[str, str]:
        return keys.pop(0) if len(keys) > 1 else keys[0]

    with ThreadingHTTPServer(("127.0.0.1", 0), Idle) as server:

        def connect(_: Service) -> http.client.HTTPConnection:
            made.append(http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20))
            return made[-1]

        server.asked = asked = list[tuple[Any, bytes]]()  # pyright: ignore[reportAttributeAccessIssue]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        for name, fake in (("metadata", metadata), ("credentials", credentials)):
            monkeypatch.setattr(aws_service, name, fake)
        monkeypatch.setattr(Service, "connect", connect)
        yield asked
        for each in made:
            each.close()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("is_balancer", "more"),
    [(False, []), (True, [("Errors5xxPercent", "25.0", "Percent"), ("UnhealthyServers", "1", "Count")])],
)
@pytest.mark.usefixtures("balancer")
def test_a_machine_publishes_under_the_name_of_its_stack_and_its_own_id(
    asked: list[tuple[Any, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_balancer: bool, more: Any
) -> None:
    monkeypatch.setattr(cloudwatch_metrics, "CONFIG", tmp_path / "metrics.json")
    monkeypatch.setattr(cloudwatch_metrics, "disk_used_percent", lambda: 41.5)
    cloudwatch_metrics.CONFIG.write_text(json.dumps({"namespace": "wsgi-fleet/prod", "balancer": is_balancer}))
    cloudwatch_metrics.main()
    ((_, body),) = asked
    form = dict(parse_qsl(body.decode()))
    assert (form.pop("Action"), form.pop("Version")) == ("PutMetricData", "2010-08-01")
    assert form.pop("Namespace") == "wsgi-fleet/prod"
    expected: dict[str, str] = {}
    for number, (name, value, unit) in enumerate([("DiskUsedPercent", "41.5", "Percent"), *more], 1):
        each = {"MetricName": name, "Value": value, "Unit": unit}
        each |= {"Dimensions.member.1.Name": "InstanceId", "Dimensions.member.1.Value": "i-1"}
        expected |= {f"MetricData.member.{number}.{field}": text for field, text in each.items()}
    assert {field: text for field, text in form.items() if not field.endswith("Timestamp")} == expected


def test_maintenance_and_silence_are_no_errors(balancer: Path) -> None:
    none = ("Errors5xxPercent", 0.0, "Percent")
    site_state.PAGE.touch()
    assert next(cloudwatch_metrics.balancer_metrics()) == none
    site_state.PAGE.unlink()
    (balancer / "access.log").write_text("")
    assert next(cloudwatch_metrics.balancer_metrics()) == none


def test_a_connection_that_the_other_end_closed_is_made_anew(asked: list[tuple[Any, bytes]]) -> None:
    service = Service("logs")
    assert [service.ask("L", "A", {"text": "Grüße"}), service.ask("L", "A", {})] == [{}, {}]
    # The second was asked in vain, and again.
    assert len(asked) == 3


@pytest.mark.usefixtures("asked")
def test_credentials_are_renewed_before_they_end(keys: list[dict[str, str]]) -> None:
    keys[:] = [key(3), key(60), key(60), key(60)]
    service = Service("logs")
    for _ in range(4):
        service.ask("L", "A", {})
    assert len(keys) == 2


@pytest.mark.usefixtures("asked")
def test_what_aws_refuses_is_an_error(keys: list[dict[str, str]]) -> None:
    keys[:] = [key(60, SecretAccessKey="another")]
    with pytest.raises(Refused, match=r"^logs responded with 403: \{\}$"):
        Service("logs").ask("L", "A", {})


def test_units_are_what_systemd_reads() -> None:
    names = ("wsgi-fleet-metrics.service", "wsgi-fleet-metrics.timer", "wsgi-fleet-logs.service")
    verify = ["systemd-analyze", "verify", "--man=no", *(str(ROOT / "templates" / "systemd" / name) for name in names)]
    report = subprocess.run(verify, check=False, capture_output=True, text=True)
    # This host has no program of ours.
    ours = [each for each in report.stderr.splitlines() if "wsgi-fleet-" in each and "is not executable" not in each]
    assert ours == []
