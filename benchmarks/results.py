"""What benchmarks have in common: where results are kept, what they say of their machine, and that nothing is left."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platforms.lxd.cleanup import owners, remove_leftovers

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAUSE_S = 2.0


@contextmanager
def removing_leftovers(name: str) -> Generator[None]:
    """Remove at the end what is left of the stacks that this process made by harness.stack. name: how theirs begin.

    Have the processes that it starts hear SIGINT. A shell has those in the background ignore it, and then each Pulumi
    command waits 5 seconds for a part of its own that it asks to end.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for owner in owners():
            if owner.startswith(f"e2e-{os.getpid()}-{name}"):
                remove_leftovers(owner)


def describe_run() -> dict[str, Any]:
    """Return when it was measured, what and where: commit, cores and kernel."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, check=False, cwd=ROOT, capture_output=True, text=True).stdout
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.strip(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
    }


def keep(result: dict[str, Any], prefix: str = "") -> str:
    """Write a result as JSON, and return its file relative to the checkout."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"{prefix}{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    return str(file.relative_to(ROOT))


def measure_other_work() -> float:
    """Return the share of the cores that other work has for PAUSE_S, from 0 to 1.

    A benchmark calls it where it does nothing itself: at its start, and between what it measures.
    """
    before = _cpu_times()
    time.sleep(PAUSE_S)
    every, idle = (now - then for now, then in zip(_cpu_times(), before, strict=True))
    return 1 - idle / max(every, 1)


def _cpu_times() -> tuple[int, int]:
    """Return the ticks of all cores since their start, and how many of these they were idle."""
    user, nice, system, idle, iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    return user + nice + system + idle + iowait + irq + softirq + steal, idle + iowait
