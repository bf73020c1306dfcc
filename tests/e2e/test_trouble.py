"""What goes wrong and what serves meanwhile: a failure says where, why and what to do, and the next `up` mends it."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable

import pytest
import yaml

from harness.load import Load, LoadOutcome
from harness.stack import Stack, eventually, lxc, on, processes_that_name

HEALTHY = "def app(environ: Environ, start_response: StartResponse) -> list[bytes]:\n"


@pytest.fixture(scope="module")
def small(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create two servers with a start time-out of 8 s. A test breaks them and mends them again."""
    stack = make_module_stack("small", fleet={"servers": 2, "size": {"disk_gib": 2}}, rollout={"start_timeout_s": 8})
    stack.up()
    return stack


# Failed releases in `make test`: test_bad_releases.py, and below.
@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("probe.py", 'VERSION = "', 'import nonsense\nVERSION = "', "No module named 'nonsense'"),
        (
            "probe.py",
            HEALTHY,
            HEALTHY + "    raise RuntimeError('sick')\n",
            "GET / was not 200 in 8 s but no answer (it raised before it gave one)",
        ),
        (
            "probe.py",
            'VERSION = "',
            'time.sleep(60)\nVERSION = "',
            "was not imported in 8 s",
        ),
        (
            "probe.py",
            HEALTHY,
            HEALTHY + "    start_response('301 Moved', [('Location', 'https://example.org/')])\n    return []\n",
            "hint: the application redirects HTTP to HTTPS by itself: set balancer.tls",
        ),
        (
            "requirements.txt",
            "# Nothing",
            "no-such-package-of-wsgi-fleet==1\n# Nothing",
            "the requirements do not install",
        ),
    ],
    ids=["does not import", "raises", "hangs at start", "redirects", "requirements do not install"],
)
def test_a_bad_release_answers_nothing_and_the_old_one_serves_on(
    small: Stack, table: Callable[[LoadOutcome], None], *, file: str, old: str, new: str, message: str
) -> None:
    path = small.folder / "tests" / "e2e" / "app" / file
    good = path.read_text()
    assert old in good
    with Load(small.url) as load:
        path.write_text(good.replace(old, new, 1).replace('VERSION = "', 'VERSION = "bad-'))
        output = small.up(fails=True)
        path.write_text(good)
        load.wait_for(20)
    # Together where they say the same. Where the first one cannot install, the other does not begin.
    assert ("probe-1, stage:" if file == "requirements.txt" else "on all 2 servers, stage:") in output, output
    assert message in output, output
    assert "still serves" in output
    table(load.outcome)
    assert load.outcome.failed_fresh == [], load.outcome
    assert not any(version.startswith("bad-") for version in load.outcome.versions)
    small.up()


@pytest.mark.long
def test_a_full_disk_is_named_with_the_remedy(small: Stack) -> None:
    machine = next(iter(small.servers().values()))
    on(machine, "sh", "-c", "cat /dev/zero > /srv/app/filler; sync", check=False)
    file = small.folder / "tests" / "e2e" / "app" / "probe.py"
    good = file.read_text()
    try:
        file.write_text(good + "# changed\n")
        output = small.up(fails=True)
        assert "probe-1" in output, output
        assert "disk is full" in output, output
        assert small.get()["server"]
    finally:
        on(machine, "rm", "-f", "/srv/app/filler")
    small.up()
    assert len(small.responding_servers()) == 2


@pytest.mark.long
def test_a_broken_release_is_repaired_by_what_its_failure_says(make_stack: Callable[..., Stack]) -> None:
    database = "import sqlite3; sqlite3.connect('/var/lib/app/shop').execute('{}')"
    create = database.format("create table if not exists a (b)")
    task = {"start_timeout_s": 8, "release_task": f'python -c "{create}"'}
    stack = make_stack("first", fleet={"servers": 1}, rollout=task)
    stack.edit(HEALTHY, HEALTHY + f"    {database.format('select b from a')}\n")
    output = stack.up(fails=True)
    assert "no other release was there before" in output
    assert "hint: if the health path needs tables that rollout.release_task makes, set rollout.task_before" in output
    stack.app["rollout"] = task | {"task_before_proof": True}
    thread = "import threading\nthreading.Thread(target=time.sleep, args=(9999,), name='beat', daemon=True).start()\n"
    port = "import socket\nSOCKET = socket.create_server(('127.0.0.1', 9100))\n"
    stack.edit('VERSION = "1"', f'{thread}{port}VERSION = "1"')
    assert "starts threads (beat). The gateway forks its workers after the import" in " ".join(stack.up().split())
    assert stack.get()["version"] == "1"
    stack.set_version("2")
    assert "hint: a port that the import opens is taken" in stack.up(fails=True)
    stack.edit("9100", "{'proof': 9100, 'blue': 9101, 'green': 9102}[os.environ['WSGI_FLEET_SLOT']]")
    # The release that serves has the first port still.
    stack.edit("'proof': 9100", "'proof': 9103")
    stack.up()
    stack.release_version("3")
    assert stack.get()["version"] == "3"
    stack.destroy()


