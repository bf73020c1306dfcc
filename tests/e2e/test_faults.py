"""One fault after the other on a running fleet, with a steady load of others beside it: each request is counted.

`make test-faults` runs all of them and writes docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import aiohttp
import pytest

from harness.stack import Stack, eventually, lxc, on
from tests.e2e.steady import Seen, Steady
from tests.e2e.test_health import drop, undrop

pytestmark = pytest.mark.long

REQUEST_S = 5
Keep = Callable[[str, Seen, float, bool], None]


@pytest.fixture(
    scope="module",
    params=[
        "uWSGI, Nginx",
        *(pytest.param(each, marks=pytest.mark.long) for each in ("Gunicorn, Nginx", "uWSGI, Apache")),
    ],
)
def fleet(request: pytest.FixtureRequest, make_module_stack: Callable[..., Stack]) -> Stack:
    """Create three servers of two processes with four threads each. A test leaves them healthy."""
    gateway, proxy = str(request.param).lower().split(", ")
    stack = make_module_stack(
        f"faults-{gateway}-{proxy}",
        source="tests/e2e/faults_app",
        module="app:app",
        health_path="/healthz",
        gateway={"kind": gateway, "processes": 2, "threads": 4, "request_timeout_s": REQUEST_S},
    )
    stack.proxy = proxy
    stack.up()
    return stack


@pytest.fixture
def fault(request: pytest.FixtureRequest, fleet: Stack, reliability: Keep) -> Iterator[Callable[..., None]]:
    """Yield a function that adds a row to the table and checks that no more was lost than is allowed."""
    name = row_name(request)

    def check(
        seen: Seen, since_s: float, *, get: int = 0, post: int = 0, quiet_s: float = 10, slowest_s: float = 10
    ) -> None:
        quiet = seen.quiet_after_s(since_s)
        # By itself: nobody did anything since.
        is_healthy = all(ask(fleet, "/")[0] == 200 for _ in range(20))
        reliability(name, seen, quiet, is_healthy)
        assert (seen.of("GET") <= get, seen.of("POST") <= post) == (True, True), seen
        assert quiet <= quiet_s, (quiet, seen)
        assert seen.slowest_s <= slowest_s, seen
        assert is_healthy

    yield check
    eventually(lambda: all(ask(fleet, "/")[0] == 200 for _ in range(9)), timeout_s=60, message="the fleet is healthy")


def row_name(request: pytest.FixtureRequest) -> str:
    """Return the fleet, and what happens to it, as cells of the table."""
    words, _, ids = request.node.name.removeprefix("test_").rstrip("]").partition("[")
    kind, *more = ids.split("-")
    return f"{kind} | {' '.join([words.replace('_', ' '), *more[:1]])}"


def unit(fleet: Stack) -> str:
    """Return the name of the proxy's unit, which is the name of its processes, too."""
    return "nginx" if fleet.proxy == "nginx" else "apache2"


def ask(fleet: Stack, path: str, headers: dict[str, str] | None = None, timeout_s: float = 30) -> tuple[int, bytes]:
    """Return status and body; 0 where there is no response or it is cut."""
    connection = http.client.HTTPConnection("127.0.0.1", fleet.settings["lxd"]["port"], timeout=timeout_s)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""


def statuses(fleet: Stack, path: str, times: int, pause_s: float = 0) -> Counter[int]:
    """Return statuses of one request sent many times, after a pause each, without waiting for the one before."""
    with ThreadPoolExecutor(times) as pool:
        asked: list[Future[tuple[int, bytes]]] = []
        for _ in range(times):
            asked.append(pool.submit(ask, fleet, path))
            time.sleep(pause_s)
        return Counter(each.result()[0] for each in asked)


def each_server(fleet: Stack, *command: str) -> None:
    """Run a command on all app servers at once."""
    with ThreadPoolExecutor(9) as pool:
        for machine in fleet.servers().values():
            pool.submit(on, machine, *command, check=False)


