"""Stands in for the metadata service of EC2, version 2: who a machine is, and the credentials of its role.

A machine's 169.254.169.254:80 is led to this server at 127.a.b.c, where 10.a.b.c is the machine's private address. So
the server knows who asks, listens to nobody outside of this host, and needs no address of the host's own.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from tests.aws.kind import Clients

LATEST = "/latest/"
TOKEN_HEADER = "X-aws-ec2-metadata-token"


class MetadataServer(ThreadingHTTPServer):
    """The service. aws: where instances and their roles are. served: (private address, path) of each response.

    more(instance, path): what Auto Scaling and EC2 tell an instance besides; "" for nothing.
    """

    daemon_threads = True

    def __init__(self, aws: Clients, more: Callable[[str, str], str]) -> None:
        super().__init__(("", 0), _Handler)
        self.aws, self.more = aws, more
        self.served: list[tuple[str, str]] = []
        # Token -> when it ends, as time.monotonic().
        self.tokens: dict[str, float] = {}

    @classmethod
    def start(cls, aws: Clients, more: Callable[[str, str], str]) -> MetadataServer:
        """Start a server that runs until shutdown()."""
        server = cls(aws, more)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def server_bind(self) -> None:
        """Listen on all of 127.0.0.0/8 and nothing else."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: what was asked is kept in `served`."""

    @property
    def _server(self) -> MetadataServer:
        return cast("MetadataServer", self.server)

    @property
    def _machine(self) -> str:
        """Return the private address of the machine that asks."""
        return "10." + str(self.connection.getsockname()[0]).partition(".")[2]

    def do_PUT(self) -> None:
        lifetime = self.headers.get(f"{TOKEN_HEADER}-ttl-seconds", "")
        if self.path != f"{LATEST}api/token" or not lifetime.isdigit():
            self._answer(HTTPStatus.BAD_REQUEST)
            return
        token = secrets.token_urlsafe(32)
        self._server.tokens[token] = time.monotonic() + int(lifetime)
        self._answer(HTTPStatus.OK, token)

    def do_GET(self) -> None:
        if self._server.tokens.get(self.headers.get(TOKEN_HEADER, ""), 0.0) < time.monotonic():
            self._answer(HTTPStatus.UNAUTHORIZED)
            return
        text = self._value(self.path.removeprefix(LATEST))
        self._answer(HTTPStatus.OK if text else HTTPStatus.NOT_FOUND, text)

    def _value(self, path: str) -> str:
        """Return what stands at a path below /latest/; "" for what this machine does not have."""
        roles = "meta-data/iam/security-credentials/"
        instance = self._instance()
        if path == "meta-data/placement/region":
            return self._server.aws.region
        if path == "meta-data/instance-id":
            return instance["InstanceId"]
        if path.startswith(("meta-data/autoscaling/", "meta-data/spot/")):
            return self._server.more(instance["InstanceId"], path)
        if not path.startswith(roles) or "IamInstanceProfile" not in instance:
            return ""
        profile = instance["IamInstanceProfile"]["Arn"].rpartition("/")[2]
        role = self._server.aws.iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"][0]
        if path == roles:
            return role["RoleName"]
        return self._credentials(role["Arn"], instance["InstanceId"]) if path == roles + role["RoleName"] else ""

    def _instance(self) -> dict[str, Any]:
        expected = {"private-ip-address": self._machine, "instance-state-name": "running"}
        filters = [{"Name": name, "Values": [value]} for name, value in expected.items()]
        found = self._server.aws.ec2.describe_instances(Filters=filters)["Reservations"]
        return found[0]["Instances"][0]

    def _credentials(self, role: str, session: str) -> str:
        made = self._server.aws.sts.assume_role(RoleArn=role, RoleSessionName=session)["Credentials"]
        return json.dumps(
            {
                "Code": "Success",
                "Type": "AWS-HMAC",
                "AccessKeyId": made["AccessKeyId"],
                "SecretAccessKey": made["SecretAccessKey"],
                "Token": made["SessionToken"],
                "Expiration": made["Expiration"].isoformat(),
            }
        )

    def _answer(self, status: HTTPStatus, text: str = "") -> None:
        if status == HTTPStatus.OK:
            self._server.served.append((self._machine, self.path.removeprefix(LATEST)))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())
