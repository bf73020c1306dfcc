"""What a machine reports of itself, asked of a real gateway, and how it calls AWS: on the account of a real program."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import aws_service
import balancer_status
import cloudwatch_logs
import cloudwatch_metrics
import pytest
import site_state
from aws_service import Refused, Service
from log_source import Event
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from harness.program import ROOT, project, stack_file
from tests.aws.account import Account
from tests.aws.auth_proxy import AuthProxy, served
from tests.aws.program import Carried, carry_out
from tests.aws.server import serving

REGION = "eu-central-1"
TOPIC = f"arn:aws:sns:{REGION}:123456789012:fleet"
WELL = (
    'def app(environ, start_response):\n    start_response("{} X", [])\n    return [repr(sorted(environ)).encode()]\n'
)


def giving(value: Any) -> Callable[..., Any]:
    """Return a function that always returns the value."""

    def answer(*_: Any) -> Any:
        return value

    return answer


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
    told = subprocess.run(["df", "--output=pcent", "/"], check=True, capture_output=True, text=True).stdout
    assert abs(cloudwatch_metrics.disk_used_percent() - int(told.split()[1].rstrip("%"))) <= 1


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
def test_the_balancer_reports_the_share_of_errors_and_the_servers_that_do_not_answer() -> None:
    assert list(cloudwatch_metrics.balancer_metrics()) == [
        ("Errors5xxPercent", 25.0, "Percent"),
        ("UnhealthyMembers", 1, "Count"),
    ]
    site_state.PAGE.touch()
    assert next(cloudwatch_metrics.balancer_metrics()) == ("Errors5xxPercent", 0.0, "Percent")


def test_a_balancer_that_nobody_asked_anything_has_no_errors(balancer: Path) -> None:
    (balancer / "access.log").write_text("")
    assert next(cloudwatch_metrics.balancer_metrics()) == ("Errors5xxPercent", 0.0, "Percent")


@contextlib.contextmanager
def connected(port: int, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Make scripts connect to that port, and close all connections in the end."""
    made: list[http.client.HTTPConnection] = []

    def connect(_: Service) -> http.client.HTTPConnection:
        made.append(http.client.HTTPConnection("127.0.0.1", port, timeout=20))
        return made[-1]

    monkeypatch.setattr(Service, "connect", connect)
    yield
    for each in made:
        each.close()


class Machine:
    """A machine of the account, as its scripts see it: metadata, and a way to services that look at who signs."""

    def __init__(self, carried: Carried, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.aws: Any = carried.account.aws
        pages = self.aws.ec2.describe_instances(Filters=[{"Name": "tag:Name", "Values": [f"prod-{role}"]}])
        (self.instance,) = [each for page in pages["Reservations"] for each in page["Instances"]]
        profile = self.instance["IamInstanceProfile"]["Arn"].rpartition("/")[2]
        (taken,) = self.aws.iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
        made = self.aws.sts.assume_role(RoleArn=taken["Arn"], RoleSessionName=self.id)["Credentials"]
        self.key = {
            "AccessKeyId": made["AccessKeyId"],
            "SecretAccessKey": made["SecretAccessKey"],
            "Token": made["SessionToken"],
            "Expiration": made["Expiration"].isoformat(),
        }
        known = {"api/token": "t", "meta-data/instance-id": self.id, "meta-data/placement/region": REGION}

        def told(path: str, token: str = "") -> str:
            del token
            return known[path]

        monkeypatch.setattr(aws_service, "metadata", told)
        monkeypatch.setattr(aws_service, "credentials", giving(self.key))
        wanted = json.loads(carried.build.one("command:remote:Command", f"{role}-monitoring").values["stdin"])
        self.config = {
            name: json.loads(wanted["files"][f"/etc/wsgi-fleet/{name}.json"][1]) for name in ("metrics", "logs")
        }

    @property
    def id(self) -> str:
        return self.instance["InstanceId"]


@pytest.fixture(scope="module")
def prod(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Carried, int]]:
    """Yield the account after the program of stack prod ran with alarms and logs, and the port of its services."""
    with pytest.MonkeyPatch.context() as patch, serving() as endpoint:
        patch.chdir(project(tmp_path_factory.mktemp("project")))
        aws = stack_file("prod")["aws"] | {"alarms": {"sns_topic_arn": TOPIC}}
        carried = carry_out("prod", Account(endpoint, REGION), aws=aws)
        with served(AuthProxy(DomainDispatcherApplication(create_backend_app), REGION), None) as server:
            yield carried, server.port


