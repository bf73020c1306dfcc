"""The commands of Apache, and its workers, for proxy.py. Standard library only."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from proxy import ProxyError

TITLE, UNIT = "Apache", "apache2"
PROGRAM = "/usr/sbin/apache2"
MAIN = Path("/etc/apache2/apache2.conf")
SITE = Path("/etc/apache2/wsgi-fleet/site.conf")
RUN = Path("/run/apache2")
PID = RUN / "apache2.pid"
# Where a candidate listens: below the ports that Linux gives to connections (ip_local_port_range).
LOOPBACK, PORTS = "127.0.0.9", 20_000
START_S = 20
# Lines of its log that are no errors.
_QUIET = re.compile(r"^\[.*?\] \[\S*:(?:warn|notice|info)\]")
_LISTEN = re.compile(r"^(\s*Listen\s+)(?:\S+:)?(\d+)", re.MULTILINE | re.IGNORECASE)


def command(*arguments: str) -> str:
    """Run Apache with these arguments and return what it reports. Raises ProxyError with that."""
    result = subprocess.run([PROGRAM, *arguments], check=False, capture_output=True, text=True)
    if result.returncode:
        raise ProxyError(result.stderr.strip() or f"apache2 {' '.join(arguments)} failed")
    return result.stderr


def test(text: str) -> None:
    """Have a second Apache start with this site, on ports of the loopback, and stop again. Raises ProxyError.

    `apache2 -t` reads a site and does not try it; what fails then ends the Apache that serves.
    """
    site, main, run = SITE.with_name("site.candidate"), MAIN.with_name("apache2.candidate"), Path(f"{RUN}-candidate")
    log = run / "error.log"

    def move_to_loopback(words: str) -> str:
        moved = _LISTEN.sub(lambda found: f"{found[1]}{LOOPBACK}:{PORTS + int(found[2]) % 10_000}", words)
        return moved.replace(f"{RUN}/", f"{run}/").replace(f"DefaultRuntimeDir {RUN}", f"DefaultRuntimeDir {run}")

    try:
        run.mkdir(exist_ok=True)
        if (left := _number(run / PID.name)) and _children(left) is not None:
            # By a run that was killed.
            os.kill(left, signal.SIGTERM)
        site.write_text(move_to_loopback(text))
        whole = move_to_loopback(MAIN.read_text()).replace(f"{SITE.parent}/*.conf", str(site))
        main.write_text(re.sub(r"^ErrorLog .*$", f"ErrorLog {log}", whole, flags=re.MULTILINE))
        command("-t", "-f", str(main))
        try_out(main, log)
    finally:
        shutil.rmtree(run, ignore_errors=True)
        site.unlink(missing_ok=True)
        main.unlink(missing_ok=True)


def try_out(main: Path, log: Path) -> None:
    """Start an Apache with this configuration and stop it once it has workers. Raises ProxyError with what it logs."""
    command_ = [PROGRAM, "-D", "FOREGROUND", "-f", main]
    # Until it has opened its log, it writes errors to standard error.
    with log.open("ab") as words, subprocess.Popen(command_, stdout=subprocess.DEVNULL, stderr=words) as second:
        try:
            deadline = time.monotonic() + START_S
            while not _children(second.pid):
                if second.poll() is not None or time.monotonic() > deadline:
                    errors = [line for line in _read(log).splitlines() if not _QUIET.search(line)]
                    raise ProxyError("\n".join(["Apache reads this site and does not start with it:", *errors]))
                time.sleep(0.02)
        finally:
            second.terminate()


def _read(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def _number(pid: Path) -> int:
    text = _read(pid).strip()
    return int(text) if text.isdigit() else 0


def _children(parent: int) -> set[int] | None:
    """Process ids of an Apache's workers; None if there is no such Apache."""
    found: set[int] = set()
    runs = False
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if _is_apache((entry / "cmdline").read_bytes()):
                    # After the name in parentheses: state and parent (proc(5)).
                    state, above = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                    runs = runs or (int(entry.name) == parent and state != "Z")
                    if int(above) == parent and _is_worker(entry):
                        found.add(int(entry.name))
            except OSError:
                continue
    return found if runs else None


def _is_apache(line: bytes) -> bool:
    return line.startswith(PROGRAM.encode())


def _is_worker(process: Path) -> bool:
    """Return whether a process is a worker, which has threads.

    The log's program is a process of Apache, too, until it has begun; it has one thread.
    """
    return len(list((process / "task").iterdir())) > 1


def reload() -> None:
    """Have new workers serve the present site. Start Apache if the previous site ended it."""
    if has_ended():
        result = subprocess.run(["systemctl", "restart", UNIT], check=False, capture_output=True, text=True)
        if result.returncode:
            raise ProxyError(result.stderr.strip())
    else:
        command("-k", "graceful")


def has_ended() -> bool:
    """Return whether Apache stopped for good, as it does for a site that it cannot use."""
    return _children(_number(PID)) is None


def workers() -> set[int]:
    """Process ids of Apache's workers, old ones that are still finishing included."""
    return _children(_number(PID)) or set()


def accepts(pid: int) -> bool:
    """Return whether a worker takes connections yet: one that ends has closed the sockets that it listened on."""
    # Local address, state (0A: LISTEN) and inode (proc(5), net/tcp).
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    try:
        return any(str(fd.readlink()) in listening for fd in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
