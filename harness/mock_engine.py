"""The recording mock engine: runs a program and returns what it registered, so that absence can be asserted too."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast
from unittest import mock

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime import mocks, rpc, set_all_config
from pulumi.runtime.proto import engine_pb2, resource_pb2, source_pb2
from pulumi.runtime.settings import SETTINGS, configure
from pulumi.runtime.stack import run_in_stack

from harness.recorded import Build, Registered, Secret

__all__ = ["Build", "LookupResult", "Registered", "Secret", "build"]

PROJECT, STACK = "wsgi-fleet", "test"
UNKNOWN = rpc.UNKNOWN
_SIGNATURE, _SECRET = rpc._special_sig_key, rpc._special_secret_sig  # pyright: ignore[reportPrivateUsage]
_STACK_TYPE = "pulumi:pulumi:Stack"

LookupResult = Mapping[str, Any] | Exception | Callable[[dict[str, Any]], Mapping[str, Any]]


def build(
    program: Callable[[], Awaitable[None] | None],
    *,
    config: Mapping[str, str] | None = None,
    secret_config: Mapping[str, str] | None = None,
    lookups: Mapping[str, LookupResult] | None = None,
    outputs: Mapping[str, Callable[[Registered], Mapping[str, Any]]] | None = None,
    project: str = PROJECT,
    stack: str = STACK,
    preview: bool = False,
) -> Build:
    """Run a program to its end, every apply included, and return what it registered.

    config, secret_config: full keys (`wsgi-fleet:apps`). lookups: token -> what the function returns, or an exception
    it fails with; type -> what a resource has that is read by its id. outputs: type -> what a provider adds to the
    inputs, and the `id` where that matters.
    preview: ids and added outputs are unknown.
    Raises what the program raises, an apply of it included, and AssertionError for a lookup that was not declared.
    """
    secrets = dict(secret_config or {})
    values = {**(config or {}), **secrets}
    set_all_config(values, list(secrets))
    monitor = _Monitor(lookups or {}, outputs or {}, project, stack, preview)
    settings = mocks.MockSettings(
        monitor=monitor,
        monitor_features=monitor.features(),
        engine=_Log(monitor.build),
        project=project,
        stack=stack,
        dry_run=preview,
        organization="organization",
        callbacks=None,
    )
    configure(settings)
    # What a program that failed left is of a loop that is closed.
    left: Any = SETTINGS
    left.rpc_manager.clear()
    left.outputs.clear()
    try:
        with (
            mock.patch.dict(os.environ, {"PULUMI_CONFIG": json.dumps(values)}),
            # An eighth of the time of a run, for what nobody reads here.
            mock.patch("pulumi.runtime.resource._get_stack_trace", source_pb2.StackTrace),
        ):
            asyncio.run(_run(program))
    finally:
        # A program is a process of its own elsewhere, and this one may run more of them.
        gc.enable()
        set_all_config({}, [])
        # A program may swallow the failure of a lookup; a test must not.
        if monitor.undeclared:
            raise AssertionError("no test declared these lookups: " + "; ".join(monitor.undeclared))
    return monitor.build


async def _run(program: Callable[[], Awaitable[None] | None]) -> None:
    # What failed is raised once. Its copies in futures that nobody asks would be told whenever they are collected, in
    # whatever test that is; Python 3.11 crashes if it is reported within ast.parse.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # noqa: ARG005
    await run_in_stack(program)


def _decode(value: Any) -> Any:
    """Decode the wire form: secrets become Secret, references to resources their URN, whole floats ints."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if fields.get(_SIGNATURE) == _SECRET:
            return Secret(_decode(fields["value"]))
        if _SIGNATURE in fields and "urn" in fields:
            return fields["urn"]
        return {key: _decode(item) for key, item in fields.items()}
    if isinstance(value, list):
        return [_decode(item) for item in cast("list[Any]", value)]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _from_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    return cast("dict[str, Any]", _decode(json_format.MessageToDict(struct)))


