"""What the providers of platform lxd and of releases would answer, for programs that the mock engine runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.mock_engine import Registered

DYNAMIC = "pulumi-python:dynamic/"
GROUP, IMAGE, STORE = f"{DYNAMIC}lxd:SecurityGroup", f"{DYNAMIC}lxd:Image", f"{DYNAMIC}lxd:Store"
MACHINE, STEP, ADDRESS = f"{DYNAMIC}lxd:Machine", f"{DYNAMIC}lxd:Step", f"{DYNAMIC}lxd:PublicAddress"
ROLLOUT, SECRET = f"{DYNAMIC}releases:Rollout", f"{DYNAMIC}releases:GeneratedSecret"


def address(machine: str) -> str:
    """Return an address by the machine's role alone: hello-2 has 10.0.0.2 in every build."""
    number = machine.rpartition("-")[2]
    return f"10.0.0.{number}" if number.isdigit() else "10.0.1.1"


OUTPUTS: Mapping[str, Callable[[Registered], Mapping[str, Any]]] = {
    GROUP: lambda r: {"addresses": "10.0.1.2-10.0.1.254" if r.name == "balancer" else "10.0.0.2-10.0.0.254"},
    MACHINE: lambda r: {"name": f"test-{r.name}-3fa9c2", "address": address(r.name)},
    SECRET: lambda r: {"value": f"made-for-{r.name}"},
}
