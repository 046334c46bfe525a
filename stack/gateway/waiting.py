"""Requests that wait because their service has no replica at the moment and its table says that one is about to come.

Bounded three ways: each waits at most its service's ``hold_s``, and all of them together are at most ``MOST`` and
``MOST_BYTES``; what would be more is refused at once. Nothing here is touched by a request that finds a replica. Who
waits goes on, oldest first, when a table with a replica comes; a few at a time, so that the engine does not get the
whole queue within one first-byte timeout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from stack.gateway.table import RoutingTable

MOST = 10_000
MOST_BYTES = 256 << 20
AT_ONCE = 16  # for each replica of the service


class Waits(Protocol):
    """A request that may have to wait."""

    def again(self) -> None:
        """Look for a replica once more."""

    def give_up(self) -> None:
        """There is none, and none is awaited."""


class WaitingRoom:
    """Who waits, by service, oldest first."""

    __slots__ = ("_size", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[Waits, tuple[str, int]] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, who: Waits, service: str, size: int) -> bool:
        """Wait from now on; false when there is no room for so many bytes."""
        if len(self._waiting) >= MOST or self._size + size > MOST_BYTES:
            return False
        self._waiting[who] = (service, size)
        self._size += size
        return True

    def leave(self, who: Waits) -> bool:
        """Wait no longer; whether it did."""
        found = self._waiting.pop(who, None)
        if found is None:
            return False
        self._size -= found[1]
        return True

    def let_go(self, table: RoutingTable | None, load: Mapping[str, int], *, draining: bool) -> None:
        """Those that need not, or may not, wait any more go on."""
        services = {s.name: s for s in table.services} if table else {}
        room = {n: AT_ONCE * len(s.targets) - sum(load.get(t.id, 0) for t in s.targets) for n, s in services.items()}
        for who, (name, _) in list(self._waiting.items()):
            service = services.get(name)
            if draining or service is None or not (service.targets or service.hold_s):
                self.leave(who)
                who.give_up()
            elif service.targets and room[name] > 0:
                room[name] -= 1
                self.leave(who)
                who.again()
