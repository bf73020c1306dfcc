"""The machines: a stack of the product, one with HTTPS, and a machine for the load. One contestant serves at a time."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.serve import contestants, wrk
from benchmarks.serve.contestants import Contestant
from benchmarks.serve.works import Work
from harness.stack import Stack, eventually, lxc, on
from platforms.lxd.transport import LxdTransport

APP = Path(__file__).parent / "app"
SCRIPTS = "/opt"
UNIT = "contestant"
INSTALL_S, LONGEST_REST_S = 300, 5
# Proportional memory of all processes of a machine, in KiB.
PSS = "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | awk '/^Pss:/ { sum += $2 } END { print sum }'"
# Prints the status of a response; arguments: URL, host, bytes of a POST. Any certificate will do.
ASK = """\
import ssl, sys, urllib.request as u
class Stay(u.HTTPRedirectHandler):
    redirect_request = lambda *_: None
url, host, upload = sys.argv[1:]
opener = u.build_opener(Stay, u.HTTPSHandler(context=ssl._create_unverified_context()))
print(opener.open(u.Request(url, b"x" * int(upload) or None, {"Host": host}), timeout=30).status)
"""


class Machines:
    """The machines of one run, ready to be measured.

    fleet: has an app server for each contestant that is the product's. secure: serves the default by HTTPS.
    idle_mib: proportional memory of all processes of an idle server and of the balancer.
    """

    def __init__(self, folder: Path) -> None:
        # Neither name begins with the other, or machines of both would be found as those of one.
        self.fleet = _stack("serve-http", folder / "fleet", contestants.PRODUCTS, {})
        self.secure = _stack(
            "serve-https", folder / "secure", contestants.PRODUCTS[:1], {"tls": {"self_signed": True}}
        )  # fmt: skip
        for stack in (self.fleet, self.secure):
            stack.up()
        self.servers = {role.rpartition("-")[0]: name for role, name in self.fleet.servers().items()}
        self.first = self.servers[contestants.PRODUCTS[0].name]
        # Before any load, and before anything else is there.
        self.idle_mib = {"server": _pss_mib(self.first), "balancer": _pss_mib(self.fleet.balancer())}
        self._plain, self._tls = (f"//{_address(stack.balancer())}" for stack in (self.fleet, self.secure))
        self._direct = {name: f"//{_address(machine)}" for name, machine in self.servers.items()}
        self.load = _make_load_machine(self.fleet)
        self._let_load_in()
        _install_contestants(self.first)
        self._add_site()

    def description(self) -> dict[str, Any]:
        """Return what the results say of the machines. requests_at_a_time: of the default, computed as for users."""
        shown = self.fleet.fleet("config", "--app", contestants.PRODUCTS[0].name, "--json")
        values = {each["name"]: each["value"] for each in json.loads(shown.stdout)}
        return {
            "machine": {"cpus": contestants.CPUS, "memory_mib": contestants.MEMORY_MIB},
            "idle_mib": self.idle_mib,
            "requests_at_a_time": values[f"apps.{contestants.PRODUCTS[0].name}.requests_at_a_time"],
        }

    def destroy(self) -> None:
        """Remove all machines."""
        lxc("delete", "--force", self.load)
        for stack in (self.fleet, self.secure):
            stack.destroy()

    @contextmanager
    def serving(self, contestant: Contestant) -> Generator[None]:
        """Start the contestant where it is not the product's, which always runs, and end it afterwards."""
        if not contestant.command:
            yield
            return
        program, *arguments = contestant.command.split()
        # As many files as the product's own gateway may have.
        start = ("systemd-run", "--quiet", f"--unit={UNIT}", "--uid=app", "--property=WorkingDirectory=/opt/bench/app")
        limits = ("--property=LimitNOFILE=65536", f"/opt/bench/venv/bin/{program}")
        on(self.first, *start, *limits, *arguments)
        listens = f"ss -Hltn 'sport = :{contestants.PORT}' | grep -q ."
        try:
            eventually(lambda: on(self.first, "sh", "-c", listens) == "", message=f"{contestant.name} listens")
            # It listens before its workers have imported the application.
            time.sleep(1)
            yield
        finally:
            on(self.first, "sh", "-c", f"systemctl stop {UNIT}; systemctl reset-failed {UNIT} 2>/dev/null || true")

    def check(self, contestant: Contestant, work: Work) -> None:
        """Raise AssertionError unless a request for the work gets 200: to wrk a redirect is as good an answer."""
        url, host = self._target(contestant, work)
        ask = ("python3", "-c", ASK, url + work.path, host, str(work.upload))
        answer = on(self.load, *ask).strip()
        assert answer == "200", f"{contestant.name}: {work.name}: {answer}"

    def measure(self, contestant: Contestant, work: Work, seconds: float, rps: float = 0) -> wrk.Sample:
        """Return what clients got for so many seconds. rps: see wrk.command().

        wrk leaves while requests wait, and most gateways still run those: that is over when this returns.
        """
        command = wrk.command(work, self._target(contestant, work), seconds, rps, SCRIPTS)
        result = LxdTransport().exec(self.load, command, timeout_s=seconds + 2 * wrk.TIMEOUT_S)
        sample = wrk.Sample.parse(result.output)
        time.sleep(min(work.clients / max(sample.rps, 1), LONGEST_REST_S))
        return sample

    def _target(self, contestant: Contestant, work: Work) -> tuple[str, str]:
        """Return the URL without a path, and the host."""
        if contestant.direct:
            server = self._direct.get(contestant.direct, self._direct[contestants.PRODUCTS[0].name])
            return f"http:{server}:{contestants.PORT if contestant.command else 8000}", f"{contestant.direct}.bench"
        return f"https:{self._tls}" if work.tls else f"http:{self._plain}", f"{contestant.name}.bench"

    def _let_load_in(self) -> None:
        """Open the app servers' ports, which only the balancer reaches: of contestants, and without a balancer."""
        for machine in self.servers.values():
            network = str(_instance(machine)["devices"]["eth0"]["network"])
            rule = ("action=allow", "state=enabled", "protocol=tcp", f"destination_port=8000-{contestants.PORT}")
            lxc("network", "acl", "rule", "add", network, "ingress", *rule)

    def _add_site(self) -> None:
        """Add the contestants' sites to the balancer's Nginx, whose other settings they share."""
        site = contestants.site(_address(self.first))
        _write(self.fleet.balancer(), "/etc/nginx/wsgi-fleet/bench.conf", site)
        on(self.fleet.balancer(), "sh", "-c", "nginx -t -q && systemctl reload nginx")


