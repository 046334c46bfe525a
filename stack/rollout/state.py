"""The durable state of one rollout: everything the machine needs to go on after a crash, and nothing else.

Rules of evolution: fields are added with a default, never renamed; a phase is never reused for another meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from stack.core.digest import Digest
from stack.core.names import HostName, OperationId, ReplicaId, RolloutId, ServiceName

Kind = Literal["deploy", "rollback"]


class Phase(StrEnum):
    """Where a rollout is. The order is the way of a deploy; the last three are final."""

    PLANNED = "planned"
    CHECKING = "checking"
    PREFLIGHT = "preflight"
    PLACING = "placing"
    MEASURING = "measuring"
    QUEUEING = "queueing"
    DRAINING = "draining"
    STARTING = "starting"
    WARMING = "warming"
    SMOKING = "smoking"
    EVALUATING = "evaluating"
    SHIFTING = "shifting"
    HOLDING = "holding"
    AWAITING = "awaiting"
    PAUSED = "paused"
    PROMOTING = "promoting"
    SWITCHING = "switching"
    RESTORING = "restoring"
    REVERTING = "reverting"
    CONFIRMING = "confirming"
    RETIRING = "retiring"
    CLEANING = "cleaning"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether the rollout is over."""
        return self in (Phase.PROMOTED, Phase.ROLLED_BACK, Phase.FAILED)


class Verdict(StrEnum):
    """The closed set of judgements on a candidate."""

    PROMOTE = "PROMOTE"
    ROLLBACK = "ROLLBACK"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One replica this rollout starts: where, and on which TCP port."""

    replica: ReplicaId
    host: HostName
    port: int


@dataclass(frozen=True, kw_only=True)
class Swap:
    """One after the other: the replicas in ``ends`` make room for the new ones, and requests wait meanwhile.

    ``predicted_s``: how long nobody was said to serve; ``longest_s``: how long that may take at most. ``began`` is when
    requests began to wait (empty: not yet), ``back`` whether it was given up and the old replicas are wanted again.
    """

    ends: tuple[Placement, ...]
    predicted_s: float
    longest_s: float
    began: str = ""
    back: bool = False

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Swap:
        """Inverse of ``asdict``."""
        return cls(**{**body, "ends": _places(body["ends"])})


@dataclass(frozen=True, kw_only=True)
class RolloutState:
    """One rollout. ``release`` is what it brings in (for a rollback: the last known good).

    ``stable`` and ``lkg`` are what they were when it began. ``rung`` indexes ``ladder`` (per cent of traffic).
    ``exposed`` is true from the moment the candidate may have been given traffic. ``attempt`` makes operation ids
    of repeated effects differ. ``retire`` are replicas to stop when traffic has left them.

    ``environment``, ``change`` (the ticket), ``requester`` and ``approval`` (the request for approval that is used up
    at the start; empty: the policies want none) say by which right it runs. ``gates`` are the per cents of traffic
    before which approval is asked again; ``awaiting`` is the index of the rung that waits for it. ``swap`` is there
    when the new replicas don't fit beside the old ones.
    """

    id: RolloutId
    service: ServiceName
    kind: Kind
    plan: Digest
    release: Digest
    stable: Digest | None
    lkg: Digest | None
    ladder: tuple[int, ...]
    phase: Phase = Phase.PLANNED
    rung: int = 0
    attempt: int = 0
    exposed: bool = False
    placements: tuple[Placement, ...] = ()
    retire: tuple[Placement, ...] = ()
    paused_from: Phase | None = None
    verdict: Verdict | None = None
    reason: str = ""
    entered_at: str = ""
    requests_seen: int = 0
    notes: tuple[str, ...] = field(default=())
    environment: str = ""
    change: str = ""
    requester: str = ""
    approval: str = ""
    gates: tuple[int, ...] = ()
    awaiting: int | None = None
    swap: Swap | None = None

    @property
    def percent(self) -> int:
        """The candidate's share of traffic at the current rung, 0-100."""
        return self.ladder[self.rung] if self.rung < len(self.ladder) else 100

    def gates_before(self, rung: int) -> tuple[int, ...]:
        """The gates to pass on the way to this rung: those above the rung before it, and not above this one."""
        passed = self.ladder[rung - 1] if rung else 0
        return tuple(sorted(gate for gate in self.gates if passed < gate <= self.ladder[rung]))

    def operation(self, name: str) -> OperationId:
        """The id of a host operation of this state: the same after a restart, another for another attempt."""
        return OperationId(f"{self.id}.{name}.{self.attempt}")

    def to_json(self) -> dict[str, Any]:
        """``RolloutState.from_json(s.to_json()) == s``. Without a swap, as releases write it that know none."""
        body = asdict(self)
        if self.swap is None:
            del body["swap"]
        return body

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> RolloutState:
        """Inverse of ``to_json``; also of its JSON text."""

        def digest(key: str) -> Digest | None:
            return None if body[key] is None else Digest(body[key])

        typed: dict[str, Any] = {
            "id": RolloutId(body["id"]),
            "service": ServiceName(body["service"]),
            "plan": Digest(body["plan"]),
            "release": Digest(body["release"]),
            "stable": digest("stable"),
            "lkg": digest("lkg"),
            "ladder": tuple(body["ladder"]),
            "phase": Phase(body["phase"]),
            "placements": _places(body["placements"]),
            "retire": _places(body["retire"]),
            "paused_from": Phase(body["paused_from"]) if body["paused_from"] else None,
            "verdict": Verdict(body["verdict"]) if body["verdict"] else None,
            "notes": tuple(body["notes"]),
            "gates": tuple(body.get("gates", ())),
            "swap": Swap.from_json(body["swap"]) if body.get("swap") else None,
        }
        return cls(**{**body, **typed})


def _places(rows: Iterable[dict[str, Any]]) -> tuple[Placement, ...]:
    return tuple(Placement(replica=ReplicaId(p["replica"]), host=HostName(p["host"]), port=p["port"]) for p in rows)
