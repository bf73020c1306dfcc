"""Secrets of every kind that a stack file takes, looked for everywhere: they are where they have to be, nowhere else.

Each is a random value, and found as it is, in Base64 and in gzip.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from harness.stack import Stack, host_address, lxc, on
from tests.e2e.planted import APP, Planted, ask
from tests.e2e.search import Hit, forms

pytestmark = pytest.mark.long

OF_APP, JOURNAL = ("T_GIVEN", "T_MADE"), "root:systemd-journal 640"
# Who reaches a port of which machine; every other port is reached by nobody.
REACHED = {
    ("server", 8000): {"the balancer"},
    ("balancer", 80): {"another server", "this host"},
    ("balancer", 443): {"another server", "this host"},
}


def by_design() -> Iterator[Hit]:
    """Yield where a secret has to be, and which users may read it there (docs/operations.md, Secrets)."""
    for name in OF_APP:
        for file in ("environment", "secrets.json"):
            yield Hit(f"server: /srv/app/releases/ID/{file}", name, "root:root 600")
        for unit in ("app@SLOT", "app-worker-idle@1"):
            yield Hit(f"server: {name} in {unit}.service", name, "app")
        yield Hit(f"{name} while up runs", name)
        # Of the release that failed last: a bundle takes them out of what it printed.
        yield Hit("server: /etc/wsgi-fleet/failed.json", name, "root:root 600")
    yield Hit("server: /etc/wsgi-fleet/key", "probe-key", "root:root 600")
    # Nginx reads them at each reload and each request, as that group.
    yield Hit("balancer: /etc/wsgi-fleet/tls/site.pem", "TLS key", "root:www-data 640")
    yield Hit("balancer: /etc/wsgi-fleet/users", "hash of the password", "root:www-data 640")
    # Pulumi hands the configuration to its program so; who may read that is who runs `up`.
    for name in ("T_GIVEN", "password", "TLS key"):
        yield Hit("PULUMI_CONFIG while up runs", name)


@pytest.fixture(scope="module", params=["nginx", pytest.param("apache", marks=pytest.mark.long)])
def planted(request: pytest.FixtureRequest, make_module_stack: Callable[..., Stack]) -> Planted:
    stack = make_module_stack(f"secrets-{request.param}", **APP)
    stack.proxy = request.param
    return Planted.make(stack)


def test_the_planted_secrets_are_what_the_fleet_works_with(planted: Planted) -> None:
    assert planted.secrets.keys() == {hit.secret for hit in by_design()} | {"balancer-key"}
    user, password = "ann", planted.secrets["password"]
    assert json.loads(ask(planted.stack, user, password))["REMOTE_ADDR"]
    assert ask(planted.stack, "bob", password) == "refused"


def test_a_secret_is_where_it_has_to_be_and_nowhere_else(planted: Planted, security: Callable[..., None]) -> None:
    assert planted.everywhere(planted.secrets) == set(by_design())
    for hit in by_design():
        security("secrets", hit.place, hit.secret, hit.who or "who runs it")
    security("secrets", f"what these print: {', '.join(sorted(planted.printed))}", "nothing", "")
    security("secrets", "every other file, process and journal", "nothing", "")


# Where a text stands that is no secret, and where one was put by hand.
WRITTEN = """
PULUMI_CONFIG while up runs|T_CONTROL while up runs|command line while up runs|user-data
./fleet config|./fleet config --json|printenv
bundle.tar.gz|project/stacks/Pulumi.STACK.yaml|project/.state/STACK/store/probe/releases/ID/manifest.json
server: /srv/app/releases/ID/environment|server: T_CONTROL in app@SLOT.service|server: OTHER in control.service
server: /var/lib/coded|server: /var/log/packed.gz|server: journal|server: properties of units
balancer: command line of control.service|balancer: /var/log/LOG/access.log
"""


@pytest.mark.long
def test_the_search_finds_what_is_planted_in_each_kind_of_place(planted: Planted) -> None:
    stack, value = planted.stack, secrets.token_hex(20)
    # What is no secret stands in plain in all that a stack writes down.
    stack.app["environment"] = {"T_CONTROL": value}
    with planted.keep_processes():
        stack.up()
        on(stack.balancer(), "sh", "-c", "sleep 1", value)
    planted.printed["printenv"] = stack.fleet("exec", "--", "printenv", "T_CONTROL").stdout
    server, front = next(iter(stack.servers().values())), stack.balancer()
    lxc("config", "set", front, f"user.control={value}")
    coded = forms(f" {value}")[1].decode()
    write = f"echo {coded} >/var/lib/coded; echo {value} | gzip >/var/log/packed.gz; echo {value} | systemd-cat"
    on(server, "sh", "-c", write)
    on(front, "sh", "-c", f"echo {value} >>/var/log/wsgi-fleet/access.log")
    run = ("systemd-run", "--quiet", "--collect", "--unit=control")
    on(server, *run, f"--setenv=OTHER={value}", "sleep", "300")
    on(front, *run, "sh", "-c", "sleep 300; :", value)
    found = {hit.place for hit in planted.everywhere({"control": value})}
    log = "nginx" if stack.proxy == "nginx" else "wsgi-fleet"
    expected = set(WRITTEN.replace("LOG", log).replace("\n", "|").strip("|").split("|"))
    assert expected - found == set()


@pytest.mark.long
def test_an_application_that_tells_its_secrets_tells_them_to_its_own_journal_alone(planted: Planted) -> None:
    stack, new = planted.stack, secrets.token_hex(20)
    # Of a release that no server keeps.
    stack.set_secret("T_GIVEN", new)
    stack.edit(
        'VERSION = "2"', "given, made = os.environ['T_GIVEN'], os.environ['T_MADE']\nraise ValueError(given, made)"
    )
    planted.printed["a release that tells"] = stack.up(fails=True)
    assert "ValueError: ('[removed]', '[removed]')" in planted.printed["a release that tells"]
    found = planted.everywhere({"new": new, "T_MADE": planted.secrets["T_MADE"]}) - set(by_design())
    journal = (("./fleet logs", ""), ("server: journal", ""), ("server: /var/log/journal/ID/system.journal", JOURNAL))
    expected = {Hit(place, name, who) for place, who in journal for name in ("new", "T_MADE")}
    assert found == expected | {Hit("server: /etc/wsgi-fleet/failed.json", "new", "root:root 600")}


def address_of(machine: str) -> str:
    return json.loads(lxc("query", f"/1.0/instances/{machine}").stdout)["devices"]["eth0"]["ipv4.address"]


def machines(stack: Stack) -> Iterator[tuple[str, str]]:
    """Yield (kind, name) of one machine of each kind."""
    yield "server", next(iter(stack.servers().values()))
    yield "balancer", stack.balancer()


def test_a_unit_of_ours_may_do_little_besides_its_work(planted: Planted, security: Callable[..., None]) -> None:
    proxy = "nginx" if planted.stack.proxy == "nginx" else "apache2"
    units = {"server": ("app@blue", "app@green", "app-worker-idle@1"), "balancer": (proxy, "wsgi-fleet-health")}
    for kind, machine in machines(planted.stack):
        active = [
            unit for unit in units[kind] if on(machine, "systemctl", "is-active", unit, check=False) == "active\n"
        ]
        assert len(active) == 2
        for unit in active:
            report = on(machine, "systemd-analyze", "--no-pager", "security", unit)
            (exposure,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", report)
            security("units", kind, f"`{re.sub('@(blue|green)', '@SLOT', unit)}`", exposure)
            assert float(exposure) <= 3.5, report


def test_a_port_is_reached_by_who_needs_it_and_nobody_else(planted: Planted, security: Callable[..., None]) -> None:
    stack = planted.stack
    others = {"the balancer": stack.balancer(), "another server": list(stack.servers().values())[1]}
    seen: dict[tuple[str, int], set[str]] = {}
    for kind, machine in machines(stack):
        listening = re.findall(r"^\S+ +\d+ +\d+ +(?!127[.]|\[::1\])\S*:(\d+)", on(machine, "ss", "-Hltn"), re.MULTILINE)
        for port in sorted(set(map(int, listening))):
            there = (address_of(machine), port)
            script = f"import socket; socket.create_connection({there!r}, timeout=2)"
            seen[kind, port] = {
                name
                for name, other in others.items()
                if other != machine
                and lxc("exec", other, "-T", "--", "python3", "-c", script, check=False).returncode == 0
            }
            for own in ("", *(host_address(name) for _, name in machines(stack))):
                with suppress(OSError), socket.create_connection(there, timeout=2, source_address=(own, 0)):
                    seen[kind, port].add("this host")
            security("ports", kind, str(port), ", ".join(sorted(seen[kind, port])) or "nobody")
    assert {where: who for where, who in seen.items() if who} == REACHED


def test_a_server_sees_the_releases_of_its_own_application_alone(planted: Planted) -> None:
    folder = planted.stack.folder / ".state" / planted.stack.name
    (folder / "store" / "other").mkdir()
    for machine in planted.stack.servers().values():
        assert on(machine, "ls", "/srv/store") == "probe\n"
        assert "pointer" in on(machine, "ls", "/srv/store/probe")
    # What the project keeps is closed to other users of this host.
    assert folder.stat().st_mode & 0o777 == 0o700


def test_only_root_may_change_what_lies_in_the_root_of_a_machine(
    planted: Planted, security: Callable[..., None]
) -> None:
    for kind, machine in machines(planted.stack):
        mode = on(machine, "stat", "-c", "%U:%G %a", "/").strip()
        assert mode == "root:root 755"
        security("secrets", f"{kind}: the folder / itself", "no secret; root alone may rename what lies in it", mode)
