"""Sums up what the gateway measured during one rung: cumulative rings in, per-slice figures out. Pure.

Wire form: see ``stack/gateway/metrics.py``. What fell out of a ring, a time that is no number, or another ``boot_id``
(the gateway restarted) is lost evidence and says so; it is never filled in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stack.rollout.verdict import Observed

# What the client itself got wrong is no error of the release, unless it left because it had waited too long.
_LEFT = 499
_CLIENT_FAULTS = frozenset({400, 401, 403, 404, 405, 408, 413, 415, 422, 431, 499})


class _Attempt(NamedTuple):
    """One attempt as the gateway booked it; 599 is an answer that broke, whatever it began with.

    ``ttft_s`` is None for answers that were not streamed: they have no first token to time.
    """

    seq: int
    status: int
    latency_s: Any
    ttft_s: Any
    tokens: Any
    slice: str
    pinned: bool
    outcome: str


@dataclass(frozen=True, kw_only=True)
class Window:
    """Evidence of one rung: per slice what was observed, and where to read on."""

    boot_id: str
    cursor: int
    slices: Mapping[str, Observed] = field(default_factory=dict)

    def of(self, name: str) -> Observed:
        """What was observed of a slice; zeros where nothing was."""
        return self.slices.get(name, Observed())


def opened(samples: Mapping[str, Any]) -> Window:
    """A window that begins now: what happened before does not count."""
    return Window(boot_id=str(samples["boot_id"]), cursor=int(samples["cursor"]))


def extended(window: Window, samples: Mapping[str, Any], replicas: Iterable[str], patience_s: float) -> Window | None:
    """The window with what has come since; only of ``replicas`` (ids). None when the gateway restarted meanwhile.

    A client that left after ``patience_s`` seconds or more without an answer was failed.
    """
    if str(samples["boot_id"]) != window.boot_id:
        return None
    wanted = set(replicas)
    fresh: dict[str, list[_Attempt]] = {}
    lost: dict[str, int] = {}
    for target, figures in samples["targets"].items():
        if target not in wanted:
            continue
        for item in figures["items"]:
            attempt = _Attempt(*item)
            fresh.setdefault(attempt.slice, []).append(attempt)
        if figures["lost"]:
            lost[figures["slice"]] = lost.get(figures["slice"], 0) + int(figures["lost"])
    names = {*window.slices, *fresh, *lost}
    slices = {n: _with(window.of(n), fresh.get(n, ()), lost.get(n, 0), patience_s) for n in names}
    return Window(boot_id=window.boot_id, cursor=int(samples["cursor"]), slices=slices)


def _with(seen: Observed, attempts: Iterable[_Attempt], lost: int, patience_s: float) -> Observed:
    counted = [a for a in attempts if a.status not in _CLIENT_FAULTS or _gave_up(a, patience_s)]
    good = [a for a in counted if a.status == 200]
    timed = [a for a in good if _measured(a.latency_s) and (a.ttft_s is None or _measured(a.ttft_s))]
    return Observed(
        requests=seen.requests + len(counted),
        errors=seen.errors + len(counted) - len(good),
        latencies=(*seen.latencies, *(float(a.latency_s) for a in timed)),
        ttfts=(*seen.ttfts, *(float(a.ttft_s) for a in timed if a.ttft_s is not None)),
        lost=seen.lost + lost + len(good) - len(timed),
    )


def _gave_up(attempt: _Attempt, patience_s: float) -> bool:
    return attempt.status == _LEFT and _measured(attempt.latency_s) and attempt.latency_s >= patience_s


def _measured(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
