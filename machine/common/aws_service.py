"""Calls a service of AWS with this machine's role, over one connection that is kept. Standard library only.

Signature Version 4 (docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html). Not by curl
as in fetch.py: a batch of log lines is larger than a line of its configuration may be, and a process for each is dear.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from fetch import credentials, host, metadata

TIMEOUT_S = 30
# EC2 has new credentials at least this long before the old ones end.
RENEWAL = timedelta(minutes=4)


class Refused(Exception):
    """The service responded with an error. code: its name, such as "AccessDeniedException"."""

    def __init__(self, service: str, status: int, text: str) -> None:
        self.code = ""
        with contextlib.suppress(ValueError, AttributeError):
            self.code = str(json.loads(text).get("__type", "")).rpartition("#")[2]
        super().__init__(f"{service} responded with {status}: {' '.join(text.split())[:300]}")


class Service:
    """name: as in its host name, such as "logs". machine: id of this instance. Raises OSError without metadata."""

    def __init__(self, name: str) -> None:
        token = metadata("api/token")
        self.name, self.machine = name, metadata("meta-data/instance-id", token)
        self._region = metadata("meta-data/placement/region", token)
        self._host = host(name, self._region)
        self._key: dict[str, str] = {}
        self._connection: http.client.HTTPConnection | None = None

    def post(self, content_type: str, body: bytes, target: str = "") -> bytes:
        """Send a POST and return the response's body.

        target: X-Amz-Target of a JSON call. Raises Refused, OSError or HTTPException.
        """
        call_headers = {"content-type": content_type} | ({"x-amz-target": target} if target else {})
        headers = sign_request(
            body,
            call_headers,
            self._credentials(),
            service=self.name,
            region=self._region,
            host_name=self._host,
            now=datetime.now(UTC),
        )
        connection, is_kept = self._connection or self.connect(), self._connection is not None
        self._connection = None
        try:
            connection.request("POST", "/", body, headers)
            with connection.getresponse() as response:
                content, status = response.read(), response.status
        except (OSError, http.client.HTTPException):
            connection.close()
            if not is_kept:
                raise
            # The other end closes one that was idle.
            return self.post(content_type, body, target)
        self._connection = connection
        if status != 200:
            raise Refused(self.name, status, content.decode(errors="replace"))
        return content

    def ask(self, version: str, action: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Call a JSON service and return its response. version: what its targets begin with."""
        content = self.post("application/x-amz-json-1.1", json.dumps(request).encode(), f"{version}.{action}")
        return json.loads(content or b"{}")

    def connect(self) -> http.client.HTTPConnection:
        """Return a new connection."""
        return http.client.HTTPSConnection(self._host, timeout=TIMEOUT_S)

    def _credentials(self) -> dict[str, str]:
        if not self._key or datetime.fromisoformat(self._key["Expiration"]) - RENEWAL < datetime.now(UTC):
            self._key = credentials(metadata("api/token"))
        return self._key


def sign_request(
    body: bytes,
    call_headers: Mapping[str, str],
    key: Mapping[str, str],
    *,
    service: str,
    region: str,
    host_name: str,
    now: datetime,
) -> dict[str, str]:
    """Return the headers of a POST to / with its signature.

    call_headers: headers of the call, in lower case. key: credentials.
    """
    time = now.strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": host_name, "x-amz-date": time, "x-amz-security-token": key["Token"], **call_headers}
    names = ";".join(sorted(headers))
    lines = [f"{name}:{headers[name]}" for name in sorted(headers)]
    request = "\n".join(["POST", "/", "", *lines, "", names, hashlib.sha256(body).hexdigest()])
    scope = [time[:8], region, service, "aws4_request"]
    text = "\n".join(["AWS4-HMAC-SHA256", time, "/".join(scope), hashlib.sha256(request.encode()).hexdigest()])
    secret = f"AWS4{key['SecretAccessKey']}".encode()
    for part in scope:
        secret = hmac.digest(secret, part.encode(), "sha256")
    signature = hmac.digest(secret, text.encode(), "sha256").hex()
    credential = f"{key['AccessKeyId']}/{'/'.join(scope)}"
    headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return headers
