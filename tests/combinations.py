"""What can be combined: gateway, process manager, local proxy and balancer; what is rejected, and what is booted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from allpairspy import AllPairs
from pydantic import ValidationError

from gateways import GATEWAYS
from settings.stack import Settings

# Every way in which a request can be run: "gunicorn sync" -> settings of the gateway.
GATEWAY_SETTINGS: dict[str, dict[str, Any]] = {
    f"{kind.name} {variant}".strip(): {"kind": kind.name, **settings}
    for kind in GATEWAYS.values()
    for variant, settings in kind.variants.items()
}
OVER_HTTP = {name: each for name, each in GATEWAY_SETTINGS.items() if GATEWAYS[each["kind"]].protocol == "http"}
MANAGERS, LOCAL_PROXY, PROXIES = ("systemd", "supervisord"), ("no", "yes"), ("nginx", "apache")


class Combination(NamedTuple):
    """One value of each."""

    gateway: str
    manager: str
    local_proxy: str
    proxy: str

    def __str__(self) -> str:
        return ", ".join(
            [self.gateway, self.manager, *(["local proxy"] if self.local_proxy == "yes" else []), self.proxy]
        )

    @property
    def app(self) -> dict[str, Any]:
        """The combination's settings of an application."""
        return {
            "gateway": {**GATEWAY_SETTINGS[self.gateway], "processes": 3},
            "fleet": {"servers": 2, "process_manager": self.manager, "local_proxy": self.local_proxy == "yes"},
        }

    @property
    def balancer(self) -> dict[str, Any]:
        """The combination's settings of the balancer."""
        return {"proxy": {"kind": self.proxy}}

    def settings(self) -> Settings:
        """Return settings of a stack with this combination. Raise pydantic.ValidationError where it is rejected."""
        app = {"source": "tests/e2e/app", "module": "probe:app", **self.app}
        return Settings.model_validate({"platform": "lxd", "apps": {"probe": app}, "balancer": self.balancer})

    @property
    def refusal(self) -> str:
        """The reason why the combination is rejected, "" where it is valid."""
        try:
            self.settings()
        except ValidationError as error:
            return "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
        return ""


EVERY = [Combination(*values) for values in itertools.product(GATEWAY_SETTINGS, MANAGERS, LOCAL_PROXY, PROXIES)]
VALID = [each for each in EVERY if not each.refusal]


def pick_for_machines() -> list[Combination]:
    """Return few valid combinations, in which every pair of gateway, kind of server and proxy occurs at least once.

    A kind of server is manager and local proxy together, so each gateway is booted in each of them. The default is
    among them, for it alone has a site that speaks uwsgi.
    """
    servers = sorted({(each.manager, each.local_proxy) for each in VALID}, reverse=True)
    rows: list[Sequence[Any]] = list(AllPairs([list(GATEWAY_SETTINGS), servers, list(PROXIES)]))
    found = {Combination(gateway, manager, local, proxy) for gateway, (manager, local), proxy in rows}
    found.add(Combination("uwsgi", "systemd", "no", "nginx"))
    return sorted(found, key=VALID.index)
