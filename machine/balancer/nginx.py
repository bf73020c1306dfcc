"""The commands of Nginx, and its workers, for proxy.py. Standard library only."""

from __future__ import annotations

import subprocess
from pathlib import Path

from proxy import ProxyError

TITLE, UNIT = "Nginx", "nginx"
MAIN = Path("/etc/nginx/nginx.conf")
SITE = Path("/etc/nginx/wsgi-fleet/site.conf")


def command(*arguments: str) -> str:
    """Run Nginx with these arguments and return what it reports. Raises ProxyError with that."""
    result = subprocess.run(["/usr/sbin/nginx", *arguments], check=False, capture_output=True, text=True)
    if result.returncode:
        raise ProxyError(result.stderr.strip())
    return result.stderr


def test(text: str) -> None:
    """Have Nginx read the whole configuration with this site in the old one's place."""
    site, main = SITE.with_name("site.candidate"), MAIN.with_name("nginx.candidate")
    try:
        site.write_text(text)
        main.write_text(MAIN.read_text().replace("include /etc/nginx/wsgi-fleet/*.conf;", f"include {site};"))
        command("-t", "-q", "-c", str(main))
    finally:
        site.unlink(missing_ok=True)
        main.unlink(missing_ok=True)


def reload() -> None:
    """Have new workers serve the present site."""
    command("-s", "reload")


def has_ended() -> bool:
    """Return whether Nginx stopped for good: it never does for a site that it cannot use."""
    return False


def workers() -> set[int]:
    """Process ids of Nginx's workers, old ones that are still finishing included."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes().startswith(b"nginx: worker process"):
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def accepts(pid: int) -> bool:
    """Return whether a worker takes connections yet: its title shows when it has begun to end."""
    try:
        return b"shutting down" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
