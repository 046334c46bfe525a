"""The network of one group of hosts: a bridge with a subnet that nobody here uses, and a veth pair for each host."""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from demo.hosts.commands import run, try_run
from demo.hosts.errors import HostsFailed

_LOCK = Path("/run/inference-stack-hosts.lock")
_FIRST = 11


@dataclass(frozen=True, kw_only=True)
class Network:
    """``mark`` begins the name of everything that belongs to the group."""

    mark: str
    subnet: ipaddress.IPv4Network

    @property
    def bridge(self) -> str:
        """The bridge's interface here."""
        return f"{self.mark}br"

    @property
    def gateway(self) -> str:
        """This machine's address among the hosts."""
        return str(self.subnet[1])

    def address(self, number: int) -> str:
        """The address of host ``number``, from 1."""
        return str(self.subnet[_FIRST + number - 1])

    def namespace(self, number: int) -> str:
        """The network namespace of a host."""
        return f"{self.mark}-h{number}"

    def interface(self, number: int) -> str:
        """This machine's end of a host's veth pair; tc can slow it down."""
        return f"{self.mark}v{number}"


def mark_of(root: Path) -> str:
    """A short name for the group that lives in this directory: groups side by side never share a name."""
    return "ih" + hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:6]


def free_subnet(seed: str, taken: Iterable[str]) -> ipaddress.IPv4Network:
    """A 10.x.y.0/24 that overlaps none of the networks taken. Pure; the same seed tries the same ones in turn."""
    used = []
    for text in taken:
        with suppress(ValueError):
            used.append(ipaddress.IPv4Network(text, strict=False))
    start = int(hashlib.sha256(seed.encode()).hexdigest()[:8], 16)
    for step in range(4096):
        number = (start + step * 257) % 65536
        subnet = ipaddress.IPv4Network((10 << 24 | number << 8, 24))
        if not any(subnet.overlaps(other) for other in used if other.prefixlen):
            return subnet
    raise HostsFailed("no 10.x.y.0/24 is free on this machine")


def networks_here() -> list[str]:
    """Every network that this machine has an address in or a route to; default routes are not one."""
    routes = [row["dst"] for row in json.loads(run("ip", "-4", "-j", "route", "show", "table", "all"))]
    addresses = json.loads(run("ip", "-4", "-j", "address"))
    return routes + [f"{a['local']}/{a['prefixlen']}" for row in addresses for a in row.get("addr_info", [])]


def make_network(root: Path) -> Network:
    """Choose the subnet and make the bridge; two groups that begin at once do not choose the same."""
    mark = mark_of(root)
    with open(_LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        network = Network(mark=mark, subnet=free_subnet(mark, networks_here()))
        run("ip", "link", "add", network.bridge, "type", "bridge")
        run("ip", "address", "add", f"{network.gateway}/24", "dev", network.bridge)
        run("ip", "link", "set", network.bridge, "up")
    return network


def connect(network: Network, number: int) -> None:
    """The network namespace of one host with its end of a veth pair."""
    namespace, outside = network.namespace(number), network.interface(number)
    run("ip", "netns", "add", namespace)
    run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    run("ip", "link", "set", outside, "master", network.bridge, "up")
    run("ip", "-n", namespace, "address", "add", f"{network.address(number)}/24", "dev", "eth0")
    for interface in ("eth0", "lo"):
        run("ip", "-n", namespace, "link", "set", interface, "up")


def remove_network(mark: str, numbers: Iterable[int]) -> None:
    """Take away what bears the group's mark; what is gone already is no error."""
    for number in numbers:
        try_run("ip", "link", "delete", f"{mark}v{number}")
        try_run("ip", "netns", "delete", f"{mark}-h{number}")
    try_run("ip", "link", "delete", f"{mark}br")
