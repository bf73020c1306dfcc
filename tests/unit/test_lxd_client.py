"""The client of LXD against a made-up daemon: what an answer means, and what a person is told."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from platforms.lxd import client as lxd_client
from platforms.lxd.client import Client, LxdError, NotFound, Stale, Unavailable, find_socket, url
from tests.unit.lxd_daemon import Daemon, Hangs

NETWORK = url("networks", "net")
# LXD's error, met in CI, when one stack was read while another was destroyed.
ACL_REMOVED = "Failed getting ACL usage: Network ACL not found"
# Its error for a change of an instance while another change of it runs.
IS_CHANGED = "Failed to create instance update operation: A matching non-reusable operation has now succeeded"


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses that are made, none of which is waited for."""
    made: list[float] = []
    monkeypatch.setattr(lxd_client.time, "sleep", made.append)
    return made


@pytest.fixture
def client(daemon: Daemon) -> Client:
    daemon.things["networks"]["net"] = {"name": "net", "config": {"size": "1"}}
    return Client()


def test_a_path_quotes_its_parts() -> None:
    assert url("instances", "a b/c", recursion="1") == "/1.0/instances/a%20b%2Fc?recursion=1"


@pytest.mark.parametrize(
    ("request_", "code", "text", "kind"),
    [
        (f"GET {NETWORK}", 404, "no such object", NotFound),
        (f"PUT {NETWORK}", 412, "ETag doesn't match", Stale),
        (f"PUT {NETWORK}", 500, "the disk is full", LxdError),
        # It is not ours that is gone.
        (f"GET {NETWORK}", 500, ACL_REMOVED, LxdError),
        ("POST /1.0/instances", 400, "the pool is full", LxdError),
        # What an operation misses it says in words only.
        ("POST /1.0/instances", 400, "Image not found", NotFound),
    ],
)
@pytest.mark.usefixtures("client")
def test_an_error_is_of_its_kind_and_in_the_words_of_lxd(
    daemon: Daemon, request_: str, code: int, text: str, kind: type[LxdError]
) -> None:
    method, path = request_.split()
    # More often than it is tried.
    daemon.refuse(request_, code, text, times=9)
    with pytest.raises(LxdError) as error:
        Client().request(method, f"{path}?recursion=1", {"name": "a", "devices": {}})
    assert (type(error.value), str(error.value)) == (kind, f"LXD: {request_}: {text}")
    assert daemon.things["instances"] == {}


def test_an_operation_that_does_not_end_is_an_error_with_the_limit(daemon: Daemon, client: Client) -> None:
    def hang(_body: Any) -> None:
        raise Hangs

    daemon.before("POST .*", hang)
    with pytest.raises(LxdError, match=r"LXD did not finish POST /1.0/instances in 7 s; see `lxc operation list`"):
        client.request("POST", url("instances"), {"name": "a", "devices": {}}, timeout_s=7)


def test_what_is_no_json_is_shown_and_an_error_is_no_console(daemon: Daemon, client: Client) -> None:
    daemon.raw[NETWORK] = b"<html>"
    with pytest.raises(LxdError, match=r"GET /1.0/networks/net with something that is not JSON: b'<html>'"):
        client.get(NETWORK)
    with pytest.raises(NotFound):
        client.text(url("instances", "b", "console"))


def test_a_request_is_sent_again_when_another_client_removed_an_acl_meanwhile(
    daemon: Daemon, client: Client, pauses: list[float]
) -> None:
    for error in (ACL_REMOVED, IS_CHANGED):
        pauses.clear()
        daemon.refuse("GET .*", 500, error, times=2)
        assert client.get(NETWORK)["name"] == "net"
        assert pauses == [0.1, 0.3]


def test_a_daemon_that_is_gone_is_unavailable_with_a_remedy() -> None:
    with tempfile.TemporaryDirectory() as folder:
        gone = Client(Path(folder) / "unix.socket")
        with pytest.raises(Unavailable, match=r"does not respond at .*unix.socket.*Start it \(`make setup`"):
            gone.get(url())


def test_a_daemon_that_does_not_answer_in_time_is_unavailable(
    daemon: Daemon, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lxd_client, "REQUEST_TIMEOUT_S", 0.05)
    free = threading.Event()
    daemon.before("GET .*", lambda _body: free.wait(60))
    try:
        with pytest.raises(Unavailable, match=r"LXD did not respond to GET /1.0/networks/net in 0 s"):
            client.get(NETWORK)
    finally:
        free.set()


def test_an_edit_reads_again_when_somebody_else_wrote_meanwhile(daemon: Daemon, client: Client) -> None:
    def somebody_else(_body: Any) -> None:
        daemon.things["networks"]["net"]["config"]["theirs"] = "2"

    def ours(thing: dict[str, Any]) -> bool:
        thing["config"]["ours"] = "3"
        return True

    daemon.before("PUT .*", somebody_else)
    assert client.edit(NETWORK, ours)
    assert daemon.things["networks"]["net"]["config"] == {"size": "1", "theirs": "2", "ours": "3"}
    assert daemon.calls == ["PUT /1.0/networks/net"] * 2


def test_an_edit_gives_up_on_what_keeps_changing(daemon: Daemon, client: Client) -> None:
    daemon.refuse("PUT .*", 412, "ETag doesn't match", times=100)
    with pytest.raises(LxdError, match=r"/1.0/networks/net keeps changing while it is being edited"):
        client.edit(NETWORK, lambda _thing: True)


def test_a_missing_socket_names_the_places_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lxd_client, "SOCKETS", ("/nowhere/unix.socket",))
    with pytest.raises(Unavailable, match=r"no socket at /dir/unix.socket, /nowhere/unix.socket. `make setup`"):
        find_socket({"LXD_DIR": "/dir"})


def test_incus_is_asked_by_its_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", "/usr/bin/{}".format)
    assert Client(Path("/var/lib/incus/unix.socket")).command() == ["/usr/bin/incus"]
    lxd = Client(Path("/var/lib/lxd/unix.socket"))
    assert lxd.command() == ["/usr/bin/lxc"]
    assert lxd.command_environment()["LXD_SOCKET"] == "/var/lib/lxd/unix.socket"


def test_a_missing_command_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LxdError, match=r"the command lxc is not on the PATH; install it \(Debian: lxd-client"):
        Client(Path("/var/lib/lxd/unix.socket")).command()
