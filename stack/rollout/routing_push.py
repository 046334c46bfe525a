"""Makes the gateway route as the store says: builds the next table, pushes it, believes only its acknowledgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stack.gateway.control import GatewayControl
from stack.gateway.errors import TableRefused
from stack.gateway.table import RoutingTable
from stack.rollout.tables import routing_table
from stack.store.store import Store


@dataclass(frozen=True, kw_only=True)
class RoutePusher:
    """Pushes tables. ``keys`` and ``limits`` go into each table as they are; ``addresses``: host name -> IP."""

    store: Store
    control: GatewayControl
    keys: Sequence[Mapping[str, Any]]
    limits: Mapping[str, Any]
    addresses: Mapping[str, str]

    def push(self) -> int:
        """Route as stored, now. Returns the acknowledged version; raises GatewayUnavailable when there is none.

        The table is built and numbered in one transaction, so the highest version is always the newest truth, and
        an older one that arrives late is refused by the gateway: what it said is in the newer one.
        """
        with self.store.transaction() as tx:
            services = tx.services()
            replicas = tx.replicas(live_only=True)
            digests = {r.release for r in replicas}
            body = routing_table(
                tx.next_table_version(),
                services,
                {d: tx.release(d) for d in digests},
                replicas,
                self.keys,
                self.limits,
                self.addresses,
            )
            tx.put_table(body["version"], body)
        try:
            return self.control.put_table(RoutingTable.from_json(body))
        except TableRefused as newer:
            if int(newer.facts.get("current") or 0) > body["version"]:
                return int(newer.facts["current"])
            raise

    def converge(self) -> bool:
        """Push again if the gateway does not hold the newest table. True when something had to be done."""
        with self.store.reading() as tx:
            latest = tx.latest_table()
        if latest is None:
            self.push()
            return True
        if self.control.health().get("table_version") == latest["version"]:
            return False
        self.push()
        return True
