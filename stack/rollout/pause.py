"""The time in which nobody serves, where one release takes the place of another: how long it may be, and who waits.

Pure, but for the Context that ends work when the pause is over. Times are those of the rollout's state: they outlive
the process that wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stack.core.clock import Clock, unstamp
from stack.core.names import ServiceName
from stack.gateway.table import HOLD_MAX_S
from stack.rollout.state import Phase, RolloutState
from stack.rollout.tenure import Interrupted
from stack.rollout.worker import Context
from stack.store.store import Store, Transaction

PRESSED = frozenset({Phase.QUEUEING, Phase.DRAINING, Phase.STARTING, Phase.WARMING, Phase.SMOKING, Phase.EVALUATING})
"""Nobody serves: it goes back when that takes longer than it may. Once all is shown, nothing is won by going back."""
_BEGINS = (Phase.QUEUEING, Phase.RESTORING)
_NOBODY = PRESSED | {Phase.SHIFTING, Phase.SWITCHING, Phase.RESTORING, Phase.REVERTING}


def waits(states: Iterable[RolloutState]) -> Mapping[ServiceName, float]:
    """How long requests wait, by service, where nobody serves until a rollout has gone on: the pause that is allowed,
    and once more what was predicted, for the way back."""
    found = {}
    for state in states:
        swap = state.swap
        if swap is not None and state.phase in _NOBODY and (swap.began or state.phase in _BEGINS):
            found[state.service] = min(float(HOLD_MAX_S), swap.longest_s + swap.predicted_s)
    return found


def paused_s(state: RolloutState, now: datetime) -> float | None:
    """How long nobody has served; None while somebody does."""
    if state.swap is None or not (state.swap.began or state.phase in _BEGINS):
        return None
    return (now - unstamp(state.swap.began or state.entered_at)).total_seconds()


def overdue(state: RolloutState, now: datetime) -> str | None:
    """Why it must go back at once: the pause is longer than it may be, or nobody can tell. None: it may go on."""
    if state.phase not in PRESSED or state.swap is None:
        return None
    paused = paused_s(state, now)
    if paused is None or 0 <= paused <= state.swap.longest_s:
        return None
    if paused < 0:
        return "the clock was set back, so nobody can tell how long the pause is"
    return f"nobody has served for {paused:.1f} s, and {state.swap.longest_s:g} s are allowed"


def allowed_s(plan: Mapping[str, Any] | None) -> float:
    """The longest pause that a plan allows; plans of releases that knew none allow none."""
    settings = (plan or {}).get("settings") or {}
    accepted = settings.get("accept_pause_s")
    return float(settings.get("longest_pause_s") or 0.0) if accepted is None else float(accepted)


@dataclass(frozen=True, kw_only=True)
class Pressed:
    """A Context in which work ends when the pause does."""

    inner: Context
    state: RolloutState
    clock: Clock

    @property
    def epoch(self) -> int:
        return self.inner.epoch

    def tell(self, kind: str, text: str, **data: Any) -> None:
        self.inner.tell(kind, text, **data)

    def evidence(self, kind: str, body: Mapping[str, Any]) -> None:
        self.inner.evidence(kind, body)

    def check(self) -> None:
        self.inner.check()
        if overdue(self.state, self.clock.now()):
            raise Interrupted()

    def writing(self, store: Store) -> AbstractContextManager[Transaction]:
        return self.inner.writing(store)
