#!/usr/bin/env python3
"""Asks each upstream server for its health, and has proxy_site.py send requests to healthy ones only. A service.

It asks port 8000 as the balancer does, by uwsgi or HTTP, and writes the health of each to a file that `./fleet status`
and the alarms read. Which servers Auto Scaling groups have it learns by membership.py. Where it ends or hangs, the site
stays as it is and systemd starts it again; it goes on from the servers that are excluded then. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import server_health
import site_state
from membership import Membership
from proxy import ProxyError
from server_health import Outcome, Probe, Server
from site_state import Upstream
from system import APP_PORT, notify_systemd, write_atomically

LOG = Path("/var/log/wsgi-fleet/access.log")
HERE = Path(__file__).resolve().parent
# Of a probe; how often decisions are made; the least time between two reloads; how often the file is written anew.
LIMIT_S, TICK_S, RELOAD_S, WRITE_S = 2.0, 0.25, 2.0, 5.0
# The longest that a change may take, and when one that failed is tried again.
CHANGE_S, AGAIN_S = 60, 10.0
RESPONSE_BYTES = 64 << 10
# The most of the access log that is read for a server that is silent.
TAIL_BYTES = 4 << 20
# tcpi_total_retrans in struct tcp_info (linux/tcp.h).
_TCP_INFO_BYTES, _TOTAL_RETRANS = 104, 100


def request_of(upstream: Upstream, *, https: bool) -> bytes:
    """Return a GET of the health path as the balancer would send it for a client.

    (uwsgi-docs.readthedocs.io/en/latest/Protocol.html: a header of four bytes, then names and values with their sizes.)
    """
    path, host, scheme = upstream["health_path"], upstream["health_host"], "https" if https else "http"
    headers = {
        "Host": host,
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Host": host,
        "X-Forwarded-Proto": scheme,
        "X-Real-IP": "127.0.0.1",
        "User-Agent": "wsgi-fleet-health",
    }
    if upstream["protocol"] != "uwsgi":
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "Connection: close"]
        return "\r\n".join([*lines, "", ""]).encode()
    variables = {
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": path,
        "PATH_INFO": path.partition("?")[0],
        "QUERY_STRING": path.partition("?")[2],
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": host,
        "SERVER_PORT": "443" if https else "80",
        "UWSGI_SCHEME": scheme,
        **({"HTTPS": "on"} if https else {}),
        "REMOTE_ADDR": "127.0.0.1",
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()},
    }
    words = [word.encode() for pair in variables.items() for word in pair]
    packet = b"".join(struct.pack("<H", len(word)) + word for word in words)
    return struct.pack("<BHB", 0, len(packet), 0) + packet


def outcome_of(data: bytes) -> tuple[Outcome, str]:
    """Return what a response means, and its first line where it is not good."""
    head, _, _ = data.partition(b"\r\n\r\n")
    first, *headers = head.decode(errors="replace").split("\r\n")
    status = first.split()[1:2]
    if status == ["200"]:
        return Outcome.GOOD, ""
    sheds = status == ["503"] and any(line.lower().startswith("retry-after:") for line in headers)
    return (Outcome.BUSY if sheds else Outcome.BAD), (" ".join(first.split()[1:])[:80] or "it closed the connection")


async def ask(address: str, upstream: Upstream, port: int = APP_PORT, *, https: bool = False) -> Probe:
    """Ask one server once."""
    loop, start_s = asyncio.get_running_loop(), time.monotonic()
    resent = False
    with socket.socket() as connection:
        connection.setblocking(False)
        try:
            async with asyncio.timeout(LIMIT_S):
                await loop.sock_connect(connection, (address, port))
                await loop.sock_sendall(connection, request_of(upstream, https=https))
                data = b""
                while len(data) < RESPONSE_BYTES and (more := await loop.sock_recv(connection, 16 << 10)):
                    data += more
            outcome, error = outcome_of(data)
        except TimeoutError:
            outcome, error = Outcome.SILENT, f"no response in {LIMIT_S:.0f} s"
        except OSError as problem:
            outcome, error = Outcome.BAD, os.strerror(problem.errno) if problem.errno else str(problem)
        with contextlib.suppress(OSError):
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            resent = struct.unpack_from("I", info, _TOTAL_RETRANS)[0] > 0
    return Probe(start_s, outcome, error, resent)


def tail_of(file: Path) -> bytes:
    """Return the last TAIL_BYTES of a file; b"" where it cannot be read."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(opened.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
            return opened.read()
    except OSError:
        return b""


def has_responded_since(address: str, since_s: float, log: Path | None = None) -> bool:
    """Return whether the access log's end has a response of that server that began since then (seconds since 1970)."""
    log = log or LOG
    tail = tail_of(log)
    if len(tail) < TAIL_BYTES:
        # It may just have been rotated.
        tail = tail_of(log.with_name(f"{log.name}.1")) + tail
    mark, end = f"{address}:{APP_PORT}".encode(), len(tail)
    while (found := tail.rfind(mark, 0, end)) >= 0:
        begin = tail.rfind(b"\n", 0, found) + 1
        end = begin
        with contextlib.suppress(ValueError, KeyError):
            line: dict[str, Any] = json.loads(tail[begin : tail.find(b"\n", found)])
            ended = datetime.fromisoformat(line["time"]).timestamp()
            if ended < since_s:
                return False
            # The last of several attempts got the response.
            last = {key: str(line[key]).replace(" : ", ", ").rpartition(", ")[2] for key in UPSTREAM_FIELDS}
            began = ended - float(last["response_s"]) + float(last["header_s"])
            if last["upstream"].encode() == mark and last["upstream_status"] not in GATEWAY_ERRORS and began >= since_s:
                return True
    return False


