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


@pytest.fixture
def client(daemon: Daemon) -> Client:
    daemon.things["networks"]["net"] = {"name": "net", "config": {"size": "1"}}
    return Client()


def test_a_path_quotes_its_parts() -> None:
    assert url("instances", "a b/c", recursion="1") == "/1.0/instances/a%20b%2Fc?recursion=1"


def test_an_answer_is_its_metadata(client: Client) -> None:
    assert client.get(NETWORK) == {"name": "net", "config": {"size": "1"}}


def test_what_is_not_there_is_told_apart(client: Client) -> None:
    with pytest.raises(NotFound, match=r"^LXD: GET /1.0/networks/gone: Network not found$"):
        client.get(url("networks", "gone", recursion="1"))


def test_what_is_not_there_is_known_by_its_code(daemon: Daemon, client: Client) -> None:
    daemon.refuse("GET .*", 404, "no such object")
    with pytest.raises(NotFound, match=r"^LXD: GET /1.0/networks/net: no such object$"):
        client.get(NETWORK)


def test_what_changed_since_it_was_read_is_told_apart(client: Client) -> None:
    with pytest.raises(Stale, match=r"ETag doesn't match"):
        client.request("PUT", NETWORK, {"name": "net"}, headers={"If-Match": "old"})


def test_any_other_refusal_is_repeated(daemon: Daemon, client: Client) -> None:
    daemon.refuse("PUT .*", 500, "the disk is full")
    with pytest.raises(LxdError, match=r"^LXD: PUT /1.0/networks/net: the disk is full$") as error:
        client.request("PUT", NETWORK, {})
    assert type(error.value) is LxdError


def test_a_request_is_sent_again_when_another_client_removed_an_acl_meanwhile(
    daemon: Daemon, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(lxd_client.time, "sleep", pauses.append)
    daemon.refuse("GET .*", 500, ACL_REMOVED, times=2)
    assert client.get(NETWORK)["name"] == "net"
    assert pauses == [0.1, 0.3]


def test_an_acl_that_another_client_removed_does_not_mean_that_ours_is_gone(
    daemon: Daemon, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lxd_client, "PAUSES_S", ())
    daemon.refuse("GET .*", 500, ACL_REMOVED)
    with pytest.raises(LxdError, match=r"Network ACL not found$") as error:
        client.get(NETWORK)
    assert type(error.value) is LxdError


def test_an_operation_that_fails_is_an_error_with_its_text(daemon: Daemon, client: Client) -> None:
    daemon.refuse("POST .*", 400, "the pool is full")
    with pytest.raises(LxdError, match=r"^LXD: POST /1.0/instances: the pool is full$"):
        client.request("POST", url("instances"), {"name": "a", "devices": {}})
    assert daemon.things["instances"] == {}


def test_an_operation_that_misses_something_says_so_in_words_only(daemon: Daemon, client: Client) -> None:
    daemon.refuse("POST .*", 400, "Image not found")
    with pytest.raises(NotFound):
        client.request("POST", url("instances"), {"name": "a", "devices": {}})


def test_an_operation_that_does_not_end_is_an_error_with_the_limit(daemon: Daemon, client: Client) -> None:
    def hang(_body: Any) -> None:
        raise Hangs

    daemon.before("POST .*", hang)
    with pytest.raises(LxdError, match=r"LXD did not finish POST /1.0/instances in 7 s; see `lxc operation list`"):
        client.request("POST", url("instances"), {"name": "a", "devices": {}}, timeout_s=7)


def test_a_daemon_that_is_gone_is_unavailable_with_a_remedy() -> None:
    with tempfile.TemporaryDirectory() as folder:
        gone = Client(Path(folder) / "unix.socket")
        with pytest.raises(Unavailable, match=r"does not answer at .*unix.socket.*Start it \(`make setup`"):
            gone.get(url())


def test_a_daemon_that_does_not_answer_in_time_is_unavailable(
    daemon: Daemon, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lxd_client, "REQUEST_TIMEOUT_S", 0.05)
    free = threading.Event()
    daemon.before("GET .*", lambda _body: free.wait(60))
    try:
        with pytest.raises(Unavailable, match=r"LXD did not answer GET /1.0/networks/net in 0 s"):
            client.get(NETWORK)
    finally:
        free.set()


def test_an_answer_that_is_no_json_is_shown(daemon: Daemon, client: Client) -> None:
    daemon.raw["/1.0/networks/net"] = b"<html>"
    with pytest.raises(LxdError, match=r"GET /1.0/networks/net with something that is not JSON: b'<html>'"):
        client.get(NETWORK)


def test_a_console_is_text_and_its_absence_an_error(daemon: Daemon, client: Client) -> None:
    daemon.things["instances"]["a"] = {"name": "a"}
    daemon.consoles["a"] = 'booting\n{"level": "error"}\n'
    assert client.text(url("instances", "a", "console")) == 'booting\n{"level": "error"}\n'
    with pytest.raises(NotFound):
        client.text(url("instances", "b", "console"))


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


def test_an_edit_that_changes_nothing_writes_nothing(daemon: Daemon, client: Client) -> None:
    assert client.edit(NETWORK, lambda _thing: False) is False
    assert daemon.calls == []


def test_an_edit_gives_up_on_what_keeps_changing(daemon: Daemon, client: Client) -> None:
    daemon.refuse("PUT .*", 412, "ETag doesn't match", times=100)
    with pytest.raises(LxdError, match=r"/1.0/networks/net keeps changing while it is being edited"):
        client.edit(NETWORK, lambda _thing: True)


def test_the_socket_is_looked_for_where_lxd_dir_says(daemon: Daemon) -> None:
    assert find_socket({"LXD_DIR": str(daemon.folder)}) == daemon.socket


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