class _Failure(grpc.RpcError):
    """How the engine reports a lookup that fails: the SDK raises it in the program, which may go on."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNKNOWN

    def details(self) -> str:
        return str(self)


class _Refuse(mocks.Mocks):
    """The base class asks for one; the monitor below answers everything itself."""

    def call(self, args: mocks.MockCallArgs) -> Any:
        raise AssertionError(args.token)

    def new_resource(self, args: mocks.MockResourceArgs) -> Any:
        raise AssertionError(f"{args.typ} {args.name} is read, not made; the mock engine knows no such resources")


class _Monitor(mocks.MockMonitor):
    """Answers the SDK in the wire form, so that nothing is lost on the way (options, depth of secrets)."""

    def __init__(
        self,
        lookups: Mapping[str, LookupResult],
        outputs: Mapping[str, Callable[[Registered], Mapping[str, Any]]],
        project: str,
        stack: str,
        preview: bool,
    ) -> None:
        super().__init__(_Refuse())
        self.build = Build()
        self.undeclared: list[str] = []
        self._lookups, self._outputs, self._preview = lookups, outputs, preview
        self._prefix = f"urn:pulumi:{stack}::{project}::"
        self._by_urn: dict[str, Registered] = {}
        self._lock = threading.Lock()

    def features(self) -> set[int]:
        """Return the features that the SDK may use; without them secrets would arrive in plain."""
        information: Any = cast("Any", super()).GetDeploymentInfo(empty_pb2.Empty())
        return set(information.supportedFeatures)

    def RegisterResource(self, request: Any) -> Any:
        chain = request.parent.split("::")[2] if request.parent else ""
        above = "" if chain in ("", _STACK_TYPE) else chain + "$"
        urn = f"{self._prefix}{above}{request.type}::{request.name}"
        if request.type == _STACK_TYPE:
            return resource_pb2.RegisterResourceResponse(urn=urn)
        with self._lock:
            if urn in self._by_urn:
                raise AssertionError(f"two resources are named {urn}")
            registered = _record(request, urn, len(self.build.resources))
            self.build.resources.append(registered)
            self._by_urn[urn] = registered
        state = struct_pb2.Struct()
        state.CopyFrom(request.object)
        if request.type in self._outputs and not self._preview:
            added = dict(self._outputs[request.type](registered))
            registered.id = added.pop("id", registered.id)
            secret = set(request.additionalSecretOutputs) & added.keys()
            state.update(added | {key: {_SIGNATURE: _SECRET, "value": added[key]} for key in secret})
        id_ = "" if self._preview or not request.custom else registered.id
        return resource_pb2.RegisterResourceResponse(urn=urn, id=id_, object=state)

    def RegisterResourceOutputs(self, request: Any) -> Any:
        outputs = _from_struct(request.outputs)
        if f"::{_STACK_TYPE}::" in request.urn:
            self.build.exports = outputs
        else:
            self._by_urn[request.urn].outputs = outputs
        return empty_pb2.Empty()

    def ReadResource(self, request: Any) -> Any:
        """Answer for a resource that is there, by the look-up of its type."""
        arguments = {"id": request.id}
        urn = f"{self._prefix}{request.type}::{request.name}"
        return resource_pb2.ReadResourceResponse(urn=urn, properties=self._answer(request.type, arguments))

    def Invoke(self, request: Any) -> Any:
        fields: dict[str, Any] = {"return": self._answer(request.tok, _from_struct(request.args))}
        return resource_pb2.ResourceInvokeResponse(**fields)

    def _answer(self, token: str, arguments: dict[str, Any]) -> struct_pb2.Struct:
        self.build.lookups.append((token, arguments))
        answer = self._lookups.get(token)
        if answer is None:
            self.undeclared.append(f"{token}({arguments})")
            raise AssertionError(self.undeclared[-1])
        if isinstance(answer, Exception):
            raise _Failure(str(answer))
        result = struct_pb2.Struct()
        result.update(dict(answer(arguments) if callable(answer) else answer))
        return result


def _record(request: Any, urn: str, index: int) -> Registered:
    trigger = request.replacement_trigger if request.HasField("replacement_trigger") else None
    return Registered(
        type=request.type,
        name=request.name,
        urn=urn,
        parent="" if f"::{_STACK_TYPE}::" in request.parent else request.parent,
        inputs=_from_struct(request.object),
        custom=request.custom,
        provider=request.provider,
        providers=dict(request.providers),
        dependencies=frozenset(cast("Sequence[str]", request.dependencies)),
        index=index,
        delete_before_replace=request.deleteBeforeReplace,
        replace_on_changes=list(request.replaceOnChanges),
        ignore_changes=list(request.ignoreChanges),
        additional_secret_outputs=list(request.additionalSecretOutputs),
        protect=request.protect,
        retain_on_delete=request.retainOnDelete,
        id=f"{request.name}-id",
        replacement_trigger=None if trigger is None else _decode(json_format.MessageToDict(trigger)),
    )


class _Log:
    """The engine's other half: keeps what pulumi.log says."""

    def __init__(self, build_: Build) -> None:
        self._build = build_

    def Log(self, request: Any) -> None:
        severity = engine_pb2.LogSeverity.Name(request.severity).lower()
        if severity != "debug":
            self._build.logs.append((severity, request.message))
