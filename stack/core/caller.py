"""Who asks: what the admin API knows of the one who calls, as a value that every room can take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Caller:
    """``name`` is the token's; ``roles`` are the token's. ``claimed`` is what the client says of itself: shown, never
    believed. ``shared`` is true for the token that everybody has who can read the state directory: it names nobody.
    """

    name: str
    roles: frozenset[str]
    token: str = ""
    claimed: str = ""
    shared: bool = False

    @property
    def shown(self) -> str:
        """For records and screens."""
        return f"{self.name} ({self.claimed})" if self.claimed and self.claimed != self.name else self.name


ORCHESTRATOR = Caller(name="orchestrator", roles=frozenset({"orchestrator"}))
