"""What platform lxd does without LXD: names, addresses of this host, and the release store."""

from __future__ import annotations

import os
import random
import re
import socket
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platforms.lxd import arp, label, store, subnet
from platforms.lxd.store import DirectoryStore

ROUTES = """\
Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
tun0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
tun0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
br0\t0000010A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
"""
ARP = """\
IP address       HW type     Flags       HW address            Mask     Device
10.0.0.12        0x1         0x2         00:16:3e:00:00:01     *        br0
10.0.0.13        0x1         0x0         00:00:00:00:00:00     *        br0
10.0.0.14        0x1         0x6         00:16:3e:00:00:02     *        br0
10.0.0.15        0x1         0x4         00:16:3e:00:00:03     *        br0
"""


@given(st.text(), st.text())
def test_a_machines_name_is_a_host_name(stack: str, role: str) -> None:
    assert re.fullmatch(r"[a-z](-?[a-z0-9])*", name := label.machine_name(stack, role)), name
    assert len(name) <= 63


def test_a_machines_name_tells_stack_and_role_and_is_new_each_time() -> None:
    names = {label.machine_name("Local", "hello-1") for _ in range(20)}
    assert len(names) == 20
    assert {re.sub(r"[0-9a-f]{6}$", "x", name) for name in names} == {"local-hello-1-x"}
    assert len(label.machine_name("l" * 80, "hello-1")) == 63


def test_a_networks_name_is_the_same_each_time_and_fits_an_interface() -> None:
    assert label.network_name("local-abc123", "balancer") == "wf42b601cdbfee"
    others = [label.network_name("local-abc124", "balancer"), label.network_name("local-abc123", "app")]
    assert len({"wf42b601cdbfee", *others}) == 3
    assert max(map(len, others)) < 16


def test_two_checkouts_own_different_things(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    owner = label.owner("local", tmp_path / "a")
    assert re.fullmatch(r"local-[0-9a-f]{6}", owner)
    assert label.owner("local", tmp_path / "link") == owner
    assert label.owner("local", tmp_path / "b") != owner


def files(folder: Path, *, routes: str = ROUTES, resolvers: str = "") -> tuple[Path, Path]:
    (folder / "route").write_text(routes)
    (folder / "resolv.conf").write_text(resolvers)
    return folder / "route", folder / "resolv.conf"


def test_networks_with_routes_and_name_servers_are_in_use_and_the_way_out_is_not(tmp_path: Path) -> None:
    resolvers = "search example\nnameserver 10.9.8.7\nnameserver fe80::1\n# nameserver 10.6.6.6\n"
    found = [str(each) for each in subnet.in_use(*files(tmp_path, resolvers=resolvers))]
    assert found == ["192.168.2.0/24", "10.1.0.0/16", "10.9.8.7/32"]
    (tmp_path / "resolv.conf").unlink()
    assert len(list(subnet.in_use(tmp_path / "route", tmp_path / "resolv.conf"))) == 2


def test_a_free_subnet_overlaps_nothing_that_is_taken() -> None:
    # Half of 10.0.0.0/8, and of the rest all but one /24 of each /16.
    taken = [IPv4Network("10.128.0.0/9"), *(IPv4Network(f"10.{second}.0.0/17") for second in range(128))]
    for seed in range(20):
        chosen = subnet.free(taken, random.Random(seed))
        assert chosen.prefixlen == 24
        assert chosen.subnet_of(IPv4Network("10.0.0.0/9"))
        assert not any(chosen.overlaps(each) for each in taken)


def test_no_free_subnet_is_an_error_and_no_endless_search() -> None:
    with pytest.raises(LookupError, match=r"no /24 of 10.0.0.0/8 is free"):
        subnet.free([IPv4Network("10.0.0.0/8")])


def test_the_mtu_is_that_of_the_way_out(tmp_path: Path) -> None:
    for interface, mtu in (("tun0", "1380"), ("br0", "9000")):
        (tmp_path / interface).mkdir()
        (tmp_path / interface / "mtu").write_text(f"{mtu}\n")
    assert subnet.uplink_mtu(files(tmp_path)[0], tmp_path) == 1380
    without = "\n".join(line for line in ROUTES.splitlines() if "0102A8C0" not in line)
    assert subnet.uplink_mtu(files(tmp_path, routes=without)[0], tmp_path) == 1500


def test_a_neighbour_is_there_once_its_entry_is_complete_and_else_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(socket.socket, "sendto", lambda _socket, _data, to: asked.append(to[0]))  # pyright: ignore
    (tmp_path / "arp").write_text(ARP)
    there = [number for number in (1, 12, 13, 14, 15) if arp.is_resolved(f"10.0.0.{number}", tmp_path / "arp")]
    assert there == [12, 14]
    assert asked == ["10.0.0.1", "10.0.0.13", "10.0.0.15"]


def test_a_store_is_read_by_machines_whatever_the_operators_umask_and_goes_alone(tmp_path: Path) -> None:
    root = tmp_path / "stack" / "store"
    before = os.umask(0o077)
    try:
        store.create(root)
        DirectoryStore(root).write("releases/a/code.tar.gz", b"x")
        store.create(root)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in [root.parent, root, *root.rglob("*")]}
    folders = {"stack": 0o700, "store": 0o755, "releases": 0o755, "a": 0o755}
    assert modes == {**folders, ".store": 0o644, "code.tar.gz": 0o644}
    (root.parent / "known_hosts").touch()
    for _ in range(2):
        store.remove(root)
    assert [path.name for path in root.parent.iterdir()] == ["known_hosts"]
    (root.parent / "known_hosts").unlink()
    store.create(root)
    store.remove(root)
    assert list(tmp_path.iterdir()) == []


def test_a_store_reads_lists_and_deletes_what_was_written(tmp_path: Path) -> None:
    kept = DirectoryStore(tmp_path / "store")
    for key in ("releases/b/x", "releases/a", "pointer"):
        kept.write(key, key.encode())
    kept.write("pointer", b"new")
    assert kept.read("pointer") == b"new"
    assert kept.keys("") == ["pointer", "releases/a", "releases/b/x"]
    assert kept.keys("releases/b") == ["releases/b/x"]
    for key in ("pointer", "pointer", "releases", "gone/x"):
        kept.delete(key)
    assert kept.keys("") == ["releases/a", "releases/b/x"]
    assert [kept.read(key) for key in ("pointer", "releases", "releases/a/below", "gone/x")] == [None] * 4


def test_a_write_is_seen_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = DirectoryStore(tmp_path)
    kept.write("pointer", b"old")

    def full(_descriptor: int) -> None:
        assert kept.read("pointer") == b"old"
        assert kept.keys("") == ["pointer"]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        kept.write("pointer", b"new")
    assert kept.read("pointer") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["pointer"]


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../out", "a/../b", "a//b", "a/", ".hidden", "a b", "a\n", "a\0"])
def test_what_could_lead_out_of_the_store_is_no_key(tmp_path: Path, key: str) -> None:
    kept = DirectoryStore(tmp_path)
    for act in (lambda: kept.read(key), lambda: kept.write(key, b""), lambda: kept.delete(key)):
        with pytest.raises(ValueError, match="cannot be a key of a store"):
            act()
    assert list(tmp_path.iterdir()) == []
