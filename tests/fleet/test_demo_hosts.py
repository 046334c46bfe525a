"""What the test hosts decide without touching anything: the mirror, the subnet, whose process it is."""

from __future__ import annotations

import ipaddress
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.fleet import stack_yaml
from demo.hosts import HostGroup, HostsImpossible, TestHost, group
from demo.hosts.commands import end, started
from demo.hosts.mirror import Source, chosen, deb822, netrc, one_line
from demo.hosts.network import Network, free_subnet
from stack.config.stack_yaml import load_stack


def test_sources_in_one_line_form() -> None:
    text = """
# deb http://off.example/debian bookworm main
deb [trusted=yes arch=amd64] https://one.example/debian bookworm main contrib  # ours
deb-src http://one.example/debian bookworm main
deb http://sec.example/ bookworm-security main
"""
    assert one_line(text) == [
        Source(uri="https://one.example/debian", suite="bookworm", components=("main", "contrib"), trusted=True),
        Source(uri="http://sec.example/", suite="bookworm-security", components=("main",)),
    ]


def test_sources_in_deb822_form() -> None:
    text = """\
Types: deb deb-src
# a comment
URIs: http://one.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/k.gpg

Types: deb
URIs: http://off.example/
Suites: trixie
Components: main
Enabled: no
"""
    found = deb822(text)
    assert [(s.suite, s.signed_by) for s in found] == [
        ("bookworm", "/usr/share/keyrings/k.gpg"),
        ("bookworm-updates", "/usr/share/keyrings/k.gpg"),
    ]


def test_the_archive_of_this_release_is_chosen_and_never_a_pocket_of_updates() -> None:
    pocket = Source(uri="http://a.example", suite="bookworm-security", components=("main",))
    other = Source(uri="http://b.example", suite="trixie", components=("main",))
    own = Source(uri="http://c.example", suite="bookworm", components=("main",))
    assert chosen([pocket, other, own], "bookworm") == own
    assert chosen([pocket, other], "bookworm") == other
    with pytest.raises(HostsImpossible, match="no Debian archive"):
        chosen([pocket, Source(uri="cdrom:x", suite="bookworm", components=("main",))], "bookworm")


def test_apt_credentials_become_a_netrc(tmp_path: Path) -> None:
    (tmp_path / "auth.conf.d").mkdir()
    (tmp_path / "auth.conf.d" / "x.conf").write_text("machine https://one.example/debian login me password secret\n")
    assert netrc(tmp_path) == "machine one.example login me password secret\n"


@given(st.text(max_size=20), st.lists(st.integers(0, 65535), max_size=40), st.integers(9, 24))
def test_the_subnet_is_free(seed: str, numbers: list[int], prefix: int) -> None:
    taken = [str(ipaddress.IPv4Network((10 << 24 | n << 8, prefix), strict=False)) for n in numbers[:3]]
    taken += [f"10.{n >> 8}.{n & 255}.7/24" for n in numbers] + ["default", "0.0.0.0/0", "192.0.2.1/24"]
    try:
        subnet = free_subnet(seed, taken)
    except group.HostsFailed:
        assert prefix < 12
        return
    assert subnet.prefixlen == 24
    assert subnet.subnet_of(ipaddress.IPv4Network("10.0.0.0/8"))
    used = [ipaddress.IPv4Network(t, strict=False) for t in taken if t[0] == "1"]
    assert not any(subnet.overlaps(other) for other in used)


def test_a_process_with_the_same_number_but_another_beginning_is_left_alone() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        began = started(process.pid)
        end(process.pid, began - 1)
        end(process.pid, 0)
        assert process.poll() is None
        end(process.pid, began)
        assert started(process.pid) == 0
    finally:
        process.kill()
        process.wait()


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostsImpossible, match="need root"):
        group.up(tmp_path, count=1)


def test_the_stack_file_of_the_demo_is_one(tmp_path: Path) -> None:
    network = Network(mark="ih000000", subnet=ipaddress.IPv4Network("10.9.8.0/24"))
    hosts = tuple(TestHost(name=f"h{n}", number=n, init="supervisord", address=network.address(n)) for n in (1, 2, 3))
    made = HostGroup(folder=tmp_path, network=network, hosts=hosts)
    (tmp_path / "stack.yaml").write_text(stack_yaml(made))
    settings = load_stack(tmp_path / "stack.yaml")
    assert [(h.address, h.connection, h.group) for h in settings.hosts.values()] == [
        ("10.9.8.11", "ssh", "cpu"),
        ("10.9.8.12", "ssh", "cpu"),
        ("10.9.8.13", "ssh", "cpu"),
    ]
    assert max(len(network.bridge), len(network.interface(200))) <= 15
