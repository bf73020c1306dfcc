"""Return whether a worker is near a limit of its process, above which every request would fail."""

from __future__ import annotations

import os
import resource

# In this last share of a limit no useful work is possible: Python allocates memory by the mebibyte.
SPARE_SHARE = 0.02
# Descriptors that one request needs: a file, and a connection with its selector.
SPARE_FILES = 3


def reached_limit(worker: int) -> str:
    """Return the limit that a worker has reached, in words; "" while it has room, and when it has ended.

    The worker shares its file descriptors with this process.
    """
    try:
        memory = _memory(worker)
        data, _ = resource.prlimit(worker, resource.RLIMIT_DATA)
        size, _ = resource.prlimit(worker, resource.RLIMIT_AS)
        files, _ = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        # What it shares with others, such as an anonymous mmap, is not in its data, and takes memory all the same.
        used = max(memory["VmData"], memory["RssAnon"] + memory["RssShmem"])
    except (OSError, KeyError):
        return ""
    if _is_near(used, data):
        return f"{used >> 20} of {data >> 20} MiB of memory"
    if _is_near(memory["VmSize"], size):
        return f"{memory['VmSize'] >> 20} of {size >> 20} MiB of address space"
    # The lowest number that is free: the worker would get it next.
    free = os.dup(2)
    os.close(free)
    if files != resource.RLIM_INFINITY and free + SPARE_FILES > files:
        return f"all of {files} file descriptors"
    return ""


def _is_near(used: int, limit: int) -> bool:
    return limit != resource.RLIM_INFINITY and used > limit * (1 - SPARE_SHARE)


def _memory(worker: int) -> dict[str, int]:
    """Return the bytes of memory in /proc/PID/status by name (proc(5)). Raises OSError."""
    with open(f"/proc/{worker}/status") as file:  # noqa: PTH123  os alone, to start fast
        lines = [line.split() for line in file]
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if words[-1] == "kB"}
