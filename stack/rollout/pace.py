"""How long starts and drains took in earlier rollouts, from what these left in the store. Pure but for the stopwatch.

What was not measured is not filled in: a pace without starts predicts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from stack.core.clock import Clock
from stack.fleet.values import HostEvent
from stack.rollout.state import Phase
from stack.runtimes.swap import Pace
from stack.store.rows import EventRow, EvidenceRow

ONCE = frozenset(
    {
        "Check the lock of the runtime",
        "Fetch the wheels",
        "Send the wheels",
        "Begin installing",
        "Install the runtime",
        "Send the artifact",
        "Place the artifact",
        "Look for what was damaged",
        "Send what was damaged",
    }
)
"""Tasks of a start that a second start on the same host does not do again, or in no time."""
DRAIN_LIMIT_S = 30.0
"""Counted in the prediction where no drain was ever measured. What ends a longer one is the pause that is allowed."""
_PROOF = (Phase.WARMING, Phase.SMOKING)
_STARTS = ("deploy.yml", "rollback.yml")


@dataclass(kw_only=True)
class _Task:
    name: str
    began: float


@dataclass
class Stopwatch:
    """How long an operation's tasks took, by its events."""

    clock: Clock
    spent: dict[str, float] = field(default_factory=dict)
    now: _Task | None = None

    def saw(self, event: HostEvent) -> None:
        """A task began: the one before it is over."""
        if event.kind != "task":
            return
        at = self.clock.monotonic()
        if self.now is not None:
            self.spent[self.now.name] = self.spent.get(self.now.name, 0.0) + at - self.now.began
        self.now = _Task(name=event.task, began=at)

    def again_s(self, seconds: float) -> float:
        """What the operation would have taken if all that lasts had been there already."""
        return round(max(0.0, seconds - sum(s for name, s in self.spent.items() if name in ONCE)), 3)


@dataclass(frozen=True, kw_only=True)
class History:
    """What one earlier rollout of the service left."""

    evidence: Sequence[EvidenceRow]
    events: Sequence[EventRow]

    def operations(self, playbooks: Sequence[str]) -> list[float]:
        """Seconds of the operations of these playbooks that were done, without what is done once only."""
        rows = [e.body for e in self.evidence if e.kind == "operation"]
        done = [b for b in rows if b.get("playbook") in playbooks and b.get("status") == "done"]
        return [s for b in done if (s := _seconds(b.get("again_s"))) is not None]

    def phases(self) -> Mapping[str, float]:
        """Seconds that each phase took, all its visits together; of clocks that were set back, nothing."""
        moves = [e for e in self.events if e.kind == "phase"]
        spent: dict[str, float] = {}
        for entered, left in pairwise(moves):
            name, took = str(entered.data.get("to")), (left.created_at - entered.created_at).total_seconds()
            if name == left.data.get("from") and took >= 0:
                spent[name] = spent.get(name, 0.0) + took
        return spent

    def start_s(self) -> float | None:
        """From the start of the replicas to the end of all proof before traffic; None if it did not come so far."""
        phases = self.phases()
        if any(name not in phases for name in _PROOF):
            return None
        placing = phases.get(Phase.PLACING, 0.0) + phases.get(Phase.STARTING, 0.0)
        started = sum(self.operations(_STARTS)) or placing  # releases before this one did not measure operations
        compared = any(e.kind == "eval-stable" and e.phase == Phase.EVALUATING for e in self.evidence)
        judging = phases.get(Phase.EVALUATING, 0.0) / (2 if compared else 1)  # stable was asked in the same phase
        return started + sum(phases[name] for name in _PROOF) + judging if started > 0 else None


def pace_of(histories: Iterable[History], ends: int) -> Pace:
    """The pace for a swap that ends so many replicas. Drains count one by one; none measured: their limit."""
    kept = list(histories)
    starts = [s for history in kept if (s := history.start_s()) is not None]
    drains = [s * ends for history in kept for s in history.operations(("drain.yml",))]
    return Pace(starts_s=tuple(starts), drains_s=tuple(drains) or (DRAIN_LIMIT_S,))


def _seconds(value: Any) -> float | None:
    sane = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 86_400
    return float(value) if sane else None
