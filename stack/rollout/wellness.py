"""Is a replica that serves well, or sick enough to be started again? Pure: a look at it in, its wellness out.

A look holds what the gateway counted since the last one, and at times a probe: the three-part check of
``stack.runtimes.health``. What counts as proof of life is a good probe, answers that came, or the engine's own count
of steps that went up while a probe waited (*moving*). Told apart are probes that were answered *wrong* (gibberish, a
web page, another model), *late* (no answer in time) and *down* (refused, or "not ready"). ``judged`` decides, in order:

1. A look that comes late says something of us: this process stood still. What it held against the replica is dropped.
2. A good probe: WELL. A moving one: BUSY.
3. A wrong probe counts as a failure. Progress is no excuse for it.
4. A late or refused probe counts as a failure, unless answers came since it began: then BUSY.
5. A late probe of a replica that lives counts for nothing while the gateway can't be asked: BUSY or wedged can't be
   told apart then. It stays SUSPECT: neither well, nor ended for a lack of evidence.
6. Failures in a row for ``confirm_s``, and at least ``confirmations`` of them: SICK.
7. Without a probe: answers came: BUSY. Requests in flight and none for ``quiet_s``: SUSPECT, and a probe is wanted,
   also of a saturated replica. So the unknown becomes SUSPECT, SUSPECT is probed, and only failed probes make SICK.

Who acts on SICK asks the host first, unless answers were wrong: a process that is younger than the last proof of life
is being started by its supervisor and is LOADING (``loading``), for ``ready_s`` in all.

How soon (``Limits.detected_within_s``): a sickness begins just after a proof of life. The first probe that counts
begins after at most ``idle_every_s`` (idle) or ``quiet_s`` (requests in flight) and two looks (7 s); or once a probe
is over that the last answers still excused: whatever the engine does, ``probe_s`` and a look (9 s). Failing probes
repeat after ``again_s``, so the last that ends too early for ``confirm_s`` is followed by one more within 8 + 1 + 1 s
of the first one's beginning, and that one takes 9 s at most: 9 + 10 + 9 = 28 s.

What can't be seen: sense. Well-formed text that means nothing passes the check; suites are for that. A replica that is
saturated all the while is not probed as long as it answers. An engine that counts no steps and needs more than about
15 s for every single answer while it is saturated looks wedged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Condition(StrEnum):
    """What is known of a replica."""

    WELL = "well"
    LOADING = "loading"
    BUSY = "busy"
    SUSPECT = "suspect"
    SICK = "sick"

    @property
    def fine(self) -> bool:
        """Nothing is held against it."""
        return self in (Condition.WELL, Condition.BUSY)


class Outcome(StrEnum):
    """How a probe ended."""

    GOOD = "good"
    MOVING = "moving"
    WRONG = "wrong"
    LATE = "late"
    DOWN = "down"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """In seconds. ``look_s``: between looks; the others: see the module. ``attempts`` restarts within
    ``attempts_within_s`` are the most; the n-th waits ``backoff_s * 2**(n-2)`` after the one before."""

    look_s: float = 1.0
    gap_s: float = 6.0
    idle_every_s: float = 5.0
    quiet_s: float = 5.0
    again_s: float = 1.0
    probe_s: float = 8.0
    confirm_s: float = 8.0
    confirmations: int = 2
    attempts: int = 3
    attempts_within_s: float = 600.0
    backoff_s: float = 15.0

    @property
    def detected_within_s(self) -> float:
        """The longest from the beginning of a sickness to SICK."""
        one = self.probe_s + self.look_s
        first = max(self.idle_every_s + 2 * self.look_s, self.quiet_s + 2 * self.look_s, one)
        more = max(self.confirm_s + self.again_s + self.look_s, (self.confirmations - 1) * (one + self.again_s))
        return first + more + one


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One three-part check, begun at ``began``. ``live``: its liveness was answered."""

    began: float
    outcome: Outcome
    reason: str = ""
    live: bool = True


@dataclass(frozen=True, kw_only=True)
class Look:
    """At one replica at one moment of the monotonic clock.

    ``inflight`` is None when the gateway can't be asked. ``answers``: good ones since the last look. ``failures``: in
    a row, as the gateway counts them. ``probe``: one that ended since the last look.
    """

    at: float
    slots: int
    inflight: int | None = None
    answers: int = 0
    failures: int = 0
    probe: Probe | None = None

    @property
    def saturated(self) -> bool:
        """More may not be asked of it."""
        return self.inflight is not None and self.inflight >= self.slots


@dataclass(frozen=True, kw_only=True)
class Wellness:
    """What is known of one replica. ``heard_from``: evidence before it counts no more. ``moved_at``: the last proof of
    life, or when it was first looked at; ``proven``: there was one."""

    condition: Condition = Condition.SUSPECT
    reason: str = "not looked at yet"
    looked_at: float
    heard_from: float
    moved_at: float
    proven: bool = False
    failing_since: float | None = None
    failed: int = 0
    outcome: Outcome | None = None
    loading_since: float | None = None


def first_seen(at: float) -> Wellness:
    """Nothing is known of it."""
    return Wellness(looked_at=at, heard_from=at, moved_at=at)


