"""Tunnels to port 22 of machines through an EC2 Instance Connect Endpoint.

A tunnel is a WebSocket to the endpoint, opened by a URL that the caller's own credentials have signed; the protocol is
that of `aws ec2-instance-connect open-tunnel`. Run as a program, this module is a ProxyCommand of OpenSSH.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import sys
from dataclasses import asdict, dataclass
from typing import Any, cast
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from platforms.aws.credentials import ASK_YOURSELF, REMEDIES

# Of an endpoint: seconds that a tunnel lasts, and tunnels at a time
# (docs.aws.amazon.com/AWSEC2/latest/UserGuide/connect-using-eice.html).
TUNNEL_LIFETIME_S, MAX_TUNNELS = 3600, 20
SSH, SERVICE = 22, "ec2-instance-connect"
# Seconds: of the URL's signature, to open, and to close.
SIGNED_S, OPEN_S, CLOSE_S = 60, 10.0, 2.0
# Bytes of a message; AWS's own client sends up to 65,000.
MESSAGE_BYTES = 32_768
MISSING_PERMISSION = "allow ec2-instance-connect:OpenTunnel on the endpoint for your role (docs/aws.md)"
MISSING_ENDPOINT = "`pulumi up --refresh` makes it again where it is gone"
TUNNEL_LIMIT = f"an endpoint has at most {MAX_TUNNELS} tunnels at a time, of all who use it"
# By status: what to do where it helps nothing to try again. Assumed: no source says with which one AWS refuses.
FINAL_STATUSES = {400: MISSING_ENDPOINT, 401: MISSING_PERMISSION, 403: MISSING_PERMISSION, 404: MISSING_ENDPOINT}


class TunnelRefused(Exception):
    """No tunnel will be opened however often it is tried. The text says why and what to do."""


@dataclass(frozen=True)
class Endpoint:
    """An EC2 Instance Connect Endpoint, without credentials: a tunnel uses those of the operator."""

    id: str
    dns_name: str
    region: str

    def sign_url(self, address: str) -> tuple[str, ssl.SSLContext]:
        """Return the URL that opens a tunnel to an address, and how its TLS is checked. Raises TunnelRefused.

        Credentials and authorities come from where the AWS tools look (environment, profile, role, AWS_CA_BUNDLE).
        """
        # Loaded late: it takes a third of a second.
        from botocore import exceptions, httpsession, session  # noqa: PLC0415
        from botocore.auth import SigV4QueryAuth  # noqa: PLC0415
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415

        query = {"instanceConnectEndpointId": self.id, "remotePort": SSH, "privateIpAddress": address}
        request: Any = AWSRequest("GET", f"wss://{self.dns_name}/openTunnel?{urlencode(query)}")
        try:
            aws_session = cast("Any", session).get_session()
            credentials = aws_session.get_credentials()
            if credentials is None:
                raise exceptions.NoCredentialsError
            sign = SigV4QueryAuth(credentials.get_frozen_credentials(), SERVICE, self.region, SIGNED_S)
            cast("Any", sign).add_auth(request)
            authorities = cast("Any", httpsession).get_cert_path(aws_session.get_config_variable("ca_bundle") or True)
        except exceptions.BotoCoreError as error:
            remedy = _as_clause(REMEDIES.get(type(error).__name__, ASK_YOURSELF))
            raise TunnelRefused(f"AWS credentials: {error}; {remedy}") from None
        return str(request.url), ssl.create_default_context(cafile=authorities)


async def open_tunnel(endpoint: Endpoint, address: str) -> ClientConnection:
    """Open a tunnel. Raises TunnelRefused, or OSError where it may help to try again."""
    url, context = await asyncio.to_thread(endpoint.sign_url, address)
    try:
        return await connect(
            url,
            ssl=context,
            compression=None,
            # SSH has its own keep-alive, and no source says that the endpoint responds to a ping.
            ping_interval=None,
            max_size=None,
            open_timeout=OPEN_S,
            close_timeout=CLOSE_S,
        )
    except InvalidStatus as error:
        raise _explain(endpoint, error.response.status_code, bytes(error.response.body or b"")) from None
    except InvalidHandshake as error:
        raise OSError(f"{endpoint.id}: {error}") from error
    except socket.gaierror as error:
        text = f"{endpoint.id}: {endpoint.dns_name} has no address: {error.strerror}; a new endpoint gets it in minutes"
        raise OSError(f"{text}, and {MISSING_ENDPOINT}") from error


def _explain(endpoint: Endpoint, status: int, body: bytes) -> Exception:
    """Return the error for an endpoint's refusal, in one line with the words of AWS."""
    text = body.decode(errors="replace")
    with contextlib.suppress(ValueError, AttributeError):
        found = {key.lower(): value for key, value in json.loads(text).items()}
        text = ": ".join(str(found[key]) for key in ("errorcode", "message") if found.get(key))
    words = " ".join(text.split()) or "no reason given"
    if status in FINAL_STATUSES:
        remedy = next((_as_clause(REMEDIES[code]) for code in REMEDIES if code in words), FINAL_STATUSES[status])
        return TunnelRefused(f"{endpoint.id} refused a tunnel ({status} {words}); {remedy}")
    return OSError(f"{endpoint.id} opens no tunnel now ({status} {words}); {TUNNEL_LIMIT}")


def _as_clause(sentence: str) -> str:
    """Return a sentence as the end of another."""
    return f"{sentence[:1].lower()}{sentence[1:].rstrip('.')}"


async def copy(tunnel: ClientConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Copy between a tunnel and a stream until one of them ends. Return why the endpoint ended it; "" for no reason."""

    async def send() -> None:
        with contextlib.suppress(ConnectionClosed):
            while chunk := await reader.read(MESSAGE_BYTES):
                await tunnel.send(chunk)
        await tunnel.close()

    sending = asyncio.create_task(send())
    try:
        # The stream has no reader once it has ended.
        with contextlib.suppress(ConnectionError):
            async for message in tunnel:
                if isinstance(message, str):
                    return f"it sent text: {message[:200]}"
                writer.write(message)
                await writer.drain()
    except ConnectionClosed as error:
        return (error.rcvd and error.rcvd.reason) or str(error)
    finally:
        sending.cancel()
        writer.close()
        await tunnel.close()
    return tunnel.close_reason or ""


async def open_socket(endpoint: Endpoint, address: str) -> tuple[socket.socket, asyncio.Task[str]]:
    """Return a socket to port 22 of an address, and the task that copies, with the result of copy()."""
    tunnel = await open_tunnel(endpoint, address)
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=far)
    return near, asyncio.create_task(copy(tunnel, reader, writer))


def proxy_command(endpoint: Endpoint, address: str) -> list[str]:
    """Return the command that copies between its standard input and output and port 22 of an address."""
    return [sys.executable, "-m", "platforms.aws.tunnel", json.dumps(asdict(endpoint)), address]


async def _serve_standard_streams(endpoint: Endpoint, address: str) -> str:
    tunnel = await open_tunnel(endpoint, address)
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    return await copy(tunnel, reader, asyncio.StreamWriter(transport, protocol, None, loop))


def main(arguments: list[str]) -> None:
    """Be the ProxyCommand that proxy_command() describes."""
    endpoint, address = Endpoint(**json.loads(arguments[0])), arguments[1]
    try:
        reason = asyncio.run(_serve_standard_streams(endpoint, address))
    except (TunnelRefused, OSError) as error:
        sys.exit(f"error: {error}")
    if reason:
        sys.exit(f"error: {endpoint.id} ended the tunnel: {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
