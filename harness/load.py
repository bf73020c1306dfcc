"""A load that counts every request: GET and POST, quick and slow, on fresh connections and on kept-alive ones."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import socket
import ssl
import statistics
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

# One client of each kind; every client waits for its answer before it asks again, so the load is bounded by them.
REQUEST_KINDS = ("GET", "POST", "slow GET", "slow POST")
CLIENTS = 2
PAUSE_S = 0.05
# Seconds that the application takes for the slow ones, in turn. One client of a kind leaves the last one out: eight at
# once would take all threads of a server for so long, and others would wait until it sheds them.
SLOW_S = (0.2, 0.5, 0.2, 1.0, 0.2, 5.0)
LONGEST_S = 600


@dataclass
class LoadOutcome:
    """sent = responses + failed. fresh/kept: failures by kind of connection. versions: responses of each.

    posts: ids of the POSTs with a response. quick_s: seconds of each quick request with a response.
    """

    sent: int = 0
    responses: int = 0
    failed_fresh: list[str] = field(default_factory=list[str])
    failed_kept: list[str] = field(default_factory=list[str])
    versions: Counter[str] = field(default_factory=Counter[str])
    servers: Counter[str] = field(default_factory=Counter[str])
    posts: list[str] = field(default_factory=list[str])
    quick_s: list[float] = field(default_factory=list[float])

    @property
    def p99_ms(self) -> float:
        """The 99th percentile of quick requests with a response, in milliseconds."""
        return statistics.quantiles(self.quick_s, n=100)[98] * 1000 if len(self.quick_s) > 1 else 0.0

    def __str__(self) -> str:
        return (
            f"{self.sent} sent, {self.responses} answered, {len(self.failed_fresh)} failed on fresh connections, "
            f"{len(self.failed_kept)} on kept-alive ones; versions {dict(self.versions)}; servers {dict(self.servers)}"
            + "".join(f"\n  fresh: {line}" for line in self.failed_fresh[:10])
            + "".join(f"\n  kept: {line}" for line in self.failed_kept[:10])
        )


class _OneAddress(AbstractResolver):
    """Finds every name at one IPv4 address."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host=self._address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
            )
        ]

    async def close(self) -> None:
        """Do nothing: nothing is open."""


class Background:
    """A base class that runs a coroutine in a thread, from __enter__ until its block ends."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        raise NotImplementedError


class Load(Background):
    """`with Load(url) as load: ...`, then load.outcome. Ends by itself after LONGEST_S seconds.

    trust: authorities (PEM) that an https URL is checked by. address: where the URL's name leads, whatever DNS says.
    slow_s: seconds that the application takes for the slow requests, in turn. pause_s: between two of a client.
    """

    def __init__(
        self,
        url: str,
        *,
        trust: str | None = None,
        address: str | None = None,
        slow_s: Sequence[float] = SLOW_S,
        pause_s: float = PAUSE_S,
    ) -> None:
        super().__init__()
        self.outcome = LoadOutcome()
        self._slow_s, self._pause_s = slow_s, pause_s
        self._url = url
        self._tls = ssl.create_default_context(cadata=trust) if trust else True
        self._address = address

    def __enter__(self) -> Load:
        self._thread.start()
        self.wait_for(20)
        return self

    def wait_for(self, requests: int, timeout_s: float = 60) -> None:
        """Wait until so many more requests are sent: what happens next happens under load."""
        goal, deadline = self.outcome.sent + requests, time.monotonic() + timeout_s
        while self.outcome.sent < goal:
            assert time.monotonic() < deadline, f"no load: {self.outcome}"
            time.sleep(0.01)

    async def _run(self) -> None:
        end = time.monotonic() + LONGEST_S
        await asyncio.gather(
            *(
                self._client(kind, kept, end, (self._slow_s[:-1] or self._slow_s) if number else self._slow_s)
                for kind in REQUEST_KINDS
                for kept in (True, False)
                for number in range(CLIENTS)
            )
        )

    async def _client(self, kind: str, kept: bool, end: float, slow_s: Sequence[float]) -> None:
        resolver = _OneAddress(self._address) if self._address else None
        connector = aiohttp.TCPConnector(force_close=not kept, ssl=self._tls, resolver=resolver)
        timeout = aiohttp.ClientTimeout(total=30)
        slow = itertools.cycle(slow_s if kind.startswith("slow") else (0.0,))
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while not self._stop.is_set() and time.monotonic() < end:
                await self._request(session, kind, kept, next(slow))
                await asyncio.sleep(self._pause_s)

    async def _request(self, session: aiohttp.ClientSession, kind: str, kept: bool, slow_s: float) -> None:
        method = kind.rsplit(maxsplit=1)[-1]
        id_, body = (uuid.uuid4().hex, os.urandom(2000)) if method == "POST" else ("", b"")
        query = {"s": str(slow_s)} if slow_s else {}
        failures = self.outcome.failed_kept if kept else self.outcome.failed_fresh
        self.outcome.sent += 1
        start_s = time.monotonic()
        try:
            params = query | ({"id": id_} if id_ else {})
            async with session.request(method, f"{self._url}/", params=params, data=body or None) as response:
                text = await response.text()
                if response.status != 200:
                    failures.append(f"{kind}: {response.status} {text[:80]!r}")
                    return
                reply = await response.json()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failures.append(f"{kind}: {type(error).__name__} {error}")
            return
        if reply["body_sha256"] != hashlib.sha256(body).hexdigest():
            failures.append(f"{kind}: the application got another body")
            return
        self.outcome.responses += 1
        self.outcome.versions[reply["version"]] += 1
        self.outcome.servers[reply["server"]] += 1
        if id_:
            self.outcome.posts.append(id_)
        if not slow_s:
            self.outcome.quick_s.append(time.monotonic() - start_s)
