#!/usr/bin/env python3
"""Prints requests of a time in the balancer's access log, as JSON.

traffic.py series FROM UNTIL BUCKET: through time, in buckets of so many seconds, for each application and server.
traffic.py groups: of servers together; standard input is {GROUP: {ADDRESS: [FROM, UNTIL]}}.

FROM and UNTIL are seconds before now, for the clock of who asks may differ. Runs as root; standard library only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from balancer_status import LOGS, Count, attempts, parse_line, percentile_ms, seconds_of
from proxy import ProxyError
from site_state import read_state

# Of one answer, so that it stays below a megabyte: buckets, and servers (those with the most requests).
MAX_BUCKETS, MAX_SERVERS = 240, 64
# Read at most, from the end of the time: some 100,000 requests, a second of CPU.
MAX_BYTES = 32 << 20
# Nginx's processes write one after the other, each with a clock of its own that it sets once in a while.
SLACK_S = 2.0
# Where a search by time ends; some 200 requests.
BLOCK = 64 << 10


@dataclass(frozen=True)
class Period:
    """lines: with their times, in seconds since 1970. begins_s: from when on all lines are there."""

    lines: Iterator[tuple[float, dict[str, Any]]]
    begins_s: float


def time_at(file: BinaryIO, place: int) -> float | None:
    """Return the time of the first whole line behind a place of the log; None where none comes soon."""
    file.seek(place)
    if place:
        file.readline(BLOCK)
    for _ in range(100):
        line = file.readline(BLOCK)
        if not line:
            return None
        if found := parse_line(line):
            return seconds_of(found["time"])
    return None


def find_place(file: BinaryIO, since_s: float) -> int:
    """Return a place of the log at most a BLOCK before the first line since then. It is in the order of time."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while high - low > BLOCK:
        middle = (low + high) // 2
        found = time_at(file, middle)
        low, high = (middle, high) if found is not None and found < since_s else (low, middle)
    return low


def read_period(since_s: float, until_s: float, logs: Sequence[Path] = LOGS) -> Period:
    """Return the lines from since_s up to until_s. logs: the newest last.

    The newest is opened first: where it is rotated meanwhile, the older one is the same file, and read once.
    """
    room, begins_s = MAX_BYTES, math.inf
    parts: list[tuple[BinaryIO, int, int]] = []
    with contextlib.ExitStack() as stack:
        seen: set[int] = set()
        for log in reversed(logs):
            try:
                file = stack.enter_context(log.open("rb"))
            except FileNotFoundError:
                continue
            if (inode := os.fstat(file.fileno()).st_ino) in seen or room <= 0:
                continue
            seen.add(inode)
            end = min(find_place(file, until_s + SLACK_S) + 2 * BLOCK, file.seek(0, os.SEEK_END))
            begin = find_place(file, since_s - SLACK_S)
            cut = max(begin, end - room)
            room -= end - cut
            if (first := time_at(file, cut)) is not None:
                # Of the second at which it was cut, lines are missing.
                begins_s = first + 1 if cut > begin else first
                parts.append((file, cut, end))
        kept = stack.pop_all()

    def read() -> Iterator[tuple[float, dict[str, Any]]]:
        with kept:
            for file, begin, end in reversed(parts):
                file.seek(begin)
                while file.tell() < end and (line := file.readline()):
                    found = parse_line(line)
                    if found and since_s <= (time_s := seconds_of(found["time"])) < until_s:
                        yield time_s, found

    return Period(read(), min(max(begins_s, since_s), until_s))


def summarise(count: Count) -> tuple[int, int, float | None, float | None]:
    """Return requests, those with 5xx, and p50 and p99 in milliseconds."""
    return count.requests, count.errors_5xx, percentile_ms(count.seconds, 50), percentile_ms(count.seconds, 99)


