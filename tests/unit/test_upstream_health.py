"""The service that asks servers for their health: what it takes from responses, and what it does then."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import site_state
import upstream_health
from server_health import Outcome
from site_state import State

from rendering.balancer import health_agent_files

ONE, TWO = "127.0.0.1", "127.0.0.2"
UPSTREAM: site_state.Upstream = {
    "servers": {},
    "protocol": "http",
    "health_path": "/healthz",
    "health_host": "shop.example.org",
    "probe": "/healthz",
}


def test_a_server_that_accepts_and_says_nothing_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_health, "LIMIT_S", 0.2)
    with socket.create_server((ONE, 0)) as hanging:
        probe = asyncio.run(upstream_health.ask(ONE, UPSTREAM, hanging.getsockname()[1]))
        assert (probe.outcome, probe.was_resent) == (Outcome.SILENT, False)


def test_a_connection_that_is_closed_without_a_word_is_a_bad_answer() -> None:
    async def ask() -> tuple[Outcome, str]:
        def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_server(close, ONE, 0) as server:
            probe = await upstream_health.ask(ONE, UPSTREAM, server.sockets[0].getsockname()[1])
            return probe.outcome, probe.words

    response, words = asyncio.run(ask())
    assert response is Outcome.BAD
    assert words in ("it closed the connection", "Connection reset by peer", "Broken pipe")


NOW = datetime(2026, 11, 24, 20, 0, 0, tzinfo=UTC).timestamp()


def line(ago_s: float, upstream: str = ONE, status: str = "200", response_s: str = "0.1", header_s: str = "") -> str:
    """Return a line of the access log, ago_s seconds old."""
    words = {
        "time": datetime.fromtimestamp(NOW - ago_s, UTC).isoformat(timespec="seconds"),
        "uri": "/?127.0.0.2:8000",
        "upstream": f"{upstream}:8000",
        "upstream_status": status,
        "header_s": header_s or response_s,
        "response_s": response_s,
    }
    return json.dumps(words)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([line(1)], True),
        ([line(9)], False),
        ([line(1, TWO)], False),
        ([line(1, status="502")], False),
        ([line(1, status="504", header_s="-")], False),
        ([line(1, status="500")], True),
        # Its header came long ago; that the rest ended says nothing.
        ([line(1, response_s="30.0", header_s="0.1")], False),
        ([line(2, response_s="30.0", header_s="30.0")], True),
        ([line(2), line(1, status="502")], True),
        ([line(2)[:-5], "", "nonsense 127.0.0.1:8000"], False),
        ([line(1, f"{TWO}:8000, {ONE}", "502, 200", "0.0, 0.1", "-, 0.1")], True),
        ([line(1, f"{ONE}:8000, {TWO}", "502, 200", "0.0, 0.1", "-, 0.1")], False),
        ([], False),
    ],
)
def test_who_answered_clients_lately_is_in_the_access_log(lines: list[str], expected: bool, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text("".join(f"{each}\n" for each in lines))
    assert upstream_health.has_responded_since(ONE, NOW - 4, log) is expected
    assert not upstream_health.has_responded_since(ONE, NOW - 4, tmp_path / "none")
    log.rename(tmp_path / "access.log.1")
    log.write_text("")
    assert upstream_health.has_responded_since(ONE, NOW - 4, log) is expected


def state(*servers: str, unhealthy: Sequence[str] = ()) -> State:
    upstream: site_state.Upstream = {**UPSTREAM, "servers": dict.fromkeys(servers, "")}
    return State({"parts": [], "upstreams": {"app_a": upstream}, "https": False}, [], unhealthy)


@pytest.fixture
def balancer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the files of a balancer of one application with two servers. Its proxy_site.py records its arguments."""
    for name in ("STATE", "HEALTH"):
        monkeypatch.setattr(site_state, name, tmp_path / name)
    monkeypatch.setattr(upstream_health, "HERE", tmp_path)
    monkeypatch.setattr(upstream_health, "LIMIT_S", 0.5)
    monkeypatch.setattr(upstream_health, "LOG", tmp_path / "access.log")
    state(ONE, TWO).write()
    (tmp_path / "proxy_site.py").write_text(
        "import json, pathlib, sys\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "with (folder / 'called').open('a') as file: print(*sys.argv[1:], file=file)\n"
        "state = json.loads((folder / 'STATE').read_text()) | {'unhealthy': sys.argv[2:]}\n"
        "(folder / 'new').write_text(json.dumps(state))\n"
        "(folder / 'new').rename(folder / 'STATE')\n"
    )
    return tmp_path