# What clients send and what one request does.


def test_the_load_sees_a_proxy_that_is_away(fleet: Stack, fault: Callable[..., None]) -> None:
    """Check that failures are counted, as the control of the other tests."""
    with Steady(fleet.url) as load:
        since = load.now_s
        on(fleet.balancer(), "sh", "-c", f"systemctl stop {unit(fleet)}; sleep 1; systemctl start {unit(fleet)}")
        time.sleep(2)
    assert load.seen.of("GET") > 20, load.seen
    fault(load.seen, since, get=999, post=999)


@pytest.mark.parametrize(
    "large",
    [
        "three headers of 13,900 bytes",
        *(pytest.param(each, marks=pytest.mark.long) for each in ("125 empty headers", "a URL of 16,200 bytes")),
    ],
)
def test_requests_with(fleet: Stack, fault: Callable[..., None], large: str) -> None:
    headers, path, right = {"A": "a" * 13_900, "B": "b" * 13_900, "C": "c" * 13_900}, "/", 200
    if large.startswith("125"):
        headers = {f"X{number}": "" for number in range(125)}
        # Apache takes 100 lines.
        right = 200 if fleet.proxy == "nginx" else 400
    if large.startswith("a URL"):
        headers, path, right = {}, "/?" + "u" * 16_200, 414
    with Steady(fleet.url) as load:
        since = load.now_s
        for _ in range(9):
            assert ask(fleet, path, headers)[0] == right
        time.sleep(1)
    fault(load.seen, since)


@pytest.mark.parametrize(
    ("view", "right", "post"),
    [
        ("abort", 502, 8),
        pytest.param("segv", 502, 8, marks=pytest.mark.long),
        *(pytest.param(view, 500, 0, marks=pytest.mark.long) for view in ("exit", "interrupt", "base", "generator")),
    ],
)
def test_a_view_asked_20_times_in_6_s_does(
    fleet: Stack, fault: Callable[..., None], view: str, right: int, post: int
) -> None:
    with Steady(fleet.url) as load:
        since = load.now_s
        assert statuses(fleet, f"/{view}", 20, 0.3) == {right: 20}
        time.sleep(1)
    # POSTs that shared the process may have run, and are not asked again; with Apache no request is.
    fault(load.seen, since, get=4 if fleet.proxy == "nginx" else 3 * post, post=post, slowest_s=3)


@pytest.mark.long
def test_a_view_shuts_down_the_listening_socket_five_times(fleet: Stack, fault: Callable[..., None]) -> None:
    with Steady(fleet.url) as load:
        since = load.now_s
        statuses(fleet, "/deaf", 5, 1)
        eventually(
            lambda: len({ask(fleet, "/")[1].split()[0] for _ in range(60)}) == 3,
            timeout_s=10, message="every server is asked",
        )  # fmt: skip
    # What waits to be accepted ends with the socket.
    fault(load.seen, since, get=2, post=2, slowest_s=3)


@pytest.mark.long
@pytest.mark.parametrize("view", ["leak", "files", "shm", "sigint"])
def test_a_view_brings_its_process_to_an_end_of_something_twice(
    fleet: Stack, fault: Callable[..., None], view: str
) -> None:
    with Steady(fleet.url) as load:
        since = load.now_s
        statuses(fleet, f"/{view}", 2, 1)
        time.sleep(8)
    # A leak takes seconds on a small machine; then the companion replaces the worker, after 1.5 s to 4.5 s.
    fault(load.seen, since, get=20, post=20, quiet_s=20, slowest_s=20)
    # A worker that stayed just below its limit would leave the next test less memory.
    each_server(fleet, "systemctl", "restart", "app@*")


