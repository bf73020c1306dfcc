"""The bundle for support: all that helps is in it, and no secret is, however it was written down."""

from __future__ import annotations

import base64
import html
import json
import random
import tarfile
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from commands.__main__ import app
from commands.bundle import BALANCER_COMMANDS, OMITTED, SERVER_COMMANDS, collect, save
from releases.redaction import REMOVED, Redaction
from settings.limits import MIN_SECRET_CHARS
from tests.unit.fake_stack import GONE, NAMES, PRIVATE_KEY, FakeStack, front, make

SECRET = 'hunter2 "quoted" $HOME\\'
KEY = "0123456789abcdef"
secrets = st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=4, max_size=40
).filter(lambda secret: len(secret.strip()) >= MIN_SECRET_CHARS)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    made = make(monkeypatch)
    for name in NAMES:
        lines = [json.dumps([SECRET]), json.dumps([KEY])]
        made.machines.answers[f"m-{name}", "python3 -c"] = "\n".join(lines)
        leak = f"password={SECRET} json={json.dumps(SECRET)} {quote(SECRET)} key={KEY}"
        made.machines.answers[f"m-{name}", "journalctl"] = f"Traceback\n{leak}\n{PRIVATE_KEY}"
    return made


def test_a_bundle_holds_the_status_the_stores_journal_and_each_machines_logs(stack: FakeStack) -> None:
    files = collect(stack.target())
    expected = {"README.txt", "host.txt", "status.json", "store/pointer", "store/manual-changes", "balancer/facts.json"}
    expected |= {f"balancer/{name}" for name in BALANCER_COMMANDS}
    expected |= {f"{server}/{name}" for server in NAMES for name in [*SERVER_COMMANDS, "facts.json"]}
    journals = {path for path in files if path.startswith("store/journal/")}
    assert (files.keys() - journals, len(journals)) == (expected, 1)
    assert json.loads(files["status.json"])["healthy"] is True
    assert "Traceback" in files["hello-1/journal.txt"]


def test_a_log_of_very_long_lines_keeps_its_end_without_a_part_of_a_secret(
    stack: FakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.bundle.LOG_CHARS", 1024)
    journal = "m-hello-1", " ".join(SERVER_COMMANDS["journal.txt"])
    stack.machines.answers[journal] = f"{'x' * 5000}\n{KEY}{'y' * 900}\nthe end\n"
    text = collect(stack.target())["hello-1/journal.txt"]
    assert text == f"(the last 1 KiB)\n{REMOVED}{'y' * 900}\nthe end\n"


def test_no_secret_that_a_server_holds_is_in_a_bundle_nor_is_the_key_of_ssh(stack: FakeStack) -> None:
    stack.released("cccccccccccc", "failed", why=f"KeyError: {SECRET}")
    text = json.dumps(collect(stack.target()))
    for secret in ("hunter2", KEY, "b3BlbnNzaC1rZXktdjEAAAAA", quote(SECRET)):
        assert secret not in text
    assert REMOVED in text


def test_secrets_of_one_server_are_taken_out_of_what_another_says(stack: FakeStack) -> None:
    stack.machines.answers["m-hello-2", "python3 -c"] = (1, "no python")
    files = collect(stack.target())
    assert "hunter2" not in files["hello-2/journal.txt"]
    assert "may not be removed from this bundle: hello-2" in files["README.txt"]


def test_where_no_server_tells_its_secrets_what_the_application_printed_is_left_out(stack: FakeStack) -> None:
    for name in NAMES:
        stack.machines.answers[f"m-{name}", "python3 -c"] = GONE
    stack.machines.answers["m-balancer", ""] = GONE
    stack.machines.traffic(GONE)
    files = collect(stack.target())
    assert files["hello-1/journal.txt"] == OMITTED
    assert [path for path, text in files.items() if text != OMITTED] == ["README.txt", "host.txt", "status.json"]
    report = collect(stack.target(), secrets=[SECRET, KEY])
    assert "Traceback" in report["hello-1/journal.txt"]
    assert "hunter2" not in json.dumps(report)
    assert report["balancer/proxy.txt"] == "error: no route to host\n"
    assert json.loads(report["balancer/facts.json"])["error"] == "no route to host"


def test_a_bundle_is_a_tar_that_its_owner_alone_reads(
    stack: FakeStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.machines.traffic(front())
    monkeypatch.setenv("FLEET_FROM", str(tmp_path))
    file = tmp_path / "for-support.tar.gz"
    save({"larger.txt": random.randbytes(1 << 20).hex()}, file)
    result = CliRunner().invoke(app, ["bundle", "--output", file.name])
    assert (result.exit_code, oct(file.stat().st_mode)[-3:]) == (0, "600")
    assert file.stat().st_size < 1 << 20
    with tarfile.open(file) as archive:
        names = archive.getnames()
        content = b"".join(member.read() for name in names if (member := archive.extractfile(name)))
    assert "for-support/hello-2/journal.txt" in names
    assert result.output == f"{file}: {len(names)} files; read it before you send it\n"
    assert b"hunter2" not in content
    assert b"Traceback" in content
    file.unlink()
    CliRunner().invoke(app, ["bundle"])
    (file,) = tmp_path.iterdir()
    assert file.match("fleet-prod-hello-20??????T??????.tar.gz")
    result = CliRunner().invoke(app, ["bundle", "--output", "no/b.tar.gz"])
    assert result.output.endswith("b.tar.gz: No such file or directory; name another file with --output\n")
    assert result.exit_code == 2


@given(secrets)
def test_a_secret_is_taken_out_in_whatever_form_it_was_written_down(secret: str) -> None:
    dumped = [json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]]
    quoted = [html.escape(secret), quote(secret), quote(secret, safe=""), quote_plus(secret)]
    removal = Redaction([secret])
    for form in (secret, *dumped, *quoted, base64.b64encode(secret.encode()).decode()):
        cleaned = removal.clean(f"<{form}>")
        assert form not in cleaned or form in f"<{REMOVED}>"


@given(st.lists(secrets, max_size=4), st.text(max_size=200))
def test_what_is_no_secret_stays_as_it_is(others: list[str], text: str) -> None:
    removal = Redaction(others)
    cleaned = removal.clean(text)
    if REMOVED not in cleaned:
        assert cleaned == text
    assert Redaction([]).clean(text) == text


@pytest.mark.parametrize(
    ("secrets", "text", "cleaned"),
    [
        (
            [PRIVATE_KEY],
            PRIVATE_KEY.replace("\n", "\na: ").removesuffix("a: "),
            f"{REMOVED}\na: {REMOVED}\na: {REMOVED}\n",
        ),
        (["word", "password", "pass"], "password word", f"{REMOVED} {REMOVED}"),
        (["se cret/word"], "at /?key=se%20cret%2Fword", f"at /?key={REMOVED}"),
        (["1", "<", " on "], "1 of 12 workers is &lt;on&gt;; MQ==", "1 of 12 workers is &lt;on&gt;; MQ=="),
    ],
    ids=["each line of it", "the longest first", "quoted for a URL", "none that is so short that it stands everywhere"],
)
def test_a_secret_is_taken_out_of_what_is_logged(secrets: list[str], text: str, cleaned: str) -> None:
    assert Redaction(secrets).clean(text) == cleaned
