"""The load: Debian's wrk 4.1, by a script that prints what it measured as JSON, and clients.py for a crowd."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from benchmarks.serve.works import Work

# Seconds after which a client gives up, as most people do.
TIMEOUT_S = 10
# Debian allows a process 1,024.
OPEN_FILES = ("sh", "-c", 'ulimit -n 8192; exec "$@"', "sh")
# A body for `upload` bytes, and pauses of random length, as of people that know nothing of one another.
SCRIPT = """\
local upload, pause_ms = tonumber(os.getenv("UPLOAD")), tonumber(os.getenv("PAUSE_MS"))
if upload > 0 then
    wrk.method, wrk.body = "POST", string.rep("x", upload)
end
if pause_ms > 0 then
    delay = function()
        return math.floor(-math.log(1 - math.random()) * pause_ms + 0.5)
    end
end
done = function(summary, latency)
    local e = summary.errors
    io.write(string.format(
        '{"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,' ..
        '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\\n',
        summary.requests, summary.duration, summary.bytes,
        latency:percentile(50), latency:percentile(99), latency.max,
        e.connect, e.read, e.write, e.status, e.timeout))
end
"""


@dataclass(frozen=True)
class Sample:
    """What one run of wrk measured: requests/s, latencies, and what went wrong.

    errors: connections refused or broken, and responses of 400 and above. timeouts: no answer within TIMEOUT_S.
    """

    rps: float
    mib_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: int
    timeouts: int

    @staticmethod
    def parse(output: str) -> Sample:
        """Return what the script printed, wrk's last line. Raises ValueError with the output where it did not."""
        try:
            found: dict[str, int] = json.loads(output.strip().rpartition("\n")[2])
            seconds = found["duration_us"] / 1e6
            return Sample(
                rps=round(found["requests"] / seconds, 1),
                mib_s=round(found["bytes"] / seconds / 2**20, 1),
                p50_ms=found["p50_us"] / 1000,
                p99_ms=found["p99_us"] / 1000,
                max_ms=found["max_us"] / 1000,
                errors=sum(found[each] for each in ("connect", "read", "write", "status")),
                timeouts=found["timeout"],
            )
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"wrk printed no result: {output}") from error

    @staticmethod
    def of(values: dict[str, float]) -> Sample:
        """Return a sample as asdict() gave it."""
        return Sample(**{each.name: values[each.name] for each in fields(Sample)})  # pyright: ignore[reportArgumentType]

    def values(self) -> dict[str, float]:
        """Return the sample for JSON."""
        return asdict(self)


def command(work: Work, target: tuple[str, str], seconds: float, rps: float, folder: str) -> list[str]:
    """Return the command for one cell.

    target: URL without a path, and host. rps: what clients ask for together, 0 for as much as they get.
    folder: where the scripts are.
    """
    url, host = target
    if work.is_crowd:
        numbers = (work.clients, seconds, TIMEOUT_S, int(work.fresh))
        asks = ("python3", f"{folder}/clients.py", url + work.path, host, *(f"{each:.0f}" for each in numbers))
        return [*OPEN_FILES, *asks]
    pause_ms = work.clients / rps * 1000 if rps else 0
    headers = [f"Host: {host}", *(["Connection: close"] * work.fresh)]
    return [
        *("env", f"UPLOAD={work.upload}", f"PAUSE_MS={pause_ms:.3f}", *OPEN_FILES),
        *("wrk", "--threads", "1", "--connections", str(work.clients), "--duration", f"{seconds:.0f}s"),
        *("--timeout", f"{TIMEOUT_S}s", "--script", f"{folder}/report.lua"),
        *(part for header in headers for part in ("--header", header)),
        url + work.path,
    ]
