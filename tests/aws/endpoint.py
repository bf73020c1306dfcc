"""Stands in for EC2 Instance Connect Endpoints: a WebSocket server that checks signatures and leads to machines."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qs, urlencode, urlsplit

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

# AWS's own, and not those of the code under test.
SERVICE, MOST, MESSAGE_BYTES = "ec2-instance-connect", 20, 32_768
PARAMETERS = {"instanceConnectEndpointId", "remotePort", "privateIpAddress"}
CONNECT_S = 5.0


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class EndpointServer:
    """A server of tunnels. secrets: access key -> secret key. endpoints: ids that exist.

    may_open: whether the identity of an access key may open a tunnel. locate: private address -> where that machine is
    here; None for one that the endpoint does not reach. opened: the private address of each tunnel. most: how many were
    open at a time.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        region: str,
        *,
        secrets: Mapping[str, str],
        endpoints: Callable[[], list[str]],
        locate: Callable[[str], tuple[str, int] | None],
        may_open: Callable[[str], bool] = lambda _key: True,
    ) -> None:
        self._context, self._region, self._secrets = context, region, secrets
        self._endpoints, self._locate, self._may_open = endpoints, locate, may_open
        self.opened: list[str] = []
        self.most = self.open = 0
        self.dns_name = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: Server | None = None

    def start(self) -> None:
        """Listen on a free port of loopback."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def drop(self, reason: str) -> None:
        """End all tunnels, as AWS does after an hour."""
        asyncio.run_coroutine_threadsafe(self._drop(reason), self._loop).result()

    async def _listen(self) -> None:
        self._server = await serve(
            self._tunnel, "127.0.0.1", 0, ssl=self._context, process_request=self._check, compression=None
        )
        self.dns_name = f"localhost:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def _end(self) -> None:
        if self._server:
            self._server.close()
            await self._server.wait_closed()

    async def _drop(self, reason: str) -> None:
        for each in list(self._server.connections if self._server else ()):
            await each.close(1008, reason)

    def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the refusal of a request that AWS would refuse. Its statuses and codes are made up."""
        del connection
        try:
            self._verify(f"wss://{request.headers['Host']}{request.path}")
        except _Refused as error:
            body = json.dumps({"ErrorCode": error.code, "Message": str(error)}).encode()
            headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
            return Response(error.status, error.status.phrase, headers, body)
        return None

    def _verify(self, url: str) -> None:
        """Raise _Refused unless the URL is signed by somebody who may open what it asks for."""
        parts = urlsplit(url)
        asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
        own = {key for key in asked if not key.startswith("X-Amz-")}
        key, day, region, service, _ = [*asked.get("X-Amz-Credential", "").split("/"), *[""] * 5][:5]
        if key not in self._secrets or (region, service) != (self._region, SERVICE):
            raise _Refused(HTTPStatus.FORBIDDEN, "AccessDenied", f"credential {key} {day} {region} {service}")
        signature = asked.pop("X-Amz-Signature", "")
        signed = cast("Any", AWSRequest("GET", f"wss://{parts.netloc}{parts.path}?{urlencode(asked)}"))
        signed.context["timestamp"] = asked["X-Amz-Date"]
        given = Credentials(key, self._secrets[key], asked.get("X-Amz-Security-Token"))
        auth = cast("Any", SigV4QueryAuth(given, SERVICE, self._region, int(asked["X-Amz-Expires"])))
        if auth.signature(auth.string_to_sign(signed, auth.canonical_request(signed)), signed) != signature:
            raise _Refused(HTTPStatus.FORBIDDEN, "SignatureDoesNotMatch", "the signature is another one")
        age = datetime.now(UTC) - datetime.strptime(asked["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if not timedelta(seconds=-5) < age < timedelta(seconds=int(asked["X-Amz-Expires"])):
            raise _Refused(HTTPStatus.FORBIDDEN, "RequestExpired", f"signed {age} ago")
        if not self._may_open(key):
            what = f"{key} is not authorized to perform: {SERVICE}:OpenTunnel"
            raise _Refused(HTTPStatus.FORBIDDEN, "AccessDenied", f"User: {what}")
        if (parts.path, own, asked["remotePort"]) != ("/openTunnel", PARAMETERS, "22"):
            raise _Refused(HTTPStatus.BAD_REQUEST, "InvalidParameter", f"{parts.path} with {sorted(own)}")
        if asked["instanceConnectEndpointId"] not in self._endpoints():
            raise _Refused(HTTPStatus.NOT_FOUND, "ResourceNotFound", "The specified endpoint does not exist")
        if self.open >= MOST:
            raise _Refused(HTTPStatus.TOO_MANY_REQUESTS, "LimitExceeded", "Too many tunnels")

    async def _tunnel(self, connection: ServerConnection) -> None:
        address = parse_qs(urlsplit(connection.request.path if connection.request else "").query)["privateIpAddress"][0]
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            there = await asyncio.to_thread(self._locate, address)
            if there is None:
                raise OSError
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(*there)
            self.opened.append(address)
            await _copy(connection, reader, writer)
        except (OSError, TimeoutError):
            await connection.close(1011, "Unable to connect to target")
        finally:
            self.open -= 1


async def _copy(connection: ServerConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def back() -> None:
        while chunk := await reader.read(MESSAGE_BYTES):
            await connection.send(chunk)
        await connection.close()

    returning = asyncio.create_task(back())
    try:
        async for message in connection:
            assert isinstance(message, bytes)
            writer.write(message)
            await writer.drain()
    except ConnectionClosed:
        pass
    finally:
        returning.cancel()
        await asyncio.gather(returning, return_exceptions=True)
        writer.close()
