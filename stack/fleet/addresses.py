"""The one IP address of a host that the inventory names: engines bind to it and the gateway connects to it. Asks DNS.

SSH keeps the name, as ``known_hosts`` may have the host's key under it. A name of several addresses always gives the
same one: else each start of the control plane would make another plan.
"""

from __future__ import annotations

import ipaddress
import socket

from stack.core.errors import Unavailable


class HostNotResolved(Unavailable):
    """Host {host}: no IP address is known for {name}."""

    hint = "Engines need an IP address to bind to. Correct `address`, or restart the control plane once DNS knows it."


def ip_of(address: str) -> str:
    """The address itself if it is one; the lowest IPv4, else IPv6 address of a name; the name when DNS has none."""
    if is_ip(address):
        return address
    try:
        rows = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except OSError:
        return address
    found = {ipaddress.ip_address(str(row[4][0])) for row in rows if "%" not in str(row[4][0])}
    return str(min(found, key=lambda ip: (ip.version, int(ip)))) if found else address


def is_ip(address: str) -> bool:
    """Is it an IP address?"""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True
