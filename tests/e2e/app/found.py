"""What a process of the application finds: its environment, its limits and its sandbox.

With an argument it writes a file.
"""

import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

# What systemd, a shell or a gateway adds for one process.
OWN = """
_ INVOCATION_ID JOURNAL_STREAM LISTEN_FDNAMES LISTEN_FDS LISTEN_PID MAINPID NOTIFY_SOCKET OLDPWD PWD RUNTIME_DIRECTORY
MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE
SHLVL SYSTEMD_EXEC_PID TERM TRIGGER_TIMER_MONOTONIC_USEC TRIGGER_TIMER_REALTIME_USEC TRIGGER_UNIT UWSGI_RELOADS
UWSGI_ORIGINAL_PROC_NAME WSGI_FLEET_SLOT
"""
IN_SANDBOX = ("CapBnd", "NoNewPrivs", "Seccomp")


def found() -> dict[str, Any]:
    """Return what should be equal for every process of a release."""
    umask = os.umask(0)
    os.umask(umask)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    home = Path.home() / ".cache" / "made"
    home.mkdir(parents=True, exist_ok=True)
    return {
        "environment": {name: value for name, value in os.environ.items() if name not in OWN.split()},
        "python": shutil.which("python"),
        "umask": umask,
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "sandbox": {name: status[name].strip() for name in IN_SANDBOX},
        "home": str(home),
        "read-only": [path for path in ("/usr", "/etc", "/srv", "/tmp") if os.statvfs(path).f_flag & os.ST_RDONLY],
        "processes of others": Path("/proc/1/status").exists(),
    }


def write(file: str) -> None:
    """Write it into a file of the state's folder, at once."""
    path = Path(os.environ["STATE_DIRECTORY"], file)
    path.with_suffix(".new").write_text(json.dumps(found()))
    path.with_suffix(".new").rename(path)


if __name__ == "__main__":
    if sys.argv[1:]:
        write(sys.argv[1])
    else:
        print(json.dumps(found()))
