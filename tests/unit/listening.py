"""Wait for a real program that a test has started."""

from __future__ import annotations

import socket
import subprocess
import time


def wait_until_listening(process: subprocess.Popen[str], port: int) -> None:
    """Wait until the port accepts connections, for 10 s at most. Fail with what the program says if it ends before."""
    for _ in range(100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.1)