def applications() -> dict[str, str]:
    """Return the address of each server -> its application; nothing before the first site."""
    with contextlib.suppress(ProxyError):
        upstreams = read_state().site["upstreams"]
        return {address: name.removeprefix("app_") for name, each in upstreams.items() for address in each["servers"]}
    return {}


def series(
    from_s: float, until_s: float, bucket_s: int, *, now_s: float, logs: Sequence[Path] = LOGS
) -> dict[str, Any]:
    """Return rows (bucket, requests, 5xx, p50, p99) of the whole, each application and each server.

    A request counts once for the whole and its application, and once for each server that was tried. Buckets without
    one are left out. They begin at multiples of bucket_s, so that rows of two calls fit together.
    """
    # As long as it takes, for a time that is longer than so many buckets.
    bucket_s = max(bucket_s, math.ceil((from_s - until_s) / (MAX_BUCKETS - 1)), 1)
    first_s = (now_s - from_s) // bucket_s * bucket_s
    period, app_of = read_period(first_s, now_s - until_s + 1, logs), applications()
    counts: dict[str, dict[str, dict[int, Count]]] = {
        kind: defaultdict(lambda: defaultdict(Count)) for kind in ("whole", "apps", "servers")
    }
    for time_s, line in period.lines:
        bucket = int(time_s - first_s) // bucket_s
        status, seconds = str(line["status"]), float(line["seconds"])
        counts["whole"][""][bucket].add(status, seconds)
        address = ""
        for address, its_status, its_seconds in attempts(line):
            counts["servers"][address][bucket].add(its_status, its_seconds)
        if address in app_of:
            counts["apps"][app_of[address]][bucket].add(status, seconds)
    rows = {
        kind: {
            name: [(bucket, *summarise(count)) for bucket, count in sorted(buckets.items())]
            for name, buckets in each.items()
        }
        for kind, each in counts.items()
    }
    busiest = sorted(rows["servers"], key=lambda name: -sum(row[1] for row in rows["servers"][name]))[:MAX_SERVERS]
    return {
        "now_s": now_s, "first_s": first_s, "begins_s": period.begins_s, "bucket_s": bucket_s,
        "whole": rows["whole"].get("", []), "apps": rows["apps"],
        "servers": {name: rows["servers"][name] for name in busiest},
    }  # fmt: skip


def groups(
    wanted: Mapping[str, Mapping[str, tuple[float, float]]], *, now_s: float, logs: Sequence[Path] = LOGS
) -> dict[str, Any]:
    """Return of each group the attempts at its servers, together and by address, each server in a time of its own."""
    every = [time_ for servers in wanted.values() for time_ in servers.values()]
    since = now_s - max((from_s for from_s, _ in every), default=0)
    until = now_s - min((until_s for _, until_s in every), default=0) + 1
    together, single = {name: Count() for name in wanted}, {name: defaultdict[str, Count](Count) for name in wanted}
    for time_s, line in read_period(since, until, logs).lines:
        # A line of this very second is not before now.
        ago_s = max(now_s - time_s, 0)
        for address, status, seconds in attempts(line):
            for name, servers in wanted.items():
                from_s, until_s = servers.get(address, (-1, 0))
                if until_s <= ago_s <= from_s:
                    together[name].add(status, seconds)
                    single[name][address].add(status, seconds)
    return {
        name: {"all": summarise(count), "servers": {each: summarise(its) for each, its in single[name].items()}}
        for name, count in together.items()
    }


def main(arguments: Sequence[str], now_s: float) -> None:
    """Print what the arguments ask for."""
    match arguments:
        case ["series", from_s, until_s, bucket_s]:
            print(json.dumps(series(float(from_s), float(until_s), int(bucket_s), now_s=now_s)))
        case ["groups"]:
            print(json.dumps({"groups": groups(json.load(sys.stdin), now_s=now_s)}))
        case _:
            sys.exit(f"error: {__doc__}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:], time.time())
    except (OSError, ValueError) as problem:
        sys.exit(f"error: {problem}")
