"""What a person reads of servers that failed: short, the cause first, and the same once."""

from __future__ import annotations

import pytest

from releases.cause import group, hint_for, shorten

IMPORT = """\
hello.wsgi:app did not start; its last lines:
    Traceback (most recent call last):
      File "../gateway/gateway_uwsgi_app.py", line 33, in <module>
        application = guard(operator.attrgetter(name)(importlib.import_module(module)))
                                                      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      File "/usr/lib/python3.11/importlib/__init__.py", line 126, in import_module
        return _bootstrap._gcd_import(name[level:], package, level)
      File "<frozen importlib._bootstrap>", line 1206, in _gcd_import
      File "/srv/app/slots/proof/venv/lib/python3.13/site-packages/flask/app.py", line 9, in create
        load()
      File "/srv/app/releases/3d32712cc336/code/./hello/wsgi.py", line 7, in <module>
        import nothing_there
    ModuleNotFoundError: No module named 'nothing_there'
    unable to load app 0 (mountpoint='') (callable not found or import error)
    app-proof.service: Failed with result 'exit-code'.
"""
SHORT = """\
hello.wsgi:app did not start; its last lines:
    Traceback (most recent call last):
      File "flask/app.py", line 9, in create
        load()
      File "hello/wsgi.py", line 7, in <module>
        import nothing_there
    ModuleNotFoundError: No module named 'nothing_there'"""


def test_a_traceback_keeps_the_applications_frames_and_ends_with_the_exception() -> None:
    assert shorten(IMPORT) == SHORT


def test_an_exception_of_several_lines_stays_whole_and_a_deep_stack_keeps_its_innermost_frames() -> None:
    frames = [f'      File "/srv/app/x{number}.py", line 1, in f' for number in range(9)]
    error = [
        "    ValidationError: 1 error for Settings",
        "      url",
        "        Field required",
        "    *** GAME OVER ***",
    ]
    # Of a long journal the server sends the first line and the last ones.
    rest = "        of_a_frame_that_was_cut()"
    short = shorten("\n".join(["it failed:", "    Traceback (most recent call last):", rest, *frames[-3:], *error]))
    assert rest not in short
    short = shorten("\n".join(["it failed:", "    Traceback (most recent call last):", *frames, *error]))
    assert short.splitlines() == ["it failed:", "    Traceback (most recent call last):", *frames[-4:], *error[:3]]


def test_a_log_without_a_traceback_keeps_its_last_lines_without_those_of_systemd() -> None:
    lines = [f"    line {number}" for number in range(20)]
    noise = ["    app@blue.service: Failed with result 'exit-code'.", "    VACUUM: unix socket /run/x removed."]
    assert shorten("\n".join(["it failed:", *lines, *noise])).splitlines() == ["it failed:", *lines[-8:]]
    assert shorten("\n".join(["it failed:", *noise])) == "it failed"
    assert shorten("x did not start; its last lines:\n") == "x did not start"
    assert shorten("it failed") == "it failed"


def test_what_a_process_says_at_each_start_is_shown_once() -> None:
    lines = [f"    12:00:0{number} {word} {100 + number}" for number in range(9) for word in ("pid", "no queue")]
    assert shorten("\n".join(["it failed:", *lines])).splitlines() == ["it failed:", *lines[-2:]]


@pytest.mark.parametrize(("servers", "where"), [(3, "on all 3 servers"), (4, "a-1, a-2, a-3")], ids=["all", "some"])
def test_servers_that_fail_alike_are_described_once_whatever_the_numbers_in_it(servers: int, where: str) -> None:
    failures = [(f"a-{number}", "stage", f"a-{number} said 0x7f{number}: pid {number}") for number in (3, 1, 2)]
    assert group(failures, servers) == f"{where}, stage: a-1 said 0x7f1: pid 1"


def test_servers_whose_logs_differ_before_the_same_exception_are_described_once() -> None:
    failures = [
        ("a-1", "stage", IMPORT),
        ("a-2", "stage", IMPORT.replace("    Traceback", "    mapped 7 bytes\n    Traceback")),
    ]
    assert group(failures, 2) == f"on all 2 servers, stage: {SHORT}\nhint: {hint_for('stage', IMPORT)}"


