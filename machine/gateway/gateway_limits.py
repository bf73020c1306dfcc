"""Look at what a worker uses: whether it is near a limit, above which every request would fail, and its memory."""

from __future__ import annotations

import os
import resource

# In this last share of a limit no useful work is possible: Python allocates memory by the mebibyte.
SPARE_SHARE = 0.02
# Descriptors that one request needs: a file, and a connection with its selector.
SPARE_FILES = 3
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


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


def resident_mib(worker: int) -> int:
    """Return the MiB of memory that a worker has; 0 when it has ended."""
    try:
        # proc(5): the second number is the pages that are resident.
        with open(f"/proc/{worker}/statm") as file:  # noqa: PTH123  os alone, to start fast
            return int(file.read().split()[1]) * PAGE_BYTES >> 20
    except (OSError, IndexError):
        return 0


def _is_near(used: int, limit: int) -> bool:
    return limit != resource.RLIM_INFINITY and used > limit * (1 - SPARE_SHARE)


def _memory(worker: int) -> dict[str, int]:
    """Return the bytes of memory in /proc/PID/status by name (proc(5)). Raises OSError."""
    with open(f"/proc/{worker}/status") as file:  # noqa: PTH123  os alone, to start fast
        lines = [line.split() for line in file]
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if words[-1] == "kB"}
