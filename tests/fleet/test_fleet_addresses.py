"""A host by name: engines bind to the address that the control plane found, SSH keeps the name, plans name both."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.core.names import HostName
from stack.fleet.addresses import HostNotResolved, ip_of, is_ip
from stack.fleet.rendering import render_inventory
from stack.fleet.values import Host
from stack.rollout.planner import reached

NAMED = Host(name=HostName("gpu1"), root="/opt/stack", connection="ssh", address="10.0.0.5", known_as="gpu1.example")


def answering(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """DNS says this."""

    def look(name: str, *_: Any, **__: Any) -> list[Any]:
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, 1, 6, "", (a, 0)) for a in addresses]

    monkeypatch.setattr("stack.fleet.addresses.socket.getaddrinfo", look)


def test_a_name_is_always_the_same_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for order in (("10.0.0.9", "fd00::1", "10.0.0.10"), ("10.0.0.10", "10.0.0.9", "fd00::1")):
        answering(monkeypatch, *order)
        assert ip_of("gpu1.example") == "10.0.0.9"
    answering(monkeypatch, "fd00::2", "fe80::1%eth0")
    assert ip_of("gpu1.example") == "fd00::2"


@given(st.ip_addresses().map(str))
def test_an_address_is_not_asked_for(address: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        answering(patch)
        assert ip_of(address) == address
    assert is_ip(address)


def test_ssh_is_told_the_name_and_the_plan_both() -> None:
    assert '"gpu1.example"' in render_inventory(NAMED, sys.executable)
    assert "10.0.0.5" not in render_inventory(NAMED, sys.executable)
    assert (reached(NAMED)["address"], reached(NAMED)["known_as"]) == ("10.0.0.5", "gpu1.example")


def test_a_name_that_nobody_knows_is_refused_when_it_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch)
    assert ip_of("gpu1.example") == "gpu1.example"  # the control plane starts all the same
    unknown = Host(name=HostName("gpu1"), root="/opt/stack", connection="ssh", address=ip_of("gpu1.example"))
    with pytest.raises(HostNotResolved, match=r"Host gpu1: no IP address is known for gpu1\.example"):
        reached(unknown)


def test_plans_of_hosts_as_before_have_no_new_parts() -> None:
    plain = Host(name=HostName("local"), root="/opt/stack")
    assert {"ollama", "known_as"}.isdisjoint(reached(plain))
    assert reached(Host(name=HostName("o"), root="/r", ollama="127.0.0.1:9"))["ollama"] == "127.0.0.1:9"