@pytest.mark.long
def test_a_view_asks_for_memory_without_end_five_times(fleet: Stack, fault: Callable[..., None]) -> None:
    with Steady(fleet.url) as load:
        since = load.now_s
        # 502 where the companion sees the worker at its limit before Python does.
        assert statuses(fleet, "/memory", 5, 1).keys() <= {500, 502}
        time.sleep(1)
    fault(load.seen, since, slowest_s=3)


def test_response_headers_of_20_and_40_kb(fleet: Stack, fault: Callable[..., None]) -> None:
    with Steady(fleet.url) as load:
        since = load.now_s
        assert statuses(fleet, "/header?n=20000", 9) == {200: 9}
        # Apache takes what lines of 8 KiB hold.
        assert statuses(fleet, "/header?n=40000", 9) == {502 if fleet.proxy == "nginx" else 200: 9}
        time.sleep(1)
    fault(load.seen, since)


def test_requests_past_the_time_out(fleet: Stack, fault: Callable[..., None]) -> None:
    with Steady(fleet.url, rate=30) as load:
        since = load.now_s
        start_s = time.monotonic()
        assert statuses(fleet, f"/?s={REQUEST_S * 6}", 3) == {504: 3}
        assert time.monotonic() - start_s < REQUEST_S + 3
        time.sleep(1)
    fault(load.seen, since, get=1, post=3)


def test_a_response_that_ends_early_is_seen_as_cut(fleet: Stack) -> None:
    assert ask(fleet, "/stream?n=3&every=0")[0] == 200
    assert ask(fleet, "/stream?n=3&every=0&cut=1") == (0, b"")
    assert ask(fleet, "/bytearray") == (200, b"whole")


async def _impatient(url: str, clients: int, patience_s: float, seconds: float) -> Counter[str]:
    """Run clients that give up and ask again. Those that are told to wait do so."""
    seen: Counter[str] = Counter()
    end = time.monotonic() + seconds
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def client() -> None:
            while time.monotonic() < end:
                try:
                    async with session.get(url, timeout=aiohttp.ClientTimeout(total=patience_s)) as response:
                        await response.read()
                        seen[str(response.status)] += 1
                        await asyncio.sleep(float(response.headers.get("Retry-After", 0)))
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    seen[type(error).__name__] += 1

        await asyncio.gather(*(client() for _ in range(clients)))
    return seen


@pytest.mark.long
def test_500_clients_that_give_up_after_4_s(fleet: Stack, reliability: Keep, request: pytest.FixtureRequest) -> None:
    """Check the fleet under 500 clients: 3 x 2 x 4 threads answer 48 requests of half a second in a second."""
    url = f"{fleet.url}/?s=0.5"
    alone = asyncio.run(_impatient(url, 24, 4, 5))["200"] / 5
    seen = asyncio.run(_impatient(url, 500, 4, 15))
    start_s = time.monotonic()
    assert ask(fleet, "/")[0] == 200
    well_s = time.monotonic() - start_s
    row = Seen(sum(seen.values()), well_s, [(0, "GET", each) for each in seen.elements() if each != "200"])
    reliability(row_name(request), row, well_s, well_s < 2)
    # For as long as they ask, and until the last of them is answered.
    assert seen["200"] >= 0.8 * alone * 15, (alone, seen)
    assert well_s < 2
    assert set(seen) <= {"200", "503", "TimeoutError"}, seen


@pytest.mark.long
def test_1700_patient_clients(fleet: Stack, reliability: Keep, request: pytest.FixtureRequest) -> None:
    start_s = time.monotonic()
    seen = asyncio.run(_impatient(f"{fleet.url}/", 1700, 30, 1))
    took_s = time.monotonic() - start_s
    failed = [(0.0, "GET", each) for each in seen.elements() if each != "200"]
    reliability(row_name(request), Seen(sum(seen.values()), took_s, failed), 0, True)
    assert failed == [], seen


