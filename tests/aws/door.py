"""How machines come to AWS: by TLS, signed, and with what their role may do. moto alone looks at none of it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from moto.core.exceptions import ServiceException
from moto.iam.access_control import IAMRequest, S3IAMRequest
from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.exceptions import Forbidden
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Request

# What machines ask of AWS.
SERVICES = ("s3", "ssm")
# moto's.
ACCOUNT = "123456789012"
OF_METHOD = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject"}


class Door:
    """A WSGI application that lets through to another what is signed by credentials that may do it."""

    def __init__(self, app: Any, region: str) -> None:
        self._app, self._region = app, region

    def __call__(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        body = request.get_data()
        environ["wsgi.input"] = io.BytesIO(body)
        try:
            self._check(request, environ["RAW_URI"], body)
        except (ServiceException, Forbidden) as error:
            return Forbidden(str(error))(environ, start_response)
        return self._app(environ, start_response)

    def _check(self, request: Request, path: str, body: bytes) -> None:
        """Raises Forbidden, or what moto says of a signature and of a role's policies."""
        signed = request.headers.get("Authorization", "").split("/")
        service = signed[3] if len(signed) > 3 else ""
        if service not in SERVICES:
            raise Forbidden("not signed for a service that machines ask")
        if service == "s3":
            kind, action = S3IAMRequest, OF_METHOD.get(request.method, request.method)
            resource = f"arn:aws:s3:::{request.path.lstrip('/')}"
        else:
            kind, action = IAMRequest, request.headers.get("X-Amz-Target", "").rpartition(".")[2]
            resource = f"arn:aws:ssm:{self._region}:{ACCOUNT}:parameter{json.loads(body).get('Path', '')}"
        asked = kind(
            account_id=ACCOUNT,
            method=request.method,
            path=path,
            data={},
            body=body,
            headers=cast("Any", request.headers),
            action=action,
        )
        asked.check_signature()
        asked.check_action_permitted(resource)


@contextmanager
def served(app: Any, context: Any) -> Generator[BaseWSGIServer]:
    """A WSGI application on a free port of loopback, by TLS."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler, ssl_context=context)
    server.daemon_threads = True  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
