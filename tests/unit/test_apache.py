"""Apache on the balancer: a second one tries a site, a reload ends when no old worker accepts, its log is JSON."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import apache
import apache_log
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy import ProxyError

ROOT = Path(__file__).resolve().parents[2]


# Stands in for Apache: keeps what it was given. With "bad" in a site it ends as one does that cannot start.
PROGRAM = """#!/bin/sh
for main; do :; done
included=$(sed -n 's/^IncludeOptional //p' "$main")
cat "$main" "$included" >{seen}
[ "$1" != -t ] || exit 0
if grep -q bad "$included"; then
    log=$(sed -n 's/^ErrorLog //p' "$main")
    echo 'no port' >&2
    echo '[Wed Nov 25 2026] [proxy:crit] [pid 1:tid 1] AH02432: Cannot find LB Method: byrequests' >>"$log"
    echo '[Wed Nov 25 2026] [core:notice] [pid 1:tid 1] AH00094: Command line: x' >>"$log"
    exit 1
fi
{worker} 60 &
trap 'kill $!' TERM
wait
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    for name in ("MAIN", "SITE"):
        monkeypatch.setattr(apache, name, folder / f"{name.lower()}.conf")
    monkeypatch.setattr(apache, "RUN", tmp_path / "run")
    monkeypatch.setattr(apache, "PID", tmp_path / "run" / "apache2.pid")
    # Its worker is told by its name, as an Apache's is.
    worker, program = tmp_path / "apache2-worker", tmp_path / "apache2"
    worker.symlink_to("/bin/sleep")
    program.write_text(PROGRAM.format(seen=tmp_path / "seen", worker=worker))
    program.chmod(0o755)
    monkeypatch.setattr(apache, "PROGRAM", str(program))

    def is_apache(line: bytes) -> bool:
        return str(tmp_path).encode() in line

    def is_worker(process: Path) -> bool:
        return str(worker).encode() in (process / "cmdline").read_bytes()

    monkeypatch.setattr(apache, "_is_apache", is_apache)
    monkeypatch.setattr(apache, "_is_worker", is_worker)
    text = (ROOT / "templates" / "apache" / "apache2.conf").read_text()
    text = text.replace("/run/apache2", str(apache.RUN)).replace("/etc/apache2/wsgi-fleet", str(folder))
    apache.MAIN.write_text(text)
    apache.SITE.write_text("old")
    return folder


def test_a_second_apache_starts_with_the_site_on_ports_and_in_a_folder_of_its_own(machine: Path) -> None:
    run = f"{apache.RUN}-candidate"
    apache.test(f"Listen 0.0.0.0:443 https\nSSLSessionCache shmcb:{apache.RUN}/tls(1)\n    listen 8081\n")
    seen = (machine.parent / "seen").read_text().splitlines()
    assert [line for line in seen if "isten " in line] == [
        "Listen 127.0.0.9:20080", "Listen 127.0.0.9:20443 https", "    listen 127.0.0.9:28081",
    ]  # fmt: skip
    assert {f"PidFile {run}/apache2.pid", f"DefaultRuntimeDir {run}", f"ErrorLog {run}/error.log"} <= set(seen)
    assert f"IncludeOptional {machine}/site.candidate" in seen
    assert f"SSLSessionCache shmcb:{run}/tls(1)" in seen
    assert sorted(each.name for each in machine.iterdir()) == ["main.conf", "site.conf"]
    assert not Path(run).exists()


def test_a_site_that_apache_reads_and_does_not_start_with_is_told_and_leaves_nothing(machine: Path) -> None:
    with pytest.raises(ProxyError) as error:
        apache.test("bad")
    assert str(error.value).splitlines() == [
        "Apache reads this site and does not start with it:",
        "no port",
        "[Wed Nov 25 2026] [proxy:crit] [pid 1:tid 1] AH02432: Cannot find LB Method: byrequests",
    ]
    assert sorted(each.name for each in machine.iterdir()) == ["main.conf", "site.conf"]


