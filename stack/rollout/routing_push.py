"""Makes the gateway route as the store says: builds the next table, pushes it, believes only its acknowledgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stack.gateway.control import GatewayControl
from stack.gateway.errors import TableRefused
from stack.gateway.table import RoutingTable
from stack.rollout.pause import waits
from stack.rollout.state import RolloutState
from stack.rollout.tables import routing_table
from stack.rollout.tenure import Writing
from stack.store.store import Store


@dataclass(frozen=True, kw_only=True)
class RoutePusher:
    """Pushes tables, each written under the lead of who pushes it. ``keys`` and ``limits`` go into each table as they
    are; ``addresses``: host name -> IP."""

    store: Store
    control: GatewayControl
    keys: Sequence[Mapping[str, Any]]
    limits: Mapping[str, Any]
    addresses: Mapping[str, str]

    def push(self, writing: Writing) -> int:
        """Route as stored, now. Returns the acknowledged version; raises GatewayUnavailable when there is none.

        The table is built and numbered in one transaction, so the highest version is always the newest truth. The
        gateway may hold a higher one: either one of this store's, pushed meanwhile, which says all that this one says;
        or, after the store was put back to an earlier state, one that it knows nothing of, which is then topped.
        """
        body = self._next(writing, 0)
        try:
            return self.control.put_table(RoutingTable.from_json(body))
        except TableRefused as newer:
            held = int(newer.facts.get("current") or 0)
        with self.store.reading() as tx:
            latest = tx.latest_table()
        if latest is not None and held <= latest["version"]:
            return held
        return self.control.put_table(RoutingTable.from_json(self._next(writing, held)))

    def _next(self, writing: Writing, above: int) -> dict[str, Any]:
        with writing(self.store) as tx:
            services = tx.services()
            replicas = tx.replicas(live_only=True)
            body = routing_table(
                tx.next_table_version(above),
                services,
                {d: tx.release(d) for d in {r.release for r in replicas}},
                replicas,
                self.keys,
                self.limits,
                self.addresses,
                waits(RolloutState.from_json(dict(r.state)) for r in tx.rollouts(limit=1000, open_only=True)),
            )
            tx.put_table(body["version"], body)
        return body

    def converge(self, writing: Writing) -> bool:
        """Push again if the gateway does not hold the newest table. True when something had to be done."""
        with self.store.reading() as tx:
            latest = tx.latest_table()
        if latest is None:
            self.push(writing)
            return True
        if self.control.health().get("table_version") == latest["version"]:
            return False
        self.push(writing)
        return True
