"""How machines come to AWS: by TLS, signed, and with what their role may do. moto alone looks at none of it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import parse_qsl

from moto.core.exceptions import ServiceException
from moto.iam.access_control import IAMRequest, S3IAMRequest
from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.exceptions import Forbidden, HTTPException
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Request

# What machines ask of AWS.
SERVICES = ("s3", "ssm", "monitoring", "logs", "autoscaling", "ec2")
# moto's.
ACCOUNT = "123456789012"
OF_METHOD = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject"}


class AuthProxy:
    """A WSGI application that passes to another what is signed by credentials that may do it.

    group_arn: of the Auto Scaling group that a call is about, by its parameters. tags: of an instance. moved: called
    once an address leads elsewhere.
    """

    def __init__(
        self,
        app: Any,
        region: str,
        group_arn: Callable[[Mapping[str, str]], str],
        *,
        tags: Callable[[str], Mapping[str, str]],
        moved: Callable[[], None],
    ) -> None:
        self._app, self._region, self._group_arn = app, region, group_arn
        self._tags, self._moved = tags, moved

    def __call__(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        body = request.get_data()
        environ["wsgi.input"] = io.BytesIO(body)
        try:
            self._check(request, environ["RAW_URI"], body)
        except (ServiceException, HTTPException) as error:
            return Forbidden(str(error))(environ, start_response)
        answer = self._app(environ, start_response)
        if b"Action=AssociateAddress" in body:
            self._moved()
        return answer

    def _check(self, request: Request, path: str, body: bytes) -> None:
        """Raise Forbidden, or the error of moto about a signature and a role's policies."""
        signed = request.headers.get("Authorization", "").split("/")
        service = signed[3] if len(signed) > 3 else ""
        if service not in SERVICES:
            raise Forbidden("not signed for a service that machines ask")
        kind = S3IAMRequest if service == "s3" else IAMRequest
        action, resource, context = self._asked(service, request, body)
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
        if service == "monitoring":
            # Signed under one name and allowed under another, and by a condition: moto knows neither.
            allowed = [each for document in _policies(asked) for each in _statements(document)]
            only = {"Effect": "Allow", "Action": f"cloudwatch:{action}", "Resource": resource}
            if only | {"Condition": {"StringEquals": context}} not in allowed:
                raise Forbidden(f"the role may not cloudwatch:{action} {context}")
            return
        if action == "AssociateAddress":
            self._check_address(asked, dict(parse_qsl(body.decode())))
            return
        asked.check_action_permitted(resource)

    def _check_address(self, asked: Any, given: Mapping[str, str]) -> None:
        """Raise Forbidden unless the role may move this address, and to an instance with these tags."""
        strange = given.keys() - {"Action", "Version", "AllocationId", "InstanceId", "AllowReassociation"}
        every = [each for document in _policies(asked) for each in _statements(document)]
        allowed = [each for each in every if (each["Effect"], each["Action"]) == ("Allow", "ec2:AssociateAddress")]
        here = f"arn:aws:ec2:{self._region}:*"
        addresses = [each["Resource"] for each in allowed if "Condition" not in each]
        tags = {f"aws:ResourceTag/{key}": value for key, value in self._tags(given["InstanceId"]).items()}
        machines = [
            each
            for each in allowed
            if f"{here}:instance/*" in each["Resource"]
            and {*each["Condition"]} == {"StringEquals"}
            and each["Condition"]["StringEquals"].items() <= tags.items()
        ]
        if strange or f"{here}:elastic-ip/{given['AllocationId']}" not in addresses or not machines:
            raise Forbidden(f"the role may not ec2:AssociateAddress {dict(given)}")

    def _asked(self, service: str, request: Request, body: bytes) -> tuple[str, str, Mapping[str, str]]:
        """Return the action, the ARN of what it is about, and the keys of its conditions."""
        if service == "s3":
            return OF_METHOD.get(request.method, request.method), f"arn:aws:s3:::{request.path.lstrip('/')}", {}
        if service == "monitoring":
            fields = dict(parse_qsl(body.decode()))
            return fields.get("Action", ""), "*", {"cloudwatch:namespace": fields.get("Namespace", "")}
        if service in ("autoscaling", "ec2"):
            fields = dict(parse_qsl(body.decode()))
            action = fields.get("Action", "")
            # Who lists must be allowed to list all.
            return action, "*" if action.startswith("Describe") else self._group_arn(fields), {}
        asked, action = json.loads(body), request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        here = f"arn:aws:{service}:{self._region}:{ACCOUNT}"
        if service == "ssm":
            return action, f"{here}:parameter{asked.get('Path', '')}", {}
        return action, f"{here}:log-group:{asked.get('logGroupName')}:log-stream:{asked.get('logStreamName')}", {}


def _policies(asked: Any) -> list[Any]:
    """Return the documents of the role whose credentials signed; moto has no public way to them."""
    return asked._access_key.collect_policies()


def _statements(document: Any) -> list[dict[str, Any]]:
    return (json.loads(document) if isinstance(document, str) else document)["Statement"]


@contextmanager
def serve_tls(app: Any, context: Any) -> Generator[BaseWSGIServer]:
    """Serve a WSGI application on a free port of loopback, by TLS."""
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