def _stack(name: str, folder: Path, served: tuple[Contestant, ...], balancer: dict[str, Any]) -> Stack:
    folder.mkdir()
    stack = Stack.make(name, folder)
    size = {"cpus": contestants.CPUS, "memory_mib": contestants.MEMORY_MIB}
    source = {"source": str(APP.relative_to(APP.parents[2])), "module": "bench:app", "health_path": "/"}
    stack.settings["security_updates"] = {"enabled": False}
    stack.settings["balancer"] = {"size": {"cpus": contestants.CPUS}, **balancer}
    stack.settings["apps"] = {
        each.name: {
            **source,
            "hosts": [f"{each.name}.bench"],
            "static": {"folder": "static"},
            "gateway": dict(each.gateway or {}),
            "fleet": {"servers": 1, "size": size, **each.fleet},
        }
        for each in served
    }
    return stack


def _make_load_machine(stack: Stack) -> str:
    """Create the machine that asks, beside the balancer, and return its name. It goes with the stack's leftovers."""
    name, balancer = f"{stack.name}-load", _instance(stack.balancer())
    config = balancer["config"]
    labels = (f"user.wsgi-fleet.owner={config['user.wsgi-fleet.owner']}", "user.wsgi-fleet.role=load")
    flags = [part for each in (*labels, f"limits.cpu={contestants.CPUS}") for part in ("--config", each)]
    network, pool = balancer["devices"]["eth0"]["network"], balancer["devices"]["root"]["pool"]
    lxc("launch", config["volatile.base_image"], name, "--network", network, "--storage", pool, *flags)
    # It has no address at first.
    install = "apt-get update -qq && apt-get install -qq --no-install-recommends wrk >/dev/null && which wrk"
    eventually(lambda: "wrk" in on(name, "sh", "-c", install), message="wrk is installed")
    _write(name, f"{SCRIPTS}/report.lua", wrk.SCRIPT)
    _write(name, f"{SCRIPTS}/clients.py", (Path(__file__).parent / "clients.py").read_text())
    return name


def _install_contestants(machine: str) -> None:
    """Bring the application and the gateways that are no part of the product into /opt/bench of an app server."""
    files = io.BytesIO()
    with tarfile.open(fileobj=files, mode="w") as archive:
        archive.add(APP, "app", filter=lambda entry: None if "__pycache__" in entry.name else entry)
    unpack = "mkdir -p /opt/bench && tar -x -C /opt/bench --no-same-owner && python3 -m venv /opt/bench/venv"
    LxdTransport().exec(machine, ("sh", "-c", unpack), stdin=files.getvalue(), timeout_s=60)
    install = "/srv/gateway/uv/bin/uv pip install --quiet --system-certs --python /opt/bench/venv/bin/python"
    packages = ("-r", "/opt/bench/app/requirements.txt", *contestants.PACKAGES)
    result = LxdTransport().exec(machine, (*install.split(), *packages), timeout_s=INSTALL_S)
    assert result.exit_code == 0, result.output


def _write(machine: str, path: str, text: str) -> None:
    LxdTransport().exec(machine, ("sh", "-c", f"cat >{path}"), stdin=text.encode(), timeout_s=60)


def _instance(machine: str) -> dict[str, Any]:
    return json.loads(lxc("query", f"/1.0/instances/{machine}").stdout)


def _address(machine: str) -> str:
    return str(_instance(machine)["devices"]["eth0"]["ipv4.address"])


def _pss_mib(machine: str) -> float:
    return round(int(on(machine, "sh", "-c", PSS)) / 1024, 1)
