"""What all connections share: the table made ready for use, the books, health and pools.

A new table is compiled first and then swapped in by plain assignments within one turn of the event loop, so that a
request sees either the old table or the new one. Requests under way keep the target they have.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping

from stack.gateway.bigbody import BigBodies
from stack.gateway.health import Health
from stack.gateway.metrics import Books
from stack.gateway.routing import Route, compile_route
from stack.gateway.table import Key, Limits, RoutingTable, Target
from stack.gateway.upstream import Pool
from stack.gateway.waiting import WaitingRoom


class GatewayCore:
    """The gateway's state, owned by the event loop's thread."""

    def __init__(self, *, now: Callable[[], float], roll: Callable[[], float], boot_id: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.now, self.roll = now, roll
        self.books = Books(boot_id)
        self.health = Health()
        self.big_bodies = BigBodies()
        self.table: RoutingTable | None = None
        self.limits = Limits()
        self.routes: Mapping[str, Route] = {}
        self.keys: Mapping[bytes, Key] = {}
        self.pools: dict[Target, Pool] = {}
        self.draining = False
        self.waiting = WaitingRoom()

    @property
    def version(self) -> int:
        """The table's version, 0 when there is none."""
        return self.table.version if self.table else 0

    def use(self, table: RoutingTable) -> None:
        """From now on, route by this table."""
        routes = {n: r for s in table.services for r in (compile_route(s),) for n in (s.name, *s.aliases)}
        keys = {bytes.fromhex(k.sha256): k for k in table.keys}
        targets = {t: s.name for s in table.services for t in s.targets}
        ids = {str(t.id) for t in targets}
        for target, service in targets.items():
            self.books.open(target.id, service, target.slice)
        self.books.forget(ids)
        self.health.forget(ids)
        for gone in [t for t in self.pools if t not in targets]:
            self.pools.pop(gone).close()
        self.table, self.limits, self.routes, self.keys = table, table.limits, routes, keys
        self.let_go()

    def let_go(self) -> None:
        """Whoever waits for a replica and need not, or may not, wait any more goes on."""
        if self.waiting:
            self.waiting.let_go(self.table, self.books.inflight, draining=self.draining)

    def pool(self, target: Target) -> Pool:
        """The connections to this replica."""
        pool = self.pools.get(target)
        if pool is None:
            pool = self.pools[target] = Pool(target)
        return pool

    def key(self, header: bytes) -> Key | None:
        """The key in an Authorization header: one hash and one look-up, whatever the header holds."""
        if header[:7].lower() != b"bearer ":
            return None
        return self.keys.get(hashlib.sha256(header[7:].strip()).digest())

    def ready(self) -> tuple[bool, dict[str, object]]:
        """Whether every service has a replica (or one that its requests wait for), and the JSON that says so."""
        found = self.table.services if self.table else ()
        services = {s.name: len(s.targets) for s in found}
        ready = self.table is not None and all(s.targets or s.hold_s for s in found) and not self.draining
        return ready, {
            "status": "ok" if ready else "draining" if self.draining else "unavailable",
            "table_version": self.version,
            "boot_id": self.books.boot_id,
            "services": services,
            "looks_down": sorted(self.health.down),
            "waiting": len(self.waiting),
        }
