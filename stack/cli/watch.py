"""Follow one rollout until it ends or pauses, over a control plane that may be restarted meanwhile.

How it ended is decided by ``exit_code`` (pure). A state that is not known is never a success.
"""

from __future__ import annotations

from typing import Any

from stack.cli.client import AdminClient, NotRunning, segment
from stack.cli.screen import HEARTBEAT_S, Screen
from stack.core.clock import Clock

Json = dict[str, Any]
FINAL = frozenset({"promoted", "rolled_back", "failed"})
PATIENCE_S = 60.0
EXIT_CODES = """\b
  0 promoted (or rolled back by hand)   4 failed
  3 rolled back by the evidence, or aborted   6 paused: not enough evidence
  130 watching was interrupted; the rollout goes on"""


def exit_code(rollout: Json) -> int:
    """What the command leaves with for a rollout in this state."""
    state, kind = rollout.get("state"), rollout.get("kind")
    if state == "promoted" or (state == "rolled_back" and kind == "rollback"):
        return 0
    return {"rolled_back": 3, "failed": 4, "paused": 6}.get(str(state), 1)


def watch(client: AdminClient, rollout_id: str, screen: Screen, clock: Clock, *, after: int = 0) -> Json:
    """Show events with a number above ``after``; the rollout as it is when it is final or pauses.

    A pause counts when its event was seen: right after a resume the state may still say paused.
    """
    path, last_state = f"/rollouts/{segment(rollout_id)}", ""
    quiet_since = clock.monotonic()
    while True:
        page = _events(client, path, after, screen, clock)
        for event in page.get("events", []):
            screen.event(_line(event))
            last_state = str(event.get("state", ""))
            quiet_since = clock.monotonic()
        after = int(page.get("next", after))
        state = str(page.get("state"))
        screen.waiting(str(page.get("waiting_for") or state), clock.monotonic() - quiet_since)
        if state in FINAL and not page.get("events"):
            break
        if state == "paused" == last_state:
            break
    return client.get(path)


def _events(client: AdminClient, path: str, after: int, screen: Screen, clock: Clock) -> Json:
    """One long poll; a control plane that does not answer is given a minute to come back."""
    lost_at = clock.monotonic()
    while True:
        try:
            return client.get(f"{path}/events", after=after, wait=HEARTBEAT_S - 1.0)
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