UPSTREAM_FIELDS = ("upstream", "upstream_status", "header_s", "response_s")
# Statuses of Nginx and Apache for a server that did not respond.
GATEWAY_ERRORS = ("502", "504")


class Agent:
    """The health of all servers, and the resulting changes of the site."""

    def __init__(self) -> None:
        self.state, self._version = site_state.empty_state(), (0, 0)
        self.servers: dict[str, Server] = {}
        self.membership = Membership(time.monotonic())
        self._due: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.changing: asyncio.Task[None] | None = None
        self._may_change_at, self._written_at, self._written = 0.0, 0.0, ""
        # One that was killed may have been at it.
        self._is_sure = False

    def tick(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        self.read(now)
        self.probe(now)
        excluded = self.decide(now)
        self.membership.ask(self.state, self.servers, now)
        self.act(excluded, now)
        self.write(now, excluded)

    def read(self, now: float) -> None:
        """Read the site's state if it has changed. If it cannot be read, there are no servers."""
        with contextlib.suppress(OSError):
            stat = site_state.STATE.stat()
            if (version := (stat.st_mtime_ns, stat.st_ino)) != self._version:
                self._version = version
                try:
                    self.state = site_state.read_state()
                except ProxyError as error:
                    self.state = site_state.empty_state()
                    print(f"error: {error}; until then all stays as it is", flush=True)
        addresses = set(self.state.servers)
        self.servers = {address: server for address, server in self.servers.items() if address in addresses}
        for number, address in enumerate(sorted(addresses - self.servers.keys())):
            # Where this service has just started.
            why = "it was unhealthy before" if address in self.state.unhealthy else ""
            self.servers[address] = Server(now, now, is_healthy=not why, why=why)
            self._due[address] = now + number / max(len(addresses), 1)

    def probe(self, now: float) -> None:
        """Begin the probes that are due, whether or not those before have ended."""
        pause = server_health.interval_s(len(self.servers))
        for each in self.state.site["upstreams"].values():
            for address in each["servers"]:
                if self._due.get(address, 0) <= now:
                    self._due[address] = now + pause
                    task = asyncio.create_task(self._ask(address, each))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def _ask(self, address: str, upstream: Upstream) -> None:
        probe = await ask(address, upstream, https=self.state.site["https"])
        if server := self.servers.get(address):
            server.record(probe)

    def decide(self, now: float) -> set[str]:
        """Judge every server. Return those that get no more requests."""
        out_s = server_health.OUT_S * server_health.interval_s(len(self.servers))
        found: set[str] = set()
        for each in self.state.site["upstreams"].values():
            for address in each["servers"]:
                server, was = self.servers[address], self.servers[address].is_healthy
                # A response from before the first failed probe is no evidence.
                since_s = time.time() - out_s / 2 - 0.5
                server.judge(now, each["health_path"], out_s, partial(has_responded_since, address, since_s))
                if server.is_healthy != was:
                    words = "healthy again" if server.is_healthy else f"unhealthy: {server.why}"
                    print(f"{address} is {words}", flush=True)
            found |= server_health.excluded_servers(
                each["servers"], self.servers, self.state.drained, self.state.unhealthy, now
            )
        return found

    def act(self, excluded: set[str], now: float) -> None:
        """Have the site changed where it must be; one change at a time, and not often."""
        is_busy = self.changing is not None and not self.changing.done()
        is_so = self._is_sure and sorted(excluded) == sorted(self.state.unhealthy)
        if is_busy or not self.state.site["upstreams"] or now < self._may_change_at:
            return
        if not is_so:
            kept = f" but {', '.join(sorted(excluded))}" if excluded else ""
            change = self._change(["unhealthy", *sorted(excluded)], f"requests go to all servers{kept}")
        elif self.membership.differs(self.state):
            change = self._change(["members"], "requests go to the servers that groups have now")
        else:
            return
        self._may_change_at, self._is_sure = now + RELOAD_S, True
        self.changing = asyncio.create_task(change)

    async def _change(self, arguments: Sequence[str], message: str) -> None:
        command = [sys.executable, str(HERE / "proxy_site.py"), *arguments]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(CHANGE_S):
                _, words = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            words = b"error: the change of the site took too long"
        if process.returncode:
            self._may_change_at = time.monotonic() + AGAIN_S
        print(words.decode().strip() or message, flush=True)

    def write(self, now: float, excluded: set[str]) -> None:
        """Write the health of each server, for people and alarms."""
        shift = time.time() - now
        servers = {
            address: {
                "healthy": each.is_healthy, "why": each.why, "since": round(each.since + shift),
                "excluded": address in excluded,
            }
            for address, each in self.servers.items()
        }  # fmt: skip
        status = {"servers": servers, "problem": self.membership.problem(now)}
        text = json.dumps(status)
        if text != self._written or now - self._written_at >= WRITE_S:
            write_atomically(site_state.HEALTH, json.dumps({"at": round(time.time(), 1), **status}).encode())
            self._written, self._written_at = text, now


async def main() -> None:
    """Run the agent for ever, and report to systemd that it is ready and alive."""
    agent = Agent()
    notify_systemd(b"READY=1")
    while True:
        agent.tick()
        notify_systemd(b"WATCHDOG=1")
        await asyncio.sleep(TICK_S)


if __name__ == "__main__":
    asyncio.run(main())
