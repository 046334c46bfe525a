"""Test hosts on one machine: real SSH servers in namespaces, for tests and for ``make fleet-demo``.

Each host has a network namespace with a veth pair on a bridge, an overlay root over one Debian base, PID, mount, UTS
and IPC namespaces of its own, and as PID 1 supervisord, or real systemd. They are root on this machine, and no sandbox:
what runs in them must be trusted. They have no route to anywhere but this machine.
"""

from demo.hosts.errors import HostsFailed, HostsImpossible
from demo.hosts.group import HostGroup, TestHost, down, status, up

__all__ = ["HostGroup", "HostsFailed", "HostsImpossible", "TestHost", "down", "status", "up"]
