"""docs/tutorial.md, typed block after block into one shell: a fresh clone, real machines, and a stand-in of AWS."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from harness.stack import ROOT, copy_of_checkout, free_port
from platforms.lxd import label
from platforms.lxd.cleanup import remove_leftovers
from tests.aws.region import FILE
from tests.aws.server import image
from tests.aws.session import Running, running
from tests.aws.subnets import free_block
from tests.tutorial import PAGE, Step, missing_lines, steps

# What a user's shell may have set and a step must not see: it chooses its own.
FOREIGN = ("AWS_", "PULUMI_", "FLEET_", "VIRTUAL_ENV", "WSGI_FLEET_")


class Shell:
    """A bash that keeps folder and variables between blocks, as a person's terminal does."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--norc"], cwd=folder, env=environment, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, commands: str) -> tuple[bool, str]:
        """Return whether a command of the block failed, and what all printed."""
        assert self._bash.stdin
        assert self._bash.stdout
        block = (
            f"failed=false; trap 'failed=true' ERR\n{{\n{commands}\n}} </dev/null\ntrap - ERR\necho; echo end $failed"
        )
        self._bash.stdin.write(block + "\n")
        self._bash.stdin.flush()
        output: list[str] = []
        for line in self._bash.stdout:
            if line in ("end true\n", "end false\n"):
                return line == "end true\n", "".join(output)
            output.append(line)
        raise AssertionError("the shell ended:\n" + "".join(output))

    def close(self) -> None:
        """End the shell, with what a failed block left running."""
        os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.communicate()


@pytest.fixture(scope="module")
def region() -> Generator[Running]:
    with running("eu-central-1", f"e2e-{os.getpid()}-tutorial-aws") as region:
        yield region


@pytest.fixture
def scratch() -> Generator[Path]:
    """Return an empty folder, the same one for each run: `make local` names its machines by it, so killed runs end."""
    folder = ROOT / ".state" / "tutorial"

    def remove() -> None:
        remove_leftovers(label.owner("local", folder / "wsgi-fleet"))
        shutil.rmtree(folder, ignore_errors=True)

    remove()
    folder.mkdir(parents=True)
    yield folder
    remove()


def origin(folder: Path) -> Path:
    """Return a repository with the present state of this checkout."""
    copy_of_checkout(folder)
    git = ["git", "-C", str(folder), "-c", "user.name=ann", "-c", "user.email=ann@example.org"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "Begin"]):
        subprocess.run([*git, *command], check=True)
    return folder


def environment(scratch: Path, region: Running) -> dict[str, str]:
    """Return a newcomer's variables, with git, state and AWS of the test's own."""
    aws = scratch / "aws"
    aws.write_text("[prod]\naws_access_key_id = stand-in\naws_secret_access_key = stand-in\n")
    region.region.save(scratch / "region.json")
    (scratch / "state").mkdir()
    ours = {name: text for name, text in os.environ.items() if not name.startswith(FOREIGN)}
    venv = f"{ROOT / '.venv' / 'bin'}:"
    stand_in = {
        name: text for name, text in region.region.environment().items() if not name.startswith(("AWS_ACC", "AWS_SEC"))
    }
    return ours | stand_in | {
        "PATH": f"{scratch / 'wsgi-fleet' / 'tests' / 'aws' / 'bin'}:{ours['PATH'].replace(venv, '')}",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{origin(scratch / 'origin')}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://git.example.org/wsgi-fleet",
        "PULUMI_BACKEND_URL": f"file://{scratch / 'state'}",
        "AWS_SHARED_CREDENTIALS_FILE": str(aws),
        FILE: str(scratch / "region.json"),
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.aws
@pytest.mark.timeout(1800)
def test_every_block_of_the_tutorial_does_what_the_page_shows(scratch: Path, region: Running) -> None:
    image(region.account)
    port = free_port()
    # What differs from what a person types: others use that port and those addresses while tests run, and an
    # example's network is refused.
    instead = {":8080": f":{port}", "10.20.0.0/16": str(free_block()), "203.0.113.0/24": "198.51.100.0/24"}
    page = PAGE.read_text()
    for text, other in instead.items():
        assert text in page
        page = page.replace(text, other)
    shell = Shell(scratch, environment(scratch, region))
    try:
        for step in steps(page):
            take(step, shell, scratch / "wsgi-fleet", port)
    finally:
        shell.close()


def take(step: Step, shell: Shell, clone: Path, port: int) -> None:
    """Do one step and compare."""
    if step.file:
        local = "  wsgi-fleet:platform: lxd\n"
        with (clone / step.file).open("a" if step.appends else "w") as file:
            file.write(step.text.replace(local, f"{local}  wsgi-fleet:lxd: {{port: {port}}}\n"))
        return
    failed, output = shell.run(step.text)
    where = f"{PAGE.name}, line {step.line}:\n{step.text}\n{output}"
    assert failed == step.fails, where
    assert missing_lines(step.shown, output) == [], where