@pytest.fixture(params=["balancer", "hello-1"])
def machine(
    request: pytest.FixtureRequest, prod: tuple[Carried, int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    with connected(prod[1], monkeypatch):
        yield Machine(prod[0], request.param, monkeypatch)


@pytest.mark.aws
@pytest.mark.usefixtures("balancer")
def test_what_a_machine_publishes_is_what_its_alarms_look_at(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloudwatch_metrics, "CONFIG", tmp_path / "metrics.json")
    cloudwatch_metrics.CONFIG.write_text(json.dumps(machine.config["metrics"]))
    cloudwatch_metrics.main()
    published = {
        (each["Namespace"], each["MetricName"], json.dumps(each["Dimensions"]))
        for each in machine.aws.cloudwatch.list_metrics()["Metrics"]
        if machine.id in json.dumps(each["Dimensions"])
    }
    alarms = machine.aws.cloudwatch.describe_alarms()["MetricAlarms"]
    looked_at = {
        (each["Namespace"], each["MetricName"], json.dumps(each["Dimensions"]))
        for each in alarms
        if each["Namespace"] != "AWS/EC2" and machine.id in json.dumps(each["Dimensions"])
    }
    assert published == looked_at
    assert len(published) == (3 if machine.config["metrics"]["balancer"] else 1)


@pytest.mark.aws
def test_a_machine_speaks_for_no_other_stack_and_ships_into_no_other_place(machine: Machine) -> None:
    fields = cloudwatch_metrics.metrics_form(
        "wsgi-fleet/staging", machine.id, [("DiskUsedPercent", 1.0, "Percent")], datetime.now(UTC)
    )
    with pytest.raises(Refused, match="monitoring answered 403"):
        Service("monitoring").post("application/x-www-form-urlencoded", urlencode(fields).encode())
    groups = {each["logGroupName"] for each in machine.aws.logs.describe_log_groups()["logGroups"]}
    for other in groups - {machine.config["logs"]["group"]}:
        with pytest.raises(Refused, match="logs answered 403"):
            cloudwatch_logs.Stream(other, Service("logs")).ensure()


@pytest.mark.aws
def test_lines_stand_in_the_machines_stream_in_order(machine: Machine) -> None:
    stream = cloudwatch_logs.Stream(machine.config["logs"]["group"], Service("logs"))
    stream.ensure()
    stream.ensure()
    now_ms = int(time.time() * 1000)
    texts = [f'{number} Grüße \u2603 \\ "quoted" 100%' for number in range(3)]
    for batch in cloudwatch_logs.make_batches([Event(now_ms + number, text) for number, text in enumerate(texts)]):
        stream.send(batch)
    names = {"logGroupName": machine.config["logs"]["group"], "logStreamName": machine.id}
    there = machine.aws.logs.get_log_events(**names, startFromHead=True)["events"]
    assert [each["message"] for each in there] == texts


@pytest.mark.aws
def test_a_call_that_somebody_else_signed_is_refused(machine: Machine) -> None:
    machine.key["SecretAccessKey"] = "another"
    with pytest.raises(Refused, match="logs answered 403"):
        cloudwatch_logs.Stream(machine.config["logs"]["group"], Service("logs")).ensure()


class Idle(BaseHTTPRequestHandler):
    """Answers, and closes the connection without a word when it is asked on it again."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = cast("Any", self.server)
        self.rfile.read(int(self.headers["Content-Length"]))
        server.asked.append(self.client_address)
        if server.asked.count(self.client_address) > 1:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Do nothing: no test reads this log."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Service, Any]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Idle) as server:
        asked: list[Any] = []
        server.asked = asked  # pyright: ignore[reportAttributeAccessIssue]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr(aws_service, "metadata", giving("x"))
        with connected(server.server_port, monkeypatch):
            yield Service("logs"), server
        server.shutdown()
        thread.join()


def key(minutes: float) -> dict[str, str]:
    ends = datetime.now(UTC) + timedelta(minutes=minutes)
    return {"AccessKeyId": "A", "SecretAccessKey": "s", "Token": "t", "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}


def test_a_connection_that_the_other_end_closed_is_made_anew(
    service: tuple[Service, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_service, "credentials", giving(key(60)))
    assert [service[0].ask("L", "A", {}), service[0].ask("L", "A", {})] == [{}, {}]
    # The second was asked in vain, and again.
    assert len(service[1].asked) == 3


def test_credentials_are_renewed_before_they_end(service: tuple[Service, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []

    def credentials(_: str) -> dict[str, str]:
        given.append(key(3 if not given else 60))
        return given[-1]

    monkeypatch.setattr(aws_service, "credentials", credentials)
    for _ in range(4):
        service[0].ask("L", "A", {})
    assert len(given) == 2


def test_units_are_what_systemd_reads(tmp_path: Path) -> None:
    names = ("wsgi-fleet-metrics.service", "wsgi-fleet-metrics.timer", "wsgi-fleet-logs.service")
    for name in names:
        shutil.copy(ROOT / "templates" / "systemd" / name, tmp_path / name)
    verify = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in names)]
    told = subprocess.run(verify, check=False, capture_output=True, text=True)
    # Nothing but that this host is none of ours: no program, no group of Debian's journal.
    ours = [each for each in told.stderr.splitlines() if "wsgi-fleet-" in each and "is not executable" not in each]
    assert ours == []