@pytest.mark.long
def test_2600_idle_connections_of_one_client(fleet: Stack, fault: Callable[..., None]) -> None:
    address = ("127.0.0.1", fleet.settings["lxd"]["port"])
    with contextlib.ExitStack() as stack, Steady(fleet.url) as load:
        since = load.now_s
        for _ in range(2600):
            stack.enter_context(socket.create_connection(address, 5))
        time.sleep(3)
    fault(load.seen, since, slowest_s=3)


@pytest.mark.long
def test_300_slow_senders_and_300_slow_readers(fleet: Stack, fault: Callable[..., None]) -> None:
    if fleet.proxy == "apache":
        pytest.skip("Apache passes requests and responses on as they come; test_apache_long.py has what helps")
    with Steady(fleet.url) as before:
        time.sleep(4)
    with slow_clients(fleet), Steady(fleet.url) as load:
        since = load.now_s
        time.sleep(6)
    assert load.seen.p99_s <= 2 * before.seen.p99_s + 0.1, (before.seen.p99_s, load.seen.p99_s)
    fault(load.seen, since, slowest_s=3)


@contextlib.contextmanager
def slow_clients(fleet: Stack) -> Generator[None]:
    """Open 300 clients that send a body slowly, and 300 that read a response slowly."""
    address = ("127.0.0.1", fleet.settings["lxd"]["port"])
    with contextlib.ExitStack() as stack:
        for number in range(600):
            connection = stack.enter_context(socket.create_connection(address, 5))
            if number % 2:
                connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n.")
            else:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.sendall(b"GET /large?n=16 HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.005)
        yield


# What happens to processes and machines.

# The gateways of a server.
UNITS = "$(systemctl list-units -q --plain --no-legend 'app@*' | cut -d' ' -f1)"


@pytest.mark.parametrize(
    "what",
    [
        "a worker",
        *(
            pytest.param(each, marks=pytest.mark.long)
            for each in ("a whole gateway 8 times", "the proxy's master", "a worker of the proxy")
        ),
    ],
)
def test_kill_9_of(fleet: Stack, fault: Callable[..., None], what: str) -> None:
    server = next(iter(fleet.servers().values()))
    machine, command, times, limits = {
        "a worker": (server, "kill -9 $(pgrep -f '[g]ateway_(uwsgi|gunicorn).py' | tail -1)", 1, {"get": 2, "post": 6}),
        "a whole gateway 8 times": (
            server, f"kill -9 $(systemctl show -P MainPID {UNITS} | grep -v '^0$')", 8,
            # Apache asks nobody else.
            {"get": 4 if fleet.proxy == "nginx" else 12, "post": 9},
        ),
        "the proxy's master": (
            fleet.balancer(),
            f"kill -9 $(systemctl show -P MainPID {unit(fleet)})",
            1,
            {"get": 120, "post": 60, "quiet_s": 2.5},
        ),
        "a worker of the proxy": (
            fleet.balancer(), f"kill -9 $(pgrep -u www-data {unit(fleet)} | tail -1)", 1, {"get": 20, "post": 20},
        ),
    }[what]  # fmt: skip
    with Steady(fleet.url) as load:
        since = load.now_s
        for _ in range(times):
            on(machine, "sh", "-c", command, check=False)
            time.sleep(1.5)
        time.sleep(2)
    fault(load.seen, since, **{"quiet_s": 14.0, **limits})


def address(fleet: Stack, machine: str) -> str:
    """Return the address of a machine as the balancer sees it."""
    return next(each["devices"]["eth0"]["ipv4.address"] for each in fleet.instances() if each["name"] == machine)


GATEWAYS = "'[g]ateway_(uwsgi|gunicorn).py'"
# What begins a fault of one machine, and what ends it.
FAULTS: dict[str, tuple[Callable[[Stack, str], object], Callable[[Stack, str], object]]] = {
    "hung": (
        lambda _, machine: on(machine, "sh", "-c", f"pkill -STOP -f {GATEWAYS}"),
        lambda _, machine: on(machine, "sh", "-c", f"pkill -CONT -f {GATEWAYS}"),
    ),
    "frozen": (lambda _, machine: lxc("pause", machine), lambda _, machine: lxc("start", machine)),
    "dead": (lambda _, machine: lxc("stop", "--force", machine), lambda _, machine: lxc("start", machine)),
    "cut off": (lambda fleet, machine: drop(fleet, address(fleet, machine), ""), lambda fleet, _: undrop(fleet)),
}


@contextlib.contextmanager
def lasting(fault: str, fleet: Stack, machine: str) -> Generator[None]:
    """Cause one of FAULTS while the block runs."""
    begin, end = FAULTS[fault]
    begin(fleet, machine)
    try:
        yield
    finally:
        end(fleet, machine)


@pytest.mark.long
@pytest.mark.parametrize("how", FAULTS)
def test_a_server_is(fleet: Stack, fault: Callable[..., None], how: str) -> None:
    """Check that a faulty server is out of rotation within 5 s, delays no later request, and returns when healthy."""
    server = list(fleet.servers().values())[1]
    with Steady(fleet.url, rate=30) as load:
        since = load.now_s
        with lasting(how, fleet, server):
            time.sleep(12)
            first_s = load.seen.quiet_after_s(since)
            assert all(ask(fleet, "/", timeout_s=2)[0] == 200 for _ in range(30)), load.seen
        eventually(
            lambda: server in {ask(fleet, "/", timeout_s=2)[1].split()[0].decode() for _ in range(9)},
            timeout_s=30, message="it is asked again",
        )  # fmt: skip
    assert first_s < 12
    # Those that it had when it went: as many as one third of the load in the seconds until it is out.
    fault(load.seen, since, get=40, post=40, quiet_s=45, slowest_s=31)


def test_all_gateways_are_started_again_at_once(fleet: Stack, fault: Callable[..., None]) -> None:
    with Steady(fleet.url) as load:
        since = load.now_s
        each_server(
            fleet,
            "sh",
            "-c",
            f"systemctl restart {UNITS}",
        )
        time.sleep(3)
    fault(load.seen, since, get=0, post=0)


@pytest.mark.long
def test_the_database_is_away_while_servers_restart(fleet: Stack, fault: Callable[..., None]) -> None:
    away = "/var/lib/app/database-is-away"
    with Steady(fleet.url, rate=20) as load:
        since = load.now_s
        each_server(fleet, "sh", "-c", f"touch {away}; pkill -9 -f '[g]ateway_(uwsgi|gunicorn).py'")
        time.sleep(40)
        each_server(fleet, "rm", "-f", away)
        back = load.now_s
        eventually(lambda: ask(fleet, "/", timeout_s=5)[0] == 200, timeout_s=60, message="it serves again")
        time.sleep(12)
    assert load.seen.quiet_after_s(back) <= 12, load.seen
    # Meanwhile nobody can be served.
    fault(load.seen, since, get=9999, post=9999, quiet_s=60, slowest_s=31)


@pytest.mark.long
def test_the_disk_of_a_server_is_full_and_its_gateway_ends(fleet: Stack, fault: Callable[..., None]) -> None:
    server = next(iter(fleet.servers().values()))
    with Steady(fleet.url, rate=20) as load:
        since = load.now_s
        try:
            on(server, "sh", "-c", "dd if=/dev/zero of=/srv/app/filler bs=1M count=99999", check=False)
            on(server, "sh", "-c", "pkill -9 -f '[g]ateway_(uwsgi|gunicorn).py'", check=False)
            time.sleep(20)
        finally:
            on(server, "rm", "-f", "/srv/app/filler")
        eventually(
            lambda: server in {ask(fleet, "/")[1].split()[0].decode() for _ in range(9)},
            timeout_s=60, message="it serves again",
        )  # fmt: skip
    fault(load.seen, since, get=5, post=10, quiet_s=40, slowest_s=12)
