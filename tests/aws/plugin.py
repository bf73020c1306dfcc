"""What stands in for a provider plugin: the engine's protocol on one side, plain values on the other.

Secrets are not accepted, so that the engine keeps them: it strips them on the way here and marks what comes back. Nor
are previews: the engine then answers a preview's creates by itself, all outputs unknown.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Mapping
from concurrent import futures
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, cast

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

Values = dict[str, Any]
# The engine works on sixteen resources at a time, and each waits here for its machine.
THREADS = 64
# Seconds for what is under way when it is told to end.
GRACE_S = 60.0
# Messages of the engine may hold a whole user-data.
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Provider(Protocol):
    """Makes resources. Inputs and states are plain values with keys as providers spell them."""

    def configure(self, given: Mapping[str, str]) -> None: ...

    def create(self, type_: str, inputs: Values) -> tuple[str, Values]: ...

    def update(self, type_: str, id_: str, old: Values, new: Values) -> Values:
        """Change what `replaces` does not name. old: state; new: inputs."""
        ...

    def delete(self, type_: str, id_: str, state: Values) -> None: ...

    def read(self, type_: str, id_: str, state: Values) -> Values | None:
        """Return the state as it is now, None for what is gone."""
        ...

    def invoke(self, token: str, args: Values) -> Values: ...

    def replaces(self, type_: str, key: str) -> bool:
        """Return whether a change of that input (`key`, or `block.key`) makes another resource."""
        ...


def serve(provider: Provider, version: str) -> None:
    """Serve until the engine ends this process; it reads the port from standard output."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=THREADS), options=OPTIONS)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(_Servicer(provider, version), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    ended = threading.Event()
    # The engine interrupts its plugins when it is done with them, and a person all of the process group.

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    ended.wait()
    server.stop(GRACE_S).wait()


def changes(old: Any, new: Any, path: str = "") -> dict[str, str]:
    """Return where two values differ: path as the engine writes it -> "add", "delete" or "update"."""
    if isinstance(old, dict) and isinstance(new, dict):
        olds, news = cast("Values", old), cast("Values", new)
        found: dict[str, str] = {}
        for key in sorted(olds.keys() | news.keys()):
            below = (f"{path}.{key}" if path else key) if key.isidentifier() else f"{path}[{json.dumps(key)}]"
            if key not in news:
                found[below] = "delete"
            elif key not in olds:
                found[below] = "add"
            else:
                found |= changes(olds[key], news[key], below)
        return found
    return {} if old == new else {path: "update"}


class _Servicer(provider_pb2_grpc.ResourceProviderServicer):
    def __init__(self, provider: Provider, version: str) -> None:
        self._provider, self._version = provider, version

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        del request, context
        return plugin_pb2.PluginInfo(version=self._version)

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:
        del request, context
        return empty_pb2.Empty()

    def CheckConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self.Check(request, context)

    def DiffConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        del context
        return _difference(changes(_plain(request.olds), _plain(request.news)), set())

    def Configure(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _report_errors(context):
            self._provider.configure({key.rpartition(":")[2]: text for key, text in request.variables.items()})
        return provider_pb2.ConfigureResponse()

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        del context
        return provider_pb2.CheckResponse(inputs=request.news)

    def Diff(self, request: Any, context: grpc.ServicerContext) -> Any:
        del context
        found = changes(_plain(request.old_inputs), _plain(request.news))
        return _difference(found, {path for path in found if self._provider.replaces(request.type, path)})

    def Create(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _report_errors(context):
            id_, state = self._provider.create(request.type, _plain(request.properties))
            return provider_pb2.CreateResponse(id=id_, properties=_struct(state))

    def Read(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _report_errors(context):
            state = self._provider.read(request.type, request.id, _plain(request.properties))
            if state is None:
                return provider_pb2.ReadResponse()
            return provider_pb2.ReadResponse(id=request.id, properties=_struct(state), inputs=request.inputs)

    def Update(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _report_errors(context):
            state = self._provider.update(request.type, request.id, _plain(request.olds), _plain(request.news))
            return provider_pb2.UpdateResponse(properties=_struct(state))

    def Delete(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _report_errors(context):
            self._provider.delete(request.type, request.id, _plain(request.properties))
            return empty_pb2.Empty()

    def Invoke(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _report_errors(context):
            result: dict[str, Any] = {"return": _struct(self._provider.invoke(request.tok, _plain(request.args)))}
            return provider_pb2.InvokeResponse(**result)


@contextmanager
def _report_errors(context: grpc.ServicerContext) -> Generator[None]:
    """End the operation with the text of an error. Where it came from goes to the engine's log."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever it is, the engine must hear it
        if not isinstance(error, Failed):
            sys.stderr.write(traceback.format_exc())
            sys.stderr.flush()
        context.abort(grpc.StatusCode.UNKNOWN, str(error) or type(error).__name__)


class Failed(Exception):
    """A resource could not be made. The text is for the operator who ran `up`."""


def _difference(found: Mapping[str, str], replacing: set[str]) -> Any:
    kinds = provider_pb2.PropertyDiff.Kind
    detailed = {
        path: provider_pb2.PropertyDiff(
            kind=kinds.Value(f"{kind.upper()}{'_REPLACE' if path in replacing else ''}"), inputDiff=True
        )
        for path, kind in found.items()
    }
    whether = provider_pb2.DiffResponse.DIFF_SOME if found else provider_pb2.DiffResponse.DIFF_NONE
    return provider_pb2.DiffResponse(
        changes=whether,
        diffs=sorted({_key(path) for path in found}),
        replaces=sorted({_key(path) for path in replacing}),
        detailedDiff=detailed,
        hasDetailedDiff=True,
    )


def _key(path: str) -> str:
    """Return the property that a path is in."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def _plain(struct: struct_pb2.Struct) -> Values:
    return cast("Values", _whole(json_format.MessageToDict(struct)))


def _whole(value: Any) -> Any:
    """Convert whole numbers to int: they arrive as floats."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in cast("Values", value).items()}
    if isinstance(value, list):
        return [_whole(item) for item in cast("list[Any]", value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _struct(values: Values) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct
