"""From which other hosts a host may take an artifact: those that are allowed to give and showed that they have it."""

from __future__ import annotations

from collections.abc import Mapping

from stack.core.names import HostName
from stack.core.release import Release
from stack.fleet.values import Host, can_be_told, peer_line
from stack.fleet.variables import MOST_PEERS
from stack.store.store import Store


def peers_for(store: Store, inventory: Mapping[HostName, Host], release: Release, host: HostName) -> list[str]:
    """A line for each, as playbooks take it. A local host needs none.

    That a host has the artifact is what it said itself: the release that its live replica loaded.
    """
    if inventory[host].connection == "local":
        return []
    with store.reading() as tx:
        rows = [r for r in tx.replicas(live_only=True) if r.host != host and r.observed_digest == r.release]
        having = {r.host for r in rows if tx.release(r.release).artifact == release.artifact}
    givers = [inventory[name] for name in sorted(having) if name in inventory]
    return [peer_line(giver) for giver in givers if giver.shares and can_be_told(giver)][:MOST_PEERS]