def test_a_stack_file_with_mistakes_creates_nothing(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack("wrong", modul="x", health_path="nope")
    output = stack.up(fails=True)
    assert "apps.probe.modul: unknown key; did you mean module?" in output
    assert "apps.probe.health_path" in output
    assert "Traceback" not in output
    assert stack.instances() == []


def interrupt_up(stack: Stack, how: int, moment: str) -> None:
    """Start the first `up` of a stack, and end it by a signal while machines are made or in the rollout."""
    process = stack.start_up()
    if moment == "machines":
        eventually(stack.instances, message="a machine is being made")
    else:
        eventually(
            lambda: any((stack.folder / ".state").rglob("journal/*.jsonl")),
            timeout_s=120,
            message="a rollout has begun",
        )
    os.killpg(process.pid, how)
    process.communicate(timeout=120)
    if how == signal.SIGKILL:
        stack.pulumi("cancel", "--yes", "-s", stack.name)


# Ctrl-C while machines are made: below, on the stack of `make local`.
@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "moment"),
    [
        pytest.param(signal.SIGKILL, "rollout", id="kill -9 in the rollout"),
        pytest.param(signal.SIGKILL, "machines", id="kill -9 while machines are made"),
        pytest.param(signal.SIGINT, "rollout", id="Ctrl-C in the rollout"),
    ],
)
def test_an_interrupted_up_is_finished_by_the_next(make_stack: Callable[..., Stack], how: int, moment: str) -> None:
    stack = make_stack(f"{moment}-{how:d}", fleet={"servers": 2})
    interrupt_up(stack, how, moment)
    stack.up()
    assert {server for server, _ in stack.responding_servers()} == set(stack.servers().values())
    assert len(stack.instances()) == 3
    stack.destroy()
    assert stack.instances() == []


@pytest.mark.long
def test_machines_that_install_every_package_at_boot_serve_too(make_stack: Callable[..., Stack]) -> None:
    """Cover the path of EC2: nothing is prebuilt, not even a Debian package of the user's."""
    stack = make_stack("bare", fleet={"servers": 1}, system_packages=["tree"])
    stack.settings["lxd"]["prebuilt_packages"] = False
    stack.up()
    server = stack.get()["server"]
    assert on(server, "tree", "--version").startswith("tree")
    assert "Valid" in on(server, "cloud-init", "schema", "--system")
    stack.destroy()


def assert_destroy_leaves_nothing(stack: Stack) -> None:
    made = stack.instances()
    names = [each["name"] for each in made] + [each["expanded_devices"]["eth0"]["network"] for each in made]
    assert processes_that_name(names) != []
    stack.destroy()
    for kind in ("instances", "networks", "network-acls"):
        listed = json.loads(lxc("query", f"/1.0/{kind}?recursion=1").stdout)
        for each in listed:
            # Machines of other stacks keep whose the image was when they were made.
            for name in {"config", "expanded_config"} & each.keys():
                each[name] = {key: value for key, value in each[name].items() if not key.startswith("image.")}
        assert not [each["name"] for each in listed if stack.name in json.dumps(each)], kind
    images = lxc("query", "/1.0/images?recursion=1").stdout
    assert stack.name not in images
    time.sleep(1)
    assert processes_that_name(names) == []
    assert not (stack.folder / ".state" / stack.name / "store").exists()


def test_the_stack_of_make_local_serves_the_flask_example(
    make_stack: Callable[..., Stack],
) -> None:
    stack = make_stack("local")
    text = (stack.folder / "stacks" / "Pulumi.local.yaml").read_text()
    blocks = yaml.safe_load(text)["config"]
    port = stack.settings["lxd"]["port"]
    stack.settings = {key.partition(":")[2]: value for key, value in blocks.items()} | {"lxd": {"port": port}}
    # Whoever presses Ctrl-C in the middle of it starts it again.
    interrupt_up(stack, signal.SIGINT, "machines")
    stack.up()
    assert len(stack.instances()) == 4
    responses: set[str] = set()
    for _ in range(60):
        with urllib.request.urlopen(stack.url, timeout=10) as response:
            responses.add(response.read().decode())
    assert {reply.split(" from ")[0] for reply in responses} == {"Hello, fleet"}
    assert len(responses) == 3
    del stack.settings["apps"]["hello"]["generated_secrets"]
    output = " ".join(stack.up(fails=True).split())
    missing = "wsgi-fleet:apps.hello.required: HELLO_SECRET_KEY: is set nowhere;"
    assert f"has a problem; nothing was changed: {missing}" in output
    # Where the stack file does not ask for it, the application itself stops the release at stage.
    del stack.settings["apps"]["hello"]["required"]
    output = stack.up(fails=True)
    assert "SECRET_KEY: required and not set" in output
    with urllib.request.urlopen(stack.url, timeout=10) as response:
        assert response.status == 200
    assert_destroy_leaves_nothing(stack)