def test_sixteen_servers_that_fail_each_in_its_way_stay_within_a_screen() -> None:
    failures = [(f"a-{letter}", "stage", f"{letter * 3}\n    {letter}\n" + IMPORT) for letter in "bcdefghijklmnopq"]
    text = group(failures, 16)
    assert len(text.splitlines()) <= 21
    assert text.splitlines()[0] == "a-b, stage: bbb"
    assert text.splitlines()[-2] == "and 12 failures more"


MISSING = "kiosk.wbe:app did not start; its last lines:\n    ModuleNotFoundError: No module named '{}'"
TRACEBACK = '    Traceback (most recent call last):\n      File "shop.py", line 1, in f\n    '
GATED = "GET /healthz was not 200 in 5 tries but"


@pytest.mark.parametrize(
    ("phase", "why", "words"),
    [
        ("stage", IMPORT, "nothing_there is not installed; add its package to the requirements"),
        ("stage", MISSING.format("kiosk.wbe"), "kiosk has no module wbe; correct `module` of the application"),
        ("stage", MISSING.format("kiosk"), "there is no module kiosk; correct `module`, a dotted path from"),
        (
            "stage",
            "kiosk.web:app did not start\n    AttributeError: module 'kiosk.web' has no attribute 'app'",
            "or of its factory: module: kiosk.web:create_app()",
        ),
        ("stage", "kiosk.web:app did not start\n    AttributeError: module 'os' has no attribute 'app'", ""),
        (
            "stage",
            f"GET / was not 200\n{TRACEBACK}TypeError: create_app() takes 0 positional arguments but 2 were given",
            "call it in `module`: create_app()",
        ),
        (
            "stage",
            "did not start\n    key = os.environ[\"KEY\"]\n    KeyError: 'KEY'",
            "KEY is not set: add it to environment",
        ),
        ("stage", "did not start\n    key = names[\"KEY\"]\n    KeyError: 'KEY'", ""),
        ("stage", IMPORT.replace("nothing_there", "pkg_resources"), "add setuptools<81 to the requirements"),
        ("release task", "x\n    sqlite3.OperationalError: unable to open database file", "below /var/lib/app"),
        ("build", "x\n    app without having set the STATIC_ROOT setting", "set STATIC_ROOT to a folder of the code"),
        (
            "stage",
            "x\n    OSError: [Errno 98] Address already in use",
            "choose it by WSGI_FLEET_SLOT (proof, blue, green)",
        ),
        (
            "stage",
            f'{GATED} 400: "Bad Request" (Host: localhost)',
            "requests for localhost: let it accept that name (Django:",
        ),
        ("stage", f"{GATED} 301 to https://shop/healthz, and a redirect", "(Django: SECURE_REDIRECT_EXEMPT beside"),
        ("stage", f"{GATED} 302 to /login, and a redirect", "without a redirect: this one leads to /login"),
        ("stage", "GET / was not 200 in 60 s but timed out", "give such calls a timeout of a few seconds"),
        ("stage", f'{GATED} 403: "Forbidden"', "health_path must respond without log-in"),
        ("stage", f"{GATED} 404; its last lines:", "set health_path to one that responds to GET with status 200"),
        ("stage", "GET / was not 200 in 60 s but 500 Internal Server Error", "set rollout.task_before_proof to true"),
        ("stage", "x\n    sqlite3.OperationalError: no such table: notes", "set rollout.task_before_proof to true"),
        (
            "stage",
            "GET / was not 200 in 3 tries but 500; its last lines:\n    nothing",
            "set rollout.task_before_proof",
        ),
        ("stage", f"GET / was not 200 in 3 tries but 500; its last lines:\n{TRACEBACK}ZeroDivisionError: x", ""),
        (
            "stage",
            f"GET / was not 200 in 3 tries but 500; its last lines:\n{TRACEBACK}UndefinedTable: relation",
            "set rollout.task_before_proof to true",
        ),
        ("canary", "GET / was not 200 in 3 tries but 500 Internal Server Error", ""),
    ],
)
def test_a_failure_that_is_known_says_what_to_do(phase: str, why: str, words: str) -> None:
    hint = hint_for(phase, why)
    assert words in hint
    assert bool(hint) == bool(words)
