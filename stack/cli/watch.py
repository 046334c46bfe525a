"""Follow one rollout until it ends or pauses, over a control plane that may be restarted meanwhile.

How it ended is decided by ``exit_code`` (pure). A state that is not known is never a success.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stack.cli.client import AdminClient, NotRunning, segment
from stack.cli.screen import HEARTBEAT_S, Screen
from stack.core.clock import Clock

Json = dict[str, Any]
FINAL = frozenset({"promoted", "rolled_back", "failed"})
_HELD_UP = {"paused": 6, "awaiting": 7}
"""States that wait for people, for as long as they take: watching ends there."""
PATIENCE_S = 60.0
UNHEARD_S = 10.0
EVIDENCE_S = 5.0
EXIT_CODES = """\b
  0 promoted (for rollback and abort: it went back)   4 failed, or never came so far that it could be judged
  3 rolled back by the evidence, or aborted   6 paused: not enough evidence   7 waits for an approval
  130 watching was interrupted; the rollout goes on"""


def exit_code(rollout: Json, *, back: bool = False) -> int:
    """What the command leaves with for a rollout in this state. ``back``: going back is what was asked for."""
    state = str(rollout.get("state"))
    if back or rollout.get("kind") == "rollback":
        return {"rolled_back": 0, "failed": 4, "promoted": 5, **_HELD_UP}.get(state, 1)
    unasked = state == "rolled_back" and not rollout.get("verdict")
    return 4 if unasked else {"promoted": 0, "rolled_back": 3, "failed": 4, **_HELD_UP}.get(state, 1)


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What to watch and why.

    ``after``: events up to this number are known. ``steered``: it was just told to go on, so a pause counts only
    once it was seen to have left it, or when it has not moved for a while. ``back``: see ``exit_code``.
    """

    rollout: str
    after: int = 0
    steered: bool = False
    back: bool = False

    @property
    def path(self) -> str:
        """Where the API has it."""
        return f"/rollouts/{segment(self.rollout)}"


def watch(client: AdminClient, aim: Aim, screen: Screen, clock: Clock) -> Json:
    """Show its events as they come; the rollout as it is when it is final, pauses, or waits for an approval."""
    after, pause_counts, ended = aim.after, not aim.steered, False
    begun = quiet_since = clock.monotonic()
    line = ""
    while True:
        page = _events(client, aim.path, after, 0.0 if ended else HEARTBEAT_S - 1.0, screen, clock)
        for event in page.get("events", []):
            before, line = line, _line(event)
            if line != before:  # a task's beginning and its end read alike
                screen.event(line)
            quiet_since = clock.monotonic()
        after, state = int(page.get("next", after)), str(page.get("state"))
        pause_counts = pause_counts or state not in _HELD_UP or clock.monotonic() - begun > UNHEARD_S
        ended = state in FINAL or (state in _HELD_UP and pause_counts)
        if ended and not page.get("events"):
            return _concluded(client, aim, state, clock)
        screen.waiting(str(page.get("waiting_for") or state), clock.monotonic() - quiet_since)


def _concluded(client: AdminClient, aim: Aim, state: str, clock: Clock) -> Json:
    """The evidence is written just after the last transition: give it a moment."""
    deadline = clock.monotonic() + EVIDENCE_S
    rollout = client.get(aim.path)
    while state in FINAL and not rollout.get("evidence") and clock.monotonic() < deadline:
        clock.sleep(0.1)
        rollout = client.get(aim.path)
    return rollout


def _events(client: AdminClient, path: str, after: int, wait_s: float, screen: Screen, clock: Clock) -> Json:
    """One long poll; a control plane that does not answer is given a minute to come back."""
    lost_at = clock.monotonic()
    while True:
        try:
            return client.get(f"{path}/events", after=after, wait=wait_s)
        except NotRunning:
            lost_for = clock.monotonic() - lost_at
            if lost_for > PATIENCE_S:
                raise
            screen.waiting("the control plane to answer again", lost_for)
            clock.sleep(0.5)


def _line(event: Json) -> str:
    state, text = str(event.get("state") or ""), str(event.get("text") or "")
    return f"{state:<11} {text}".rstrip()


def last_event(client: AdminClient, rollout_id: str) -> int:
    """The number of its newest event."""
    after = 0
    while True:
        page = client.get(f"/rollouts/{segment(rollout_id)}/events", after=after, wait=0)
        if not page.get("events"):
            return after
        after = int(page["next"])
