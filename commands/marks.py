"""What operators did to the balancer by hand, kept in the store for the machine that takes its place by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from platforms.transport import Store

# machine/group/balancer_member.py reads it.
KEY = "marks.json"


def keep(store: Store, arguments: Sequence[str], page: bytes, machines: Mapping[str, str]) -> None:
    """Keep what a call of proxy_site.py did: drain, admit or maintenance. page: of maintenance, b"" for the default.

    machines: address -> instance, of servers. One that comes later may have the address of one that was drained.
    """
    marks: dict[str, Any] = {"drained": {}, "page": None, **json.loads(store.read(KEY) or b"{}")}
    match list(arguments):
        case ["drain", address]:
            marks["drained"][address] = machines[address]
        case ["admit", address]:
            marks["drained"].pop(address, None)
        case ["maintenance", switch]:
            # Each byte as one character, whatever encoding the page has.
            marks["page"] = page.decode("latin-1") if switch == "on" else None
        case _:
            return
    store.write(KEY, json.dumps(marks).encode())