def judged(before: Wellness, look: Look, limits: Limits) -> Wellness:
    """What is known after this look."""
    state = replace(before, looked_at=look.at)
    if look.at - before.looked_at > limits.gap_s:  # 1
        why = f"nobody looked for {look.at - before.looked_at:.0f} s"
        return replace(_cleared(state, Condition.SUSPECT, why), heard_from=look.at)
    if look.answers > 0:
        state = replace(state, moved_at=look.at, proven=True, loading_since=None)
    probe = look.probe if look.probe is not None and look.probe.began >= state.heard_from else None
    return _without_probe(state, look, limits) if probe is None else _probed(state, look, probe, limits)


def _probed(state: Wellness, look: Look, probe: Probe, limits: Limits) -> Wellness:
    if probe.outcome is Outcome.GOOD:  # 2
        known = replace(first_seen(look.at), heard_from=state.heard_from, proven=True)
        return replace(known, condition=Condition.WELL, reason=probe.reason)
    if probe.outcome is Outcome.MOVING:
        moved = replace(state, moved_at=look.at, proven=True, loading_since=None)
        return _cleared(moved, Condition.BUSY, probe.reason)
    if probe.outcome is not Outcome.WRONG:
        if state.proven and state.moved_at > probe.began:  # 4
            return _cleared(state, Condition.BUSY, "answers come, a probe did not get through")
        if probe.outcome is Outcome.LATE and probe.live and look.inflight is None:  # 5
            return _cleared(state, Condition.SUSPECT, f"{probe.reason}; the gateway can't say whether it is busy")
    return _failed(state, look, probe, limits)  # 3, 4


def _failed(state: Wellness, look: Look, probe: Probe, limits: Limits) -> Wellness:
    since = probe.began if state.failing_since is None else state.failing_since
    failed = state.failed + 1
    sick = failed >= limits.confirmations and look.at - since >= limits.confirm_s  # 6
    held = Condition.LOADING if state.condition is Condition.LOADING else Condition.SUSPECT
    return replace(
        state,
        condition=Condition.SICK if sick else held,
        reason=probe.reason,
        failing_since=since,
        failed=failed,
        outcome=probe.outcome,
    )


def _without_probe(state: Wellness, look: Look, limits: Limits) -> Wellness:  # 7
    if state.failed and state.outcome is Outcome.WRONG:
        return state
    if look.answers > 0:
        return _cleared(state, Condition.BUSY, f"{look.answers} answers since the last look")
    if look.inflight and look.at - state.moved_at >= limits.quiet_s and state.condition.fine:
        why = f"{look.inflight} in flight, no answer for {look.at - state.moved_at:.0f} s"
        return replace(state, condition=Condition.SUSPECT, reason=why)
    return state


def _cleared(state: Wellness, condition: Condition, reason: str) -> Wellness:
    return replace(state, condition=condition, reason=reason, failing_since=None, failed=0, outcome=None)


def wants_probe(state: Wellness, look: Look, asked_at: float | None, limits: Limits) -> bool:
    """Whether to probe now; ``asked_at``: when the last probe began. None of a saturated replica that answers."""
    if asked_at is None:
        return not look.saturated or look.at - state.moved_at >= limits.quiet_s
    since = look.at - asked_at
    if look.saturated and not state.failed:
        return look.at - state.moved_at >= limits.quiet_s and since >= limits.again_s
    soon = state.condition in (Condition.SUSPECT, Condition.LOADING) or look.failures > 0
    return since >= (limits.again_s if soon else limits.idle_every_s)


def loading(state: Wellness, age_s: float | None, ready_s: float, at: float) -> Wellness:
    """What a sick replica is, now that its host says how old its process is (None: it can't say, or none runs).

    LOADING if the process began after the last proof of life, for ``ready_s`` in all since the first such answer.
    """
    since = at if state.loading_since is None else state.loading_since
    if state.outcome is Outcome.WRONG or age_s is None or at - since >= ready_s:
        return state
    if age_s >= (at - state.moved_at if state.proven else ready_s):
        return state
    why = f"started {max(age_s, 0):.0f} s ago: {state.reason}"
    return replace(_cleared(state, Condition.LOADING, why), loading_since=since, looked_at=at)


@dataclass(frozen=True, kw_only=True)
class Held:
    """Why a sick replica is not started again now. ``for_good``: until somebody has looked; ``told``: they know."""

    reason: str
    for_good: bool = False
    told: bool = False


def held_back(ages: Sequence[float], alerted: bool, limits: Limits) -> Held | None:
    """None: it may be started again now. ``ages``: how many seconds ago that was begun before. ``alerted``: the alert
    is open."""
    if alerted:
        return Held(reason="people were asked to look at it", for_good=True, told=True)
    recent = [age for age in ages if age < limits.attempts_within_s]
    if len(recent) >= limits.attempts:
        minutes = limits.attempts_within_s / 60
        return Held(reason=f"{len(recent)} restarts within {minutes:g} minutes did not keep it well", for_good=True)
    if recent:
        pause = limits.backoff_s * 2 ** (len(recent) - 1)
        if min(recent) < pause:
            return Held(reason=f"it was started again {min(recent):.0f} s ago")
    return None
