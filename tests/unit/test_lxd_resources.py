"""The dynamic resources: what a change does, what the state holds, and what is found gone."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from pulumi.dynamic import ResourceProvider

from platforms.lxd import arp, build, label, machine, resources
from platforms.lxd.recipe import ImageRecipe
from platforms.step import StepFailed
from platforms.transport import Result
from tests.unit.lxd_daemon import Daemon

OWNER = "local-abc123"
NETWORK = label.network_name(OWNER, "app-hello")
PROVIDERS: dict[str, ResourceProvider] = {
    "group": resources.GroupProvider(),
    "image": resources.ImageProvider(),
    "store": resources.StoreProvider(),
    "machine": resources.MachineProvider(),
    "address": resources.AddressProvider(),
    "monitoring": resources.MonitoringAddressProvider(),
    "step": resources.StepProvider(),
}
THINGS = [name for name in PROVIDERS if name != "step"]


@pytest.fixture
def inputs(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Return inputs of each provider as the engine hands them over, on a daemon where they can be created."""
    daemon.things["storage-pools"]["pool"] = {"name": "pool", "driver": "dir"}
    daemon.things["images/aliases"]["wsgi-fleet-0"] = {"name": "wsgi-fleet-0", "target": "f0"}
    daemon.things["networks"]["wf0"] = {"name": "wf0", "config": {"ipv4.address": "10.7.7.1/24"}}
    daemon.things["instances"]["there"] = {"name": "there", "status": "Running", "config": {}, "devices": {}}
    daemon.things["instances"]["there"]["config"] = label.labels(OWNER, "balancer")
    monkeypatch.setattr(resources, "LxdTransport", Transport)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def is_resolved(address: str) -> bool:
        return address in daemon.addresses()

    def ensure(_recipe: ImageRecipe, digest: str, _say: object) -> Path:
        folder = build.cache() / digest
        folder.mkdir(exist_ok=True)
        for name in (build.METADATA, build.ROOT):
            (folder / name).write_text(name)
        return folder

    monkeypatch.setattr(arp, "is_resolved", is_resolved)
    monkeypatch.setattr(build, "ensure", ensure)
    with contextlib.ExitStack() as listening:
        servers = [listening.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        port, tls_port, prometheus_port = (float(server.getsockname()[1]) for server in servers)
    return {
        "group": {
            "owner": OWNER,
            "role": "app-hello",
            "network": NETWORK,
            "isolated": True,
            "rules": [{"port": 8000.0, "addresses": "10.1.1.2-10.1.1.254"}, {"port": 80.0, "addresses": ""}],
        },
        "image": {
            "owner": OWNER,
            "pool": "pool",
            "digest": "d1",
            "alias": "wsgi-fleet-d1",
            "recipe": ImageRecipe().as_json(),
        },
        "store": {"path": str(tmp_path / "stack" / "store")},
        "machine": {
            "stack": "local",
            "owner": OWNER,
            "role": "hello-1",
            "image": "wsgi-fleet-0",
            "user_data": "#cloud-config\n",
            "network": "wf0",
            "isolated": True,
            "pool": "pool",
            "cpus": 2.0,
            "memory_mib": 512.0,
            "disk_gib": 8.0,
            "store": "",
            "status": "Running",
        },
        "address": {"owner": OWNER, "port": port, "tls_port": tls_port, "machine": "there", "url": "http://127.0.0.1"},
        "monitoring": {"owner": OWNER, "port": prometheus_port, "machine": "there"},
        "step": {"machine": "there", "command": ["/opt/booted", "600"], "stdin": "key opensesame", "timeout_s": 630.0},
    }


class Transport:
    """An LxdTransport whose commands print 20 lines and end with the exit code in `code`."""

    code = 0
    calls: list[tuple[str, list[str], bytes, float]]

    def __init__(self, _client: object) -> None:
        Transport.calls = []

    def exec(self, machine: str, command: list[str], *, stdin: bytes, timeout_s: float, on_line: object) -> Result:
        del on_line
        self.calls.append((machine, command, stdin, timeout_s))
        return Result(self.code, "".join(f"line {number}\n" for number in range(20)))


def create_resource(name: str, inputs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Create a resource with a provider, and return its id and outputs."""
    result = PROVIDERS[name].create(inputs)
    return result.id, result.outs or {}


def change(
    provider: ResourceProvider, olds: dict[str, Any], news: dict[str, Any], id_: str
) -> tuple[bool | None, list[str]]:
    """Return whether there is something to do, and which inputs require a replacement."""
    found = provider.diff(id_, olds, news)
    assert not found.delete_before_replace
    return found.changes, found.replaces or []


@pytest.mark.parametrize("name", PROVIDERS)
def test_what_is_as_it_is_described_needs_no_change(name: str, inputs: dict[str, dict[str, Any]]) -> None:
    provider = PROVIDERS[name]
    checked = provider.check({}, inputs[name])
    assert (checked.inputs, checked.failures) == (inputs[name], [])
    id_, outs = create_resource(name, inputs[name])
    # The state is JSON; whole numbers come back as such.
    for state in (outs, json.loads(json.dumps(outs))):
        assert change(provider, state, inputs[name], id_) == (False, [])
    if name in THINGS:
        found = provider.read(id_, outs)
        assert (found.id, found.outs) == (id_, outs)
    if name not in ("image", "store"):
        assert provider.update(id_, outs, inputs[name]).outs == outs


REPLACED = {
    "group": ["owner", "role", "network"],
    "image": ["owner", "digest", "alias"],
    "store": ["path"],
    "machine": [field.name for field in dataclasses.fields(machine.Spec)],
    "address": ["owner"],
    "monitoring": ["owner"],
    "step": [],
}
UPDATED = {
    "group": ["rules", "isolated"],
    "address": ["port", "tls_port", "machine"],
    "monitoring": ["port", "machine"],
    "step": ["machine", "command", "stdin"],
}
OTHERS: dict[str, Any] = {
    "rules": [{"port": 80, "addresses": ""}],
    "isolated": False,
    "command": ["other"],
    "port": 9,
    "tls_port": 10,
    "cpus": 4,
    "memory_mib": 1024,
    "disk_gib": 9,
}


@pytest.mark.parametrize("name", PROVIDERS)
def test_each_input_replaces_or_updates_or_does_nothing(name: str, inputs: dict[str, dict[str, Any]]) -> None:
    id_, outs = create_resource(name, inputs[name])
    for key in inputs[name].keys() - {"status"}:
        changes, replaces = change(PROVIDERS[name], outs, inputs[name] | {key: OTHERS.get(key, "other")}, id_)
        assert changes is (key in REPLACED[name] + UPDATED.get(name, [])), key
        assert replaces == [each for each in REPLACED[name] if each == key]


def test_https_that_comes_or_goes_is_a_change_of_the_address(inputs: dict[str, dict[str, Any]]) -> None:
    tls = inputs["address"]
    plain = {key: value for key, value in tls.items() if key != "tls_port"}
    (_, with_tls), (_, without) = create_resource("address", tls), create_resource("address", plain)
    assert (with_tls["tls_port"], "tls_port" in without) == (tls["tls_port"], False)
    for olds, news in ((without, tls), (with_tls, plain)):
        assert change(PROVIDERS["address"], olds, news, OWNER)[0]


@pytest.mark.parametrize("name", THINGS)
def test_what_is_gone_is_read_so_deleted_again_and_made_again_without_a_refresh(
    name: str, inputs: dict[str, dict[str, Any]]
) -> None:
    """Cover what a `destroy` leaves that was killed before the engine recorded what it had deleted."""
    provider = PROVIDERS[name]
    id_, outs = create_resource(name, inputs[name])
    for _ in range(2):
        provider.delete(id_, outs)
        assert provider.read(id_, outs).id == ""
    assert change(provider, outs, inputs[name], id_) == (True, ["role"] if name == "machine" else [])
    if name != "machine":
        provider.update(id_, outs, inputs[name])
        assert provider.read(id_, outs).id == id_


def test_a_rule_that_somebody_took_away_is_put_back(daemon: Daemon, inputs: dict[str, dict[str, Any]]) -> None:
    id_, outs = create_resource("group", inputs["group"])
    daemon.things["network-acls"][NETWORK]["ingress"].pop()
    assert change(PROVIDERS["group"], outs, inputs["group"], id_) == (True, [])
    PROVIDERS["group"].update(id_, outs, inputs["group"])
    assert len(daemon.things["network-acls"][NETWORK]["ingress"]) == 2


def test_the_port_of_prometheus_moves_to_the_machine_that_takes_its_place(
    daemon: Daemon, inputs: dict[str, dict[str, Any]]
) -> None:
    instances = daemon.things["instances"]
    instances["new"] = {**instances["there"], "name": "new", "devices": {}}
    id_, outs = create_resource("monitoring", inputs["monitoring"])
    assert create_resource("address", inputs["address"])[0] == id_
    PROVIDERS["monitoring"].update(id_, outs, inputs["monitoring"] | {"machine": "new"})
    assert "monitoring" not in instances["there"]["devices"]
    assert instances["new"]["devices"]["monitoring"]["connect"] == "tcp:127.0.0.1:9090"
    # The balancer's own stay.
    assert {"public", "public-tls"} <= instances["there"]["devices"].keys()


def test_a_machine_that_was_found_stopped_is_started_and_not_replaced(
    daemon: Daemon, inputs: dict[str, dict[str, Any]]
) -> None:
    id_, outs = create_resource("machine", inputs["machine"])
    daemon.things["instances"][id_]["status"] = "Stopped"
    assert change(PROVIDERS["machine"], outs, inputs["machine"], id_) == (True, [])
    assert PROVIDERS["machine"].update(id_, outs, inputs["machine"]).outs == outs
    assert daemon.things["instances"][id_]["status"] == "Running"


def test_numbers_reach_lxd_whole(daemon: Daemon, inputs: dict[str, dict[str, Any]]) -> None:
    id_, _ = create_resource("machine", inputs["machine"])
    config = daemon.things["instances"][id_]["config"]
    assert (config["limits.cpu"], config["limits.memory"]) == ("2", "512MiB")
    create_resource("group", inputs["group"])
    assert [rule["destination_port"] for rule in daemon.things["network-acls"][NETWORK]["ingress"]] == ["80", "8000"]


def test_a_step_runs_on_a_confirmed_machine_and_leaves_nothing_of_its_input(
    daemon: Daemon, inputs: dict[str, dict[str, Any]]
) -> None:
    id_, outs = create_resource("step", inputs["step"])
    assert Transport.calls == [("there", ["/opt/booted", "600"], b"key opensesame", 630.0)]
    assert daemon.things["instances"]["there"]["config"][label.CONFIRMED] == "true"
    parts = json.dumps(["there", ["/opt/booted", "600"], "key opensesame"])
    trigger = hashlib.sha256(parts.encode()).hexdigest()
    assert (id_, outs) == (f"there/{trigger[:12]}", {"machine": "there", "trigger": trigger})


def test_a_step_stays_as_it_is_when_what_it_waits_for_has_failed(inputs: dict[str, dict[str, Any]]) -> None:
    """Check that a missing input is no change: the engine omits it then (`pulumi up --continue-on-error`)."""
    id_, outs = create_resource("step", inputs["step"])
    step, without = PROVIDERS["step"], {key: value for key, value in inputs["step"].items() if key != "stdin"}
    assert step.diff(id_, outs, without).changes is False
    assert step.diff(id_, outs, inputs["step"] | {"stdin": "another"}).changes is True


def test_a_step_that_fails_tells_its_last_lines_and_no_traceback(
    inputs: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transport, "code", 3)
    with pytest.raises(StepFailed) as error:
        create_resource("step", inputs["step"])
    first, *lines = str(error.value).splitlines()
    assert first == "there: the step failed with exit code 3:"
    assert lines == [f"line {number}" for number in range(5, 20)]
    assert sys.tracebacklimit == 0


def failures(name: str, inputs: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each.property, each.reason) for each in PROVIDERS[name].check({}, inputs).failures]


def test_what_stands_in_the_way_is_told_before_anything_is_made(
    daemon: Daemon, inputs: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "LXD has no storage pool gone; `make setup` makes it, wsgi-fleet:lxd.pool names another"
    assert failures("image", inputs["image"] | {"pool": "gone"}) == [("pool", message)]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ((where, message),) = failures("address", inputs["address"] | {"port": port})
        (other,) = failures("monitoring", inputs["monitoring"] | {"port": port})
    assert where == "port"
    assert message.startswith(f"port {port} of 127.0.0.1 is taken by another program")
    assert other == ("port", message.replace("lxd.port", "lxd.monitoring_port"))
    daemon.socket.unlink()
    monkeypatch.setattr("platforms.lxd.client.SOCKETS", ())
    for name, property_ in (("group", "owner"), ("image", "pool"), ("address", "port"), ("monitoring", "port")):
        (where, message), *_ = failures(name, inputs[name])
        assert where == property_
        assert message.startswith("LXD is not there: no socket at ")
    assert daemon.calls == []