@pytest.mark.usefixtures("machine")
def test_an_apache_that_is_not_there_has_ended_and_has_no_workers() -> None:
    assert apache.has_ended()
    assert apache.workers() == set()
    # A process of that number, and no Apache.
    apache.RUN.mkdir()
    apache.PID.write_text(f"{os.getpid()}\n")
    assert apache.has_ended()


def test_a_worker_accepts_as_long_as_it_has_a_socket_that_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert apache.accepts(os.getpid())
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
    # A connection is no socket that listens.
    with client, accepted:
        assert not apache.accepts(os.getpid())
    assert not apache.accepts(2**22 + 1)


def words(**changes: str) -> bytes:
    """Return the line that Apache logs for a request (LogFormat of apache2.conf)."""
    fields = {
        "time": "2026-11-25T15:52:49+0000", "rid": "abc", "client": "192.0.2.1", "host": "shop.example.org",
        "request": "GET /a?b HTTP/1.1", "status": "200", "bytes": "12", "micros": "1503", "worker":
        "uwsgi://10.0.0.1:8000", "agent": "curl",
    } | changes  # fmt: skip
    return "\t".join(fields.values()).encode() + b"\n"


def test_a_line_is_what_nginx_would_have_written() -> None:
    assert json.loads(apache_log.line_of(words())) == {
        "time": "2026-11-25T15:52:49+00:00", "rid": "abc", "client": "192.0.2.1", "host": "shop.example.org",
        "method": "GET", "uri": "/a?b", "status": 200, "bytes": 12, "seconds": 0.002, "upstream": "10.0.0.1:8000",
        "upstream_status": "200", "connect_s": "", "header_s": "0.002", "response_s": "0.002", "agent": "curl",
    }  # fmt: skip
    nginx = (ROOT / "templates" / "nginx" / "nginx.conf").read_text()
    assert [name for name in json.loads(apache_log.line_of(words())) if f'"{name}":' not in nginx] == []


def test_a_request_that_no_server_answered_has_no_time_of_one() -> None:
    line = json.loads(apache_log.line_of(words(status="503")))
    assert (line["upstream"], line["upstream_status"], line["header_s"]) == ("10.0.0.1:8000", "503", "-")
    line = json.loads(apache_log.line_of(words(worker="-", rid="-", agent="-", request="-", status="408")))
    assert [line[name] for name in ("upstream", "header_s", "rid", "method", "uri")] == [""] * 5


def escaped(text: bytes) -> str:
    """Return a text as Apache escapes it (ap_escape_logitem)."""
    short = {7: "\\x07", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 13: "\\r", 34: '\\"', 92: "\\\\"}
    return "".join(short.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}") for byte in text)


@given(st.binary(max_size=40).filter(lambda text: text != b"-"))
def test_whatever_a_client_sends_is_told_as_it_was(text: bytes) -> None:
    line = json.loads(apache_log.line_of(words(agent=escaped(text))))
    assert line["agent"] == text.decode(errors="replace")


def test_the_program_of_the_log_outlives_a_reload_and_leaves_a_file_that_was_rotated(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    start = f"import apache_log, pathlib\napache_log.LOG, apache_log.LOOK_S = pathlib.Path({str(log)!r}), 0.1\n"
    start += "apache_log.main()\n"
    folder = ROOT / "machine" / "balancer"
    with subprocess.Popen([sys.executable, "-c", start], cwd=folder, stdin=subprocess.PIPE, bufsize=0) as program:

        def write(line: bytes, word: str) -> None:
            assert program.stdin
            program.stdin.write(line)
            deadline = time.monotonic() + 20
            while not (log.exists() and word in log.read_text()):
                assert time.monotonic() < deadline, word
                time.sleep(0.02)

        write(words(rid="one"), "one")
        program.terminate()
        write(words(rid="two"), "two")
        log.rename(tmp_path / "access.log.1")
        # As logrotate does: who runs it may not.
        log.touch()
        time.sleep(0.2)
        write(words(rid="three"), "three")
        write(b"no words\n", "problem")
        assert program.stdin
        program.stdin.close()
        assert program.wait(20) == 0
    assert [json.loads(line).get("rid") for line in log.read_text().splitlines()] == ["three", None]
