"""Beside each other, one after the other, or not at all: how a new release gets onto a host where an old one runs.

Pure. A swap has a pause in which nobody serves and requests wait in the gateway's queue; its length is predicted from
drains and starts that were measured, and a swap whose pause is not known, or too long, is a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stack.runtimes.fit import FitReport

Way = Literal["side-by-side", "queue-swap", "refused"]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What earlier starts and drains of these engines took, in seconds; empty where none was measured."""

    starts_s: Sequence[float] = ()
    drains_s: Sequence[float] = ()

    @property
    def pause_s(self) -> float | None:
        """The longest drain and the longest start seen, one after the other; None when either was never measured."""
        if not self.starts_s or not self.drains_s:
            return None
        return max(self.drains_s) + max(self.starts_s)


@dataclass(frozen=True, kw_only=True)
class SwapPlan:
    """`pause_s` is 0 side by side, and None when it is refused."""

    way: Way
    reason: str
    pause_s: float | None

    def to_json(self) -> dict[str, Any]:
        """JSON scalars only."""
        return asdict(self)


def plan_swap(report: FitReport, *, old_bytes: int | None, pace: Pace, longest_pause_s: float) -> SwapPlan:
    """How the release of `report` gets onto its host; `old_bytes` is what ending the old one gives back.

    1. It fits beside what runs -> side by side.
    2. What it needs, or what is free, is not known, or it would not fit for another reason -> refused.
    3. Even without the old one there is too little -> refused.
    4. The pause is not known, or longer than may be -> refused.   5. Otherwise -> a queue swap.
    """
    if report.fits:  # 1
        return SwapPlan(way="side-by-side", reason=report.reason, pause_s=0.0)
    needed, available = report.needed_bytes, report.available_bytes
    if needed is None or available is None or needed <= available or not old_bytes:  # 2
        return SwapPlan(way="refused", reason=report.reason, pause_s=None)
    if needed > available + old_bytes:  # 3
        reason = f"{report.reason}, and ending the old release gives back only {old_bytes >> 20} MiB"
        return SwapPlan(way="refused", reason=reason, pause_s=None)
    pause = pace.pause_s
    if pause is None or pause > longest_pause_s:  # 4
        said = "not known" if pause is None else f"{pause:.1f} s, longer than {longest_pause_s:g} s"
        reason = f"{report.reason}; one after the other would fit, but the pause is {said}"
        return SwapPlan(way="refused", reason=reason, pause_s=None)
    reason = f"{report.reason}; one after the other it fits, with a pause of about {pause:.1f} s"  # 5
    return SwapPlan(way="queue-swap", reason=reason, pause_s=pause)
