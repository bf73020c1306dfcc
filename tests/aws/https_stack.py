"""A stack `prod` with two applications by their hosts over HTTPS, of which one has static files."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from functools import cached_property
from typing import Any

from harness.load import Load
from tests.aws.stack import AwsStack
from tests.certificates import Authority

NAME, SHOP = "www.example.org", "shop.example.org"
AUTHORITY = Authority()
TRUST = ssl.create_default_context(cadata=AUTHORITY.certificate)


class HttpsStack(AwsStack):
    """hello at NAME, and shop with its files at SHOP. Clients trust AUTHORITY alone."""

    def add_shop(self) -> None:
        """Write the second application, the hosts and the certificate into the stack file."""
        signed = AUTHORITY.sign([NAME, SHOP])
        self.settings["balancer"] |= {"hostnames": [NAME], "tls": {"certificate": signed.certificate}}
        self.settings["apps"]["shop"] = {
            "source": "tests/e2e/static_app",
            "module": "pages:app",
            "hosts": [SHOP],
            "health_path": "/",
            "build": "python build.py",
            "static": {"folder": "out"},
            "environment": {"T_PLAIN": "plain"},
            "fleet": {"servers": 1},
        }
        self.set_config_secret("balancer.tls.private_key", signed.private_key)

    @cached_property
    def address(self) -> str:
        """Return the public address, where the names of the site would lead. It stays the same."""
        return str(self.output("address"))

    def ask(
        self, host: str, path: str = "/", *, https: bool = True, timeout_s: float = 30
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Return status, headers and body of the response."""
        raw = socket.create_connection((self.address, 443 if https else 80), timeout=timeout_s)
        connection = http.client.HTTPConnection(host)
        connection.sock = TRUST.wrap_socket(raw, server_hostname=host) if https else raw
        with contextlib.closing(connection):
            connection.request("GET", path)
            with connection.getresponse() as response:
                return response.status, response.headers, response.read()

    def get(self, path: str = "/") -> Any:
        """Return what hello responds."""
        return json.loads(self.ask(NAME, path)[2])

    def page(self) -> dict[str, Any]:
        """Return what shop responds."""
        return json.loads(self.ask(SHOP)[2])

    def load(self) -> Load:
        """Return clients of hello."""
        return Load(f"https://{NAME}", trust=AUTHORITY.certificate, address=self.address)