def called(folder: Path) -> list[str]:
    file = folder / "called"
    return file.read_text().splitlines() if file.exists() else []


async def run_until(agent: Any, condition: Callable[[], bool]) -> None:
    """Run the agent until this holds and what it has begun is done."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        agent.tick()
        await asyncio.sleep(0.01)
    if agent.changing:
        await agent.changing


@pytest.fixture
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ten seconds of the agent pass in one."""
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() * 10, time=time.time)
    monkeypatch.setattr(upstream_health, "time", clock)


async def serve(address: str, port: int) -> asyncio.Server:
    """Start a server that responds with 200."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    return await asyncio.start_server(answer, address, port)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@pytest.mark.usefixtures("fast_clock")
def test_the_agent_takes_a_server_out_and_back(balancer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(upstream_health.ask, "__defaults__", (port,))

    async def live() -> None:
        agent = upstream_health.Agent()
        async with await serve(ONE, port):
            await run_until(agent, lambda: len(called(balancer)) == 2)
            # Once at its start, whatever a run that was killed has left.
            assert called(balancer) == ["unhealthy", f"unhealthy {TWO}"]
            report = json.loads(site_state.HEALTH.read_text())["servers"]
            assert (report[ONE]["healthy"], report[TWO]["healthy"], report[TWO]["excluded"]) == (True, False, True)
            assert report[TWO]["why"] == "GET /healthz was not 200 for 3.5 s: Connection refused"
            async with await serve(TWO, port):
                await run_until(agent, lambda: len(called(balancer)) == 3)
                assert called(balancer)[2:] == ["unhealthy"]

    asyncio.run(live())


@pytest.mark.usefixtures("fast_clock")
@pytest.mark.parametrize("members", [[ONE], [ONE, TWO]])
def test_the_agent_goes_on_with_who_was_out_before_and_forgets_who_is_gone(
    balancer: Path, members: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr(upstream_health.ask, "__defaults__", (port,))
    state(*members, unhealthy=[TWO]).write()

    async def live() -> None:
        agent = upstream_health.Agent()
        end = time.monotonic() + 0.15
        async with await serve(ONE, port):
            await run_until(agent, lambda: time.monotonic() > end and called(balancer) != [])
        assert set(agent.servers) == set(members)

    asyncio.run(live())
    assert called(balancer) == [f"unhealthy {TWO}" if TWO in members else "unhealthy"]


@pytest.mark.usefixtures("fast_clock")
def test_the_agent_waits_while_the_state_is_broken_and_logs_it_once(balancer: Path, capsys: Any) -> None:
    site_state.STATE.write_text('{"site": []}')

    async def live() -> None:
        agent = upstream_health.Agent()
        for _ in range(3):
            agent.tick()
        assert capsys.readouterr().out.count(f"error: {site_state.STATE} is broken") == 1
        assert (agent.changing, called(balancer)) == (None, [])
        state(ONE, TWO, unhealthy=[ONE]).write()
        await run_until(agent, lambda: agent.changing is not None)
        assert (agent.servers[ONE].is_healthy, called(balancer)) == (False, [f"unhealthy {ONE}"])

    asyncio.run(live())


@pytest.mark.parametrize("proxy", ["nginx", "apache"])
def test_systemd_takes_the_unit_and_restarts_it_for_ever(proxy: Any, tmp_path: Path) -> None:
    expected = json.loads(health_agent_files(proxy))
    (name,) = expected["on"]
    unit: str = expected["files"][f"/etc/systemd/system/{name}"][1]
    assert {"Type=notify", "Restart=always", "StartLimitIntervalSec=0", "WatchdogSec=15"} <= set(unit.splitlines())
    assert ("apache2.service" in unit) == (proxy == "apache")
    if shutil.which("systemd-analyze"):
        # The program is there on balancers alone.
        (tmp_path / name).write_text(unit.replace("/usr/local/lib/wsgi-fleet/upstream_health.py", "-c pass"))
        verify = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
        report = subprocess.run(verify, check=False, capture_output=True, text=True)
        assert (report.returncode, [line for line in report.stderr.splitlines() if name in line]) == (0, []), (
            report.stderr
        )
        rated = ["systemd-analyze", "security", "--offline=true", "--threshold=35", str(tmp_path / name)]
        assert subprocess.run(rated, check=False, capture_output=True).returncode == 0
