"""From a rollout's own evidence (evidence.json) to the seconds of each phase, and to what of them is overhead. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

# What a rollout has to wait for whoever drives it: the engine loads and warms, prompts are answered, a rung is held.
WAITED_FOR = ("runtime install", "warming", "smoking", "evaluating", "holding", "confirming")
_PHASE = re.compile(r"[a-z_]+")
_INSTALL, _AFTER_INSTALL = "Install the runtime", "Send the artifact"


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds by phase in the order they came (a phase that came again is summed), and the first and last moment."""

    phases: Mapping[str, float]
    began: float
    ended: float

    @property
    def overhead(self) -> float:
        """All but what is waited for. What can't be told apart counts as overhead."""
        return sum(seconds for name, seconds in self.phases.items() if name not in WAITED_FOR)


def moment(text: str) -> float:
    """A stamp as seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def spent(events: Sequence[Mapping[str, Any]]) -> Spent:
    """Read the events; the runtime's install is taken out of ``placing`` where its begin and end were told."""
    phases: dict[str, float] = {}
    moves = [(moment(e["at"]), _phase(e["text"])) for e in events if e["kind"] == "phase"]
    for (at, name), (until, _) in pairwise(moves):
        phases[name] = phases.get(name, 0.0) + until - at
    install = _install(events)
    if install:
        phases["placing"] -= install
        phases["runtime install"] = install
    return Spent(phases=phases, began=moves[0][0], ended=moves[-1][0])


def _phase(text: str) -> str:
    found = _PHASE.match(text)
    return found[0] if found else text


def _install(events: Sequence[Mapping[str, Any]]) -> float:
    hosts = [(moment(e["at"]), str(e["text"])) for e in events if e["kind"] == "host"]
    begun = next((at for at, text in hosts if _INSTALL in text), None)
    done = next((at for at, text in hosts if _AFTER_INSTALL in text), None)
    return 0.0 if begun is None or done is None else max(0.0, done - begun)
